"""What trackers keep of runs and studies, read back by TensorBoard, MLflow and W&B themselves; and that none can
stop a training."""

import functools
import importlib.metadata
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from test_run import record_in, write_part

from conftest import Command, Ended, made_images
from tinysweep.console import Progress
from tinysweep.errors import ConfigError, PrunedError
from tinysweep.run.record import Record, State, close_left_record
from tinysweep.run.run import go_on, run
from tinysweep.settings.schema import (
    Config,
    DataConfig,
    DataName,
    ModelConfig,
    Precision,
    TrackerConfig,
    TrackerName,
    TrainerConfig,
)
from tinysweep.settings.stored import read_config
from tinysweep.tracking import tracker as module
from tinysweep.tracking.tracker import Beginning, Ending, Tracker, Tracking, require
from tinysweep.training.loop import Epoch

FIGURES = ("train_loss", "validation_loss", "validation_accuracy", "lr", "seconds")
TRACKS = [name for name in TrackerName if name != TrackerName.none]

ConfigFor = Callable[..., Config]


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's with its tables, which take it seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    client(folder).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def config_for(tmp_path: Path, new_store: Path) -> ConfigFor:
    """A run of 3 epochs on 36 images, logged by a tracker."""
    write_part(tmp_path / "images" / "train", made_images(48, 3, 12))
    write_part(tmp_path / "images" / "test", made_images(15, 3, 12, seed=1))

    def config(name: TrackerName, **more: Any) -> Config:
        if name == TrackerName.mlflow and not (kept := tmp_path / "kept" / "mlflow.db").exists():
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(new_store, kept)
        return Config(
            name="tried",
            data=DataConfig(DataName.image_folder, root=str(tmp_path / "images"), validation=12, image_size=12),
            model=ModelConfig(width=4, depth=[1, 1], stem_kernel=3),
            trainer=TrainerConfig(epochs=3, batch_size=12, threads=1, precision=Precision.fp32),
            tracker=TrackerConfig(name, str(tmp_path / "kept"), **more) if name in TRACKS else TrackerConfig(),
        )

    return config


def ignore(_: Epoch) -> None:
    """A trial's report that never stops it."""


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard shows of a run."""
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return found.Reload()


def points(found: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def status_of(found: EventAccumulator) -> int | None:
    """What the tab HParams says of a run's end."""
    held = found.SummaryMetadata if metadata.SESSION_END_INFO_TAG in found.PluginTagToContent("hparams") else None
    if held is None:
        return None
    content = found.PluginTagToContent("hparams")[metadata.SESSION_END_INFO_TAG]
    return int(metadata.parse_session_end_info_plugin_data(content).status)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def kept_runs(folder: Path) -> list[Run]:
    """Every run that MLflow has, the first begun first."""
    store = client(folder)
    experiments = [each.experiment_id for each in store.search_experiments()]
    return list(store.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def curve(folder: Path, id_: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(folder).get_metric_history(id_, name)]


# ---- what is kept of a run


def test_tensorboard_has_the_history_the_settings_and_how_it_ended(tmp_path: Path, config_for: ConfigFor) -> None:
    record = run(config_for(TrackerName.tensorboard), tmp_path / "out" / "one", [])
    assert record.tracked == str(tmp_path / "kept" / "runs" / "out-one")
    found, history = events(Path(record.tracked)), pd.read_csv(tmp_path / "out" / "one" / "history.csv")
    for name in FIGURES:
        assert [step for step, _ in points(found, name)] == [1, 2, 3]
        assert [value for _, value in points(found, name)] == pytest.approx(history[name].tolist(), rel=1e-6)
    ((step, accuracy),) = points(found, "test_accuracy")
    assert step == 3
    assert accuracy == pytest.approx(record.metrics["test_accuracy"])
    content = found.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    shown = metadata.parse_session_start_info_plugin_data(content).hparams
    assert shown["model.width"].number_value == 4
    assert shown["model.family"].string_value == "residual"
    assert shown["params"].number_value == record.cost["params"]
    assert status_of(found) == STATUS_SUCCESS
    assert len(found.Images("curves")) == 1
    assert b"complete" in found.Tensors("state/text_summary")[0].tensor_proto.string_val[0]


def test_mlflow_has_the_history_the_settings_and_how_it_ended(tmp_path: Path, config_for: ConfigFor) -> None:
    folder = tmp_path / "out" / "one"
    record = run(config_for(TrackerName.mlflow), folder, [])
    (kept,) = kept_runs(tmp_path / "kept")
    assert (kept.info.run_id, kept.info.run_name, kept.info.status) == (record.tracked, "out-one", "FINISHED")
    history = pd.read_csv(folder / "history.csv")
    for name in FIGURES:
        expected = list(zip([1, 2, 3], history[name].tolist(), strict=True))
        assert curve(tmp_path / "kept", kept.info.run_id, name) == expected, "each point once"
    assert kept.data.metrics["test_accuracy"] == record.metrics["test_accuracy"]
    assert kept.data.metrics["params"] == record.cost["params"]
    assert (kept.data.params["model.width"], kept.data.params["budget.macs"]) == ("4", "null")
    tags = kept.data.tags
    assert (tags["tinysweep.state"], tags["tinysweep.folder"]) == ("complete", str(folder))
    assert tags["tinysweep.torch"] == importlib.metadata.version("torch")
    assert [file.path for file in client(tmp_path / "kept").list_artifacts(kept.info.run_id)] == ["curves.png"]


def test_wandb_writes_a_run_that_can_be_synced_later(tmp_path: Path, config_for: ConfigFor) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed")
    record = run(config_for(TrackerName.wandb, group="ours"), tmp_path / "out" / "one", [])
    (file,) = (tmp_path / "kept" / "wandb").glob("offline-run-*/*.wandb")
    assert file.name == f"run-{record.tracked}.wandb"
    content = file.read_bytes()
    for word in (b"ours", b"out-one", b"validation_accuracy", b"test_accuracy", b"model.width", b"complete"):
        assert word in content


@pytest.mark.parametrize("name", TRACKS)
def test_what_is_found_is_the_same_with_a_tracker(
    tmp_path: Path, config_for: ConfigFor, name: TrackerName
) -> None:
    alone, tracked = (
        run(config_for(each), tmp_path / each / "one", [], ignore) for each in (TrackerName.none, name)
    )
    assert alone.metrics == tracked.metrics
    assert (alone.tracked is None, tracked.tracked is None) == (True, False)


@pytest.mark.parametrize("kind", ["pruned", "failed", "interrupted"])
def test_a_run_that_is_stopped_is_marked_by_what_it_became(
    tmp_path: Path, config_for: ConfigFor, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = {
        "pruned": PrunedError("behind"),
        "failed": RuntimeError("broken"),
        "interrupted": KeyboardInterrupt(),
    }

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise errors[kind]

    for name in (TrackerName.mlflow, TrackerName.tensorboard):
        try:
            run(config_for(name), tmp_path / name / "one", [], stop)
        except (RuntimeError, KeyboardInterrupt):
            assert kind != "pruned"
    (kept,) = kept_runs(tmp_path / "kept")
    assert kept.data.tags["tinysweep.state"] == kind
    assert kept.info.status == ("FAILED" if kind == "failed" else "KILLED")
    found = events(tmp_path / "kept" / "runs" / "tensorboard-one")
    wanted = {"pruned": STATUS_SUCCESS, "failed": STATUS_FAILURE, "interrupted": None}
    assert status_of(found) == wanted[kind], "one that may go on has no end yet"
    assert [step for step, _ in points(found, "train_loss")] == [1, 2]
    assert "warning" not in capsys.readouterr().err


# ---- whose points come in several goes


@pytest.mark.parametrize("name", [TrackerName.tensorboard, TrackerName.mlflow])
def test_a_run_that_goes_on_has_one_curve(
    tmp_path: Path, config_for: ConfigFor, name: TrackerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, say = tmp_path / "out" / "one", Progress.print
    calls: list[int] = []

    def interrupt(self: Progress, text: str) -> None:
        say(self, text)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "print", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config_for(name), folder, [])
    begun = record_in(folder)["tracked"]
    assert go_on(folder).tracked == begun
    if name == TrackerName.mlflow:
        (kept,) = kept_runs(tmp_path / "kept")
        assert kept.info.status == "FINISHED"
        steps = [step for step, _ in curve(tmp_path / "kept", begun, "train_loss")]
    else:
        assert len(list((tmp_path / "kept" / "runs").iterdir())) == 1
        steps = [step for step, _ in points(events(Path(begun)), "train_loss")]
    assert steps == [1, 2, 3]


def test_the_steps_of_rungs_never_collide(tmp_path: Path, config_for: ConfigFor) -> None:
    config = config_for(TrackerName.mlflow)
    run(config, tmp_path / "a" / "one", [], ignore, rungs=[1, 3])
    (first,) = kept_runs(tmp_path / "kept")
    epochs = curve(tmp_path / "kept", first.info.run_id, "epoch")
    assert epochs == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    done = Record.read(tmp_path / "a" / "one" / "record.json")
    assert first.data.metrics["validation_accuracy"] == done.metrics["validation_accuracy"]


def test_the_rungs_of_an_earlier_trial_are_points_as_well(tmp_path: Path, config_for: ConfigFor) -> None:
    earlier = [Epoch(1, 1.5, 1.25, 0.5, 0.1, 1.0, epochs=1)]
    run(config_for(TrackerName.mlflow), tmp_path / "a" / "one", [], ignore, rungs=[1, 3], done=earlier)
    (kept,) = kept_runs(tmp_path / "kept")
    losses = curve(tmp_path / "kept", kept.info.run_id, "train_loss")
    assert (losses[0], len(losses)) == ((1, 1.5), 4)


def test_a_run_whose_process_is_gone_is_closed(tmp_path: Path, config_for: ConfigFor) -> None:
    folder = tmp_path / "a" / "one"
    record = run(config_for(TrackerName.mlflow), folder, [], ignore)
    client(tmp_path / "kept").update_run(str(record.tracked), status="RUNNING")
    (folder / "record.json").write_text((folder / "record.json").read_text().replace('"complete"', '"running"'))
    close_left_record(folder, State.interrupted, "its sweeper died")
    (kept,) = kept_runs(tmp_path / "kept")
    assert (kept.info.status, kept.data.tags["tinysweep.reason"]) == ("KILLED", "its sweeper died")


# ---- a study


@pytest.fixture
def sweep(command: Command, mnist_root: Path) -> Callable[..., Ended]:
    """Runs a sweep of two tiny trials."""
    tiny = ["data.limit=64", "data.validation=100", "trainer.epochs=1", "model.width=2,3", "augmentation=none"]
    return functools.partial(command, "-m", f"data.root={mnist_root}", *tiny, "hydra.sweeper.study_name=s")


@pytest.mark.slow
def test_a_study_is_one_parent_run_however_often_it_goes_on(sweep: Callable[..., Ended], place: Path) -> None:
    for launcher in ("joblib", "basic"):
        more = "model.width=2,3" if launcher == "joblib" else "hydra.sweeper.n_trials=2"
        ended = sweep("tracker=mlflow", f"hydra/launcher={launcher}", more)
        assert (ended.status, "warning" in ended.err) == (0, False), ended.err
    kept = kept_runs(place / "outputs" / "mlflow")
    (parent,) = (each for each in kept if "mlflow.parentRunId" not in each.data.tags)
    children = [each for each in kept if each is not parent]
    assert sorted(each.info.run_name for each in children) == ["trial-0", "trial-1"]
    assert {each.data.tags["mlflow.parentRunId"] for each in children} == {parent.info.run_id}
    assert (parent.info.run_name, parent.info.status) == ("s", "FINISHED")
    trials = pd.read_csv(place / "outputs" / "sweeps" / "s" / "trials.csv")
    assert parent.data.metrics["best_validation_accuracy"] == trials.validation_accuracy.max()


def test_another_study_of_the_same_name_is_another_parent(config_for: ConfigFor) -> None:
    for key in ("a", "b", "a"):
        config = config_for(TrackerName.mlflow, group="s", key=key)
        Tracking(config.tracker).open_group({"params.+trainer.epochs": "1 to 3", "metrics.top3.source": "abc"})
    folder = Path(config.tracker.folder)
    kept = kept_runs(folder)
    assert [each.info.run_name for each in kept] == ["s", "s"]
    assert kept[0].data.tags["tinysweep.params._trainer.epochs"] == "1 to 3"
    assert kept[0].data.tags["tinysweep.metrics.top3.source"] == "abc"


def test_tensorboard_has_a_folder_for_each_trial(sweep: Callable[..., Ended], place: Path) -> None:
    assert sweep("tracker=tensorboard", "hydra/launcher=basic").status == 0
    folder = place / "outputs" / "tensorboard" / "s"
    assert sorted(each.name for each in folder.iterdir()) == ["trial-0", "trial-1"]
    widths = {
        metadata.parse_session_start_info_plugin_data(
            events(each).PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
        ).hparams["model.width"].number_value
        for each in folder.iterdir()
    }  # fmt: skip
    assert widths == {2, 3}


def test_a_tracker_is_no_part_of_what_a_study_is(sweep: Callable[..., Ended], place: Path) -> None:
    assert sweep("hydra/launcher=basic", "trainer.threads=1").status == 0
    again = sweep("hydra/launcher=basic", "trainer.threads=1", "tracker=tensorboard")
    assert again.status == 0, again.err
    assert len(pd.read_csv(place / "outputs" / "sweeps" / "s" / "trials.csv")) == 2
    winner = (place / "outputs" / "sweeps" / "s" / "experiment" / "winner.yaml").read_text()
    assert "tracker" not in winner


@pytest.mark.parametrize("words", ["tracker=none,mlflow", "tracker.experiment=a,b"])
def test_a_tracker_is_not_searched(sweep: Callable[..., Ended], words: str) -> None:
    ended = sweep(words)
    assert ended.status == 1
    assert "can't be searched" in ended.err


# ---- one that fails


class Failing(Tracker):
    """Raises at one of its methods."""

    def __init__(self, at: str) -> None:
        super().__init__(TrackerConfig())
        self.at, self.asked = at, list[str]()

    def _ask(self, method: str) -> str:
        self.asked.append(method)
        if method == self.at:
            raise ConnectionError("https://me:secret@away.example says no\nand more")
        return "it"

    def begin(self, run: Beginning, known: str | None) -> str:  # noqa: ARG002
        return self._ask("begin")

    def log(self, step: int, figures: Mapping[str, float]) -> None:  # noqa: ARG002
        self._ask("log")

    def end(self, ending: Ending) -> None:  # noqa: ARG002
        self._ask("end")


@pytest.mark.parametrize("at", ["begin", "log", "end"])
def test_a_tracker_that_fails_warns_once_and_stops_nothing(
    tmp_path: Path,
    config_for: ConfigFor,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = Failing(at)
    monkeypatch.setattr(module, "_make", lambda _: failing)
    assert run(config_for(TrackerName.mlflow), tmp_path / "a" / "one", [], ignore).state == "complete"
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    assert warned[0].startswith(
        "warning: tracker=mlflow failed (ConnectionError: https://***@away.example says no)"
    )
    assert failing.asked[-1] == at, "it isn't asked again"


def test_one_that_takes_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forever = functools.partial(threading.Event().wait, 60)
    tracking = Tracking(TrackerConfig(TrackerName.mlflow))
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "_make", lambda _: forever())
    tracking.log(1, {"loss": 1.0})
    tracking.log(2, {"loss": 1.0})
    assert capsys.readouterr().err.count("no answer within 0.05 s") == 1


@pytest.mark.parametrize(
    "tracker",
    [
        TrackerConfig(TrackerName.mlflow, uri="http://127.0.0.1:9"),
        TrackerConfig(TrackerName.mlflow, folder="/proc/none"),
        TrackerConfig(TrackerName.tensorboard, folder="/proc/none"),
        TrackerConfig(TrackerName.wandb, folder="/proc/none"),
    ],
    ids=["server", "mlflow", "tensorboard", "wandb"],
)
def test_what_is_away_or_cant_be_written_is_a_warning(
    tmp_path: Path, config_for: ConfigFor, tracker: TrackerConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config_for(TrackerName.none), tracker=tracker)
    assert run(config, tmp_path / "a" / "one", [], ignore).state == "complete"
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---- settings


def test_a_package_that_isnt_there_is_said_before_anything(
    tmp_path: Path, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"tracker=mlflow needs the package mlflow-skinny; pip install 'tinysweep"
    ):
        run(config_for(TrackerName.mlflow), tmp_path / "one", [])
    assert not (tmp_path / "one").exists()
    for name in TRACKS:
        with pytest.raises(ConfigError, match=rf"\[{name}\]"):
            require(TrackerConfig(name))
    require(TrackerConfig())


@pytest.mark.parametrize(
    "uri", ["https://me:secret@host", "https://secret@host", "postgresql://me:secret@host/db"]
)
@pytest.mark.parametrize("mode", [(), ("-m", "model.width=2,3")])
def test_a_password_is_refused_and_never_shown(command: Command, uri: str, mode: tuple[str, ...]) -> None:
    ended = command(*mode, "tracker=mlflow", f"tracker.uri='{uri}'")
    assert ended.status == 1
    assert "MLFLOW_TRACKING_URI" in ended.err
    assert "secret" not in ended.out + ended.err


@pytest.mark.parametrize("uri", ["host:5000", "file:///runs", "sqlite:///", "htp://host", "http://"])
def test_an_address_of_no_store_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracker\.uri=.* must be http\(s\)://HOST"):
        TrackerConfig(TrackerName.mlflow, uri=uri)


def test_records_from_before_there_were_trackers_are_read(tmp_path: Path, config_for: ConfigFor) -> None:
    run(config_for(TrackerName.none), tmp_path / "one", [], ignore)
    held = record_in(tmp_path / "one")
    del held["config"]["tracker"], held["tracked"]
    assert read_config(held["config"]).tracker == TrackerConfig()


def test_no_run_waits_for_a_tracker_that_it_hasnt_got(tmp_path: Path) -> None:
    code = "import sys, tinysweep.run.run, tinysweep.search.sweep; print([m for m in {} if m in sys.modules])"
    packages = ("tensorboard", "mlflow", "wandb")
    words = [sys.executable, "-c", code.format(packages)]
    assert subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path).stdout == "[]\n"
