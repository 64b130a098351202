"""A network of one's own: found by its name as Python finds modules, built, and told apart from later versions."""

import ast
import functools
import hashlib
import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError, first_line
from tinysweep.settings.schema import AUTO, ModelConfig

Target = Callable[..., Any]

INSTALLED = tuple(Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib", "stdlib"))


class Custom(nn.Module):
    """A network that gets images in the usual layout of memory, so that `view` works as it does elsewhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous())  # type: ignore[no-any-return]


def build_custom(config: ModelConfig, shape: DataShape) -> Custom:
    """What `model.target` makes of the width, the data's shape and `model.options`. Of the first two it gets those
    that it has an argument of that name for.

    Raises:
        ConfigError: it can't be imported or called so, fails, returns no module, or its source isn't that of
            `model.digest`.
    """
    target = find(config.target or "")
    if config.digest is not None and config.digest != (found := source_digest(config.target or "")):
        raise ConfigError(
            f"model.digest={config.digest}: the source of model.target={config.target} has changed since, to "
            f"{found}; go back to that version, or begin anew"
        )
    arguments = _arguments(config, shape, target)
    try:
        network = target(**arguments)
    except Exception as error:
        raise ConfigError(f"model.target={config.target} {_failed(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model.target={config.target} returns {_article(network)}; it must return a torch.nn.Module"
        )
    return Custom(network)


def takes_width(config: ModelConfig) -> bool:
    """Whether the target has an argument for the width."""
    return _takes("width", _signature(config.target or "", find(config.target or "")))


@functools.cache
def find(target: str) -> Target:
    """The function or class MODULE:NAME, from the folder where one works or as Python finds modules.

    Raises:
        ConfigError: there is none.
    """
    name, _, attribute = target.partition(":")
    here = str(Path.cwd())
    if name.partition(".")[0] in sys.stdlib_module_names:  # a model.pt names what loading it calls
        raise ConfigError(f"model.target={target}: {name} is a module of Python's own, which has no networks")
    try:
        found: Any = _import(name)
    except (Exception, SystemExit) as error:  # of a script that reads its command line when imported
        gone = isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0])
        raise ConfigError(
            f"model.target={target}: there is no module {error.name} in {here}, nor is one installed"
            if gone and isinstance(error, ModuleNotFoundError)
            else f"model.target={target} can't be imported: it {_failed(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(found, "__file__", None) or found.__name__
            raise ConfigError(f"model.target={target}: there is no {part} in {where}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"model.target={target} is {_article(found)}; it must be a function or a class")
    return found  # type: ignore[no-any-return]


def _import(name: str) -> ModuleType:
    """A module; one in the folder where one works comes before an installed one of its name."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # for what it imports when it is called


@functools.cache
def source_digest(target: str) -> str:
    """A fingerprint of the source of a target: its module and those of the same folder that it imports. Of an
    installed package, and of what was typed in a notebook, its own source alone."""
    made = find(target)
    module = importlib.import_module(target.partition(":")[0])
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


def _arguments(config: ModelConfig, shape: DataShape, target: Target) -> dict[str, Any]:
    """The arguments of a target, or a ConfigError where it doesn't take them."""
    signature = _signature(config.target or "", target)
    given: dict[str, Any] = {"width": config.width, "shape": shape}
    if clash := given.keys() & config.options:
        raise ConfigError(f"model.options.{clash.pop()} must be left out: the target gets that by itself")
    if not _takes("width", signature) and config.width not in (1, AUTO):
        raise ConfigError(f"model.width={config.width}: model.target={config.target} has no argument width")
    arguments = {name: value for name, value in given.items() if _takes(name, signature)} | config.options
    for name in config.options:
        if not _takes(name, signature):
            known = [each for each in signature.parameters if each not in given]
            there = f"there are {', '.join(known)}" if known else "it takes no options"
            raise ConfigError(
                f"model.options.{name}={config.options[name]}: {config.target} has no argument {name}; {there}"
            )
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"model.target={config.target}: {error}; it gets width, shape and model.options by name"
        ) from error
    return arguments


def _signature(target: str, made: Target) -> inspect.Signature:
    try:
        return inspect.signature(made)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.target={target} has arguments that Python can't name; wrap it") from error


def _takes(name: str, signature: inspect.Signature) -> bool:
    kinds = inspect.Parameter
    found = signature.parameters.get(name)
    if found is not None:
        return found.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    return any(each.kind == kinds.VAR_KEYWORD for each in signature.parameters.values())


def run_forward(network: nn.Module, images: Tensor, classes: int, target: str | None) -> None:
    """Pass images (B, C, H, W) through a network, which must give logits (B, classes).

    Raises:
        ConfigError: it fails, or gives something else.
    """
    said = f"model.target={target}" if target else "the network"
    try:
        logits = network(images)
    except Exception as error:
        raise ConfigError(f"{said}: on images {tuple(images.shape)} it {_failed(error)}") from error
    wanted = (len(images), classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else _article(logits)
        raise ConfigError(f"{said} gives {given} for {len(images)} images; it must be logits of shape {wanted}")


def _failed(error: BaseException) -> str:
    """What an error in someone's own code says, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(Path(frame.filename))]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"raises {type(error).__name__}: {first_line(error)}{where}"


def _is_installed(file: Path) -> bool:
    ours = Path(__file__).parents[1]
    return any(folder in file.parents for folder in (*INSTALLED, ours)) or str(file).startswith("<")


def _article(value: object) -> str:
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
