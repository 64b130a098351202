"""A trained model comes back from disk as it was; anything else is refused in one line."""

import dataclasses
import os
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import made_images
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import Data
from tinysweep.errors import DataError
from tinysweep.network.build import BLOCKS, build_model
from tinysweep.run import checkpoint as module
from tinysweep.run.checkpoint import Checkpoint, load, read_model, save
from tinysweep.run.record import RunFolder
from tinysweep.settings.schema import (
    Config,
    DataConfig,
    DataName,
    DropoutConfig,
    DropoutName,
    Family,
    Head,
    ModelConfig,
    Precision,
    TrainerConfig,
)
from tinysweep.training.loop import Normalise, fit

SHAPE = DataShape(1, 12, 4)
CONFIG = Config(
    model=ModelConfig(width=4, depth=[1, 1], stem_kernel=3),
    dropout=DropoutConfig(DropoutName.block, 0.5),
    trainer=TrainerConfig(epochs=2, batch_size=16, ema_decay=0.5, threads=1, precision=Precision.fp32),
)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return fit(CONFIG, Data(SHAPE, made_images(64, 4, 12), None, (0.2,), (0.3,))).model


@pytest.fixture
def saved(tmp_path: Path, trained: nn.Module) -> Path:
    """The file of that model."""
    save(tmp_path / "model.pt", trained.state_dict(), CONFIG, SHAPE)
    return tmp_path / "model.pt"


def logits(model: nn.Module, shape: DataShape = SHAPE) -> torch.Tensor:
    """What a model makes of raw pixels it has not seen."""
    with torch.inference_mode():
        return model(made_images(40, shape.classes, shape.size, shape.channels, seed=5).pixels.float())  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Path, str])
def test_a_loaded_model_is_the_trained_one(saved: Path, trained: nn.Module, kind: type[Path] | type[str]) -> None:
    state = torch.get_rng_state()
    copied = saved.with_name("kept for good.pth")
    copied.write_bytes(saved.read_bytes())
    for place in (saved, saved.parent, copied):
        model = load(kind(place))
        assert not model.training
        assert model.state_dict().keys() == trained.state_dict().keys()
        assert all(torch.equal(model.state_dict()[key], value) for key, value in trained.state_dict().items())
    torch.testing.assert_close(logits(model), logits(trained), rtol=1e-4, atol=1e-4)
    assert logits(model).std() > 0.1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("family", "head"), list(product(BLOCKS, Head)))
def test_every_family_and_head_comes_back(tmp_path: Path, family: Family, head: Head) -> None:
    shape = DataShape(3, 16, 7)
    deskew = head == Head.gap
    config = ModelConfig(
        family=family, head=head, width=5, depth=[2, 1], growth=1.3, stem_kernel=3, hidden=6, deskew=deskew
    )
    model = nn.Sequential(Normalise((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), build_model(config, shape)).eval()
    save(tmp_path / "model.pt", model.state_dict(), Config(model=config), shape)
    torch.testing.assert_close(logits(load(tmp_path), shape), logits(model, shape))


@pytest.mark.parametrize("place", ["block", "stage", "head"])
def test_a_model_whose_dropout_was_two_settings_of_the_model_comes_back(tmp_path: Path, place: str) -> None:
    dropout = DropoutConfig(DropoutName(place), 0.5)
    model = nn.Sequential(Normalise((0.2,), (0.3,)), build_model(CONFIG.model, SHAPE, dropout)).eval()
    save(tmp_path / "model.pt", model.state_dict(), dataclasses.replace(CONFIG, dropout=dropout), SHAPE)
    content = torch.load(tmp_path / "model.pt")
    del content["dropout"]
    content["model"] += f"dropout: 0.5\ndropout_at: {place}\n"
    torch.save(content, tmp_path / "model.pt")
    torch.testing.assert_close(logits(load(tmp_path)), logits(model))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def with_line(line: str, content: dict[str, Any]) -> dict[str, Any]:
    """What a file holds with one line of its model's settings in another's place."""
    key = line.partition(":")[0]
    kept = [old for old in content["model"].splitlines() if not old.startswith(f"{key}:")]
    return {**content, "model": "\n".join([*kept, line])}


LINES = ("width: many", "width: auto", "width: 5", "height: 3", "dropout: 7")
SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"garbage\n" * 99,
    "state dict": lambda content: content["weights"],
    "list": lambda _: [1, 2],
    "code": lambda content: {**content, "x": Malicious()},
    **{line: partial(with_line, line) for line in LINES},
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_file_that_is_no_model_of_ours_is_refused_in_one_line(
    saved: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent)
    spoilt = SPOILT[case](torch.load(saved))
    saved.write_bytes(spoilt) if isinstance(spoilt, bytes) else torch.save(spoilt, saved)
    message = rf"^{re.escape(str(saved))} is not a model saved by tinysweep \(\w+: .*\)$"
    with pytest.raises(DataError, match=message) as refusal:
        load(saved)
    assert case not in LINES or case == "width: 5" or case.partition(":")[0] in str(refusal.value)
    assert not Path("owned").exists()


@pytest.mark.parametrize("name", ["", "model.pt", "missing/model.pt"])
def test_a_missing_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"model\.pt: no such file; give the folder of a finished run"):
        load(tmp_path / name)


# ---- what it was trained on


def save_of_folder(path: Path, model: nn.Module, *classes: str) -> DataConfig:
    """Save a model of an image folder with these classes."""
    data = DataConfig(DataName.image_folder, root=str(path.parent / "images"), image_size=12, limit=9)
    for name in classes:
        (path.parent / "images" / name).mkdir(parents=True)
    save(path, model.state_dict(), dataclasses.replace(CONFIG, data=data), SHAPE)
    return data


def test_the_data_and_the_names_of_its_classes_come_back(tmp_path: Path, trained: nn.Module) -> None:
    data = save_of_folder(tmp_path / "model.pt", trained, "ant", "bee", "cat", "dog")
    (tmp_path / "images" / "emu").mkdir()
    found = read_model(tmp_path)
    assert (found.file, found.shape, found.data) == (tmp_path / "model.pt", SHAPE, data)
    assert found.classes == ("ant", "bee", "cat", "dog"), "those of the training, whatever the folder has become"
    assert torch.equal(logits(found.model), logits(load(tmp_path)))


@pytest.mark.parametrize("left", [(), ("ant", "bee")])
def test_a_model_is_saved_even_if_its_images_are_gone(
    tmp_path: Path, trained: nn.Module, left: tuple[str, ...]
) -> None:
    save_of_folder(tmp_path / "model.pt", trained, *left)
    assert read_model(tmp_path).classes == ("0", "1", "2", "3")


@pytest.fixture
def bare(saved: Path) -> Path:
    """A file as earlier versions wrote it, which kept nothing of the data."""
    content = torch.load(saved)
    torch.save({key: content[key] for key in ("model", "dropout", "shape", "weights")}, saved)
    return saved


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("record.json", '{"config": {"data": {"name": "kmnist", "limit": 7}}}'),
        ("config.yaml", "data: {name: kmnist, limit: 7}"),
    ],
)
def test_a_file_that_holds_no_data_is_told_by_the_record_beside_it(bare: Path, name: str, content: str) -> None:
    assert (read_model(bare).data, read_model(bare).classes) == (None, None)
    (bare.parent / name).write_text(content)
    assert read_model(bare).data == DataConfig(DataName.kmnist, limit=7)
    for empty in ("", "{}"):
        (bare.parent / name).write_text(empty)
        assert read_model(bare).data is None


@pytest.mark.parametrize(
    "content", ["[", '{"config": {"data": {"name": "imagenet"}}}', '{"config": {"data": {"limit": 0}}}']
)
def test_a_damaged_record_doesnt_keep_the_model_from_loading(bare: Path, content: str) -> None:
    (bare.parent / "record.json").write_text(content)
    load(bare)
    with pytest.raises(DataError, match=r"model\.pt: what it was trained on can't be read") as caught:
        read_model(bare)
    assert "\n" not in str(caught.value)


# ---- the checkpoint


def test_writing_takes_a_hundredth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], list[float]()

    def write(*_: object, **__: object) -> None:
        now[0] += 0.02
        written.append(now[0])

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "save", write)
    kept = Checkpoint(RunFolder(tmp_path), CONFIG, SHAPE)
    for seconds, epochs in ((0.1, 100), (10.0, 5)):
        for _ in range(epochs):
            now[0] += seconds
            kept.keep({"model": {}, "average": None, "history": []})
    assert len(written) <= 100 * 0.1 / 2 + 1 + 5
    assert len([moment for moment in written if moment > 10.2]) == 5, "each of the epochs that are long enough"
    before = len(written)
    kept.write()
    assert len(written) == before, "what is written isn't written again"
