"""What a study leaves for others: a table that reads back as it was, the best in their order, and a recipe that
composes to what was trained."""

import csv
import dataclasses
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
import optuna
import pandas as pd
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from conftest import loaded
from tinysweep.data.load import describe
from tinysweep.errors import DataError
from tinysweep.metrics import METRICS
from tinysweep.network.budget import resolve
from tinysweep.results.merge import read_table
from tinysweep.results.view import from_table
from tinysweep.search.compose_trial import INCIDENTAL, Composer, identity
from tinysweep.search.space import Value
from tinysweep.search.study import STATES, Status, status
from tinysweep.search.table import (
    COLUMNS,
    LATER,
    Table,
    merge_seeds,
    pareto_front,
    rank_trials,
    read_trials,
    write_results,
    write_winner,
)
from tinysweep.settings.compose import register_schema, to_config
from tinysweep.settings.schema import Config
from tinysweep.settings.searchpath import CONFIG_FOLDER

# As Optuna holds it: the local time, without a zone.
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).astimezone().replace(tzinfo=None)
ACCURACY = ["validation_accuracy"]


def trial(
    number: int, became: Status = Status.complete, chosen: dict[str, Any] | None = None, **notes: Any
) -> FrozenTrial:
    """A trial as a study holds it."""
    state = TrialState.RUNNING if became == Status.running else STATES.get(became, TrialState.FAIL)
    chosen = chosen or {}
    made = create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        params=chosen,
        distributions={name: CategoricalDistribution([value]) for name, value in chosen.items()},
        user_attrs=notes if became == Status.running else {"standing": became.value, **notes},
    )
    made.number, made.datetime_start = number, BEGAN
    made.datetime_complete = BEGAN if state.is_finished() else None
    return made


def measured(
    number: int,
    accuracy: float = 0.9,
    loss: float = 0.5,
    params: int = 100,
    chosen: dict[str, Any] | None = None,
    **notes: Any,
) -> FrozenTrial:
    """A completed trial with all of its figures."""
    found: dict[str, Any] = {"validation_accuracy": accuracy, "validation_loss": loss, "params": params}
    found |= {"macs": 10 * params, "activation_bytes": 99, "epochs": 4, "seconds": 1.5, "seed": 0}
    return trial(number, chosen=chosen, folder=f"trials/{number}", **{**found, **notes})


EVERY_STATUS = [
    trial(number, became, {"model.width": 4 + number, "model.depth": "[1,2]"}, reason=f"because {number}")
    for number, became in enumerate(Status)
]


def table(searched: Sequence[str] = ()) -> Table:
    return Table("s", ACCURACY, list(searched))


def round_trip(trials: list[FrozenTrial], folder: Path, searched: Sequence[str] = ()) -> pd.DataFrame:
    table(searched).write(trials, folder / "trials.csv")
    return read_trials(folder / "trials.csv")


# ---- the table


def test_the_columns_are_the_same_in_every_study_and_the_searched_ones_follow(tmp_path: Path) -> None:
    searched = ["optimizer.lr", "model", "model.width"]
    for trials in ([], EVERY_STATUS, [measured(0)]):
        read = round_trip(trials, tmp_path, searched)
        for frame in (table(searched).frame(trials), read):
            assert list(frame.columns) == [*COLUMNS, *searched]
            assert {name: str(frame[name].dtype) for name in COLUMNS} == COLUMNS
    assert set(METRICS) <= set(COLUMNS), "every figure that a study may aim for"


def test_a_trial_of_every_status_has_a_row_but_one_that_waits(tmp_path: Path) -> None:
    waiting = create_trial(state=TrialState.WAITING)
    read = round_trip([*EVERY_STATUS, waiting], tmp_path, ["model.width", "model.depth"])
    assert read.number.tolist() == list(range(len(Status)))
    assert read.state.tolist() == [became.value for became in Status]
    assert read.reason.tolist() == [f"because {number}" for number in range(len(Status))]
    assert read["model.width"].tolist() == [4 + number for number in range(len(Status))]
    assert set(read["model.depth"]) == {"[1,2]"}


def test_a_row_says_all_that_is_known_of_a_trial(tmp_path: Path) -> None:
    noted: dict[str, Any] = {"started": "2026-01-02T03:05:00+00:00", "finished": "2026-01-02T03:06:00+00:00"}
    trials = [
        measured(0, 0.1 + 0.2, 1e-300, 10**12, seed=4294967295),
        measured(1, **noted),
        trial(2, Status.running),
    ]
    table().write(trials, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {
        "study": "s",
        "number": "0",
        "state": "complete",
        "reason": "",
        "objective": "validation_accuracy",
        "validation_accuracy": "0.30000000000000004",
        "validation_loss": "1e-300",
        **dict.fromkeys(LATER, ""),
        "params": "1000000000000",
        "macs": "10000000000000",
        "activation_bytes": "99",
        "epochs": "4",
        "seconds": "1.5",
        "seed": "4294967295",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:04:05+00:00",
        "folder": "trials/0",
    }
    assert {name: rows[1][name] for name in noted} == noted, "what the record says counts for more"
    read = read_trials(tmp_path)
    pd.testing.assert_frame_equal(read, table().frame(trials))
    assert read.validation_accuracy[0] == 0.1 + 0.2
    assert read.finished.isna().tolist() == [False, False, True]


def test_two_studies_concatenate(tmp_path: Path) -> None:
    two = Table("two", ["validation_loss", "params"], ["optimizer.lr", "model.width"])
    table(["model.width"]).write([measured(0), trial(1, Status.failed, {"model.width": 4})], tmp_path / "one.csv")
    two.write([trial(0, Status.running, {"optimizer.lr": 0.5, "model.width": 8})], tmp_path / "two.csv")
    both = pd.concat([read_trials(tmp_path / "one.csv"), read_trials(tmp_path / "two.csv")], ignore_index=True)
    assert {name: str(both[name].dtype) for name in COLUMNS} == COLUMNS
    assert both.objective.tolist() == ["validation_accuracy"] * 2 + ["validation_loss;params"]
    assert both["model.width"].tolist()[1:] == [4, 8]


@pytest.mark.parametrize(
    "reason",
    [
        "one, two; three",
        "first\nsecond\n\nfourth",
        'said "no", twice: ""',
        "a\r\nb\rc",
        "NA",
        " blanks\taround ",
        "é × ≥ 日本 🎈",
        "=SUM(A1:A9)",
        "# a comment",
        '",\n",\n"',
    ],
)
def test_whatever_stands_in_a_reason_comes_back_and_damages_no_row(tmp_path: Path, reason: str) -> None:
    trials = [trial(0, Status.failed, reason=reason), trial(1, Status.failed, reason="next")]
    assert round_trip(trials, tmp_path).reason.tolist() == [" / ".join(reason.splitlines()), "next"]


def test_searched_values_of_several_kinds_come_back_whatever_stands_beside_them(tmp_path: Path) -> None:
    drawn = [
        {"model": "plain", "model.width": 4, "optimizer.lr": 1e-05, "optimizer.nesterov": True},
        {"model": "residual", "model.width": 16, "optimizer.lr": 0.30000000000000004, "optimizer.nesterov": False},
    ]
    trials = [trial(number, chosen=chosen) for number, chosen in enumerate(drawn)]
    searched = list(drawn[0])
    assert round_trip(trials, tmp_path, searched)[searched].to_dict("records") == drawn
    round_trip([*trials, trial(2)], tmp_path, searched)
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["model.width"] for row in csv.DictReader(stream)] == ["4", "16", ""], "whole numbers stay so"


def test_quoted_text_is_read_from_the_tables_of_earlier_versions_too(tmp_path: Path) -> None:
    trials = [measured(0, chosen={"scheduler.name": "'step'"})]
    assert list(round_trip(trials, tmp_path, ["scheduler.name"])["scheduler.name"]) == ["step"]
    earlier = tmp_path / "earlier.csv"
    earlier.write_text((tmp_path / "trials.csv").read_text().replace("step", "'step'"))
    assert from_table(earlier)[2][0].params == {"scheduler.name": "step"}
    assert list(read_table(earlier)["scheduler.name"]) == ["step"]


def test_a_table_that_is_not_there_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file; give a study's folder"):
        read_trials(tmp_path / "nowhere")


# ---- the best


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [each.number for each in trials]


def test_the_best_come_first_and_ties_are_broken_by_loss_then_by_parameters_then_by_age() -> None:
    trials = [
        measured(0, 0.90, 0.30, 100),
        measured(1, 0.95, 0.40, 500),
        measured(2, 0.95, 0.30, 500),
        measured(3, 0.95, 0.30, 200),
        measured(4, 0.95, 0.30, 200),
        measured(5, 0.99, 9.00, 900),
    ]
    for seed in range(5):
        shuffled = random.Random(seed).sample(trials, len(trials))
        assert numbers(rank_trials(shuffled, ["validation_accuracy", "params"])) == [5, 3, 4, 2, 1, 0]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("validation_loss", [1, 3, 0, 2]), ("validation_accuracy", [2, 0, 1, 3]), ("seconds", [0, 3, 1, 2])],
)
def test_the_objective_says_which_way_is_better(objective: str, expected: list[int]) -> None:
    trials = [
        measured(0, 0.90, 0.30, seconds=1.0),
        measured(1, 0.80, 0.10, seconds=3.0),
        measured(2, 0.99, 0.40, seconds=4.0),
        measured(3, 0.70, 0.20, seconds=2.0),
    ]
    assert numbers(rank_trials(trials, [objective])) == expected


def test_only_completed_trials_are_ranked() -> None:
    trials = [measured(number) for number, _ in enumerate(Status)]
    for each, became in zip(trials, Status, strict=True):
        each.user_attrs["standing"] = became.value
    trials[0].state = TrialState.RUNNING
    for best in (rank_trials(trials, ACCURACY), pareto_front(trials, ACCURACY)):
        assert [status(each) for each in best] == [Status.complete]
    assert rank_trials([], ACCURACY) == pareto_front([], ACCURACY) == []


def beats(one: FrozenTrial, other: FrozenTrial, objective: str, order: list[int]) -> bool:
    """Whether one trial leaves no reason to choose the other: no larger, and better or equally good and ranked
    before it."""
    a, b = one.user_attrs, other.user_attrs
    gain = (a[objective] - b[objective]) * (1 if METRICS[objective].higher_is_better else -1)
    if a["params"] > b["params"] or gain < 0:
        return False
    return bool(a["params"] < b["params"] or gain > 0 or order.index(one.number) < order.index(other.number))


@pytest.mark.parametrize("objective", ["validation_accuracy", "validation_loss"])
def test_the_front_holds_whatever_no_other_trial_beats_and_ends_with_the_best(objective: str) -> None:
    for seed in range(60):
        generator = random.Random(seed)
        levels = generator.choice([3, 10, 1000])  # few of them make ties
        trials = [
            measured(
                number,
                generator.randrange(levels) / levels,
                generator.randrange(levels) / 7,
                generator.randrange(1, levels + 1),
            )
            for number in range(generator.randrange(1, 25))
        ]
        order = numbers(rank_trials(trials, [objective]))
        expected = [each for each in trials if not any(beats(other, each, objective, order) for other in trials)]
        expected.sort(key=lambda each: int(each.user_attrs["params"]))
        front = pareto_front(trials, [objective])
        assert numbers(front) == numbers(expected), seed
        assert front[-1].user_attrs[objective] == trials[order[0]].user_attrs[objective]


def results(folder: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(folder / "optimization_results.yaml"))


def test_the_best_trial_is_written_with_its_number_parameters_and_value(tmp_path: Path) -> None:
    drawn = {"model": "plain", "model.depth": "[1,2]", "optimizer.lr": 1e-05, "model.bias": True}
    trials = [
        trial(0, Status.failed),
        measured(1, 0.5, 0.25),
        measured(2, 0.9953, 0.5, chosen={**drawn, "scheduler.name": "'step'"}),
    ]
    best = write_results(tmp_path, "mine", trials, ACCURACY)
    assert best is trials[2]
    assert results(tmp_path) == {
        "name": "optuna",
        "study": "mine",
        "best_trial": 2,
        "best_params": {**drawn, "scheduler.name": "step"},
        "best_value": 0.9953,
    }
    assert write_results(tmp_path, "mine", trials, ["validation_loss"]) is trials[1]
    assert results(tmp_path)["best_value"] == 0.25


def test_several_objectives_have_the_solutions_that_optuna_finds(tmp_path: Path) -> None:
    figures = [(0.9, 100), (0.8, 200), (0.95, 300), (0.5, 10), (0.95, 400)]
    trials = [
        measured(number, accuracy, 0.5, params, chosen={"model.width": params})
        for number, (accuracy, params) in enumerate(figures)
    ]
    best = write_results(tmp_path, "mine", trials, ["validation_accuracy", "params"])
    assert best is trials[2]
    assert results(tmp_path)["solutions"] == [
        {"trial": 3, "params": {"model.width": 10}, "values": [0.5, 10.0]},
        {"trial": 0, "params": {"model.width": 100}, "values": [0.9, 100.0]},
        {"trial": 2, "params": {"model.width": 300}, "values": [0.95, 300.0]},
    ]
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials([create_trial(values=values) for values in figures])
    assert {each.number for each in study.best_trials} == {0, 2, 3}


def test_where_nothing_has_completed_nothing_is_written(tmp_path: Path) -> None:
    trials = [trial(0, Status.pruned), trial(1, Status.running)]
    assert write_results(tmp_path, "mine", trials, ACCURACY) is None
    assert not list(tmp_path.iterdir())


# ---- the winner


def winner(
    folder: Path, values: dict[str, Value], fixed: Sequence[str] = (), retrain: Sequence[str] = ()
) -> tuple[Config, Config, str]:
    """The trial's own configuration, that of the recipe written of it, and the command that is printed."""
    composer = Composer(*loaded(), fixed)
    command = write_winner(folder, "my study", trial(0, chosen=values), composer, list(retrain))
    own = composer.config(values, 0)
    return resolve(own, describe(own.data)), composed(folder), command


def composed(folder: Path, *overrides: str) -> Config:
    """What `tinysweep --config-dir FOLDER experiment=winner` composes."""
    register_schema()
    words = [f"hydra.searchpath=[file://{folder}]", "experiment=winner", *overrides]
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        return to_config(hydra.compose("config", overrides=words))


CASES: dict[str, tuple[dict[str, Value], list[str]]] = {
    "groups": ({"model": "plain", "optimizer": "adamw", "scheduler": "step", "augmentation": "none"}, []),
    "values": ({"model.depth": "[1,1]", "optimizer.lr": 1e-05, "model.width": 9, "data.limit": "null"}, []),
    "conditional": ({"scheduler": "step", "scheduler.gamma": 0.25, "scheduler.step_epochs": 3}, []),
    "recipe": ({"optimizer.lr": 0.02, "model.hidden": 7}, ["experiment=era_seed", "data.validation=5000"]),
    "automatic width": ({"model.growth": 1.25, "model.width": "auto"}, ["budget.params=5000"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_winners_recipe_composes_to_the_configuration_of_the_trial(tmp_path: Path, case: str) -> None:
    own, recipe, _ = winner(tmp_path, *CASES[case])
    assert identity(own) == identity(recipe)
    assert isinstance(recipe.model.width, int), "what was trained, whatever the budget will be"


def test_the_winners_recipe_is_changed_by_what_it_is_retrained_with_and_by_nothing_else(tmp_path: Path) -> None:
    fixed = ["trainer.epochs=2", "model.hidden=${trainer.epochs}", "data.split_seed=${trial}"]
    retrain = ["trainer.epochs=30", "data.validation=0", "augmentation=elastic"]
    own, recipe, _ = winner(tmp_path, {"model": "plain", "model.width": 6}, fixed, retrain)
    changed = dataclasses.replace(
        own,
        trainer=dataclasses.replace(own.trainer, epochs=30),
        data=dataclasses.replace(own.data, validation=0.0),
        augmentation=recipe.augmentation,
    )
    assert identity(recipe) == identity(changed)
    assert recipe.augmentation.elastic_pixels == 1.0
    assert recipe.model.hidden == 2, "what an interpolation came to stays"


def test_the_winners_recipe_leaves_to_its_user_where_data_lies_and_what_it_runs_on(tmp_path: Path) -> None:
    fixed = ["data.root=somewhere", "trainer.device=cpu", "trainer.threads=3", "trainer.test=false"]
    _, recipe, _ = winner(tmp_path, {"model.width": 6}, fixed)
    text = (tmp_path / "experiment/winner.yaml").read_text()
    content = OmegaConf.create(text)
    for key in set(INCIDENTAL) - {"name"}:
        assert OmegaConf.select(content, key, throw_on_missing=False) is None, key
    assert "somewhere" not in text
    assert recipe.data.root == Config().data.root
    assert (recipe.trainer.device, recipe.trainer.threads, recipe.trainer.test) == ("auto", 0, True)
    own = composed(tmp_path, "data.root=mine", "trainer.device=cpu", "model.width=7")
    assert (own.data.root, own.trainer.device, own.model.width) == ("mine", "cpu", 7)


def test_the_winners_recipe_says_where_it_came_from_and_is_run_by_the_command_that_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outputs/sweeps/mine"
    monkeypatch.chdir(tmp_path)
    _, recipe, command = winner(folder, {"model.width": 6}, [], ["trainer.epochs=30"])
    assert command == "tinysweep --config-dir outputs/sweeps/mine experiment=winner"
    assert recipe.name == "my study-winner"
    lines = (folder / "experiment/winner.yaml").read_text().splitlines()
    assert lines[:2] == ["# @package _global_", "# Trial 0 of the study my study, with trainer.epochs=30."]
    monkeypatch.chdir("/")
    _, recipe, command = winner(folder, {"model.width": 5})
    assert command == f"tinysweep --config-dir {str(folder).lstrip('/')} experiment=winner"
    assert recipe.model.width == 5, "a better winner replaces the last"


# ---- seeds


def repeated(number: int, width: int, seed: int, accuracy: float) -> FrozenTrial:
    chosen = {"model.width": width, "trainer.seed": seed}
    return trial(number, chosen=chosen, validation_accuracy=accuracy, validation_loss=1 - accuracy, params=width)


def test_the_winner_is_a_configuration_not_the_luckiest_of_its_seeds() -> None:
    wide = [repeated(0, 8, 0, 0.90), repeated(2, 8, 1, 0.99), repeated(4, 8, 2, 0.90)]
    narrow = [repeated(1, 4, 0, 0.94), repeated(3, 4, 1, 0.95), repeated(5, 4, 2, 0.96)]
    best, second = rank_trials([*wide, *narrow], ACCURACY)
    assert (best.number, second.number) == (1, 0)
    assert best.user_attrs["validation_accuracy"] == pytest.approx(0.95)
    assert best.user_attrs["seeds"] == 3
    assert best.user_attrs["deviations"]["validation_accuracy"] == pytest.approx(0.01)
    assert METRICS["validation_accuracy"].text(0.95, 0.01) == "95.00% ± 1.00"
    assert wide[0].user_attrs["validation_accuracy"] == 0.90, "the trials themselves stay as they are"
    assert [each.number for each in pareto_front([*wide, *narrow], ACCURACY)] == [1]


def test_trials_that_differ_otherwise_or_have_no_seed_of_their_own_stay_apart() -> None:
    apart = [
        repeated(0, 8, 0, 0.9),
        repeated(1, 4, 0, 0.9),
        *(trial(n, chosen={"model.width": 8}) for n in (2, 3)),
    ]
    assert merge_seeds(apart) == apart
    assert merge_seeds([trial(4, Status.failed), trial(5, Status.pruned)]) == []
