"""Where a study is kept: SQLite in its folder, a database, or Optuna's journal file."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from tinysweep.errors import StudyError, first_line
from tinysweep.search.storage.database import Database
from tinysweep.search.storage.journal import Journal
from tinysweep.search.storage.location import OPENED, Kind, Location, locate

OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}
BUSY_SECONDS = 60  # how long one process waits for another that is writing to an SQLite file


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
    """The storage of the study in a folder, as `locate` finds it, which is made if it isn't there.

    Raises:
        StudyError: it can't be one, or is of another version of Optuna.
    """
    location = locate(storage, folder)
    if location.kind == Kind.journal:
        return JournalStorage(Journal(location.file))
    return Database(_database(location))


@contextmanager
def look_into(location: Location) -> Iterator[BaseStorage | None]:
    """A storage as it stands, to read from; None if it isn't there or holds nothing of Optuna's. Nothing is made
    or changed.

    Raises:
        StudyError: the database is of another version of Optuna.
    """
    if location.kind != Kind.server and not (location.file.is_file() and location.file.stat().st_size):
        yield None
    elif location.kind == Kind.journal:
        yield JournalStorage(Journal(location.file))
    else:
        engine = create_engine(_url(location), **_engine(location, write=False))
        try:
            tables = set(inspect(engine).get_table_names())
        finally:
            engine.dispose()
        if not tables >= OPTUNA_TABLES:
            if tables.isdisjoint(OPTUNA_TABLES) and tables and location.kind == Kind.sqlite:
                raise StudyError(
                    f"the storage {location.shown} is the database of something else, and is left as it is; give "
                    "studies a file of their own"
                )
            yield None
            return
        database = _database(location, write=False)
        try:
            yield database
        finally:
            database.remove_session()
            database.engine.dispose()  # closes the files, so that SQLite removes those beside the database


def _database(location: Location, write: bool = True) -> RDBStorage:
    try:
        return RDBStorage(
            _url(location), engine_kwargs=_engine(location, write=write), skip_table_creation=not write
        )
    except RuntimeError as error:  # tables of another version
        raise StudyError(f"the storage {location.shown} can't be used: {first_line(error)}") from error


def _url(location: Location) -> str:
    # A path with a ? or % can't be put into a URL, so connections to files are made by us.
    return location.url if location.kind == Kind.server else "sqlite:///study.db"


def _engine(location: Location, write: bool) -> dict[str, Any]:
    if location.kind == Kind.server:
        return {"pool_pre_ping": True}

    def connect() -> sqlite3.Connection:
        OPENED.add(location.file)
        connection = sqlite3.connect(location.file, timeout=BUSY_SECONDS, check_same_thread=False)
        if write:
            # A write-ahead log lets workers read while another writes, and is whole after a kill without many
            # flushes.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return {"creator": connect, "poolclass": QueuePool}


def is_outage(error: BaseException) -> bool:
    return isinstance(error, (SQLAlchemyError, optuna.exceptions.StorageInternalError)) or (
        isinstance(error, OSError) and error.errno in (28, 122, 5, 116)
    )
