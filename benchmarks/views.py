"""What `model.views` gives networks that are trained already: loss and accuracy with one view and with several, on
the images that a run held out or, with --test, on the test set; paired by image.

    python benchmarks/views.py outputs/sweeps/budget20k/trials/{2,3,7,11}
    python benchmarks/views.py outputs/sweeps/budget20k/final/runs/test/* --test --csv views.csv
"""

import argparse
import csv
import dataclasses
import io
import statistics
from pathlib import Path

from torch import nn

from tinysweep.console import table
from tinysweep.data.load import Images, load, load_test
from tinysweep.files import write_whole
from tinysweep.network.build import Views
from tinysweep.run.checkpoint import load as load_model
from tinysweep.run.record import Record, RunFolder
from tinysweep.training.device import hardware
from tinysweep.training.score import evaluate


def images_of(record: Record, test: bool) -> Images:
    """The images to judge by, none of which the run has trained on."""
    if test:
        return load_test(record.config.data)
    held_out = load(record.config.data).validation
    if held_out is None:
        raise SystemExit("this run held nothing out; --test reads the test set")
    return held_out


def main() -> None:
    """Print a line for each run and number of views, and the mean over the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs whose models have one view")
    parser.add_argument("--views", nargs="+", type=int, default=[5, 9], choices=[5, 9])
    parser.add_argument("--test", action="store_true", help="read the test set")
    parser.add_argument(
        "--csv", type=Path, help="where to write loss and accuracy of each run and number of views"
    )
    options = parser.parse_args()
    rows = [["run", "views", "loss", "accuracy", "loss less that of one view", "± se"]]
    found: list[tuple[str, int, float, float]] = []
    for run in options.runs:
        record = Record.read(RunFolder(run).record)
        images, model = images_of(record, options.test), load_model(run)
        machine = hardware(dataclasses.replace(record.config.trainer, threads=0))
        assert isinstance(model, nn.Sequential)
        assert isinstance(model[1], nn.Sequential)
        once = evaluate(model, images, machine)
        for views in (1, *options.views):
            several = nn.Sequential(model[0], Views(model[1], views)).eval()
            score = once if views == 1 else evaluate(several, images, machine)
            less = (score.losses - once.losses).double()
            error = float(less.std()) / len(images) ** 0.5
            found.append((run.name, views, score.loss, score.accuracy))
            rows.append([run.name, str(views), f"{score.loss:.5f}", f"{100 * score.accuracy:.2f}%",
                         f"{float(less.mean()):+.5f}", f"{error:.5f}"])  # fmt: skip
    print(table(rows, "lrrrrr", rules=(0,)))
    for views in (1, *options.views):
        accuracies = [accuracy for _, of, _, accuracy in found if of == views]
        spread = f" ± {100 * statistics.stdev(accuracies):.3f}" if len(accuracies) > 1 else ""
        mean = 100 * statistics.fmean(accuracies)
        print(f"{views} view{'s' if views > 1 else ''}: mean accuracy {mean:.3f}%{spread}")
    if options.csv:
        stream = io.StringIO(newline="")
        csv.writer(stream, lineterminator="\n").writerows([("run", "views", "loss", "accuracy"), *found])
        write_whole(options.csv, stream.getvalue().encode())


if __name__ == "__main__":
    main()
