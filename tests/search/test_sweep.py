"""A sweep as its user sees it: the real command, plugin and launchers, on a slice of real MNIST."""

import functools
import gc
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import psutil
import pytest
import torch
from filelock import FileLock, Timeout
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from omegaconf import OmegaConf
from PIL import Image

import tinysweep
from conftest import Command, made_images
from tinysweep.data import load as data
from tinysweep.errors import DivergedError, StudyError
from tinysweep.report.again import words_of_study
from tinysweep.report.style import value_text
from tinysweep.results.view import open_view
from tinysweep.run.checkpoint import load
from tinysweep.run.record import RunFolder
from tinysweep.run.run import run
from tinysweep.search import plan
from tinysweep.search import sweep as sweep_module
from tinysweep.search.propose import Proposer
from tinysweep.search.storage import opening
from tinysweep.search.study import Presence
from tinysweep.search.table import read_trials
from tinysweep.search.workers import trial
from tinysweep.search.workers.dispatch import Jobs
from tinysweep.search.workers.trial import Reporter
from tinysweep.settings.schema import Config
from tinysweep.training.device import usable_cores
from tinysweep.training.loop import Epoch

TINY = ["data.limit=64", "data.validation=100", "trainer.epochs=2", "trainer.clean_epochs=0", "trainer.threads=1"]
SPACE = ["model.width=range(2,40)", "optimizer.lr=tag(log,interval(0.01,0.3))"]
TRAINED = ("complete", "pruned", "failed")

Sweep = Callable[..., Any]


@pytest.fixture
def sweep(command: Command, mnist_root: Path) -> Sweep:
    """Runs a sweep in this process, job after job, and returns how it ended."""
    return functools.partial(command, "-m", f"data.root={mnist_root}", *TINY, "hydra/launcher=basic")


def sampler(name: str, seed: int = 0) -> list[str]:
    return [f"hydra/sweeper/sampler={name}", f"hydra.sweeper.sampler.seed={seed}", "hydra.sweeper.study_name=s"]


def table(place: Path, name: str = "s") -> pd.DataFrame:
    return read_trials(place / "outputs/sweeps" / name / "trials.csv")


def load_study(place: Path, name: str = "s") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{place}/outputs/sweeps/{name}/study.db")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of every job that reached the launcher."""
    jobs: list[list[str]] = []
    real = BasicLauncher.launch

    def spy(self: BasicLauncher, job_overrides: Any, initial_job_idx: int) -> Any:
        jobs.extend(list(job) for job in job_overrides)
        return real(self, job_overrides, initial_job_idx)

    monkeypatch.setattr(BasicLauncher, "launch", spy)
    return jobs


def composed(job: list[str]) -> Config:
    config = tinysweep.compose(*job)
    return tinysweep.resolve(config, tinysweep.describe(config.data))


# ---- the gate


@pytest.mark.parametrize("chosen", [
    ["model.width=4,12,15,16,17,24,40", "hydra.sweeper.study_name=s"],
    pytest.param([*SPACE, *sampler("random"), "hydra.sweeper.n_trials=5"], marks=pytest.mark.slow),
    [*SPACE, *sampler("tpe"), "hydra.sweeper.n_trials=5"],
    pytest.param([*SPACE, *sampler("nsgaii"), "hydra.sweeper.n_trials=5",
                  "hydra.sweeper.objective=[validation_accuracy,params]"], marks=pytest.mark.slow),
], ids=["grid", "random", "tpe", "nsgaii"])  # fmt: skip
def test_no_model_over_the_budget_is_ever_launched(
    sweep: Sweep, place: Path, launched: list[list[str]], chosen: list[str]
) -> None:
    ended = sweep(*chosen)
    assert ended.status == 0, ended.err
    trials = table(place)
    refused = trials[trials.state == "over_budget"]
    assert len(refused) > 0
    assert (refused.params >= 20000).all()
    assert (trials[trials.state == "complete"].params < 20000).all()
    configs = [composed(job) for job in launched]
    assert {config.trial for config in configs} == set(trials[trials.state == "complete"].number)
    assert len(configs) == (4 if chosen[0].startswith("model.width=4") else 5)
    for config in configs:
        assert tinysweep.measure(config.model, tinysweep.describe(config.data)).params < 20000
    constraints = [t.constraints["params"] for t in load_study(place).get_trials()]
    assert [value > 0 for value in constraints] == list(trials.state == "over_budget")


def test_what_is_interpolated_from_another_section_is_costed_as_it_is_trained(
    sweep: Sweep, place: Path, launched: list[list[str]]
) -> None:
    chosen = ["model.width=4", "model.head=linear", "trainer.batch_size=8,512", "hydra.sweeper.study_name=s"]
    ended = sweep(*chosen, "model.hidden=${trainer.batch_size}", "budget.params=5000")
    assert ended.status == 0, ended.err
    trials = table(place)
    assert list(trials.state) == ["complete", "over_budget"]
    (job,) = launched
    config = composed(job)
    assert config.model.hidden == 8
    cost = tinysweep.measure(config.model, tinysweep.describe(config.data))
    record = json.loads((place / "outputs/sweeps/s/trials/0/record.json").read_text())
    assert trials.params[0] == record["cost"]["params"] == cost.params < 5000
    assert trials.params[1] > 40000
    winner = OmegaConf.load(place / "outputs/sweeps/s/experiment/winner.yaml")
    assert winner.model.hidden == 8


def test_a_space_without_a_model_that_fits_ends_with_the_smallest_and_the_limit(
    sweep: Sweep, place: Path, launched: list[list[str]]
) -> None:
    ended = sweep("model.width=range(20,40)", "optimizer.lr=interval(0.1,0.2)", *sampler("tpe"),
                  "hydra.sweeper.max_rejections=30")  # fmt: skip
    assert ended.status == 1
    smallest = table(place).params.min()
    assert re.fullmatch(
        rf"error: no model fits: 30 proposals in a row were refused; the smallest model had {smallest:,} "
        r"trainable parameters; the last: [\d,]+ trainable parameters, must be fewer than budget.params=20000; "
        r"search smaller models or raise the budget\n",
        ended.err,
    )
    assert not launched
    assert len(table(place)) == 30


def test_a_grid_that_is_all_over_the_budget_is_an_error_too(sweep: Sweep) -> None:
    ended = sweep("model.width=30,40")
    assert ended.status == 1
    assert ended.err.startswith("error: no model fits: the smallest model had 62,179 ")


def test_the_widest_model_is_one_that_fits(sweep: Sweep, place: Path) -> None:
    ended = sweep("model=plain,residual", "model.width=auto", "hydra.sweeper.study_name=s")
    assert ended.status == 0, ended.err
    assert (table(place).params < 20000).all()
    assert (table(place).params > 17000).all()


# ---- what is counted, repeated, left out


def test_the_same_configuration_is_trained_once(sweep: Sweep, place: Path, launched: list[list[str]]) -> None:
    ended = sweep("model.width=range(2,5)", *sampler("random"), "hydra.sweeper.n_trials=50")
    assert ended.status == 0, ended.err
    trials = table(place)
    assert len(launched) == 3
    assert sorted(trials[trials.state == "complete"]["model.width"]) == [2, 3, 4]
    assert set(trials.state) <= {"complete", "duplicate"}
    assert all(re.match(r"same configuration as trial \d", reason) for reason in trials.reason.dropna())


def test_automatic_and_explicit_width_are_the_same_configuration(
    sweep: Sweep, place: Path, launched: list[list[str]]
) -> None:
    sweep("model.width=auto,16,15", "hydra.sweeper.study_name=s")
    assert list(table(place).state) == ["complete", "duplicate", "complete"]
    assert len(launched) == 2


def test_quoted_choices_count_by_their_values_and_are_shown_without_quotes(sweep: Sweep, place: Path) -> None:
    words = ["scheduler=constant", "scheduler.name='step','constant'", "scheduler.gamma=0.3,0.5", "model.width=4",
             "trainer.epochs=1", "hydra.sweeper.study_name=s"]  # fmt: skip
    ended = sweep(*words)
    assert ended.status == 0, ended.err
    trials = table(place)
    assert list(trials["scheduler.name"]) == ["step", "step", "constant"]
    assert list(trials["scheduler.gamma"].fillna(0)) == [0.3, 0.5, 0]
    assert not re.search("['\"](step|constant)", ended.out)
    results = OmegaConf.load(place / "outputs/sweeps/s/optimization_results.yaml")
    assert results.best_params["scheduler.name"] in ("step", "constant")
    view = open_view(place / "outputs/sweeps/s", None)
    assert [value_text(trial.params["scheduler.name"]) for trial in view.trials] == ["step", "step", "constant"]
    assert "scheduler.name=choice('step','constant')" in words_of_study(view, words)
    again = sweep(*words)
    assert again.status == 0, again.err
    assert table(place).equals(trials), "a study goes on with its texts as Optuna holds them"


@pytest.mark.slow
def test_groups_lists_and_numbers_are_searched_together(sweep: Sweep, place: Path) -> None:
    ended = sweep("model=choice(plain,residual)", "model.depth=choice([1,1],[1,2])", "model.width=range(2,4)",
                  *sampler("tpe"), "hydra.sweeper.n_trials=5")  # fmt: skip
    assert ended.status == 0, ended.err
    trials = table(place)
    for _, row in trials[trials.state == "complete"].iterrows():
        record = json.loads((place / "outputs/sweeps/s" / row.folder / "record.json").read_text())
        assert record["config"]["model"]["family"] == row.model
        assert record["config"]["model"]["depth"] == json.loads(row["model.depth"])
        assert record["config"]["model"]["width"] == row["model.width"]
        assert record["config"]["trial"] == row.number


# ---- honest selection


def test_the_test_set_is_never_read(sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the test set was read")

    monkeypatch.setattr(data, "load_test", refuse)
    monkeypatch.setattr("tinysweep.run.run.load_test", refuse)
    sweep("model.width=2,3", "hydra.sweeper.study_name=s")
    assert list(table(place).state) == ["complete"] * 2
    records = place.glob("outputs/sweeps/s/trials/*/record.json")
    assert {json.loads(file.read_text())["metrics"]["test_accuracy"] for file in records} == {None}


def test_the_winner_is_the_best_by_the_objective(sweep: Sweep, place: Path) -> None:
    ended = sweep("model.width=2,4,8", "hydra.sweeper.study_name=s", "hydra.sweeper.objective=validation_loss")
    assert ended.status == 0, ended.err
    trials = table(place)
    winner = (place / "outputs/sweeps/s/experiment/winner.yaml").read_text()
    number = int(re.findall(r"# Trial (\d+) of", winner)[0])
    assert trials.validation_loss[number] == trials.validation_loss.min()
    assert load_study(place).best_trial.value == pytest.approx(trials.validation_loss[number])


@pytest.mark.parametrize("aim", ["params", pytest.param("[macs,activation_bytes]", marks=pytest.mark.slow)])
def test_a_study_may_aim_for_what_no_epoch_tells(sweep: Sweep, place: Path, aim: str) -> None:
    ended = sweep("model.width=4,3", "trainer.epochs=1", "hydra.sweeper.study_name=s",
                  f"hydra.sweeper.objective={aim}")  # fmt: skip
    assert ended.status == 0, ended.err
    trials, first = table(place), aim.strip("[]").split(",")[0]
    assert list(trials.state) == ["complete", "complete"], trials.reason[0]
    ranks = re.findall(r"(?m)^ +([01]) ", ended.out)[:2]
    assert [int(number) for number in ranks] == list(trials.sort_values(first).number), "fewer is better"


@pytest.mark.slow
def test_several_objectives_give_a_pareto_front(sweep: Sweep, place: Path) -> None:
    ended = sweep("model.width=range(2,12)", *sampler("nsgaii"), "hydra.sweeper.n_trials=6",
                  "hydra.sweeper.objective=[validation_accuracy,params]")  # fmt: skip
    assert ended.status == 0, ended.err
    assert "Pareto front" in ended.out
    fronts = {t.number for t in load_study(place).best_trials}
    printed = ended.out.split("Pareto front")[1]
    assert {int(number) for number in re.findall(r"^ +(\d+)  +\d", printed, re.MULTILINE)} <= fronts


# ---- resuming


def test_the_same_command_goes_on_to_the_number_of_trials_in_total(
    sweep: Sweep, place: Path, launched: list[list[str]]
) -> None:
    sweep(*SPACE, *sampler("random"), "hydra.sweeper.n_trials=3")
    first = table(place)
    sweep(*SPACE, *sampler("random"), "hydra.sweeper.n_trials=5")
    both = table(place)
    assert len(launched) == 5
    assert Counter(both.state)["complete"] == 5
    pd.testing.assert_frame_equal(both.head(len(first)), first)
    assert both["optimizer.lr"].is_unique  # the sampler doesn't draw again what it began with
    again = sweep(*SPACE, *sampler("random"), "hydra.sweeper.n_trials=5")
    assert again.status == 0
    assert len(launched) == 5
    assert "5 of 5 trials trained" in again.out


@pytest.mark.slow
def test_a_plain_grid_typed_again_goes_on_and_another_one_is_another_study(
    sweep: Sweep, place: Path, launched: list[list[str]]
) -> None:
    sweep("model.width=2,3", "hydra.sweeper.n_trials=1")
    sweep("model.width=2,3")
    assert len(launched) == 2
    sweep("model.width=2,3", "trainer.seed=1")
    assert len(launched) == 4
    assert len(list((place / "outputs/sweeps").iterdir())) == 2


@pytest.mark.slow
def test_a_study_that_was_begun_otherwise_is_refused_with_the_difference(
    sweep: Sweep, place: Path, launched: list[list[str]]
) -> None:
    sweep("model.width=2,3", "hydra.sweeper.study_name=s")
    before = (place / "outputs/sweeps/s/trials.csv").read_bytes()
    for changed, shown in {
        "model.width=2,4": "params.model.width: choice(2,3) -> choice(2,4)",
        "budget.params=10000": "budget.params: 20000 -> 10000",
        "data.split_seed=1": "data.split_seed: 0 -> 1",
        "trainer.epochs=3": "trainer.epochs: 2 -> 3",
        "hydra.sweeper.objective=validation_loss": "objective: validation_accuracy -> validation_loss",
    }.items():
        ended = sweep("model.width=2,3", "hydra.sweeper.study_name=s", changed)
        assert ended.status == 1
        assert f"\n  {shown}\n" in ended.err
    assert (place / "outputs/sweeps/s/trials.csv").read_bytes() == before
    assert len(launched) == 2


# ---- failures


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> dict[int, Exception]:
    """What the trials of a width raise instead of being trained."""
    faults: dict[int, Exception] = {}
    real: Callable[..., Any] = run

    def faulty_run(config: Config, *rest: Any) -> Any:
        if error := faults.get(int(config.model.width)):
            raise error
        return real(config, *rest)

    monkeypatch.setattr(trial, "run", faulty_run)
    return faults


def test_trials_that_raise_are_failed_with_their_reason_and_the_study_goes_on(
    sweep: Sweep, place: Path, faulty: dict[int, Exception]
) -> None:
    faulty[3] = MemoryError("no 8 GiB left")
    faulty[4] = DivergedError("training diverged: the loss of epoch 1 is nan")
    ended = sweep("model.width=2,3,4,5", "hydra.sweeper.study_name=s", "hydra.sweeper.max_failure_rate=0.5")
    assert ended.status == 0, ended.err
    trials = table(place)
    assert list(trials.state) == ["complete", "failed", "failed", "complete"]
    assert list(trials.reason[1:3]) == ["MemoryError: no 8 GiB left", str(faulty[4])]
    assert [t.state.name for t in load_study(place).get_trials()] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]


@pytest.mark.slow
def test_what_failed_from_outside_is_tried_again_and_a_divergence_is_not(
    sweep: Sweep, place: Path, faulty: dict[int, Exception], launched: list[list[str]]
) -> None:
    faulty |= {3: OSError(13, "Permission denied"), 4: DivergedError("training diverged: the loss is nan")}
    words = ["model.width=2,3,4,5", "hydra.sweeper.study_name=s", "hydra.sweeper.max_failure_rate=0.5"]
    ended = sweep(*words)
    assert ended.status == 0, ended.err
    assert (
        "1 trial failed for a reason outside the configuration (trial 1: PermissionError: [Errno 13]" in ended.out
    )
    sweep(*words)
    assert [composed(job).model.width for job in launched[4:]] == [3], "tried once a call while it still fails"
    del faulty[3], faulty[4]
    ended = sweep(*words, "hydra.sweeper.max_failure_rate=0.25")
    assert ended.status == 0, ended.err
    assert "4 trials trained (3 complete, 1 failed, 2 failed earlier)" in ended.out
    assert "outside the" not in ended.out
    assert [composed(job).model.width for job in launched[5:]] == [3]
    assert list(table(place).state) == ["complete", "failed", "failed", "complete", "failed", "complete"]
    assert sweep(*words).status == 0
    assert len(launched) == 6


@pytest.mark.slow
def test_a_study_that_failed_from_outside_goes_on_once_that_is_mended(
    sweep: Sweep, place: Path, faulty: dict[int, Exception]
) -> None:
    faulty |= dict.fromkeys(range(2, 40), OSError(13, "Permission denied"))
    words = [*SPACE, *sampler("random"), "hydra.sweeper.n_trials=10"]
    ended = sweep(*words)
    assert ended.status == 1
    assert "10 of 10 trials failed, more than hydra.sweeper.max_failure_rate=0.25" in ended.err
    assert ended.err.endswith("; once that is mended, the same command tries it again\n")
    first = table(place).query("state == 'failed'")
    faulty.clear()
    ended = sweep(*words)
    assert ended.status == 0, ended.err
    assert "10 of 10 trials trained (10 complete" in ended.out
    mended = table(place).query("state == 'complete'")
    assert set(mended["optimizer.lr"]) == set(first["optimizer.lr"]), "those that had failed, and no others"


def test_a_trial_that_really_diverges_is_failed(sweep: Sweep, place: Path) -> None:
    sweep("optimizer.lr=1000", "data.limit=1000", "trainer.batch_size=16", "model.width=choice(2)",
          "hydra.sweeper.study_name=s", "hydra.sweeper.max_failure_rate=1")  # fmt: skip
    assert list(table(place).state) == ["failed"]
    assert table(place).reason[0].startswith("training diverged: ")
    assert json.loads(next(place.glob("outputs/sweeps/s/trials/0/record.json")).read_text())["state"] == "failed"


@pytest.mark.slow
def test_too_many_failures_end_the_study(
    sweep: Sweep, place: Path, launched: list[list[str]], faulty: dict[int, Exception]
) -> None:
    faulty |= {width: RuntimeError("no luck") for width in range(3, 11)}
    ended = sweep("model.width=range(1,15)", "hydra.sweeper.batch_size=5",
                  "hydra.sweeper.study_name=s", "hydra.sweeper.max_failure_rate=0.5")  # fmt: skip
    assert ended.status == 1
    assert "8 of 10 trials failed, more than hydra.sweeper.max_failure_rate=0.5" in ended.err
    assert "RuntimeError: no luck" in ended.err
    assert len(launched) == 10
    assert Counter(table(place).state) == {"complete": 2, "failed": 8}


def test_a_study_in_which_nothing_completes_still_leaves_its_table(
    sweep: Sweep, place: Path, faulty: dict[int, Exception]
) -> None:
    faulty[2] = RuntimeError("no luck")
    ended = sweep("model.width=choice(2)", "hydra.sweeper.study_name=s", "hydra.sweeper.max_failure_rate=1")
    assert ended.status == 0
    assert "no trial has completed\n" in ended.out
    assert list(table(place).state) == ["failed"]


@pytest.mark.slow
def test_a_sweep_with_nothing_left_to_do_says_that_another_is_still_at_work(
    sweep: functools.partial[Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model.width=choice(2)", "hydra.sweeper.study_name=s"]
    ended: list[subprocess.CompletedProcess[str]] = []
    real = BasicLauncher.launch

    def beside(self: BasicLauncher, job_overrides: Any, initial_job_idx: int) -> Any:
        monkeypatch.setattr(BasicLauncher, "launch", real)
        ended.append(subprocess.run(
            [sys.executable, "-m", "tinysweep.commands.train", *sweep.args, *words],
            capture_output=True, text=True, check=True,
        ))  # fmt: skip
        return real(self, job_overrides, initial_job_idx)

    monkeypatch.setattr(BasicLauncher, "launch", beside)
    first = sweep(*words)
    assert "no trial has completed yet; another sweep is at work on 1 more trial\n" in ended[0].stdout
    assert "another sweep" not in first.out
    assert list(table(place).state).count("complete") == 1


@pytest.mark.slow
def test_a_locked_database_is_one_line_and_loses_nothing(
    sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("model.width=2,3", "hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=1")
    monkeypatch.setattr(opening, "BUSY_SECONDS", 0.2)
    database = sqlite3.connect(place / "outputs/sweeps/s/study.db")
    database.execute("BEGIN EXCLUSIVE")
    ended = sweep("model.width=2,3", "hydra.sweeper.study_name=s", "hydra.sweeper.storage_patience=1")
    assert ended.status == 1
    assert re.fullmatch(r"error: the study's storage .*study.db failed: .*database is locked; .*\n", ended.err)
    database.rollback()
    assert sweep("model.width=2,3", "hydra.sweeper.study_name=s").status == 0
    assert list(table(place).state) == ["complete"] * 2


def test_a_job_that_cannot_report_goes_on_without_being_pruned(
    sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise optuna.exceptions.StorageInternalError("gone for a while")

    monkeypatch.setattr(optuna.trial.Trial, "report", unreachable)
    sweep("model.width=choice(2)", "hydra.sweeper.study_name=s", "hydra/sweeper/pruner=median")
    assert list(table(place).state) == ["complete"]


# ---- pruning


def test_a_trial_that_falls_behind_is_pruned(sweep: Sweep, place: Path) -> None:
    ended = sweep("optimizer.lr=0.1,0.05,1e-6", "trainer.epochs=6", "model.width=4", "hydra.sweeper.study_name=s",
                  "hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2", "data.limit=1000",
                  "hydra.sweeper.objective=validation_loss")  # fmt: skip
    assert ended.status == 0, ended.err
    trials = table(place)
    assert list(trials.state) == ["complete", "complete", "pruned"]
    assert trials.epochs[2] < 6
    assert trials.reason[2] == f"stopped by MedianPruner after epoch {trials.epochs[2]} of 6"
    pruned = load_study(place).get_trials()[2]
    assert pruned.state.name == "PRUNED"
    assert sorted(pruned.intermediate_values) == list(range(1, trials.epochs[2] + 1))
    assert (
        json.loads((place / "outputs/sweeps/s" / trials.folder[2] / "record.json").read_text())["state"]
        == "pruned"
    )


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["none", "median", "patient", "successive_halving", "hyperband"])
def test_every_pruner_lets_a_study_finish(sweep: Sweep, place: Path, pruner: str) -> None:
    ended = sweep("optimizer.lr=0.1,0.01,0.001,1e-5", "model.width=2", "trainer.epochs=4",
                  f"hydra/sweeper/pruner={pruner}", "hydra.sweeper.study_name=s")  # fmt: skip
    assert ended.status == 0, ended.err
    assert set(table(place).state) <= {"complete", "pruned"}
    assert len(table(place)) == 4


# ---- rungs


RUNGS = ["hydra/sweeper/sampler=grid", "model.width=2",
         "trainer.epochs=4", "hydra.sweeper.rungs=[1,2]", "hydra/sweeper/pruner=successive_halving",
         "hydra.sweeper.pruner.reduction_factor=2", "hydra.sweeper.batch_size=1",
         "hydra.sweeper.objective=validation_loss"]  # fmt: skip


def history(place: Path, number: int, study: str = "s") -> list[Epoch]:
    return RunFolder(place / "outputs/sweeps" / study / "trials" / str(number)).read_history()


def test_a_trial_trains_rung_after_rung_and_is_pruned_after_one(sweep: Sweep, place: Path) -> None:
    ended = sweep(*RUNGS, "optimizer.lr=0.1,1e-6", "data.limit=200", "hydra.sweeper.study_name=s")
    assert ended.status == 0, ended.err
    trials = table(place)
    assert list(trials.epochs) == [4, 1], "the first has no competitor, and the second learns nothing"
    assert trials.state[1] == "pruned"
    assert trials.reason[1] == "stopped by SuccessiveHalvingPruner after the rung of 1 of 4 epochs"
    assert re.search(r"^trial 1 +pruned +rung +1 ", ended.out, re.MULTILINE)
    for number, epochs, seconds in zip(trials.number, trials.epochs, trials.seconds, strict=True):
        told, found = history(place, number), load_study(place).get_trials()[number]
        steps = [rung for rung in (1, 2, 4) if rung <= epochs]
        assert [epoch.epochs for epoch in told] == [rung for rung in steps for _ in range(rung)]
        assert found.intermediate_values == {
            epoch.epoch: epoch.validation_loss for epoch in told if epoch.is_comparable
        }
        assert trials.validation_loss[number] == told[-1].validation_loss
        assert seconds == pytest.approx(sum(epoch.seconds for epoch in told), abs=1e-3)


@pytest.mark.parametrize("stop", [pytest.param((2, 1), marks=pytest.mark.slow), (4, 3)])
def test_a_trial_cut_short_in_a_rung_goes_on_with_it_to_the_same_bits(
    sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, int]
) -> None:
    words = [*RUNGS, "optimizer.lr=choice(0.1)"]
    sweep(*words, "hydra.sweeper.study_name=whole")
    reported = Reporter.__call__

    def interrupted(self: Reporter, epoch: Epoch) -> None:
        reported(self, epoch)
        if (epoch.epochs, epoch.epoch) == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "__call__", interrupted)
        assert sweep(*words, "hydra.sweeper.study_name=s").status == 130
    assert sweep(*words, "hydra.sweeper.study_name=s").status == 0
    trials, whole = table(place), table(place, "whole")
    assert list(trials.state) == ["interrupted", *whole.state]
    cut, again, never = history(place, 0), history(place, 1), history(place, 0, "whole")
    done = [epoch for epoch in cut if (epoch.epochs or 0) < stop[0]]
    assert again[: len(done)] == done, "with the seconds that they took then"
    assert [replace(epoch, seconds=0) for epoch in again] == [replace(epoch, seconds=0) for epoch in never]
    assert trials.seconds[1] == pytest.approx(sum(epoch.seconds for epoch in again), abs=1e-3)
    names = ["validation_loss", "validation_accuracy", "epochs"]
    pd.testing.assert_frame_equal(trials[names][1:].reset_index(drop=True), whole[names])
    values = [load_study(place, name).get_trials()[number].intermediate_values
              for name, number in (("s", 1), ("whole", 0))]  # fmt: skip
    assert values[0] == values[1]
    weights = [load(place / "outputs/sweeps" / folder).state_dict() for folder in ("s/trials/1", "whole/trials/0")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])


def test_where_epochs_are_searched_a_trial_leaves_out_the_rungs_that_are_not_below_its_own(
    sweep: Sweep, place: Path
) -> None:
    words = ["hydra.sweeper.rungs=[1,2]", "hydra/sweeper/pruner=median", "hydra.sweeper.study_name=s"]
    ended = sweep("model.width=2", "trainer.epochs=1,2,3", *words)
    assert ended.status == 0, ended.err
    lengths = [list(dict.fromkeys(epoch.epochs for epoch in history(place, number))) for number in range(3)]
    assert lengths == [[1], [1, 2], [1, 2, 3]]
    assert [sorted(trial.intermediate_values) for trial in load_study(place).get_trials()] == lengths


# ---- the rest


@pytest.mark.slow
def test_once_its_time_is_over_a_sweep_hands_out_nothing_more_and_lets_what_is_out_end(
    command: Command, mnist_root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-m", f"data.root={mnist_root}", *TINY, "model.width=2,3,4,5,6", "hydra.sweeper.study_name=s",
             "hydra.launcher.n_jobs=2", "hydra.sweeper.batch_size=2"]  # fmt: skip
    real, out, passed = Jobs.submit, list[int](), 0.0

    def submit(jobs: Jobs, number: int, overrides: list[str]) -> None:
        nonlocal passed
        out.append(number)
        passed = 100.0 * (len(out) == 2)  # while both are only just beginning
        real(jobs, number, overrides)

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "submit", submit)
        patch.setattr(sweep_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))
        ended = command(*words, "hydra.sweeper.max_seconds=99")
    assert (ended.status, out) == (0, [0, 1])
    assert ended.out.count("hydra.sweeper.max_seconds=99 are over\n") == 1
    assert "study s: 2 trials trained (2 complete)" in ended.out
    first = table(place)
    assert list(first.state) == ["complete"] * 2
    assert command(*words).status == 0
    assert list(table(place).state) == ["complete"] * 5
    pd.testing.assert_frame_equal(table(place).head(2), first)


def test_a_space_that_is_used_up_ends_a_study_well_and_says_so(
    sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody can count its points: here there are two configurations in any number of threads."""
    monkeypatch.setattr(plan, "SMALL_SPACE", 1)
    ended = sweep("model.width=2,3", "trainer.threads=range(1,9)", *sampler("random"), "hydra.sweeper.n_trials=9",
                  "hydra.sweeper.max_rejections=7")  # fmt: skip
    assert ended.status == 0, ended.err
    assert "\n7 proposals in a row brought nothing new: the space is used up\n" in ended.out
    states = list(table(place).state)
    assert (states.count("complete"), set(states[-7:])) == (2, {"duplicate"})


@pytest.mark.parametrize(
    "storage",
    ["trials.log", *(pytest.param(each, marks=pytest.mark.slow) for each in ("sqlite:///all.db", "null"))],
)
def test_jobs_that_run_in_folders_of_their_own_find_study_and_data(
    command: Command, place: Path, mnist_root: Path, storage: str
) -> None:
    (place / "it's data").symlink_to(mnist_root)
    ended = command("-m", *TINY, "hydra/launcher=basic", "model.width=2,3", "hydra.job.chdir=true",
                    "data.root='it\\'s data'", "data.download=false", "hydra.sweep.dir=mine",
                    "hydra.sweeper.study_name=s", f"hydra.sweeper.storage={storage}")  # fmt: skip
    assert ended.status == 0, ended.err
    trials = read_trials(place / "mine/trials.csv")
    assert list(trials.state) == ["complete"] * 2
    for folder in trials.folder:
        record = json.loads((place / "mine" / folder / "record.json").read_text())
        assert record["config"]["data"]["root"] == str(place / "it's data")
    found = {path.parent for name in ("study.db", "all.db", "trials.log") for path in place.rglob(name)}
    assert found == {place / "mine" if storage == "null" else place}


@pytest.mark.slow
def test_the_winner_is_trained_by_the_command_that_is_printed(sweep: Sweep, command: Command, place: Path) -> None:
    swept = sweep("model.width=2,4", "hydra.sweeper.study_name=s", "hydra.sweeper.retrain=['trainer.epochs=3']")
    words = re.findall(r"^train the winner +tinysweep (.*)$", swept.out, re.MULTILINE)[0].split()
    ended = command(*words)
    assert ended.status == 0, ended.err
    record = json.loads(next(place.glob("outputs/runs/*/*/record.json")).read_text())
    assert record["epochs"] == 3
    assert record["name"] == "s-winner"
    assert record["metrics"]["test_accuracy"] is not None
    best = table(place).sort_values("validation_accuracy").iloc[-1]
    assert record["config"]["model"]["width"] == best["model.width"]


def test_a_study_is_run_by_name_and_its_parts_are_overridden(sweep: Sweep, place: Path) -> None:
    (place / "sweeps").mkdir()
    (place / "sweeps/mine.yaml").write_text(
        "defaults: [override /hydra/sweeper/sampler: random]\n"
        "hydra: {sweeper: {study_name: mine, n_trials: 9, params: {model.width: 'range(2,9)'}}}\n"
    )
    ended = sweep("sweeps=mine", "hydra.sweeper.n_trials=2", "optimizer.lr=0.1,0.2")
    assert ended.status == 0, ended.err
    trials = table(place, "mine")
    assert Counter(trials.state)["complete"] == 2
    assert list(trials.columns[-2:]) == ["model.width", "optimizer.lr"]


def test_a_study_without_m_is_refused(command: Command, place: Path) -> None:
    ended = command("sweeps=quick")
    assert ended.status == 1
    assert ended.err == "error: sweeps=quick is a study, which needs -m: tinysweep -m sweeps=quick\n"
    assert not list(place.iterdir())


@pytest.mark.parametrize(("words", "said"), [
    (["model.widht=2,3"], "model.widht is not a setting; did you mean model.width?"),
    (["dropout.rate=0.1,1.5"], "dropout.rate=1.5 must lie in [0, 1)"),
    (["optimizer.lr=interval(0.1,0.2)"], "optimizer.lr is continuous, and a grid needs values"),
    (["trial=1,2"], "trial is set by the sweep itself"),
    (["model.width=2,3", "data.validation=0"], "data.validation=0 leaves a sweep nothing to judge by"),
    (["model.width=2,3", "trainer.test=true"], "a sweep never reads the test set"),
    (["model.width=2,3", "hydra.sweeper.start_with=[{model.width:2}]"], "start_with has no meaning for a grid"),
    (["model.width=2,3", "hydra/sweeper/sampler=random", "hydra.sweeper.start_with=[{model.width:4}]"],
     "model.width=4 isn't in what is searched, choice(2,3)"),
    (["model.width=2,3", "hydra.sweeper.objective=accuracy"], "objective=accuracy names no metric accuracy"),
    (["model.width=2,3", "hydra.sweeper.n_trails=3"], "did you mean hydra.sweeper.n_trials?"),
    (["model.width=2,3", "hydra.sweeper.retrain=['trainer.epoch=3']"], "did you mean trainer.epochs?"),
    (["model.width=2,3", "hydra.sweeper.storage=nonesuch://x/y"], "nonesuch"),
    (["sweeps=nope"], "sweeps=nope must be one of"),
    (["model.width=2,3", "trainer.epochs=0"], "trainer.epochs=0 must lie in [1, 100000]"),
    (["model.width=2,3", "hydra.sweep.subdir=mine/${trial}"], "hydra.sweep.subdir=mine/${trial} can't be set"),
    (["model.width=2,3", "hydra.sweeper.study_name=a/b"], "study_name=a/b must be usable as a folder name"),
    (["model=nope,nope2"], "nope"),
    (["scheduler=nope,step", "scheduler.gamma=0.3,0.4"], "nope"),
    (["+model.width=4,8"], "model.width"),
    (["model.width=2,3", "hydra.sweeper.rungs=[1]"], "hydra.sweeper.rungs=[1] needs a pruner"),
    (["model.width=2,3", "hydra.sweeper.rungs=[1,2]", "hydra/sweeper/pruner=median"],
     "hydra.sweeper.rungs=[1,2] must lie below trainer.epochs=2"),
    (["model.width=2,3", "hydra.sweeper.rungs=[2,1]", "hydra/sweeper/pruner=median"],
     "hydra.sweeper.rungs=[2, 1] must increase"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_before_anything_is_made(
    sweep: Sweep, place: Path, words: list[str], said: str
) -> None:
    ended = sweep(*words)
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not list(place.glob("outputs/sweeps/*"))


def test_a_lone_worker_has_every_core(sweep: Sweep, launched: list[list[str]]) -> None:
    sweep("model.width=choice(2)", "trainer.threads=0")
    assert f"trainer.threads={usable_cores()}" in launched[0]


def tree(place: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in place.rglob("*")
    }


@pytest.mark.slow
def test_a_refusal_changes_nothing(sweep: Sweep, place: Path) -> None:
    (place / "notes.txt").write_text("mine\n")
    with sqlite3.connect(place / "theirs.db") as connection:
        connection.execute("CREATE TABLE invoices (paid)")
    optuna.create_study(study_name="s", storage=f"sqlite:///{place}/plain.db").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    for kept in ("null", "all.db", "all.log"):
        name = f"hydra.sweeper.study_name=kept-{kept}"
        assert sweep("model.width=choice(2)", name, f"hydra.sweeper.storage={kept}").status == 0
    for file in (place / "outputs/sweeps/kept-null").glob("study.db*"):
        file.unlink()
    in_database = ["hydra.sweeper.study_name=kept-all.db", "hydra.sweeper.storage=all.db"]
    in_journal = ["hydra.sweeper.study_name=kept-all.log", "hydra.sweeper.storage=all.log"]
    one = "model.width=choice(2)"
    refusals: dict[str, list[str]] = {
        "was begun with other settings": ["model.width=2,3", *in_database],
        "model.width: choice(2) -> choice(3)": ["model.width=choice(3)", *in_journal],
        "objective: validation_accuracy -> params": [one, *in_database, "hydra.sweeper.objective=[params,macs]"],
        "which its storage no longer has; move": [one, "hydra.sweeper.study_name=kept-null"],
        "no longer has (it has kept-all.db); move": [one, *in_journal, "hydra.sweeper.storage=all.db"],
        "was not made by tinysweep": [one, "hydra.sweeper.study_name=s", "hydra.sweeper.storage=plain.db"],
        "is the database of something else": [one, "hydra.sweeper.storage=theirs.db"],
        "is neither an SQLite database nor": [one, "hydra.sweeper.storage=notes.txt"],
        "its ending must say as what": [one, "hydra.sweeper.storage=new"],
        "what is in memory": [one, "hydra.sweeper.storage='sqlite://'"],
        "there is no folder": [one, "hydra.sweeper.storage=no/new.db"],
        "pip install": [one, "hydra.sweeper.storage='mysql+mysqldb://someone:secret@host/name'"],
        "of no kind that is supported": [one, "hydra.sweeper.storage='redis://someone:secret@host/name'"],
        "is continuous, and a grid needs values": ["optimizer.lr=interval(0.1,0.2)"],
        "can't be pruned": [one, "hydra/sweeper/pruner=median", "hydra.sweeper.objective=params"],
        "hydra/launcher=nope must be one of": [one, "hydra/launcher=nope"],
    }
    gc.collect()  # closes the databases, which the ends of their processes would have closed
    before = tree(place)
    for said, words in refusals.items():
        ended = sweep(*words)
        assert ended.status == 1, said
        assert said in ended.err
        assert "secret" not in ended.err, said
        assert tree(place).keys() == before.keys(), said
        assert tree(place) == before, said


@pytest.mark.slow
def test_settings_that_came_to_nothing_do_not_bind_a_study(sweep: Sweep, place: Path) -> None:
    assert "no model fits" in sweep("model.width=30,40", "hydra.sweeper.study_name=s").err
    at_work = Presence(load_study(place), place / "outputs/sweeps/s")
    at_work.begin()
    ended = sweep("model.width=2,30", "hydra.sweeper.study_name=s", "hydra.sweeper.objective=params")
    at_work.end()
    assert "study s was begun with other settings" in ended.err
    ended = sweep("model.width=2,30", "hydra.sweeper.study_name=s", "hydra.sweeper.objective=params")
    assert ended.status == 0, ended.err
    assert list(table(place).state) == ["complete", "over_budget"]
    assert load_study(place).direction.name == "MINIMIZE"
    assert (
        "study s was begun with other settings" in sweep("model.width=choice(2)", "hydra.sweeper.study_name=s").err
    )


@pytest.mark.slow
def test_the_password_of_a_storage_is_written_nowhere(
    sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", ModuleType("psycopg2"))
    monkeypatch.setattr(opening, "_url", lambda _: f"sqlite:///{place}/server.db")
    monkeypatch.setattr(opening, "_engine", lambda *_, **__: {})
    url = "hydra.sweeper.storage='postgresql+psycopg2://someone:secret@host/name'"
    ended = sweep("model.width=choice(2)", "hydra.sweeper.study_name=s", url)
    assert ended.status == 0, ended.err
    assert "secret" not in ended.out + ended.err
    assert not [name for name, content in tree(place).items() if b"secret" in (content or b"")]
    ended = sweep("model.width=choice(3)", "hydra.sweeper.study_name=s", url)
    assert (ended.status, "secret" in ended.err) == (1, False)


@pytest.mark.parametrize(
    "name", ["a?b", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a b", "50%20", "{b}", "it's"))]
)
def test_a_study_may_have_any_name_that_a_folder_may_have(sweep: Sweep, place: Path, name: str) -> None:
    quoted = name.replace("'", "\\'")
    ended = sweep("model.width=choice(2)", f"hydra.sweeper.study_name='{quoted}'")
    assert ended.status == 0, ended.err
    assert [folder.name for folder in (place / "outputs/sweeps").iterdir()] == [name]
    assert (place / "outputs/sweeps" / name / "study.db").exists()
    assert list(table(place, name).state) == ["complete"]


def test_a_front_weighs_the_objectives_that_are_asked_for(sweep: Sweep, place: Path) -> None:
    sweep("model.width=2,3,6", "hydra.sweeper.study_name=s", "hydra.sweeper.objective=[validation_loss,macs]")
    solutions = OmegaConf.load(place / "outputs/sweeps/s/optimization_results.yaml").solutions
    assert sorted(each.trial for each in solutions) == sorted(t.number for t in load_study(place).best_trials)


def test_ctrl_c_while_a_trial_is_being_drawn_leaves_nothing_running(
    command: Command, mnist_root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Proposer.propose
    asked: list[bool] = []

    def interrupted(self: Proposer, **given: Any) -> Any:
        asked.append(True)
        if len(asked) == 3:
            self.study.ask()
            raise KeyboardInterrupt
        return real(self, **given)

    monkeypatch.setattr(Proposer, "propose", interrupted)
    words = ["model.width=2,3,4", "hydra.sweeper.study_name=s", "hydra.launcher.n_jobs=2"]
    assert command("-m", f"data.root={mnist_root}", *TINY, *words).status == 130
    assert list(table(place).state) == ["interrupted"] * 3
    left = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [words for words in left if any("LokyProcess" in word for word in words)]


def write_folder(root: Path) -> None:
    """Ten images of each of three classes, two of each for testing."""
    for part, count in {"train": 24, "test": 6}.items():
        images = made_images(count, 3, 12)
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            file = root / part / "abc"[int(label)] / f"{number:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(file)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-60])


def thinned(folder: Path) -> None:
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()


FOLDER = ["data=image_folder", "data.root=mine", "data.image_size=12", "data.validation=6", "data.limit=null",
          "model.depth=[1]", "model.stem_kernel=3"]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words", "said"), [
    (lambda root: cut(root / "train/b/01.png"), [], "mine/train/b/01.png is not a readable image"),
    (lambda root: cut(root / "test/c/02.png"), [], "mine/test/c/02.png is not a readable image"),
    (lambda root: thinned(root / "train/b"), [], "class b has 1 image to train on"),
    (None, ["data.validation=22"], "data.validation=22 must leave an image of each class to train on: at most 21"),
    (None, ["data.limit=19"], "data.limit=19 must not exceed the 18 images there are to train on"),
    (None, ["data.limit=6,19"], "data.limit=19 must not exceed the 18 images there are to train on"),
    (None, ["data.validation=range(4,30,2)", "hydra/sweeper/sampler=random"], "data.validation=28 must leave"),
    (None, ["data.root=mine,nowhere"], "data.root=nowhere must be a folder of class subfolders"),
])  # fmt: skip
def test_what_would_fail_every_trial_is_refused_before_the_first(
    sweep: Sweep, place: Path, launched: list[list[str]], spoil: Any, words: list[str], said: str
) -> None:
    write_folder(place / "mine")
    if spoil:
        spoil(place / "mine")
    ended = sweep(*FOLDER, "model.width=2,3", *words)
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not launched
    assert not (place / "outputs").exists()


def test_every_data_set_that_is_searched_is_looked_for_before_the_first_trial(
    sweep: Sweep, place: Path, mnist_root: Path
) -> None:
    (place / "some").mkdir()
    (place / "some/MNIST").symlink_to(mnist_root / "MNIST")
    ended = sweep("data=mnist,fashion_mnist", "data.root=some", "data.download=false", "model.width=2")
    assert ended.status == 1
    assert ended.err.startswith("error: FashionMNIST is incomplete in some: ")
    assert not (place / "outputs").exists()


@pytest.mark.slow
def test_images_are_tried_before_the_first_trial_alone(
    sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(place / "mine")
    cut(place / "mine/train/b/01.png")
    words = [*FOLDER, "model.width=2,3", "hydra.sweeper.study_name=s"]
    assert sweep(*words).status == 1
    write_folder(place / "mine")
    ended = sweep(*words, "hydra.sweeper.n_trials=1")
    assert ended.status == 0, ended.err

    def again(_: object) -> None:
        raise AssertionError("a trial has read them all")

    monkeypatch.setattr("tinysweep.data.folder.require_readable", again)
    ended = sweep(*words)
    assert ended.status == 0, ended.err
    assert list(table(place).state) == ["complete"] * 2


def test_damaged_data_is_refused_before_the_study_is_made(sweep: Sweep, place: Path, mnist_root: Path) -> None:
    shutil.copytree(mnist_root, place / "bad")
    file = next((place / "bad").rglob("train-images-idx3-ubyte"))
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    ended = sweep("model.width=2,3", "data.root=bad", "data.download=false")
    assert ended.status == 1
    assert ended.err.startswith("error: MNIST is incomplete in bad: ")
    assert ended.err.count("\n") == 1
    assert not (place / "outputs").exists()


def test_a_database_is_opened_by_one_sweep_at_a_time_wherever_it_lies(
    sweep: Sweep, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> None:
        with pytest.raises(Timeout):
            FileLock(place / "shared/.opening.lock").acquire(timeout=0)
        raise StudyError("looked")

    monkeypatch.setattr("tinysweep.search.sweep.open_storage", look)
    (place / "shared").mkdir()
    assert sweep("model.width=4,6", "hydra.sweeper.storage=shared/studies.db").err == "error: looked\n"
