"""docs/extend.md is true: its changes fit the code, and its commands work once they are made."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from conftest import made_images
from tinysweep.data.download import to_idx

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extend.md").read_text()
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = re.findall(r"^    (tinysweep.*)$", PAGE, flags=re.MULTILINE)


def change(root: Path, name: str, lines: list[str]) -> None:
    """Make one change of the page: what stands around it must be in the file exactly once."""
    kept, made = ("".join(line[1:] + "\n" for line in lines if line[:1] in (" ", sign)) for sign in ("-", "+"))
    file = root / name.removesuffix(" (new)")
    if name.endswith("(new)"):
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists()
        file.write_text(made)
        return
    text = file.read_text()
    assert text.count(kept) == 1, f"{name} holds these lines {text.count(kept)} times:\n{kept}"
    file.write_text(text.replace(kept, made))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which every change of the page is made."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("src", "conf", "sweeps"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for block in re.findall(r"```diff\n(.*?)```", PAGE, flags=re.DOTALL):
        for part in block.split("--- ")[1:]:
            name, *lines = part.splitlines()
            change(root, name, lines)
    made = root / "signs"
    made.mkdir()
    for stem, count in (("train", 240), ("t10k", 60)):
        images = made_images(count, classes=3, size=20)
        (made / f"{stem}-images-idx3-ubyte").write_bytes(to_idx(images.pixels[:, 0].numpy()))
        (made / f"{stem}-labels-idx1-ubyte").write_bytes(to_idx(images.labels.to(torch.uint8).numpy()))
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("mnist_root")
def test_every_command_of_the_page_works_in_the_extended_project(extended: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(extended / "src")}
    for command in COMMANDS:
        script, *words = shlex.split(command)
        module = SCRIPTS[script].partition(":")[0]
        program = f"import sys; sys.argv[0] = {script!r}; from {module} import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=extended, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    assert "training times" in (extended / "outputs/sweeps/own/report.html").read_text()
    table = (extended / "outputs/sweeps/own/trials.csv").read_text()
    assert "train_loss" in table.splitlines()[0]


def test_the_changes_of_the_page_fit_the_code(extended: Path) -> None:
    assert (extended / "conf/model/mixed.yaml").is_file()


def test_the_tests_that_the_page_names_are_there() -> None:
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert named
    assert [name for name in named if f"def {name}(" not in tests] == []
