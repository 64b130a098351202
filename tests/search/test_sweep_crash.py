"""A sweep that is killed, interrupted, doubled or out of space loses nothing that had finished."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
import pytest

from tinysweep.search.study import status
from tinysweep.search.table import read_trials

pytestmark = pytest.mark.slow

SPACE = ["model.width=range(2,30)", "optimizer.lr=tag(log,interval(0.01,0.3))", "hydra/sweeper/sampler=random"]
TINY = ["data.limit=64", "data.validation=100", "trainer.epochs=2", "trainer.clean_epochs=0", "trainer.threads=1"]
TRAINED = ("complete", "pruned", "failed")


@dataclass
class Running:
    """A command that a copy of the zygote has become."""

    pid: int
    output: Path

    def wait(self, seconds: float = 400) -> int:
        """Its exit status, once it has ended by itself."""
        ending = Path(f"{self.output}.status")
        until = time.monotonic() + seconds
        while not ending.exists() or not ending.read_text():
            assert time.monotonic() < until, f"still running: {self.output.read_text()}"
            time.sleep(0.02)
        return int(ending.read_text())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Zygote:
    def __init__(self, place: Path, mnist_root: Path) -> None:
        self.place, self.root, self.started = place, mnist_root, 0
        script = Path(__file__).with_name("zygote.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *words: str, largest_file: int = 0) -> Running:
        self.started += 1
        output = self.place / f"output-{self.started}.txt"
        every = [
            "-m",
            f"data.root={self.root}",
            "hydra/launcher=basic",
            "hydra.sweeper.study_name=s",
            *TINY,
            *words,
        ]
        request = {"words": every, "place": str(self.place), "output": str(output), "largest_file": largest_file}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Running(int(self.process.stdout.readline()), output)


@pytest.fixture(scope="module")
def zygote_factory() -> Iterator[list[Zygote]]:
    made: list[Zygote] = []
    yield made
    for zygote in made:
        zygote.process.kill()
        zygote.process.wait()


@pytest.fixture
def zygote(zygote_factory: list[Zygote], tmp_path: Path, mnist_root: Path) -> Zygote:
    if not zygote_factory:
        zygote_factory.append(Zygote(tmp_path, mnist_root))
    zygote_factory[0].place = tmp_path
    return zygote_factory[0]


def table(place: Path) -> pd.DataFrame:
    return read_trials(place / "outputs/sweeps/s/trials.csv")


def trials_of(place: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{place}/outputs/sweeps/s/study.db"
    return optuna.load_study(study_name="s", storage=storage).get_trials()


def require_whole(place: Path, n_trials: int) -> pd.DataFrame:
    """The table, after checks that it agrees with the database and that nothing is missing or double."""
    frame, trials = table(place), [trial for trial in trials_of(place) if trial.datetime_start]
    assert list(frame.number) == [trial.number for trial in trials]
    assert list(frame.state) == [status(trial).value for trial in trials]
    trained = frame[frame.state.isin(TRAINED)]
    assert len(trained) == n_trials
    assert trained.number.is_unique
    for number, folder in zip(trained.number, trained.folder, strict=True):
        record = json.loads((place / "outputs/sweeps/s" / folder / "record.json").read_text())
        assert record["config"]["trial"] == number
        assert record["state"] == frame.state[number]
        assert record["metrics"]["validation_accuracy"] == frame.validation_accuracy[number]
    pairs = list(zip(trained["model.width"], trained["optimizer.lr"], strict=True))
    assert len(set(pairs)) == len(pairs)
    return frame


def test_a_sweep_killed_at_random_moments_ends_whole(zygote: Zygote, tmp_path: Path) -> None:
    words = [*SPACE, "hydra.sweeper.n_trials=30", "hydra.sweeper.batch_size=4"]
    draw = random.Random(0)
    finished: Counter[int] = Counter()
    for _ in range(20):
        running = zygote.start(*words)
        time.sleep(draw.uniform(0.1, 1.5))
        running.kill()
        if (tmp_path / "outputs/sweeps/s/study.db").exists():
            finished.update(int(file.parent.name) for file in tmp_path.glob("outputs/sweeps/s/trials/*/model.pt"))
    last = zygote.start(*words)
    assert last.wait() == 0, last.output.read_text()
    frame = require_whole(tmp_path, 30)
    assert set(frame[frame.state == "interrupted"].reason) <= {"its sweeper died"}
    assert [path.name for path in (tmp_path / "outputs/sweeps/s/.sweepers").iterdir()] in ([], ["asking.lock"])
    assert [path for path in tmp_path.glob("outputs/sweeps/s/trials/*") if not any(path.iterdir())] == []
    assert not list(tmp_path.glob("outputs/sweeps/s/trials/*/.running.lock"))
    lost = [
        number for number in finished if frame.set_index("number").state[number] not in (*TRAINED, "interrupted")
    ]
    assert not lost
    again = zygote.start(*words)
    assert again.wait() == 0
    pd.testing.assert_frame_equal(table(tmp_path).head(len(frame)), frame)


def test_a_trial_that_had_finished_when_its_sweeper_died_is_kept(zygote: Zygote, tmp_path: Path) -> None:
    words = ["model.width=2,3", "optimizer.lr=0.1"]
    running = zygote.start(*words, "trainer.epochs=3")
    folder = tmp_path / "outputs/sweeps/s/trials/0"
    while not (folder / "model.pt").exists():
        time.sleep(0.002)
    running.kill()
    before = json.loads((folder / "record.json").read_text())
    assert zygote.start(*words, "trainer.epochs=3").wait() == 0
    frame = table(tmp_path)
    if before["state"] == "complete":
        assert frame.state[0] == "complete"
        assert frame.validation_loss[0] == before["metrics"]["validation_loss"]
    assert (frame.state == "complete").sum() == 2


def test_two_sweepers_share_a_study(zygote: Zygote, tmp_path: Path) -> None:
    words = [*SPACE, "hydra.sweeper.n_trials=24", "hydra.sweeper.batch_size=3"]
    both = [zygote.start(*words), zygote.start(*words)]
    assert [running.wait() for running in both] == [0, 0], [running.output.read_text() for running in both]
    frame = require_whole(tmp_path, 24)
    assert set(frame.state) <= {"complete", "over_budget", "duplicate", "withdrawn"}  # neither closed the other's
    sweepers = Counter(trial.user_attrs["sweeper"] for trial in trials_of(tmp_path))
    assert len(sweepers) == 2


def test_two_sweepers_share_a_grid(zygote: Zygote, tmp_path: Path) -> None:
    words = ["model.width=range(2,14)", "hydra.sweeper.batch_size=2", "optimizer.lr=0.1,0.2"]
    both = [zygote.start(*words), zygote.start(*words)]
    assert [running.wait() for running in both] == [0, 0], [running.output.read_text() for running in both]
    frame = require_whole(tmp_path, 24)
    assert set(frame.state) <= {"complete", "duplicate"}


def test_a_full_disk_is_one_line_and_loses_nothing(zygote: Zygote, tmp_path: Path) -> None:
    # Small models only, so that nothing is refused: how much each trial writes is then about the same.
    words = ["trainer.seed=range(0,1000)", "hydra/sweeper/sampler=random", "model.width=2"]
    words += ["hydra.sweeper.n_trials=24", "hydra.sweeper.batch_size=2", "hydra.sweeper.storage_patience=1"]
    running = zygote.start(*words, "hydra.sweeper.max_failure_rate=1", largest_file=900_000)
    assert running.wait() == 1, running.output.read_text()
    assert re.search(r"^error: the study's storage .* failed: .*; what had finished is kept, ",
                     running.output.read_text(), re.MULTILINE)  # fmt: skip
    assert "Traceback" not in running.output.read_text()
    done = [file.parent.name for file in tmp_path.glob("outputs/sweeps/s/trials/*/model.pt")]
    assert done
    last = zygote.start(*words, "hydra.sweeper.max_failure_rate=1")
    assert last.wait() == 0, last.output.read_text()
    frame = table(tmp_path).set_index("number")
    assert {number: frame.state[int(number)] for number in done if frame.state[int(number)] not in TRAINED} == {}


# ---- with the joblib launcher, whose workers are processes of their own


def start(place: Path, mnist_root: Path, *words: str) -> "subprocess.Popen[str]":
    """A sweep with two workers and, as in a slim container, with no program in reach, such as ps or pgrep."""
    command = [sys.executable, "-m", "tinysweep.commands.train", "-m", f"data.root={mnist_root}", *TINY, *words]
    return subprocess.Popen(
        [*command, "hydra.sweeper.study_name=s", "hydra.launcher.n_jobs=2"],
        cwd=place, env={**os.environ, "PATH": str(place)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(place: Path, pattern: str, seconds: float = 300) -> Path:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := next(place.glob(pattern), None):
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} after {seconds} s")


def workers_of(pid: int) -> list[int]:
    """The joblib workers that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == pid and "LokyProcess" in words:
            found.append(int(folder.name))
    return found


LONG = ["trainer.epochs=200", "model.width=2", "optimizer.lr=0.1,0.11,0.12,0.13"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_killed_worker_costs_no_trial_and_ctrl_c_ends_all_of_them(place: Path, mnist_root: Path) -> None:
    with start(place, mnist_root, *LONG) as process:
        try:
            wait_for(place, "outputs/sweeps/s/trials/*/record.json")
            first = workers_of(process.pid)
            os.kill(first[0], signal.SIGKILL)
            until = time.monotonic() + 300
            while not set(workers_of(process.pid)) - set(first) and time.monotonic() < until:
                time.sleep(0.05)
            assert set(workers_of(process.pid)) - set(first), "no worker was started anew"
            wait_for(place, "outputs/sweeps/s/trials/*/model.pt")
            last = workers_of(process.pid)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted"
    assert "the same command goes on from here" in out
    states = Counter(table(place).state)
    assert states["complete"] >= 1
    assert set(states) <= {"complete", "interrupted"}
    assert not any(Path(f"/proc/{pid}").exists() for pid in (*first, *last))
