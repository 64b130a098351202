"""What makes a study one study: the space, the objective, and every setting that all of its trials share."""

import re
from decimal import Decimal
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tinysweep.errors import ConfigError, StudyError
from tinysweep.metrics import METRICS
from tinysweep.search.compose_trial import DIGEST, digest, identity
from tinysweep.search.space import Space, extremes, typed_value
from tinysweep.settings.command_line import as_choice

RESOLVER = re.compile(r"\$\{[\w.]+:[^${}]*\}")  # with arguments that are plain text
NOTHING_HELD_OUT = "data.validation=0 leaves a sweep nothing to judge by; hold images out, such as 5000"


def define(space: Space, objectives: list[str], base: DictConfig) -> dict[str, str]:
    """The definition of a study as text by key, for comparison; `base` is the composition that its trials
    share."""
    container = OmegaConf.to_container(base, enum_to_str=True)
    assert isinstance(container, dict)
    settings = identity({str(key): value for key, value in container.items()})
    return {
        "objective": ", ".join(objectives),
        **{f"params.{name}": words(distribution) for name, distribution in sorted(space.searched.items())},
        **{name: _words(base, name, value) for name, value in settings.items() if name not in space.searched},
    }


def _words(base: DictConfig, name: str, value: Any) -> str:
    """A value, and what it comes to where it is left to a resolver whose arguments no trial changes, as in
    ${oc.env:WIDTH}: with another environment the study would be another one."""
    text = str(value)
    without = RESOLVER.sub("", text)
    return text if without == text or "${" in without else f"{text} = {OmegaConf.select(base, name)}"


def words(distribution: BaseDistribution) -> str:
    """A distribution as a person would write it."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({','.join(map(str, distribution.choices))})"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    kind = "whole" if isinstance(distribution, IntDistribution) else "real"
    step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{kind} from {distribution.low:g} to {distribution.high:g}{step}{' log' if distribution.log else ''}"


def as_sweep(kind: BaseDistribution) -> str:
    """A distribution in the grammar of Hydra's sweeps."""
    if isinstance(kind, CategoricalDistribution):
        return f"choice({','.join(map(as_choice, kind.choices))})"
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if isinstance(kind, IntDistribution) and not kind.log:
        step = f",{kind.step}" if kind.step != 1 else ""
        return f"range({kind.low},{kind.high + 1}{step})"
    if kind.step is not None and not kind.log:
        beyond = Decimal(str(kind.high)) + Decimal(str(kind.step))  # a range ends before its stop
        return f"range({kind.low!r},{beyond},{kind.step!r})"
    text = f"interval({kind.low!r},{kind.high!r})"
    return f"tag(log,{text})" if kind.log else text


def made_name(space: Space, definition: dict[str, str]) -> str:
    """A name that the same command makes again, so that it goes on with its study, and another command doesn't."""
    parts = [name.lstrip("+") for name in list(space.searched)[:3]]
    return "-".join([*parts, digest(definition)[:8]])


def require_same(study: optuna.Study, definition: dict[str, str]) -> None:
    """Note the definition in a new study; hold one that exists to its own.

    Raises:
        StudyError: it has another one; the message shows the differences.
    """
    known: dict[str, Any] | None = study.user_attrs.get("definition")
    if known is None:
        if study.get_trials(deepcopy=False):
            raise StudyError(f"study {study.study_name} was not made by tinysweep; choose another study_name")
        study.set_user_attr("definition", definition)
        return
    keys = [key for key in {**known, **definition} if known.get(key) != definition.get(key)]
    if keys == [DIGEST] and DIGEST not in known:
        raise StudyError(
            f"study {study.study_name} was begun by an earlier version, which didn't note what data.root held, so "
            "new trials can't be compared with its own; begin another: hydra.sweeper.study_name=NAME"
        )
    if keys:
        changes = [f"  {key}: {known.get(key, '(none)')} -> {definition.get(key, '(none)')}" for key in keys]
        raise StudyError(
            "\n".join(
                [
                    f"study {study.study_name} was begun with other settings, so its trials can't be compared:",
                    *changes,
                    "undo the change, or begin another study: hydra.sweeper.study_name=NAME",
                ]
            )
        )


def require_comparable(objectives: list[str], base: DictConfig, space: Space, prunes: bool) -> None:
    """Refuse what no sweep can do.

    Raises:
        ConfigError: validation or test data is asked for that a sweep has not or may not read, or several
            objectives are to be pruned by.
    """
    held_out = space.searched.get("data.validation")
    if 0 in (extremes(held_out) if held_out else [base.data.validation]):
        raise ConfigError(NOTHING_HELD_OUT)
    if "trainer.test" in space.searched or any(map(_asks_for_test, space.fixed)):
        raise ConfigError(
            "trainer.test: a sweep never reads the test set; leave it out, and test the winner alone"
        )
    if prunes and (len(objectives) > 1 or not METRICS[objectives[0]].each_epoch):
        raise ConfigError(
            f"hydra.sweeper.objective={','.join(objectives)} can't be pruned, only validation_accuracy or "
            "validation_loss alone, which every epoch shows; add hydra/sweeper/pruner=none"
        )


def _asks_for_test(text: str) -> bool:
    name, _, value = text.partition("=")
    asked = name.lstrip("+") == "trainer.test" and "${" not in value
    return asked and typed_value("trainer.test", value) is True
