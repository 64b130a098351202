"""A study behind Optuna's gRPC proxy: grpc://HOST:PORT."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from conftest import Command
from postgres import free_port
from tinysweep.errors import OutageError
from tinysweep.search.storage.location import Kind, locate
from tinysweep.search.storage.opening import look_into, open_storage

pytest.importorskip("grpc")
pytestmark = pytest.mark.slow

# As docs/search.md says how it is started.
SERVER = """
import sys
from optuna.storages import get_storage, run_grpc_proxy_server
run_grpc_proxy_server(get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        words = f"sqlite:///{self.folder}/behind.db", str(self.port)
        self.process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", SERVER, *words])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


def test_a_proxy_that_is_killed_and_started_again_costs_nothing(server: Server) -> None:
    """By a private interface of Optuna's, whose own channel pauses too long; if it moves, this fails first."""
    location = locate(server.url, Path())
    assert (location.kind, location.shown) == (Kind.server, server.url)
    study = optuna.create_study(
        study_name="s",
        storage=open_storage(server.url, Path(), 60),  # which waits until it has started
        sampler=optuna.samplers.RandomSampler(),
    )
    for value in range(3):
        trial = study.ask()
        trial.suggest_int("width", 1, 9)
        server.kill()
        starting = threading.Timer(1, server.start)
        starting.start()
        study.tell(trial, value)
        starting.join()
    with look_into(location) as found:
        assert found is not None
        assert optuna.get_all_study_names(found) == ["s"]
        trials = optuna.load_study(study_name="s", storage=found).get_trials()
    assert [trial.values for trial in trials] == [[0.0], [1.0], [2.0]]


def test_nobody_at_the_other_end_is_an_outage_that_is_known_within_seconds(server: Server) -> None:
    server.kill()
    began = time.monotonic()
    with pytest.raises(OutageError, match="refused"):
        open_storage(server.url, Path(), 1)
    with pytest.raises(OutageError), look_into(locate(server.url, Path())):
        pass
    assert time.monotonic() - began < 20


def test_a_sweep_over_a_proxy(server: Server, command: Command, mnist_root: Path, place: Path) -> None:
    open_storage(server.url, Path(), 60)
    words = ["data.limit=64", "data.validation=100", "trainer.epochs=1", "trainer.clean_epochs=0"]
    ended = command(
        "-m", *words, f"data.root={mnist_root}", "model.width=2,3", "hydra/launcher=basic",
        "hydra.sweeper.study_name=s", f"hydra.sweeper.storage={server.url}",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    assert "study s: 2 trials trained (2 complete)" in ended.out
    assert (place / "outputs/sweeps/s/trials.csv").exists()
