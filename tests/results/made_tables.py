"""Studies and single runs as they lie in folders, made without training."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tinysweep.network.budget import Cost, LayerCost
from tinysweep.run.record import Record, RunFolder, State
from tinysweep.search.table import COLUMNS
from tinysweep.settings.schema import Config
from tinysweep.training.device import Hardware
from tinysweep.training.loop import Epoch
from tinysweep.training.score import Score


def trial(number: int, accuracy: float | None, loss: float | None, params: int, **more: Any) -> dict[str, Any]:
    """A row of trials.csv; whatever isn't a column is a searched parameter."""
    figures = {"validation_accuracy": accuracy, "validation_loss": loss, "params": params, "macs": 10 * params}
    rest = {"state": "complete", "epochs": 1, "seconds": 1.5, "seed": 0, "folder": f"trials/{number}"}
    moments = {"started": "2026-01-02T03:04:05+00:00", "finished": "2026-01-02T03:05:05+00:00"}
    return {"number": number, "objective": "validation_loss", **figures, **rest, **moments, **more}


def table(path: Path, trials: list[dict[str, Any]], name: str = "one", searched: list[str] | None = None) -> Path:
    """A trials.csv as a study writes it."""
    if searched is None:
        searched = list(dict.fromkeys(key for row in trials for key in row if key not in COLUMNS))
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([{"study": name, **row} for row in trials], columns=[*COLUMNS, *searched], dtype=object)
    frame.to_csv(path, index=False, lineterminator="\r\n")  # so that the writer quotes carriage returns
    return path


def study(place: Path, trials: list[dict[str, Any]], name: str = "one", searched: list[str] | None = None) -> Path:
    """The folder of a study that has a table and nothing else."""
    return table(place / name / "trials.csv", trials, name, searched).parent


def recorded(folder: Path, accuracy: float | None = 0.9, test: float | None = None, **settings: Any) -> Path:
    """The folder of a run, as a run leaves it; `settings` are a run's sections."""
    cost = Cost((LayerCost("0", "Linear", (10,), 500, 400, 30),))
    overrides = ["model=residual", "optimizer.lr=0.1"]
    machine = Hardware(torch.device("cpu"), False, 1)
    record = Record.begin(Config(**settings), cost, machine, overrides)
    if test is not None:
        record.take_test(Score(1 - test, test))
    record.close(State.complete)
    folder.mkdir(parents=True)
    RunFolder(folder).write_config(record.config)
    RunFolder(folder).write(
        record, [Epoch(1, 0.5, None if accuracy is None else 1 - accuracy, accuracy, 0.1, 2.5)]
    )
    return folder
