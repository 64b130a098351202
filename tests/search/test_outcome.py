"""What a study leaves for others: its best as YAML, and the winner as a recipe that composes as it stands."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import optuna
import pytest
from omegaconf import OmegaConf
from optuna.study import StudyDirection

from conftest import entered, loaded
from tinysweep.data.load import describe
from tinysweep.metrics import METRICS
from tinysweep.network.budget import resolve
from tinysweep.search.compose_trial import INCIDENTAL, Composer, identity
from tinysweep.search.lease import Lease
from tinysweep.search.outcome import write_results, write_winner
from tinysweep.search.space import Value
from tinysweep.search.study import Status, Study
from tinysweep.settings.compose import CONFIG_FOLDER, register_schema, typed
from tinysweep.settings.schema import Config


def begun(folder: Path, objectives: Sequence[str] = ("validation_accuracy",), name: str = "mine") -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [StudyDirection[METRICS[aim].direction.upper()] for aim in objectives]
    return Study(optuna.create_study(study_name=name, directions=directions), folder, Lease(folder))


def add(study: Study, objectives: Sequence[str], values: dict[str, Value] | None = None, **figures: float) -> int:
    """A completed trial with these parameters and figures."""
    found: dict[str, Any] = {
        "validation_accuracy": 0.9,
        "validation_loss": 0.5,
        "params": 100,
        "macs": 10,
    } | figures
    trial = study.draft(study.trials(), values or {})
    for name, value in (values or {}).items():
        if type(value) is int:
            trial.suggest_int(name, 1, 10**6)
        else:
            trial.suggest_categorical(name, [value])
    return study.enter(Status.complete, None, [float(found[name]) for name in objectives], **found).number


def written(study: Study) -> Any:
    return OmegaConf.to_container(OmegaConf.load(study.folder / "optimization_results.yaml"))


# ---- the best


def test_the_best_trial_is_written_with_its_number_parameters_and_value(tmp_path: Path) -> None:
    study, aims = begun(tmp_path), ["validation_accuracy"]
    values: dict[str, Value] = {
        "model": "plain",
        "model.depth": "[1,2]",
        "optimizer.lr": 1e-05,
        "model.bias": True,
    }
    study.close(entered(study), Status.failed, "why")
    add(study, aims, validation_accuracy=0.5)
    add(study, aims, values, validation_accuracy=0.9953)
    best = write_results(study, aims)
    assert best is not None
    assert best.number == 2
    assert written(study) == {
        "name": "optuna",
        "study": "mine",
        "best_trial": 2,
        "best_params": values,
        "best_value": 0.9953,
    }


def test_the_best_by_loss_is_the_lowest(tmp_path: Path) -> None:
    study, aims = begun(tmp_path, ["validation_loss"]), ["validation_loss"]
    for loss in (0.5, 0.25, 0.75):
        add(study, aims, validation_loss=loss)
    write_results(study, aims)
    assert (written(study)["best_trial"], written(study)["best_value"]) == (1, 0.25)


def test_several_objectives_have_several_solutions(tmp_path: Path) -> None:
    aims = ["validation_accuracy", "params"]
    study = begun(tmp_path, aims)
    for accuracy, params in [(0.9, 100), (0.8, 200), (0.95, 300), (0.5, 10), (0.95, 400)]:
        add(study, aims, {"model.width": params}, validation_accuracy=accuracy, params=params)
    best = write_results(study, aims)
    assert best is not None
    assert best.number == 2
    assert written(study) == {
        "name": "optuna",
        "study": "mine",
        "solutions": [
            {"trial": 3, "params": {"model.width": 10}, "values": [0.5, 10.0]},
            {"trial": 0, "params": {"model.width": 100}, "values": [0.9, 100.0]},
            {"trial": 2, "params": {"model.width": 300}, "values": [0.95, 300.0]},
        ],
    }
    assert {solution["trial"] for solution in written(study)["solutions"]} == {
        trial.number for trial in study.optuna.best_trials
    }, "the front that Optuna finds"


def test_where_nothing_has_completed_nothing_is_written(tmp_path: Path) -> None:
    study = begun(tmp_path)
    study.close(entered(study), Status.pruned, "why")
    entered(study)
    assert write_results(study, ["validation_accuracy"]) is None
    assert list(tmp_path.iterdir()) == []


# ---- the winner


def winner(
    folder: Path, values: dict[str, Value], fixed: list[str], retrain: list[str], name: str = "mine"
) -> tuple[Config, Config, str]:
    """The trial's own configuration, that of the recipe written of it, and the command that is printed."""
    study = begun(folder, name=name)
    add(study, ["validation_accuracy"], values)
    best = write_results(study, ["validation_accuracy"])
    assert best is not None
    composer = Composer(*loaded(), fixed)
    command = write_winner(study, best, composer, retrain)
    own = composer.config(values, best.number)
    return resolve(own, describe(own.data)), composed(folder, "experiment=winner"), command


def composed(folder: Path, *overrides: str) -> Config:
    """What `tinysweep --config-dir FOLDER` composes."""
    register_schema()
    search = f"hydra.searchpath=[file://{folder}]"
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        return typed(hydra.compose("config", overrides=[search, *overrides]))


def same(one: Config, other: Config) -> bool:
    return identity(one) == identity(other)


CASES: dict[str, tuple[dict[str, Value], list[str]]] = {
    "groups": ({"model": "plain", "optimizer": "adamw", "scheduler": "step", "augmentation": "none"}, []),
    "values": ({"model.depth": "[1,1]", "optimizer.lr": 1e-05, "model.width": 9, "data.limit": "null"}, []),
    "conditional": ({"scheduler": "step", "scheduler.gamma": 0.25, "scheduler.step_epochs": 3}, []),
    "recipe": ({"optimizer.lr": 0.02, "model.hidden": 7}, ["experiment=era_seed", "data.validation=5000"]),
    "elsewhere": ({"model.width": 5}, ["data=kmnist", "data.root=a/b", "trainer.device=cpu", "trainer.threads=3"]),
    "automatic width": ({"model.growth": 1.25, "model.width": "auto"}, ["budget.params=5000"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_winners_recipe_composes_to_the_configuration_of_the_trial(tmp_path: Path, case: str) -> None:
    own, recipe, _ = winner(tmp_path, *CASES[case], [])
    assert same(own, recipe)
    assert isinstance(recipe.model.width, int), "what was trained, whatever the budget will be"


def test_the_winners_recipe_is_changed_by_what_it_is_retrained_with_and_by_nothing_else(tmp_path: Path) -> None:
    retrain = ["trainer.epochs=30", "data.validation=0", "trainer.ema_decay=0.999"]
    own, recipe, _ = winner(tmp_path, {"model": "plain", "model.width": 6}, ["trainer.epochs=2"], retrain)
    changed = dataclasses.replace(
        own,
        trainer=dataclasses.replace(own.trainer, epochs=30, ema_decay=0.999),
        data=dataclasses.replace(own.data, validation=0.0),
    )
    assert own.trainer.epochs == 2
    assert same(recipe, changed)


def test_retraining_leaves_alone_what_an_interpolation_came_to(tmp_path: Path) -> None:
    fixed = ["model.hidden=${trainer.epochs}", "data.split_seed=${trial}"]
    own, recipe, _ = winner(tmp_path, {"trainer.epochs": 3, "model.width": 4}, fixed, ["trainer.epochs=30"])
    assert (own.model.hidden, recipe.model.hidden) == (3, 3)
    assert (recipe.trainer.epochs, recipe.data.split_seed) == (30, 0)


def test_retraining_may_choose_from_a_group(tmp_path: Path) -> None:
    values: dict[str, Value] = {"model.width": 6, "augmentation": "none"}
    _, recipe, _ = winner(tmp_path, values, [], ["augmentation=elastic"])
    assert recipe.augmentation.elastic_pixels == 1.0


def test_the_winners_recipe_leaves_to_its_user_where_data_lies_and_what_it_runs_on(tmp_path: Path) -> None:
    fixed = ["data.root=somewhere", "trainer.device=cpu", "trainer.threads=3", "trainer.test=false"]
    _, recipe, _ = winner(tmp_path, {"model.width": 6}, fixed, [])
    text = (tmp_path / "experiment" / "winner.yaml").read_text()
    content = OmegaConf.create(text)
    for key in INCIDENTAL:
        if key != "name":
            assert OmegaConf.select(content, key, throw_on_missing=False) is None, key
    assert "somewhere" not in text
    assert recipe.data.root == Config().data.root
    assert (recipe.trainer.device, recipe.trainer.threads, recipe.trainer.test) == ("auto", 0, True)
    assert recipe.trial is None
    own_machine = composed(tmp_path, "experiment=winner", "data.root=mine", "trainer.device=cpu")
    assert (own_machine.data.root, own_machine.trainer.device) == ("mine", "cpu")


def test_the_winners_recipe_can_be_overridden(tmp_path: Path) -> None:
    winner(tmp_path, {"model": "plain", "model.width": 6}, [], [])
    config = composed(tmp_path, "experiment=winner", "trainer.seed=9", "model.width=7")
    assert (config.trainer.seed, config.model.width, config.model.family) == (9, 7, "plain")


def test_the_winners_recipe_is_named_after_the_study_and_says_where_it_came_from(tmp_path: Path) -> None:
    _, recipe, _ = winner(tmp_path, {"model.width": 6}, [], ["trainer.epochs=30"], name="my study")
    assert recipe.name == "my study-winner"
    lines = (tmp_path / "experiment" / "winner.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# Trial 0 of the study my study")
    assert "trainer.epochs=30" in lines[1]


def test_the_command_that_is_printed_runs_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    *_, command = winner(folder, {"model.width": 6}, [], [])
    assert command == "tinysweep --config-dir outputs/sweeps/mine experiment=winner"
    monkeypatch.chdir("/")
    study = begun(folder)
    add(study, ["validation_accuracy"], {"model.width": 6})
    command = write_winner(study, study.trials()[0], Composer(*loaded(), []), [])
    assert command == f"tinysweep --config-dir {str(folder).lstrip('/')} experiment=winner"


def test_a_better_winner_replaces_the_last(tmp_path: Path) -> None:
    study, aims = begun(tmp_path), ["validation_accuracy"]
    for width, accuracy in [(4, 0.5), (5, 0.75)]:
        study_best = add(study, aims, {"model.width": width}, validation_accuracy=accuracy)
        best = write_results(study, aims)
        assert best is not None
        assert best.number == study_best
        write_winner(study, best, Composer(*loaded(), []), [])
        assert composed(tmp_path, "experiment=winner").model.width == width
