"""A sweep on PostgreSQL whose server is restarted, away or killed; and its password, which is nobody's to read."""

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest

from conftest import Command
from postgres import PASSWORD, PostgresServer
from tinysweep.commands import compare, final, report
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import Status, Study
from tinysweep.search.table import read_trials

pytestmark = pytest.mark.slow

TINY = ["data.limit=256", "data.validation=100", "trainer.epochs=4", "trainer.clean_epochs=0", "trainer.threads=1"]
GRID = ["model.width=2,3,4,5", "optimizer.lr=0.01,0.02"]
STUDY = ["hydra.sweeper.study_name=s", "hydra.launcher.n_jobs=2"]


def words(root: Path, url: str, *more: str) -> list[str]:
    return ["-m", *TINY, *GRID, *STUDY, f"data.root={root}", f"hydra.sweeper.storage={url}", *more]


def start(place: Path, *typed: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tinysweep", *typed],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_until(true: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


def require_whole(place: Path, url: str) -> pd.DataFrame:
    """The table of a study that has all of its trials, each complete, each once, and as the storage holds them."""
    table = read_trials(place / "outputs/sweeps/s")
    trained = table[table.state.isin(["complete", "pruned", "failed"])]
    assert list(trained.state) == ["complete"] * 8
    assert len(trained[["model.width", "optimizer.lr"]].drop_duplicates()) == 8
    assert len(list((place / "outputs/sweeps/s/trials").glob("*/record.json"))) >= 8
    study = optuna.load_study(study_name="s", storage=open_storage(url, place))
    values = {trial.number: trial.value for trial in study.get_trials() if trial.value is not None}
    assert dict(zip(trained.number, trained.validation_accuracy, strict=True)) == values
    return table


def restart_and_kill(server: PostgresServer) -> None:
    server.restart_after(2)
    time.sleep(2)
    kill(server)


def away(server: PostgresServer) -> None:
    server.restart_after(10)


def kill(server: PostgresServer) -> None:
    server.kill()
    time.sleep(1)
    server.start()


@pytest.mark.parametrize("fault", [restart_and_kill, away])
def test_an_outage_of_the_database_costs_no_trial(
    postgres: PostgresServer,
    database: str,
    place: Path,
    mnist_root: Path,
    fault: Callable[[PostgresServer], None],
) -> None:
    url = postgres.url(database)
    process = start(place, *words(mnist_root, url))
    if fault is away:  # as the first jobs start
        wait_until(lambda: "trials" in postgres.query(database, "\\dt"), process)
        wait_until(lambda: int(postgres.query(database, "SELECT count(*) FROM trials")) >= 1, process)
    else:
        wait_until(lambda: list(place.glob("outputs/sweeps/s/trials/*/record.json")), process)
    fault(postgres)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert list(require_whole(place, url).state) == ["complete"] * 8, said
    assert said.count("is away") <= 2, "once an outage, and not by each worker"
    assert PASSWORD not in said


def test_trials_are_made_and_closed_once_whenever_the_server_dies(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    storage = open_storage(postgres.url(database), tmp_path, 60)
    study = Study(optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler()), tmp_path)
    draw, over = random.Random(1), threading.Event()

    def faults() -> None:
        try:
            for _ in range(6):
                time.sleep(draw.uniform(0.3, 1.5))
                draw.choice([postgres.stop, postgres.kill])()
                time.sleep(draw.choice([0.05, 1]))
                postgres.start()
        finally:
            over.set()

    thread, told = threading.Thread(target=faults), 0
    thread.start()
    while not over.is_set() or told < 20:
        trial = study.ask()
        trial.suggest_int("width", 1, 99)
        trial.report(0.5, 1)
        assert study.close(trial.number, Status.complete, values=[float(told)])
        told += 1
    thread.join()
    assert [trial.values for trial in study.trials()] == [[float(number)] for number in range(told)]


def test_a_database_that_stays_away_ends_a_sweep_in_one_line_and_the_same_command_goes_on(
    postgres: PostgresServer, database: str, place: Path, mnist_root: Path
) -> None:
    url = postgres.url(database)
    typed = words(mnist_root, url, "hydra.sweeper.storage_patience=2")
    process = start(place, *typed)
    wait_until(lambda: list(place.glob("outputs/sweeps/s/trials/*/record.json")), process)
    postgres.stop()
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 1, said
    assert re.search(
        r"^error: the study's storage postgresql.*\*\*\*@.* failed: .*once the storage answers$", said, re.M
    )
    assert "Traceback" not in said
    postgres.start()
    again = start(place, *typed)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    require_whole(place, url)


# ---- the password


def test_the_password_is_nowhere(
    postgres: PostgresServer, database: str, place: Path, mnist_root: Path, command: Command
) -> None:
    url, said = postgres.url(database), ""
    typed = [
        *words(mnist_root, url, "tracker=tensorboard", "hydra.sweeper.max_failure_rate=1"),
        "trainer.batch_size=8",
    ]
    process = start(place, *(word.replace("0.01,0.02", "0.01,1000") for word in typed))
    said += process.communicate(timeout=400)[0]
    assert "failed" in said
    for program, more in [
        (report.main, ["--storage", url]),
        (compare.main, []),
        (final.main, [f"storage={url}", "top=1", "seeds=2", "baseline=null", "trainer.epochs=1", "data.limit=64"]),
    ]:
        ended = command("outputs/sweeps/s", *more, main=program)
        assert ended.status == 0, ended.err
        said += ended.out + ended.err
    for wrong in (
        postgres.url(database, "wrong" + PASSWORD),
        postgres.url("missing"),
        url.replace("%40", "@"),
        url.replace("postgresql+psycopg2", "postgres"),
        url.replace("postgresql+psycopg2://", ""),
        url.replace("%3A", "=:").replace("%7B", "{"),
        url.replace(f":{postgres.port}", ":1"),
    ):
        for key in ("hydra.sweeper.storage", "storage"):
            ended = command("-m", "model.width=2,3", f"{key}={wrong}")
            assert ended.status == 1
            assert ended.err.count("\n") == 1
            said += ended.out + ended.err
    files = [path for path in place.rglob("*") if path.is_file()]
    assert len(files) > 50
    held = {str(path): path.read_bytes().decode(errors="replace") for path in files}
    held |= {"printed": said, "stored": postgres.dump(database)}
    parts = [PASSWORD, url.split(":")[2].split("@")[0], "w%23rd", "w#rd", "%7Bx%7D"]
    assert [(name, part) for name, text in held.items() for part in parts if part in text] == []
