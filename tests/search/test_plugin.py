"""The sweeper's settings and their rules, and what a start of the program costs that searches nothing."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import ConfigError
from tinysweep.metrics import METRICS
from tinysweep.search.plugin import BudgetSweeper
from tinysweep.search.table import LATER
from tinysweep.settings.compose import register_schema
from tinysweep.settings.searchpath import CONFIG_FOLDER
from tinysweep.settings.sweeper import SweeperConfig

HEAVY = ("torch", "optuna", "pandas", "sqlalchemy", "torchvision")


def composed(*overrides: str) -> DictConfig:
    """The configuration that Hydra hands to a sweeper."""
    register_schema()
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        loader = GlobalHydra.instance().config_loader()
        return loader.load_configuration("config", overrides=list(overrides), run_mode=RunMode.MULTIRUN)


# ---- the rules


@pytest.mark.parametrize(("settings", "words"), [
    ({"objective": "accuracy"}, ["objective=accuracy", "names no metric accuracy", "validation_accuracy?"]),
    ({"objective": []}, ["objective=[]", "one of the metrics"]),
    ({"objective": None}, ["objective=", "one of the metrics"]),
    ({"objective": ["params", "params"]}, ["objective=", "different"]),
    ({"objective": ["params", "accuracy"]}, ["objective=", "accuracy"]),
    ({"study_name": "a\\b"}, ["study_name=a\\b", "folder name"]),
    ({"rungs": [3, 1]}, ["rungs=[3, 1]", "must increase"]),
    ({"rungs": [1, 1]}, ["rungs=[1, 1]", "must increase"]),
    ({"rungs": [0, 1]}, ["rungs=[0, 1]", "[1, 100000]"]),
    ({"rungs": ["1"]}, ["rungs=", "whole number"]),
    ({"study_name": ""}, ["study_name=", "folder name"]),
    ({"params": [1]}, ["params=[1]", "mapping"]),
    ({"start_with": {"model.width": 8}}, ["start_with={'model.width': 8}", "list of mappings"]),
    ({"start_with": [8]}, ["start_with=[8]", "list of mappings"]),
    ({"n_trials": 0}, ["n_trials=0", "[1, 1e7]"]),
    ({"batch_size": 0}, ["batch_size=0", "[1, 1e5]"]),
    ({"max_seconds": 0}, ["max_seconds=0", "(0, 1e9]"]),
    ({"max_rejections": 0}, ["max_rejections=0", "[1, 1e9]"]),
    ({"max_failure_rate": 1.01}, ["max_failure_rate=1.01", "[0, 1]"]),
    ({"max_failure_rate": math.nan}, ["max_failure_rate=nan", "[0, 1]"]),
])  # fmt: skip
def test_a_setting_that_breaks_its_rule_is_refused_in_one_line_with_key_value_rule_and_meaning(
    settings: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        SweeperConfig(**settings).require_metrics([])
    message = str(caught.value)
    assert message.startswith("hydra.sweeper.")
    assert all(word in message for word in words), message
    assert message.endswith(")"), "the meaning stands at the end"
    assert "\n" not in message


def test_what_obeys_the_rules_is_accepted() -> None:
    SweeperConfig(n_trials=1, batch_size=1, max_seconds=1e-3, max_rejections=1, max_failure_rate=0)
    SweeperConfig(max_failure_rate=1, n_trials=None, batch_size=None, max_seconds=None)
    SweeperConfig(study_name="a.b-c d", params={"model.width": "4,8"})


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_may_be_the_objective_alone_or_among_others(name: str) -> None:
    assert SweeperConfig(objective=name).objectives == [name]
    both = [name, next(other for other in METRICS if other != name)]
    assert SweeperConfig(objective=both).objectives == both


def test_more_accuracy_is_better_and_less_of_everything_else() -> None:
    assert [name for name, metric in METRICS.items() if metric.higher_is_better] == ["validation_accuracy", *LATER]


def test_two_sweepers_share_no_list() -> None:
    SweeperConfig().retrain.append("trainer.epochs=1")
    assert SweeperConfig().retrain == []


# ---- as Hydra composes it


def test_the_sweeper_is_hydras_default_and_found_as_its_plugin() -> None:
    master = composed()
    assert master.hydra.sweeper._target_ == "tinysweep.search.plugin.BudgetSweeper"
    assert BudgetSweeper in Plugins.instance().discover(Sweeper)
    assert "budget.yaml" in ConfigStore.instance().repo["hydra"]["sweeper"]


def test_without_a_word_about_it_a_sweep_is_a_grid_that_prunes_nothing() -> None:
    sweeper = composed().hydra.sweeper
    assert sweeper.sampler._target_ == "optuna.samplers.GridSampler"
    assert sweeper.pruner._target_ == "optuna.pruners.NopPruner"
    assert sweeper.objective == "validation_accuracy"


@pytest.mark.parametrize("pruner", ["none", "median", "hyperband", "patient", "successive_halving"])
def test_every_setting_can_be_overridden(pruner: str) -> None:
    sweeper = composed(
        "hydra/sweeper/sampler=tpe",
        f"hydra/sweeper/pruner={pruner}",
        "hydra.sweeper.n_trials=7",
        "hydra.sweeper.objective=[validation_loss,params]",
        "hydra.sweeper.study_name=mine",
        "hydra.sweeper.max_failure_rate=0.5",
        "hydra.sweeper.retrain=['trainer.epochs=3']",
        "+hydra.sweeper.params={model.width: '4,8'}",
    ).hydra.sweeper
    assert sweeper.sampler._target_.endswith("TPESampler")
    assert sweeper.pruner._target_.startswith("optuna.pruners.")
    settings = OmegaConf.to_container(sweeper, resolve=False)
    assert isinstance(settings, dict)
    wanted = SweeperConfig(**{str(key): value for key, value in settings.items() if key != "_target_"})
    assert (wanted.n_trials, wanted.objectives) == (7, ["validation_loss", "params"])
    assert (wanted.study_name, wanted.max_failure_rate) == ("mine", 0.5)
    assert wanted.retrain == ["trainer.epochs=3"]


# ---- the cost of a start


@pytest.mark.parametrize(
    "program",
    [
        "import tinysweep.search.plugin",
        "import sys, runpy; sys.argv = ['tinysweep', '--help']\n"
        "try: runpy.run_module('tinysweep.commands.train', run_name='__main__')\n"
        "except SystemExit: pass",
        "import sys, runpy; sys.argv = ['tinysweep', '-m', 'hydra.sweeper.n_trials=0', 'model.width=4,8']\n"
        "try: runpy.run_module('tinysweep.commands.train', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 1",
    ],
    ids=["import", "help", "refusal"],
)
def test_who_searches_nothing_does_not_wait_for_torch_or_optuna(tmp_path: Path, program: str) -> None:
    program += f"\nimport sys; print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]
