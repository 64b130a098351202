"""A whole run on a made image folder: what it leaves behind when it ends well, badly, or not at all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from conftest import made_images
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import Images, load_test
from tinysweep.errors import BudgetError, DataError, DivergedError
from tinysweep.network.budget import measure
from tinysweep.run import run as run_module
from tinysweep.run.run import run
from tinysweep.run.saved import load
from tinysweep.settings.schema import (
    BudgetConfig,
    Config,
    DataConfig,
    DataName,
    ModelConfig,
    OptimizerConfig,
    Precision,
    SchedulerConfig,
    SchedulerName,
    TrainerConfig,
)
from tinysweep.training import loop as training
from tinysweep.training.augment import augment
from tinysweep.training.device import hardware
from tinysweep.training.loop import evaluate

SHAPE = DataShape(1, 12, 3)


def write_part(folder: Path, images: Images) -> None:
    for number, (image, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        path = folder / "abc"[int(label)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run of 3 epochs on 36 images, 12 of which are for validation, and 15 to test."""
    write_part(tmp_path / "images" / "train", made_images(48, 3, 12))
    write_part(tmp_path / "images" / "test", made_images(15, 3, 12, seed=1))
    return Config(
        name="trial",
        data=DataConfig(
            DataName.image_folder, root=str(tmp_path / "images"), validation=12, image_size=SHAPE.size
        ),
        model=ModelConfig(width=4, depth=[1, 1], stem_kernel=3),
        trainer=TrainerConfig(epochs=3, batch_size=12, threads=1, precision=Precision.fp32),
    )


def change(config: Config, section: str, **values: Any) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


def record_in(folder: Path) -> dict[str, Any]:
    """The record of a run, which must be JSON as others read it: without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "record.json").read_text(), parse_constant=refuse)  # type: ignore[no-any-return]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def never(*_: object) -> Any:
    raise AssertionError("must not be called")


# ---- a run that ends well


def test_a_run_leaves_everything_behind(tmp_path: Path, config: Config) -> None:
    returned = run(config, tmp_path / "out" / "trial", ["model.width=4"])
    folder = tmp_path / "out" / "trial"
    files = ["config.yaml", "curves.png", "history.csv", "model.pt", "record.json", "test_predictions.csv"]
    assert names_in(folder) == files

    record = record_in(folder)
    assert record == json.loads(json.dumps(returned.as_dict()))
    assert (record["state"], record["reason"], record["epochs"], record["seed"]) == ("complete", None, 3, 0)
    cost = measure(config.model, SHAPE)
    assert record["cost"]["params"] == cost.params
    assert record["overrides"] == ["model.width=4"]

    history = pd.read_csv(folder / "history.csv")
    assert history.epoch.tolist() == [1, 2, 3]
    last = history.iloc[-1]
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        assert record["metrics"][name] == pytest.approx(last[name], rel=1e-12)
    assert record["train_seconds"] == pytest.approx(history.seconds.sum(), abs=1e-3)

    machine = hardware(config.trainer)
    score = evaluate(load(folder), load_test(config.data), machine)
    assert score.accuracy == record["metrics"]["test_accuracy"]
    assert score.loss == pytest.approx(record["metrics"]["test_loss"], rel=1e-4)
    with Image.open(folder / "curves.png") as image:
        image.verify()


def test_the_configuration_on_disk_is_the_resolved_one_and_repeats_the_run(tmp_path: Path, config: Config) -> None:
    first = run(change(config, "model", width="auto"), tmp_path / "first", [])
    loaded = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(tmp_path / "first" / "config.yaml"))
    again = OmegaConf.to_object(loaded)
    assert isinstance(again, Config)
    assert again == first.config
    assert isinstance(again.model.width, int)
    run(again, tmp_path / "second", [])
    records = [record_in(tmp_path / name) for name in ("first", "second")]
    assert records[0]["metrics"] == records[1]["metrics"]


def test_the_same_seed_leaves_the_same_bits(tmp_path: Path, config: Config) -> None:
    records, histories, weights = [], [], []
    for name in ("one", "two"):
        run(config, tmp_path / name, [])
        torch.rand(3)
        record = record_in(tmp_path / name)
        records.append({key: record[key] for key in record if key not in ("started", "finished", "train_seconds")})
        histories.append(pd.read_csv(tmp_path / name / "history.csv").drop(columns="seconds"))
        weights.append(load(tmp_path / name).state_dict())
    assert records[0] == records[1]
    pd.testing.assert_frame_equal(histories[0], histories[1], check_exact=True)
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0] | weights[1])


def test_a_second_run_leaves_the_first_alone(tmp_path: Path, config: Config) -> None:
    wanted = tmp_path / "trial"
    run(config, wanted, [])
    before = {path.name: path.read_bytes() for path in wanted.iterdir()}
    second = run(change(config, "trainer", seed=1), wanted, [])
    assert second.folder.path == tmp_path / "trial-2"
    assert (record_in(wanted)["seed"], record_in(second.folder.path)["seed"]) == (0, 1)
    assert {path.name: path.read_bytes() for path in wanted.iterdir()} == before


def test_the_test_images_are_read_once_and_after_the_last_epoch(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs_done: list[int] = []

    def noted(data_config: DataConfig) -> Images:
        epochs_done.append(record_in(tmp_path / "trial")["epochs"])
        return load_test(data_config)

    monkeypatch.setattr(run_module, "load_test", noted)
    run(config, tmp_path / "trial", [])
    assert epochs_done == [3]


@pytest.mark.parametrize("validation", [12, 0])
def test_the_test_images_are_not_read_unless_wanted(tmp_path: Path, config: Config, validation: int) -> None:
    for file in (tmp_path / "images" / "test").rglob("*.png"):
        file.write_text("whoever opens this fails")
    config = change(change(config, "trainer", test=False), "data", validation=validation)
    record = run(config, tmp_path / "trial", [])
    written = record_in(record.folder.path)
    assert written["state"] == "complete"
    assert (written["metrics"]["test_loss"], written["metrics"]["test_accuracy"]) == (None, None)
    assert (written["metrics"]["validation_loss"] is None) is (validation == 0)


@pytest.mark.parametrize("test", [True, False])
def test_what_is_printed_tells_cost_epochs_and_result(
    tmp_path: Path, config: Config, capsys: pytest.CaptureFixture[str], test: bool
) -> None:
    record = run(change(config, "trainer", test=test), tmp_path / "trial", [])
    printed = capsys.readouterr().out
    params = measure(config.model, SHAPE).params
    assert f"{params:,} trainable parameters (fewer than 20,000)" in printed
    assert [f"epoch {number}/3" in printed for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert f"{100 * (record.history[-1].validation_accuracy or 0):.2f}%" in printed
    assert ("test accuracy" in printed) is test
    assert str(tmp_path / "trial") in printed


# ---- refused before anything is written


@pytest.mark.parametrize("width", [400, "auto"])
def test_over_budget_stops_before_data_is_loaded_and_leaves_nothing(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, width: int | str
) -> None:
    monkeypatch.setattr(run_module, "load", never)
    config = dataclasses.replace(change(config, "model", width=width), budget=BudgetConfig(params=20))
    with pytest.raises(BudgetError, match=r"must be fewer than budget\.params=20"):
        run(config, tmp_path / "out" / "trial", [])
    assert names_in(tmp_path) == ["images"]


def test_bad_data_leaves_nothing(tmp_path: Path, config: Config) -> None:
    (tmp_path / "images" / "train" / "b" / "001.png").write_text("no image")
    with pytest.raises(DataError, match=r"b/001\.png"):
        run(config, tmp_path / "out" / "trial", [])
    assert names_in(tmp_path) == ["images"]


# ---- runs that end badly


def fail_in_the_second_epoch(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    calls: list[int] = []

    def failing(images: Tensor, *others: Any) -> Tensor:
        calls.append(len(images))
        if len(calls) == 2:
            raise error
        return augment(images, *others)

    monkeypatch.setattr(training, "augment", failing)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted after epoch 1 of 3"),
        (RuntimeError("no luck"), "failed", "RuntimeError: no luck"),
        (DataError("a story of its own"), "failed", "a story of its own"),
    ],
)
def test_a_run_cut_short_keeps_its_epochs_and_tells_why(
    tmp_path: Path,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    state: str,
    reason: str,
) -> None:
    fail_in_the_second_epoch(monkeypatch, error)
    monkeypatch.setattr(run_module, "load_test", never)
    with pytest.raises(type(error)) as caught:
        run(config, tmp_path / "trial", [])
    assert caught.value is error
    record = record_in(tmp_path / "trial")
    assert (record["state"], record["reason"], record["epochs"]) == (state, reason, 1)
    assert record["error"] == (type(error).__name__ if state == "failed" else None)
    assert record["finished"] is not None
    assert record["metrics"]["validation_accuracy"] is not None
    assert record["metrics"]["test_accuracy"] is None
    assert len(pd.read_csv(tmp_path / "trial" / "history.csv")) == 1
    assert names_in(tmp_path / "trial") == ["config.yaml", "history.csv", "model.pt", "record.json"]
    images = made_images(30, 3, 12, seed=2).pixels.float()
    assert load(tmp_path / "trial")(images).shape == (30, 3), "the model of the last finished epoch"


def test_a_run_that_diverges_is_failed_with_epoch_and_rate(tmp_path: Path, config: Config) -> None:
    config = dataclasses.replace(
        config,
        optimizer=OptimizerConfig(lr=1000, weight_decay=10),
        scheduler=SchedulerConfig(SchedulerName.linear, warmup_fraction=0.9, start_fraction=0),
        trainer=dataclasses.replace(config.trainer, epochs=40),
    )
    with pytest.raises(DivergedError):
        run(config, tmp_path / "trial", [])
    record = record_in(tmp_path / "trial")
    assert record["state"] == "failed"
    assert f"loss of epoch {record['epochs'] + 1} is " in record["reason"]
    assert "optimizer.lr=1000 " in record["reason"]
    assert record["epochs"] > 0, "so that there is something to keep"
    assert record["metrics"]["train_loss"] > 0
    assert len(pd.read_csv(tmp_path / "trial" / "history.csv")) == record["epochs"]


def test_a_test_loss_that_is_no_number_fails_the_run(tmp_path: Path, config: Config) -> None:
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, validation=0),
        model=ModelConfig(width=4, depth=[24], stem_kernel=3),
        optimizer=OptimizerConfig(lr=1000),
        scheduler=SchedulerConfig(SchedulerName.constant),
        trainer=dataclasses.replace(config.trainer, epochs=1, batch_size=48),
    )
    with pytest.raises(DivergedError, match="the test loss is nan"):
        run(config, tmp_path / "trial", [])
    record = record_in(tmp_path / "trial")
    assert (record["state"], record["epochs"]) == ("failed", 1)
    assert record["metrics"]["test_loss"] is None


def test_test_images_that_are_damaged_cost_no_training(tmp_path: Path, config: Config) -> None:
    (tmp_path / "images" / "test" / "a" / "000.png").write_text("no image")
    with pytest.raises(DataError):
        run(config, tmp_path / "trial", [])
    record = record_in(tmp_path / "trial")
    assert (record["state"], record["epochs"]) == ("failed", 3)
    assert "a/000.png is not a readable image" in record["reason"]
    images = made_images(30, 3, 12, seed=2).pixels.float()
    assert load(tmp_path / "trial")(images).shape == (30, 3), "the model is kept"
