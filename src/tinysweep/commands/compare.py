"""The command `tinysweep-compare`: trials of several studies and single runs in one table, ranked."""

import argparse
from pathlib import Path

from tinysweep.console import clean
from tinysweep.errors import ConfigError
from tinysweep.terminal import program

DEFAULT_CSV = Path("outputs/compare.csv")
DESCRIPTION = """\
Compare the trials of several studies and single runs: one merged CSV, and on
the terminal the best of them, the best under each number of parameters, and
what sets the best two apart.
"""
EXAMPLES = """\
Columns are those of trials.csv, test_accuracy of single runs, and every
searched parameter by its name. Accuracies are parts of one: 0.99, not 99.
Completed trials or runs that differ by their seed alone are one row, with the
means of their figures, how many there are in the column seeds, and the
standard deviations in validation_accuracy_sd, validation_loss_sd,
test_accuracy_sd and seconds_sd; --each-seed shows each apart.
Ties are broken by validation loss, then parameters, then study and number.

examples:
  two studies
    tinysweep-compare outputs/sweeps/quick outputs/sweeps/wide
  all studies and single runs
    tinysweep-compare outputs
  tables brought from other machines
    tinysweep-compare a.csv b.csv --csv both.csv
  the most accurate small models
    tinysweep-compare outputs --sort validation_accuracy --where "params < 5000"
  configurations of which three seeds or more were trained, and each of these
    tinysweep-compare outputs --where "seeds >= 3"
    tinysweep-compare outputs --each-seed
  some values of parameters
    tinysweep-compare outputs --where "model.width in [8, 16] and model == 'plain'"
  what became of the largest models that were proposed
    tinysweep-compare outputs --all --sort params --descending --columns state,reason
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "tinysweep-compare", description=DESCRIPTION, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    place = "a study's folder, a trials.csv, a run's folder, or any folder above them"
    add("paths", metavar="PATH", nargs="+", type=Path, help=place)
    where = "where to write the merged table, all rows whatever is shown (default: %(default)s)"
    add("--csv", metavar="FILE", type=Path, default=DEFAULT_CSV, help=where)
    order = (
        "rank by this column: accuracies and the like from the highest, all else from the lowest (default: "
        "validation_loss, or a metric of your own or of unbalanced classes that all of the studies aim for)"
    )
    add("--sort", metavar="COLUMN", help=order)
    way = made.add_mutually_exclusive_group()
    way.add_argument("--ascending", action="store_true", help="from the lowest, whatever the column")
    way.add_argument("--descending", action="store_true", help="from the highest, whatever the column")
    add("--top", metavar="N", type=int, default=10, help="trials to show (default: %(default)s)")
    condition = "consider only rows that meet it, such as \"params < 10000 and model == 'plain'\""
    add("--where", metavar="CONDITION", help=condition)
    add("--columns", metavar="A,B,C", help="columns to show, instead of the figures and parameters that fit")
    each = "a row for each seed, instead of the mean ± sd of those that differ by trainer.seed alone"
    add("--each-seed", action="store_true", help=each)
    add("--all", action="store_true", help="show trials in every state, not only completed ones")
    return made


def compare(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise ConfigError(f"--top={options.top} must be at least 1 (trials to show)")
    if options.csv.name == "trials.csv":
        raise ConfigError(f"--csv={clean(options.csv)} must have another name than a study's own trials.csv")
    if options.csv.is_dir():
        raise ConfigError(f"--csv={clean(options.csv)} must name a file, and is a folder")
    from tinysweep.results.compare import present  # noqa: PLC0415 pandas is imported once the arguments are known to be good

    present(options.paths, options)


def main() -> None:
    """Entry point of the console script."""
    program(parser(), compare)


if __name__ == "__main__":
    main()
