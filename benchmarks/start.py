"""What surrounds training: from typing a command to its first step or its answer, and the gate of one proposal.

    python benchmarks/start.py

Commands run as fresh processes, in turn, with their data present. The gate is what a proposal goes through between
its draw and its launch: composed, checked, costed and held to the budget, on Hydra compositions that are there.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from epoch_time import cpu_model
from gate import SPACE, make_plan
from tinysweep.data.load import describe
from tinysweep.files import write_whole
from tinysweep.network import budget
from tinysweep.settings.schema import Config
from tinysweep.training.device import usable_cores

RESULT = Path(__file__).with_suffix(".csv")
COMMANDS = {
    "tinysweep --help": ["--help"],
    "tinysweep model.widht=12, refused": ["model.widht=12"],
    "tinysweep model.width=32, refused by the gate": ["model.width=32"],
}
FIRST_STEP = ["trainer.epochs=1", "data.limit=640", "trainer.test=false", "hydra.run.dir=run"]
DRAWS = (
    {"model": "plain", "model.depth": "[1,2,1]", "model.width": 12, "model.growth": 1.5},
    {"model": "residual", "model.depth": "[2,2,2]", "model.width": 60, "model.growth": 2.1},
    {"model": "plain", "model.depth": "[1,3,2]", "model.width": 8, "model.growth": 1.2},
)


def command_seconds(words: list[str], folder: Path) -> float:
    """Seconds of the whole command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tinysweep.commands.train", *words]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - began


def first_step_seconds(parent: Path) -> float:
    """Seconds until the first epoch of a run begins, which is its history's time less what the epoch took."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    began = time.time()
    command_seconds(FIRST_STEP, folder)
    history = folder / "run" / "history.csv"
    return history.stat().st_mtime - float(pd.read_csv(history)["seconds"].iloc[0]) - began


def gate_seconds(compose: Callable[[dict[str, object]], Config]) -> float:
    """Mean seconds of the gate over some draws, one of them over the budget."""
    began = time.perf_counter()
    for draw in DRAWS:
        config = compose(dict(draw))
        shape = describe(config.data)
        config = budget.resolve(config, shape)
        over = budget.excesses(budget.measure(config.model, shape), config.budget)
        assert bool(over) == (draw["model.width"] == 60)
    return (time.perf_counter() - began) / len(DRAWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="times each is taken, in turn (default 7)")
    options = parser.parse_args()
    rounds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(options.rounds + 1):
            rounds.setdefault("tinysweep, to the first training step", []).append(first_step_seconds(folder))
            for what, words in COMMANDS.items():
                rounds.setdefault(what, []).append(command_seconds(words, folder))
        plan = make_plan(folder, *SPACE, "hydra/sweeper/sampler=tpe")
        compose: Callable[[dict[str, object]], Config] = plan.composer.config  # type: ignore[assignment]
        rounds["gate of a proposal"] = [gate_seconds(compose) for _ in range(10 * options.rounds)]
    # The first of each finds cold files and empty caches.
    table = pd.DataFrame(
        {"what": what, "median_seconds": statistics.median(taken[1:]), "slowest": max(taken[1:])}
        for what, taken in rounds.items()
    )
    print(table.round(4).to_string(index=False))
    table["rounds"] = [len(taken) - 1 for taken in rounds.values()]
    table["cores"], table["cpu"], table["torch"] = usable_cores(), cpu_model(), torch.__version__
    write_whole(RESULT, table.round(5).to_csv(index=False))


if __name__ == "__main__":
    main()
