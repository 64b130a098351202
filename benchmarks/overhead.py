"""What the sweeper costs a trial, beside the sampler alone, as a study grows. Nothing is trained.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --profile 1000

The whole sweep runs in this process with a pool that writes each trial's finished record at once; its own time
is taken off. The sampler alone gets as many ask, suggest and tell calls, in batches as large, on the same kind of
SQLite storage. Times are those of the last tenth of the trials at each size. --trials says at which sizes.
"""

import argparse
import contextlib
import cProfile
import io
import json
import math
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pandas as pd

from epoch_time import cpu_model
from gate import make_plan
from tinysweep.files import write_whole
from tinysweep.run.record import RunFolder, State
from tinysweep.search.plan import Plan, build_sampler
from tinysweep.search.propose import suggest
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import trial_path
from tinysweep.search.sweep import Sweep
from tinysweep.search.workers.job import SweepContext
from tinysweep.search.workers.pool import Ended, with_queue
from tinysweep.training.device import usable_cores

RESULT = Path(__file__).parents[1] / "results" / "overhead.csv"
SPACE = [  # everything fits, and hardly any configuration comes twice
    "model=choice(plain,residual)",
    "model.depth=choice([1,1,1],[1,2,1],[2,2])",
    "model.width=range(3,9)",
    "optimizer.lr=tag(log,interval(0.001,1))",
    "optimizer.weight_decay=tag(log,interval(1e-6,1e-2))",
    "optimizer.momentum=interval(0.5,0.99)",
]
LAST = 10  # a tenth of the trials is timed


class Clock:
    """When how many trials had been proposed, without the time that was spent in jobs."""

    now: ClassVar[Callable[[], float]] = time.perf_counter

    def __init__(self) -> None:
        self.began, self.aside, self.marks = Clock.now(), 0.0, [(0, 0.0)]

    def mark(self, trials: int) -> None:
        self.marks.append((self.marks[-1][0] + trials, Clock.now() - self.began - self.aside))

    def ms_a_trial(self, size: int) -> float:
        """Mean over the last tenth of `size` trials."""
        end = next(mark for mark in self.marks if mark[0] >= size)
        start = next(mark for mark in reversed(self.marks) if mark[0] <= end[0] - end[0] / LAST)
        return 1000 * (end[1] - start[1]) / (end[0] - start[0])


def quality(rate: float) -> float:
    """A made accuracy."""
    return 1 - abs(math.log10(rate) + 1.5) / 10


def run_sweep(sampler: str, trials: int) -> Clock:
    """A whole sweep of jobs that do nothing."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        plan = make_plan(
            Path(folder), *SPACE, f"hydra/sweeper/sampler={sampler}", f"hydra.sweeper.n_trials={trials}"
        )
        clock = Clock()

        plan.pool = Instant(clock, plan.folder)
        Sweep(plan).run()
    return clock


class Instant:
    """A pool whose jobs have ended as soon as anyone asks."""

    threads: int | None = None
    capacity = with_queue(usable_cores())

    def __init__(self, clock: Clock, study: Path) -> None:
        self.clock, self.study = clock, study
        self.out: list[tuple[int, list[str]]] = []

    def begin(self, context: SweepContext) -> None:
        """Nothing is needed."""

    def submit(self, number: int, overrides: list[str]) -> None:
        self.out.append((number, overrides))

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:  # noqa: ARG002 every end is known at once
        self.clock.mark(len(self.out))
        began = Clock.now()
        for number, overrides in self.out:
            words = dict(word.split("=", 1) for word in overrides)
            write_record(self.study / trial_path(number), quality(float(words["optimizer.lr"])))
        self.clock.aside += Clock.now() - began
        ended, self.out = [Ended(number) for number, _ in self.out], []
        return ended

    def stop(self) -> None:
        """Nothing is at work."""


def write_record(folder: Path, accuracy: float) -> None:
    folder.mkdir(parents=True)
    metrics = {"validation_accuracy": accuracy, "validation_loss": 1 - accuracy}
    cost = {"params": 1, "macs": 1, "activation_bytes": 1}
    record = {"state": State.complete, "reason": None, "metrics": metrics, "cost": cost}
    rest = {"epochs": 1, "seed": 0, "train_seconds": 0.0, "started": None, "finished": None}
    RunFolder(folder).record.write_text(json.dumps(record | rest))


def run_alone(sampler: str, trials: int) -> Clock:
    """The same sampler on the same space and kind of storage, driven by Optuna's own ask and tell."""
    with tempfile.TemporaryDirectory() as folder:
        plan: Plan = make_plan(Path(folder), *SPACE, f"hydra/sweeper/sampler={sampler}")
        storage = open_storage(None, Path(folder))
        drawer = build_sampler(plan.sampler, 0)
        study = optuna.create_study(storage=storage, sampler=drawer, direction="maximize")
        clock, left = Clock(), trials
        while left:
            batch = [study.ask() for _ in range(min(left, plan.pool.capacity))]
            drawn = [{name: suggest(one, name, of) for name, of in plan.space.ordered.items()} for one in batch]
            clock.mark(len(batch))
            for trial, values in zip(batch, drawn, strict=True):
                study.tell(trial.number, quality(float(values["optimizer.lr"])))
            left -= len(batch)
    return clock


def measure(sampler: str, sizes: list[int]) -> pd.DataFrame:
    """A row a size."""
    swept, alone = run_sweep(sampler, max(sizes)), run_alone(sampler, max(sizes))
    rows: list[dict[str, Any]] = []
    for size in sizes:
        ours, theirs = swept.ms_a_trial(size), alone.ms_a_trial(size)
        row = {"sampler": sampler, "trials": size, "tinysweep_ms": ours, "alone_ms": theirs}
        row["ratio"] = ours / theirs
        if rows:
            last = rows[-1]
            for name in ("tinysweep", "alone"):
                growth = row[f"{name}_ms"] / last[f"{name}_ms"]
                row[f"{name}_exponent"] = math.log(growth) / math.log(size / last["trials"])
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 5000], help="sizes of the study")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"], help="hydra/sweeper/sampler")
    parser.add_argument("--profile", type=int, metavar="TRIALS", help="only print where a sweep spends its time")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall-clock, for a busy machine")
    parser.add_argument("--out", type=Path, default=RESULT, help="the CSV to write")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.cpu:
        Clock.now = time.process_time
    if options.profile:
        for sampler in options.samplers:
            with cProfile.Profile(time.process_time) as profile:  # CPU seconds: whatever else runs here
                run_sweep(sampler, options.profile)
            pstats.Stats(profile).sort_stats("cumulative").print_stats("tinysweep", 40)
        return
    table = pd.concat([measure(sampler, sorted(options.trials)) for sampler in options.samplers])
    print(table.round(2).to_string(index=False))
    table["clock"] = "cpu" if options.cpu else "wall"
    table["cores"], table["cpu"], table["optuna"] = usable_cores(), cpu_model(), optuna.__version__
    options.out.parent.mkdir(exist_ok=True)
    write_whole(options.out, table.round(3).to_csv(index=False))


if __name__ == "__main__":
    main()
