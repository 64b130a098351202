"""tinysweep-compare: what is found, merged, filtered, ranked, set apart and said, and what is refused."""

import math
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from conftest import Command, Ended
from tinysweep.commands import compare
from tinysweep.errors import ConfigError, DataError
from tinysweep.network.budget import Cost, LayerCost
from tinysweep.results.compare import Chance, Trial, judged, ranked, read_value, rows
from tinysweep.results.compare import best_under as best_under_budgets
from tinysweep.results.merge import Merged, find, merge
from tinysweep.results.view import from_table
from tinysweep.results.where import Condition
from tinysweep.run.record import Record, RunFolder, State
from tinysweep.search.table import COLUMNS, read_trials
from tinysweep.settings.schema import Config, DataConfig, DataName, Family, ModelConfig, TrainerConfig
from tinysweep.training.device import Hardware
from tinysweep.training.loop import Epoch, Score

Compare = Callable[..., Ended]
ESCAPES = "\x1b[31mred\x1b[0m\r\x07\u202e"


@pytest.fixture
def run(command: Command) -> Compare:
    """The command, which here must succeed unless `status` says otherwise."""

    def call(*arguments: str | Path, status: int = 0) -> Ended:
        ended = command(*map(str, arguments), main=compare.main)
        assert ended.status == status, ended.err
        return ended

    return call


def trial(number: int, accuracy: float | None, loss: float | None, params: int, **more: Any) -> dict[str, Any]:
    """A row of trials.csv; whatever isn't a column is a searched parameter."""
    figures = {"validation_accuracy": accuracy, "validation_loss": loss, "params": params, "macs": 10 * params}
    rest = {"state": "complete", "epochs": 4, "seconds": 1.5, "seed": 0, "folder": f"trials/{number}"}
    moments = {"started": "2026-01-02T03:04:05+00:00", "finished": "2026-01-02T03:05:05+00:00"}
    return {"number": number, "objective": "validation_loss", **figures, **rest, **moments, **more}


def table(path: Path, trials: list[dict[str, Any]], name: str = "one", searched: list[str] | None = None) -> Path:
    """A trials.csv as a study writes it."""
    if searched is None:
        searched = list(dict.fromkeys(key for row in trials for key in row if key not in COLUMNS))
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([{"study": name, **row} for row in trials], columns=[*COLUMNS, *searched], dtype=object)
    frame.to_csv(path, index=False, lineterminator="\r\n")  # so that the writer quotes carriage returns
    return path


def study(place: Path, trials: list[dict[str, Any]], name: str = "one", searched: list[str] | None = None) -> Path:
    """The folder of a study that has a table and nothing else."""
    return table(place / name / "trials.csv", trials, name, searched).parent


def recorded(folder: Path, accuracy: float | None = 0.9, test: float | None = None, **settings: Any) -> Path:
    """The folder of a run, as a run leaves it; `settings` are a run's sections."""
    cost = Cost((LayerCost("0", "Linear", (10,), 500, 400, 30),))
    config = Config(**settings)
    overrides = ["model=residual", "optimizer.lr=0.1"]
    record = Record(RunFolder(folder), config, cost, Hardware(torch.device("cpu"), False, 1), overrides)
    record.folder.path.mkdir(parents=True)
    record.begin()
    loss = None if accuracy is None else 1 - accuracy
    record.add(Epoch(1, 0.5, loss, accuracy, 0.1, 2.5))
    record.test = None if test is None else Score(1 - test, test)
    record.close(State.complete)
    return folder


def merged_from(*paths: Path) -> Merged:
    return merge(find(paths))


def lines(ended: Ended, title: str) -> list[list[str]]:
    """The words of each line below a title, up to the blank line."""
    block = next(block for block in ended.out.split("\n\n") if title in block)
    return [line.split() for line in block.split("\n")[1:]]


def shown(ended: Ended) -> list[str]:
    """The names of the ranked trials."""
    return [" ".join(words[1:3]) for words in lines(ended, " first:") if words[0].isdigit()]


# ---- what is found


def test_every_way_to_point_at_a_study_or_a_run_finds_it_once(place: Path) -> None:
    one = study(place / "outputs/sweeps", [trial(0, 0.9, 0.3, 100)])
    run_folder = recorded(place / "outputs/runs/2026-01-02/03-04-05-default")
    recorded(one / "trials/0")  # belongs to its study
    recorded(one / "final/runs/test/trial-0-seed-0")
    ways = [
        Path("outputs"),
        place / "outputs/sweeps",
        one,
        one / "trials.csv",
        run_folder,
        run_folder / "record.json",
    ]
    for paths in (ways, ways[::-1], ways[:1]):
        found = find(paths)
        assert [path.resolve() for path in found.tables] == [one / "trials.csv"]
        assert [folder.resolve() for folders in found.runs.values() for folder in folders] == [run_folder]
        assert not found.begun
    assert list(find([one / "final"]).runs.values()) == [[one / "final/runs/test/trial-0-seed-0"]]


@pytest.mark.parametrize("mark", ["study.db", ".sweepers"])
def test_a_study_whose_first_batch_runs_is_named_in_a_line(place: Path, run: Compare, mark: str) -> None:
    folder = place / "sweeps" / "young"
    recorded(folder / "trials" / "0")  # no single run, but a trial that is being trained
    (folder / mark).mkdir() if mark.startswith(".") else (folder / mark).touch()
    ended = run("sweeps")
    assert "young    no batch has finished yet, so there is no trials.csv  sweeps/young" in ended.out
    assert "there are no completed trials" in ended.out
    assert list(read_trials("outputs/compare.csv").columns) == list(COLUMNS)
    study(place / "sweeps", [trial(0, 0.9, 0.3, 100)])
    assert shown(run("sweeps")) == ["one 0"]


# ---- the merged table


def test_two_studies_are_one_table_with_the_columns_and_types_of_each(place: Path, run: Compare) -> None:
    study(
        place, [trial(0, 0.9, 0.1 + 0.2, 100, **{"model.width": 8, "optimizer.lr": 1e-05}), trial(1, 0.8, 0.4, 90)]
    )
    other = [
        trial(0, 0.7, 0.5, 10**12, **{"optimizer.lr": 0.3, "model.depth": "[1,2]", "model.padding": True}),
        trial(1, None, None, 99, state="over_budget", reason='too "large",\nby far', folder=None),
    ]
    study(place, other, "two")
    run("one", "two", "--csv", "made/both.csv")
    both = read_trials("made/both.csv")
    parameters = ["model.width", "optimizer.lr", "model.depth", "model.padding"]
    assert list(both.columns) == [*COLUMNS, *parameters]
    assert {name: str(both[name].dtype) for name in COLUMNS} == COLUMNS
    sources = [read_trials(f"{name}/trials.csv").drop(columns="folder") for name in ("one", "two")]
    plain = list(COLUMNS)[:-1]
    expected = pd.concat(sources, ignore_index=True)
    pd.testing.assert_frame_equal(both[plain], expected[plain])
    assert both.folder.fillna("").tolist() == ["one/trials/0", "one/trials/1", "two/trials/0", ""]
    text = pd.read_csv("made/both.csv", dtype=str, keep_default_na=False)
    assert text["model.width"].tolist() == ["8", "", "", ""]  # not 8.0
    assert text["optimizer.lr"].tolist() == ["1e-05", "", "0.3", ""]
    assert text["model.padding"].tolist() == ["", "", "True", ""]
    assert len(pd.concat([both, read_trials("one/trials.csv")])) == 6


def test_a_merged_table_can_be_compared_again_and_gives_itself(place: Path, run: Compare) -> None:
    study(place / "sweeps", [trial(0, 0.9, 0.3, 100, **{"model.width": 8}), trial(1, 0.8, 0.4, 90)])
    recorded(place / "runs/a", test=0.98, model=ModelConfig(width=4))
    recorded(place / "runs/b", test=None, model=ModelConfig(width=6))
    first = run("sweeps", "runs", "--csv", "first.csv")
    again = run("first.csv", "--csv", "second.csv")
    assert Path("second.csv").read_bytes() == Path("first.csv").read_bytes()
    assert shown(again) == shown(first)
    both = run("first.csv", "sweeps", "runs", "--csv", "third.csv")
    assert Path("third.csv").read_bytes() == Path("first.csv").read_bytes()
    assert "4 more" in both.out


def test_a_folder_that_another_machine_wrote_is_found_below_the_study_that_is_here(place: Path) -> None:
    trials = [trial(number, 0.9, 0.3, 100, folder=f"/elsewhere/one/trials/{number}") for number in (0, 1)]
    one = study(place, trials)
    recorded(one / "trials/0")
    assert merged_from(Path("one")).frame.folder.tolist() == ["one/trials/0", "/elsewhere/one/trials/1"]


def test_a_merged_table_made_inside_a_study_still_leads_to_its_trials(place: Path, monkeypatch: Any) -> None:
    one = study(place, [trial(0, 0.9, 0.3, 100)])
    monkeypatch.chdir(one)
    assert merged_from(Path()).frame.folder.tolist() == ["./trials/0"]


def test_a_single_run_is_a_row_and_joins_the_searched_parameters(place: Path, run: Compare) -> None:
    searched = {"model": "plain", "model.width": 8, "model.depth": "[1,2]", "data.limit": 100, "odd": 1}
    study(place / "sweeps", [trial(0, 0.9, 0.3, 100, **searched)])
    recorded(place / "runs/day/a", 0.95, 0.97, name="a", model=ModelConfig(width=4, depth=[1, 2]))
    recorded(place / "runs/day/b", None, None, name="b", trainer=TrainerConfig(seed=7, epochs=2))
    run("sweeps", "runs")
    made = read_trials("outputs/compare.csv")
    assert list(made.columns) == [*COLUMNS, "test_accuracy", *searched, "trainer.epochs", "trainer.seed"]
    a, b = (made.iloc[at].to_dict() for at in (1, 2))
    expected: dict[str, Any] = {
        "study": "runs",
        "state": "complete",
        "validation_accuracy": 0.95,
        "validation_loss": pytest.approx(0.05),
        "params": 500,
        "macs": 400,
        "activation_bytes": 30,
        "epochs": 1,
        "seconds": 2.5,
        "seed": Config().trainer.seed,
        "folder": "runs/day/a",
        "test_accuracy": 0.97,
        "model": "residual",
        "model.width": "4",
        "model.depth": "[1,2]",
        "data.limit": "null",
    }
    assert {name: a[name] for name in expected} == expected
    assert pd.isna(a["number"])
    assert pd.isna(a["objective"])
    assert pd.isna(a["odd"])
    assert (b["seed"], b["trainer.seed"]) == (7, 7)
    assert all(pd.isna(b[name]) for name in ("validation_accuracy", "validation_loss", "test_accuracy"))


def test_a_run_whose_groups_were_left_alone_stands_under_what_its_configuration_calls_them(place: Path) -> None:
    study(place / "sweeps", [trial(0, 0.9, 0.3, 100, model="plain", scheduler="step", optimizer="sgd")])
    recorded(place / "runs/a", model=ModelConfig(family=Family.separable, width=4))
    run = merged_from(Path("sweeps"), Path("runs")).frame.iloc[1]
    assert (run["optimizer"], run["scheduler"]) == ("sgd", "cosine")
    assert run["model"] == "residual", "an override says it better"


def test_runs_alone_have_the_settings_in_which_they_differ_and_no_others(place: Path) -> None:
    for seed in (0, 1):
        recorded(place / f"runs/{seed}", name=f"n{seed}", trainer=TrainerConfig(seed=seed, threads=1 + seed))
    assert merged_from(Path("runs")).parameters == ["trainer.seed"]
    assert merged_from(Path("runs/0")).parameters == []


def test_without_a_tested_run_there_is_no_column_of_tests(place: Path) -> None:
    recorded(place / "runs/a")
    assert "test_accuracy" not in merged_from(Path("runs")).frame


def test_a_copy_of_a_table_counts_once_and_so_does_a_trial_given_as_a_run(place: Path) -> None:
    one = study(place, [trial(0, 0.9, 0.3, 100, **{"model.width": 8}), trial(1, None, None, 9, state="failed")])
    recorded(one / "trials/0")
    shutil.copy("one/trials.csv", "copy.csv")
    merged = merged_from(Path("one"), Path("copy.csv"), Path("one/trials"))
    assert (len(merged.frame), merged.repeated) == (2, 3)


def test_studies_of_one_name_are_told_apart_by_their_places(place: Path, run: Compare) -> None:
    for folder, loss in (("a", 0.3), ("b", 0.2)):
        study(place / folder, [trial(0, 0.9, loss, 100)])
    ended = run("a", "b")
    assert "1  one (b/one) 0" in ended.out
    assert "2  one (a/one) 0" in ended.out
    assert read_trials("outputs/compare.csv").study.tolist() == ["one", "one"]


def test_runs_whose_folders_end_alike_are_told_apart(place: Path) -> None:
    for stage in ("test", "validation"):
        recorded(place / stage / "seed-0")
    assert [each.name for each in rows(merged_from(place))] == ["test/seed-0", "validation/seed-0"]


def test_a_record_that_cannot_be_read_is_left_out_with_a_warning(place: Path, run: Compare) -> None:
    recorded(place / "runs/good")
    for name, content in (("half", '{"state": "compl'), ("other", '{"what": 1}'), ("list", "[]")):
        (place / "runs" / name).mkdir()
        (place / "runs" / name / "record.json").write_text(content)
    ended = run("runs")
    assert shown(ended)[0].startswith("good")
    assert ended.err.startswith("warning: left out: runs/half/record.json can't be read: ")
    assert "(and 2 more)" in ended.err
    ended = run("runs/other", status=1)
    assert ended.err.startswith("error: runs/other/record.json is not the record of a run (KeyError: 'metrics')")


# ---- ranking


def made(number: int, loss: float | None = 0.3, params: int = 100, **more: Any) -> Trial:
    values: dict[str, Any] = {"state": "complete", "number": number, "validation_loss": loss, "params": params}
    return Trial(str(more.get("study", "s")), str(number), {**values, "value": None, **more})


def numbers(trials: list[Trial]) -> list[Any]:
    return [each.values["number"] for each in trials]


def test_ties_are_broken_by_loss_then_parameters_then_study_and_number_whichever_way() -> None:
    trials = [
        made(6, 0.3, 500, value=2),
        made(5, 0.1, 900, value=1),
        made(4, 0.2, 100, value=1),
        made(3, 0.2, 200, value=1, study="a"),
        made(10, 0.2, 200, value=1, study="b"),
        made(9, 0.2, 200, value=1, study="b"),
        made(7, None, 1, value=1),
        made(8, 0.0, 1),  # without a value, however small its loss
    ]
    tied = [5, 4, 3, 9, 10, 7]
    for seed in range(5):
        shuffled = random.Random(seed).sample(trials, len(trials))
        assert numbers(ranked(shuffled, "value", descending=False)) == [*tied, 6, 8]
        assert numbers(ranked(shuffled, "value", descending=True)) == [6, *tied, 8]


def test_numbers_come_before_text_whichever_way() -> None:
    trials = [made(number, value=value) for number, value in enumerate(["b", 10, "a", 9.5, None, True])]
    assert numbers(ranked(trials, "value", descending=False)) == [5, 3, 1, 2, 0, 4]
    assert numbers(ranked(trials, "value", descending=True)) == [1, 3, 5, 0, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["one 2", "one 0", "one 1"]),
        (["--sort", "validation_accuracy"], ["one 0", "one 1", "one 2"]),
        (["--sort", "accuracy"], ["one 0", "one 1", "one 2"]),
        (["--sort", "accuracy", "--ascending"], ["one 2", "one 1", "one 0"]),
        (["--sort", "params"], ["one 1", "one 2", "one 0"]),
        (["--sort", "params", "--descending"], ["one 0", "one 2", "one 1"]),
        (["--sort", "model.width"], ["one 2", "one 1", "one 0"]),
        (["--sort", "trial", "--top", "2"], ["one 0", "one 1"]),
        (["--all"], ["one 2", "one 0", "one 1", "one 3"]),
        (["--all", "--sort", "state"], ["one 2", "one 0", "one 1", "one 3"]),
    ],
)
def test_a_column_says_which_way_is_better(
    place: Path, run: Compare, arguments: list[str], expected: list[str]
) -> None:
    trials = [
        trial(0, 0.99, 0.20, 3000, **{"model.width": 16}),
        trial(1, 0.98, 0.30, 1000, **{"model.width": 8}),
        trial(2, 0.97, 0.10, 2000, **{"model.width": 4}),
        trial(3, 0.50, 0.90, 500, state="pruned", **{"model.width": 2}),
    ]
    assert shown(run(study(place, trials), *arguments)) == expected


def test_the_order_is_called_one_of_merit_only_where_it_is_one(place: Path, run: Compare) -> None:
    one = study(
        place, [trial(0, 0.9, 0.3, 100, **{"model.width": 4}), trial(1, 0.8, 0.4, 50, **{"model.width": 8})]
    )
    assert "the best 2 of 2 completed trials by validation_loss, lowest first:" in run(one).out
    ended = run(one, "--sort", "accuracy", "--where", "params > 60")
    assert "the best 1 of 1 completed trials with params > 60 by validation_accuracy, highest first:" in ended.out
    assert (
        "the first 2 of 2 completed trials by params, highest first:"
        in run(one, "--sort", "params", "--descending").out
    )
    assert "what sets the first two apart:" in run(one, "--sort", "model.width").out


# ---- conditions

ROW = {
    "params": 9000,
    "validation_accuracy": 0.99,
    "macs": None,
    "model": "plain",
    "model.width": 8,
    "model.depth": "[1,2,2]",
    "optimizer.nesterov": True,
    "+odd name, `": 3,
    "+odd name": 3,
    "lambda.class": 1,
    "number": 7,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("params < 10000", True),
        ("params<9_000", False),
        ("10000 > params >= 9000", True),
        ("9000 < params < 10000", False),
        ("model.width > 8 or model == 'plain'", True),
        ("`model.width` == 8 and not model == 'residual'", True),
        ('model in ["plain", "residual"]', True),
        ("model not in ('residual',)", True),
        ("model.depth == [1, 2, 2]", True),
        ("model.depth in [[1,2,2], [1,1]]", True),
        ("optimizer.nesterov == true and optimizer.nesterov == True", True),
        ("optimizer.nesterov == 1", False),
        ("accuracy > 0.98 and trial == 7", True),
        ("params > -1", True),
        ("params == 9e3", True),
        ("`+odd name` == 3", True),
        ("`lambda.class` == 1", True),
        ("model == '`params`'", False),
        ("model < 3", False),
        ("model >= 'a'", True),
        ("[1] < [2]", False),
        ("params in [None, 9000]", True),
        # What is missing meets neither a comparison nor its opposite.
        ("macs < 5", False),
        ("not macs < 5", False),
        ("macs != 5", False),
        ("macs not in [5]", False),
        ("macs < 5 or params > 1", True),
        ("not (macs < 5 and params < 1)", True),
        ("macs == None and macs is null", True),
        ("params != None and params is not None", True),
    ],
)
def test_a_condition_holds_or_does_not(text: str, expected: bool) -> None:
    assert Condition(text, list(ROW))(ROW) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "params <",
        "params",
        "params = 3",
        "__import__('os').system('touch harmed')",
        "params < (lambda: 3)()",
        "params.__class__ == 3",
        "params < open('x')",
        "[x for x in (1, 2)] == 3",
        "params + 1 < 3",
        "params < 5 & macs > 3",
        "params < 10,000",
        "model in 'plain'",
        "model in model",
        "model == plain",
        "model.width[0] == 1",
        "f'{params}' == '1'",
        "(params := 3) == 3",
        "params == b'x'",
        "params < 3j",
        "params == {1: 2}",
        "params == ...",
        "`params < 3",
        "params < 3\0",
        "params.width().x == 3",
        "not " * 5000 + "params < 3",
        "(" * 300 + "params" + ")" * 300 + " < 3",
        "import os",
        "params < 3; params",
    ],
)
def test_what_is_no_condition_is_refused_in_a_line_that_names_the_columns(place: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="--where") as refused:
        Condition(text, list(ROW))
    message = str(refused.value)
    assert message.isprintable()
    assert "the columns are params, validation_accuracy, macs, model, " in message
    assert not list(place.iterdir())


def test_an_unknown_name_in_a_condition_is_answered_by_the_nearest(place: Path, run: Compare) -> None:
    one = study(place, [trial(0, 0.9, 0.3, 100, **{"model.width": 8})])
    for given, meant in (("parms", "params"), ("model.widht", "model.width"), ("width", "model.width")):
        ended = run(one, "--where", f"{given} < 3", status=1)
        assert ended.err.startswith(f"error: --where: '{given}' is not a column; did you mean {meant}?; ")
        assert ended.err.count("\n") == 1


def test_a_condition_chooses_rows_for_every_block_but_not_for_the_merged_table(place: Path, run: Compare) -> None:
    trials = [trial(number, 0.9, 0.1 + number / 100, 100 * number + 50) for number in range(6)]
    ended = run(study(place, trials), "--where", "params > 200")
    assert shown(ended) == ["one 2", "one 3", "one 4", "one 5"]
    assert lines(ended, "fewer parameters")[1][:3] == ["1,000", "one", "2"]
    assert lines(ended, "two apart")[0] == ["one", "2", "one", "3"]
    assert len(read_trials("outputs/compare.csv")) == 6
    ended = run("one", "--where", "params > 2000")
    assert "there are no completed trials with params > 2000" in ended.out


# ---- the best under each number of parameters


def test_the_best_under_a_number_of_parameters_has_fewer_and_is_the_best_of_those(
    place: Path, run: Compare
) -> None:
    trials = [
        trial(0, 0.99, 0.1, 20_000),
        trial(1, 0.98, 0.2, 19_999),
        trial(2, 0.97, 0.3, 5_000),
        trial(3, 0.96, 0.4, 4_999),
        trial(4, 0.95, 0.5, 1_000),
        trial(5, 0.94, 0.0, 10, state="pruned"),
    ]
    found = {words[0]: words[1:3] for words in lines(run(study(place, trials)), "fewer parameters")[1:]}
    expected = {"1,000": ["none"], "2,000": ["one", "4"], "5,000": ["one", "3"], "10,000": ["one", "2"]}
    assert found == {**expected, "20,000": ["one", "1"]}


def test_the_best_under_each_budget_is_what_a_search_through_all_finds() -> None:
    generator = random.Random(0)
    for _ in range(50):
        trials = [made(number, generator.random(), generator.randrange(1, 25_000)) for number in range(20)]
        for budget, found in best_under_budgets(
            judged(ranked(trials, "validation_loss", False), "validation_loss")
        ):
            within = [each for each in trials if each.figure("params") < budget]
            assert found == min(within, key=lambda each: each.figure("validation_loss"), default=None)


# ---- what sets the first two apart


def test_from_tables_alone_the_searched_parameters_that_differ_and_the_figures_are_set_side_by_side(
    place: Path, run: Compare
) -> None:
    same = {"model": "plain", "model.width": 8}
    trials = [
        trial(0, 0.95, 0.20, 1000, **same, **{"optimizer.lr": 0.100001, "model.depth": "[1,2]"}),
        trial(1, 0.96, 0.25, 900, seconds=3.25, **same, **{"optimizer.lr": 0.100002}),
    ]
    found = lines(run(table(place / "alone.csv", trials)), "two apart")
    assert found == [
        ["one", "0", "one", "1"],
        ["optimizer.lr", "0.100001", "0.100002"],
        ["model.depth", "[1,2]", "-"],
        ["validation_accuracy", "95.00%", "96.00%", "-1.00", "points"],
        ["validation_loss", "0.2000", "0.2500", "-0.05"],
        ["params", "1,000", "900", "+100"],
        ["macs", "10,000", "9,000", "+1,000"],
        ["seconds", "1.5", "3.2", "-1.8"],
    ]


def test_with_records_every_setting_that_differs_is_named_the_searched_ones_first(
    place: Path, run: Compare
) -> None:
    trials = [trial(number, 0.95, 0.2 + number, 1000, **{"model.width": 4 + number}) for number in (0, 1)]
    one = study(place, trials)
    for number in (0, 1):
        model, trainer = ModelConfig(width=4 + number), TrainerConfig(epochs=2 + number, threads=1 + number)
        recorded(one / f"trials/{number}", model=model, trainer=trainer)
    found = lines(run(one), "two apart")
    assert found[1:3] == [["model.width", "4", "5"], ["trainer.epochs", "2", "3"]]
    assert found[3] == ["validation_accuracy", "95.00%", "95.00%", "same"]


def test_two_trials_alike_are_said_to_be(place: Path, run: Compare) -> None:
    ended = run(study(place, [trial(number, 0.9, 0.3, 100, **{"model.width": 8}) for number in (0, 1)]))
    assert lines(ended, "two apart")[1] == ["no", "setting", "differs"]


@pytest.mark.parametrize(
    ("one", "other", "images", "error", "noise"),
    [
        # Root of 0.99 · 0.01 / 5000 + 0.98 · 0.02 / 5000, by hand: 0.002429.
        (0.99, 0.98, (5000, 5000), 0.0024290, False),
        (0.99, 0.988, (5000, 5000), 0.0020860, True),
        (0.5, 0.5, (100, 400), 0.0559017, True),
        (1.0, 1.0, (10, 10), 0.0, True),
        (1.0, 0.0, (10, 10), 0.0, False),
    ],
)
def test_the_standard_error_of_a_difference_is_that_of_two_binomials(
    one: float, other: float, images: tuple[int, int], error: float, noise: bool
) -> None:
    found = Chance((one, other), images)
    assert found.standard_error == pytest.approx(error, abs=1e-6)
    assert found.is_noise is noise
    turned = Chance((other, one), images[::-1])
    assert (turned.standard_error, turned.difference) == (found.standard_error, -found.difference)


def test_the_standard_error_is_the_spread_of_differences_between_equal_models() -> None:
    generator = torch.Generator().manual_seed(0)
    right = (torch.rand(2, 4000, 500, generator=generator) < 0.9).float().mean(2)
    spread = float((right[0] - right[1]).std())
    assert Chance((0.9, 0.9), (500, 500)).standard_error == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(("validation", "images"), [(5000, "5,000"), (0.1, "6,000"), (0.00001, "1"), (123, "123")])
def test_noise_is_judged_on_the_images_that_were_held_out(
    place: Path, run: Compare, validation: float, images: str
) -> None:
    one = study(place, [trial(0, 0.96, 0.2, 1000), trial(1, 0.95, 0.3, 900)])
    for number in (0, 1):
        recorded(one / f"trials/{number}", data=DataConfig(validation=validation))
    ended = " ".join(run(one).out.split())
    assert "validation_accuracy: 1.00 points are " in ended
    size = 60_000 * validation if 0.001 < validation < 1 else max(1, validation)
    error = 100 * math.sqrt((0.96 * 0.04 + 0.95 * 0.05) / int(size))
    side = "within" if error > 1 else "beyond"
    assert (
        f"points are {side} noise, one binomial standard error of the difference being {error:.2f} points" in ended
    )
    assert f"points on {images} images" in ended


def test_tested_runs_are_judged_on_the_test_images_and_choosing_by_them_is_warned_of(
    place: Path, run: Compare
) -> None:
    for name, test in (("a", 0.98), ("b", 0.97)):
        recorded(place / "runs" / name, None, test, data=DataConfig(validation=0))
    ended = run("runs", "--sort", "test_accuracy")
    assert lines(ended, "lowest first" if "lowest first" in ended.out else "highest first")[2][1] == "a"
    assert "test_accuracy: 1.00 points are beyond noise" in ended.out
    assert "on 10,000 images" in ended.out
    assert (
        ended.err == "warning: what is chosen by the test set has no fair test left: its figures here flatter it\n"
    )
    ended = run("runs")
    assert (
        "no completed trial has a value of validation_loss to rank it by; --sort takes other columns" in ended.out
    )
    assert "fewer parameters" not in ended.out


def test_of_an_image_folder_nobody_knows_how_many_a_part_is(place: Path, run: Compare) -> None:
    one = study(place, [trial(0, 0.96, 0.2, 1000), trial(1, 0.95, 0.3, 900)])
    for number in (0, 1):
        data = DataConfig(name=DataName.image_folder, root="photos", validation=0.1)
        recorded(one / f"trials/{number}", 0.9, 0.9, data=data)
    assert "noise" not in run(one).out


# ---- what can't be ranked fairly


@pytest.mark.parametrize(
    ("mine", "theirs", "fair"),
    [
        (DataConfig(), DataConfig(root="elsewhere", limit=64), True),
        (DataConfig(), DataConfig(validation=10_000), False),
        (DataConfig(), DataConfig(validation=0.1), False),
        (DataConfig(), DataConfig(split_seed=1), False),
        (DataConfig(), DataConfig(name=DataName.kmnist), False),
        (DataConfig(), DataConfig(validation=0), True),  # has no figures that could be compared
        (
            DataConfig(name=DataName.image_folder, root="a"),
            DataConfig(name=DataName.image_folder, root="b"),
            False,
        ),
    ],
)
def test_judging_on_other_images_is_warned_of(
    place: Path, run: Compare, mine: DataConfig, theirs: DataConfig, fair: bool
) -> None:
    one = study(place, [trial(0, 0.96, 0.2, 1000), trial(1, 0.96, 0.2, 1000)])
    recorded(one / "trials/1", data=mine)  # the folder of the other is gone
    recorded(place / "runs/a", data=theirs)
    ended = run("one", "runs")
    warned = ended.err.startswith("warning: validation figures of different images can't be ranked fairly: ")
    assert warned is not fair
    assert ended.err.count("\n") == (not fair)
    if not fair:
        assert "(one)" in ended.err
        assert "(a)" in ended.err


def test_other_objectives_are_warned_of_and_named(place: Path, run: Compare) -> None:
    study(place, [trial(0, 0.96, 0.2, 1000)])
    assert not run("one").err
    for number in range(6):
        study(place, [trial(0, 0.9, 0.3, 900, objective="validation_accuracy;params")], f"pareto{number}")
    ended = run("one", *sorted(place.glob("pareto*")))
    objectives = "validation_accuracy;params (pareto0, pareto1, pareto2, pareto3 and 2 more)"
    assert ended.err == (
        "warning: the studies aimed at different objectives, and one ranking favours some: "
        f"validation_loss (one); {objectives}\n"
    )


# ---- few trials, many trials, odd ones


def test_an_empty_study_is_no_error(place: Path, run: Compare) -> None:
    study(place, [], searched=["model.width"])
    ended = run("one")
    assert lines(ended, "0 trials") == []
    assert ended.out.startswith("one  0 trials")
    assert "there are no completed trials\n\nmerged table: outputs/compare.csv (rows: 0, columns: 17)" in ended.out
    assert "there are no trials" in run("one", "--all").out


def test_a_study_of_failures_alone_is_no_error(place: Path, run: Compare) -> None:
    failures = [trial(number, None, None, 100, state="failed", reason="diverged") for number in range(3)]
    study(
        place, [*failures, trial(3, None, None, 9, state="over_budget"), trial(4, None, None, 9, state="running")]
    )
    ended = run("one")
    assert ended.out.startswith("one  5 trials  1 running, 3 failed, 1 over budget  one\n")
    assert "there are no completed trials" in ended.out
    ended = run("one", "--all", "--columns", "state,reason")
    assert "1  one 3  over_budget  -" in ended.out
    assert "failed       diverged" in ended.out


def test_a_single_trial_has_no_runner_up(place: Path, run: Compare) -> None:
    ended = run(study(place, [trial(0, 0.9, 0.3, 100)]))
    assert "one 0 is the only one, so there is no runner-up to set it against" in ended.out


def test_ten_thousand_trials_are_compared_within_seconds(place: Path, run: Compare) -> None:
    generator = random.Random(0)
    trials = [
        trial(number, generator.random(), generator.random(), generator.randrange(1, 30_000),
              **{"optimizer.lr": generator.random(), "model": generator.choice("ab")}) for number in range(10_000)
    ]  # fmt: skip
    one = study(place, trials)
    began = time.perf_counter()
    ended = run(one, "--where", "params < 20000 and model == 'a' and optimizer.lr > 0.1")
    assert time.perf_counter() - began < 5
    met = [
        each for each in trials if each["params"] < 20000 and each["model"] == "a" and each["optimizer.lr"] > 0.1
    ]
    assert f"the best 10 of {len(met):,} completed" in ended.out
    best = min(met, key=lambda each: float(each["validation_loss"]))
    assert shown(ended)[0] == f"one {best['number']}"


def test_hostile_names_are_printed_without_what_makes_them_so(place: Path, run: Compare) -> None:
    name = f'a,b"c{ESCAPES}'
    trials = [
        trial(number, 0.9, 0.3 + number, 100, **{f"+odd,\n{ESCAPES}": f"{ESCAPES}{number}", "=x": "=SUM(A1)"})
        for number in (0, 1)
    ]
    table(place / "hostile.csv", trials, name)
    for arguments in (["--where", "params > 3"], ["--all", "--columns", "study,=x"], ["--sort", "=x"]):
        ended = run("hostile.csv", *arguments)
        assert ended.out.replace("\n", "").isprintable()
        assert 'a,b"c[31mred[0m 0' in ended.out
    ended = run("hostile.csv", "--where", f"{ESCAPES} < 3", status=1)
    assert ended.err.rstrip("\n").isprintable()
    merged = read_trials("outputs/compare.csv")
    assert merged.study.tolist() == [name, name]
    assert merged[f"+odd,\n{ESCAPES}"].tolist() == [f"{ESCAPES}0", f"{ESCAPES}1"]
    quoted = f'"+odd,\n{ESCAPES}",params'
    assert "[31mred[0m1" in run("hostile.csv", "--columns", quoted).out


def test_figures_that_no_training_gives_are_shown_and_ranked_all_the_same(place: Path, run: Compare) -> None:
    trials = [trial(at, 0.9, loss, 100) for at, loss in enumerate([math.inf, 0.5, math.nan])]
    study(place, [*trials, trial(3, 99.2, 0.1, 2**55), trial(4, 0.9, 0.2, 100)])
    for number in (3, 4):
        recorded(place / f"one/trials/{number}")
    ended = run("one")
    assert shown(ended) == ["one 3", "one 4", "one 1", "one 0", "one 2"]
    assert "standard error" not in ended.out
    (place / "huge.csv").write_text((place / "one/trials.csv").read_text().replace(str(2**55), "9" * 30))
    assert "error: huge.csv can't be read as a table of trials: " in run("huge.csv", status=1).err


def test_a_table_can_come_through_a_pipe(place: Path, run: Compare) -> None:
    text = table(place / "a.csv", [trial(0, 0.9, 0.3, 100)]).read_bytes()
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    assert shown(run(f"/dev/fd/{reading}")) == ["one 0"]
    os.close(reading)


def test_names_of_files_that_are_no_unicode_do_no_harm(place: Path, run: Compare) -> None:
    folder = Path(os.fsdecode(b"runs/\xff"))
    recorded(place / "runs/a").rename(place / folder)
    assert "runs" in run("runs").out
    assert read_trials("outputs/compare.csv").folder.tolist() == ["runs/\\udcff"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-8", -8),
        ("1e-05", 1e-05),
        ("8.0", 8.0),
        ("True", True),
        ("false", False),
        ("plain", "plain"),
        ("[1,2]", "[1,2]"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_parameter_is_read_as_what_it_was(text: str, value: Any) -> None:
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)


# ---- the terminal


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 500])
def test_the_tables_keep_to_the_terminal_and_name_what_they_leave_out(
    place: Path, run: Compare, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    names = [f"section{number}.parameter{number}" for number in range(8)]
    trials = [trial(at, 0.9, 0.3, 100, **dict.fromkeys(names[::-1], at)) for at in range(3)]
    monkeypatch.setenv("COLUMNS", str(width))
    ended = run(study(place, trials))
    block = next(block for block in ended.out.split("\n\n") if " first:" in block).split("\n")[1:]
    assert max(map(len, block)) <= width
    above, _, below = " ".join(block).partition("no room for ")
    figures = ["accuracy", "loss", "params", "MACs", "seconds"]
    every = [*figures, *(name.partition(".")[2] for name in names[::-1])]
    there = [name for name in every if name in above.split()]
    assert there == every[: len(there)]
    listed, _, more = below.partition(";")[0].partition(" and ")
    left_out = len(listed.split(", ")) + int(more.partition(" ")[0] or 0) if below else 0
    assert len(there) + left_out == len(every)
    assert (left_out > 0) == (width < 200)


def test_columns_that_are_asked_for_are_shown_whatever_their_width(
    place: Path, run: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    study(place, [trial(0, 0.9876, 0.12345, 1234567, **{"model.width": 8.0})])
    found = lines(run("one", "--columns", "params, accuracy,model.width,folder"), " first:")
    assert found == [
        ["model."],
        ["trial", "params", "accuracy", "width", "folder"],
        ["1", "one", "0", "1,234,567", "98.76%", "8", "one/trials/0"],
    ]


def test_parameters_that_differ_come_first_and_empty_columns_are_left_out(place: Path, run: Compare) -> None:
    table(place / "a.csv", [trial(at, 0.9, 0.3, 100, **{"same": 1, "differ": at}) for at in (0, 1)])
    table(place / "b.csv", [trial(0, None, None, 100, state="failed", other=1)], "two")
    found = lines(run("a.csv", "b.csv"), " first:")
    assert found[0] == ["trial", "accuracy", "loss", "params", "MACs", "seconds", "differ", "same"]


# ---- what is refused


@pytest.mark.parametrize(
    "text", ["accuracy > 99", "params < 9 and 98.5 <= validation_accuracy", "not accuracy in [0.9, 99]"]
)
def test_a_percentage_of_what_is_a_part_of_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"accuracy is a part of one, from 0 to 1; write 0\.\d+ for [\d.]+%"):
        Condition(text, ["validation_accuracy", "params"])
    Condition("accuracy > 0.99 and accuracy <= 1 and params > 99", ["validation_accuracy", "params"])


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_table_that_is_separated_otherwise_is_refused_with_what_to_do(
    place: Path, run: Compare, sign: str
) -> None:
    table = study(place, [trial(0, 0.9, 0.3, 100)]) / "trials.csv"
    table.write_text(table.read_text().replace(",", sign))
    said = (
        f"{table} can't be read as a table of trials: its columns are separated by {sign!r}; save it with commas"
    )
    assert run(str(table), status=1).err.startswith(f"error: {said}")
    with pytest.raises(DataError, match="save it with commas"):
        from_table(table)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere doesn't exist; give the folder of a study, a trials.csv, "),
        (["empty"], "empty holds neither trials.csv nor record.json; give the folder of a study"),
        (["n" * 300], "n can't be read: File name too long"),
        (["notes.csv"], "notes.csv is not a table of trials: it lacks study, number, state, "),
        (["nothing.csv"], "nothing.csv can't be read as a table of trials: No columns to parse from file"),
        (["binary.csv"], "binary.csv can't be read as a table of trials: "),
        (["broken.csv"], "broken.csv can't be read as a table of trials: "),
        (["one", "--top", "0"], "--top=0 must be at least 1 (trials to show)"),
        (
            ["one", "--sort", "widht"],
            "--sort: 'widht' is not a column; did you mean model.width?; the columns are st",
        ),
        (["one", "--sort", ""], "--sort: '' is not a column; the columns are study, number"),
        (["one", "--columns", "params,zzz"], "--columns: 'zzz' is not a column; the columns are study"),
        (["one", "--csv", "one/trials.csv"], "--csv=one/trials.csv must have another name than a study's own tri"),
        (["one", "--csv", "empty"], "--csv=empty must name a file, and is a folder"),
        (["one", "--csv", "notes.csv/x.csv"], "--csv=notes.csv/x.csv can't be written: "),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    place: Path, run: Compare, arguments: list[str], said: str
) -> None:
    study(place, [trial(0, 0.9, 0.3, 100, **{"model.width": 8})])
    (place / "empty").mkdir()
    (place / "notes.csv").write_text("a,b\n1,2\n")
    (place / "nothing.csv").touch()
    (place / "binary.csv").write_bytes(bytes(range(256)) * 9)
    text = (place / "one/trials.csv").read_text()
    (place / "broken.csv").write_text(text.replace(",100,", ",a hundred,"))
    before = sorted(place.rglob("*"))
    ended = run(*arguments, status=1)
    assert said in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert not ended.out
    assert sorted(place.rglob("*")) == before
    assert (place / "one/trials.csv").read_text() == text


def test_both_ways_at_once_and_no_path_are_refused(run: Compare) -> None:
    assert "not allowed with" in run("x", "--ascending", "--descending", status=2).err
    assert "PATH" in run(status=2).err


# ---- the command itself


def test_the_help_shows_examples_that_work(place: Path, run: Compare) -> None:
    for name in ("quick", "wide"):
        study(place / "outputs/sweeps", [trial(0, 0.9, 0.3, 100, **{"model.width": 8, "model": "plain"})], name)
        table(place / f"{name[0]}.csv", [trial(0, 0.9, 0.3, 100)])
    (place / "q.csv").rename("a.csv")
    (place / "w.csv").rename("b.csv")
    text = run("--help").out
    examples = [line.strip() for line in text.split("\n") if line.startswith("    tinysweep-compare ")]
    assert len(examples) >= 5
    for example in examples:
        assert " trial" in run(*shlex.split(example)[1:]).out


def test_neither_help_nor_comparison_imports_torch_and_help_nothing_heavy(place: Path) -> None:
    one = study(place, [trial(0, 0.9, 0.3, 100)])
    recorded(place / "runs/a")
    program = (
        "import sys; from tinysweep.commands import compare\n"
        "sys.argv = ['tinysweep-compare', *sys.argv[1:]]\n"
        "try: compare.main()\n"
        "finally: print([name for name in ('torch', 'pandas', 'optuna') if name in sys.modules])"
    )
    for arguments, heavy in ((["--help"], "[]"), (["nowhere"], "[]"), ([one, "runs"], "['pandas', 'optuna']")):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
        )
        assert done.stdout.endswith(f"{heavy}\n")
