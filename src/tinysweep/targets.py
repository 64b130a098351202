"""What a setting such as model.target names, MODULE:NAME: a function or class of one's own, found as Python finds
modules, called by the names of its arguments, and told apart from later versions by its source."""

import ast
import functools
import hashlib
import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tinysweep.errors import ConfigError, first_line

INSTALLED = tuple(Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib", "stdlib"))
OURS = Path(__file__).parent


_place: Path | None = None


def is_target(text: str | None) -> bool:
    """Whether a text has the form MODULE:NAME."""
    return re.fullmatch(r"[\w.]+:[\w.]+", text or "") is not None


@dataclass(frozen=True)
class Target:
    """The function or class that `setting` names."""

    setting: str
    name: str

    @property
    def shown(self) -> str:
        """As it was set."""
        return f"{self.setting}={self.name}"

    def find(self) -> Callable[..., Any]:
        """The function or class itself, from the folder where one works or as Python finds modules.

        Raises:
            ConfigError: there is none.
        """
        return _find(self)

    def digest(self) -> str:
        """A fingerprint of the source: its module and those of the same folder that it imports. Of an installed
        package, and of what was typed in a notebook, its own source alone."""
        return _digest(self)

    def takes(self, name: str) -> bool:
        """Whether it has an argument of this name."""
        kinds, arguments = inspect.Parameter, self._signature().parameters
        if name in arguments:
            return arguments[name].kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        return any(each.kind == kinds.VAR_KEYWORD for each in arguments.values())

    def call(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """What it makes of what is `given`, as far as it has arguments for it, and of all `options`.

        Raises:
            ConfigError: it can't be called so, or raises an error.
        """
        arguments = self._arguments(given, options)
        try:
            return self.find()(**arguments)
        except Exception as error:
            raise ConfigError(f"{self.shown} {failed(error)}") from error

    def _arguments(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        section = self.setting.partition(".")[0]
        for name, value in options.items():
            if name in given:
                raise ConfigError(f"{section}.options.{name} must be left out: {self.name} gets that by itself")
            if not self.takes(name):
                known = [each for each in self._signature().parameters if each not in given]
                there = f"there are {', '.join(known)}" if known else "it takes no options"
                raise ConfigError(f"{section}.options.{name}={value}: {self.name} has no argument {name}; {there}")
        arguments = {name: value for name, value in given.items() if self.takes(name)} | dict(options)
        try:
            self._signature().bind(**arguments)
        except TypeError as error:
            gets = ", ".join([*given, f"{section}.options"])
            raise ConfigError(f"{self.shown}: {error}; it gets, by name, {gets}") from error
        return arguments

    def _signature(self) -> inspect.Signature:
        try:
            return inspect.signature(self.find())
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.shown} has arguments that Python can't name; wrap it") from error


def look_in(folder: Path | None) -> None:
    """Look for modules in this folder, where a command was typed whose job may run elsewhere; None: wherever one
    works."""
    global _place  # noqa: PLW0603
    _place = folder


def _folder() -> Path:
    return _place or Path.cwd()


def forget() -> None:
    """Look anew for every target, as a new process does."""
    _find.cache_clear()
    _digest.cache_clear()


@functools.cache
def _find(target: Target) -> Callable[..., Any]:
    name, _, attribute = target.name.partition(":")
    if name.partition(".")[0] in sys.stdlib_module_names:  # a model.pt names what loading it calls
        raise ConfigError(f"{target.shown}: {name} is a module of Python itself, which holds nothing for this")
    try:
        found: Any = _import(name)
    except (Exception, SystemExit) as error:  # the latter of a script that reads its command line when imported
        if isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0]):
            where = f"in {_folder()}, nor is one installed"
            raise ConfigError(f"{target.shown}: there is no module {error.name} {where}") from error
        raise ConfigError(f"{target.shown} can't be imported: it {failed(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(found, "__file__", None) or found.__name__
            raise ConfigError(f"{target.shown}: there is no {part} in {where}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{target.shown} is {article(found)}; it must be a function or a class")
    return found  # type: ignore[no-any-return]


def _import(name: str) -> ModuleType:
    """A module; one in the folder where one works comes before an installed one of its name."""
    here = str(_folder())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # for what it imports when it is called


# ---- the source


@functools.cache
def _digest(target: Target) -> str:
    made = target.find()
    module = importlib.import_module(target.name.partition(":")[0])
    digest = hashlib.sha256()
    if getattr(module, "__file__", None) is None:  # a notebook
        digest.update(inspect.getsource(made).encode())
    else:
        for file in sorted(set(_sources(module))):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _sources(module: ModuleType) -> Iterator[Path]:
    """The files that decide what a module does, as far as they lie beside it."""
    file = Path(module.__file__ or "").resolve()
    depth = module.__name__.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    yield file
    if any(folder in (root, *root.parents) for folder in INSTALLED):
        return
    seen, waiting = {file}, [file]
    while waiting:
        for name in _imported_names(waiting.pop(), root):
            path = root.joinpath(*name.split("."))
            for found in (path.with_suffix(".py"), path / "__init__.py"):
                if found.is_file() and found not in seen:
                    seen.add(found)
                    waiting.append(found)
                    yield found


def _imported_names(file: Path, root: Path) -> Iterator[str]:
    """The dotted names of modules that a file may import, with those of the packages that they lie in."""
    package = file.relative_to(root).parts[:-1]
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # of a file that isn't imported after all
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
        for name in filter(None, names):
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


# ---- words


def failed(error: BaseException) -> str:
    """What an error in someone's own code says, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(Path(frame.filename))]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"raises {type(error).__name__}: {first_line(error)}{where}"


def _is_installed(file: Path) -> bool:
    return any(folder in file.parents for folder in (*INSTALLED, OURS)) or str(file).startswith("<")


def article(value: object) -> str:
    """A value by its type: "a str"."""
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
