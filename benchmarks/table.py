"""A table of real trainings, on which whole studies can be replayed in seconds (a tabular benchmark, as those of
Klein and Hutter, 2019, arXiv:1905.04970).

    python benchmarks/table.py --configurations 64

Random configurations of a space, those over budget or invalid left out as a sweep leaves them out, each trained
whole (learning rate down to zero) for each number of epochs and each seed, and judged on the validation images
after every epoch. It goes on where it stopped. The test set is not read.

The space is FOLDER/space.yaml: overrides that all share, and params, as a study has them. Two files come of it:
`configurations.csv`, what each one is and costs, and `epochs.csv`, a row an epoch of each training; one that
diverged has a row without figures. Printed is how well a training cut short ranks the configurations: Spearman's
correlation with the ranking after the most epochs, of whole trainings and of the longest ones' middle.
"""

import argparse
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import optuna
import pandas as pd
from omegaconf import OmegaConf

import tinysweep
from tinysweep.errors import BudgetError, ConfigError, DivergedError
from tinysweep.files import write_whole
from tinysweep.network import budget
from tinysweep.search.propose import suggest
from tinysweep.search.space import Value, parse, read_space
from tinysweep.settings.schema import DEFAULT_ROOT, Config

FOLDER = Path(__file__).parents[1] / "results" / "table20k"
SAVED_EVERY = 5.0  # seconds
STARTING = 300.0  # seconds that a process may take to import and to load the data


class Job(NamedTuple):
    """One training: the number of its configuration, how many epochs, which seed."""

    configuration: int
    epochs: int
    seed: int


def draw(space: Path, seed: int) -> Iterator[tuple[Config, dict[str, Value]]]:
    """Random configurations within the budget, without end, each with the values that were drawn."""
    read = OmegaConf.load(space)
    base = tinysweep.compose(*read.overrides)
    searched, shape = read_space(dict(read.params), []).searched, tinysweep.describe(base.data)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    while True:
        trial = study.ask()
        values = {key: suggest(trial, key, distribution) for key, distribution in searched.items()}
        try:
            config = budget.resolve(configured(base, values), shape)
            budget.gate(config, shape)
        except (BudgetError, ConfigError):
            continue
        yield config, values


def configured(base: Config, values: dict[str, Value]) -> Config:
    """The configuration with these values.

    Raises:
        ConfigError: they break a rule together.
    """
    changes: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        kind, parsed = type(getattr(getattr(base, section), key)), parse(name, value)
        changes.setdefault(section, {})[key] = kind(parsed) if isinstance(parsed, str) else parsed
    return replace(base, **{name: replace(getattr(base, name), **part) for name, part in changes.items()})


def describe(drawn: list[tuple[Config, dict[str, Value]]]) -> pd.DataFrame:
    """A row a configuration: its size and the values that were drawn."""
    shape = tinysweep.describe(drawn[0][0].data)
    rows = []
    for number, (config, values) in enumerate(drawn):
        cost = budget.measure(config.model, shape)
        size = {"width": config.model.width, "params": cost.params, "macs": cost.macs}
        rows.append({"configuration": number, **size, **values})
    return pd.DataFrame(rows)


class Table:
    """The trainings known so far, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = pd.read_csv(path).to_dict("records") if path.exists() else []  # type: ignore[assignment]

    def done(self) -> set[Job]:
        return {Job(row["configuration"], row["epochs"], row["seed"]) for row in self.rows}

    def save(self) -> None:
        table = pd.DataFrame(self.rows).round({"seconds": 2, "lr": 6, "validation_loss": 6, "train_loss": 5})
        write_whole(self.path, table.to_csv(index=False, lineterminator="\n"))

    def best(self, epochs: int) -> list[int]:
        """The configurations by their mean validation loss after so many epochs, the best first."""
        table = pd.DataFrame(self.rows)
        last = table[(table.epoch == epochs) & (table.epochs == epochs)]
        return [int(number) for number in last.groupby("configuration").validation_loss.mean().sort_values().index]


def jobs(options: argparse.Namespace, table: Table) -> Iterator[Job]:
    """What is not done yet: all epochs and seeds of one configuration after the other, then the longer trainings,
    first those of the configurations that are best so far."""
    done, numbers = table.done(), range(options.configurations)
    for number, seed, epochs in itertools.product(numbers, range(options.seeds), options.epochs):
        if (job := Job(number, epochs, seed)) not in done:
            yield job
    if options.longer:
        for number in dict.fromkeys([*table.best(max(options.epochs))[: options.best], *numbers]):
            if (job := Job(number, options.longer, 0)) not in done:
                yield job


def work(todo: Any, results: Any, configs: list[Config]) -> None:
    """Train one job after the other and give the rows of each."""
    data = tinysweep.load_data(configs[0].data)
    results.put(None)  # ready
    while (job := todo.get()) is not None:
        config = configs[job.configuration]
        trainer = replace(config.trainer, epochs=job.epochs, seed=job.seed)
        try:
            history = tinysweep.fit(replace(config, trainer=trainer), data).history
            rows = [{**job._asdict(), **asdict(epoch), "epochs": job.epochs} for epoch in history]
        except DivergedError:
            rows = [{**job._asdict(), "epoch": job.epochs}]
        results.put(rows)


def train(waiting: Iterator[Job], configs: list[Config], table: Table, processes: int, until: float) -> None:
    """Train the jobs in their order on several processes, until all are done or the time is over."""
    context = multiprocessing.get_context("spawn")
    todo, results = context.Queue(), context.Queue()
    pool = [context.Process(target=work, args=(todo, results, configs), daemon=True) for _ in range(processes)]
    for process in pool:
        process.start()
    for _ in pool:
        results.get(timeout=STARTING)
    began = saved = time.monotonic()
    running = trainings = epochs = 0
    for job in itertools.islice(waiting, processes):
        todo.put(job)
        running += 1
    while running and time.monotonic() < until:
        try:
            rows = results.get(timeout=until - time.monotonic())
        except Empty:
            break  # what still runs is not waited for
        table.rows += rows
        running, trainings, epochs = running - 1, trainings + 1, epochs + rows[-1]["epochs"]
        if following := next(waiting, None):
            todo.put(following)
            running += 1
        if time.monotonic() - saved > SAVED_EVERY:
            table.save()
            saved = time.monotonic()
    if trainings:
        table.save()
    for process in pool:
        process.terminate()
    seconds = time.monotonic() - began
    print(f"{trainings} trainings, {epochs} epochs, by {processes} processes in {seconds:.1f} s")


def ranks(rows: pd.DataFrame) -> pd.DataFrame:
    """How well the ranking by validation loss, mean over the seeds, agrees with that after the most epochs: after
    whole trainings of so many epochs, and after so many epochs of the longest trainings."""
    most = rows.epochs.max()
    whole = rows[rows.epoch == rows.epochs].groupby(["epochs", "configuration"]).validation_loss.mean()
    middle = rows[rows.epochs == most].groupby(["epoch", "configuration"]).validation_loss.mean()
    lines = []
    for epoch in range(1, most):
        cut = {"middle": middle[epoch].corr(whole[most], method="spearman")}
        if epoch in set(rows.epochs):
            cut["whole"] = whole[epoch].corr(whole[most], method="spearman")
        lines.append({"epochs": epoch, **cut})
    return pd.DataFrame(lines).round(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=64, help="how many")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 3, 9], help="of the trainings of each")
    parser.add_argument("--seeds", type=int, default=2, help="of each of those")
    parser.add_argument("--longer", type=int, help="epochs of one more training of each, once all others are done")
    parser.add_argument("--best", type=int, default=16, help="so many of the best come first among those")
    parser.add_argument("--processes", type=int, default=2, help="with a thread each")
    parser.add_argument("--seconds", type=float, default=1e6, help="stop after this time")
    parser.add_argument("--limit", type=int, help="train on so many images only, to see that it runs")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the space lies and the table goes")
    parser.add_argument("--data", default=DEFAULT_ROOT, help="folder of MNIST", metavar="ROOT")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    drawn = list(itertools.islice(draw(options.folder / "space.yaml", seed=0), options.configurations))
    listed = describe(drawn).to_csv(index=False, lineterminator="\n")
    write_whole(options.folder / "configurations.csv", listed)
    device = tinysweep.compose(f"trainer.device={options.device}").trainer.device
    configs = [
        replace(
            config,
            data=replace(config.data, root=options.data, limit=options.limit),
            trainer=replace(config.trainer, device=device, threads=1),
        )
        for config, _ in drawn
    ]
    table = Table(options.folder / "epochs.csv")
    train(jobs(options, table), configs, table, options.processes, until)
    if table.rows:
        known = pd.DataFrame(table.rows)
        print(ranks(known[known.epochs <= max(options.epochs)]).to_string(index=False, na_rep=""))


if __name__ == "__main__":
    main()
