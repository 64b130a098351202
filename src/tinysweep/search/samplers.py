"""Which sampler draws the trials: Optuna's, as Hydra composes them, or the points of a grid in their order."""

import importlib.util
import warnings
from typing import Any

import numpy as np
import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from tinysweep.errors import ConfigError, first_line
from tinysweep.search.space import Value
from tinysweep.search.study import Status, status

NEEDS = {"CmaEsSampler": "cmaes"}  # what they import when first asked


def is_grid(node: DictConfig) -> bool:
    """Whether hydra/sweeper/sampler is the grid."""
    return str(node._target_).endswith(".GridSampler")


def build_sampler(node: DictConfig, joined: int) -> BaseSampler:
    """The Optuna sampler of hydra/sweeper/sampler.

    `joined` is how many sweepers were at the study before: each draws from a seed of its own, or a study that
    goes on would draw once more what it began with. A quasi-random sequence alone goes on by itself, and needs
    its seed.

    Raises:
        ConfigError: the sampler refuses its settings, or a package is missing.
    """
    name = str(node._target_).rpartition(".")[2]
    if (package := NEEDS.get(name)) and not importlib.util.find_spec(package):
        raise ConfigError(f"{name} needs the package {package}; pip install 'tinysweep[samplers]'")
    settings: Any = OmegaConf.to_container(node, resolve=True)
    if joined and settings.get("seed") is not None and name != "QMCSampler":
        settings["seed"] = int(np.random.SeedSequence([settings["seed"], joined]).generate_state(1)[0])
    whitelist = ("optuna.samplers.*", "hydra_plugins.hydra_optuna_sweeper.*")
    try:
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            sampler = instantiate(settings, _execution_whitelist_=whitelist)
    except Exception as error:  # what a sampler's own constructor raises
        raise ConfigError(f"hydra.sweeper.sampler ({name}): {first_line(error)}") from error
    assert isinstance(sampler, BaseSampler)
    return sampler


class Points:
    """The points of a finite space that no trial has had yet."""

    def __init__(self, points: list[dict[str, Value]]) -> None:
        self.left = {frozenset(point.items()): point for point in points}
        self.total, self.first = len(self.left), points[0]
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


class GridOrder(BaseSampler):
    """Every point of a grid once, in order: unlike Optuna's grid sampler also where some parameters exist under
    some choices only, and without an order of its own that a person would have to guess."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.chosen: dict[int, dict[str, Value]] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number not in self.chosen:
            # Where another sweeper has just taken the last point, any point: it is then found to be a repetition.
            point = self.points.upcoming(study.get_trials(deepcopy=False)[: trial.number])
            self.chosen[trial.number] = point if point is not None else self.points.first
        return self.chosen[trial.number][param_name]
