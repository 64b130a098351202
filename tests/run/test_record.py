"""The folder of a run: claimed by one run only, its files whole at any moment, its record true."""

import dataclasses
import json
import os
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
from tinysweep.files import write_whole
from tinysweep.network.budget import Cost, measure
from tinysweep.run import record
from tinysweep.run.record import PACKAGES, Record, RunFolder, State, git_commit
from tinysweep.settings.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    ModelConfig,
    SchedulerConfig,
    SchedulerName,
)
from tinysweep.training.device import Hardware
from tinysweep.training.loop import Epoch, Score

EPOCHS = [Epoch(1, 1.25, 0.1 + 0.2, 0.5, 0.1, 1.0001), Epoch(2, 0.75, 1e-9, 1.0, 0.0, 2.0)]


@pytest.fixture
def cost() -> Cost:
    return measure(ModelConfig(width=4), DataShape(1, 28, 10))


@pytest.fixture
def begun(tmp_path: Path, cost: Cost) -> Record:
    """The record of a run that has just begun."""
    config = Config(
        name="trial",
        data=DataConfig(validation=0.25, limit=None),
        model=ModelConfig(width=4, depth=[1, 2]),
        augmentation=AugmentationConfig(shift_fraction=0.1),
        scheduler=SchedulerConfig(SchedulerName.step, gamma=0.3),
    )
    hardware = Hardware(torch.device("cpu"), bf16=True, threads=3)
    new = Record(RunFolder.claim(tmp_path / "runs" / "trial"), config, cost, hardware, ["model.width=4"])
    new.begin()
    return new


def on_disk(written: Record) -> dict[str, Any]:
    return json.loads(written.folder.record.read_text())  # type: ignore[no-any-return]


# ---- files


@pytest.mark.parametrize("content", ["text: é × \n", b"\x00\xff\r\n", ""])
def test_what_is_written_is_what_was_given(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    path.write_text("something longer that was there before")
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_cut_short_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = tmp_path / "file"
    write_whole(path, "old")
    monkeypatch.setattr({"fsync": os, "replace": Path}[failing], failing, fail)
    with pytest.raises(type(error)):
        write_whole(path, "new, and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_reader_meets_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    contents = [letter * 300_000 for letter in "ab"]
    write_whole(path, contents[0])
    monkeypatch.setattr(os, "fsync", lambda _: None)  # so that there are many writes in a short time

    def keep_writing() -> None:
        for number in range(300):
            write_whole(path, contents[number % 2])

    seen: set[str] = set()
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(keep_writing)
        while not writer.done():
            seen.add(path.read_text())
        writer.result()
    assert seen == set(contents)


def test_writers_at_once_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    contents = [str(number) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_whole(tmp_path / "file", content), contents))
    assert (tmp_path / "file").read_text() in contents
    assert len(list(tmp_path.iterdir())) == 1


# ---- claiming


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "run.1"
    assert [RunFolder.claim(wanted).path.name for _ in range(3)] == ["run.1", "run.1-2", "run.1-3"]


def test_a_folder_that_is_there_but_holds_no_run_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("kept")
    assert RunFolder.claim(tmp_path / "run").path == tmp_path / "run"
    assert (tmp_path / "run" / "notes.txt").read_text() == "kept"


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    count = 16
    barrier = threading.Barrier(count)

    def claim(_: int) -> Path:
        barrier.wait(timeout=30)
        return RunFolder.claim(tmp_path / "run").path

    with ThreadPoolExecutor(count) as pool:
        paths = list(pool.map(claim, range(count)))
    assert len(set(paths)) == count


def test_a_claimed_folder_holds_no_record_until_there_is_a_whole_one(tmp_path: Path, begun: Record) -> None:
    assert not RunFolder.claim(tmp_path / "run").record.exists()
    assert on_disk(begun)["state"] == "running"


# ---- the record


def test_the_first_record_says_what_runs_and_knows_no_result(begun: Record, cost: Cost) -> None:
    written = on_disk(begun)
    assert written["state"] == "running"
    assert set(written["metrics"].values()) == {None}
    assert (written["epochs"], written["finished"], written["reason"]) == (0, None, None)
    assert written["cost"] == {
        "params": cost.params,
        "macs": cost.macs,
        "activation_bytes": cost.activation_bytes,
    }
    assert (written["device"], written["threads"], written["precision"]) == ("cpu", 3, "bf16")
    assert (written["name"], written["overrides"]) == ("trial", ["model.width=4"])
    assert written["config"] == json.loads(json.dumps(dataclasses.asdict(begun.config)))
    assert sorted(written["versions"]) == sorted(PACKAGES)
    assert torch.__version__.startswith(written["versions"]["torch"])  # which may add "+cu130"


def test_each_epoch_is_on_disk_when_it_has_been_taken_in(begun: Record) -> None:
    for number, epoch in enumerate(EPOCHS, 1):
        begun.add(epoch)
        written = on_disk(begun)
        assert written["epochs"] == number
        assert written["metrics"]["train_loss"] == epoch.train_loss
        assert written["metrics"]["validation_loss"] == epoch.validation_loss
        assert written["metrics"]["validation_accuracy"] == epoch.validation_accuracy
        assert len(pd.read_csv(begun.folder.history)) == number
    assert written["train_seconds"] == 3.0


@pytest.mark.parametrize("state", [State.complete, State.failed, State.interrupted])
def test_closing_tells_the_end(begun: Record, state: State) -> None:
    begun.add(EPOCHS[0])
    begun.test = Score(loss=0.0, accuracy=0.0)
    begun.close(state, "a reason")
    written = on_disk(begun)
    assert (written["state"], written["reason"]) == (state.value, "a reason")
    assert (written["metrics"]["test_loss"], written["metrics"]["test_accuracy"]) == (0, 0)
    started, finished = (datetime.fromisoformat(written[key]) for key in ("started", "finished"))
    assert started.tzinfo is not None
    assert started <= finished


def test_the_history_reads_back_typed_and_exact(begun: Record) -> None:
    for epoch in EPOCHS:
        begun.add(epoch)
    table = pd.read_csv(begun.folder.history)
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {
        "epoch": "int64",
        "train_loss": "float64",
        "validation_loss": "float64",
        "validation_accuracy": "float64",
        "lr": "float64",
        "seconds": "float64",
    }
    expected = pd.DataFrame([dataclasses.asdict(epoch) for epoch in EPOCHS])
    pd.testing.assert_frame_equal(table, expected, rtol=1e-14, atol=0)


def test_what_was_not_measured_is_an_empty_number_in_the_history(begun: Record) -> None:
    begun.add(Epoch(1, 1.5, None, None, 0.1, 1.0))
    table = pd.read_csv(begun.folder.history)
    assert str(table.validation_accuracy.dtype) == "float64"
    assert table.validation_loss.isna().all()
    assert on_disk(begun)["metrics"]["validation_loss"] is None


def test_the_configuration_composes_back_to_an_equal_one(begun: Record) -> None:
    loaded = OmegaConf.load(begun.folder.config)
    assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), loaded)) == begun.config


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
        monkeypatch.setattr(record, "__file__", str(file))
        return tmp_path

    return put


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_is_told_and_whether_files_differ(place: Callable[[str], Path]) -> None:
    folder = place("src/tinysweep/run/record.py")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "v1.0")
    commit = git(folder, "rev-parse", "HEAD")
    assert git_commit() == commit
    (folder / "src" / "tinysweep" / "run" / "record.py").write_text("changed")
    assert git_commit() == f"{commit}-dirty"


def test_an_installed_package_has_no_commit(place: Callable[[str], Path]) -> None:
    git(place("project/.venv/lib/python3/site-packages/tinysweep/run/record.py") / "project", "init")
    assert git_commit() is None


def test_a_checkout_without_git_or_commit_has_no_commit(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    git(place("src/tinysweep/run/record.py"), "init")
    assert git_commit() is None, "there is no commit yet"
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_the_commit_is_that_at_the_start_of_the_run(begun: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    before = on_disk(begun)["git_commit"]
    monkeypatch.setattr(record, "git_commit", lambda: "another")
    begun.add(EPOCHS[0])
    assert on_disk(begun)["git_commit"] == before
