"""What a run leaves behind: one folder, which knows every path in it, and a record that is always whole."""

import csv
import dataclasses
import importlib.metadata
import io
import itertools
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from torch import Tensor

from tinysweep.errors import ConfigError
from tinysweep.files import is_held, remove_if_empty, write_whole
from tinysweep.metrics import FURTHER
from tinysweep.network.budget import Cost
from tinysweep.settings.schema import Config
from tinysweep.settings.stored import read_config
from tinysweep.tracking.tracker import Ending, Tracking
from tinysweep.training.device import Hardware
from tinysweep.training.loop import Epoch
from tinysweep.training.score import Score

PACKAGES = ("tinysweep", "torch", "hydra-core", "omegaconf", "optuna", "numpy")
EACH_EPOCH = ("train_loss", "validation_loss", "validation_accuracy", *(f"validation_{name}" for name in FURTHER))
POLL_SECONDS = 0.1
TESTED = ("test_loss", "test_accuracy", *(f"test_{name}" for name in FURTHER))


class State(StrEnum):
    running = "running"
    complete = "complete"
    pruned = "pruned"
    interrupted = "interrupted"
    failed = "failed"


ENDED = (State.complete, State.pruned, State.failed)  # what isn't to be trained again


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, with "-dirty" if files differ from it; None if it
    was installed."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists():
        return None
    describe = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in PACKAGES}


@dataclass(kw_only=True)
class Record:
    """What record.json says of a run: its fields are the keys, in this order."""

    state: State = State.running
    reason: str | None = None
    error: str | None = None  # the class of what made the run fail
    name: str
    metrics: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys((*EACH_EPOCH, *TESTED)))
    cost: dict[str, int]
    epochs: int = 0
    seed: int
    train_seconds: float = 0
    started: str = field(default_factory=_now)
    finished: str | None = None
    device: str
    threads: int
    precision: str
    python: str = field(default_factory=platform.python_version)
    versions: dict[str, str] = field(default_factory=_versions)
    git_commit: str | None = field(default_factory=git_commit)  # now, as a checkout moves on during a run
    overrides: list[str]
    tracked: str | None = None  # by what the tracker of its configuration knows the run
    config: Config

    @classmethod
    def begin(cls, config: Config, cost: Cost, hardware: Hardware, overrides: list[str]) -> "Record":
        """The record of a run that begins now."""
        return cls(
            name=config.name,
            cost={"params": cost.params, "macs": cost.macs, "activation_bytes": cost.activation_bytes},
            seed=config.trainer.seed,
            device=hardware.device.type,
            threads=hardware.threads,
            precision=hardware.precision,
            overrides=overrides,
            config=config,
        )

    @classmethod
    def read(cls, path: Path) -> "Record":
        """The record in a file, which may be of an earlier version; an exception of any kind if it is damaged."""
        held: dict[str, Any] = json.loads(path.read_text())
        known = {spec.name: held[spec.name] for spec in dataclasses.fields(cls) if spec.name in held}
        return cls(**known | {"state": State(held["state"]), "config": read_config(held["config"])})

    def take_epochs(self, history: Sequence[Epoch]) -> None:
        """Take in all epochs that there are by now: the figures of the last, of several trainings those of the
        last that is whole, and the seconds of all."""
        last = next((epoch for epoch in reversed(history) if epoch.is_comparable), None)
        for name in (*EACH_EPOCH, *(f"validation_{name}" for name in self.config.metrics)):
            self.metrics[name] = last.figure(name) if last else None
        self.epochs = last.epoch if last else 0
        self.train_seconds = round(sum(epoch.seconds for epoch in history), 3)

    def take_test(self, score: Score) -> None:
        """Take in the one reading of the test set."""
        self.metrics |= score.figures("test")

    def close(self, state: State, reason: str | None = None, error: Exception | None = None) -> None:
        """Take in how the run ended, and what made it fail if it did."""
        self.state, self.reason, self.finished = state, reason, _now()
        self.error = type(error).__name__ if error else None


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.record = path / "config.yaml", path / "record.json"
        self.history, self.curves = path / "history.csv", path / "curves.png"
        self.model, self.predictions = path / "model.pt", path / "test_predictions.csv"
        self.validation = path / "validation_predictions.csv"
        self._lock = path / ".running.lock"

    @classmethod
    def claim(cls, wanted: Path) -> "RunFolder":
        """The folder `wanted`, or `wanted-2`, `wanted-3`, … if runs have taken those before: creating the
        configuration file is what takes a folder, and the operating system lets only one process create it. The
        record is no such mark, as it must be whole from the moment it is there."""
        for number in itertools.count(1):
            folder = cls(wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}"))
            folder.path.mkdir(parents=True, exist_ok=True)
            try:
                folder.config.touch(exist_ok=False)
            except FileExistsError:
                continue
            return folder
        raise AssertionError("unreachable: count() doesn't end")

    @property
    def is_held(self) -> bool:
        """Whether a process is at work on this run, as far as its lock can be seen from here."""
        return is_held(self._lock)

    @contextmanager
    def hold(self, *, wait: bool = False) -> Iterator[None]:
        """Let no other process go on with this run meanwhile; whoever holds it may do so once more. If another
        does, it is waited for or refused. The operating system frees the lock of one that is killed."""
        lock = FileLock(self._lock, is_singleton=True)
        try:
            lock.acquire(timeout=-1 if wait else 1, poll_interval=POLL_SECONDS)  # is_held looks for a moment
        except Timeout:
            raise ConfigError(f"{self.path}: this run is going on in another process") from None
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                self._lock.unlink(missing_ok=True)
            lock.release()

    def clear(self) -> None:
        """Remove a lock that nobody holds any longer, and the folder if nothing else is in it."""
        if not self.is_held:
            self._lock.unlink(missing_ok=True)
        remove_if_empty(self.path)

    def write_config(self, config: Config) -> None:
        write_whole(self.config, OmegaConf.to_yaml(OmegaConf.structured(config)))

    def write(self, record: Record, history: Sequence[Epoch]) -> None:
        """Write the record, and a row for each epoch; which of several trainings it belongs to, if there are."""
        record.take_epochs(history)
        optional = {spec.name for spec in dataclasses.fields(Epoch) if spec.default is None}
        known = {name for name in optional if any(getattr(epoch, name) is not None for epoch in history)}
        left_out = {"further", *(optional - known)}
        names = [spec.name for spec in dataclasses.fields(Epoch) if spec.name not in left_out]
        names += dict.fromkeys(name for epoch in history for name in epoch.further)
        rows = ([epoch.figure(name) for name in names] for epoch in history)
        write_whole(self.history, _csv(names, rows))
        write_whole(self.record, json.dumps(dataclasses.asdict(record), indent=2) + "\n")

    def read_history(self) -> list[Epoch]:
        """The epochs that have been written, to the bit; none where the file is missing or damaged."""
        try:
            with self.history.open(newline="") as stream:
                written = list(csv.DictReader(stream))
            rows = [{name: json.loads(text) if text else None for name, text in row.items()} for row in written]
            return [_epoch(row) for row in rows]
        except (OSError, ValueError, TypeError):
            return []

    def write_predictions(self, labels: Tensor, predicted: Tensor) -> None:
        """Write what the test images are, labels (N,), and what they were taken for."""
        rows = zip(range(len(labels)), labels.tolist(), predicted.tolist(), strict=True)
        write_whole(self.predictions, _csv(["index", "label", "predicted"], rows))

    def write_validation(self, labels: Tensor, score: Score) -> None:
        """Write what the validation images are, labels (N,), in their order, what they were taken for, and the
        loss of each."""
        losses = (f"{loss:.6g}" for loss in score.losses.tolist())
        rows = zip(range(len(labels)), labels.tolist(), score.predicted.tolist(), losses, strict=True)
        write_whole(self.validation, _csv(["index", "label", "predicted", "loss"], rows))


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run as it stands in its file, or None where none was begun, or what is there isn't one."""
    try:
        record: dict[str, Any] = json.loads(RunFolder(folder).record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record


def close_left_record(
    folder: Path, state: State, reason: str, error: str | None = None, *, held: bool = False
) -> None:
    """Close the record of a run whose process is gone, or it would say for ever that it is running; it surely is
    where the caller has the run `held`."""
    record = read_record(folder)
    if record and record["state"] == State.running and (held or not RunFolder(folder).is_held):
        closed = {**record, "state": state, "reason": reason, "error": error, "finished": _now()}
        write_whole(RunFolder(folder).record, json.dumps(closed, indent=2) + "\n")
        if known := record.get("tracked"):
            ending = Ending(state, reason, {}, 0)
            Tracking(read_config(record["config"]).tracker).close_left(known, ending)


def _epoch(row: dict[str, Any]) -> Epoch:
    """An epoch from its row; columns that are no fields are metrics."""
    own = {name: row.pop(name) for name in row.keys() - {spec.name for spec in dataclasses.fields(Epoch)}}
    return Epoch(**row, further={name: value for name, value in own.items() if value is not None})


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
