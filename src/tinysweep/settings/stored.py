"""Configurations as files hold them: records, models and studies, also those of earlier versions."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from tinysweep.errors import ConfigError
from tinysweep.settings.schema import Config, from_dictconfig


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key, such as model.width."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def rename_old_settings(held: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, under the names that they have now: dropout was once two settings of the model."""
    now = dict(held)
    rate, place = now.pop("model.dropout", None), now.pop("model.dropout_at", "head")
    if rate is not None and str(rate) not in ("0", "0.0"):
        now |= {"dropout.name": place, "dropout.rate": rate}
    return now


def sections(held: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, or a part of one, under the names of now; what it doesn't hold is left out."""
    found: dict[str, Any] = {}
    for key, value in rename_old_settings(flatten(held)).items():
        *path, leaf = key.split(".")
        section = found
        for part in path:
            section = section.setdefault(part, {})
        section[leaf] = value
    return found


def read_config(held: Any) -> Config:
    """A configuration from its JSON or YAML."""
    if not isinstance(held, Mapping):
        raise ConfigError("it holds no configuration")
    return from_dictconfig(OmegaConf.merge(OmegaConf.structured(Config), sections(held)))  # type: ignore[arg-type]
