"""Where a study is kept: what a path or URL is, found out before it is opened; a journal that stays readable."""

import json
import sqlite3
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from optuna.storages import JournalStorage

from tinysweep.errors import ConfigError, OutageError, StudyError
from tinysweep.search.storage.database import Database
from tinysweep.search.storage.journal import Journal
from tinysweep.search.storage.location import Kind, locate
from tinysweep.search.storage.opening import look_into, open_storage, storage_errors


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of many kinds, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("notes.txt").write_text("my notes\n")
    Path("notes.log").write_text("12:01 began\n")
    Path("data.json").write_text('{"op": 3}\n')
    Path("folder.db").mkdir()
    Path("empty.txt").touch()
    Path("empty.log").touch()
    with sqlite3.connect("theirs.db") as connection:
        connection.execute("CREATE TABLE invoices (paid)")
    optuna.create_study(study_name="s", storage="sqlite:///old.data")
    optuna.create_study(study_name="s", storage=JournalStorage(Journal(tmp_path / "trials")))
    return tmp_path


@pytest.mark.parametrize(
    ("storage", "kind", "file"),
    [
        (None, Kind.sqlite, "s/study.db"),
        ("new.db", Kind.sqlite, "new.db"),
        ("new.SQLite3", Kind.sqlite, "new.SQLite3"),
        ("new.log", Kind.journal, "new.log"),
        ("~/new.jsonl", Kind.journal, "new.jsonl"),
        ("empty.log", Kind.journal, "empty.log"),
        ("old.data", Kind.sqlite, "old.data"),
        ("trials", Kind.journal, "trials"),
        ("sqlite:///new", Kind.sqlite, "new"),
        ("sqlite:///empty.txt", Kind.sqlite, "empty.txt"),
        ("sqlite:///~/a?b%20.db", Kind.sqlite, "a?b%20.db"),
        ("sqlite+pysqlite:///old.data", Kind.sqlite, "old.data"),
    ],
)
def test_a_file_is_taken_for_what_it_is_and_a_new_one_for_what_its_name_says(
    here: Path, storage: str | None, kind: Kind, file: str
) -> None:
    location = locate(storage, Path("s"))
    assert (location.kind, location.file) == (kind, here / file)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("notes.txt", "notes.txt is neither an SQLite database nor an Optuna journal, and is left as it is"),
        ("notes.log", "notes.log is neither an SQLite database nor an Optuna journal, and is left as it is"),
        ("data.json", "data.json is neither an SQLite database nor an Optuna journal"),
        ("sqlite:///notes.txt", "notes.txt is not an SQLite database, and is left as it is"),
        ("sqlite:///trials", "trials is not an SQLite database"),
        ("folder.db", "folder.db is not a file"),
        ("empty.txt", "its ending must say as what: .db, .sqlite or .sqlite3 for SQLite, .log, .jsonl or "),
        ("new", "its ending must say as what"),
        ("no/new.db", "there is no folder "),
        ("sqlite:///no/new.db", "there is no folder "),
        ("x" * 300 + ".db", "can't be read: File name too long"),
        ("sqlite://", "names no file, and no job could share what is in memory"),
        ("sqlite:///", "lies in memory, which no job could share"),
        ("sqlite:///:memory:", "lies in memory, which no job could share"),
        ("sqlite:///file:x?mode=memory&uri=true", "lies in memory, which no job could share"),
        ("sqlite://new.db", "a file is given as sqlite:///new.db"),
        ("redis://host/1", "redis://… is of no kind that is supported: sqlite:///FILE, postgresql://…, mysql://…"),
        ("http://u:secret@host/x", "http://… is of no kind that is supported: "),
        ("foo://u:secret@host/x", "foo://… is of no kind that is supported: "),
        ("oracle://u:secret@host/x", "oracle://… is of no kind that is supported: "),
        ("mssql+pyodbc://u:secret@host/x", "mssql+pyodbc://… is of no kind that is supported: "),
        ("postgres://u:secret@host/x", "postgres://… is of no kind that is supported; it is written postgresql://…"),
        ("mariadb://u:secret@host/x", "mariadb://… is of no kind that is supported; it is written mysql://…"),
        ("postgresql://u:sec@secret@host/x", "in a password @ is written %40"),
        ("postgresql://u:secret@host", "can't be read as a URL, such as postgresql://user:password@host/name"),
        ("u:secret@host/x", "the storage is an address without its kind; give sqlite:///FILE, "),
        ("postgresql:/u:secret@host/x", "the storage is an address without its kind; give "),
        ("postgresql:u:secret@host/x", "the storage is an address without its kind; give "),
        ("grpc://host", "grpc://… must be grpc://HOST:PORT, where Optuna's run_grpc_proxy_server listens"),
        ("grpc://host:port", "grpc://… must be grpc://HOST:PORT"),
        ("grpc://u:secret@host:13000", "grpc://… must be grpc://HOST:PORT"),
        ("grpc://host:13000/name", "grpc://… must be grpc://HOST:PORT"),
        ("postgresql+nodriver://u:secret@host/x", "is of no kind that is supported"),
        ("postgresql://u:secret/@host:port/x", "postgresql://… can't be read as a URL"),
    ],
)  # fmt: skip
def test_what_is_no_storage_is_refused_at_once_and_left_as_it_is(here: Path, storage: str, said: str) -> None:
    before = tree(here)
    with pytest.raises(StudyError) as caught:
        locate(storage, Path("s"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert tree(here) == before


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("postgresql+psycopg2", "psycopg2", "'tinysweep[postgresql]'"),
        ("postgresql+psycopg", "psycopg", "'psycopg[binary]'"),
        ("postgresql", "psycopg2 psycopg", "'tinysweep[postgresql]'"),
        ("mysql+mysqldb", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql", "pymysql", "'tinysweep[mysql]'"),
        ("mysql", "pymysql MySQLdb", "'tinysweep[mysql]'"),
    ],
)
def test_a_missing_driver_is_named_as_pip_knows_it(
    monkeypatch: pytest.MonkeyPatch, scheme: str, module: str, package: str
) -> None:
    for each in module.split():
        monkeypatch.setitem(sys.modules, each, None)
    with pytest.raises(StudyError) as caught:
        locate(f"{scheme}://someone:secret@host/name", Path())
    said = f"the storage {scheme}://… needs a Python driver, which is not installed: pip install {package}"
    assert str(caught.value) == said


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_where_no_driver_is_named_one_that_is_installed_is_taken(
    monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    for each in ("psycopg2", "psycopg"):
        monkeypatch.setitem(sys.modules, each, None)
    made = ModuleType(driver)
    made.__spec__ = ModuleSpec(driver, None)
    monkeypatch.setitem(sys.modules, driver, made)
    if driver == "psycopg":
        made.__version__ = "3.2.0"  # type: ignore[attr-defined]
    location = locate("postgresql://someone:p%40%2F@host/name", Path())
    assert location.url == f"postgresql+{driver}://someone:p%40%2F@host/name"


def test_a_proxy_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError) as caught:
        locate("grpc://host:13000", Path())
    assert (
        str(caught.value)
        == "the storage grpc://host:13000 needs the package grpcio; pip install 'tinysweep[grpc]'"
    )


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", ModuleType("psycopg2"))
    assert "secret" not in locate("postgresql+psycopg2://someone:/secret/@host/name", Path()).shown
    location = locate(
        "postgresql+psycopg2://someone:secret@host/name?sslpassword=secret&application_name=x", Path()
    )
    assert "secret" not in location.shown
    assert "someone:***@host/name" in location.shown
    assert "application_name=x" in location.shown
    assert "someone:secret@host" in location.url


@pytest.mark.parametrize("storage", ["new.db", "new.log", "empty.log", "sqlite:///empty.txt", None])
def test_looking_into_what_is_not_there_makes_nothing(here: Path, storage: str | None) -> None:
    before = tree(here)
    with look_into(locate(storage, Path("s"))) as found:
        assert found is None
    assert tree(here) == before


@pytest.mark.parametrize("storage", ["old.data", "trials", "wal.db"])
def test_looking_into_a_storage_leaves_it_as_it_is(here: Path, storage: str) -> None:
    made = open_storage("wal.db", here)
    optuna.create_study(study_name="s", storage=made)
    assert isinstance(made.storage, Database)
    made.remove_session()
    made.storage._backend.engine.dispose()
    before = tree(here)
    with look_into(locate(storage, Path("s"))) as found:
        assert found is not None
        assert optuna.get_all_study_names(found) == ["s"]
    assert tree(here) == before


def test_the_database_of_something_else_is_left_as_it_is(here: Path) -> None:
    before = tree(here)
    with pytest.raises(StudyError, match=r"theirs\.db is the database of something else"):
        look_into(locate("theirs.db", Path())).__enter__()
    assert tree(here) == before


# ---- a journal that a process was killed while writing


def journal(folder: Path) -> optuna.Study:
    storage = JournalStorage(Journal(folder / "trials.log"))
    return optuna.create_study(study_name="s", storage=storage, load_if_exists=True)


HALF = b'{"op_code":8,"worker_id":"1-2","trial_id":0,"user_at'


def test_half_a_record_at_the_end_of_a_journal_costs_only_itself(tmp_path: Path) -> None:
    study = journal(tmp_path)
    study.set_user_attr("first", 1)
    with (tmp_path / "trials.log").open("ab") as stream:
        stream.write(HALF)
    study.set_user_attr("second", 2)  # by a process that had read the journal before
    assert study.user_attrs == {"first": 1, "second": 2}
    again = journal(tmp_path)
    again.set_user_attr("third", 3)
    assert study.user_attrs == journal(tmp_path).user_attrs == {"first": 1, "second": 2, "third": 3}
    for line in (tmp_path / "trials.log").read_text().splitlines():
        assert "op_code" in json.loads(line)


def test_a_record_that_was_written_onto_half_of_another_is_read(tmp_path: Path) -> None:
    study = journal(tmp_path)
    study.set_user_attr("first", 1)
    size = (tmp_path / "trials.log").stat().st_size
    study.set_user_attr("second", {"text": 'not {"op_code": either'})
    study.set_user_attr("third", 3)
    content = (tmp_path / "trials.log").read_bytes()
    (tmp_path / "trials.log").write_bytes(content[:size] + HALF + content[size:])
    expected = {"first": 1, "second": {"text": 'not {"op_code": either'}, "third": 3}
    again = optuna.load_study(study_name="s", storage=JournalStorage(Journal(tmp_path / "trials.log")))
    assert again.user_attrs == expected
    assert (tmp_path / "trials.log").stat().st_size == len(content) + len(HALF), "whoever reads it keeps its place"


def test_a_journal_whose_very_first_record_is_half_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "trials.log").write_bytes(HALF)
    assert locate(str(tmp_path / "trials.log"), tmp_path).kind == Kind.journal
    journal(tmp_path).set_user_attr("first", 1)
    assert locate(str(tmp_path / "trials.log"), tmp_path).kind == Kind.journal
    assert journal(tmp_path).user_attrs == {"first": 1}


def test_a_line_that_is_no_record_is_refused_with_its_number(tmp_path: Path) -> None:
    journal(tmp_path)
    content = (tmp_path / "trials.log").read_bytes()
    (tmp_path / "trials.log").write_bytes(content + b"a note\n" + content)
    with pytest.raises(StudyError, match=r"line 2 of the journal .*trials\.log is no record of Optuna's"):
        journal(tmp_path)
    assert (tmp_path / "trials.log").read_bytes() == content + b"a note\n" + content


def test_a_database_that_this_process_has_open_keeps_its_locks(tmp_path: Path) -> None:
    """To open and close its file besides, as a trial in the process of its sweep did when it looked what the file
    is, ends them: the next process to close the database takes itself for the last, and removes what isn't in the
    file yet."""
    study = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    assert locate(None, tmp_path).kind == Kind.sqlite
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM studies').fetchall()"
    subprocess.run([sys.executable, "-c", look, str(tmp_path / "study.db")], check=True)
    assert (tmp_path / "study.db-wal").exists()
    study.set_user_attr("note", 1)
    assert optuna.load_study(study_name="s", storage=open_storage(None, tmp_path)).user_attrs == {"note": 1}


def test_what_is_kept_is_said_only_of_a_study_in_which_something_was_begun(tmp_path: Path) -> None:
    def said() -> str:
        with pytest.raises(StudyError) as caught, storage_errors("here", tmp_path):
            raise OutageError("refused")
        return str(caught.value)

    assert said() == "the study's storage here failed: refused; try again once the storage answers"
    (tmp_path / "trials").mkdir()
    kept = "what had finished is kept, and the same command goes on from there once the storage answers"
    assert said() == f"the study's storage here failed: refused; {kept}"
