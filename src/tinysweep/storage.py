"""Where a study is kept: SQLite in its folder, a database, or Optuna's journal file."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from tinysweep.errors import StudyError, first_line

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

BUSY_SECONDS = 60  # how long one process waits for another that is writing to an SQLite file


class Database(RDBStorage):
    """Optuna's storage in a database, where a trial that has everything from the start is written by a few
    statements instead of several for each parameter and note, which cost 20 ms."""

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: "Session"
    ) -> models.TrialModel:
        draft = template_trial
        if draft is None or draft.values or draft.intermediate_values:
            return super()._get_prepared_new_trial(study_id, draft, session)
        trial = models.TrialModel(
            study_id=study_id,
            number=None,
            state=draft.state,
            datetime_start=draft.datetime_start,
            datetime_complete=draft.datetime_complete,
        )
        session.add(trial)
        session.flush()  # gives it its id
        for name, value in draft.params.items():
            kind = draft.distributions[name]
            stored, text = kind.to_internal_repr(value), distribution_to_json(kind)
            session.add(
                models.TrialParamModel(
                    trial_id=trial.trial_id, param_name=name, param_value=stored, distribution_json=text
                )
            )
        for model, attributes in (
            (models.TrialUserAttributeModel, draft.user_attrs),
            (models.TrialSystemAttributeModel, draft.system_attrs),
        ):
            for key, content in attributes.items():
                session.add(model(trial_id=trial.trial_id, key=key, value_json=json.dumps(content)))
        trial.number = trial.count_past_trials(session)
        return trial


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


def absolute(storage: str) -> str:
    """The same storage as it is found from any folder: a file by its absolute path, a database server as it is."""
    prefix = "sqlite:///" if storage.startswith("sqlite:///") else ""
    if "://" in storage and not prefix:
        return storage
    return prefix + str(Path(storage.removeprefix(prefix)).expanduser().absolute())


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
        return Database(storage, engine_kwargs={"pool_pre_ping": True})
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
    return Database("sqlite:///study.db", engine_kwargs={"creator": connect, "poolclass": QueuePool})
