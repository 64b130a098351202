"""What the package offers to Python."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinysweep
from tinysweep.settings.schema import Config


@pytest.mark.parametrize("name", tinysweep.__all__)
def test_what_the_package_offers_is_no_module_of_that_name(name: str) -> None:
    assert importlib.util.find_spec(f"tinysweep.{name}") is None  # imported, it would hide what is offered
    assert callable(getattr(tinysweep, name))
    assert getattr(tinysweep, name) is getattr(tinysweep, name)


def test_the_package_tells_all_that_it_offers_and_its_version() -> None:
    program = "import tinysweep; print(*dir(tinysweep))"  # in a process that has used none of it
    listed = set(subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert listed >= {*tinysweep.__all__, "__version__", "__doc__"}
    assert tinysweep.__version__ == importlib.metadata.version("tinysweep")


def test_the_license_that_the_package_names_is_there() -> None:
    checkout = Path(__file__).parents[1]
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT"
    texts = [(checkout / name).read_text() for name in project["license-files"]]
    assert [text.splitlines()[0] for text in texts] == ["MIT License"]
    assert "The tinysweep authors" in texts[0]


def test_the_package_offers_nothing_else() -> None:
    assert tinysweep.Config is Config
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tinysweep.nonsense  # type: ignore[attr-defined]
