"""The folder of a run: claimed by one run only, its files whole at any moment, its record true."""

import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from tinysweep.data.catalogue import DataShape
from tinysweep.network.budget import Cost, measure
from tinysweep.run import record as module
from tinysweep.run.record import PACKAGES, Record, RunFolder, State, close_left_record, git_commit, read_record
from tinysweep.settings.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    DropoutConfig,
    DropoutName,
    ModelConfig,
)
from tinysweep.training.device import Hardware
from tinysweep.training.loop import Epoch
from tinysweep.training.score import Score

EPOCHS = [Epoch(1, 1.25, 0.1 + 0.2, 0.5, 0.1, 1.0001), Epoch(2, 0.75, 1e-9, 1.0, 0.0, 2.0)]


@pytest.fixture
def cost() -> Cost:
    return measure(ModelConfig(width=4), DataShape(1, 28, 10))


@pytest.fixture
def begun(cost: Cost) -> Record:
    config = Config(
        name="trial",
        data=DataConfig(validation=0.25, limit=None),
        model=ModelConfig(width=4, depth=[1, 2]),
        augmentation=AugmentationConfig(shift_fraction=0.1),
    )
    return Record.begin(config, cost, Hardware(torch.device("cpu"), bf16=True, threads=3), ["model.width=4"])


# ---- the folder


def test_a_folder_is_claimed_once_and_what_lies_in_it_stays(tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "run.1"
    wanted.mkdir(parents=True)
    (wanted / "notes.txt").write_text("kept")
    folders = [RunFolder.claim(wanted) for _ in range(3)]
    assert [folder.path.name for folder in folders] == ["run.1", "run.1-2", "run.1-3"]
    assert (wanted / "notes.txt").read_text() == "kept"
    assert not folders[0].record.exists(), "until there is a whole one"


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    count = 16
    barrier = threading.Barrier(count)

    def claim(_: int) -> Path:
        barrier.wait(timeout=30)
        return RunFolder.claim(tmp_path / "run").path

    with ThreadPoolExecutor(count) as pool:
        assert len(set(pool.map(claim, range(count)))) == count


def test_the_history_and_the_configuration_read_back_typed_and_exact(tmp_path: Path, begun: Record) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(begun.config)
    loaded = OmegaConf.load(folder.config)
    assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), loaded)) == begun.config
    folder.write(begun, EPOCHS)
    expected = pd.DataFrame([dataclasses.asdict(epoch) for epoch in EPOCHS]).drop(columns="further").dropna(axis=1)
    pd.testing.assert_frame_equal(pd.read_csv(folder.history), expected, rtol=1e-14, atol=0)
    further = [
        dataclasses.replace(epoch, further={"validation_mine": 0.1 + 0.2 * epoch.epoch}) for epoch in EPOCHS
    ]
    folder.write(begun, further)
    assert folder.read_history() == further
    folder.write(begun, [Epoch(1, 1.5, None, None, 0.1, 1.0)])
    table = pd.read_csv(folder.history)
    assert str(table.validation_accuracy.dtype) == "float64", "empty is a number"
    assert table.validation_loss.isna().all()


RUNGS = [
    Epoch(1, 2.0, 0.1 + 0.2, 0.25, 0.0, 0.125, epochs=1),
    Epoch(1, 1.5, 9.0, 0.0, 0.1, 0.25, epochs=3),
    Epoch(2, 1.0, None, None, 1e-05, 0.5, epochs=3),
    Epoch(3, 0.5, 1 / 3, 0.75, 0.0, 1.0, epochs=3),
    Epoch(1, 1.75, 7.0, 0.1, 0.2, 2.0, epochs=9),
]


@pytest.mark.parametrize("history", [[], EPOCHS, *(RUNGS[:count] for count in range(1, 6))])
def test_a_history_reads_back_to_the_bit_and_names_rungs_only_where_there_are(
    tmp_path: Path, begun: Record, history: list[Epoch]
) -> None:
    folder = RunFolder(tmp_path)
    folder.write(begun, history)
    assert folder.read_history() == history
    assert ("epochs" in folder.history.read_text().splitlines()[0]) == (
        history in [RUNGS[:n] for n in range(1, 6)]
    )


@pytest.mark.parametrize("text", [None, "", "epoch,train_loss\n1,x\n", "epoch,train_loss\n1,0.5\n", "a\n1\n"])
def test_a_history_that_is_missing_or_damaged_has_no_epochs(tmp_path: Path, text: str | None) -> None:
    folder = RunFolder(tmp_path)
    if text is not None:
        folder.history.write_text(text)
    assert folder.read_history() == []


# ---- the record


@pytest.mark.parametrize(("count", "last"), [(0, None), (1, 0), (3, 0), (4, 3), (5, 3)])
def test_the_record_of_a_run_with_rungs_has_the_figures_of_the_last_whole_one_and_the_seconds_of_all(
    begun: Record, count: int, last: int | None
) -> None:
    begun.take_epochs(RUNGS[:count])
    told = None if last is None else RUNGS[last]
    assert begun.epochs == (told.epochs if told else 0)
    assert begun.metrics["validation_loss"] == (told.validation_loss if told else None)
    assert begun.metrics["train_loss"] == (told.train_loss if told else None)
    assert begun.train_seconds == pytest.approx(sum(epoch.seconds for epoch in RUNGS[:count]))


def test_the_first_record_says_what_runs_and_knows_no_result(tmp_path: Path, begun: Record, cost: Cost) -> None:
    RunFolder(tmp_path).write(begun, [])
    written: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())
    assert list(written) == [
        "state", "reason", "error", "name", "metrics", "cost", "epochs", "seed", "train_seconds", "started",
        "finished", "device", "threads", "precision", "python", "versions", "git_commit", "overrides", "tracked",
        "config",
    ]  # fmt: skip
    assert set(written["metrics"].values()) == {None}
    assert (written["state"], written["epochs"], written["finished"], written["reason"]) == (
        "running",
        0,
        None,
        None,
    )
    names = ("params", "macs", "activation_bytes")
    assert written["cost"] == {name: getattr(cost, name) for name in names}
    assert (written["device"], written["threads"], written["precision"]) == ("cpu", 3, "bf16")
    assert (written["name"], written["overrides"]) == ("trial", ["model.width=4"])
    assert written["config"] == json.loads(json.dumps(dataclasses.asdict(begun.config)))
    assert sorted(written["versions"]) == sorted(PACKAGES)
    assert torch.__version__.startswith(written["versions"]["torch"])  # which may add "+cu130"


@pytest.mark.parametrize("state", [State.complete, State.failed, State.interrupted])
def test_a_record_reads_back_as_what_was_written(tmp_path: Path, begun: Record, state: State) -> None:
    folder = RunFolder(tmp_path)
    for number in range(3):
        folder.write(begun, EPOCHS[:number])
        read = Record.read(folder.record)
        assert read == begun
        assert read.epochs == number == len(pd.read_csv(folder.history))
        last = EPOCHS[number - 1] if number else None
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            assert read.metrics[name] == (getattr(last, name) if last else None)
    assert begun.train_seconds == 3.0
    begun.take_test(Score(loss=0.0, accuracy=0.0))
    begun.close(state, "a reason", OSError("no space") if state == State.failed else None)
    folder.write(begun, EPOCHS)
    read = Record.read(folder.record)
    assert read == begun
    assert (read.state, read.reason, read.error) == (state, "a reason", "OSError" if state == "failed" else None)
    assert (read.metrics["test_loss"], read.metrics["test_accuracy"]) == (0, 0)
    started, finished = (datetime.fromisoformat(moment or "") for moment in (read.started, read.finished))
    assert started.tzinfo is not None
    assert started <= finished


def test_a_record_names_packages_that_every_installation_has() -> None:
    every = importlib.metadata.requires("tinysweep") or []
    needed = {re.split(r"[^\w-]", each)[0] for each in every if "extra ==" not in each}
    assert set(PACKAGES) - {"tinysweep"} <= needed


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path, begun: Record) -> None:
    RunFolder(tmp_path).write(begun, EPOCHS)
    held = json.loads((tmp_path / "record.json").read_text())
    del held["error"]
    held["mood"] = "good"
    held["config"]["model"] |= {"dropout": 0.3, "dropout_at": "head"}
    (tmp_path / "record.json").write_text(json.dumps(held))
    config = dataclasses.replace(begun.config, dropout=DropoutConfig(DropoutName.head, 0.3))
    assert Record.read(tmp_path / "record.json") == dataclasses.replace(begun, config=config)


def test_the_record_of_a_run_whose_process_is_gone_is_closed(tmp_path: Path, begun: Record) -> None:
    folder = RunFolder(tmp_path)
    close_left_record(tmp_path, State.failed, "there is none")
    assert read_record(tmp_path) is None
    folder.write(begun, EPOCHS)
    with folder.hold():
        close_left_record(tmp_path, State.failed, "somebody is at work on it")
        assert Record.read(folder.record) == begun
    close_left_record(tmp_path, State.failed, "its worker died", "OSError")
    closed = Record.read(folder.record)
    assert (closed.state, closed.reason, closed.error) == ("failed", "its worker died", "OSError")
    assert (closed.epochs, closed.config) == (2, begun.config)
    close_left_record(tmp_path, State.interrupted, "it is closed already")
    assert Record.read(folder.record) == closed


def test_who_holds_a_run_may_do_so_once_more_and_nobody_else_until_all_is_over(tmp_path: Path) -> None:
    folder, seen = RunFolder(tmp_path), list[bool]()

    def look() -> None:
        seen.append(folder.is_held)

    def elsewhere() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    with folder.hold():
        with folder.hold():
            elsewhere()
        elsewhere()
    elsewhere()
    assert seen == [True, True, False]
    assert list(tmp_path.iterdir()) == []


# ---- the commit


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes the module believe that it lies at a path below a folder; returns that folder."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)

    def put(path: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text("")
        monkeypatch.setattr(module, "__file__", str(file))
        return tmp_path

    return put


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_is_told_and_whether_files_differ(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place("src/tinysweep/run/record.py")
    git(folder, "init")
    assert git_commit() is None, "there is no commit yet"
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "v1.0")
    commit = git(folder, "rev-parse", "HEAD")
    assert git_commit() == commit
    (folder / "src" / "tinysweep" / "run" / "record.py").write_text("changed")
    assert git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None, "there is no git"


def test_an_installed_package_has_no_commit(place: Callable[[str], Path]) -> None:
    git(place("project/.venv/lib/python3/site-packages/tinysweep/run/record.py") / "project", "init")
    assert git_commit() is None
