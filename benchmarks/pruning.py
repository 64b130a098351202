"""What pruning brings: the best validation loss found in the same wall-clock time, with and without it.

    python benchmarks/pruning.py
    python benchmarks/pruning.py --pruners none successive_halving --seconds 300

Studies by the real command on real MNIST, one at a time, each with all cores. A study launches no batch after
--seconds; of the trials that were running then, none counts that finished later. Seconds begin with the first
trial.
Finished studies are read back, not run again: an interrupted series goes on where it stopped.
"""

import argparse
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from epoch_time import cpu_model
from tinysweep.files import write_whole
from tinysweep.search.study import Status
from tinysweep.search.table import read_trials
from tinysweep.training.device import usable_cores

RESULT = Path(__file__).parents[1] / "results" / "pruning.csv"
SPACE = [  # a learning rate that suits one of the optimizers is a bad one for the other
    "model=choice(plain,residual,separable)",
    "model.depth=choice([1,1,1],[1,2,1],[2,2])",
    "model.width=range(4,13)",
    "optimizer=choice(sgd,adamw)",
    "optimizer.lr=tag(log,interval(0.0003,1))",
    "optimizer.weight_decay=tag(log,interval(1e-6,1e-2))",
    "scheduler=choice(onecycle,cosine,constant)",
    "trainer.batch_size=choice(64,128,256)",
]
STUDY = [
    "hydra.sweeper.objective=validation_loss",
    "hydra.sweeper.n_trials=100000",  # time decides
    "hydra.sweeper.max_failure_rate=1",  # a rate that diverges is one of the bad trials
]


def run_study(folder: Path, pruner: str, seed: int, options: argparse.Namespace) -> float:
    """Run a study, unless it has been, and return how long the whole command took."""
    note = folder / "command_seconds.txt"
    if not note.exists():
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted study left
        words = [
            f"hydra/sweeper/pruner={pruner}",
            "hydra/sweeper/sampler=tpe",
            f"hydra.sweeper.sampler.seed={seed}",
            f"hydra.sweeper.max_seconds={options.seconds:g}",
            f"hydra.sweeper.batch_size={options.batch}",
            f"hydra.sweeper.study_name=pruning-{pruner}-{seed}",
            f"hydra.sweep.dir={folder}",
            f"trainer.epochs={options.epochs}",
        ]
        command = [
            sys.executable,
            "-m",
            "tinysweep.commands.train",
            "-m",
            *SPACE,
            *STUDY,
            *words,
            *options.override,
        ]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        write_whole(note, f"{time.perf_counter() - began:.3f}")
    return float(note.read_text())


def outcome(folder: Path, seconds: float) -> dict[str, Any]:
    """The best that a study had found after `seconds`, and how many trials had ended by then."""
    trials = read_trials(folder / "trials.csv")
    started, finished = pd.to_datetime(trials["started"]), pd.to_datetime(trials["finished"])
    used = (finished - started.min()).dt.total_seconds()
    late = used > seconds
    in_time = trials[~late & used.notna()]
    complete = in_time[in_time["state"] == Status.complete].sort_values("validation_loss")
    best = next(complete.itertuples(), None)
    states = in_time["state"].value_counts()
    return {
        "validation_loss": best.validation_loss if best else math.nan,
        "validation_accuracy": best.validation_accuracy if best else math.nan,
        "params": best.params if best else math.nan,
        **{str(became): int(states.get(became, 0)) for became in ("complete", "pruned", "failed", "over_budget")},
        "late": int((late & trials["state"].isin(["complete", "pruned", "failed"])).sum()),
        "epochs": int(in_time["epochs"].sum()),
        "study_seconds": used.max(),
    }


def summary(frame: pd.DataFrame) -> str:
    """A line for each pruner: mean and standard deviation over the seeds."""
    percent = frame.assign(accuracy=100 * frame["validation_accuracy"])
    table = percent.groupby("pruner", sort=False).agg(
        seeds=("seed", "count"),
        mean_loss=("validation_loss", "mean"),
        sd_loss=("validation_loss", "std"),
        mean_accuracy=("accuracy", "mean"),
        sd_accuracy=("accuracy", "std"),
        complete=("complete", "mean"),
        pruned=("pruned", "mean"),
        epochs=("epochs", "mean"),
    )
    return table.round({"mean_loss": 5, "sd_loss": 5, "mean_accuracy": 3, "sd_accuracy": 3}).round(5).to_string()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pruners = ["none", "median", "hyperband"]
    parser.add_argument("--pruners", nargs="+", default=pruners, help="hydra/sweeper/pruner")
    parser.add_argument("--seeds", type=int, default=3, help="sampler seeds, from 0 (default: 3)")
    parser.add_argument("--seconds", type=float, default=150, help="wall-clock a study (default: 150)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of a whole trial (default: 6)")
    parser.add_argument("--batch", type=int, default=2 * usable_cores(), help="trials a batch (default: 2 a core)")
    parser.add_argument("--override", action="append", default=[], help="an override, such as data.limit=2000")
    parser.add_argument("--out", type=Path, default=Path("outputs/pruning"), help="where the studies lie")
    parser.add_argument("--result", type=Path, default=RESULT, help="the CSV to write")
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        for pruner in options.pruners:  # in turn, so that a change in the machine's load meets all of them
            folder = (options.out / f"{options.seconds:g}s-{options.epochs}epochs" / f"{pruner}-{seed}").absolute()
            took = run_study(folder, pruner, seed, options)
            limits = {"pruner": pruner, "seed": seed, "seconds": options.seconds, "epochs_a_trial": options.epochs}
            rows.append(limits | outcome(folder, options.seconds) | {"command_seconds": took})
    frame = pd.DataFrame(rows)
    frame["cores"], frame["cpu"], frame["torch"] = usable_cores(), cpu_model(), torch.__version__
    options.result.parent.mkdir(exist_ok=True)
    write_whole(options.result, frame.to_csv(index=False))
    print(frame.drop(columns=["cores", "cpu", "torch"]).round(4).to_string(index=False))
    print(f"\nafter {options.seconds:g} s, over {options.seeds} seeds:\n{summary(frame)}")


if __name__ == "__main__":
    main()
