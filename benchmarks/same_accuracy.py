"""Does speed cost accuracy? The baseline recipe in the straightforward loop and in tinysweep's, over seeds.

    python benchmarks/same_accuracy.py

A process a core, a thread each. The test accuracy is that of the last epoch's model, in the precision it was
trained in. Finished runs are kept in outputs/same_accuracy and read back: an interrupted series goes on where it
stopped.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from epoch_time import Straightforward, cpu_model, recipe, straightforward_pictures
from tinysweep import compose
from tinysweep.data.download import obtain
from tinysweep.data.load import load, load_test
from tinysweep.files import write_whole
from tinysweep.results.verdict import summarise, welch_p_value
from tinysweep.settings.schema import DEFAULT_ROOT, Config, Precision
from tinysweep.training.device import hardware, usable_cores
from tinysweep.training.loop import Normalise, fit
from tinysweep.training.score import evaluate

RESULT = Path(__file__).with_suffix(".csv")
MEAN, STD = (0.1307,), (0.3081,)  # as the straightforward loop has them

Job = tuple[str, int, Path, Path]  # loop, seed, folder of the data, where the accuracy is kept


def straightforward_model(config: Config) -> nn.Module:
    data = load(config.data)
    pictures = straightforward_pictures(Path(config.data.root))
    loop = Straightforward(config, data.shape, pictures, 0, len(data.train))
    for _ in range(config.trainer.epochs):
        loop.epoch()
    return nn.Sequential(Normalise(MEAN, STD), loop.network)


def tinysweep_model(config: Config) -> nn.Module:
    return fit(config, load(config.data)).model


LOOPS: dict[str, tuple[Callable[[Config], nn.Module], Precision]] = {
    "straightforward, fp32": (straightforward_model, Precision.fp32),
    "tinysweep, auto": (tinysweep_model, Precision.auto),
}


def run(job: Job) -> None:
    """Train and test one seed, unless that was done before."""
    loop, seed, root, kept = job
    if kept.exists():
        return
    config = recipe(root)
    train, precision = LOOPS[loop]
    trainer = replace(config.trainer, epochs=compose("experiment=era_seed").trainer.epochs)
    config = replace(config, trainer=replace(trainer, seed=seed, threads=1, precision=precision))
    score = evaluate(train(config), load_test(config.data), hardware(config.trainer))
    write_whole(kept, json.dumps({"loop": loop, "seed": seed, "test_accuracy": score.accuracy}))
    print(f"{loop}, seed {seed}: {100 * score.accuracy:.2f}%", file=sys.stderr)


def tabulate(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a loop: mean and spread over seeds in %, and how it differs from the straightforward one (Welch)."""
    found = {str(loop): 100 * group.to_numpy() for loop, group in rows.groupby("loop")["test_accuracy"]}
    plain, table = found[next(iter(LOOPS))], []
    for loop in LOOPS:
        figures: np.ndarray = found[loop]
        summary = summarise(list(figures), 0.95)
        assert summary.sd is not None
        row = {
            "loop": loop,
            "seeds": len(figures),
            "mean": summary.mean,
            "sd": summary.sd,
            "lowest": figures.min(),
        }
        row["points_more"] = summary.mean - plain.mean()
        row["p_value"] = 1.0 if figures is plain else welch_p_value(figures, plain)
        row["test_accuracies"] = " ".join(f"{one:.2f}" for one in figures)
        table.append(row)
    return pd.DataFrame(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 (default: 5)")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="runs at a time (default: one a core)")
    parser.add_argument("--data", type=Path, default=Path(DEFAULT_ROOT), help="folder of MNIST", metavar="ROOT")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds={options.seeds} must be at least 2: a spread needs two")
    root, folder = options.data.expanduser(), Path("outputs/same_accuracy")
    obtain("mnist", root)
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = [
        (loop, seed, root, folder / f"{loop.replace(', ', '-')}-{seed}.json")
        for loop in LOOPS
        for seed in range(options.seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        for _ in pool.imap(run, jobs):  # so that the first failure ends it
            pass
    table = tabulate(pd.DataFrame([json.loads(kept.read_text()) for *_, kept in jobs]))
    print(table.drop(columns="test_accuracies").round(3).to_string(index=False))
    table["cores"], table["cpu"], table["torch"] = usable_cores(), cpu_model(), torch.__version__
    write_whole(RESULT, table.round(4).to_csv(index=False))


if __name__ == "__main__":
    main()
