"""A study: Optuna's trials, what became of each, and which sweeper each belongs to."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from tinysweep.errors import StudyError, first_line
from tinysweep.lease import Lease

BUSY_SECONDS = 60  # how long one process waits for another that is writing to an SQLite file
UNOWNED_SECONDS = 10  # a trial this old that no sweeper has signed was left by one that died


class Standing(StrEnum):
    """What became of a trial; Optuna's own states don't tell a refused trial from a pruned one."""

    running = "running"
    complete = "complete"
    pruned = "pruned"
    failed = "failed"
    interrupted = "interrupted"
    over_budget = "over_budget"
    invalid = "invalid"
    duplicate = "duplicate"
    withdrawn = "withdrawn"


PLAIN = {TrialState.COMPLETE: Standing.complete, TrialState.PRUNED: Standing.pruned}
TRAINED = (Standing.complete, Standing.pruned, Standing.failed)  # what counts towards n_trials
STATES = {
    Standing.complete: TrialState.COMPLETE,
    Standing.pruned: TrialState.PRUNED,
    # A sampler learns from the constraint of a pruned trial, not from that of a failed one.
    Standing.over_budget: TrialState.PRUNED,
}


def standing(trial: FrozenTrial) -> Standing:
    """What became of a trial, from its note, or from Optuna's state where that says it all."""
    if not trial.state.is_finished():
        return Standing.running
    return Standing(trial.user_attrs.get("standing", PLAIN.get(trial.state, Standing.failed)))


def is_going(trial: FrozenTrial) -> bool:
    """Whether a trial has passed the gate and is not finished: it is being trained, or was when its sweeper
    died."""
    return trial.state == TrialState.RUNNING and "seed" in trial.user_attrs


def count(trials: Sequence[FrozenTrial], *standings: Standing) -> int:
    """How many of the trials that have begun have one of these standings."""
    return sum(trial.datetime_start is not None and standing(trial) in standings for trial in trials)


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn whatever a storage raises into one line.

    Raises:
        StudyError: naming the storage and what it said.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError, OSError) as error:
        cause = error.__cause__ or error
        said = first_line(getattr(cause, "orig", None) or cause) or type(cause).__name__
        raise StudyError(
            f"the study's storage {where} failed: {said}; what had finished is kept, and the same command goes on "
            "from there once the storage answers"
        ) from error


def open_storage(storage: str | None, folder: Path) -> BaseStorage:
    """The storage of a study: SQLite in its folder, a database by URL, or an Optuna journal file by path.

    Raises:
        StudyError: the database's Python driver is not installed.
    """
    if storage is not None and "://" not in storage:
        return JournalStorage(JournalFileBackend(str(Path(storage).expanduser().resolve())))
    if storage is None or storage.startswith("sqlite:///"):
        return _open_sqlite(folder / "study.db" if storage is None else Path(storage.removeprefix("sqlite:///")))
    try:
        return RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        kind = storage.partition(":")[0]
        raise StudyError(
            f"hydra.sweeper.storage={kind}://… needs a Python driver, which is not installed ({error})"
        ) from error


def _open_sqlite(file: Path) -> RDBStorage:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(file.resolve(), timeout=BUSY_SECONDS, check_same_thread=False)
        # A write-ahead log lets workers read while another writes, and is whole after a kill without many flushes.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    # Connections made here, because a path with a ? or % can't be put into a URL.
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect, "poolclass": QueuePool})


def trial_path(number: int) -> str:
    """Where a trial lies below its study's folder, the same on every machine."""
    return f"trials/{number}"


class Study:
    """An Optuna study seen by one of the sweepers that may be at work on it."""

    def __init__(self, optimized: optuna.Study, folder: Path, lease: Lease, repeats: bool = True) -> None:
        """`repeats`: whether a trial cut short is proposed again, which some samplers would do by themselves."""
        self.optuna, self.folder, self.lease, self.repeats = optimized, folder, lease, repeats

    def trials(self) -> list[FrozenTrial]:
        """Every trial, in the order of their numbers; not to be changed."""
        return self.optuna.get_trials(deepcopy=False)

    def trial(self, number: int) -> FrozenTrial:
        return self.optuna._storage.get_trial(self._trial_id(number))

    def trial_folder(self, number: int) -> Path:
        return self.folder / trial_path(number)

    def ask(self) -> Trial:
        """A new trial, signed by this sweeper."""
        trial = self.optuna.ask()
        trial.set_user_attr("sweeper", self.lease.token)
        return trial

    def close(
        self,
        number: int,
        became: Standing,
        reason: str | None = None,
        values: list[float] | None = None,
        **notes: Any,
    ) -> bool:
        """Give a running trial its final standing; False if another sweeper has closed it meanwhile."""
        trial_id = self._trial_id(number)
        notes |= {"standing": became.value} | ({"reason": reason} if reason else {})
        try:
            for name, value in notes.items():
                self.optuna._storage.set_trial_user_attr(trial_id, name, value)
            state = STATES.get(became, TrialState.COMPLETE if values is not None else TrialState.FAIL)
            self.optuna.tell(number, values, state=state, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def interrupt(self, trial: FrozenTrial, reason: str, **notes: Any) -> bool:
        """Close a trial that was cut short, and propose its configuration again if it had passed the gate; False
        if another sweeper has closed it meanwhile."""
        again = self.repeats and is_going(trial)
        closed = self.close(trial.number, Standing.interrupted, reason, **notes)
        if closed and again:
            self.optuna.enqueue_trial(trial.params)
        return closed

    def _trial_id(self, number: int) -> int:
        return self.optuna._storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)

    def abandoned(self) -> list[FrozenTrial]:
        """Running trials whose sweeper is no longer there."""
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        return [trial for trial in running if not self.is_attended(trial)]

    def release(self, reason: str) -> None:
        """Close as interrupted what this sweeper has asked for and will not come to train."""
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and trial.user_attrs.get("sweeper") == self.lease.token:
                self.interrupt(trial, reason)

    def is_attended(self, trial: FrozenTrial) -> bool:
        """Whether the sweeper that asked for a running trial is alive, or may be about to sign it."""
        token = trial.user_attrs.get("sweeper")
        if token is None:
            began = trial.datetime_start
            return began is not None and (datetime.now() - began).total_seconds() < UNOWNED_SECONDS
        return self.lease.is_alive(token, self.optuna.user_attrs)

    def wait_for_earlier(self, number: int, poll_seconds: float = 0.02) -> None:
        """Wait until each trial before `number` has shown its configuration or is closed.

        Of several sweepers that come to the same configuration at once, all but the one with the lowest trial
        number so find the other's; it is Lamport's bakery algorithm (1974), with trial numbers as the tickets.
        """
        while True:
            undecided = [trial for trial in self.trials()[:number] if trial.state == TrialState.RUNNING
                         and "key" not in trial.user_attrs]  # fmt: skip
            if not any(self.is_attended(trial) for trial in undecided):
                return
            time.sleep(poll_seconds)
            self.optuna._thread_local.cached_all_trials = None
