"""Runs of a final in processes of their own: what becomes of them when a worker, or their command, dies."""

import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from test_final import BASELINE_NAME, baseline_config, record_in, write_images

from tinysweep.final.candidates import Job, Stage
from tinysweep.final.runs import train, train_all

GONE = "the command that had started this run is gone"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


def jobs(images: Path, folder: Path, *epochs: int) -> list[Job]:
    """Jobs of so many epochs, in folders 0, 1, …"""
    config = baseline_config(images)
    return [
        Job(
            Stage.test,
            BASELINE_NAME,
            number,
            dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, epochs=count)),
            folder / str(number),
        )
        for number, count in enumerate(epochs)
    ]


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that was killed is gone, or not yet collected
            found += [child] if "loky.backend.popen" in " ".join(child.cmdline()) else []
    return found


def kill_what_trains(folder: Path) -> None:
    lock = str(folder / ".running.lock")
    for worker in workers():
        if any(file.path == lock for file in worker.open_files()):
            worker.kill()


def states(folder: Path, *numbers: int) -> list[str]:
    return [record_in(folder / str(number))["state"] for number in numbers]


def in_a_while(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    """Do something as soon as a condition holds."""

    def wait() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if condition():
                act()
                return
            time.sleep(0.02)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_run_alone(images: Path, tmp_path: Path) -> None:
    ended: dict[str, str | None] = {}
    said: list[str] = []

    def kill_what_trains_0() -> None:
        in_a_while((tmp_path / "0/record.json").exists, lambda: kill_what_trains(tmp_path / "0"))

    def say(line: str) -> None:
        said.append(line)
        shutil.rmtree(tmp_path / "0")  # to see when it has begun anew
        kill_what_trains_0()

    kill_what_trains_0()
    train_all(jobs(images, tmp_path, 100_000, 1, 1), 2, lambda job, why: ended.update({job.folder.name: why}), say)
    assert ended == {"0": "its worker died, killed or out of memory", "1": None, "2": None}
    assert said == ["0: its worker died, killed or out of memory; the run begins anew"]
    assert states(tmp_path, 0, 1, 2) == ["running", "complete", "complete"]


@pytest.mark.slow
def test_ctrl_c_ends_workers_and_closes_their_records(images: Path, tmp_path: Path) -> None:
    both = [tmp_path / name / "record.json" for name in "01"]
    in_a_while(lambda: all(path.exists() for path in both), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train_all(jobs(images, tmp_path, 100_000, 100_000, 1), 2, lambda *_: None, print)
    assert states(tmp_path, 0, 1) == ["interrupted"] * 2
    assert not (tmp_path / "2").exists()
    assert workers() == []


def test_a_run_stops_when_its_command_is_gone(
    monkeypatch: pytest.MonkeyPatch, images: Path, tmp_path: Path
) -> None:
    first, second = jobs(images, tmp_path, 3, 3)
    assert train(first.config, first.folder, 1, parent=-1) == GONE
    assert not first.folder.exists()
    parents = iter([5, -1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    assert train(second.config, second.folder, 1, parent=5) is None
    record = record_in(second.folder)
    assert (record["state"], record["reason"], record["epochs"]) == ("interrupted", GONE, 1)
