"""Accuracy of whole recipes over seeds: runs the real command once a seed and reports mean and spread.

    python benchmarks/seeds.py default era_seed --seeds 3

One run at a time, on all cores, unless --jobs says how many: then each has its share of the cores, and one thread
at least. Finished seeds are read back, not run again: an interrupted series goes on where it stopped.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from tinysweep.files import write_whole
from tinysweep.training.device import usable_cores

RESULTS = Path(__file__).parents[1] / "results"


def run_seed(name: str, seed: int, folder: Path, threads: int) -> dict[str, Any]:
    """The figures of one run of the recipe `name`; its peak memory is that of the whole process, in MiB."""
    note = folder / "peak_mib.txt"
    if not note.exists():
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        experiment = [] if name == "default" else [f"experiment={name}"]
        command = [
            sys.executable,
            "-m",
            "tinysweep.commands.train",
            *experiment,
            f"trainer.seed={seed}",
            f"trainer.threads={threads}",
            f"hydra.run.dir={folder}",
        ]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
        write_whole(note, str(usage.ru_maxrss / 1024))
    record = json.loads((folder / "record.json").read_text())
    return {
        "experiment": name,
        "seed": seed,
        "test_accuracy": record["metrics"]["test_accuracy"],
        "validation_accuracy": record["metrics"]["validation_accuracy"],
        "params": record["cost"]["params"],
        "epochs": record["epochs"],
        "train_seconds": record["train_seconds"],
        "peak_mib": round(float(note.read_text())),
        "torch": record["versions"]["torch"],
        "precision": record["precision"],
        "threads": record["threads"],
    }


def summary(rows: pd.DataFrame) -> str:
    """A line for each recipe: mean and standard deviation of the last epoch's test accuracy in %, and costs."""
    rows = rows.assign(test=100 * rows["test_accuracy"])
    table = rows.groupby("experiment", sort=False).agg(
        params=("params", "first"),
        seeds=("seed", "count"),
        mean_test=("test", "mean"),
        sd=("test", "std"),
        lowest=("test", "min"),
        seconds=("train_seconds", "mean"),
        peak_mib=("peak_mib", "max"),
    )
    return str(table.round({"mean_test": 3, "sd": 3, "lowest": 2, "seconds": 0}).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names of conf/experiment, or default")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("outputs/seeds"), help="where the runs lie")
    arguments = parser.parse_args()
    threads = max(1, usable_cores() // arguments.jobs)
    todo = [(name, seed) for name in arguments.experiments for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [pool.submit(run_seed, *one, arguments.out / one[0] / str(one[1]), threads) for one in todo]
    frame = pd.DataFrame([run.result() for run in runs])
    RESULTS.mkdir(exist_ok=True)
    for name in arguments.experiments:
        write_whole(RESULTS / f"seeds_{name}.csv", frame[frame["experiment"] == name].to_csv(index=False))
    print(summary(frame))


if __name__ == "__main__":
    main()
