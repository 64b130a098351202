"""Every command that is printed, on the terminal or on a report's page, runs as it is printed."""

import html
import json
import re
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from conftest import Command, Ended
from tinysweep.commands import compare, final, report, train
from tinysweep.errors import without_password
from tinysweep.final import hold as final_hold
from tinysweep.report.again import instructions
from tinysweep.results.view import open_view
from tinysweep.search.space import as_sweep, read_space
from tinysweep.settings.command_line import as_choice, as_value, line
from tinysweep.settings.compose import compose

pytestmark = pytest.mark.usefixtures("quiet_optuna")

MAINS = {"tinysweep": train.main, "tinysweep-final": final.main, "tinysweep-report": report.main}
FILE = """
trainer: {epochs: 1, clean_epochs: 0}
model: {channel_multiple: 2}
hydra:
  sweeper:
    study_name: the file's own
    n_trials: 3
    params: {model.width: "range(2,30)", optimizer.lr: "interval(0.01,0.1)", scheduler.name: "choice(step,linear)"}
"""
TYPED = ["data.limit=32", "data.validation=50", "trainer.threads=1", "model.width=choice(2,4)",
         "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0", "hydra.sweeper.study_name='it\\'s mine'",
         "hydra/launcher=basic"]  # fmt: skip


def commands_in(text: str) -> list[list[str]]:
    """The commands in what a command has printed, as a shell would split them."""
    return [shlex.split(found) for found in re.findall(r"\btinysweep(?:-[a-z]+)? .*", text)]


def commands_on(page: str) -> list[list[str]]:
    """Those on a report's page, in the order in which it tells them."""
    found = re.findall(r"<(?:pre|code)\b[^>]*>(tinysweep[^<]*)<", page.partition("</main>")[0])
    return [shlex.split(html.unescape(text)) for text in found]


def told_of(folder: Path, best: int) -> list[list[str]]:
    """Those that a report of the study in a folder would tell."""
    found = instructions(open_view(folder, None), best).commands
    return [shlex.split(command) for _, command in found]


@pytest.fixture
def shell(command: Command) -> Callable[[list[str]], Ended]:
    """Runs a command's words as they are."""

    def run(words: list[str]) -> Ended:
        ended = command(*words[1:], main=MAINS[words[0]])
        assert (ended.status, ended.err) == (0, ""), words
        return ended

    return run


@pytest.mark.slow
def test_every_printed_command_runs_as_it_is_printed(
    command: Command,
    shell: Callable[[list[str]], Ended],
    place: Path,
    mnist_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (place / "sweeps").mkdir()
    (place / "sweeps/mine.yaml").write_text(FILE)
    (place / "my data").symlink_to(mnist_root)
    monkeypatch.setattr(final_hold, "hold_final", lambda plan: print(*plan.heading()))
    words = ["sweeps=mine", "data.root='my data'", *TYPED]
    refused = command("sweeps=mine", "name='it\\'s'")
    assert commands_in(refused.err) == [["tinysweep", "-m", "sweeps=mine", "name='it\\'s'"]]
    study = ["tinysweep", "-m", *words]
    [winner] = commands_in(shell(study).out)
    folder = place / "outputs/sweeps/it's mine"
    table = (folder / "trials.csv").read_text()
    assert table.count("complete") == 3
    shell(winner)
    assert command("outputs", main=compare.main).status == 0

    assert not commands_in(shell(["tinysweep-report", "outputs/sweeps/it's mine"]).out)
    page = (folder / "report.html").read_text()
    below_final, *found = commands_on(page)
    assert found[0] == ["tinysweep", "-m", *words]
    assert found[3] == below_final == ["tinysweep-final", "outputs/sweeps/it's mine"]
    assert found[4:] == [["tinysweep-report", "outputs/sweeps/it's mine"]], "which has been run"
    assert found[2] == winner
    shell(found[0])
    assert (folder / "trials.csv").read_text() == table, "which is complete, so nothing was trained"
    best = int(re.search(r"Trial (\d+) alone", page)[1])  # type: ignore[index]
    recorded = json.loads((folder / f"trials/{best}/record.json").read_text())["config"]
    assert asdict(compose(*found[1][1:])) == recorded | {"trial": None}
    shell(found[3])

    with closing(sqlite3.connect(folder / "study.db")) as database:  # as a study of an earlier version is
        database.execute("DELETE FROM study_user_attributes WHERE key = 'typed'")
        database.commit()
    told = told_of(folder, best)
    assert told[1:] == found[1:]
    assert told[0] != found[0]
    shell([*told[0], "hydra/launcher=basic"])
    assert (folder / "trials.csv").read_text() == table

    for file in folder.glob("study.db*"):
        file.unlink()
    told = told_of(folder, best)
    assert told[1:] == found[1:]
    shell([*told[0], "hydra/launcher=basic"])
    assert (folder / "trials.csv").read_text() == table, "it became another study"
    assert (place / "outputs/sweeps/it's mine-again/trials.csv").exists()

    for file in folder.glob("trials/*/record.json"):
        file.unlink()
    assert told_of(folder, best) == [found[2], found[4]]


def test_a_command_is_printed_with_the_folder_that_it_was_typed_in(place: Path) -> None:
    words = ["tinysweep", "-m", "model.width=choice(2,4)", "data.root=my data"]
    there = place / "a b"
    assert line(words, str(there)) == line(words), "which isn't there any more"
    there.mkdir()
    assert line(words, str(place)) == line(words)
    assert shlex.split(line(words, str(there))) == ["cd", str(there), "&&", *words]


@pytest.mark.parametrize(
    "kind",
    [
        IntDistribution(2, 25), IntDistribution(2, 26, step=3), IntDistribution(2, 64, log=True),
        FloatDistribution(0.1, 0.5), FloatDistribution(1e-5, 1.0, log=True), FloatDistribution(0.1, 0.4, step=0.1),
        CategoricalDistribution([1, 2.5, True, "plain"]), CategoricalDistribution(["[1,1]", "[1,2]"]),
        CategoricalDistribution(["a"]), CategoricalDistribution([0.1]),
    ],
    ids=str,
)  # fmt: skip
def test_a_distribution_is_printed_in_the_grammar_that_makes_it(kind: BaseDistribution) -> None:
    name = "trainer.batch_size" if isinstance(kind, IntDistribution) else "+x"
    assert read_space({}, [f"{name}={as_sweep(kind)}"]).searched == {name: kind}


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a b",
        " a ",
        "it's",
        '"q"',
        "a,b",
        "[1,2]",
        "{a:1}",
        "null",
        "true",
        "5",
        "1e3",
        "a=b",
        "back\\",
        "'",
        "$x",
    ],
)
def test_a_text_is_printed_so_that_it_is_read_as_this_text(text: str) -> None:
    assert compose(f"data.root={as_value(text)}").data.root == text


def test_choices_that_are_held_as_they_were_typed_are_printed_so() -> None:
    assert [as_choice(held) for held in ("'step'", "[1, 2]", "a,b", True)] == ["'step'", "[1, 2]", "'a,b'", "true"]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (
            "hydra.sweeper.storage=postgresql://me:secret@host:5432/db",
            "hydra.sweeper.storage=postgresql://me:***@host:5432/db",
        ),
        ("sqlite:////a@b/c:d@e.db", "sqlite:////a@b/c:d@e.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("model.width=4", "model.width=4"),
    ],
)
def test_a_password_is_not_printed(word: str, shown: str) -> None:
    assert without_password(word) == shown
