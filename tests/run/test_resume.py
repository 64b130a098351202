"""A run that was cut short goes on, wherever that was, to what it would have left if it hadn't been."""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock
from test_run import change, names_in, record_in, require_same, write_part

from conftest import Command, made_images
from tinysweep.commands.inspect import main as inspect
from tinysweep.console import Progress
from tinysweep.errors import AbandonedError, BudgetError, ConfigError, DataError, TinysweepError
from tinysweep.run.checkpoint import Checkpoint, load
from tinysweep.run.record import Record, RunFolder
from tinysweep.run.run import go_on, resume_command, run
from tinysweep.settings.compose import compose
from tinysweep.settings.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    DataName,
    DropoutConfig,
    DropoutName,
    ModelConfig,
    Precision,
    TrainerConfig,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run of 4 epochs on 36 images, with all that is random, and an average."""
    images = tmp_path_factory.mktemp("data") / "images"
    write_part(images / "train", made_images(48, 3, 12))
    write_part(images / "test", made_images(15, 3, 12, seed=1))
    return Config(
        name="trial",
        data=DataConfig(DataName.image_folder, root=str(images), validation=12, image_size=12),
        model=ModelConfig(width=4, depth=[1, 1], stem_kernel=3),
        dropout=DropoutConfig(DropoutName.head, 0.3),
        augmentation=AugmentationConfig(shift_fraction=0.1, elastic_pixels=0.5, erase_probability=0.5),
        trainer=TrainerConfig(epochs=4, batch_size=12, threads=1, precision=Precision.fp32, ema_decay=0.5),
    )


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "trial"
    run(config, folder, ["words=typed"])
    return folder


PLACES = {"epoch": (Progress, "print"), "keep": (Checkpoint, "keep"), "write": (RunFolder, "write"),
          "test": (Record, "take_test")}  # fmt: skip


@contextmanager
def interruption(place: str, call: int, error: BaseException) -> Iterator[None]:
    """Let a part of a run raise at its nth call, once what it is to do has been done, and see it passed on."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), list[int]()

    def failing(*arguments: Any) -> None:
        original(*arguments)
        calls.append(1)
        if len(calls) == call:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(type(error)):
            yield


def cut_short(config: Config, folder: Path) -> Path:
    """The folder of a run that was interrupted after its second epoch."""
    with interruption("epoch", 2, KeyboardInterrupt()):
        run(config, folder, ["words=typed"])
    return folder


@pytest.fixture(scope="module")
def stopped(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run interrupted after its second epoch; to be copied by who changes it."""
    return cut_short(config, tmp_path_factory.mktemp("stopped") / "trial")


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "trial"))


# ---- to the same bits


@pytest.mark.parametrize(
    ("place", "call", "epochs"),
    [("epoch", 1, 1), ("keep", 2, 2), ("write", 4, 3), ("epoch", 4, 4), ("test", 1, 4)],
)
def test_a_run_cut_short_anywhere_goes_on_to_the_same_bits(
    config: Config, whole: Path, tmp_path: Path, place: str, call: int, epochs: int
) -> None:
    folder, fault = tmp_path / "trial", RuntimeError("a GPU fell off the bus")
    error = KeyboardInterrupt() if epochs % 2 else fault
    with interruption(place, call, error):
        run(config, folder, ["words=typed"])
    record = record_in(folder)
    assert record["state"] == ("failed" if error is fault else "interrupted")
    assert record["epochs"] == len(pd.read_csv(folder / "history.csv")) == epochs
    load(folder)
    assert go_on(folder).state == "complete"
    require_same(folder, whole)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_what_is_on_the_disk(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy is what `kill -9` would have left at that moment."""
    copies: list[Path] = []

    def copying(action: Callable[..., None]) -> Callable[..., None]:
        def copied(*arguments: Any) -> None:
            action(*arguments)
            copies.append(Path(shutil.copytree(tmp_path / "trial", tmp_path / str(len(copies)))))

        return copied

    for owner, name in ((RunFolder, "write"), (Checkpoint, "write")):
        monkeypatch.setattr(owner, name, copying(getattr(owner, name)))
    run(config, tmp_path / "trial", ["words=typed"])
    monkeypatch.undo()
    left = [record_in(folder)["state"] for folder in copies]
    assert left == ["running"] * (len(left) - 1) + ["complete"]
    assert len({record_in(folder)["epochs"] for folder in copies}) == 5
    for folder in copies[:-1]:
        go_on(folder)
        require_same(folder, whole)


def test_a_run_may_be_cut_short_as_often_as_it_likes(whole: Path, copied: Path) -> None:
    for epochs in (3, 4):
        with interruption("epoch", 1, KeyboardInterrupt()):
            go_on(copied)
        assert record_in(copied)["epochs"] == epochs
    go_on(copied)
    require_same(copied, whole)


def test_a_run_goes_on_with_as_many_threads_as_it_was_begun_with(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut_short(change(config, "trainer", threads=0), tmp_path / "trial")
    begun = record_in(folder)
    monkeypatch.setattr("tinysweep.training.device.usable_cores", lambda: begun["threads"] + 3)
    assert go_on(folder).threads == begun["threads"]
    assert record_in(folder)["config"] == begun["config"]


def test_a_run_of_a_sweep_keeps_no_checkpoint(config: Config, tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise AbandonedError("the sweeper is gone")

    run(config, tmp_path / "trial", [], stop)
    assert names_in(tmp_path / "trial") == ["config.yaml", "history.csv", "record.json"]
    with pytest.raises(DataError, match=r"has no model\.pt to go on from"):
        go_on(tmp_path / "trial")


# ---- what is refused, and left as it is


def edit_record(folder: Path, **changes: Any) -> None:
    record = record_in(folder)
    for key, value in changes.items():
        section, _, leaf = key.rpartition("__")
        node = record
        for name in filter(None, section.split("__")):
            node = node[name]
        node[leaf] = value
    (folder / "record.json").write_text(json.dumps(record))


def spoil(path: Path) -> None:
    """Change a byte of a weight."""
    content, weight = bytearray(path.read_bytes()), load(path).state_dict()["1.0.0.weight"]
    place = content.index(weight.numpy().tobytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


REFUSALS: dict[str, tuple[Callable[[Path], object], type[TinysweepError], str]] = {
    "complete": (lambda f: edit_record(f, state="complete"), ConfigError, "this run is complete"),
    "a trial": (lambda f: edit_record(f, config__trial=3), ConfigError, "is a trial of a study"),
    "torch": (lambda f: edit_record(f, versions__torch="1.0"), ConfigError, r"begun with torch 1\.0, and this is"),
    "tinysweep": (lambda f: edit_record(f, versions__tinysweep="9"), ConfigError, "begun with tinysweep 9, and"),
    "device": (lambda f: edit_record(f, device="cuda"), ConfigError, "begun on cuda in fp32, and this is cpu in"),
    "precision": (lambda f: edit_record(f, precision="bf16"), ConfigError, "begun on cpu in bf16, and this is"),
    "edited": (lambda f: edit_record(f, config__trainer__epochs=9), ConfigError, "doesn't hold the configuration"),
    "setting": (lambda f: edit_record(f, config__trainer__epochs=0), DataError, "is damaged .*must lie in"),
    "budget": (lambda f: edit_record(f, config__budget__params=20), BudgetError, "over budget"),
    "no record": (lambda f: (f / "record.json").unlink(), ConfigError, "not the folder of a run"),
    "no folder": (shutil.rmtree, ConfigError, "no such folder; give that of a run"),
    "record cut off": (
        lambda f: (f / "record.json").write_text((f / "record.json").read_text()[:200]),
        DataError,
        r"record\.json is damaged",
    ),
    "model gone": (lambda f: (f / "model.pt").unlink(), DataError, r"has no model\.pt to go on from"),
    "model cut off": (
        lambda f: (f / "model.pt").write_bytes((f / "model.pt").read_bytes()[:9000]),
        DataError,
        r"model\.pt is not a model saved by tinysweep",
    ),
    "a byte of it": (lambda f: spoil(f / "model.pt"), DataError, r"is not a model saved by tiny.* is damaged\)"),
    "a finished model": (
        lambda f: torch.save({"weights": {}}, f / "model.pt"),
        DataError,
        "holds a model, but nothing to go on from",
    ),
    "nonsense": (
        lambda f: torch.save({"training": {"state": 3}}, f / "model.pt"), DataError, r"model\.pt is damaged"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_can_t_go_on_to_the_same_bits_is_refused_and_left_as_it_is(copied: Path, case: str) -> None:
    spoiled, kind, message = REFUSALS[case]
    spoiled(copied)
    before = {file.name: file.read_bytes() for file in copied.glob("*")}
    with pytest.raises(kind, match=message) as refusal:
        go_on(copied)
    assert case == "budget" or "\n" not in str(refusal.value)
    assert {file.name: file.read_bytes() for file in copied.glob("*")} == before


def test_other_images_are_refused(config: Config, tmp_path: Path) -> None:
    images = Path(shutil.copytree(config.data.root, tmp_path / "images"))
    folder = cut_short(change(config, "data", root=str(images)), tmp_path / "trial")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (images / "train" / "a" / "000.png").write_bytes((images / "train" / "b" / "001.png").read_bytes())
    with pytest.raises(DataError, match=rf"{images} holds .*, not the images of"):
        go_on(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_run_that_is_going_on_is_left_alone(copied: Path) -> None:
    with (
        FileLock(copied / ".running.lock"),
        pytest.raises(ConfigError, match="this run is going on in another process"),
    ):
        go_on(copied)


# ---- the command


def test_the_command_that_is_printed_goes_on_and_leaves_nothing_else(
    config: Config, whole: Path, command: Command, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_short(config, place / "my runs, 'old' (1)" / "trial")
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("to go on: "))
    words = shlex.split(line.removeprefix("to go on: "))
    assert words[0] == "tinysweep"
    ended = command(*words[1:])
    assert (ended.status, ended.err) == (0, "")
    assert "goes on after epoch 2 of 4" in ended.out
    assert "epoch 2/4" not in ended.out
    assert "epoch 3/4" in ended.out
    require_same(folder, whole)
    assert names_in(place) == ["my runs, 'old' (1)"]
    again = command(*words[1:])
    assert again.status == 1
    assert again.err == f"error: {folder}: this run is complete; a longer one is another run\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=trial", "trainer.epochs=9"], "trainer.epochs=9: resume takes every setting from the run's own"),
        (["resume=trial", "experiment=fast"], "experiment=fast: resume takes every setting"),
        (["resume=trial", "hydra.run.dir=x"], "hydra.run.dir=x: resume takes every setting"),
        (["-m", "resume=trial"], "resume=FOLDER goes on with a single run"),
        (["-m", "resume=trial,other"], "resume=FOLDER goes on with a single run"),
        (["resume=elsewhere"], "no such folder"),
        (["resume=[a]"], "resume=[a] must be text or null"),
    ],
)
def test_resume_is_given_alone(
    stopped: Path, command: Command, place: Path, words: list[str], message: str
) -> None:
    shutil.copytree(stopped, place / "trial")
    ended = command(*words)
    assert ended.status == 1
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert names_in(place) == ["trial"]
    assert names_in(place / "trial") == names_in(stopped)


def test_inspect_has_no_use_for_resume(command: Command) -> None:
    assert "resume=FOLDER goes on with a run" in command("resume=trial", main=inspect).err


def test_folders_are_quoted_only_where_they_must_be() -> None:
    plain = Path("/runs/2026-01-01/10-00-00-fast")
    assert resume_command(plain) == f"tinysweep resume={plain}"
    for odd in ("/my runs/a=b", "/it's/[1,2]", "/runs/$x,{y}"):
        assert compose(shlex.split(resume_command(Path(odd)))[1]).resume == odd
