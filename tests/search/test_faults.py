"""Studies whose workers, node, sweeper and database are killed at random moments, under each engine."""

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mariadb import is_installed
from postgres import binaries

pytestmark = pytest.mark.slow

TRIALS = 4


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("faults")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder of a short name, which Ray's sockets need."""
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("engine", "storage", "struck", "kills"),
    [
        ("joblib", "sqlite", ["worker", "sweeper"], 3),
        ("submitit", "journal", ["worker", "sweeper"], 2),
        ("ray", "postgresql", ["worker", "node", "sweeper", "database"], 4),
        ("joblib", "mariadb", ["worker", "sweeper", "database"], 3),
    ],
)
def test_whatever_is_killed_nothing_that_had_finished_is_lost_or_trained_twice(
    faults: ModuleType,
    short: Path,
    mnist_root: Path,
    engine: str,
    storage: str,
    struck: list[str],
    kills: int,
) -> None:
    if engine in ("ray", "submitit"):
        pytest.importorskip(engine, reason=f"pip install 'tinysweep[clusters]' brings {engine}")
    if storage == "postgresql" and not (binaries() and shutil.which("setpriv")):
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    if storage == "mariadb" and not is_installed():
        pytest.skip("no MariaDB server here: apt-get install --no-install-recommends mariadb-server")
    words = [f"data.root={mnist_root}", "trainer.epochs=10"]
    with faults.bench(engine, storage, words, 7, short, struck) as study:
        ended = study.run(TRIALS, struck, kills, 6.0)
        found = study.judge(TRIALS)
        said = (short / "output.txt").read_text()
    assert found["finished and lost"] == found["trained twice"] == found["hangs"] == 0, said
    assert (found["trained"], found["failed"]) == (TRIALS, 0), said
    assert ended, said
    assert found["kills"] >= 1
