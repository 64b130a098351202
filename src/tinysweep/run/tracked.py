"""What of a run its tracker is told: the record and the history, as names and numbers."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinysweep.run.record import Record, RunFolder
from tinysweep.settings.stored import flatten
from tinysweep.tracking.tracker import Beginning, Ending
from tinysweep.training.loop import Epoch


def beginning(record: Record, folder: Path, done: int) -> Beginning:
    """A run that begins with so many epochs done."""
    about = {name: str(getattr(record, name)) for name in ("device", "precision", "threads", "python")}
    commit = {"commit": record.git_commit} if record.git_commit else {}
    return Beginning(
        name=_name(record, folder),
        settings=flatten(asdict(record.config)),
        cost=record.cost,
        about={**about, **commit, **record.versions, "folder": str(folder.absolute())},
        metrics=list(record.metrics),
        done=done,
    )


def point(epoch: Epoch) -> dict[str, float]:
    """The numbers of an epoch, as its row in history.csv has them."""
    return _numbers(asdict(epoch))


def ending(record: Record, folder: RunFolder, step: int) -> Ending:
    """How a run ended, as its record tells."""
    figures = _numbers({**record.metrics, "epochs": record.epochs, "train_seconds": record.train_seconds})
    return Ending(record.state, record.reason, figures, step, folder.curves if folder.curves.exists() else None)


def _name(record: Record, folder: Path) -> str:
    """Such as trial-3, test-era_seed-seed-0 or 2026-11-27-10-00-00-default."""
    trial = record.config.trial
    return f"{folder.parent.name}-{folder.name}" if trial is None else f"trial-{trial}"


def _numbers(held: Mapping[str, Any]) -> dict[str, float]:
    named = {key.rpartition(".")[2]: value for key, value in flatten(held).items()}
    return {name: value for name, value in named.items() if isinstance(value, int | float)}
