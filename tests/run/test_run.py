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
from tinysweep.errors import BudgetError, DataError, DivergedError, PrunedError
from tinysweep.network.budget import measure
from tinysweep.run import run as module
from tinysweep.run.checkpoint import load
from tinysweep.run.record import Record, RunFolder
from tinysweep.run.run import run
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
from tinysweep.training import loop
from tinysweep.training.augment import augment
from tinysweep.training.device import hardware
from tinysweep.training.loop import Epoch
from tinysweep.training.schedule import shorten
from tinysweep.training.score import Score, evaluate

SHAPE = DataShape(1, 12, 3)
FILES = ["config.yaml", "curves.png", "history.csv", "model.pt", "record.json", "test_predictions.csv"]
TIMES = ("started", "finished", "train_seconds")


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


def require_same(folder: Path, other: Path) -> None:
    """The same record but for times, history but for seconds, weights bit for bit, and files."""
    assert names_in(folder) == names_in(other) == FILES
    records = [{**record_in(each), **dict.fromkeys(TIMES)} for each in (folder, other)]
    assert records[0] == records[1]
    histories = [pd.read_csv(each / "history.csv").drop(columns="seconds") for each in (folder, other)]
    pd.testing.assert_frame_equal(histories[0], histories[1], check_exact=True)
    contents = [torch.load(each / "model.pt") for each in (folder, other)]
    assert contents[0].keys() == contents[1].keys()
    weights = [content["weights"] for content in contents]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
    for name in ("config.yaml", "test_predictions.csv"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


# ---- a run that ends well


def test_a_run_leaves_everything_behind(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, epochs_done = tmp_path / "out" / "trial", list[int]()

    def load_test_noted(data: DataConfig) -> Images:
        epochs_done.append(record_in(folder)["epochs"])
        return load_test(data)

    monkeypatch.setattr(module, "load_test", load_test_noted)
    returned = run(config, folder, ["model.width=4"])
    assert names_in(folder) == FILES
    assert epochs_done == [3], "the test images are read once, after the last epoch"

    record = record_in(folder)
    assert Record.read(folder / "record.json") == returned
    assert (record["state"], record["reason"], record["epochs"], record["seed"]) == ("complete", None, 3, 0)
    cost = measure(config.model, SHAPE)
    assert record["cost"]["params"] == cost.params
    assert record["overrides"] == ["model.width=4"]
    history = pd.read_csv(folder / "history.csv")
    assert history.epoch.tolist() == [1, 2, 3]
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        assert record["metrics"][name] == pytest.approx(history.iloc[-1][name], rel=1e-12)
    assert record["train_seconds"] == pytest.approx(history.seconds.sum(), abs=1e-3)
    score = evaluate(load(folder), load_test(config.data), hardware(config.trainer))
    assert score.accuracy == record["metrics"]["test_accuracy"]
    assert score.loss == pytest.approx(record["metrics"]["test_loss"], rel=1e-4)
    assert pd.read_csv(folder / "test_predictions.csv").predicted.tolist() == score.predicted.tolist()

    printed = capsys.readouterr().out
    assert f"{cost.params:,} trainable parameters (fewer than 20,000)" in printed
    assert [f"epoch {number}/3" in printed for number in (1, 2, 3, 4)] == [True, True, True, False]
    for name in ("validation_accuracy", "test_accuracy"):
        assert f"{100 * record['metrics'][name]:.2f}%" in printed
    assert str(folder) in printed


def test_the_configuration_on_disk_is_the_resolved_one_and_repeats_the_run_to_the_same_bits(
    tmp_path: Path, config: Config
) -> None:
    run(change(config, "model", width="auto"), tmp_path / "first", [])
    found = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(tmp_path / "first" / "config.yaml"))
    again = OmegaConf.to_object(found)
    assert isinstance(again, Config)
    assert isinstance(again.model.width, int)
    before = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    torch.rand(3)
    run(again, tmp_path / "first", [])
    require_same(tmp_path / "first-2", tmp_path / "first")
    assert {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()} == before


@pytest.mark.parametrize("validation", [12, 0])
def test_the_test_images_are_not_read_unless_wanted(tmp_path: Path, config: Config, validation: int) -> None:
    for file in (tmp_path / "images" / "test").rglob("*.png"):
        file.write_text("whoever opens this fails")
    record = run(change(change(config, "trainer", test=False), "data", validation=validation), tmp_path / "a", [])
    assert record.state == "complete"
    assert (record.metrics["test_loss"], record.metrics["test_accuracy"]) == (None, None)
    assert (record.metrics["validation_loss"] is None) is (validation == 0)


# ---- rungs


def ignore(_: Epoch) -> None:
    """A sweep that lets every trial go on."""


def without_seconds(epochs: list[Epoch]) -> list[Epoch]:
    return [dataclasses.replace(epoch, seconds=0.0, epochs=None) for epoch in epochs]


def weights(folder: Path) -> dict[str, Tensor]:
    return load(folder).state_dict()


def require_same_weights(folder: Path, other: Path) -> None:
    one, two = weights(folder), weights(other)
    assert all(torch.equal(one[name], two[name]) for name in one | two)


def test_every_rung_is_the_training_that_as_many_epochs_alone_are(tmp_path: Path, config: Config) -> None:
    """To the bit, whatever was trained before it in the same process."""
    config = change(config, "trainer", test=False, clean_epochs=2)
    reported: list[Epoch] = []

    def report(epoch: Epoch) -> None:
        reported.append(epoch)
        if epoch.epoch == epoch.epochs:
            run(shorten(config, epoch.epoch), tmp_path / f"alone-{epoch.epoch}", [], ignore)
            require_same_weights(tmp_path / "trial", tmp_path / f"alone-{epoch.epoch}")

    record = run(config, tmp_path / "trial", [], report, rungs=[1, 2, 3])
    history = RunFolder(tmp_path / "trial").read_history()
    assert reported == history
    assert [(epoch.epochs, epoch.epoch) for epoch in history] == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]
    for rung in (1, 2, 3):
        alone = RunFolder(tmp_path / f"alone-{rung}").read_history()
        assert without_seconds([epoch for epoch in history if epoch.epochs == rung]) == without_seconds(alone)
    last = record_in(tmp_path / "alone-3")
    assert (record.state, record.epochs, record.metrics) == ("complete", 3, last["metrics"])
    assert record.train_seconds == pytest.approx(sum(epoch.seconds for epoch in history), abs=1e-3)
    assert record.config == config, "as it is without rungs"


def test_a_run_stopped_after_a_rung_has_its_figures_and_its_model(tmp_path: Path, config: Config) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise PrunedError("others did better")

    record = run(config, tmp_path / "trial", [], stop, rungs=[1, 2, 3])
    alone = run(shorten(config, 2), tmp_path / "alone", [], ignore)
    assert (record.state, record.reason, record.epochs) == ("pruned", "others did better", 2)
    trained = ("train_loss", "validation_loss", "validation_accuracy")
    assert all(record.metrics[name] == alone.metrics[name] for name in trained)
    assert record.metrics["test_accuracy"] is None
    require_same_weights(tmp_path / "trial", tmp_path / "alone")


@pytest.mark.parametrize("count", [1, 3])
def test_rungs_that_are_done_are_not_trained_again(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    run(config, tmp_path / "whole", [], ignore, rungs=[1, 2, 3])
    whole = RunFolder(tmp_path / "whole").read_history()
    lengths: list[int] = []

    def noted(shorter: Config, *others: Any, **named: Any) -> loop.Result:
        lengths.append(shorter.trainer.epochs)
        return loop.fit(shorter, *others, **named)

    monkeypatch.setattr(module, "fit", noted)
    record = run(config, tmp_path / "rest", [], ignore, rungs=[1, 2, 3], done=whole[:count])
    rest = RunFolder(tmp_path / "rest").read_history()
    assert lengths == [2, 3][count // 2 :]
    assert rest[:count] == whole[:count], "seconds too"
    assert without_seconds(rest) == without_seconds(whole)
    assert record.train_seconds == pytest.approx(sum(epoch.seconds for epoch in rest), abs=1e-3)
    assert record.metrics == record_in(tmp_path / "whole")["metrics"]
    require_same_weights(tmp_path / "rest", tmp_path / "whole")


def test_ctrl_c_in_a_rung_says_where_it_was(tmp_path: Path, config: Config) -> None:
    def interrupt(epoch: Epoch) -> None:
        if (epoch.epochs, epoch.epoch) == (3, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "trial", [], interrupt, rungs=[1, 3])
    record = record_in(tmp_path / "trial")
    assert (record["state"], record["reason"]) == ("interrupted", "interrupted after epoch 2 of 3")
    assert record["epochs"] == 1, "of the last whole rung"


# ---- refused before anything is written


@pytest.mark.parametrize("width", [400, "auto"])
def test_over_budget_stops_before_data_is_loaded_and_leaves_nothing(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, width: int | str
) -> None:
    monkeypatch.setattr(module, "load", never)
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
    calls: list[int] = []

    def fail_in_the_second_epoch(images: Tensor, *others: Any) -> Tensor:
        calls.append(len(images))
        if len(calls) == 2:
            raise error
        return augment(images, *others)

    monkeypatch.setattr(loop, "augment", fail_in_the_second_epoch)
    monkeypatch.setattr(module, "load_test", never)
    with pytest.raises(type(error)) as caught:
        run(config, tmp_path / "trial", [])
    assert caught.value is error
    record = Record.read(tmp_path / "trial" / "record.json")
    assert (record.state, record.reason, record.epochs) == (state, reason, 1)
    assert record.error == (type(error).__name__ if state == "failed" else None)
    assert record.finished is not None
    assert record.metrics["validation_accuracy"] is not None
    assert record.metrics["test_accuracy"] is None
    assert len(pd.read_csv(tmp_path / "trial" / "history.csv")) == 1
    assert names_in(tmp_path / "trial") == ["config.yaml", "history.csv", "model.pt", "record.json"]
    require_model(tmp_path / "trial")


def require_model(folder: Path) -> None:
    """There is a model, that of the last finished epoch."""
    assert load(folder)(made_images(30, 3, 12, seed=2).pixels.float()).shape == (30, 3)


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
    assert record["metrics"]["train_loss"] > 0
    assert len(pd.read_csv(tmp_path / "trial" / "history.csv")) == record["epochs"] > 0


def test_a_test_loss_that_is_no_number_fails_the_run(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "evaluate", lambda *_: Score(float("nan"), 0.5))
    with pytest.raises(DivergedError, match="the test loss is nan"):
        run(config, tmp_path / "trial", [])
    record = record_in(tmp_path / "trial")
    assert (record["state"], record["epochs"], record["metrics"]["test_loss"]) == ("failed", 3, None)


def test_test_images_that_are_damaged_cost_no_training(tmp_path: Path, config: Config) -> None:
    (tmp_path / "images" / "test" / "a" / "000.png").write_text("no image")
    with pytest.raises(DataError):
        run(config, tmp_path / "trial", [])
    record = record_in(tmp_path / "trial")
    assert (record["state"], record["epochs"]) == ("failed", 3)
    assert "a/000.png is not a readable image" in record["reason"]
    require_model(tmp_path / "trial")
