"""What a study searches: the grammar of Hydra's sweeps read into Optuna distributions."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import UnionType
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from tinysweep.errors import ConfigError
from tinysweep.search.study import Status, status
from tinysweep.settings.command_line import as_choice
from tinysweep.settings.compose import COMPOSITION_ERRORS
from tinysweep.settings.explain import explain, nearest, settings
from tinysweep.settings.schema import AUTO, Config, expected, lies_within

Value = str | int | float | bool
MOST_GRID_POINTS = 1_000_000


@dataclass(frozen=True)
class Space:
    """Distributions by override name, such as `model.width`, and the overrides that every trial shares."""

    searched: dict[str, BaseDistribution] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)

    @property
    def ordered(self) -> dict[str, BaseDistribution]:
        """The searched parameters, those on which others may depend first: groups, then what names a choice."""
        return dict(sorted(self.searched.items(), key=lambda item: _independence(item[0])))


def override(name: str, value: Any) -> str:
    """The words of the command line that set a value."""
    return f"{name}={'null' if value is None else value}"


def is_setting(name: str) -> bool:
    """Whether an override sets a value, rather than choosing from a group or changing the composition."""
    return "." in name and name in settings()


def _independence(name: str) -> tuple[bool, bool]:
    return is_setting(name), not name.endswith(".name")


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
    for name, sweep in (params or {}).items():
        _require_sweep(name, sweep)
    searched: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    shared = {override(name, value): override(name, (written or {}).get(name, value))
              for name, value in (params or {}).items()}  # fmt: skip
    for text in [*shared, *arguments]:
        try:
            read = OverridesParser.create().parse_override(text)
            distributions, _, removed = create_params_from_overrides([text])
        except (*COMPOSITION_ERRORS, AssertionError, NotImplementedError) as error:
            raise ConfigError(_unreadable(text, error)) from error
        name = "" if removed else read.get_key_element()
        if name.lstrip("+") == "trial":
            raise ConfigError("trial is set by the sweep itself; leave it out")
        if name.lstrip("+") == "resume":
            raise ConfigError(
                "resume=FOLDER goes on with a single run, without -m; a sweep goes on by its own command"
            )
        searched.pop(name, None)
        fixed.pop(name, None)
        if name in distributions:
            searched[name] = _whole(name, distributions[name])
            _check(name, searched[name])
        else:
            fixed[name or text] = shared.get(text, text)
    return Space(searched, list(fixed.values()))


def _require_sweep(name: str, written: Any) -> None:
    """Refuse what other sweepers take for a sweep: a list of choices, or a mapping of type, low and high."""
    takes_list = name in settings() and get_origin(settings()[name].type) is list
    is_value = takes_list and isinstance(written, list) and not any(isinstance(each, list) for each in written)
    if isinstance(written, dict | list) and not is_value:
        raise ConfigError(
            f"hydra.sweeper.params.{name}={written} must be a sweep; write {name}: {_sweep_of(written)}"
        )


def _sweep_of(described: dict[str, Any] | list[Any]) -> str:
    """The sweep that a list of choices, or a mapping of type, low and high, stands for."""
    if isinstance(described, list):
        described = {"choices": described}
    if choices := described.get("choices"):
        return f"choice({','.join(map(str, choices))})"
    low, high = described.get("low"), described.get("high")
    if low is None or high is None:
        return "range(4,17), choice(a,b), interval(0.1,1) or tag(log,interval(0.01,1))"
    if described.get("log"):
        return f"tag(log,interval({low},{high}))"
    if described.get("type") == "int" and isinstance(high, int):
        return f"range({low},{high + 1}{f',{step}' if (step := described.get('step')) else ''})"
    return f"interval({low},{high})"


def _unreadable(text: str, error: Exception) -> str:
    if isinstance(error, AssertionError | NotImplementedError):
        return (
            f"{text} can't be searched; use choice(a,b), range(1,9), interval(0.1,1) or tag(log,interval(0.1,1))"
        )
    said = explain(error)
    return said if text in said else f"{text}: {said}"


def _whole(name: str, found: BaseDistribution) -> BaseDistribution:
    """An interval between whole numbers, for a setting that takes only those: Hydra reads the ends as floats."""
    spec = settings().get(name)
    if spec is None or not isinstance(found, FloatDistribution) or not _takes_only_whole(spec.type):
        return found
    if found.low != int(found.low) or found.high != int(found.high) or (found.step or 1) % 1:
        raise ConfigError(
            f"{name} takes whole numbers only; give whole ends, such as interval(1,9) or range(1,10)"
        )
    return IntDistribution(int(found.low), int(found.high), log=found.log, step=int(found.step or 1))


def _takes_only_whole(annotation: Any) -> bool:
    return annotation is int or (isinstance(annotation, UnionType) and int in get_args(annotation))


def _check(name: str, distribution: BaseDistribution) -> None:
    """Hold every choice, or both ends, to the rule of the setting, whatever the others are."""
    if "." not in name or name.startswith(("+", "~", "hydra")):
        return  # Hydra itself says which choices a group has
    spec = settings().get(name)
    if spec is None:
        raise ConfigError(f"{name} is not a setting; {nearest(name)}")
    for value in extremes(distribution):
        if "${" in str(value):
            continue  # what it comes to is for each trial to say
        given = typed_value(name, value)
        interval: str = spec.metadata.get("within") or ""
        for number in given if isinstance(given, list) else [given]:
            if not interval or number is None or number == AUTO:
                continue
            if not isinstance(number, int | float):
                raise ConfigError(f"{name}={value} must be {expected(spec.type)} ({spec.metadata['meaning']})")
            if not lies_within(number, interval):
                raise ConfigError(f"{name}={value} must lie in {interval} ({spec.metadata['meaning']})")


def typed_value(name: str, value: Any) -> Any:
    """A value as its setting holds it, such as 8 for "'8'"; lists as lists.

    Raises:
        ConfigError: it isn't one that the setting takes.
    """
    holder = OmegaConf.structured(Config)
    try:
        OmegaConf.update(holder, name, parse(name, value))
        held = OmegaConf.select(holder, name)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    return OmegaConf.to_container(held) if OmegaConf.is_config(held) else held


def extremes(distribution: BaseDistribution) -> list[Value]:
    """Every choice of a categorical parameter, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)  # type: ignore[arg-type]  # Hydra's grammar makes none null
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    return OverridesParser.create().parse_override(text).value()


def parse(name: str, value: Value) -> Any:
    """A drawn value as the command line would read it: Optuna holds lists and quoted text as their source."""
    return _parsed(f"{name}={value}") if isinstance(value, str) else value


def unquoted(value: Any) -> Any:
    """A drawn value as people read it: Optuna holds quoted text with its quotes."""
    quoted = isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


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
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        low, high, step = (Decimal(str(end)) for end in (distribution.low, distribution.high, distribution.step))
        return [float(low + number * step) for number in range(int((high - low) / step) + 1)]
    raise ConfigError(
        f"{name} is continuous, and a grid needs values: use {name}=A,B,C or choose a sampler, such as "
        "hydra/sweeper/sampler=tpe"
    )


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


START_WITH = "hydra.sweeper.start_with"


def read_start(start: list[dict[str, Any]], space: Space) -> list[dict[str, Value]]:
    """The points of `hydra.sweeper.start_with`, with values as Optuna holds them; what one leaves out is drawn.

    Raises:
        ConfigError: a point names what isn't searched, or a value that the space doesn't hold.
    """
    return [{name: _value(name, value, space) for name, value in point.items()} for point in start]


def _value(name: str, value: Any, space: Space) -> Value:
    if name not in space.searched:
        raise ConfigError(f"{START_WITH}: {name} isn't searched; give values of {', '.join(space.searched)}")
    distribution = space.searched[name]
    found = _held(name, value, distribution)
    if found is None:
        raise ConfigError(f"{START_WITH}: {name}={value} isn't in what is searched, {words(distribution)}")
    return found


def _held(name: str, value: Any, distribution: BaseDistribution) -> Value | None:
    if isinstance(distribution, CategoricalDistribution):
        choices: list[Value] = list(distribution.choices)  # type: ignore[arg-type]  # Hydra's grammar makes none null
        return next((choice for choice in choices if value in (choice, parse(name, choice))), None)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and distribution._contains(value) else None


def untried(start: list[dict[str, Value]], trials: list[FrozenTrial]) -> list[dict[str, Value]]:
    """The points that no trial of the study has."""
    return [point for point in start if not any(point.items() <= trial.params.items() for trial in trials)]


class Points:
    """The points of a finite space that no trial has had yet."""

    def __init__(self, points: list[dict[str, Value]]) -> None:
        self.left = {frozenset(point.items()): point for point in points}
        self.total = len(self.left)
        self.status = status  # in whose place a sweeper puts its own view
        self.read = 0  # the trials before this number are finished and taken in

    def upcoming(self, trials: list[FrozenTrial]) -> dict[str, Value] | None:
        """The first point that no trial has, interrupted ones aside; None after the last."""
        while self.read < len(trials) and trials[self.read].state.is_finished():
            if self.status(trials[self.read]) != Status.interrupted:
                self.left.pop(frozenset(trials[self.read].params.items()), None)
            self.read += 1
        rest = [trial for trial in trials[self.read :] if self.status(trial) != Status.interrupted]
        going = {frozenset(trial.params.items()) for trial in rest}
        return next((point for values, point in self.left.items() if values not in going), None)
