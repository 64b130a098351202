"""The way from Hydra's composition of it to a typed, checked `Config`."""

from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from tinysweep.errors import ConfigError
from tinysweep.settings.explain import NO_MAPPING, UNREADABLE, explain, require_groups, require_schema, unreadable
from tinysweep.settings.schema import Config, from_dictconfig
from tinysweep.settings.searchpath import CONFIG_FOLDER, SWEEPS_FOLDER

LIBRARY_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
COMPOSITION_ERRORS = (*LIBRARY_ERRORS, ValueError, OSError)


def register_schema() -> None:
    """Make the dataclasses known to Hydra, for the defaults list of config.yaml to start from, and the studies.

    What is wrong with the file of a study is said when it is asked for, so that it stands in the way of no other.
    """
    store = ConfigStore.instance()
    schema = OmegaConf.structured(Config)
    for section in (schema.data, schema.model):
        OmegaConf.set_struct(section.options, False)  # they are named by the target
    OmegaConf.set_struct(schema.metrics, False)
    store.store(name="schema", node=schema, replace=True)
    # Studies lie outside conf/: the project's own, and those in a folder sweeps/ where the command is typed.
    folders = (SWEEPS_FOLDER, Path("sweeps"))
    files = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml")) if file.is_file()}
    UNREADABLE.clear()
    for name, file in files.items():
        try:
            node = _load_study(file)
        except ConfigError as error:
            UNREADABLE[f"sweeps/{name}"] = str(error)
            store.repo.get("sweeps", {}).pop(f"{name}.yaml", None)  # it was whole at an earlier call
        else:
            store.store(group="sweeps", name=name, node=node, package="_global_", replace=True)


def _load_study(file: Path) -> DictConfig:
    try:
        node = OmegaConf.load(file)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(unreadable(error, file)) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{file}: {explain(error)}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{file}: {NO_MAPPING}")
    return node


def to_config(composed: DictConfig) -> Config:
    """What Hydra composed, as plain dataclasses."""
    try:
        require_schema(composed)
        return from_dictconfig(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error


def compose(*overrides: str) -> Config:
    """The configuration that the same words compose on the command line, such as "experiment=era_seed", or a
    ConfigError with what that says of them."""
    register_schema()
    caller = GlobalHydra.instance().hydra  # there is one Hydra a process, and it may be in use
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
            composed = hydra.compose("config", overrides=list(overrides), return_hydra_config=True)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error)) from error
    finally:
        GlobalHydra.instance().hydra = caller
    require_groups(composed.hydra)
    with open_dict(composed):
        del composed["hydra"]
    return to_config(composed)
