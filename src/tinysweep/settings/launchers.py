"""What a launcher takes below hydra.launcher. Each of tinysweep's own says so by its file in conf/."""

import functools
from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import ConfigError
from tinysweep.settings.searchpath import CONFIG_FOLDER
from tinysweep.settings.stored import flatten

KEY = "hydra.launcher"
PASSED_ON = ("ray.init", "ray.remote", "parameters")  # to packages that take more than a file shows


@functools.cache
def own_launchers() -> dict[str, dict[str, Any]]:
    """The settings of tinysweep's own launchers by the launcher's name."""
    files = sorted((CONFIG_FOLDER / "hydra" / "launcher").glob("*.yaml"))
    return {file.stem: _plain(OmegaConf.load(file)) for file in files}


def require_launcher(node: DictConfig) -> None:
    """Refuse what `+key=value` added to one of tinysweep's own launchers, or `~key` removed from it: it would be
    ignored, or missed at work."""
    given = _plain(node)
    name = _name(given)
    if name is None:
        return
    known = own_launchers()[name]
    for key in known.keys() - given.keys():
        raise ConfigError(f"{KEY}.{key} can't be removed, because hydra/launcher={name} needs it")
    _require_known(known, given, node, "")


def _require_known(known: Mapping[str, Any], given: Mapping[str, Any], node: DictConfig, section: str) -> None:
    for leaf, value in given.items():
        key = f"{section}{leaf}"
        if leaf not in known:
            raise ConfigError(unknown(f"{KEY}.{key}", node))
        if not isinstance(known[leaf], dict) or (value is None and key in PASSED_ON):
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{KEY}.{key}={value} must be a section with keys of its own: {_shown(known[leaf])}")
        if key not in PASSED_ON:
            _require_known(known[leaf], value, node, f"{key}.")


def unknown(key: str, node: DictConfig) -> str:
    """The refusal of a key that the launcher configured by `node` hasn't: what it has, and who has the key."""
    given, leaf = _plain(node), key.removeprefix(f"{KEY}.")
    name = _name(given)
    if name and leaf.startswith(tuple(f"{section}." for section in PASSED_ON if _has(given, section))):
        return f"{key} is not set yet; what is passed on besides is added with a +: +{key}=VALUE"
    others = [other for other, known in own_launchers().items() if other != name and _has(known, leaf)]
    chosen = f"hydra/launcher={name}" if name else str(given.get("_target_")).rpartition(".")[2]
    has = _shown(own_launchers()[name] if name else given)
    return f"{key} is not a setting of {chosen}; below {KEY} it has {has or 'none'}" + (
        f"; hydra/launcher={others[0]} has {leaf}" if others else ""
    )


def _plain(node: Any) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))


def _name(settings: Mapping[str, Any]) -> str | None:
    """Which of tinysweep's own launchers it is."""
    target = settings.get("_target_")
    return next((name for name, known in own_launchers().items() if known["_target_"] == target), None)


def _has(settings: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return False
        settings = settings[part]
    return True


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(key for key in flatten(settings) if not key.startswith("_"))
