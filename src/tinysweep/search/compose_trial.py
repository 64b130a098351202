"""From the values of a trial to its checked configuration, as the job itself will compose it."""

import copy
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from tinysweep.errors import ConfigError
from tinysweep.search.space import Value, is_setting, override, parse
from tinysweep.settings.command_line import as_value, read_override
from tinysweep.settings.compose import COMPOSITION_ERRORS, compose, to_config
from tinysweep.settings.explain import (
    GROUPS,
    choice_key,
    explain,
    nearest,
    require_groups,
    setting_of,
    settings,
)
from tinysweep.settings.schema import Config, TrackerConfig
from tinysweep.settings.section import default_of
from tinysweep.settings.stored import flatten, rename_old_settings

# What doesn't decide what a run finds: where data lies, what it runs on, its name, and where it is logged.
INCIDENTAL = (
    "name",
    "trial",
    "resume",
    "data.root",
    "data.download",
    "trainer.device",
    "trainer.threads",
    "trainer.cuda_graphs",
    "trainer.test",
    *(f"{TrackerConfig.KEY}.{spec.name}" for spec in fields(TrackerConfig)),
)
DIGEST = "data.digest"
NOTHING_HELD_OUT = "data.validation=0 leaves a sweep nothing to judge by; hold images out, such as 5000"


@dataclass(frozen=True)
class Composition:
    """What Hydra composes of overrides: `settings` of a run, and `whole`, with Hydra's own beside them."""

    whole: DictConfig
    settings: DictConfig

    @cached_property
    def interpolated(self) -> frozenset[str]:
        """The settings, and sections, whose values are left to interpolations."""
        written = cast(dict[str, Any], OmegaConf.to_container(self.settings, resolve=False))
        return frozenset(key for key, value in flatten(written).items() if interpolates(value))

    @cached_property
    def _pickled(self) -> bytes:
        return pickle.dumps(self.settings)

    def copy(self) -> DictConfig:
        """The settings once more, to be changed; copy.deepcopy takes four times as long."""
        copied: DictConfig = pickle.loads(self._pickled)
        return copied

    @contextmanager
    def as_job(self, number: int | None = None) -> Iterator[DictConfig]:
        """The settings, where resolvers find what they find in the job of trial `number`: the environment that
        hydra.job.env_set makes, and Hydra's own settings under ${hydra:...}."""
        running, before = HydraConfig.instance(), HydraConfig.instance().cfg
        own = self.whole.hydra  # read-only once it has been shown to resolvers
        with open_dict(own), read_write(own):
            own.job.num = number or 0
            own.job.id = f"{own.job.name}_{own.job.num}"
        running.set_config(self.whole)
        try:
            with env_override(dict(own.job.env_set)):
                yield self.settings
        finally:
            running.cfg = before


class Composer:
    """Composes trials as their jobs do: by Hydra, which takes a twentieth of a second, wherever an interpolation
    may make one value depend on another; else by Hydra once for each combination of group choices, and by setting
    the other values in a copy of that."""

    def __init__(
        self, loader: ConfigLoader, master: DictConfig, fixed: Sequence[str], closing: Sequence[str] = ()
    ) -> None:
        """Every job has the `fixed` overrides before those of its trial, and the `closing` ones after them."""
        self.loader, self.master, self.fixed, self.closing = loader, master, list(fixed), list(closing)
        self.composed: dict[tuple[str, ...], Composition] = {}
        self.digests: dict[str, str] = {}  # what each image folder held when the sweep first looked, by its path

    def compose(self, *overrides: str) -> Composition:
        """What Hydra composes of the fixed overrides and more."""
        try:
            whole = self.loader.load_sweep_config(self.master, [*self.fixed, *overrides])
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error)) from error
        require_groups(whole.hydra)
        settings = copy.deepcopy(whole)
        with open_dict(settings), read_write(settings):
            del settings["hydra"]
        return Composition(whole, settings)

    def base(self, values: Mapping[str, Value]) -> Composition:
        """The composition of what every job has and of those values that choose from groups."""
        choices = tuple(override(name, value) for name, value in values.items() if not is_setting(name))
        if choices not in self.composed:
            self.composed[choices] = self.compose(*choices, *self.closing)
        return self.composed[choices]

    def settings(
        self, values: Mapping[str, Value], number: int | None = None
    ) -> AbstractContextManager[DictConfig]:
        """What the job of trial `number` composes of these values, where resolvers find what they find there."""
        return self._settings({**values, **self.unread(values)}, number)

    @contextmanager
    def _settings(self, values: Mapping[str, Value], number: int | None = None) -> Iterator[DictConfig]:
        base = self.base(values)
        try:
            if base.interpolated or any(map(interpolates, values.values())):
                words = [override(name, value) for name, value in values.items()]
                trial = [] if number is None else [f"trial={number}"]
                with self.compose(*words, *self.closing, *trial).as_job(number) as composed:
                    yield composed
                return
            changed = base.copy()
            changed.trial = number
            for name, value in values.items():
                if is_setting(name):
                    OmegaConf.update(changed, name, parse(name, value))
            yield changed
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error)) from error

    def config(self, values: Mapping[str, Value], number: int | None = None) -> Config:
        """The checked configuration of trial `number`.

        Raises:
            ConfigError: the values break a rule, alone or together.
        """
        with self.settings(values, number) as composed:
            return to_config(composed)

    def overrides(self, values: Mapping[str, Value], config: Config) -> list[str]:
        """The overrides that make a trial: its values, then what each interpolation came to in `config`, so that
        its job has what was costed, whatever the environment is by then."""
        names = self.base(values).interpolated | {name for name, value in values.items() if interpolates(value)}
        found = [
            f"{key}={as_value(value)}"
            for key, value in flatten(asdict(config)).items()
            if key not in INCIDENTAL and is_setting(key) and (key in names or key.partition(".")[0] in names)
        ]
        given = {**values, **self.unread(values)}
        return [*(override(name, value) for name, value in given.items()), *found]

    def reads(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether a parameter plays a role beside the values chosen before it: `scheduler.gamma` is read by the
        step schedule alone, so a trial with another one doesn't draw it."""
        spec = setting_of(name) if is_setting(name) else None
        only = spec.metadata.get("only") if spec else None
        return not only or str(self._choice(name.partition(".")[0], values)) in only

    def unread(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """What was typed for all trials and isn't read beside these values, at its default: a dropout.rate typed
        with dropout=none,head is meant for the trials that have dropout."""
        found: dict[str, Value] = {}
        for word in self.fixed:
            name = word.partition("=")[0]
            section = name.partition(".")[0]
            chosen = name in settings() and {section, choice_key(section)} & values.keys()
            if chosen and not self.reads(name, values):
                found[name] = cast(Value, default_of(settings()[name]))
        return found

    def _choice(self, section: str, values: Mapping[str, Value]) -> Any:
        """The name that is chosen in a section."""
        key = choice_key(section)
        base, given = self.base(values), values.get(key)
        if given is not None and not interpolates(given):
            return parse(key, given)
        if given is None and not base.interpolated & {section, key}:
            return OmegaConf.select(base.settings, key)
        with self._settings(values) as composed:
            return OmegaConf.select(composed, key)

    def relevant(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """The values of a point that play a role beside those before them."""
        values: dict[str, Value] = {}
        for name, value in point.items():
            if self.reads(name, values):
                values[name] = value
        return values


def interpolates(value: Any) -> bool:
    return "${" in str(value)


# ---- what makes two configurations the same


def identity(config: Config | dict[str, Any]) -> dict[str, Any]:
    """All that decides what a run finds, by dotted key. Settings that not every study knew are left out at their
    default, so that theirs stay the same."""
    found = rename_old_settings(flatten(config if isinstance(config, dict) else asdict(config)))
    return {key: value for key, value in found.items() if key not in INCIDENTAL and not _is_as_before(key, value)}


def _is_as_before(key: str, value: Any) -> bool:
    """Whether a value is that which a setting had before there was such a setting."""
    spec = settings().get(key)
    return spec is not None and spec.metadata.get("added", False) and value == default_of(spec)


def digest(content: Any) -> str:
    """A short fingerprint of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# ---- a finished trial with other settings


def apply_overrides(config: Config, words: Sequence[str], composed_of: Sequence[str]) -> Config:
    """A configuration changed by overrides of its settings, such as trainer.epochs=30, and choices from groups,
    such as augmentation=elastic. `composed_of` are the overrides that the configuration came from; those of a
    group that is chosen anew still hold, as on a command line.

    Raises:
        ConfigError: an override can't be read, or sets what is no setting, or breaks a rule.
    """
    changed = OmegaConf.structured(config)
    for change in sorted(map(_parse_change, words), key=lambda each: each.key_or_group not in GROUPS):
        key = change.key_or_group
        if key in GROUPS:
            kept = [word for word in composed_of if word.startswith(f"{key}.")]
            changed[key] = getattr(compose(str(change.input_line), *kept), key)
            continue
        try:
            OmegaConf.update(changed, key, change.value())
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error)) from error
    return to_config(changed)


def _parse_change(word: str) -> Override:
    """An override that gives one value to one setting or group."""
    try:
        change = read_override(word)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(f"{word} can't be read as an override: {explain(error)}") from error
    key = change.get_key_element()
    plain = not (change.is_add() or change.is_delete() or change.is_sweep_override())
    if not plain or (key in GROUPS and not isinstance(change.value(), str)):
        raise ConfigError(f"{word} must give one value to one setting: KEY=VALUE, lists as [1,2,1] and quoted")
    if key not in GROUPS and not is_setting(key):
        raise ConfigError(f"{key} is not a setting that a finished trial can be retrained with; {nearest(key)}")
    return change
