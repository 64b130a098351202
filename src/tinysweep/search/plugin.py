"""The Hydra plugin `hydra/sweeper: budget` and its settings.

Hydra imports every plugin at every start, so neither torch nor Optuna is imported before a sweep begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import ConfigError
from tinysweep.settings.explain import nearest
from tinysweep.settings.launchers import require_launcher
from tinysweep.settings.sweeper import SweeperConfig, chosen_with_slash
from tinysweep.terminal import outlasting_readers

OWN_SWEEPER = "tinysweep.search.plugin.BudgetSweeper"


@dataclass
class _Node(SweeperConfig):
    """The same as Hydra composes it."""

    _target_: str = OWN_SWEEPER
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"sampler": "grid"}, {"pruner": "none"}])


ConfigStore.instance().store(group="hydra/sweeper", name="budget", node=_Node, provider="tinysweep")


class BudgetSweeper(Sweeper):
    """An Optuna study in which no trial over the budget is ever launched."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        for group in ("hydra.launcher", "hydra.sweeper.sampler", "hydra.sweeper.pruner"):
            if not isinstance(chosen := OmegaConf.select(config, group), DictConfig):
                raise ConfigError(chosen_with_slash(group, chosen))
        require_launcher(config.hydra.launcher)
        plain: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in self.settings.items()
        }
        known = [spec.name for spec in fields(SweeperConfig)]
        if strange := [key for key in plain if key not in known]:
            key = f"{SweeperConfig.KEY}.{strange[0]}"
            raise ConfigError(f"{key} is not a setting; {nearest(key)}")
        self.wanted = SweeperConfig(**plain)
        self.master, self.context, self.task = config, hydra_context, task_function

    def sweep(self, arguments: Sequence[str]) -> None:
        """Search, and leave everything in the study's folder.

        Raises:
            TinysweepError: a wrong setting, a changed study, a space without a model that fits, too many
                failures, or a storage that doesn't answer; what had finished by then is kept.
        """
        from tinysweep.search.plan import Plan  # noqa: PLC0415 torch and Optuna are imported only by a sweep
        from tinysweep.search.sweep import Sweep  # noqa: PLC0415

        with outlasting_readers():
            Sweep(Plan(self.wanted, self.master, self.context, self.task, list(arguments))).run()
