"""The recipe of a finished trial, changed by overrides as the command line would change it."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinysweep.errors import ConfigError
from tinysweep.settings.compose import COMPOSITION_ERRORS, compose, typed
from tinysweep.settings.explain import explain, nearest, settings
from tinysweep.settings.schema import Config

GROUPS = tuple(spec.name for spec in fields(Config) if is_dataclass(spec.type))  # as conf/ has them


def retrained(config: Config, words: Sequence[str], composed_of: Sequence[str]) -> Config:
    """A configuration changed by overrides of its settings, such as trainer.epochs=30, and choices from groups,
    such as augmentation=elastic. `composed_of` are the overrides that the configuration came from; those of a
    group that is chosen anew still hold, as on a command line.

    Raises:
        ConfigError: an override can't be read, or sets what is no setting, or breaks a rule.
    """
    changed = OmegaConf.structured(config)
    parsed = [_parsed(word) for word in words]
    for override in sorted(parsed, key=lambda each: each.get_key_element() not in GROUPS):  # groups come first
        key = override.get_key_element()
        if key in GROUPS:
            kept = [word for word in composed_of if word.startswith(f"{key}.")]
            changed[key] = getattr(compose(str(override.input_line), *kept), key)
            continue
        try:
            OmegaConf.update(changed, key, override.value())
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error)) from error
    return typed(changed)


def _parsed(word: str) -> Override:
    """An override that gives one value to one setting or group."""
    try:
        override = OverridesParser.create().parse_override(word)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(f"{word} can't be read as an override: {explain(error)}") from error
    key = override.get_key_element()
    plain = not (override.is_add() or override.is_delete() or override.is_sweep_override())
    if not plain or (key in GROUPS and not isinstance(override.value(), str)):
        raise ConfigError(f"{word} must give one value to one setting: KEY=VALUE, lists as [1,2,1] and quoted")
    if key not in GROUPS and not ("." in key and key in settings()):
        raise ConfigError(f"{key} is not a setting that a finished trial can be retrained with; {nearest(key)}")
    return override
