"""Where the configuration lies, and the way from Hydra's composition of it to a typed, checked `Config`."""

from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from tinysweep.config import Config, from_dictconfig
from tinysweep.errors import ConfigError
from tinysweep.explain import explain, require_schema

_INSTALLED = Path(__file__).parent / "conf"
CONFIG_FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "conf"

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)


def register_schema() -> None:
    """Make the dataclasses known to Hydra, for the defaults list of config.yaml to start from."""
    ConfigStore.instance().store(name="schema", node=Config, replace=True)


def typed(composed: DictConfig) -> Config:
    """What Hydra composed, as plain dataclasses.

    Raises:
        ConfigError: a key that is no setting, or a value that breaks its rule.
    """
    try:
        require_schema(composed)
        return from_dictconfig(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error


def compose(*overrides: str) -> Config:
    """The configuration that the same words compose on the command line, such as "experiment=era_seed".

    Raises:
        ConfigError: as the command line would refuse them.
    """
    register_schema()
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        try:
            composed = hydra.compose("config", overrides=list(overrides))
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error)) from error
    return typed(composed)
