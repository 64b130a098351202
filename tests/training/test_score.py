"""Figures of unbalanced classes and metrics of one's own: what they are, where they count, and what is refused."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score
from torch import nn

from conftest import Command, made_images
from tinysweep import targets
from tinysweep.commands import final
from tinysweep.data.load import Data
from tinysweep.errors import ConfigError
from tinysweep.final.results import read_final
from tinysweep.results.merge import find, merge
from tinysweep.results.view import open_view
from tinysweep.search.table import LATER, read_trials
from tinysweep.settings.schema import (
    AugmentationConfig,
    ClassWeights,
    Config,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    SchedulerName,
    TrainerConfig,
)
from tinysweep.training.device import Hardware
from tinysweep.training.loop import balanced_weights, fit
from tinysweep.training.score import check_metrics, class_figures, evaluate

PLAIN = Hardware(torch.device("cpu"), False, 1)
SOURCE = """
def top3(logits, labels):
    return (logits.topk(3, 1).indices == labels[:, None]).any(1).float().mean()

def seen(logits, labels):
    logits.zero_()
    labels.zero_()
    return 0

def tensor(logits, labels):
    return logits

def nothing(logits, labels):
    pass

def text(logits, labels):
    return "0.5"

def true(logits, labels):
    return True

def infinite(logits, labels):
    return float("inf")

def fails(logits, labels):
    raise RuntimeError("no such thing")

def one_argument(logits):
    return 0
"""
TINY = ["data.limit=400", "data.validation=300", "trainer.epochs=1", "trainer.threads=1", "augmentation=none"]


@pytest.fixture
def own(place: Path) -> Iterator[Path]:
    """The folder where one works, with metrics of one's own."""
    (place / "ownmetrics.py").write_text(SOURCE)
    yield place
    sys.modules.pop("ownmetrics", None)
    targets.forget()
    sys.path[:] = [entry for entry in sys.path if entry != str(place)]


# ---- the figures


@pytest.mark.parametrize("classes", [(10, 10), (3, 9), (9, 3)])
def test_figures_are_those_of_scikit_learn(classes: tuple[int, int], generator: torch.Generator) -> None:
    there, said = (torch.randint(0, count, (200,), generator=generator) for count in classes)
    found = class_figures(said, there)
    recalls = recall_score(there, said, average=None, labels=np.unique(there))
    assert found["macro_f1"] == pytest.approx(f1_score(there, said, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["worst_class_accuracy"] == pytest.approx(recalls.min())
    if classes[1] <= classes[0]:  # it warns of classes that are predicted and not there
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(there, said))


def test_a_model_that_always_says_the_frequent_class_has_a_high_accuracy_and_no_other_figure() -> None:
    labels = torch.tensor([0] * 9 + [1])
    assert class_figures(torch.zeros(10, dtype=torch.int64), labels) == {
        "macro_f1": pytest.approx((18 / 19) / 2),
        "balanced_accuracy": 0.5,
        "worst_class_accuracy": 0.0,
    }


# ---- class weights


def test_balanced_weights_make_classes_count_the_same() -> None:
    labels = torch.tensor([0] * 6 + [2] * 3 + [3])
    weights = balanced_weights(labels, 5)
    summed = torch.zeros(5).index_add(0, labels, weights[labels])
    assert summed.tolist() == pytest.approx([10 / 3, 0, 10 / 3, 10 / 3, 0])
    assert weights[labels].mean().item() == pytest.approx(1)


def test_balanced_weights_change_nothing_where_classes_are_balanced() -> None:
    assert balanced_weights(made_images(100).labels, 10).tolist() == [1.0] * 10


def mean_recall(weights: ClassWeights, data: Data) -> float:
    config = Config(
        model=ModelConfig(depth=[1], width=4, stem_kernel=3),
        augmentation=AugmentationConfig(),
        optimizer=OptimizerConfig(lr=0.02),
        scheduler=SchedulerConfig(name=SchedulerName.constant),
        trainer=TrainerConfig(epochs=4, batch_size=20, threads=1, class_weights=weights),
    )
    return fit(config, data).history[-1].further["validation_balanced_accuracy"]


def test_balanced_weights_find_rare_classes_sooner(made_data: Data) -> None:
    labels = made_data.train.labels
    rare = (labels >= 5).nonzero().flatten()[::8]
    kept = torch.cat([(labels < 5).nonzero().flatten(), rare])
    data = replace(made_data, train=made_data.train.pick(kept))
    plain, balanced = (mean_recall(weights, data) for weights in (ClassWeights.none, ClassWeights.balanced))
    assert balanced > plain


# ---- metrics of one's own


@pytest.mark.usefixtures("own")
def test_a_metric_of_ones_own_gets_what_the_model_says_of_all_images() -> None:
    images, model = made_images(2300), nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    score = evaluate(model, images, PLAIN, {"top3": "ownmetrics:top3", "seen": "ownmetrics:seen"})
    with torch.inference_mode():
        logits = model(images.pixels.float())
    places = (logits > logits.gather(1, images.labels[:, None])).sum(1)
    assert score.further["top3"] == pytest.approx((places < 3).double().mean().item(), abs=1e-6)
    assert score.accuracy == pytest.approx((places < 1).double().mean().item())  # what a metric changes is its own
    assert images.labels.max() == 9


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("ownmetrics:nope", "there is no nope in .*ownmetrics.py"),
        ("nomodule:f", "there is no module nomodule"),
        ("ownmetrics:tensor", "returns a Tensor; it must return one number"),
        ("ownmetrics:text", "returns a str; it must return one number"),
        ("ownmetrics:true", "returns a bool; it must return one number"),
        ("ownmetrics:nothing", "returns nothing; it must return one number"),
        ("ownmetrics:infinite", "returns inf; it must return a finite number"),
        ("ownmetrics:fails", r"raises RuntimeError: no such thing \(ownmetrics.py, line 26\)"),
        ("ownmetrics:one_argument", "raises TypeError: .*takes 1 positional argument"),
    ],
)
def test_what_is_no_metric_is_refused_in_one_line_before_training(target: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^metrics.mine={target}:? {said}") as refused:
        check_metrics({"mine": target}, 10)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"loss": "a:b"}, "must have a name of letters and digits, no built-in metric's"),
        ({"macro_f1": "a:b"}, "no built-in metric's"),
        ({"a-b": "a:b"}, "must have a name of letters"),
        ({"mine_sd": "a:b"}, "must have a name of letters"),
        ({"_mine": "a:b"}, "must have a name of letters"),
        ({"mine": "top3"}, "must be MODULE:FUNCTION"),
    ],
)
def test_wrong_names_of_metrics_are_refused(metrics: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^metrics.*{said}"):
        Config(metrics=metrics)


@pytest.mark.usefixtures("mnist_root")
def test_a_run_records_a_metric_of_ones_own_and_goes_on_with_it(own: Path, command: Command) -> None:
    ended = command(*TINY, "model.width=2", "metrics.top3=ownmetrics:top3")
    assert ended.status == 0, ended.err
    (folder,) = own.glob("outputs/runs/*/*")
    metrics = json.loads((folder / "record.json").read_text())["metrics"]
    with (folder / "history.csv").open() as table:
        (epoch,) = csv.DictReader(table)
    for name in ("top3", "macro_f1", "balanced_accuracy", "worst_class_accuracy"):
        assert 0 <= metrics[f"test_{name}"] <= 1
        assert float(epoch[f"validation_{name}"]) == metrics[f"validation_{name}"]
    assert f"validation top3      {metrics['validation_top3']:.4f}" in ended.out
    row = merge(find([folder])).frame.iloc[0]
    assert (row["validation_top3"], row["test_top3"]) == (metrics["validation_top3"], metrics["test_top3"])


SWEEP = ["-m", "model.width=2,3", "optimizer.lr=0.02,0.2", "metrics.top3=ownmetrics:top3", *TINY,
         "hydra.sweeper.objective=validation_top3", "hydra.sweeper.study_name=own"]  # fmt: skip


def sweep(place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    said = [sys.executable, "-m", "tinysweep", *SWEEP, *words]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(said, cwd=place, capture_output=True, text=True, check=False, env=alone)


@pytest.mark.slow
@pytest.mark.usefixtures("mnist_root")
def test_a_study_aims_for_a_metric_of_ones_own_and_its_final_chooses_by_it(own: Path, command: Command) -> None:
    words = ["hydra/launcher=joblib", "hydra/sweeper/pruner=median", "trainer.epochs=2"]
    assert sweep(own, *words).returncode == 0
    folder = own / "outputs/sweeps/own"
    table = read_trials(folder)
    complete = table[table.state == "complete"]
    best = complete.sort_values("validation_top3", ascending=False).iloc[0]
    view = open_view(folder)
    assert view.completed[0].number == best.number
    assert view.completed[0].value == best.validation_top3
    (folder / "study.db").rename(own / "away.db")
    alone = open_view(folder)
    assert [trial.number for trial in alone.completed] == [trial.number for trial in view.completed]
    assert alone.searched.keys() == view.searched.keys()
    (own / "away.db").rename(folder / "study.db")

    ended = command(str(folder), "top=2", "seeds=2", "baseline=null", "jobs=1", main=final.main)
    assert ended.status == 0, ended.err
    held = read_final(folder)
    assert held
    means = [each.further["validation_top3"].mean for each in held.candidates]
    assert means == sorted(means, reverse=True)
    assert all(0 < run.further["test_top3"] <= 1 for run in held.winner.runs)
    assert "candidates by mean validation top3" in ended.out
    assert "over images" not in (held.method or ""), "it is no mean over images"

    (own / "ownmetrics.py").write_text(SOURCE.replace("topk(3", "topk(2"))
    again = sweep(own, *words, "hydra.sweeper.n_trials=9")
    assert again.returncode != 0
    assert "metrics.top3.source" in again.stderr
    targets.forget()
    sys.modules.pop("ownmetrics", None)
    held_again = command(str(folder), "top=2", "seeds=3", "baseline=null", "jobs=1", main=final.main)
    assert held_again.status != 0
    assert "the source of metrics.top3=ownmetrics:top3 has changed since the study own was begun" in held_again.err


@pytest.mark.usefixtures("own", "mnist_root")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["hydra.sweeper.objective=validation_top5"],
            "names no metric validation_top5; did you mean validation_top3",
        ),
        (["hydra.sweeper.objective=top3"], "did you mean validation_top3"),
        (["hydra.sweeper.objective=macro_f1"], "did you mean validation_macro_f1"),
        (["hydra.sweeper.objective=test_top3"], "no search reads the test set"),
        (["metrics.top3=ownmetrics:top3,ownmetrics:seen"], "judges all trials by the same metric"),
        (["metrics.top3=ownmetrics:fails"], "raises RuntimeError: no such thing"),
    ],
)
def test_a_sweep_refuses_what_it_can_not_be_judged_by(words: list[str], said: str, command: Command) -> None:
    ended = command(*SWEEP, *words)
    assert ended.status != 0
    assert said in ended.err
    assert not Path("outputs/sweeps/own/trials").exists()


def test_tables_of_earlier_versions_are_read(place: Path) -> None:
    old = Path(__file__).parents[2] / "results/frontier/20k/trials.csv"
    table = read_trials(old)
    (place / "trials.csv").write_text(table.drop(columns=list(LATER)).to_csv(index=False))
    assert read_trials(place)[list(LATER)].isna().all(axis=None)
    assert merge(find([place])).parameters == merge(find([old])).parameters
    assert [trial.number for trial in open_view(place).completed] == open_completed(old)


def open_completed(table: Path) -> list[int]:
    return [trial.number for trial in open_view(table.parent).completed]
