"""A storage that is away for a while: every call is made again, and one whose answer was lost does no harm."""

import errno
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from tinysweep.errors import OutageError, StudyError, is_outage
from tinysweep.search.storage import patient
from tinysweep.search.storage.journal import Journal
from tinysweep.search.storage.opening import open_storage, storage_errors
from tinysweep.search.storage.patient import Patience, PatientStorage


class Clock:
    """Time as those see it who sleep."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += max(seconds, 0.001)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patient, "time", made)
    return made


class Faulty:
    """A storage of which each call fails `times` times, before or after it was carried out."""

    def __init__(self, storage: BaseStorage, times: int, lost: bool, error: Exception | None = None) -> None:
        self.storage, self.times, self.lost, self.calls = storage, times, lost, 0
        self.error = error or OutageError("connection refused")
        self.left: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.storage, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            left = self.left.setdefault(name, self.times)
            self.left[name] = left - 1
            if left <= 0:
                del self.left[name]
                return method(*args, **kwargs)
            if self.lost and left == self.times:
                method(*args, **kwargs)
            raise self.error

        return call


def waited_for(faulty: Faulty, seconds: float = 60) -> PatientStorage:
    return PatientStorage(faulty, Patience(seconds, "here"))  # type: ignore[arg-type]


STORAGES: dict[str, Callable[[Path], BaseStorage]] = {
    "memory": lambda _: InMemoryStorage(),
    "sqlite": lambda folder: open_storage(None, folder).storage,
    "journal": lambda folder: open_storage(str(folder / "journal.log"), folder).storage,
}


@pytest.mark.parametrize("lost", [False, True], ids=["not carried out", "answer lost"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("kind", STORAGES)
def test_a_study_over_a_storage_that_fails_is_the_study_over_one_that_never_does(
    tmp_path: Path, kind: str, times: int, lost: bool
) -> None:
    stored = []
    for faults in (0, times):
        (tmp_path / str(faults)).mkdir()
        storage = waited_for(Faulty(STORAGES[kind](tmp_path / str(faults)), faults, lost))
        study = optuna.create_study(
            study_name="s", storage=storage, load_if_exists=True, sampler=optuna.samplers.RandomSampler(seed=1)
        )
        study.set_user_attr("note", 1)
        for value in (1.0, None):
            trial = study.ask()
            trial.suggest_int("width", 1, 9)
            trial.report(0.5, 1)
            trial.set_user_attr("key", "k")
            study.tell(trial, value, None if value else TrialState.FAIL)
        study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"sweeper": "me"}))
        # What a template and what Optuna itself makes of it differ in, beside the mark, is the moment alone.
        stored.append(
            [
                (each.number, each.state, each.values, each.params, each.user_attrs, each.intermediate_values)
                for each in study.get_trials()
            ]
        )
        assert study.user_attrs == {"note": 1}
        optuna.delete_study(study_name="s", storage=storage)
        assert optuna.get_all_study_names(storage) == []
    assert stored[0] == stored[1]
    assert len(stored[0]) == 3


def test_a_trial_that_another_has_closed_stays_as_that_one_left_it() -> None:
    real = InMemoryStorage()
    study = optuna.create_study(storage=real)

    class Overtaken(Faulty):
        def __getattr__(self, name: str) -> Callable[..., Any]:
            if name == "set_trial_state_values" and not self.calls:
                real.set_trial_state_values(trial, TrialState.FAIL)
            return super().__getattr__(name)

    for faults in (0, 1):
        trial = real.create_new_trial(study._study_id)
        storage = waited_for(Overtaken(real, faults, lost=False))
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
        assert real.get_trial(trial).state == TrialState.FAIL


def test_a_waiting_trial_is_never_given_to_two() -> None:
    real = InMemoryStorage()
    study = optuna.create_study(storage=real)
    study.enqueue_trial({})
    storage = waited_for(Faulty(real, 1, lost=True))
    taken = [storage.set_trial_state_values(0, TrialState.RUNNING) for storage in (storage, storage)]
    assert not any(taken), "as another may have taken it, while the answer was lost"


# ---- how long


def test_it_is_asked_again_with_growing_pauses_and_said_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty(InMemoryStorage(), 8, lost=False)
    with caplog.at_level(logging.WARNING):
        assert waited_for(faulty).get_all_studies() == []
    assert faulty.calls == 9
    pauses = [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]
    assert all(0.5 * pause <= slept <= pause for pause, slept in zip(pauses, clock.slept, strict=True))
    assert [record.getMessage() for record in caplog.records] == [
        "the study's storage here is away (connection refused); it is waited for up to 60 seconds"
    ]


@pytest.mark.parametrize("seconds", [0.0, 1.0, 60.0])
def test_after_the_stated_time_the_last_error_is_raised_and_later_calls_do_not_wait_again(
    clock: Clock, seconds: float
) -> None:
    storage, began = waited_for(Faulty(InMemoryStorage(), 10_000, lost=False), seconds), clock.now
    with pytest.raises(OutageError, match="connection refused"):
        storage.get_all_studies()
    assert seconds <= clock.now - began <= seconds + 0.1
    for _ in range(5):
        with pytest.raises(OutageError):
            storage.get_all_studies()
    assert clock.now - began <= seconds + 0.1
    clock.now += 3600  # another outage, of which nothing is known yet
    began = clock.now
    with pytest.raises(OutageError):
        storage.get_all_studies()
    assert clock.now - began >= seconds


@pytest.mark.parametrize("error", [
    KeyError("no study"), optuna.exceptions.DuplicatedStudyError(), optuna.exceptions.UpdateFinishedTrialError(),
    ValueError("incompatible"), FileNotFoundError(errno.ENOENT, "gone"), PermissionError(errno.EACCES, "no"),
    OperationalError("SELECT", {}, sqlite3.OperationalError("no such column")), StudyError("damaged"),
])  # fmt: skip
def test_what_is_no_outage_is_raised_at_once(clock: Clock, error: Exception) -> None:
    faulty = Faulty(InMemoryStorage(), 1, lost=False, error=error)
    with pytest.raises(type(error)):
        waited_for(faulty).get_all_studies()
    assert (faulty.calls, clock.slept) == (1, [])
    assert not is_outage(error)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_full_disk_or_a_lost_file_server_is_an_outage_and_so_is_what_is_raised_from_it(code: int) -> None:
    error = OSError(code, "x")
    assert is_outage(error)
    with pytest.raises(StudyError) as caught, storage_errors("here"):
        raise error
    assert is_outage(caught.value)
    assert not is_outage(StudyError("here"))
    assert not is_outage(BrokenPipeError()), "nobody reads what is printed"


# ---- files


def test_a_journal_outlives_a_disk_that_is_full_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where half of a record was written by then."""
    study = optuna.create_study(study_name="s", storage=open_storage(str(tmp_path / "s.log"), tmp_path, 60))
    real, failures = Journal.append_logs, [3]

    def append(self: Journal, logs: list[dict[str, Any]]) -> None:
        if failures[0]:
            failures[0] -= 1
            with self.file.open("ab") as stream:
                stream.write(b'{"op_code":8,"worker')
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, logs)

    monkeypatch.setattr(Journal, "append_logs", append)
    study.set_user_attr("note", 1)
    assert failures == [0]
    assert study.user_attrs == {"note": 1}


def test_sqlite_outlives_one_who_holds_its_lock_for_longer_than_sqlite_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("tinysweep.search.storage.opening.BUSY_SECONDS", 0.01)
    study = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path, 60))
    other = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    sleep = clock.sleep

    def release(seconds: float) -> None:
        sleep(seconds)
        if len(clock.slept) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr(clock, "sleep", release)
    study.set_user_attr("note", 1)
    assert len(clock.slept) == 3
    assert study.user_attrs == {"note": 1}
    other.close()


def test_a_full_database_file_is_outlived_and_a_broken_statement_is_not(tmp_path: Path, clock: Clock) -> None:
    storage = open_storage(None, tmp_path, 2)
    study = optuna.create_study(study_name="s", storage=storage)
    engine = storage.storage._backend.engine  # type: ignore[attr-defined]
    # As few pages as it has already.
    event.listen(engine, "checkout", lambda connection, *_: connection.execute("PRAGMA max_page_count=1"))
    with pytest.raises(OutageError, match="full"):
        study.set_user_attr("long", "x" * 1_000_000)
    assert sum(clock.slept) == pytest.approx(2, abs=0.1)
    with pytest.raises(OperationalError), engine.connect() as connection:
        connection.exec_driver_sql("SELECT nothing FROM nowhere")


def test_finished_trials_are_read_once(tmp_path: Path) -> None:
    """Optuna wraps a database in what remembers them, but not one that another storage wraps."""
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(study_name="s", storage=storage)
    study.tell(study.ask({"width": IntDistribution(1, 3)}), 1.0)
    assert storage.get_study_directions(study._study_id) == [StudyDirection.MINIMIZE]
    first = study.get_trials(deepcopy=False)[0]
    assert study.get_trials(deepcopy=False)[0] is first
