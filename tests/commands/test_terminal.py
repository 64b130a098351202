"""When nobody reads on: what only prints ends quietly, what trains goes on to its record."""

import csv
import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_cli import SMALL, only_folder, record_of

import tinysweep
from conftest import Command
from tinysweep.commands import compare, export, final, predict, report, train
from tinysweep.commands import inspect as layers
from tinysweep.terminal import outlasting_readers, outlets

GOES_ON = "nobody reads standard output any more; the work goes on, and what comes of it is in its files\n"
COMMANDS = [module.main for module in (train, layers, compare, export, final, predict, report)]


@pytest.fixture
def unread(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command whose standard output is a pipe that nobody reads."""

    def call(*words: str, main: Callable[[], None] = train.main) -> Any:
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            ended = command(*words, main=main)
            assert sys.stdout is stream
        return ended

    return call


@pytest.mark.parametrize("main", COMMANDS, ids=lambda main: main.__module__)
def test_help_that_nobody_reads_ends_quietly(unread: Command, place: Path, main: Callable[[], None]) -> None:
    ended = unread("--help", main=main)
    assert (ended.status, ended.err) == (141, "")
    assert not list(place.iterdir())


@pytest.mark.parametrize("main", COMMANDS, ids=lambda main: main.__module__)
def test_every_command_tells_the_version_of_tinysweep(command: Command, main: Callable[[], None]) -> None:
    for words in (["--version"], ["model.width=4", "--version"]):
        ended = command(*words, main=main)
        assert (ended.status, ended.out, ended.err) == (0, f"tinysweep {tinysweep.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "main"),
    [
        (["--cfg", "job"], train.main),
        (["--cfg", "hydra"], layers.main),
        (["--info", "defaults"], train.main),
        (["model.width=4"], layers.main),
        (["model.width=400"], layers.main),
    ],
)
def test_what_only_prints_ends_quietly(unread: Command, words: list[str], main: Callable[[], None]) -> None:
    ended = unread(*words, main=main)
    assert (ended.status, ended.err) == (141, "")


@pytest.mark.slow
def test_what_works_goes_on_and_what_reads_its_results_ends_quietly(
    unread: Command, place: Path, mnist_root: Path
) -> None:
    common = [f"data.root={mnist_root}", "data.limit=64", *SMALL]
    ended = unread(*common)
    assert (ended.status, ended.err) == (0, GOES_ON)
    run = only_folder(place, "outputs/runs/*/*-default")
    assert record_of(run)["state"] == "complete"
    assert (run / "curves.png").exists()

    ended = unread("-m", "hydra/launcher=basic", "trainer.seed=0,1", "hydra.sweeper.study_name=two", *common)
    assert (ended.status, ended.err) == (0, GOES_ON)
    study = place / "outputs/sweeps/two"
    with (study / "trials.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["complete", "complete"]
    assert (study / "experiment/winner.yaml").exists()

    ended = unread(str(study), "top=1", "seeds=1", "baseline=null", "runner_up=false", "jobs=1", main=final.main)
    assert (ended.status, ended.err) == (0, GOES_ON)
    assert (study / "final/final.json").exists()

    ended = unread("outputs", main=compare.main)
    assert (ended.status, ended.err) == (141, "")
    assert (place / "outputs/compare.csv").exists()

    picture = Image.new("L", (28, 28))
    picture.paste(255, (12, 4, 16, 24))
    for name in ("one.png", "two.png"):
        picture.save(place / name)
    ended = unread(str(run), "one.png", "two.png", "--as-is", main=predict.main)
    assert (ended.status, ended.err) == (141, "")


def test_a_process_that_nobody_reads_says_nothing_at_its_end_either(place: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "tinysweep.commands.train", "--cfg", "job"]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")
    assert not list(place.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_another_reason_that_output_cannot_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ending, outlets():
            print("a line")
        said = f"standard output can't be written: {os.strerror(errno.ENOSPC).lower()}"
        assert (ending.value.code, capsys.readouterr().err) == (1, f"error: {said}\n")
        os.dup2(os.open("/dev/full", os.O_WRONLY), full.fileno())
        with outlets(), outlasting_readers():
            print("a line", flush=True)
            print("another", flush=True)
        assert capsys.readouterr().err == f"{said}; the work goes on, and what comes of it is in its files\n"
        monkeypatch.undo()


def test_standard_error_that_nobody_reads_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with outlets():
            print("a warning", file=sys.stderr, flush=True)
            print("the result")
        monkeypatch.undo()
    assert capsys.readouterr().out == "the result\n"


def test_a_command_started_without_standard_output_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with outlets():
        print("to nobody", flush=True)
        sys.stdout.flush()
    assert sys.stdout is None


def test_what_is_written_through_arrives_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        print("before ±")
        with outlets():
            print("within ±")
        print("after ±")
        monkeypatch.undo()
    assert (tmp_path / "out").read_text("utf-8") == "before ±\nwithin ±\nafter ±\n"
    assert isinstance(sys.stdout, io.TextIOBase)
