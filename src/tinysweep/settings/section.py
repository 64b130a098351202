"""What the sections of a configuration are made of: settings with a meaning and a rule, and the check of them."""

import copy
import difflib
import math
from dataclasses import Field, dataclass, field
from enum import EnumType, StrEnum
from numbers import Number
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from tinysweep.errors import ConfigError

AUTO = "auto"


def setting(
    default: Any, meaning: str, within: str | None = None, only: tuple[str, ...] = (), *, added: bool = False
) -> Any:
    """A field with its meaning, the interval its value (or each of its values) must lie in, such as
    "[0, 1)", and, where not every choice of the section reads it, the ones that do. `added`: there are
    studies and records without it, which are as if it had its default."""
    metadata = {"meaning": meaning, "within": within, "only": only, "added": added}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(spec: Field[Any]) -> Any:
    """The default of a setting."""
    return spec.default_factory() if callable(spec.default_factory) else spec.default


def lies_within(value: float, interval: str) -> bool:
    """Whether a number lies in an interval in the usual notation, square brackets including the end."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return math.isfinite(value) and above and below


def is_folder_name(text: str) -> bool:
    """Whether a text can name a folder on every system."""
    return text != "" and text[0] != "." and text.isprintable() and not set(text) & set("/\\:")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def type_in_words(annotation: Any) -> str:
    """A type in words: "a whole number or null"."""
    if get_origin(annotation) is UnionType:
        parts = get_args(annotation)
        # The one text that a number may be replaced by.
        special = {NoneType: "null"} | ({str: AUTO} if int in parts else {})
        return " or ".join(special.get(part) or type_in_words(part) for part in parts)
    if get_origin(annotation) is dict:
        return "settings by name, such as {NAME: VALUE}"
    if get_origin(annotation) is list:
        return f"a list such as [1,2,1], each {type_in_words(get_args(annotation)[0])}"
    if isinstance(annotation, EnumType):
        return "one of " + ", ".join(annotation.__members__)
    return _KINDS.get(annotation, "a section with keys of its own")


def conforms(value: Any, annotation: Any) -> bool:
    """Whether a value has a setting's type; every whole number is a number, and no truth value is one."""
    if type(value) is annotation:
        return True
    if get_origin(annotation) is UnionType:
        return any(conforms(value, part) for part in get_args(annotation))
    if get_origin(annotation) is list:
        return isinstance(value, list) and all(conforms(part, get_args(annotation)[0]) for part in value)
    if get_origin(annotation) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if annotation is Any:
        return True
    accepted = (int, float) if annotation is float else annotation
    return isinstance(value, accepted) and (annotation is bool or not isinstance(value, bool))


@dataclass
class Section:
    """What the sections of a configuration share: they hold their own settings only, and check their rules."""

    KEY = ""
    CHOICE = "name"  # the setting that holds which choice of the group it is

    def __setattr__(self, key: str, value: Any) -> None:
        """Set a value. Text that names a choice becomes that choice, NumPy's numbers become Python's."""
        known = self.__dataclass_fields__
        spec = known.get(key)
        if spec is None:
            near = difflib.get_close_matches(key, known, n=1)
            advice = f"did you mean {self._dotted_key(near[0])}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{self._dotted_key(key)} is not a setting; {advice}")
        if isinstance(spec.type, type) and issubclass(spec.type, StrEnum) and value in list(spec.type):
            value = spec.type(value)
        elif isinstance(value, Number) and hasattr(value, "item"):
            value = value.item()
        self._check_value(spec, value)
        super().__setattr__(key, value)

    def __post_init__(self) -> None:
        """Check the rules between settings."""
        for spec in self.__dataclass_fields__.values():
            only = spec.metadata.get("only")
            if only and getattr(self, spec.name) != default_of(spec) and self.choice not in only:
                chosen = f"{self.KEY}={self.choice}"
                rule = (
                    f"is read only by {self.KEY}={' or '.join(only)}, not by {chosen}, which reads {self._read()}"
                )
                self.refuse(spec.name, f"{rule}; leave it out or, if you didn't set it, choose the group {chosen}")

    def _read(self) -> str:
        """The settings that the choice reads, besides the one that says which it is."""
        specs = [spec for spec in self.__dataclass_fields__.values() if spec.name != self.CHOICE]
        named = [spec.name for spec in specs if self.choice in (spec.metadata.get("only") or (self.choice,))]
        return f"{self.KEY}.{', '.join(named)}" if named else "none"

    def check(self) -> None:
        """Check all rules again, for settings that were changed since the section was built."""
        for spec in self.__dataclass_fields__.values():
            value = getattr(self, spec.name)
            self._check_value(spec, value)  # a list may have been changed in place
            if isinstance(value, Section):
                value.check()
        self.__post_init__()

    @property
    def choice(self) -> str:
        """The group choice that this section stands for; those without choices have none."""
        return str(getattr(self, self.CHOICE, ""))

    def refuse(self, key: str, rule: str) -> None:
        """Raise the ConfigError that names key, value, rule and meaning."""
        raise ConfigError(self._refusal(self.__dataclass_fields__[key], getattr(self, key), rule))

    def _dotted_key(self, key: str) -> str:
        return f"{self.KEY}.{key}" if self.KEY else key

    def _refusal(self, spec: Field[Any], value: Any, rule: str) -> str:
        shown = str(value).lower() if isinstance(value, bool) else "null" if value is None else value
        meaning = spec.metadata.get("meaning")
        return f"{self._dotted_key(spec.name)}={shown} {rule}" + (f" ({meaning})" if meaning else "")

    def _check_value(self, spec: Field[Any], value: Any) -> None:
        """Check the rule of one setting: its type and the interval it must lie in."""
        if not conforms(value, spec.type):
            raise ConfigError(self._refusal(spec, value, f"must be {type_in_words(spec.type)}"))
        if not (interval := spec.metadata.get("within")):
            return
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, str) and number != AUTO:
                words = "must be a number" + (" or auto" if spec.name == "width" else "")
                raise ConfigError(self._refusal(spec, value, words))
            if isinstance(number, int | float) and not lies_within(number, interval):
                raise ConfigError(self._refusal(spec, value, f"must lie in {interval}"))
