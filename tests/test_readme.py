"""What README.md promises: its links lead somewhere, its commands are accepted, its example is the tested one."""

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import tinysweep
from tinysweep.errors import ConfigError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].replace(".venv/bin/", "").strip("$ ")
    for block in re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(\$ )?(\.venv/bin/)?tinysweep(-inspect)?( |$)", line)
]
REFUSED = [f"tinysweep {wrong}" for wrong in ("model.widht=12", "dropout.rate=1.5")]


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()


TREE = [
    pattern
    for line in re.findall(r"^  ([\w*]+\.py(?: [\w*]+\.py)*)", README, flags=re.MULTILINE)
    for pattern in line.split()
]


@pytest.mark.parametrize("pattern", TREE)
def test_every_module_in_the_tree_is_there(pattern: str) -> None:
    assert list((ROOT / "src/tinysweep").glob(pattern))


def test_every_module_stands_in_the_tree() -> None:
    modules = [file.name for file in (ROOT / "src/tinysweep").glob("[a-z]*.py")]
    assert not [name for name in modules if not any(fnmatch(name, pattern) for pattern in TREE)]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in REFUSED])
def test_every_command_composes(command: str) -> None:
    words = shlex.split(command)[1:]
    if "-m" in words:
        words.remove("-m")
        overrides = OverridesParser.create().parse_overrides(words)
        words = [word for word, override in zip(words, overrides, strict=True) if not override.is_sweep_override()]
    config = tinysweep.compose(*words)
    if config.data.name != "image_folder":
        tinysweep.resolve(config, tinysweep.describe(config.data))


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_shown_as_refused_is_refused_in_these_words(command: str) -> None:
    assert command in COMMANDS
    with pytest.raises(ConfigError) as caught:
        tinysweep.compose(*shlex.split(command)[1:])
    assert f"$ {command}\nerror: {caught.value}\n" in README


def test_the_python_example_is_that_of_the_package() -> None:
    block = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    indented = "\n".join(f"    {line}" if line else "" for line in block.strip().splitlines())
    assert indented in (tinysweep.__doc__ or "")
