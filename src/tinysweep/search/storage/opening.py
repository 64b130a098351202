"""Where a study is kept: SQLite in its folder, a database, or Optuna's journal file."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from tinysweep.errors import OutageError, StudyError, first_line, is_outage
from tinysweep.search.storage.database import Database
from tinysweep.search.storage.journal import Journal
from tinysweep.search.storage.location import OPENED, PROXY, Kind, Location, locate
from tinysweep.search.storage.outage import PLUGIN
from tinysweep.search.storage.patient import Patience, PatientStorage

OPTUNA_TABLES = {"studies", "trials", "version_info", "alembic_version"}
BUSY_SECONDS = 60  # how long one process waits for another that is writing to an SQLite file
LOOK_SECONDS = 3  # how long a first look waits for a server: whoever has mistyped its name is to know soon
# Of a server that has gone without a word, as on a cut network, the drivers would wait for many minutes.
_LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_MYSQL = {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60}
TIMEOUTS = {"psycopg2": _LIBPQ, "psycopg": _LIBPQ, "pymysql": _MYSQL, "mysqldb": _MYSQL}


@contextmanager
def storage_errors(where: str, study: Path | None = None) -> Iterator[None]:
    """Turn whatever a storage raises into one line; `study` is the folder of the one that a sweep is at work on.

    Raises:
        StudyError: naming the storage and what it said.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError, OSError) as error:
        cause = error if isinstance(error, OutageError) else error.__cause__ or error
        said = first_line(getattr(cause, "orig", None) or cause) or type(cause).__name__
        until = "the storage answers" if is_outage(error) else "that is mended"
        begun = study is not None and (study / "trials").exists()
        kept = "what had finished is kept, and the same command goes on from there" if begun else "try again"
        raise StudyError(f"the study's storage {where} failed: {said}; {kept} once {until}") from error


def open_storage(
    storage: str | None, folder: Path, seconds: float = LOOK_SECONDS, *, aloud: bool = True
) -> PatientStorage:
    """The storage of the study in a folder, as `locate` finds it, which is made if it isn't there. It is
    waited for whenever it is away, which is said if `aloud`.

    Raises:
        StudyError: it can't be one, or is of another version of Optuna.
        OSError: it is still away after `seconds`.
    """
    location = locate(storage, folder)
    patience = Patience(seconds, location.shown, aloud=aloud)
    return PatientStorage(patience.outlast(lambda _: _open(location)), patience)


@contextmanager
def look_into(location: Location) -> Iterator[BaseStorage | None]:
    """A storage as it stands, to read from; None if it isn't there or holds nothing of Optuna's. Nothing is made
    or changed.

    Raises:
        StudyError: the database is of another version of Optuna.
        OSError: it is away.
    """
    patience = Patience(LOOK_SECONDS, location.shown)
    if location.kind != Kind.server and not (location.file.is_file() and location.file.stat().st_size):
        yield None
    elif location.kind == Kind.journal or location.is_proxy:
        yield PatientStorage(patience.outlast(lambda _: _open(location)), patience)
    elif not patience.outlast(lambda _: _holds_studies(location)):
        yield None
    else:
        database = patience.outlast(lambda _: _database(location, write=False))
        try:
            yield PatientStorage(optuna.storages.get_storage(database), patience)
        finally:
            database.remove_session()
            database.engine.dispose()  # closes the files, so that SQLite removes those beside the database


def _holds_studies(location: Location) -> bool:
    engine = create_engine(_url(location), **_engine(location, write=False))
    try:
        tables = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if tables.isdisjoint(OPTUNA_TABLES) and tables and location.kind == Kind.sqlite:
        raise StudyError(
            f"the storage {location.shown} is the database of something else, and is left as it is; give "
            "studies a file of their own"
        )
    return tables >= OPTUNA_TABLES


def _open(location: Location) -> BaseStorage:
    if location.kind == Kind.journal:
        return JournalStorage(Journal(location.file))
    if location.is_proxy:
        from tinysweep.search.storage.proxy import Proxy  # noqa: PLC0415 only there if gRPC is

        host, _, port = location.url.removeprefix(f"{PROXY}://").rpartition(":")
        proxy = Proxy(host, int(port))
        proxy.get_all_studies()  # so that opening it, too, needs an answer
        return proxy
    return Database(_database(location))


def _database(location: Location, write: bool = True) -> RDBStorage:
    # Optuna fills in braces of a URL.
    url = _url(location).replace("{", "{{").replace("}", "}}")
    try:
        return RDBStorage(url, engine_kwargs=_engine(location, write=write), skip_table_creation=not write)
    except RuntimeError as error:  # tables of another version
        raise StudyError(f"the storage {location.shown} can't be used: {first_line(error)}") from error


def _url(location: Location) -> str:
    # A path with a ? or % can't be put into a URL, so connections to files are made by us.
    return location.url if location.kind == Kind.server else "sqlite:///study.db"


def _engine(location: Location, write: bool) -> dict[str, Any]:
    if location.kind == Kind.server:
        url = make_url(location.url)
        timeouts = TIMEOUTS.get(url.get_driver_name(), {})
        unset = {name: value for name, value in timeouts.items() if name not in url.query}
        return {"pool_pre_ping": True, "plugins": [PLUGIN], "connect_args": unset}

    def connect() -> sqlite3.Connection:
        OPENED.add(location.file)
        connection = sqlite3.connect(location.file, timeout=BUSY_SECONDS, check_same_thread=False)
        if write:
            # A write-ahead log lets workers read while another writes, and is whole after a kill without many
            # flushes.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return {"creator": connect, "poolclass": QueuePool, "plugins": [PLUGIN]}
