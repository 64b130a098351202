"""How busy a study keeps the cores: one worker a core with a thread each, against one worker with all threads.

    python benchmarks/parallel.py
    python benchmarks/parallel.py --epochs 1,2,3 --seeds 6

The same grid of trials by the real command, on real MNIST. The CPU share is that of the command and all of its
processes, start and data loading included; the training share is the part of the workers' time spent in epochs,
over the whole command and from the first trial's start to the last one's end. --epochs 1,2,3 makes the trials
uneven.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from epoch_time import cpu_model
from tinysweep.files import write_whole
from tinysweep.run.record import RunFolder, State
from tinysweep.training.device import usable_cores

RESULT = Path(__file__).parents[1] / "results" / "parallel.csv"
SAMPLE_SECONDS = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


class CpuSeconds:
    """CPU seconds of a process and its descendants, read from /proc while they live: what wait4 tells leaves out
    processes that nobody waited for."""

    def __init__(self, root: int) -> None:
        self.root, self.ticks = root, {root: 0}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def stop(self) -> float:
        self.stopped.set()
        self.thread.join()
        return sum(self.ticks.values()) / TICKS

    def _sample(self) -> None:
        while not self.stopped.wait(SAMPLE_SECONDS):
            seen = dict(filter(None, map(_parent_and_ticks, Path("/proc").glob("[0-9]*/stat"))))
            for pid, (_, ticks) in seen.items():
                ancestor = pid
                while ancestor in seen and ancestor != self.root:
                    ancestor = seen[ancestor][0]
                if ancestor == self.root or pid in self.ticks:
                    self.ticks[pid] = ticks


def _parent_and_ticks(stat: Path) -> tuple[int, tuple[int, int]] | None:
    try:
        words = stat.read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return None
    return int(stat.parent.name), (int(words[1]), int(words[11]) + int(words[12]))


def run_study(folder: Path, workers: int, options: argparse.Namespace) -> dict[str, float]:
    """Run the trials and return wall-clock and CPU seconds of the whole command."""
    shutil.rmtree(folder, ignore_errors=True)
    words = [
        "trainer.seed=" + ",".join(map(str, range(options.seeds))),
        f"trainer.epochs={options.epochs}",
        f"hydra.launcher.n_jobs={workers}",
        f"hydra.sweeper.study_name=parallel-{workers}",
        f"hydra.sweep.dir={folder}",
    ]
    command = [sys.executable, "-m", "tinysweep.commands.train", "-m", *words, *options.override]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    sampler = CpuSeconds(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    waited = usage.ru_utime + usage.ru_stime
    return {"command_seconds": wall, "cpu_waited": waited, "cpu_sampled": sampler.stop()}


def row(folder: Path, workers: int, times: dict[str, float]) -> dict[str, Any]:
    """Shares and rates; a trial lasts from its configuration, written after its data is there, to its last
    record."""
    runs = [RunFolder(path) for path in sorted((folder / "trials").iterdir())]
    records = [json.loads(run.record.read_text()) for run in runs]
    done = [record for record in records if record["state"] == State.complete]
    starts, ends = [run.config.stat().st_mtime for run in runs], [run.record.stat().st_mtime for run in runs]
    training = sum(record["train_seconds"] for record in records)
    wall, span = times["command_seconds"], max(ends) - min(starts)
    in_trials = sum(end - start for start, end in zip(starts, ends, strict=True))
    cpu = max(times["cpu_waited"], times["cpu_sampled"])  # each leaves something out, neither counts twice
    return {
        "workers": workers,
        "threads": records[0]["threads"],
        "trials": len(done),
        **times,
        "trials_seconds": span,
        "train_seconds": training,
        "training_share_of_trials": training / workers / span,
        "training_share_of_command": training / workers / wall,
        "busy_share_of_trials": in_trials / workers / span,
        "cpu_share_of_command": cpu / usable_cores() / wall,
        "trials_an_hour": 3600 * len(done) / wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12, help="seeds in the grid (default: 12)")
    parser.add_argument("--epochs", default="2", help="epochs of a trial, or several in the grid (default: 2)")
    workers = [usable_cores(), 1]
    parser.add_argument("--workers", type=int, nargs="+", default=workers, help="numbers of workers to compare")
    parser.add_argument("--override", action="append", default=[], help="an override, such as data.limit=2000")
    parser.add_argument("--out", type=Path, default=Path("outputs/parallel"), help="where the studies lie")
    parser.add_argument("--result", type=Path, default=RESULT, help="the CSV to write")
    options = parser.parse_args()
    rows = []
    for workers in options.workers:
        folder = (options.out / str(workers)).absolute()
        rows.append(row(folder, workers, run_study(folder, workers, options)))
    frame = pd.DataFrame(rows)
    frame["times_more_trials"] = frame["trials_an_hour"] / frame["trials_an_hour"].iloc[-1]
    print(frame.round(3).T.to_string(header=False))
    frame["epochs"], frame["overrides"] = options.epochs, " ".join(options.override)
    frame["cores"], frame["cpu"], frame["torch"] = usable_cores(), cpu_model(), torch.__version__
    options.result.parent.mkdir(exist_ok=True)
    write_whole(options.result, frame.round(4).to_csv(index=False))


if __name__ == "__main__":
    main()
