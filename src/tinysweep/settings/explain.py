"""What Hydra and OmegaConf object to, in one line that names key, value, rule and the nearest valid key."""

import difflib
import functools
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_origin

from hydra.conf import HydraConf
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

from tinysweep.errors import ConfigError, without_password
from tinysweep.settings import launchers
from tinysweep.settings.schema import Config
from tinysweep.settings.searchpath import OWN_CHOICES
from tinysweep.settings.section import type_in_words
from tinysweep.settings.sweeper import SweeperConfig, chosen_with_slash

NO_MAPPING = "must hold settings by name, such as trainer: {epochs: 6}"
UNREADABLE: dict[str, str] = {}  # what is wrong with a choice that Hydra doesn't know of, as sweeps/NAME
ONE_CHOICE = "a group takes one of its choices by name, such as model=plain; tinysweep --help lists them"
GROUPS = tuple(spec.name for spec in fields(Config) if is_dataclass(spec.type))  # as conf/ has them
# Hydra's options, of which any beginning will do.
_OPTIONS = tuple(
    f"--{name}"
    for name in (
        "help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion",
        "config-path", "config-name", "config-dir", "experimental-rerun", "info",
    )
)  # fmt: skip
_HYDRA_GROUPS = {f"hydra.{group}" for group in ("job_logging", "hydra_logging", "help", "hydra_help")}


@functools.cache
def settings() -> dict[str, Field[Any]]:
    """Every setting of a run under its dotted key, such as model.width, and the sections themselves."""
    return dict(_walk(Config, ""))


def _walk(section: type, prefix: str) -> Iterator[tuple[str, Field[Any]]]:
    for spec in fields(section):
        yield prefix + spec.name, spec
        if is_dataclass(spec.type):
            yield from _walk(spec.type, f"{prefix}{spec.name}.")  # type: ignore[arg-type]


def setting_of(key: str) -> Field[Any] | None:
    """The setting of a dotted key, also of one below a setting that holds others by names of their own, such as
    model.options.kernel."""
    parent, _, leaf = key.rpartition(".")
    known = settings()
    if key in known or parent not in known or get_origin(known[parent].type) is not dict or not leaf:
        return known.get(key)
    named: Field[Any] = field(metadata=known[parent].metadata)
    named.name, named.type = leaf, Any
    return named


def choice_key(section: str) -> str:
    """The setting that says which choice of a group it is, such as model.family."""
    return f"{section}.{getattr(settings()[section].type, 'CHOICE', 'name')}"


def sweeper_settings() -> dict[str, Field[Any]]:
    """The settings of the sweeper under their dotted keys, such as hydra.sweeper.n_trials."""
    return {f"{SweeperConfig.KEY}.{spec.name}": spec for spec in fields(SweeperConfig)}


# What isn't a setting by this name, and what to write for it: keys of a search without what goes before them, and
# those of Hydra's own Optuna sweeper.
_MEANT = {
    "model.dropout": "write dropout=head dropout.rate=VALUE, or stage or block for head; leave out a rate of 0",
    "model.dropout_at": "write dropout=head, stage or block",
    "sampler": "did you mean hydra/sweeper/sampler=tpe?",
    "pruner": "did you mean hydra/sweeper/pruner=median?",
    "launcher": "did you mean hydra/launcher=joblib, or hydra.launcher.n_jobs?",
    "n_jobs": "did you mean hydra.launcher.n_jobs?",
    "sweeper": "did you mean hydra.sweeper, such as hydra.sweeper.n_trials?",
    "sweep": "did you mean sweeps?",
    "study": "did you mean sweeps, or hydra.sweeper.study_name?",
    "max_batch_size": "did you mean hydra.sweeper.batch_size?",
    "direction": "leave it out: each metric of hydra.sweeper.objective says whether more of it is better",
    "search_space": "write hydra.sweeper.params in a study's file, or KEY=range(4,17) after -m",
    "custom_search_space": "leave it out: a field that the chosen group doesn't read isn't drawn",
}


def nearest(key: str) -> str:
    """The clause that says what to write for a wrong key: the valid one most like it, or where they all stand."""
    if key.startswith(f"{SweeperConfig.KEY}.params."):
        return f"what is searched is typed by its own name: {key.removeprefix(f'{SweeperConfig.KEY}.params.')}=A,B"
    if meant := _MEANT.get(key) or _MEANT.get(_leaf(key)):
        return meant
    known = sweeper_settings() if key.startswith(f"{SweeperConfig.KEY}.") else settings() | sweeper_settings()

    def likeness(name: str) -> tuple[float, float]:
        leaves = difflib.SequenceMatcher(None, _leaf(name), _leaf(key)).ratio()
        return leaves, difflib.SequenceMatcher(None, name, key).ratio()

    best = max(known, key=likeness)
    whole = "hydra" if key.startswith("hydra.") else "job"
    return f"did you mean {best}?" if likeness(best)[0] > 0.6 else f"tinysweep --cfg {whole} shows every key"


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def require_words(words: Sequence[str]) -> None:
    """Refuse a setting that is given as an option, such as --epochs 5, or a group that isn't given one choice."""
    _require_one_choice(words)
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if not name.startswith("--") or any(option.startswith(name) for option in _OPTIONS):
            continue
        key = name.removeprefix("--").replace("-", "_")
        meant = re.fullmatch(r"did you mean ([\w.]+)\?", nearest(key))
        advice = ""
        if setting := key if setting_of(key) else meant and meant[1]:
            given = value if equals else "VALUE" if following.startswith("-") or "=" in following else following
            advice = f"; did you mean {setting}={without_password(given) or 'VALUE'}?"
        raise ConfigError(f"{name} is not an option; settings are given as KEY=VALUE{advice}")


def require_schema(composed: DictConfig) -> None:
    """Refuse keys that `+key=value` added to the schema, or that `~key` removed from it."""
    known = settings()
    present = set(_keys(cast(dict[Any, Any], OmegaConf.to_container(composed, resolve=False))))
    for key in sorted(key for key in present if setting_of(key) is None):
        raise ConfigError(f"{key} is not a setting; {nearest(key)}")
    for key in known:
        if key not in present:
            raise ConfigError(_removal_refusal(key))


def require_groups(hydra: HydraConf) -> None:
    """Refuse a composition without the choice of a group: defaults that nobody chose would stand in for it."""
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # they may hold interpolations
    _require_one_choice(overrides)
    for group in GROUPS:
        if hydra.runtime.choices.get(group) is None:
            raise ConfigError(
                f"{group} must be one choice, and a defaults list leaves it out, or sets it to null or a list; "
                "name one of its choices instead"
            )
    _require_distinct(hydra)


def _require_distinct(hydra: HydraConf) -> None:
    """Refuse a choice of tinysweep's whose name a file in conf/ where one works has too: that isn't read."""
    folders = {source.provider: source.path for source in hydra.runtime.config_sources}
    main, own = folders.get("main"), folders.get(OWN_CHOICES)
    if not main or not own or Path(own).resolve() == Path(main).resolve():
        return
    for group, choice in hydra.runtime.choices.items():
        mine = Path(own, group.partition("@")[0], f"{choice}.yaml")
        if mine.is_file() and Path(main, mine.relative_to(own)).is_file():
            raise ConfigError(
                f"{group}={choice} is one of tinysweep's own choices, and {mine} has the same name; rename it"
            )


def _require_one_choice(overrides: Sequence[str]) -> None:
    """Refuse `~group`, and a list for a group, which Hydra takes without noting a choice."""
    for override in overrides:
        removed = re.fullmatch(r"~(\w+)(=.*)?", override)
        if removed and removed[1] in (*GROUPS, "schema"):
            raise ConfigError(_removal_refusal(removed[1]))
        listed = re.match(r"\+{0,2}([\w/]+)(@[^=]*)?=\s*\[", override)
        if listed and (listed[1] in (*GROUPS, "experiment", "sweeps") or "/" in listed[1]):
            raise ConfigError(f"{override}: {ONE_CHOICE}")


def _removal_refusal(key: str) -> str:
    return f"{key} can't be removed, because a run needs every setting; leave out ~{key}"


def _keys(nested: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of settings and of their sections."""
    for key, value in nested.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def explain(error: Exception) -> str:
    """One line for an error of composition, without the password of a storage that it may cite."""
    return without_password(_explain(error))


def _explain(error: Exception) -> str:
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    if isinstance(error, OverrideParseException):
        if re.search(r"choice\(.*\bnull\b", str(error.override)):
            return f"{error.override!r} can't be searched: Hydra's choice() takes no null, but KEY=null,VALUE does"
        return (
            f"{error.override!r} can't be read as an override; the form is KEY=VALUE, lists as [1,2,1] and quoted"
        )
    if isinstance(error, YAMLError | UnicodeDecodeError | OSError):
        return unreadable(error, _file_being_read(error))
    text = str(error).splitlines()[0].strip() if str(error) else type(error).__name__
    if text.endswith("raised while composing config:") and isinstance(error.__context__, OmegaConfBaseException):
        return _in_file(text.split("'")[1], error.__context__)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return _at_key(cause, override=text.removeprefix("Error merging override "))
    return _reword(text)


def unreadable(error: Exception, file: str | Path | None) -> str:
    """One line for a YAML file that can't be read; the line in it where that is known."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{file or error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    where = f"{file}: " if file else ""
    if isinstance(error, UnicodeDecodeError):
        return f"{where}byte {error.object[error.start]:#04x} is not UTF-8; save the file in that encoding"
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else where
        return f"{named}{error.strerror or NO_MAPPING}"
    return where + " ".join(str(error).split())


def _file_being_read(error: Exception) -> str | None:
    """The YAML file at which Hydra stopped, from the variables of its frames: decoding errors don't tell it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "load_config" and "full_path" in frame.f_locals:
            return os.path.relpath(str(frame.f_locals["full_path"]))
    return None


def _in_file(config: str, cause: OmegaConfBaseException) -> str:
    """One line for what is wrong with the content of a file, called `config` by Hydra: experiment/NAME."""
    said = explain(cause)
    if "incompatible container types" in said or said.startswith("Merge error: list"):
        said = NO_MAPPING
    elif cause.full_key == config.rpartition("/")[0] and cause.full_key not in settings():
        said = "its first line must be # @package _global_, as its settings are those of the whole run"
    return f"{config}.yaml: {said}"


def _reword(text: str) -> str:
    """Hydra's own first line, or a better one where it doesn't say what to do. It has no types for these errors,
    so its sentences are read here, and nowhere else."""
    if text.startswith("Ambiguous value"):
        argument = text.split("'")[1]
        return f"{argument}: several values need -m for a multirun, or brackets for a list: KEY=[A,B]"
    if text.startswith("Multiple values for "):
        group = text.removeprefix("Multiple values for ").split(".")[0]
        return f"{group} is chosen twice; give {group}=CHOICE once, without a +"
    if text.startswith("Config group override must be"):
        return ONE_CHOICE
    if text.startswith("Sweeping over Hydra's configuration"):
        key = text.split("'")[-2].partition("=")[0].lstrip("+")
        searched = f"; {nearest(key)}" if key.startswith(f"{SweeperConfig.KEY}.params.") else ""
        return f"{key} takes one value, as it is no setting of a run{searched}"
    if "does not have a `_target_` field" in text:
        return chosen_with_slash("hydra.sweeper", "budget") + ", which is so without saying"
    return text


def _at_key(cause: OmegaConfBaseException, override: str) -> str:
    """One line for what OmegaConf objects to at a key, and the override that it was given in, if it was in one."""
    if isinstance(cause, InterpolationResolutionError):
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    key = str(cause.full_key).partition("[")[0]  # an element of a list is ruled by what is said of the list
    spec = setting_of(key) or sweeper_settings().get(key)
    if spec is None:
        if key in _HYDRA_GROUPS:
            return chosen_with_slash(key, override.partition("=")[2])
        if launcher := _launcher_of(cause):
            typed = re.fullmatch(r"Could not override '(.*)'\.", override)
            return launchers.unknown(typed[1] if typed else key, launcher)
        return f"{key} is not a setting; {nearest(key)}"
    if key.startswith("metrics.") and override.partition("=")[0].lstrip("+").startswith(f"{key}."):
        target = override.partition("=")[2]
        return f"{override.lstrip('+')}: a metric's name has no dots; write metrics.{_leaf(key)}={target}"
    if override.partition("=")[0] == f"~{key}":
        return _removal_refusal(key)
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} must be given; it has no default"
    value = "null" if cause.value is None else cause.value
    given = override.lstrip("+")
    shown = given if given.startswith(f"{key}=") else f"{cause.full_key}={value}"
    meaning = spec.metadata.get("meaning")
    return f"{shown} must be {type_in_words(spec.type)}" + (f" ({meaning})" if meaning else "")


def _launcher_of(cause: OmegaConfBaseException) -> DictConfig | None:
    """The configuration of the launcher that has the wrong key, if it's a launcher's."""
    node: Any = cause.parent_node
    while isinstance(node, DictConfig) and node._get_full_key(None) != launchers.KEY:
        node = node._get_parent()
    return node if isinstance(node, DictConfig) else None


def _missing_choice(error: MissingConfigException) -> str:
    if error.missing_cfg_file in UNREADABLE:
        return UNREADABLE[error.missing_cfg_file]
    if not error.options or not error.missing_cfg_file:
        return str(error).splitlines()[0]
    group, _, choice = error.missing_cfg_file.rpartition("/")
    close = difflib.get_close_matches(choice, list(error.options), n=1)
    advice = f"did you mean {group}={close[0]}?" if close else ""
    return f"{group}={choice} must be one of {', '.join(sorted(error.options))}" + (
        f"; {advice}" if advice else ""
    )
