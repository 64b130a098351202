"""The commands of a report, which make its study and its winner again."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import made_study as made
from tinysweep.final.settings import read_words
from tinysweep.report.again import final_command, instructions

pytestmark = pytest.mark.usefixtures("quiet_optuna")

CHOSEN = {"model": "plain", "model.width": 4, "optimizer.lr": 0.1}
SPACE = ["model.width=range(2,26)", "optimizer.lr=tag(log,interval(0.01,1.0))"]


@pytest.mark.parametrize(
    ("overrides", "study"),
    [
        (["sweeps=quick", "data.limit=9", "model.width=4", "trainer.threads=1", "trainer.test=false", "trial=0"],
         ["sweeps=quick", "data.limit=9", *SPACE, "hydra.sweeper.study_name=s"]),
        (["sweeps=mine", "model=plain", "trial=0"],
         ["model=choice(plain,residual)", *SPACE, "hydra.sweeper.study_name=s",
          "hydra.sweeper.objective=[validation_accuracy]", "hydra/sweeper/sampler=tpe",
          "hydra.sweeper.n_trials=1"]),
    ],
)  # fmt: skip
def test_commands_make_a_study_that_noted_none_again(place: Path, overrides: list[str], study: list[str]) -> None:
    made.leave(place / "s", 0, [0.5], overrides)
    (place / "s/experiment").mkdir()
    (place / "s/experiment/winner.yaml").touch()
    told = instructions(made.view(place / "s", [made.completed(0, 0.9, 5, chosen=CHOSEN)]), 0)
    assert told.has_guesses
    commands = {title: shlex.split(command) for title, command in told.commands}
    assert commands["The study"] == ["tinysweep", "-m", *study]
    assert commands["The winner, trained anew"] == ["tinysweep", "--config-dir", "s", "experiment=winner"]
    assert commands["The best over several seeds, and the winner's test"] == ["tinysweep-final", "s"]
    assert told.environment["Commit"] == "0123abcd"
    assert "torch 2.14.1" in str(told.environment["Versions"])


def test_the_study_of_the_users_own_file_is_named_as_long_as_it_can_be_read(place: Path) -> None:
    (place / "sweeps").mkdir()
    (place / "sweeps/s.yaml").write_text("hydra: {sweeper: {params: {model.width: 'range(2,26)'}}}")
    made.leave(place / "s", 0, [0.5], ["sweeps=s", "model.width=4", "trial=0"])
    view = made.view(place / "s", [made.completed(0, 0.9, 5, chosen={"model.width": 4})])
    assert instructions(view, 0).commands[0] == ("The study", "tinysweep -m sweeps=s")
    (place / "sweeps/s.yaml").write_text("hydra: {sweeper: [")
    assert instructions(view, 0).commands[0][1].startswith("tinysweep -m 'model.width=range(2,26)' hydra.sweeper.")


def test_commands_name_the_storage_and_the_study_that_were_asked_for(place: Path) -> None:
    made.leave(place / "s", 0, [0.5])
    view = replace(made.view(place / "s", [made.completed(0, 0.9, 5)]), storage="all.log", chosen="two")
    told = dict(instructions(view, 0).commands)["This page"]
    assert shlex.split(told) == ["tinysweep-report", "s", "--storage", "all.log", "--study", "two"]
    final = shlex.split(final_command(view) or "")
    assert final == ["tinysweep-final", "s", "storage=all.log", "study=two"]
    settings, _ = read_words(final[2:])
    assert (settings.storage, settings.study) == ("all.log", "two")


def test_without_a_record_only_the_page_can_be_made_again(place: Path) -> None:
    told = instructions(made.view(place / "s", [made.completed(0, 0.9, 5)]), 0)
    assert told.commands == [("This page", "tinysweep-report s")]
    assert told.problem == "trials/0/record.json is missing or damaged"
    assert (told.environment, told.has_guesses) == ({}, False)
    assert told.searched.rows[0] == ["model", "choice(plain,residual)"]
    assert ["data.name", "mnist"] in told.shared.rows
