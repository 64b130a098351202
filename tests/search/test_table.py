"""The table of trials: whole, typed, readable again, and the order in which trials are ranked."""

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
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from conftest import entered, loaded
from tinysweep.data.load import describe
from tinysweep.errors import DataError
from tinysweep.metrics import METRICS
from tinysweep.network.budget import resolve
from tinysweep.results.merge import read_table
from tinysweep.results.view import from_table
from tinysweep.search.compose_trial import INCIDENTAL, Composer, identity
from tinysweep.search.space import Value
from tinysweep.search.study import Status, Study, status
from tinysweep.search.table import COLUMNS, Table, pareto_front, ranked, read_trials, write_results, write_winner
from tinysweep.settings.compose import CONFIG_FOLDER, register_schema, typed
from tinysweep.settings.schema import Config

# As Optuna holds it: the local time, without a zone.
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).astimezone().replace(tzinfo=None)


def trial(
    number: int, became: Status = Status.complete, chosen: dict[str, Any] | None = None, **notes: Any
) -> FrozenTrial:
    """A trial as a study holds it."""
    states = {
        Status.running: TrialState.RUNNING,
        Status.complete: TrialState.COMPLETE,
        Status.pruned: TrialState.PRUNED,
        Status.over_budget: TrialState.PRUNED,
    }
    state = states.get(became, TrialState.FAIL)
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


def measured(number: int, accuracy: float, loss: float, params: int, **notes: Any) -> FrozenTrial:
    """A completed trial with all of its figures."""
    figures = {"macs": 10 * params, "activation_bytes": 99, "epochs": 4, "seconds": 1.5, "seed": 0}
    found: dict[str, Any] = {"validation_accuracy": accuracy, "validation_loss": loss, "params": params}
    return trial(number, folder=f"trials/{number}", **{**found, **figures, **notes})


EVERY_STANDING = [
    trial(number, became, {"model.width": 4 + number, "model.depth": "[1,2]"}, reason=f"because {number}")
    for number, became in enumerate(Status)
]


def table(searched: Sequence[str] = (), study: str = "s") -> Table:
    return Table(study, ["validation_accuracy"], list(searched))


def round_trip(trials: list[FrozenTrial], folder: Path, searched: Sequence[str] = ()) -> pd.DataFrame:
    path = folder / "trials.csv"
    table(searched).write(trials, path)
    return read_trials(path)


# ---- columns


def test_the_columns_are_the_same_in_every_study_and_the_searched_ones_follow(tmp_path: Path) -> None:
    searched = ["optimizer.lr", "model", "model.width"]
    for trials in ([], EVERY_STANDING, [measured(0, 0.9, 0.3, 100)]):
        frame = table(searched).frame(trials)
        assert list(frame.columns) == [*COLUMNS, *searched]
        assert {name: str(frame[name].dtype) for name in COLUMNS} == COLUMNS
        read = round_trip(trials, tmp_path, searched)
        assert list(read.columns) == list(frame.columns)
        assert {name: str(read[name].dtype) for name in COLUMNS} == COLUMNS


def test_every_figure_that_a_study_may_aim_for_is_a_column() -> None:
    assert set(METRICS) <= set(COLUMNS)
    assert list(COLUMNS)[:4] == ["study", "number", "state", "reason"]


def test_a_trial_of_every_status_has_a_row_in_the_order_of_numbers(tmp_path: Path) -> None:
    read = round_trip(EVERY_STANDING, tmp_path, ["model.width", "model.depth"])
    assert read.number.tolist() == list(range(len(Status)))
    assert read.state.tolist() == [became.value for became in Status]
    assert read.reason.tolist() == [f"because {number}" for number in range(len(Status))]
    assert read["model.width"].tolist() == [4 + number for number in range(len(Status))]
    assert set(read["model.depth"]) == {"[1,2]"}


def test_a_trial_that_waits_to_be_proposed_has_no_row() -> None:
    waiting = create_trial(state=TrialState.WAITING)
    waiting.number, waiting.datetime_start = 1, None
    assert table().frame([trial(0), waiting]).number.tolist() == [0]


def test_a_row_says_what_was_found(tmp_path: Path) -> None:
    read = round_trip([measured(3, 0.9953, 0.0123456789012345, 17_626)], tmp_path)
    assert read.fillna({"reason": ""}).to_dict("records") == [
        {
            "study": "s",
            "number": 3,
            "state": "complete",
            "reason": "",
            "objective": "validation_accuracy",
            "validation_accuracy": 0.9953,
            "validation_loss": 0.0123456789012345,
            "params": 17_626,
            "macs": 176_260,
            "activation_bytes": 99,
            "epochs": 4,
            "seconds": 1.5,
            "seed": 0,
            "started": "2026-01-02T03:04:05+00:00",
            "finished": "2026-01-02T03:04:05+00:00",
            "folder": "trials/3",
        }
    ]


def test_what_is_missing_is_missing_after_reading_too(tmp_path: Path) -> None:
    trials = [trial(0, Status.running), measured(1, 0.5, 0.7, 10), trial(2, Status.failed, reason="x")]
    read = round_trip(trials, tmp_path, ["model.width"])
    pd.testing.assert_frame_equal(read[list(COLUMNS)], table().frame(trials))
    assert read.validation_accuracy.isna().tolist() == [True, False, True]
    assert read.finished.isna().tolist() == [True, False, False]
    assert read["model.width"].isna().all()


def test_large_and_small_numbers_survive(tmp_path: Path) -> None:
    trials = [measured(0, 0.1 + 0.2, 1e-300, 10**12, macs=10**15, seed=4294967295), trial(1, Status.running)]
    read = round_trip(trials, tmp_path)
    assert read.params[0] == 10**12
    assert (read.macs[0], read.seed[0]) == (10**15, 4294967295)
    assert (read.validation_accuracy[0], read.validation_loss[0]) == (0.1 + 0.2, 1e-300)


def test_two_studies_concatenate(tmp_path: Path) -> None:
    one = table(["model.width"], "one")
    two = Table("two", ["validation_loss", "params"], ["optimizer.lr", "model.width"])
    one.write([measured(0, 0.9, 0.1, 10), trial(1, Status.failed, {"model.width": 4})], tmp_path / "one.csv")
    two.write([trial(0, Status.running, {"optimizer.lr": 0.5, "model.width": 8})], tmp_path / "two.csv")
    both = pd.concat([read_trials(tmp_path / "one.csv"), read_trials(tmp_path / "two.csv")], ignore_index=True)
    assert {name: str(both[name].dtype) for name in COLUMNS} == COLUMNS
    assert both.study.tolist() == ["one", "one", "two"]
    assert both.objective.tolist() == ["validation_accuracy"] * 2 + ["validation_loss;params"]
    assert both["model.width"].tolist()[1:] == [4, 8]


@pytest.mark.parametrize(
    "reason",
    [
        "plain",
        "one, two; three",
        "first\nsecond\n\nfourth",
        'said "no", twice: ""',
        "'single' and `other`",
        "a\r\nb",
        "a\rb",
        "null",
        "NA",
        "\ttab\t",
        " blanks around ",
        "é × ≥ 日本 🎈",
        "=SUM(A1:A9)",
        "# a comment",
        "\\n is no line break \\",
        '",\n",\n"',
    ],
)
def test_whatever_stands_in_a_reason_comes_back_and_damages_no_row(tmp_path: Path, reason: str) -> None:
    trials = [trial(0, Status.failed, reason=reason), trial(1, Status.failed, reason="next")]
    read = round_trip(trials, tmp_path)
    shown = " / ".join(reason.splitlines())
    assert read.reason.tolist() == [shown, "next"]
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["reason"] for row in csv.DictReader(stream)] == [shown, "next"]


def test_searched_values_of_several_kinds_come_back(tmp_path: Path) -> None:
    params = [
        {"model": "plain", "model.width": 4, "optimizer.lr": 1e-05, "optimizer.nesterov": True},
        {"model": "residual", "model.width": 16, "optimizer.lr": 0.30000000000000004, "optimizer.nesterov": False},
    ]
    searched = ["model", "model.width", "optimizer.lr", "optimizer.nesterov"]
    read = round_trip([trial(number, chosen=chosen) for number, chosen in enumerate(params)], tmp_path, searched)
    assert read[searched].to_dict("records") == params


def test_what_a_record_says_of_start_and_end_counts_for_more_than_when_it_was_proposed_and_read() -> None:
    moments: dict[str, Any] = {"started": "2026-01-02T03:05:00+00:00", "finished": "2026-01-02T03:06:00+00:00"}
    frame = table().frame([trial(0, **moments), trial(1)])
    assert frame.started.tolist() == [moments["started"], "2026-01-02T03:04:05+00:00"]
    assert frame.finished.tolist() == [moments["finished"], "2026-01-02T03:04:05+00:00"]


def test_quoted_text_is_read_from_the_tables_of_earlier_versions_too(tmp_path: Path) -> None:
    quoted = CategoricalDistribution(["'step'", "'constant'"])
    trials = [create_trial(state=TrialState.COMPLETE, value=0.5, params={"scheduler.name": "'step'"},
                           distributions={"scheduler.name": quoted})]  # fmt: skip
    trials[0].datetime_start = datetime(2026, 1, 2, tzinfo=UTC)
    trials[0].user_attrs |= dict.fromkeys(METRICS, 1)
    Table("s", ["validation_accuracy"], ["scheduler.name"]).write(trials, tmp_path / "trials.csv")
    assert list(read_trials(tmp_path / "trials.csv")["scheduler.name"]) == ["step"]
    earlier = tmp_path / "earlier.csv"
    earlier.write_text((tmp_path / "trials.csv").read_text().replace("step", "'step'"))
    assert "'step'" in earlier.read_text()
    assert from_table(earlier)[2][0].params == {"scheduler.name": "step"}
    assert list(read_table(earlier)["scheduler.name"]) == ["step"]


def test_a_whole_number_stays_one_where_other_trials_lack_the_parameter(tmp_path: Path) -> None:
    trials = [trial(0, chosen={"model.width": 4}), trial(1)]
    table(["model.width"]).write(trials, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["model.width"] for row in csv.DictReader(stream)] == ["4", ""]


# ---- a table that lives as long as its sweep


def test_a_table_written_again_and_again_is_the_one_that_is_written_at_once(tmp_path: Path) -> None:
    generator = random.Random(0)
    living, trials = table(["model.width"]), list[FrozenTrial]()
    for _ in range(12):
        for number, old in enumerate(trials):
            if status(old) == Status.running and generator.random() < 0.5:
                trials[number] = trial(number, generator.choice(list(Status)[1:]), old.params, reason="a,\nb")
        for _ in range(generator.randrange(4)):
            chosen = {"model.width": generator.randrange(99)} if generator.random() < 0.7 else None
            trials.append(trial(len(trials), Status.running, chosen))
        living.write(trials, tmp_path / "living.csv")
        table(["model.width"]).write(trials, tmp_path / "fresh.csv")
        assert (tmp_path / "living.csv").read_text() == (tmp_path / "fresh.csv").read_text()
    assert read_trials(tmp_path / "living.csv").number.tolist() == list(range(len(trials)))


def test_the_row_of_a_running_trial_is_made_anew_until_it_has_finished(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = Study(optuna.create_study(direction="maximize"), tmp_path)
    number = entered(study)
    living = table()
    assert living.frame(study.trials()).state.tolist() == ["running"]
    study.close(number, Status.complete, values=[0.5], validation_accuracy=0.5, params=7)
    frame = living.frame(study.trials())
    assert frame.state.tolist() == ["complete"]
    assert frame.params.tolist() == [7]
    assert frame.finished.notna().all()
    entered(study)
    frame = living.frame(study.trials())
    assert frame.state.tolist() == ["complete", "running"]
    pd.testing.assert_frame_equal(frame, table().frame(study.trials()))


# ---- ranking


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
    expected = [5, 3, 4, 2, 1, 0]
    for seed in range(5):
        shuffled = random.Random(seed).sample(trials, len(trials))
        assert numbers(ranked(shuffled, ["validation_accuracy"])) == expected
        assert numbers(ranked(shuffled, ["validation_accuracy", "params"])) == expected


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("validation_loss", [1, 3, 0, 2]),
        ("validation_accuracy", [2, 0, 1, 3]),
        ("params", [3, 1, 0, 2]),
        ("macs", [2, 3, 1, 0]),
        ("seconds", [0, 3, 1, 2]),
    ],
)
def test_the_objective_says_which_way_is_better(objective: str, expected: list[int]) -> None:
    trials = [
        measured(0, 0.90, 0.30, 300, macs=40, seconds=1.0),
        measured(1, 0.80, 0.10, 200, macs=30, seconds=3.0),
        measured(2, 0.99, 0.40, 400, macs=10, seconds=4.0),
        measured(3, 0.70, 0.20, 100, macs=20, seconds=2.0),
    ]
    assert numbers(ranked(trials, [objective])) == expected


def test_only_completed_trials_are_ranked() -> None:
    trials = [_with_became(became, number) for number, became in enumerate(Status) if became != Status.running] + [
        trial(99, Status.running)
    ]
    assert [status(each) for each in ranked(trials, ["validation_accuracy"])] == [Status.complete]
    assert [status(each) for each in pareto_front(trials, ["validation_accuracy"])] == [Status.complete]
    assert ranked([], ["validation_accuracy"]) == pareto_front([], ["validation_accuracy"]) == []


def _with_became(became: Status, number: int) -> FrozenTrial:
    made = measured(number, 0.9, 0.1, 100)
    made.set_user_attr("standing", became.value)
    return made


def beats(one: FrozenTrial, other: FrozenTrial, objective: str, order: dict[int, int]) -> bool:
    """Whether one trial leaves no reason to choose the other: no larger, and better or equally good and ranked
    before it."""
    a, b = one.user_attrs, other.user_attrs
    gain = (a[objective] - b[objective]) * (1 if METRICS[objective].higher_is_better else -1)
    if a["params"] > b["params"] or gain < 0:
        return False
    return bool(a["params"] < b["params"] or gain > 0 or order[one.number] < order[other.number])


@pytest.mark.parametrize("objective", ["validation_accuracy", "validation_loss", "seconds"])
def test_the_front_holds_whatever_no_other_trial_beats(objective: str) -> None:
    for seed in range(60):
        generator = random.Random(seed)
        levels = generator.choice([3, 10, 1000])  # few of them make ties
        trials = [
            measured(
                number,
                generator.randrange(levels) / levels,
                generator.randrange(levels) / 7,
                generator.randrange(1, levels + 1),
                seconds=generator.randrange(levels),
            )
            for number in range(generator.randrange(1, 25))
        ]
        order = {each.number: position for position, each in enumerate(ranked(trials, [objective]))}
        expected = [
            each
            for each in trials
            if not any(beats(other, each, objective, order) for other in trials if other is not each)
        ]
        expected.sort(key=lambda each: int(each.user_attrs["params"]))
        assert numbers(pareto_front(trials, [objective])) == numbers(expected), seed


def test_the_best_trial_is_the_last_of_the_front_and_the_smallest_the_first() -> None:
    trials = [measured(number, number % 7 / 7, 0.1, 50 * (number % 5) + 10) for number in range(30)]
    front = pareto_front(trials, ["validation_accuracy"])
    assert front[-1].number == ranked(trials, ["validation_accuracy"])[0].number
    assert front[0].user_attrs["params"] == 10


def test_a_table_is_found_in_its_studys_folder(tmp_path: Path) -> None:
    Table("made", ["validation_accuracy"], []).write([trial(0)], tmp_path / "trials.csv")
    assert read_trials(tmp_path).equals(read_trials(tmp_path / "trials.csv"))
    with pytest.raises(DataError, match=r"nowhere: no such file; give a study's folder"):
        read_trials(tmp_path / "nowhere")


def begun(folder: Path, objectives: Sequence[str] = ("validation_accuracy",), name: str = "mine") -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [StudyDirection[METRICS[aim].direction.upper()] for aim in objectives]
    return Study(optuna.create_study(study_name=name, directions=directions), folder)


def add(study: Study, objectives: Sequence[str], values: dict[str, Value] | None = None, **figures: float) -> int:
    """A completed trial with these parameters and figures."""
    found: dict[str, Any] = {
        "validation_accuracy": 0.9,
        "validation_loss": 0.5,
        "params": 100,
        "macs": 10,
    } | figures
    trial = study.ask(values)
    for name, value in (values or {}).items():
        if type(value) is int:
            trial.suggest_int(name, 1, 10**6)
        else:
            trial.suggest_categorical(name, [value])
    study.close(trial.number, Status.complete, None, [float(found[name]) for name in objectives], **found)
    return trial.number


def written(study: Study) -> Any:
    return OmegaConf.to_container(OmegaConf.load(study.folder / "optimization_results.yaml"))


# ---- the best


def test_the_best_trial_is_written_with_its_number_parameters_and_value(tmp_path: Path) -> None:
    study, aims = begun(tmp_path), ["validation_accuracy"]
    values: dict[str, Value] = {
        "model": "plain",
        "model.depth": "[1,2]",
        "optimizer.lr": 1e-05,
        "model.bias": True,
    }
    study.close(entered(study), Status.failed, "why")
    add(study, aims, validation_accuracy=0.5)
    add(study, aims, values, validation_accuracy=0.9953)
    best = write_results(study, aims)
    assert best is not None
    assert best.number == 2
    assert written(study) == {
        "name": "optuna",
        "study": "mine",
        "best_trial": 2,
        "best_params": values,
        "best_value": 0.9953,
    }


def test_the_best_by_loss_is_the_lowest(tmp_path: Path) -> None:
    study, aims = begun(tmp_path, ["validation_loss"]), ["validation_loss"]
    for loss in (0.5, 0.25, 0.75):
        add(study, aims, validation_loss=loss)
    write_results(study, aims)
    assert (written(study)["best_trial"], written(study)["best_value"]) == (1, 0.25)


def test_several_objectives_have_several_solutions(tmp_path: Path) -> None:
    aims = ["validation_accuracy", "params"]
    study = begun(tmp_path, aims)
    for accuracy, params in [(0.9, 100), (0.8, 200), (0.95, 300), (0.5, 10), (0.95, 400)]:
        add(study, aims, {"model.width": params}, validation_accuracy=accuracy, params=params)
    best = write_results(study, aims)
    assert best is not None
    assert best.number == 2
    assert written(study) == {
        "name": "optuna",
        "study": "mine",
        "solutions": [
            {"trial": 3, "params": {"model.width": 10}, "values": [0.5, 10.0]},
            {"trial": 0, "params": {"model.width": 100}, "values": [0.9, 100.0]},
            {"trial": 2, "params": {"model.width": 300}, "values": [0.95, 300.0]},
        ],
    }
    assert {solution["trial"] for solution in written(study)["solutions"]} == {
        trial.number for trial in study.optuna.best_trials
    }, "the front that Optuna finds"


def test_where_nothing_has_completed_nothing_is_written(tmp_path: Path) -> None:
    study = begun(tmp_path)
    study.close(entered(study), Status.pruned, "why")
    entered(study)
    assert write_results(study, ["validation_accuracy"]) is None
    assert not list(tmp_path.glob("*.yaml"))


# ---- the winner


def winner(
    folder: Path, values: dict[str, Value], fixed: list[str], retrain: list[str], name: str = "mine"
) -> tuple[Config, Config, str]:
    """The trial's own configuration, that of the recipe written of it, and the command that is printed."""
    study = begun(folder, name=name)
    add(study, ["validation_accuracy"], values)
    best = write_results(study, ["validation_accuracy"])
    assert best is not None
    composer = Composer(*loaded(), fixed)
    command = write_winner(study, best, composer, retrain)
    own = composer.config(values, best.number)
    return resolve(own, describe(own.data)), composed(folder, "experiment=winner"), command


def composed(folder: Path, *overrides: str) -> Config:
    """What `tinysweep --config-dir FOLDER` composes."""
    register_schema()
    search = f"hydra.searchpath=[file://{folder}]"
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        return typed(hydra.compose("config", overrides=[search, *overrides]))


def same(one: Config, other: Config) -> bool:
    return identity(one) == identity(other)


CASES: dict[str, tuple[dict[str, Value], list[str]]] = {
    "groups": ({"model": "plain", "optimizer": "adamw", "scheduler": "step", "augmentation": "none"}, []),
    "values": ({"model.depth": "[1,1]", "optimizer.lr": 1e-05, "model.width": 9, "data.limit": "null"}, []),
    "conditional": ({"scheduler": "step", "scheduler.gamma": 0.25, "scheduler.step_epochs": 3}, []),
    "recipe": ({"optimizer.lr": 0.02, "model.hidden": 7}, ["experiment=era_seed", "data.validation=5000"]),
    "elsewhere": ({"model.width": 5}, ["data=kmnist", "data.root=a/b", "trainer.device=cpu", "trainer.threads=3"]),
    "automatic width": ({"model.growth": 1.25, "model.width": "auto"}, ["budget.params=5000"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_winners_recipe_composes_to_the_configuration_of_the_trial(tmp_path: Path, case: str) -> None:
    own, recipe, _ = winner(tmp_path, *CASES[case], [])
    assert same(own, recipe)
    assert isinstance(recipe.model.width, int), "what was trained, whatever the budget will be"


def test_the_winners_recipe_is_changed_by_what_it_is_retrained_with_and_by_nothing_else(tmp_path: Path) -> None:
    retrain = ["trainer.epochs=30", "data.validation=0", "trainer.ema_decay=0.999"]
    own, recipe, _ = winner(tmp_path, {"model": "plain", "model.width": 6}, ["trainer.epochs=2"], retrain)
    changed = dataclasses.replace(
        own,
        trainer=dataclasses.replace(own.trainer, epochs=30, ema_decay=0.999),
        data=dataclasses.replace(own.data, validation=0.0),
    )
    assert own.trainer.epochs == 2
    assert same(recipe, changed)


def test_retraining_leaves_alone_what_an_interpolation_came_to(tmp_path: Path) -> None:
    fixed = ["model.hidden=${trainer.epochs}", "data.split_seed=${trial}"]
    own, recipe, _ = winner(tmp_path, {"trainer.epochs": 3, "model.width": 4}, fixed, ["trainer.epochs=30"])
    assert (own.model.hidden, recipe.model.hidden) == (3, 3)
    assert (recipe.trainer.epochs, recipe.data.split_seed) == (30, 0)


def test_retraining_may_choose_from_a_group(tmp_path: Path) -> None:
    values: dict[str, Value] = {"model.width": 6, "augmentation": "none"}
    _, recipe, _ = winner(tmp_path, values, [], ["augmentation=elastic"])
    assert recipe.augmentation.elastic_pixels == 1.0


def test_the_winners_recipe_leaves_to_its_user_where_data_lies_and_what_it_runs_on(tmp_path: Path) -> None:
    fixed = ["data.root=somewhere", "trainer.device=cpu", "trainer.threads=3", "trainer.test=false"]
    _, recipe, _ = winner(tmp_path, {"model.width": 6}, fixed, [])
    text = (tmp_path / "experiment" / "winner.yaml").read_text()
    content = OmegaConf.create(text)
    for key in INCIDENTAL:
        if key != "name":
            assert OmegaConf.select(content, key, throw_on_missing=False) is None, key
    assert "somewhere" not in text
    assert recipe.data.root == Config().data.root
    assert (recipe.trainer.device, recipe.trainer.threads, recipe.trainer.test) == ("auto", 0, True)
    assert recipe.trial is None
    own_machine = composed(tmp_path, "experiment=winner", "data.root=mine", "trainer.device=cpu")
    assert (own_machine.data.root, own_machine.trainer.device) == ("mine", "cpu")


def test_the_winners_recipe_can_be_overridden(tmp_path: Path) -> None:
    winner(tmp_path, {"model": "plain", "model.width": 6}, [], [])
    config = composed(tmp_path, "experiment=winner", "trainer.seed=9", "model.width=7")
    assert (config.trainer.seed, config.model.width, config.model.family) == (9, 7, "plain")


def test_the_winners_recipe_is_named_after_the_study_and_says_where_it_came_from(tmp_path: Path) -> None:
    _, recipe, _ = winner(tmp_path, {"model.width": 6}, [], ["trainer.epochs=30"], name="my study")
    assert recipe.name == "my study-winner"
    lines = (tmp_path / "experiment" / "winner.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# Trial 0 of the study my study")
    assert "trainer.epochs=30" in lines[1]


def test_the_command_that_is_printed_runs_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    *_, command = winner(folder, {"model.width": 6}, [], [])
    assert command == "tinysweep --config-dir outputs/sweeps/mine experiment=winner"
    monkeypatch.chdir("/")
    study = begun(folder)
    add(study, ["validation_accuracy"], {"model.width": 6})
    command = write_winner(study, study.trials()[0], Composer(*loaded(), []), [])
    assert command == f"tinysweep --config-dir {str(folder).lstrip('/')} experiment=winner"


def test_a_better_winner_replaces_the_last(tmp_path: Path) -> None:
    study, aims = begun(tmp_path), ["validation_accuracy"]
    for width, accuracy in [(4, 0.5), (5, 0.75)]:
        study_best = add(study, aims, {"model.width": width}, validation_accuracy=accuracy)
        best = write_results(study, aims)
        assert best is not None
        assert best.number == study_best
        write_winner(study, best, Composer(*loaded(), []), [])
        assert composed(tmp_path, "experiment=winner").model.width == width
