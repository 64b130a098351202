"""What README.md and docs/ promise: links lead somewhere, commands are accepted, refusals and the Python example
are the real ones, and the tree of folders is whole."""

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import tinysweep
from tinysweep.commands import inspect
from tinysweep.data.catalogue import is_own
from tinysweep.errors import TinysweepError

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text() for page in PAGES}
EVERY = "\n".join(text for page, text in TEXT.items() if page.name != "extend.md")  # which test_extend.py holds
REFUSED = re.findall(r"^\$ (tinysweep .*)\n(error: (?:.|\n)*?)(?=\n\$|\n```)", EVERY, flags=re.MULTILINE)


def commands(text: str) -> list[str]:
    """The commands `tinysweep` and `tinysweep-inspect` in a page's blocks."""
    lines = [line for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    typed = [line.split("  #")[0].replace(".venv/bin/", "").strip("$ ") for line in lines]
    return [line for line in typed if re.match(r"tinysweep(-inspect)? ?(?!-)", line) and "FOLDER" not in line]


LINKS = [(page, target) for page, text in TEXT.items() for target in re.findall(r"\]\((?!http)([^)#]+)\)", text)]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_every_link_leads_to_a_file(page: Path, target: str) -> None:
    assert (page.parent / target).exists()


def test_every_page_is_linked_from_the_readme() -> None:
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= set(re.findall(r"\]\(([^)]+)\)", TEXT[README]))


def test_the_readme_is_short_and_its_tree_holds_every_package() -> None:
    assert len(TEXT[README].splitlines()) <= 150
    packages = {folder.parent.name for folder in (ROOT / "src/tinysweep").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^  (\w+)/ ", TEXT[README], flags=re.MULTILINE))


@pytest.mark.parametrize("command", sorted({*commands(EVERY)} - {command for command, _ in REFUSED}))
def test_every_command_composes(command: str) -> None:
    words = shlex.split(command)[1:]
    if "-m" in words:
        words.remove("-m")
        overrides = OverridesParser.create().parse_overrides(words)
        words = [word for word, override in zip(words, overrides, strict=True) if not override.is_sweep_override()]
    config = tinysweep.compose(*words)
    if not is_own(config.data.name) and config.model.target is None:  # which isn't here, and has tests of its own
        tinysweep.resolve(config, tinysweep.describe(config.data))


@pytest.mark.parametrize(("command", "said"), REFUSED)
def test_what_is_shown_as_refused_is_refused_in_these_words(command: str, said: str) -> None:
    def gated() -> None:
        config = tinysweep.compose(*shlex.split(command)[1:])
        tinysweep.gate(config, tinysweep.describe(config.data))

    with pytest.raises(TinysweepError) as caught:
        gated()
    assert said == f"error: {caught.value}"


@pytest.mark.parametrize(
    ("command", "said"), re.findall(r"^\$ (tinysweep-inspect .*)\n((?:.|\n)*?)```", EVERY, flags=re.MULTILINE)
)
def test_what_inspect_is_shown_to_print_is_what_it_prints(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", shlex.split(command))
    inspect.main()
    assert capsys.readouterr().out == said


def test_the_python_example_is_that_of_the_package() -> None:
    block = re.findall(r"```python\n(.*?)```", TEXT[README], flags=re.DOTALL)[0]
    indented = "\n".join(f"    {line}" if line else "" for line in block.strip().splitlines())
    assert indented in (tinysweep.__doc__ or "")
