"""A trained model comes back from disk as it was; anything else is refused in one line."""

import dataclasses
import os
import re
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
from tinysweep.network.build import build_model
from tinysweep.run.saved import load, read, save
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
from tinysweep.training.loop import Normalise, Result, fit

SHAPE = DataShape(1, 12, 4)
CONFIG = Config(
    model=ModelConfig(width=4, depth=[1, 1], stem_kernel=3),
    dropout=DropoutConfig(DropoutName.block, 0.5),
    trainer=TrainerConfig(epochs=2, batch_size=16, ema_decay=0.5, threads=1, precision=Precision.fp32),
)


@pytest.fixture
def trained() -> Result:
    return fit(CONFIG, Data(SHAPE, made_images(64, 4, 12), None, (0.2,), (0.3,)))


def logits(model: nn.Module, shape: DataShape = SHAPE) -> torch.Tensor:
    """What a model makes of raw pixels it has not seen."""
    with torch.inference_mode():
        return model(made_images(40, shape.classes, shape.size, shape.channels, seed=5).pixels.float())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["model.pt", "kept for good.pth"])
@pytest.mark.parametrize("kind", [Path, str])
def test_a_loaded_model_predicts_as_the_trained_one(
    tmp_path: Path, trained: Result, name: str, kind: type[Path] | type[str]
) -> None:
    path = tmp_path / name
    save(path, trained, CONFIG, SHAPE)
    model = load(kind(tmp_path if name == "model.pt" else path))
    assert not model.training
    torch.testing.assert_close(logits(model), logits(trained.model), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model).argmax(1), logits(trained.model).argmax(1))
    assert logits(model).std() > 0.1
    for key, value in trained.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_loading_leaves_the_random_state_alone(tmp_path: Path, trained: Result) -> None:
    save(tmp_path / "model.pt", trained, CONFIG, SHAPE)
    state = torch.get_rng_state()
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("family", "head"), list(product(Family, Head)))
def test_every_family_and_head_comes_back(tmp_path: Path, family: Family, head: Head) -> None:
    shape = DataShape(3, 16, 7)
    config = ModelConfig(family=family, head=head, width=5, depth=[2, 1], growth=1.3, stem_kernel=3, hidden=6)
    model = nn.Sequential(Normalise((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), build_model(config, shape)).eval()
    save(tmp_path / "model.pt", Result(model, [], 0.0), Config(model=config), shape)
    torch.testing.assert_close(logits(load(tmp_path), shape), logits(model, shape))


@pytest.mark.parametrize("place", ["block", "stage", "head"])
def test_a_model_whose_dropout_was_two_settings_of_the_model_comes_back(tmp_path: Path, place: str) -> None:
    dropout = DropoutConfig(DropoutName(place), 0.5)
    model = nn.Sequential(Normalise((0.2,), (0.3,)), build_model(CONFIG.model, SHAPE, dropout)).eval()
    save(tmp_path / "model.pt", Result(model, [], 0.0), dataclasses.replace(CONFIG, dropout=dropout), SHAPE)
    content = torch.load(tmp_path / "model.pt")
    del content["dropout"]
    content["model"] += f"dropout: 0.5\ndropout_at: {place}\n"
    torch.save(content, tmp_path / "model.pt")
    torch.testing.assert_close(logits(load(tmp_path)), logits(model))


def refused(path: Path, pattern: str) -> None:
    """Loading raises a DataError of one line that names the file."""
    with pytest.raises(DataError, match=pattern) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["", "model.pt", "missing/model.pt"])
def test_a_missing_model_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path / name, r"model\.pt: no such file; give the folder of a finished run")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "state dict", "list", "code", "other weights"])
def test_a_file_that_is_no_model_of_ours_is_refused(
    tmp_path: Path, trained: Result, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    save(path, trained, CONFIG, SHAPE)
    content = torch.load(path)
    if kind in ("empty", "text", "truncated"):
        path.write_bytes({"empty": b"", "text": b"garbage\n" * 99, "truncated": path.read_bytes()[:2000]}[kind])
    elif kind == "other weights":
        save(path, trained, dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, width=5)), SHAPE)
    else:
        others = {
            "state dict": content["weights"],
            "list": [1, 2],
            "code": {**content, "x": Malicious()},
        }
        torch.save(others[kind], path)
    refused(path, rf"^{re.escape(str(path))} is not a model saved by tinysweep \(\w+: .*\)$")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("line", ["width: many", "height: 3", "dropout: 7", "width: auto"])
def test_a_model_of_settings_that_break_their_rules_is_refused(tmp_path: Path, trained: Result, line: str) -> None:
    path = tmp_path / "model.pt"
    save(path, trained, CONFIG, SHAPE)
    content = torch.load(path)
    key = line.partition(":")[0]
    kept = [old for old in content["model"].splitlines() if not old.startswith(f"{key}:")]
    torch.save({**content, "model": "\n".join([*kept, line])}, path)
    refused(path, rf"is not a model saved by tinysweep .*{key}")


# ---- what it was trained on


def on(data: DataConfig) -> Config:
    return dataclasses.replace(CONFIG, data=data)


def save_bare(path: Path, trained: Result) -> None:
    """As earlier versions did, which kept nothing of the data."""
    save(path, trained, CONFIG, SHAPE)
    content = torch.load(path)
    torch.save({key: content[key] for key in ("model", "dropout", "shape", "weights")}, path)


def write_folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


def test_the_data_and_the_names_of_its_classes_come_back(tmp_path: Path, trained: Result) -> None:
    root = write_folders(tmp_path / "images", "ant", "bee", "cat", "dog")
    data = DataConfig(DataName.image_folder, root=str(root), image_size=12, limit=9)
    save(tmp_path / "model.pt", trained, on(data), SHAPE)
    write_folders(root, "emu")
    saved = read(tmp_path)
    assert (saved.file, saved.shape, saved.data) == (tmp_path / "model.pt", SHAPE, data)
    assert saved.classes == ("ant", "bee", "cat", "dog"), (
        "those of the training, whatever has become of the folder"
    )
    assert torch.equal(logits(saved.model), logits(load(tmp_path)))


@pytest.mark.parametrize("left", [(), ("ant", "bee")])
def test_a_model_is_saved_even_if_its_images_are_gone(
    tmp_path: Path, trained: Result, left: tuple[str, ...]
) -> None:
    root = write_folders(tmp_path / "images", *left)
    save(tmp_path / "model.pt", trained, on(DataConfig(DataName.image_folder, root=str(root))), SHAPE)
    assert read(tmp_path).classes == ("0", "1", "2", "3")


RECORDS = {
    "record.json": '{"config": {"data": {"name": "kmnist", "limit": 7}}}',
    "config.yaml": "data: {name: kmnist, limit: 7}",
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_file_that_holds_no_data_is_told_by_the_record_beside_it(
    tmp_path: Path, trained: Result, name: str
) -> None:
    save_bare(tmp_path / "model.pt", trained)
    assert (read(tmp_path).data, read(tmp_path).classes) == (None, None)
    (tmp_path / name).write_text(RECORDS[name])
    assert read(tmp_path).data == DataConfig(DataName.kmnist, limit=7)
    for empty in ("", "{}"):
        (tmp_path / name).write_text(empty)
        assert read(tmp_path).data is None


@pytest.mark.parametrize(
    "content", ["[", '{"config": {"data": {"name": "imagenet"}}}', '{"config": {"data": {"limit": 0}}}']
)
def test_a_damaged_record_doesnt_keep_the_model_from_loading(
    tmp_path: Path, trained: Result, content: str
) -> None:
    save_bare(tmp_path / "model.pt", trained)
    (tmp_path / "record.json").write_text(content)
    torch.testing.assert_close(logits(load(tmp_path)), logits(trained.model), rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match=r"model\.pt: what it was trained on can't be read") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
