"""What hydra.sweeper.storage names, found out before anything is opened: what isn't ours is never written into."""

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from tinysweep.errors import StudyError, require_package, without_password


class Kind(StrEnum):
    sqlite = "an SQLite database"
    journal = "an Optuna journal"
    server = "a database server"


ENDINGS = dict.fromkeys((".db", ".sqlite", ".sqlite3"), Kind.sqlite) | dict.fromkeys(
    (".log", ".jsonl", ".journal"), Kind.journal
)
SQLITE_BEGINS = b"SQLite format 3\0"
JOURNAL_BEGINS = re.compile(rb'\{\s*"op_code"\s*:')
# Databases that SQLite has opened in this process: to open and close one besides would end the locks that SQLite
# holds, and whoever closes it next would take itself for the last, and remove what isn't in the file yet.
OPENED: set[Path] = set()
SUPPORTED = "sqlite:///FILE, postgresql://…, mysql://…, grpc://HOST:PORT, or the path of a file"
# What Optuna writes to, of all that SQLAlchemy knows, and the drivers of which one is taken where none is named:
# the module of each, SQLAlchemy's name of it, and pip's.
SERVERS = {
    "postgresql": (
        ("psycopg2", "psycopg2", "'tinysweep[postgresql]'"),
        ("psycopg", "psycopg", "'psycopg[binary]'"),
    ),
    "mysql": (("pymysql", "pymysql", "'tinysweep[mysql]'"), ("MySQLdb", "mysqldb", "mysqlclient")),
}
MEANT = {"postgres": "postgresql", "mariadb": "mysql"}
PROXY = "grpc"
# An address of a server whose scheme was left out or is half written; its password must not be shown.
_ADDRESS = re.compile(r"[^/\s]*:/?[^\s]*:[^\s]*@|[^/:@\s]+:[^\s]*@")
# What pip calls other drivers that SQLAlchemy imports by another name.
PACKAGES = {"mysql": "mysql-connector-python"}


@dataclass(frozen=True)
class Location:
    """Where a study is kept: `file` for SQLite and a journal, `url` for a server. `shown` is fit to be printed and
    stored, as it has no password in it."""

    kind: Kind
    shown: str
    file: Path = Path()
    url: str = ""

    @property
    def is_proxy(self) -> bool:
        return self.url.startswith(f"{PROXY}://")

    @property
    def from_anywhere(self) -> str:
        """The storage as it is found from any folder; not to be shown."""
        return self.url or (f"sqlite:///{self.file}" if self.kind == Kind.sqlite else str(self.file))


def locate(storage: str | None, folder: Path, *, there: bool = False) -> Location:
    """The location of a study's storage: study.db in its folder, a file by its path or as sqlite:///FILE, or a
    server by its URL. With `there`, a file must be there already.

    Raises:
        StudyError: a kind that isn't supported or has no driver here, or a file that is something else.
    """
    if storage is None:
        return _file(str(folder / "study.db"), folder / "study.db", Kind.sqlite)
    scheme, separator, rest = storage.partition("://")
    if not separator and _ADDRESS.match(storage) and not Path(storage).exists():
        raise StudyError(f"the storage is an address without its kind; give {SUPPORTED}")
    if not separator:
        found = _file(storage, Path(storage).expanduser())
    elif scheme.partition("+")[0] == "sqlite":
        if not rest.startswith("/"):
            form = f"; a file is given as sqlite:///{rest}" if rest else ""
            raise StudyError(
                f"the storage {storage} names no file, and no job could share what is in memory{form}"
            )
        name = rest[1:]
        if not name or name.startswith((":memory:", "file:")):
            raise StudyError(
                f"the storage {storage} lies in memory, which no job could share; give a file: sqlite:///studies.db"
            )
        found = _file(storage, Path(name).expanduser(), Kind.sqlite)
    else:
        return _server(storage, scheme)
    if there and not found.file.exists():
        raise StudyError(f"the storage {storage}: no such file; give the storage that the study was made with")
    if not found.file.parent.is_dir():
        raise StudyError(f"the storage {storage}: there is no folder {found.file.parent}; make it first")
    return found


def _file(shown: str, file: Path, wanted: Kind | None = None) -> Location:
    """A file by what it is; one that isn't there, or is empty, by `wanted` or by its ending."""
    try:
        if file.exists() and not file.is_file():
            raise StudyError(f"the storage {shown} is not a file; give the path of one, or another storage")
        head = _head(file)
    except OSError as error:
        raise StudyError(f"the storage {shown} can't be read: {error.strerror}") from error
    kind = wanted or ENDINGS.get(file.suffix.lower())
    if head.startswith(SQLITE_BEGINS):
        kind = Kind.sqlite
    elif head:
        kind = Kind.journal if JOURNAL_BEGINS.match(head) else None
    elif kind is None:
        raise StudyError(
            f"the storage {shown} is to be made, and its ending must say as what: .db, .sqlite or .sqlite3 for "
            "SQLite, .log, .jsonl or .journal for an Optuna journal"
        )
    if kind is None or (wanted and kind != wanted):
        isnt = f"not {wanted}" if wanted else f"neither {Kind.sqlite} nor {Kind.journal}"
        raise StudyError(f"the storage {shown} is {isnt}, and is left as it is; give another file")
    return Location(kind, shown, file.resolve())


def _head(file: Path) -> bytes:
    """How a file begins; nothing if it isn't there."""
    if not file.exists():
        return b""
    if file.resolve() in OPENED:
        return SQLITE_BEGINS
    with file.open("rb") as stream:
        return stream.read(4096).lstrip()  # half a record may have been blanked


def _server(storage: str, scheme: str) -> Location:
    kind = scheme.partition("+")[0]
    if kind == PROXY:
        return _proxy(storage)
    if kind not in SERVERS:
        known = f"; it is written {MEANT[kind]}://…" if kind in MEANT else f": {SUPPORTED}"
        raise StudyError(f"the storage {scheme}://… is of no kind that is supported{known}")
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):  # whose text may hold the password
        url = None
    # Of an @ in a password SQLAlchemy takes what follows for a part of the host.
    if url is None or not url.database or "@" in f"{url.host}{url.database}":
        raise StudyError(
            f"the storage {scheme}://… can't be read as a URL, such as {scheme}://user:password@host/name; in a "
            "password @ is written %40, : %3A, and / %2F"
        )
    url = _with_driver(url, kind, scheme)
    return Location(Kind.server, without_password(storage), url=url.render_as_string(hide_password=False))


def _with_driver(url: URL, kind: str, scheme: str) -> URL:
    """An address that names a driver which is installed."""
    drivers = SERVERS[kind]
    if url.drivername == kind:
        found = [driver for module, driver, _ in drivers if find_spec(module)]
        url = url.set(drivername=f"{kind}+{(found or [drivers[0][1]])[0]}")
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise StudyError(f"the storage {scheme}://… is of no kind that is supported: {SUPPORTED}") from None
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        packages = PACKAGES | {module: package for module, _, package in drivers}
        raise StudyError(
            f"the storage {scheme}://… needs a Python driver, which is not installed: pip install "
            f"{packages.get(missing, missing)}"
        ) from error
    return url


def _proxy(storage: str) -> Location:
    """Optuna's proxy of a storage, which a process serves."""
    if not re.fullmatch(rf"{PROXY}://([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{{1,5}}/?", storage):
        raise StudyError(
            f"the storage {PROXY}://… must be {PROXY}://HOST:PORT, where Optuna's run_grpc_proxy_server listens; "
            "it takes no user, password or name"
        )
    require_package(f"the storage {storage}", "grpcio", "grpc", "grpc")
    return Location(Kind.server, storage.rstrip("/"), url=storage.rstrip("/"))
