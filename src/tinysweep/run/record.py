"""What a run leaves behind: one folder, which knows every path in it, and a record that is always whole."""

import csv
import dataclasses
import importlib.metadata
import io
import itertools
import json
import platform
import subprocess
from collections.abc import Iterator
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
from tinysweep.files import is_held, write_whole
from tinysweep.network.budget import Cost
from tinysweep.settings.schema import Config
from tinysweep.training.device import Hardware
from tinysweep.training.loop import Epoch, Score

PACKAGES = ("tinysweep", "torch", "hydra-core", "omegaconf", "optuna", "numpy")


class State(StrEnum):
    running = "running"
    complete = "complete"
    pruned = "pruned"
    interrupted = "interrupted"
    failed = "failed"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def model(self) -> Path:
        return self.path / "model.pt"

    @property
    def predictions(self) -> Path:
        return self.path / "test_predictions.csv"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def _lock(self) -> Path:
        return self.path / ".running.lock"

    @property
    def is_held(self) -> bool:
        """Whether a process is at work on this run, as far as its lock can be seen from here."""
        return is_held(self._lock)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process go on with this run meanwhile. The operating system frees the lock of one that is
        killed.

        Raises:
            ConfigError: another process holds it.
        """
        lock = FileLock(self._lock)
        try:
            lock.acquire(timeout=1)  # is_held looks for a moment
        except Timeout:
            raise ConfigError(f"{self.path}: this run is going on in another process") from None
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

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


@dataclass
class Record:
    """The state of a run and all that it found, written to record.json whenever it changes."""

    folder: RunFolder
    config: Config
    cost: Cost
    hardware: Hardware
    overrides: list[str] = field(default_factory=list)
    commit: str | None = field(default_factory=git_commit)  # now, as a checkout moves on during a run
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    state: State = State.running
    reason: str | None = None
    error: str | None = None  # the class of what made the run fail
    history: list[Epoch] = field(default_factory=list)
    test: Score | None = None
    finished: datetime | None = None

    @property
    def train_seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.history)

    def begin(self) -> None:
        """Write the configuration and the first record."""
        write_whole(self.folder.config, OmegaConf.to_yaml(OmegaConf.structured(self.config)))
        self.write()

    def add(self, epoch: Epoch) -> None:
        """Take in an epoch, so that a run killed later has left all its epochs."""
        self.history.append(epoch)
        self.write()

    def take_test(self, score: Score, labels: Tensor) -> None:
        """Take in the one reading of the test set, and write what was predicted of each image, labels (N,)."""
        self.test = score
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("index", "label", "predicted"))
        writer.writerows(zip(range(len(labels)), labels.tolist(), score.predicted.tolist(), strict=True))
        write_whole(self.folder.predictions, text.getvalue())

    def close(self, state: State, reason: str | None = None, error: Exception | None = None) -> None:
        """Write the final state, and what made the run fail if it did."""
        self.state, self.reason, self.finished = state, reason, datetime.now(UTC)
        self.error = type(error).__name__ if error else None
        self.write()

    def write(self) -> None:
        write_whole(self.folder.history, self._history_csv())
        write_whole(self.folder.record, json.dumps(self.as_dict(), indent=2) + "\n")

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values; README.md documents the keys."""
        last = self.history[-1] if self.history else None
        return {
            "state": self.state,
            "reason": self.reason,
            "error": self.error,
            "name": self.config.name,
            "metrics": {
                "train_loss": last and last.train_loss,
                "validation_loss": last and last.validation_loss,
                "validation_accuracy": last and last.validation_accuracy,
                "test_loss": self.test and self.test.loss,
                "test_accuracy": self.test and self.test.accuracy,
            },
            "cost": {
                "params": self.cost.params,
                "macs": self.cost.macs,
                "activation_bytes": self.cost.activation_bytes,
            },
            "epochs": len(self.history),
            "seed": self.config.trainer.seed,
            "train_seconds": round(self.train_seconds, 3),
            "started": self.started.isoformat(timespec="seconds"),
            "finished": self.finished and self.finished.isoformat(timespec="seconds"),
            "device": self.hardware.device.type,
            "threads": self.hardware.threads,
            "precision": self.hardware.precision,
            "python": platform.python_version(),
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
            "git_commit": self.commit,
            "overrides": self.overrides,
            "config": dataclasses.asdict(self.config),
        }

    def _history_csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(spec.name for spec in dataclasses.fields(Epoch))
        writer.writerows(dataclasses.astuple(epoch) for epoch in self.history)
        return text.getvalue()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run, or None where none was begun, or what is there isn't one."""
    try:
        record: dict[str, Any] = json.loads(RunFolder(folder).record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record


def close_left_record(folder: Path, state: State, reason: str, error: str | None = None) -> None:
    """Close the record of a run whose process is gone, or it would say for ever that it is running."""
    record = read_record(folder)
    if record and record["state"] == State.running and not RunFolder(folder).is_held:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        closed = {**record, "state": state, "reason": reason, "error": error, "finished": now}
        write_whole(RunFolder(folder).record, json.dumps(closed, indent=2) + "\n")
