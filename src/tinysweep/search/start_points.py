"""Points of a space that a study tries before its sampler draws, such as recipes that are known to be good."""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from tinysweep.errors import ConfigError
from tinysweep.search.definition import words
from tinysweep.search.space import Space, Value, parse

KEY = "hydra.sweeper.start_with"


def read_start(start: list[dict[str, Any]], space: Space) -> list[dict[str, Value]]:
    """The points of `hydra.sweeper.start_with`, with values as Optuna holds them; what one leaves out is drawn.

    Raises:
        ConfigError: a point names what isn't searched, or a value that the space doesn't hold.
    """
    return [{name: _value(name, value, space) for name, value in point.items()} for point in start]


def _value(name: str, value: Any, space: Space) -> Value:
    if name not in space.searched:
        raise ConfigError(f"{KEY}: {name} isn't searched; give values of {', '.join(space.searched)}")
    distribution = space.searched[name]
    found = _held(name, value, distribution)
    if found is None:
        raise ConfigError(f"{KEY}: {name}={value} isn't in what is searched, {words(distribution)}")
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
