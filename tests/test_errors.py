"""What the machine refuses, a file or memory, is one line from every command; our own faults are tracebacks."""

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Command
from tinysweep.commands import compare, export, final, predict, report, train
from tinysweep.commands import inspect as layers
from tinysweep.errors import message_of
from tinysweep.files import write_whole
from tinysweep.terminal import program

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "here/record.json")
FAULTS = [
    (FULL, "error: here/record.json: no space left on device; free some space\n"),
    (OSError(errno.EIO, "Input/output error"), "error: input/output error\n"),
    (
        PermissionError(errno.EACCES, "Permission denied", "x"),
        "error: x: permission denied; work in a folder that",
    ),
    (MemoryError(), "error: memory is used up (MemoryError); make the model or trainer.batch_size smaller\n"),
    (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        "error: memory is used up (CUDA out of",
    ),
]


@pytest.mark.parametrize(("fault", "line"), FAULTS)
def test_what_the_machine_refuses_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, fault: Exception, line: str
) -> None:
    def refused(*_: object) -> None:
        raise fault

    monkeypatch.setattr("tinysweep.run.run.run", refused)
    for main in (train.main, lambda: program(argparse.ArgumentParser(), refused)):
        ended = command(main=main)
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert ended.err.startswith(line)


def test_an_allocation_that_fails_is_known_by_what_torch_says_of_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48)
    assert "memory is used up" in str(message_of(caught.value))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), TypeError("a bug"), BrokenPipeError(errno.EPIPE, "x")])
def test_an_error_of_another_kind_is_not_the_machines(error: Exception) -> None:
    assert message_of(error) is None


LONG = "a" * 300


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (train.main, [f"name={LONG}"]),
        (train.main, ["-m", "trainer.seed=0,1", f"hydra.sweeper.study_name={LONG}"]),
        (layers.main, [f"name={LONG}"]),
        *((module.main, [LONG]) for module in (compare, export, final, report)),
        (predict.main, [LONG, "x.png"]),
    ],
)
def test_a_name_that_is_too_long_is_said_to_be(
    command: Command, place: Path, main: Callable[[], None], words: list[str]
) -> None:
    ended = command(*words, main=main)
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "too long" in ended.err.lower()
    assert not [path for path in place.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("main", "words"), [(train.main, []), (train.main, ["-m", "trainer.seed=0,1"]), (layers.main, [])]
)
def test_a_file_where_a_folder_must_be_is_said_to_be(
    command: Command, place: Path, main: Callable[[], None], words: list[str]
) -> None:
    (place / "outputs").write_text("mine")
    ended = command(*words, main=main)
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "a part of this path is a file and must be a folder" in ended.err
    assert (place / "outputs").read_text() == "mine"


def test_a_file_that_cant_be_written_whole_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "table.csv").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/table\.csv'$"):
        write_whole(tmp_path / "table.csv", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "before"


INSTALLED = [str(Path(sys.executable).with_name(name)) for name in ("tinysweep", "tinysweep-compare")]


@pytest.mark.slow
@pytest.mark.parametrize("words", [[INSTALLED[0]], [sys.executable, "-m", "tinysweep"], [INSTALLED[1], "missing"]])
def test_ctrl_c_at_any_moment_of_a_start_ends_it_with_one_word(place: Path, words: list[str]) -> None:
    for moment in np.random.default_rng(0).uniform(0.1, 0.5, 4):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        if "missing" in err:
            continue  # it was over
        if process.returncode == -signal.SIGINT and (
            f"{os.sep}tinysweep{os.sep}" not in err or "import signal" in err
        ):
            continue  # Python itself was still starting
        assert (process.returncode, err) == (130, "interrupted\n")
        assert not list(place.iterdir())
