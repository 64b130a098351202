"""The choices under conf/, and configurations composed of them as the command line does."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import tinysweep
from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError
from tinysweep.network import budget
from tinysweep.settings.compose import compose
from tinysweep.settings.explain import GROUPS
from tinysweep.settings.schema import (
    AugmentationConfig,
    DataName,
    DropoutConfig,
    DropoutName,
    Family,
    Interpolation,
    SchedulerConfig,
    SchedulerName,
)
from tinysweep.settings.searchpath import CONFIG_FOLDER
from tinysweep.settings.section import Section
from tinysweep.settings.stored import flatten

MNIST_SHAPE = DataShape(channels=1, size=28, classes=10)
CHOICES = sorted(
    (str(file.parent.relative_to(CONFIG_FOLDER)), file.stem)
    for file in CONFIG_FOLDER.glob("*/*.yaml")
    if file.parent.name != "hydra"
)
NEEDS = {
    ("data", "image_folder"): ["data.root=photos"],
    ("data", "npz"): ["data.root=own.npz"],
    ("data", "csv"): ["data.root=own.csv"],
    ("data", "idx"): ["data.root=own"],
    ("data", "custom"): ["data.target=mydata:load"],
    ("model", "custom"): ["model.target=mynets:make"],
}


def test_every_group_has_a_choice() -> None:
    assert {group for group, _ in CHOICES} == set(GROUPS) | {"experiment"}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_obeys_the_schema_and_takes_effect(group: str, choice: str) -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / group / f"{choice}.yaml"))
    assert isinstance(values, dict)
    values.pop("defaults", None)
    needs = NEEDS.get((group, choice), [])
    settings = compose(f"{group}={choice}", *needs)
    given = {override.partition("=")[0] for override in needs}
    for key, value in flatten(cast(dict[str, Any], values), "" if group == "experiment" else f"{group}.").items():
        found: Any = settings
        for name in key.split("."):
            found = getattr(found, name)
        if key not in given:
            expected = float(value) if isinstance(found, float) else value  # YAML 1.1 reads 5e-4 as text
            assert found == expected, key
    section = getattr(settings, group, None)
    if isinstance(section, Section) and section.choice and group != "model":  # era_seed is a plain one
        assert section.choice == choice, "messages name the choice by the section's"


@pytest.mark.parametrize(
    ("group", "choice"), [c for c in CHOICES if c[0] in ("model", "experiment", "budget") and c[1] != "custom"]
)
def test_a_choice_has_a_model_within_its_budget(group: str, choice: str) -> None:
    settings = budget.resolve(compose(f"{group}={choice}"), MNIST_SHAPE)
    assert budget.gate(settings, MNIST_SHAPE).params < settings.budget.params


@pytest.mark.parametrize("group", ["model", "experiment"])
def test_the_baseline_has_exactly_its_parameters(group: str) -> None:
    assert budget.measure(compose(f"{group}=era_seed").model, MNIST_SHAPE).params == 19_349


def test_the_baseline_recipe_reads_all_training_images_and_the_given_schedule() -> None:
    settings = compose("experiment=era_seed")
    assert settings.name == "era_seed"
    assert settings.data.validation == 0
    assert settings.dropout == DropoutConfig(DropoutName.head, 0.3)
    assert settings.augmentation == AugmentationConfig(
        rotation_degrees=10, shift_fraction=0.1, interpolation=Interpolation.nearest
    )
    assert settings.scheduler == SchedulerConfig(
        name=SchedulerName.step, step_epochs=5, gamma=0.5, warmup_fraction=0.1
    )
    assert (settings.trainer.epochs, settings.trainer.batch_size, settings.trainer.seed) == (20, 128, 1)


def test_the_command_line_wins_over_an_experiment() -> None:
    assert compose("trainer.epochs=3", "experiment=era_seed").trainer.epochs == 3


def test_the_composed_configuration_is_plain_and_typed() -> None:
    settings = compose("model.depth=[2,2]", "data.validation=100", "trainer.threads=1")
    assert type(settings.model.depth) is list
    assert isinstance(settings.data.name, DataName)
    assert isinstance(settings.model.family, Family)
    assert settings.data.validation == 100
    assert asdict(settings)["model"]["depth"] == [2, 2]


def test_composing_leaves_the_callers_own_hydra_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("answer: 42")
    with hydra.initialize_config_dir(str(tmp_path)):
        assert tinysweep.compose("trainer.epochs=2").trainer.epochs == 2
        with pytest.raises(ConfigError):
            tinysweep.compose("trainer.epoch=2")
        assert hydra.compose("mine").answer == 42
    assert not GlobalHydra.instance().is_initialized()
