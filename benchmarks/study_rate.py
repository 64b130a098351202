"""How many images a second a study trains with a job a core: tinysweep's loop against the straightforward one.

    python benchmarks/study_rate.py

The baseline recipe of epoch_time.py, in as many processes as there are cores, a thread each. In every round all
processes begin an epoch of the same loop at the same moment, and the round lasts until the slowest has ended.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import torch

from epoch_time import (
    PROBE_STEPS,
    QUICK_STEPS,
    WARM_UP_STEPS,
    cpu_model,
    publish,
    read_options,
    recipe,
    straightforward,
    straightforward_pictures,
    tinysweep_loop,
)
from tinysweep.data.download import obtain
from tinysweep.data.load import load
from tinysweep.settings.schema import Precision
from tinysweep.training.device import usable_cores

RESULT = Path(__file__).with_suffix(".csv")
WORKER_COUNTS = (0, 1)  # of a DataLoader whose process already has a core to itself
SHOWN = ["loop", "jobs", "workers", "median_seconds", "images_per_second", "times_faster"]


@dataclass(frozen=True)
class Job:
    """An epoch of so many steps: of the straightforward loop with so many workers, or of tinysweep's."""

    steps: int
    precision: Precision | None = None  # None is the straightforward loop
    workers: int = 0


@dataclass
class Side:
    """One side of the comparison, and the seconds of its rounds."""

    name: str
    job: Job
    rounds: list[float] = field(default_factory=list)


def serve(connection: "Connection[float, Job | None]", root: Path) -> None:
    """Run every job that comes in, and answer with its seconds; the first answer says that all is ready."""
    config = recipe(root)
    config = replace(config, trainer=replace(config.trainer, threads=1))
    data = load(config.data)
    plain = partial(straightforward, config, data.shape, straightforward_pictures(root))
    connection.send(0.0)
    while (job := connection.recv()) is not None:
        if job.precision is None:
            connection.send(plain(job.workers, job.steps))
        else:
            connection.send(tinysweep_loop(config, data, job.precision).seconds(job.steps))


class Jobs:
    """A process a core, each of which does the same at the same time."""

    def __init__(self, count: int, root: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends: list[Connection[Job | None, float]] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            # Not a daemon: those may not have children, and a DataLoader has.
            context.Process(target=serve, args=(theirs, root)).start()
            theirs.close()  # so that a process that dies is an EOFError here
            self.ends.append(ours)
        self._answers()

    def run(self, job: Job) -> float:
        """Seconds until the slowest has done it."""
        for end in self.ends:
            end.send(job)
        return max(self._answers())

    def stop(self) -> None:
        for end in self.ends:
            with contextlib.suppress(BrokenPipeError):  # the others must still hear of it
                end.send(None)

    def _answers(self) -> list[float]:
        return [end.recv() for end in self.ends]


def measure(jobs: Jobs, options: argparse.Namespace) -> list[Side]:
    """Probe the straightforward loop's workers, then let the sides take turns."""
    batch_size, images = recipe(options.data).trainer.batch_size, 60_000
    warm_up, probe, steps = WARM_UP_STEPS, PROBE_STEPS, images // batch_size
    if options.quick:
        warm_up = probe = steps = QUICK_STEPS
    jobs.run(Job(warm_up))
    probes = {workers: jobs.run(Job(probe, workers=workers)) for workers in WORKER_COUNTS}
    for workers, seconds in probes.items():
        print(f"straightforward, {probe} steps, {workers} workers: {seconds:.1f} s", file=sys.stderr)
    best = min(probes, key=lambda workers: probes[workers])
    sides = [
        Side("straightforward, fp32", Job(steps, workers=best)),
        Side("tinysweep, auto", Job(steps, Precision.auto)),
        Side("tinysweep, fp32", Job(steps, Precision.fp32)),
    ]
    for side in sides[1:]:
        jobs.run(replace(side.job, steps=warm_up))
    for number in range(1, options.rounds + 1):
        for side in sides:
            side.rounds.append(jobs.run(side.job))
            print(f"round {number}/{options.rounds}: {side.name}, {side.rounds[-1]:.1f} s", file=sys.stderr)
    return sides


def tabulate(sides: list[Side], jobs: int, images: int) -> pd.DataFrame:
    """What was run, how long it took, and where."""
    table = pd.DataFrame({"loop": [side.name for side in sides], "jobs": jobs})
    table["workers"] = [side.job.workers for side in sides]
    seconds = pd.Series([statistics.median(side.rounds) for side in sides])
    table["median_seconds"] = seconds.round(3)
    table["images_per_second"] = (jobs * images / seconds).round().astype(int)
    table["times_faster"] = (seconds[0] / seconds).round(2)
    table["seconds_of_rounds"] = [" ".join(f"{one:.3f}" for one in side.rounds) for side in sides]
    table["cores"], table["cpu"], table["torch"] = usable_cores(), cpu_model(), torch.__version__
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="processes (default: one a core)")
    options = read_options(parser)
    if options.jobs < 1:
        parser.error(f"--jobs={options.jobs} must be at least 1")
    obtain("mnist", options.data)
    jobs = Jobs(options.jobs, options.data)
    try:
        sides = measure(jobs, options)
    finally:
        jobs.stop()
    table = tabulate(sides, options.jobs, sides[0].job.steps * recipe(options.data).trainer.batch_size)
    publish(table, SHOWN, RESULT, options.quick)


if __name__ == "__main__":
    main()
