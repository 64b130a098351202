"""The rules of every setting, however a configuration is made."""

import copy
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from enum import Enum, EnumType
from types import UnionType
from typing import Any, get_args

import numpy as np
import pytest
from omegaconf import OmegaConf

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError
from tinysweep.settings.schema import (
    Config,
    DataConfig,
    Family,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    TrainerConfig,
)
from tinysweep.settings.section import AUTO, Section, default_of, lies_within

MNIST_SHAPE = DataShape(channels=1, size=28, classes=10)

SECTIONS: list[type[Section]] = [spec.type for spec in fields(Config) if is_dataclass(spec.type)]  # type: ignore[misc]
SETTINGS = [(section, spec) for section in SECTIONS for spec in fields(section)]
RANGED = [(section, spec) for section, spec in SETTINGS if spec.metadata["within"]]
LIMITED = [(section, spec) for section, spec in SETTINGS if spec.metadata["only"]]


def dotted(item: object) -> str:
    """The id of a parametrised setting."""
    return item.name if isinstance(item, Field) else item.KEY if isinstance(item, type) else str(item)  # type: ignore[attr-defined]


def parts(annotation: Any) -> set[Any]:
    """The types that a value may have, those of a list being those of its elements."""
    if isinstance(annotation, UnionType):
        return set().union(*(parts(part) for part in get_args(annotation)))
    return set(get_args(annotation)) or {annotation}


def ends(spec: Field[Any]) -> tuple[float, float]:
    low, high = (float(end) for end in spec.metadata["within"][1:-1].split(","))
    return low, high


def beyond(spec: Field[Any]) -> list[float]:
    """The numbers nearest to the interval that lie outside of it, and some that are no proper numbers."""
    low, high = ends(spec)
    if float not in parts(spec.type):
        return [int(low) - 1, int(high) + 1]
    below = low if spec.metadata["within"][0] == "(" else math.nextafter(low, -math.inf)
    above = high if spec.metadata["within"][-1] == ")" else math.nextafter(high, math.inf)
    return [below, above, math.nan, math.inf, -math.inf]


def inside(spec: Field[Any]) -> list[float]:
    """The least and the largest number of the interval."""
    low, high = ends(spec)
    if float not in parts(spec.type):
        return [int(low), int(high)]
    least = low if spec.metadata["within"][0] == "[" else math.nextafter(low, math.inf)
    return [least, high if spec.metadata["within"][-1] == "]" else math.nextafter(high, -math.inf)]


def built(section: type[Section], spec: Field[Any], value: Any) -> Section:
    """A section with one setting, and the others such that it is read."""
    values: dict[str, Any] = {spec.name: [value] if spec.name == "depth" else value}
    if spec.metadata["only"]:
        values |= chosen(section, spec.metadata["only"][0], values)
    if spec.name == "clean_epochs":
        values["epochs"] = 100_000
    return section(**values)


def chosen(section: type[Section], choice: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The settings by which a section is this choice of its group, beside other values."""
    needed = {"target": "mynets:make"} if choice == Family.custom else {}
    return needed | {section.CHOICE: choice} | values


def unlike(spec: Field[Any]) -> Any:
    """A value that is allowed but not the default."""
    if spec.type is bool:
        return not spec.default
    if isinstance(spec.type, EnumType):
        return next(choice for choice in spec.type if choice != spec.default)
    if default_of(spec) in ([1, 2, 1], {}):
        return [3] if default_of(spec) else {"kernel": 5}
    if spec.name == "target":
        return "othernets:make"
    if spec.name == "uri":
        return "sqlite:///other.db"
    if str in parts(spec.type):
        return "other"
    return next(value for value in inside(spec) if value != spec.default)


# ---- intervals


@pytest.mark.parametrize(
    ("interval", "within", "outside"),
    [
        ("[0, 1]", [0, 0.5, 1], [-1e-9, 1 + 1e-9]),
        ("(0, 1)", [1e-9, 0.5, 1 - 1e-9], [0, 1, -1, 2]),
        ("[0, 1)", [0, 0.999], [1, -1e-9]),
        ("(0, 1]", [1e-9, 1], [0, 1.5]),
        ("[2, 1e9]", [2, 1e9, 1_000_000_000], [1, 1.999, 1e9 + 1]),
    ],
)
def test_square_brackets_include_the_end(interval: str, within: list[float], outside: list[float]) -> None:
    assert all(lies_within(value, interval) for value in within)
    assert not any(lies_within(value, interval) for value in outside)


# ---- each setting


@pytest.mark.parametrize(("section", "spec"), SETTINGS, ids=dotted)
def test_every_setting_says_in_one_line_what_it_means(section: type[Section], spec: Field[Any]) -> None:
    assert re.fullmatch(r"\S.{4,100}", spec.metadata["meaning"]), f"{section.KEY}.{spec.name}"


@pytest.mark.parametrize(("section", "spec"), SETTINGS, ids=dotted)
def test_exactly_the_numbers_have_an_interval(section: type[Section], spec: Field[Any]) -> None:
    is_number = bool(parts(spec.type) & {int, float})
    assert bool(spec.metadata["within"]) == is_number, f"{section.KEY}.{spec.name}"


@pytest.mark.parametrize(("section", "spec"), RANGED, ids=dotted)
def test_a_number_outside_its_interval_is_refused_with_key_value_rule_and_meaning(
    section: type[Section], spec: Field[Any]
) -> None:
    for value in beyond(spec):
        with pytest.raises(ConfigError) as caught:
            built(section, spec, value)
        message = str(caught.value)
        shown = [value] if spec.name == "depth" else value
        assert message.startswith(f"{section.KEY}.{spec.name}={shown} ")
        assert spec.metadata["within"] in message
        assert spec.metadata["meaning"] in message
        assert "\n" not in message


@pytest.mark.parametrize(("section", "spec"), RANGED, ids=dotted)
def test_the_ends_of_an_interval_are_allowed(section: type[Section], spec: Field[Any]) -> None:
    for value in inside(spec):
        assert getattr(built(section, spec, value), spec.name) == ([value] if spec.name == "depth" else value)


@pytest.mark.parametrize(("section", "spec"), LIMITED, ids=dotted)
def test_a_setting_that_the_choice_does_not_read_is_refused_unless_left_alone(
    section: type[Section], spec: Field[Any]
) -> None:
    choices: type[Enum] = next(other.type for other in fields(section) if other.name == section.CHOICE)  # type: ignore[assignment]
    readers = set(spec.metadata["only"])
    assert readers < set(choices), "a rule that names no choice, or every one, is a mistake"
    other = unlike(spec)
    for choice in choices:
        if spec.name != "target" or choice not in readers:
            assert getattr(section(**chosen(section, choice, {})), spec.name) == default_of(spec)
        values = chosen(section, choice, {spec.name: other})
        if (spec.name, choice) == ("padding", Family.residual):
            continue  # which needs it
        if choice in readers:
            assert getattr(section(**values), spec.name) == other
            continue
        with pytest.raises(ConfigError) as caught:
            section(**{key: value for key, value in values.items() if key != "target" or spec.name == "target"})
        message = str(caught.value)
        assert message.startswith(
            f"{section.KEY}.{spec.name}={str(other).lower() if isinstance(other, bool) else other} "
        )
        assert f"not by {section.KEY}={choice.value}" in message
        assert all(f"{reader.value}" in message for reader in readers)
        assert spec.metadata["meaning"] in message


# ---- rules between settings


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrainerConfig(epochs=3, clean_epochs=4), ["trainer.clean_epochs=4", "trainer.epochs=3"]),
        (
            lambda: ModelConfig(family=Family.residual, padding=False),
            ["model.padding=false", "must be true", "residual"],
        ),
        (lambda: ModelConfig(kernel=4), ["model.kernel=4", "must be odd"]),
        (lambda: ModelConfig(stem_kernel=4, stem_padding=True), ["model.stem_kernel=4", "must be odd"]),
        (lambda: ModelConfig(depth=[]), ["model.depth=[]", "at least one stage"]),
        (lambda: ModelConfig(views=4), ["model.views=4", "must be 1, 5 (", "or 9"]),
        (lambda: ModelConfig(depth=[1, 0]), ["model.depth=[1, 0]", "[1, 100]"]),
        (lambda: ModelConfig(width="wide"), ["model.width=wide", "must be a number or auto"]),
        (lambda: ModelConfig(width="12"), ["model.width=12", "must be a number or auto"]),
        (
            lambda: OptimizerConfig(nesterov=True, momentum=0),
            ["optimizer.nesterov=true", "needs optimizer.momentum above 0"],
        ),
        (lambda: DataConfig(validation=5.5), ["data.validation=5.5", "whole number", "fraction below 1"]),
        (lambda: DataConfig(root=""), ["data.root=", "must name a folder"]),
        (lambda: Config(name="a/b"), ["name='a/b'", "folder name"]),
        (lambda: Config(name="a\\b"), ["name=", "folder name"]),
        (lambda: Config(name=""), ["name=''", "folder name"]),
        (lambda: Config(name=".."), ["name='..'", "no leading dot"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainerConfig(epochs=3, clean_epochs=3),
        lambda: ModelConfig(family=Family.plain, padding=False, kernel=4),
        lambda: ModelConfig(stem_kernel=4, stem_padding=False),
        lambda: ModelConfig(width=AUTO),
        lambda: OptimizerConfig(nesterov=True, momentum=0.5),
        lambda: OptimizerConfig(nesterov=False, momentum=0),
        lambda: OptimizerConfig(name=OptimizerName.adamw, momentum=0),
        lambda: DataConfig(validation=0.5),
        lambda: DataConfig(validation=1),
        lambda: DataConfig(validation=0),
        lambda: Config(name="a.b-c d"),
    ],
)
def test_what_comes_close_to_a_contradiction_is_allowed(make: Callable[[], object]) -> None:
    assert make()


@pytest.mark.parametrize(("section", "spec"), RANGED, ids=dotted)
def test_a_value_set_in_python_obeys_its_rule_and_a_refused_one_changes_nothing(
    section: type[Section], spec: Field[Any]
) -> None:
    held = section()
    before = getattr(held, spec.name)
    for value in beyond(spec):
        with pytest.raises(ConfigError, match=rf"^{section.KEY}\.{spec.name}="):
            setattr(held, spec.name, [value] if spec.name == "depth" else value)
    assert getattr(held, spec.name) == before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda c: setattr(c.trainer, "epoch", 3),
            ["trainer.epoch is not a setting", "did you mean trainer.epochs?"],
        ),
        (lambda c: setattr(c, "trianer", 3), ["trianer is not a setting", "did you mean trainer?"]),
        (lambda c: setattr(c.scheduler, "zzz", 3), ["scheduler.zzz is not a setting", "warmup_fraction", "gamma"]),
        (lambda c: setattr(c, "model", "plain"), ["model=plain must be a section"]),
        (lambda c: setattr(c, "name", None), ["name=null must be text"]),
        (lambda c: setattr(c.optimizer, "name", "adam"), ["optimizer.name=adam must be one of sgd, adamw"]),
        (lambda c: setattr(c.optimizer, "lr", "0.1"), ["optimizer.lr=0.1 must be a number"]),
        (lambda c: setattr(c.optimizer, "lr", True), ["optimizer.lr=true must be a number"]),
        (lambda c: setattr(c.trainer, "test", "no"), ["trainer.test=no must be true or false"]),
        (lambda c: setattr(c.data, "limit", 2.5), ["data.limit=2.5 must be a whole number or null"]),
        (lambda c: setattr(c.trainer, "epochs", 1.5), ["trainer.epochs=1.5 must be a whole number"]),
        (lambda c: setattr(c.model, "depth", [[1, 2], [1]]), ["model.depth=[[1, 2], [1]] must be a list"]),
    ],
)
def test_a_mistake_made_in_python_is_refused_at_once(make: Callable[[Config], None], words: list[str]) -> None:
    config = Config()
    with pytest.raises(ConfigError) as caught:
        make(config)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert config == Config()


def test_what_is_set_in_python_becomes_what_the_command_line_would_have_set() -> None:
    config = Config()
    config.optimizer.name, config.optimizer.nesterov = "adamw", False  # type: ignore[assignment]
    config.model.width, config.optimizer.lr = np.int64(12), np.float32(0.5)  # type: ignore[assignment]
    assert config.optimizer.name is OptimizerName.adamw
    assert (type(config.model.width), type(config.optimizer.lr)) == (int, float)
    config.check()
    assert OmegaConf.to_object(OmegaConf.structured(config)) == config
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: setattr(c.trainer, "clean_epochs", 20), "trainer.clean_epochs=20 must not exceed"),
        (lambda c: setattr(c.optimizer, "beta2", 0.5), "optimizer.beta2=0.5 is read only by optimizer=adamw"),
        (lambda c: c.model.depth.append(0), "model.depth=[1, 2, 1, 0] must lie in"),
        (lambda c: setattr(c, "name", "a/b"), "name='a/b' must be usable"),
    ],
)
def test_rules_between_settings_are_checked_once_all_are_set(change: Callable[[Config], None], words: str) -> None:
    config = Config()
    config.check()
    change(config)
    with pytest.raises(ConfigError) as caught:
        config.check()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "root"),
    [
        ({"TINYSWEEP_DATA": "here"}, "here"),
        ({"TINYSWEEP_DATA": ""}, "~/.cache/tinysweep"),
        ({}, "~/.cache/tinysweep"),
    ],
)
def test_the_environment_says_where_data_lies(variable: dict[str, str], root: str) -> None:
    elsewhere = {key: value for key, value in os.environ.items() if key != "TINYSWEEP_DATA"}
    program = "from tinysweep.settings.schema import DataConfig; print(DataConfig().root)"
    printed = subprocess.check_output([sys.executable, "-c", program], env=elsewhere | variable, text=True)
    assert printed.strip() == root
