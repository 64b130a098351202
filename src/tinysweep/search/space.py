"""What a study searches: Hydra's sweeps read into distributions of Optuna, and which points come first."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import UnionType
from typing import Any, get_args, get_origin

from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.errors import ConfigError
from tinysweep.search.study import Status, status
from tinysweep.settings.command_line import as_choice, read_override
from tinysweep.settings.compose import COMPOSITION_ERRORS
from tinysweep.settings.explain import choice_key, explain, nearest, setting_of, settings
from tinysweep.settings.schema import Config

Value = str | int | float | bool
MOST_GRID_POINTS = 1_000_000
START_WITH = "hydra.sweeper.start_with"
NEVER_TRIED = (Status.interrupted, Status.withdrawn)


@dataclass(frozen=True)
class Space:
    """Distributions by override name, such as `model.width`, and the overrides that every trial shares."""

    searched: dict[str, BaseDistribution] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)

    @property
    def ordered(self) -> dict[str, BaseDistribution]:
        """The searched parameters, those on which others may depend first: groups, then what names a choice."""

        def rank(name: str) -> tuple[bool, bool]:
            return is_setting(name), not (is_setting(name) and name == choice_key(name.partition(".")[0]))

        return dict(sorted(self.searched.items(), key=lambda item: rank(item[0])))


def override(name: str, value: Any) -> str:
    """The words of the command line that set a value."""
    return f"{name}={'null' if value is None else value}"


def is_setting(name: str) -> bool:
    """Whether an override sets a value, rather than choosing from a group or changing the composition."""
    return "." in name and setting_of(name) is not None


# ---- the grammar


def read_space(
    params: dict[str, Any] | None, arguments: list[str], written: Mapping[str, Any] | None = None
) -> Space:
    """The space of `hydra.sweeper.params` and the command line; where both name a parameter, the latter counts.

    `written` are the params before Hydra resolved their interpolations. In a sweep, such as
    range(4,${oc.env:TOP}), these are resolved once; in a value that isn't searched, each trial resolves its own.

    Raises:
        ConfigError: a sweep that can't be read or that Optuna has no distribution for, a key that is no setting,
        or an end of a range that breaks its setting's rule.
    """
    params = params or {}
    for name, sweep in params.items():
        _require_sweep(name, sweep)
    shared = {
        override(name, value): override(name, (written or {}).get(name, value)) for name, value in params.items()
    }
    searched: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for text in [*shared, *arguments]:
        name, distribution = _read(text)
        searched.pop(name, None)
        fixed.pop(name, None)
        if distribution is None:
            fixed[name] = shared.get(text, text)
        else:
            searched[name] = _in_whole_numbers(name, distribution)
            _require_rules(name, searched[name])
    return Space(searched, list(fixed.values()))


def _require_sweep(name: str, written: Any) -> None:
    """Refuse what other sweepers take for a sweep: a list of choices, or a mapping of type, low and high."""
    takes_list = (spec := setting_of(name)) is not None and get_origin(spec.type) is list
    is_value = takes_list and isinstance(written, list) and not any(isinstance(each, list) for each in written)
    if not isinstance(written, dict | list) or is_value:
        return
    meant = "range(4,17), choice(a,b), interval(0.1,1) or tag(log,interval(0.01,1))"
    if isinstance(written, list):
        meant = f"choice({','.join(map(str, written))})"
    raise ConfigError(f"hydra.sweeper.params.{name}={written} must be a sweep; write {name}: {meant}")


def _read(text: str) -> tuple[str, BaseDistribution | None]:
    """The key of an override and, if it is a sweep, its distribution."""
    try:
        read = read_override(text)
        sweep = create_optuna_distribution_from_override(read) if read.is_sweep_override() else None
    except (AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"{text} can't be searched; use choice(a,b), range(1,9), interval(0.1,1) or tag(log,interval(0.1,1))"
        ) from error
    except COMPOSITION_ERRORS as error:
        said = explain(error)
        raise ConfigError(said if text in said else f"{text}: {said}") from error
    name = read.get_key_element()
    if name.lstrip("+") == "trial":
        raise ConfigError("trial is set by the sweep itself; leave it out")
    if sweep and name.lstrip("+").partition(".")[0] == "tracker":
        raise ConfigError(f"{name} can't be searched, as what tracks a trial decides nothing; give it one value")
    if name.lstrip("+") == "resume":
        raise ConfigError(
            "resume=FOLDER goes on with a single run, without -m; a sweep goes on by its own command"
        )
    return name, sweep


def _in_whole_numbers(name: str, found: BaseDistribution) -> BaseDistribution:
    """An interval between whole numbers, for a setting that takes only those: Hydra reads the ends as floats."""
    annotation = spec.type if (spec := setting_of(name)) else None
    whole = annotation is int or (isinstance(annotation, UnionType) and int in get_args(annotation))
    if not whole or not isinstance(found, FloatDistribution):
        return found
    if found.low != int(found.low) or found.high != int(found.high) or (found.step or 1) % 1:
        raise ConfigError(
            f"{name} takes whole numbers only; give whole ends, such as interval(1,9) or range(1,10)"
        )
    return IntDistribution(int(found.low), int(found.high), log=found.log, step=int(found.step or 1))


def _require_rules(name: str, distribution: BaseDistribution) -> None:
    """Hold every choice, or both ends, to the rule of the setting."""
    if "." not in name or name.startswith(("+", "~", "hydra")):
        return  # Hydra itself says which choices a group has
    if setting_of(name) is None:
        raise ConfigError(f"{name} is not a setting; {nearest(name)}")
    for value in extremes(distribution):
        if "${" not in str(value):  # what that comes to is for each trial to say
            require_rule(name, typed_value(name, value))


def require_rule(name: str, value: Any) -> None:
    """Hold a value of the right type to the rule of its setting, whatever the others are."""
    section, _, leaf = name.partition(".")
    if name in settings():  # any value may be one of model.options
        setattr(getattr(Config(), section), leaf, value)


def typed_value(name: str, value: Any) -> Any:
    """A value as its setting holds it, such as 8 for "'8'"; lists as lists."""
    holder = OmegaConf.structured(Config)
    try:
        OmegaConf.update(holder, name, parse(name, value))
        held = OmegaConf.select(holder, name)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    return OmegaConf.to_container(held) if OmegaConf.is_config(held) else held


@functools.lru_cache(maxsize=4096, typed=True)
def parse(name: str, value: Value) -> Any:
    """A drawn value as the command line would read it: Optuna holds lists and quoted text as their source."""
    return read_override(f"{name}={value}").value() if isinstance(value, str) else value


def without_quotes(value: Any) -> Any:
    """A drawn value as people read it: Optuna holds quoted text with its quotes."""
    quoted = isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def plain_params(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial has drawn, as people read it."""
    return {name: without_quotes(value) for name, value in trial.params.items()}


# ---- distributions


def extremes(distribution: BaseDistribution) -> list[Value]:
    """Every choice of a categorical parameter, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)  # type: ignore[arg-type]  # Hydra's grammar makes none null
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution could have given a value."""
    try:
        create_trial(state=TrialState.FAIL, params={"it": value}, distributions={"it": distribution})
    except (ValueError, TypeError):
        return False
    return True


def in_words(distribution: BaseDistribution) -> str:
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
    if kind.log or kind.step is None:
        text = f"interval({kind.low!r},{kind.high!r})"
        return f"tag(log,{text})" if kind.log else text
    stop = Decimal(str(kind.high)) + Decimal(str(kind.step))  # before which a range ends
    return f"range({kind.low!r},{stop}{'' if kind.step == 1 else f',{kind.step!r}'})"


# ---- points


def read_start_points(start: list[dict[str, Any]], space: Space) -> list[dict[str, Value]]:
    """The points of `hydra.sweeper.start_with`, with values as Optuna holds them; what one leaves out is drawn."""
    return [{name: _start_value(name, value, space) for name, value in point.items()} for point in start]


def _start_value(name: str, value: Any, space: Space) -> Value:
    if name not in space.searched:
        raise ConfigError(f"{START_WITH}: {name} isn't searched; give values of {', '.join(space.searched)}")
    distribution = space.searched[name]
    if isinstance(distribution, CategoricalDistribution):
        found = [choice for choice in extremes(distribution) if value in (choice, parse(name, choice))]
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        found = [value] if is_number and contains(distribution, value) else []
    if not found:
        raise ConfigError(f"{START_WITH}: {name}={value} isn't in what is searched, {in_words(distribution)}")
    return found[0]


def untried_points(start: list[dict[str, Value]], trials: list[FrozenTrial]) -> list[dict[str, Value]]:
    """The points that no trial of the study has."""
    return [point for point in start if not any(point.items() <= trial.params.items() for trial in trials)]


def grid(space: Space, most: int = MOST_GRID_POINTS) -> Iterator[dict[str, Value]]:
    """Every point of a space, the last parameter varying fastest.

    Raises:
        ConfigError: a parameter is continuous, or there are more points than `most`.
    """
    axes = {name: _levels(name, distribution) for name, distribution in space.searched.items()}
    size = math.prod(len(axis) for axis in axes.values())
    if size > most:
        raise ConfigError(
            f"the grid has {size:,} points, at most {most:,}; choose a sampler, such as hydra/sweeper/sampler=tpe"
        )
    return (dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values()))


def _levels(name: str, distribution: BaseDistribution) -> list[Value]:
    if isinstance(distribution, CategoricalDistribution):
        return extremes(distribution)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.log or distribution.step is None:
        raise ConfigError(
            f"{name} is continuous, and a grid needs values: use {name}=A,B,C or choose a sampler, such as "
            "hydra/sweeper/sampler=tpe"
        )
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    low, high, step = (Decimal(str(end)) for end in (distribution.low, distribution.high, distribution.step))
    return [float(low + number * step) for number in range(int((high - low) / step) + 1)]


class Points:
    """The points of a finite space, in their order, that no trial has had yet.

    Optuna's BruteForceSampler would give them in an order of its own, never come back to one that was interrupted,
    and go through all trials for every value.
    """

    def __init__(self, points: list[dict[str, Value]]) -> None:
        self.left = {frozenset(point.items()): point for point in points}
        self.total = len(self.left)
        self.status = status  # in whose place a sweeper puts its own view
        self.read = 0  # the trials before this number are finished and taken in

    def upcoming(self, trials: list[FrozenTrial]) -> dict[str, Value] | None:
        """The first point that no trial has, those aside that came to nothing: the interrupted, and what was
        withdrawn because other sweepers made up the study; None after the last."""
        while self.read < len(trials) and trials[self.read].state.is_finished():
            if self.status(trials[self.read]) not in NEVER_TRIED:
                self.left.pop(frozenset(trials[self.read].params.items()), None)
            self.read += 1
        rest = [trial for trial in trials[self.read :] if self.status(trial) not in NEVER_TRIED]
        going = {frozenset(trial.params.items()) for trial in rest}
        return next((point for values, point in self.left.items() if values not in going), None)
