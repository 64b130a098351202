"""tinysweep-compare: what is filtered, ranked, set apart and said, and what is refused."""

import math
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from made_tables import recorded, study, table, trial

from conftest import Command, Ended
from tinysweep.commands import compare
from tinysweep.results.compare import Order, rank
from tinysweep.results.fair import standard_error
from tinysweep.results.merge import Merged
from tinysweep.search.table import COLUMNS, read_trials
from tinysweep.settings.schema import DataConfig, DataName, ModelConfig, TrainerConfig

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


def lines(ended: Ended, title: str) -> list[list[str]]:
    """The words of each line below a title, up to the blank line."""
    block = next(block for block in ended.out.split("\n\n") if title in block)
    return [line.split() for line in block.split("\n")[1:]]


def shown(ended: Ended) -> list[str]:
    """The names of the ranked trials."""
    return [" ".join(words[1:3]) for words in lines(ended, " first:") if words[0].isdigit()]


# ---- ranking


def merged(rows: list[dict[str, Any]]) -> Merged:
    """Rows of trials, each of the study that its "study" names, with a parameter "value" as text."""
    filled = [{**dict.fromkeys(COLUMNS), "state": "complete", "study": "s", "value": None, **row} for row in rows]
    frame = pd.DataFrame(filled, dtype=object).astype({**COLUMNS, "value": "string"})
    names = frame.study + " " + frame.number.astype("string")
    alike = pd.Series(pd.NA, frame.index, dtype="string")
    return Merged(frame, frame.study.astype(object), names.astype(object), alike, {}, 0, [])


def in_order(rows: list[dict[str, Any]], column: str, descending: bool) -> list[int]:
    made = merged(rows)
    numbers: list[int] = rank(made.frame, made, Order(column, descending)).number.tolist()
    return numbers


def test_ties_are_broken_by_loss_then_parameters_then_study_and_number_whichever_way() -> None:
    names = ("number", "validation_loss", "params", "value", "study")
    rows = [
        (6, 0.3, 500, "2", "s"),
        (5, 0.1, 900, "1", "s"),
        (4, 0.2, 100, "1", "s"),
        (3, 0.2, 200, "1", "a"),
        (10, 0.2, 200, "1", "b"),
        (9, 0.2, 200, "1", "b"),
        (7, None, 1, "1", "s"),
        (8, 0.0, 1, None, "s"),  # without a value, however small its loss
    ]
    tied = [5, 4, 3, 9, 10, 7]
    for seed in range(3):
        shuffled = [dict(zip(names, row, strict=True)) for row in random.Random(seed).sample(rows, len(rows))]
        assert in_order(shuffled, "value", descending=False) == [*tied, 6, 8]
        assert in_order(shuffled, "value", descending=True) == [6, *tied, 8]


def test_numbers_come_before_text_and_what_is_missing_last_whichever_way() -> None:
    rows = [{"number": number, "value": value} for number, value in enumerate(["b", "10", "a", "9.5", None])]
    assert in_order(rows, "value", descending=False) == [3, 1, 2, 0, 4]
    assert in_order(rows, "value", descending=True) == [1, 3, 0, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "title", "expected"),
    [
        ([], "best 3 of 3 completed trials by validation_loss, lowest first", [2, 0, 1]),
        (["--sort", "accuracy"], "best 3 of 3 completed trials by validation_accuracy, highest first", [0, 1, 2]),
        (["--sort", "accuracy", "--ascending"], "first 3 of 3", [2, 1, 0]),
        (["--sort", "params"], "best 3 of 3 completed trials by params, lowest first", [1, 2, 0]),
        (["--sort", "params", "--descending"], "first 3 of 3 completed trials by params, highest", [0, 2, 1]),
        (["--sort", "model.width"], "first 3 of 3", [2, 1, 0]),
        (["--sort", "trial", "--top", "2"], "first 2 of 3", [0, 1]),
        (["--all", "--sort", "state"], "first 4 of 4 trials", [2, 0, 1, 3]),
        (["--where", "params > 1500"], "best 2 of 2 completed trials with params > 1500 by", [2, 0]),
    ],
)
def test_a_column_says_which_way_is_better_and_whether_its_order_is_one_of_merit(
    place: Path, run: Compare, arguments: list[str], title: str, expected: list[int]
) -> None:
    trials = [
        trial(0, 0.99, 0.20, 3000, **{"model.width": 16}),
        trial(1, 0.98, 0.30, 1000, **{"model.width": 8}),
        trial(2, 0.97, 0.10, 2000, **{"model.width": 4}),
        trial(3, 0.50, 0.90, 500, state="pruned", **{"model.width": 2}),
    ]
    ended = run(study(place, trials), *arguments)
    assert f"the {title}" in ended.out
    assert shown(ended) == [f"one {number}" for number in expected]
    assert f"what sets the {title.partition(' ')[0]} two apart:" in ended.out


def test_a_condition_chooses_rows_for_every_block_but_not_for_the_merged_table(place: Path, run: Compare) -> None:
    trials = [trial(number, 0.9, 0.1 + number / 100, 100 * number + 50) for number in range(6)]
    ended = run(study(place, trials), "--where", "params > 200")
    assert shown(ended) == ["one 2", "one 3", "one 4", "one 5"]
    assert lines(ended, "fewer parameters")[1][:3] == ["1,000", "one", "2"]
    assert lines(ended, "two apart")[0] == ["one", "2", "one", "3"]
    assert len(read_trials("outputs/compare.csv")) == 6
    ended = run("one", "--where", "params > 2000")
    assert "there are no completed trials with params > 2000" in ended.out


def test_a_merged_table_can_be_compared_again_and_gives_itself(place: Path, run: Compare) -> None:
    study(place / "sweeps", [trial(0, 0.9, 0.3, 100, **{"model.width": 8}), trial(1, 0.8, 0.4, 90)])
    recorded(place / "runs/a", test=0.98, model=ModelConfig(width=4))
    recorded(place / "runs/b", test=None, model=ModelConfig(width=6))
    first = run("sweeps", "runs", "--csv", "first.csv")
    again = run("first.csv", "--csv", "made/second.csv")
    assert Path("made/second.csv").read_bytes() == Path("first.csv").read_bytes()
    assert shown(again) == shown(first)
    both = run("first.csv", "sweeps", "runs", "--csv", "third.csv")
    assert Path("third.csv").read_bytes() == Path("first.csv").read_bytes()
    assert "4 more" in both.out


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
        ["model.depth", "[1,2]", "–"],
        ["validation_accuracy", "95.00%", "96.00%", "-1.00", "points"],
        ["validation_loss", "0.2000", "0.2500", "-0.05"],
        ["params", "1,000", "900", "+100"],
        ["macs", "10,000", "9,000", "+1,000"],
        ["seconds", "1.5", "s", "3.2", "s", "-1.8", "s"],
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


def test_two_trials_alike_are_said_to_be_and_a_single_one_has_no_runner_up(place: Path, run: Compare) -> None:
    ended = run(study(place, [trial(number, 0.9, 0.3, 100, **{"model.width": 8}) for number in (0, 1)]))
    assert lines(ended, "two apart")[1] == ["no", "setting", "differs"]
    ended = run("one", "--where", "trial == 0")
    assert "one 0 is the only one, so there is no runner-up to set it against" in ended.out


def test_the_standard_error_is_the_spread_of_differences_between_equal_models() -> None:
    assert standard_error((0.99, 0.98), (5000, 5000)) == pytest.approx(0.0024290, abs=1e-6)  # by hand
    generator = torch.Generator().manual_seed(0)
    right = (torch.rand(2, 4000, 500, generator=generator) < 0.9).float().mean(2)
    spread = float((right[0] - right[1]).std())
    assert standard_error((0.9, 0.9), (500, 500)) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(("validation", "images"), [(5000, "5,000"), (0.1, "6,000"), (0.00001, "1"), (123, "123")])
def test_noise_is_judged_on_the_images_that_were_held_out(
    place: Path, run: Compare, validation: float, images: str
) -> None:
    one = study(place, [trial(0, 0.96, 0.2, 1000), trial(1, 0.95, 0.3, 900)])
    for number in (0, 1):
        recorded(one / f"trials/{number}", data=DataConfig(validation=validation))
    ended = " ".join(run(one).out.split())
    error = 100 * math.sqrt((0.96 * 0.04 + 0.95 * 0.05) / int(images.replace(",", "")))
    side = "within" if error > 1 else "beyond"
    assert (
        f"validation_accuracy: 1.00 points are {side} noise, one binomial standard error of the difference being "
        f"{error:.2f} points on {images} images" in ended
    )


def test_tested_runs_are_judged_on_the_test_images_and_choosing_by_them_is_warned_of(
    place: Path, run: Compare
) -> None:
    for name, test in (("a", 0.98), ("b", 0.97)):
        recorded(place / "runs" / name, None, test, data=DataConfig(validation=0))
    ended = run("runs", "--sort", "test_accuracy")
    assert shown(ended)[0].startswith("a")
    assert "test_accuracy: 1.00 points are beyond noise" in ended.out
    assert "on 10,000 images" in ended.out
    assert (
        ended.err == "warning: what is chosen by the test set has no fair test left: its figures here flatter it\n"
    )
    ended = run("runs")
    no_value = "no completed trial has a value of validation_loss to rank it by; --sort takes other columns"
    assert no_value in ended.out
    assert "fewer parameters" not in ended.out


# ---- what can't be ranked fairly

PHOTOS = DataName.image_folder


@pytest.mark.parametrize(
    ("mine", "theirs", "fair"),
    [
        (DataConfig(), DataConfig(root="elsewhere"), True),
        (DataConfig(), DataConfig(validation=10_000), False),
        (DataConfig(), DataConfig(validation=0.1), False),
        (DataConfig(), DataConfig(split_seed=1), False),
        (DataConfig(), DataConfig(fold=1), False),
        (DataConfig(), DataConfig(name=DataName.kmnist), False),
        (DataConfig(), DataConfig(validation=0), True),  # has no figures that could be compared
        (DataConfig(name=PHOTOS, root="a"), DataConfig(name=PHOTOS, root="b"), False),
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
    if mine.name == PHOTOS:  # nobody knows how many images a part of a folder is
        assert "standard error" not in ended.out


def test_a_sweep_over_two_data_sets_is_warned_of_and_shows_which_a_trial_is_of(place: Path, run: Compare) -> None:
    names = [DataName.mnist, DataName.fashion_mnist, DataName.mnist]
    trials = [
        trial(at, 0.9, 0.3, 100, **{"model.width": 4 + at, "data": str(name)}) for at, name in enumerate(names)
    ]
    one = study(place, trials)
    said = "warning: validation figures of different images can't be ranked fairly: "
    ended = run(one)
    assert ended.err == f"{said}data=mnist (one); data=fashion_mnist (one)\n"
    assert lines(ended, " first:")[1][-2:] == ["data", "width"]
    for at, name in enumerate(names):
        recorded(one / f"trials/{at}", data=DataConfig(name=name, validation=500))
    of = "500 images of {}, data.split_seed=0 (one)"
    assert run(one).err == f"{said}{of.format('mnist')}; {of.format('fashion_mnist')}\n"
    assert not run(one, "--where", "data == 'mnist'").err
    other = [trial(at, 0.9, 0.3, 100, **{"data.limit": 100 + at}) for at in (0, 1)]
    assert not run(study(place, other, "limited")).err, "its trials are judged on the same images"


def test_training_longer_or_on_fewer_images_is_warned_of_once_with_the_values(place: Path, run: Compare) -> None:
    limits = [trial(at, 0.9, 0.3, 100, **{"data.limit": 100 + at}) for at in (0, 1)]
    study(place, limits, "limited")
    recorded(place / "runs/a")
    recorded(place / "runs/b", data=DataConfig(limit=64))
    long = study(place, [trial(0, 0.96, 0.2, 1000, epochs=20), trial(1, None, None, 9, state="failed")], "long")
    said = "warning: trained differently, so that a better figure needn't mean a better model: "
    assert run("runs/a", "long").err == f"{said}trainer.epochs=20 (long); trainer.epochs=1 (a)\n"
    assert run("runs").err == f"{said}data.limit=null (a); data.limit=64 (b)\n"
    assert run("limited", "runs/b").err == f"{said}data.limit=100, 101 (limited); data.limit=64 (b)\n"
    assert not run("limited").err, "a study that searches over it differs within itself"
    assert not run(long, "runs/a", "--where", "params > 900").err, "only what is compared counts"


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


def test_neither_an_empty_study_nor_one_of_failures_is_an_error(place: Path, run: Compare) -> None:
    study(place, [], "empty", searched=["model.width"])
    ended = run("empty")
    assert ended.out.startswith("empty  0 trials")
    assert "there are no completed trials\n\nmerged table: outputs/compare.csv (rows: 0, columns: 20)" in ended.out
    assert "there are no trials" in run("empty", "--all").out
    trials = [trial(number, None, None, 100, state="failed", reason="diverged") for number in range(3)]
    trials += [trial(3, None, None, 9, state="over_budget"), trial(4, None, None, 9, state="running")]
    study(place, trials)
    ended = run("one", "--all", "--columns", "state,reason")
    assert ended.out.startswith("one  5 trials  1 running, 3 failed, 1 over budget  one\n")
    assert "1  one 3  over_budget  –" in ended.out
    assert "failed       diverged" in ended.out


def test_ten_thousand_trials_are_compared_within_seconds(place: Path, run: Compare) -> None:
    generator = random.Random(0)
    trials = [
        trial(number, generator.random(), generator.random(), generator.randrange(1, 30_000),
              **{"optimizer.lr": generator.random(), "model": generator.choice("ab")}) for number in range(10_000)
    ]  # fmt: skip
    one = study(place, trials)
    began = time.process_time()
    ended = run(one, "--where", "params < 20000 and model == 'a' and optimizer.lr > 0.1")
    assert time.process_time() - began < 5
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


def test_names_of_files_that_are_no_unicode_do_no_harm(place: Path, run: Compare) -> None:
    folder = Path(os.fsdecode(b"runs/\xff"))
    recorded(place / "runs/a").rename(place / folder)
    assert "runs" in run("runs").out
    assert read_trials("outputs/compare.csv").folder.tolist() == ["runs/\\udcff"]


# ---- the terminal


@pytest.mark.parametrize("width", [40, 80, 140, 500])
def test_the_tables_keep_to_the_terminal_and_name_what_they_leave_out(
    place: Path, run: Compare, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    names = [f"section{number}.parameter{number}" for number in range(8)]
    trials = [trial(at, 0.9, 0.3, 100, **dict.fromkeys(names[::-1], at)) for at in range(3)]
    monkeypatch.setenv("COLUMNS", str(width))
    ended = run(study(place, trials))
    block = next(block for block in ended.out.split("\n\n") if " first:" in block).split("\n")[1:]
    assert max(map(len, ended.out.split("\n"))) <= width
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
    found = lines(run("one", "--columns", "params, accuracy,model.width,folder"), "model.")
    assert found[-3:] == [
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
            "--sort: 'widht' is not a column; did you mean model.width?; the",
        ),
        (["one", "--sort", ""], "--sort: '' is not a column; the columns are study, number"),
        (["one", "--columns", "params,zzz"], "--columns: 'zzz' is not a column; the columns are study"),
        (
            ["one", "--where", "parms < 3"],
            "--where: 'parms' is not a column; did you mean params?; text needs",
        ),
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
    assert "not allowed with" in run("x", "--ascending", "--descending", status=2).err
    assert "PATH" in run(status=2).err


def test_neither_help_nor_comparison_imports_torch_and_help_nothing_heavy(place: Path) -> None:
    one = study(place, [trial(0, 0.9, 0.3, 100)])
    recorded(place / "runs/a")
    program = (
        "import sys; from tinysweep.commands import compare\n"
        "sys.argv = ['tinysweep-compare', *sys.argv[1:]]\n"
        "try: compare.main()\n"
        "finally: print([name for name in ('torch', 'pandas', 'optuna') if name in sys.modules])"
    )
    for arguments, heavy in ((["--help"], "[]"), ([one, "runs"], "['pandas', 'optuna']")):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
        )
        assert done.stdout.endswith(f"{heavy}\n")


@pytest.mark.parametrize(
    ("aims", "by"),
    [
        (["validation_macro_f1"] * 2, "validation_macro_f1, highest first"),
        (["validation_mine", "validation_mine;params"], "validation_mine, highest first"),
        (["validation_macro_f1", "validation_accuracy"], "validation_loss, lowest first"),
        (["params"] * 2, "validation_loss, lowest first"),
    ],
)
def test_studies_that_aim_for_the_same_are_ranked_by_it(
    place: Path, command: Command, aims: list[str], by: str
) -> None:
    for name, aim in zip(("one", "two"), aims, strict=True):
        figures = {"validation_macro_f1": 0.7, "validation_mine": -2.5, "objective": aim}
        study(place, [trial(0, 0.9, 0.3, 100, **figures)], name)
    ended = command("one", "two", main=compare.main)
    assert f"by {by}" in ended.out, ended.err
    assert by.startswith("validation_loss") or by.partition("validation_")[2][:4] in ended.out.split(f"by {by}")[1]
