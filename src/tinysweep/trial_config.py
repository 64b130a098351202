"""From the values of a trial to its checked configuration, as the job itself will compose it."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tinysweep.composition import COMPOSITION_ERRORS
from tinysweep.config import Config
from tinysweep.errors import ConfigError
from tinysweep.explain import explain, require_groups, require_schema, settings
from tinysweep.space import Value, is_setting, parse

# What doesn't decide what a run finds: where data lies, what it runs on, and what it is called.
INCIDENTAL = (
    "name",
    "trial",
    "data.root",
    "data.download",
    "trainer.device",
    "trainer.threads",
    "trainer.cuda_graphs",
    "trainer.test",
)


class Composer:
    """Composes trials: with Hydra once for each combination of group choices, as that takes a tenth of a second,
    and by setting values in a copy of that for each trial."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, fixed: list[str]) -> None:
        self.loader, self.master, self.fixed = loader, master, fixed
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        self.built: dict[tuple[str, ...], dict[str, Any]] = {}

    def base(self, values: Mapping[str, Value]) -> DictConfig:
        """The composition of the fixed overrides and of those values that choose from groups.

        Raises:
            ConfigError: Hydra refuses them.
        """
        choices = self._choices(values)
        if choices not in self.composed:
            self.composed[choices] = self.compose(*choices)
        return self.composed[choices]

    def _choices(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        return tuple(override(name, value) for name, value in values.items() if not is_setting(name))

    def compose(self, *overrides: str) -> DictConfig:
        """What Hydra composes of the fixed overrides and more.

        Raises:
            ConfigError: Hydra refuses them.
        """
        try:
            composed = self.loader.load_sweep_config(self.master, [*self.fixed, *overrides])
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error)) from error
        require_groups(composed.hydra)
        with open_dict(composed):
            del composed["hydra"]
        return composed

    def config(self, values: Mapping[str, Value]) -> Config:
        """The checked configuration of a trial.

        Raises:
            ConfigError: the values break a rule, alone or together.
        """
        composed = self.base(values)
        changed: dict[str, DictConfig] = {}
        try:
            for name, value in values.items():
                if is_setting(name):
                    section, _, leaf = name.partition(".")
                    if section not in changed:
                        changed[section] = copy.deepcopy(composed[section])
                    OmegaConf.update(changed[section], leaf, parse(name, value))
            parts = {name: OmegaConf.to_object(node) for name, node in changed.items()}
            return Config(**{**self._unchanged(values, set(changed)), **parts})
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error)) from error

    def _unchanged(self, values: Mapping[str, Value], changed: set[str]) -> dict[str, Any]:
        """The parts of a configuration that no value changes, which are most, so each is built once."""
        composed, built = self.base(values), self.built.setdefault(self._choices(values), {})
        if not built:
            require_schema(composed)
        for spec in fields(Config):
            if spec.name not in built and spec.name not in changed:
                node = composed[spec.name]
                built[spec.name] = OmegaConf.to_object(node) if isinstance(node, DictConfig) else node
        return {name: part for name, part in built.items() if name not in changed}

    def reads(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether a parameter plays a role beside the values chosen before it: `scheduler.gamma` is read by the
        step schedule alone, so a trial with another one doesn't draw it."""
        only = settings()[name].metadata.get("only") if is_setting(name) else None
        if not only:
            return True
        section = name.partition(".")[0]
        chosen = values.get(f"{section}.name") or self.base(values)[section].name
        return str(chosen) in only


def override(name: str, value: Value) -> str:
    """The words of the command line that set a value."""
    return f"{name}={value}"


def identity(config: Config | dict[str, Any]) -> dict[str, Any]:
    """All that decides what a run finds, by dotted key."""
    found = flat(config if isinstance(config, dict) else asdict(config))
    return {key: value for key, value in found if key not in INCIDENTAL}


def flat(node: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by dotted key."""
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def digest(content: Any) -> str:
    """A short fingerprint of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
