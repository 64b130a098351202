"""Commands as a person types them: noted where they were given, and printed so that a shell reads them back."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from tinysweep.errors import without_password


def as_typed() -> dict[str, Any]:
    """The words that this process was started with, and the folder in which they were typed."""
    return {"words": [without_password(word) for word in sys.argv[1:]], "place": str(Path.cwd())}


def line(words: Sequence[str], place: str | None = None) -> str:
    """A command for a shell; with a change of folder before it where it was typed in another `place`."""
    command = shlex.join(words)
    elsewhere = place is not None and Path(place) != Path.cwd() and Path(place).is_dir()
    return f"cd {shlex.quote(str(place))} && {command}" if elsewhere else command


def shown_folder(folder: Path) -> str:
    """A folder as it is typed: below the current one where it can be."""
    full = folder.resolve()
    shown = str(full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else folder)
    return f"./{shown}" if shown.startswith("-") else shown  # which would be read as an option


def as_value(held: Any) -> str:
    """A value of a setting in Hydra's grammar."""
    if isinstance(held, list):
        return f"[{','.join(map(as_value, held))}]"
    if held is None or isinstance(held, bool):
        return {None: "null", True: "true", False: "false"}[held]
    return _text(str(held)) if isinstance(held, str) else repr(held)


def as_choice(held: Any) -> str:
    """A choice of a sweep in Hydra's grammar; lists, and text that was typed in quotes, are held as typed."""
    if not isinstance(held, str):
        return as_value(held)
    read = _read(held)
    is_source = isinstance(read, list | dict) or (isinstance(read, str) and held[:1] in ("'", '"'))
    return held if is_source else _text(held)


def _text(text: str) -> str:
    """In quotes where it would else be read as something other than this text."""
    return text if _read(text) == text else QuotedString(text, Quote.single).with_quotes()


def _read(text: str) -> Any:
    try:
        return read_override(f"key={text}").value()
    except HydraException:
        return None


def read_override(word: str) -> Override:
    """A word of the command line in Hydra's grammar."""
    return OverridesParser.create().parse_override(word)
