"""The grammar of a sweep: which distributions a search reads from it, what it refuses, and a grid's points."""

import itertools
import random
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.errors import ConfigError
from tinysweep.search.space import (
    Points,
    Space,
    Value,
    extremes,
    grid,
    is_setting,
    parse,
    read_space,
    read_start,
    unquoted,
)
from tinysweep.search.study import STATES, Status
from tinysweep.settings.explain import settings

Point = dict[str, Value]
LR = "optimizer.lr"
WIDTH = "model.width"


def points(*arguments: str) -> list[dict[str, object]]:
    return [dict(point) for point in grid(read_space(None, list(arguments)))]


def levels(sweep: str) -> list[object]:
    """The values of one parameter in a grid."""
    (name,) = read_space(None, [sweep]).searched
    return [point[name] for point in points(sweep)]


# ---- the grammar


@pytest.mark.parametrize(
    ("sweep", "distribution"),
    [
        ("model.width=choice(4,8)", CategoricalDistribution((4, 8))),
        ("model.width=4,8,16", CategoricalDistribution((4, 8, 16))),
        ("model.width=auto,8", CategoricalDistribution(("auto", 8))),
        ("optimizer.lr=1e-3,0.01", CategoricalDistribution((0.001, 0.01))),
        ("optimizer.nesterov=true,false", CategoricalDistribution((True, False))),
        ("optimizer.name=sgd,adamw", CategoricalDistribution(("sgd", "adamw"))),
        ("model=plain,residual", CategoricalDistribution(("plain", "residual"))),
        ("experiment=null,era_seed", CategoricalDistribution(("null", "era_seed"))),
        ("model.depth=[1,1],[1,2,1]", CategoricalDistribution(("[1,1]", "[1,2,1]"))),
        ("model.depth=choice([1,1],[1,2,1])", CategoricalDistribution(("[1,1]", "[1,2,1]"))),
        ("model.width=sort(9,3,1)", CategoricalDistribution((1, 3, 9))),
        ("model.width=range(4,9)", IntDistribution(4, 8)),
        ("model.width=range(4,9,2)", IntDistribution(4, 8, step=2)),
        ("model.width=range(9,4,-1)", IntDistribution(5, 9)),
        ("optimizer.lr=range(0.5,2.0,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("optimizer.lr=interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("optimizer.lr=tag(log,interval(0.01,1))", FloatDistribution(0.01, 1.0, log=True)),
        ("data.validation=interval(10,100)", FloatDistribution(10.0, 100.0)),
    ],
)
def test_a_sweep_becomes_the_distribution_that_it_describes(
    sweep: str, distribution: CategoricalDistribution | IntDistribution | FloatDistribution
) -> None:
    assert read_space(None, [sweep]) == Space({sweep.partition("=")[0]: distribution}, [])


@pytest.mark.parametrize(
    ("sweep", "distribution"),
    [
        ("interval(4,9)", IntDistribution(4, 9)),
        ("interval(4.0,9.0)", IntDistribution(4, 9)),
        ("interval(1,1e3)", IntDistribution(1, 1000)),
        ("tag(log,interval(4,64))", IntDistribution(4, 64, log=True)),
        ("range(1.0,4.0)", IntDistribution(1, 3)),
    ],
)
@pytest.mark.parametrize("name", ["trainer.epochs", WIDTH, "data.limit"])
def test_an_interval_of_a_setting_that_takes_whole_numbers_has_only_those(
    name: str, sweep: str, distribution: IntDistribution
) -> None:
    assert read_space({name: sweep}, []).searched == {name: distribution}


@pytest.mark.parametrize("sweep", ["shuffle(range(1,9))", "shuffle(1,2,3,4,5,6,7,8)"])
def test_a_shuffled_sweep_has_the_same_values_in_an_order_of_its_own(sweep: str) -> None:
    found = read_space(None, [f"trainer.epochs={sweep}"]).searched["trainer.epochs"]
    assert isinstance(found, CategoricalDistribution)
    assert sorted(extremes(found), key=int) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert levels("trainer.epochs=choice(3,1,2)") == [3, 1, 2], "a grid follows the order that is written"


@pytest.mark.parametrize(
    "argument",
    [
        "model.width=8",
        "model=plain",
        "model.depth=[1,1]",
        "~experiment",
        "data.limit=null",
        "+experiment=era_seed",
    ],
)
def test_what_is_no_sweep_is_shared_by_every_trial(argument: str) -> None:
    assert read_space(None, [argument]) == Space({}, [argument])


def test_null_is_a_choice_that_reads_back_as_null() -> None:
    (name,) = (space := read_space(None, ["data.limit=null,100"])).searched
    assert [parse(name, value) for value in extremes(space.searched[name])] == [None, 100]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model.depth", "[1,2]", [1, 2]),
        (WIDTH, "auto", "auto"),
        (LR, 1e-7, 1e-7),
        ("optimizer.nesterov", True, True),
        ("model", "'plain'", "plain"),
        ("scheduler.name", '"step"', "step"),
    ],
)
def test_a_drawn_value_is_what_the_command_line_reads_in_its_words(
    name: str, value: str | float | bool, expected: object
) -> None:
    assert parse(name, value) == expected
    assert type(parse(name, value)) is type(expected)


def test_a_choice_is_held_to_its_rule_by_its_value() -> None:
    assert read_space(None, ["trainer.batch_size='8','16'", "scheduler.name='step','constant'"]).searched
    assert read_space(None, ["model.hidden=0,${trainer.batch_size}"]).searched
    with pytest.raises(ConfigError, match=r"trainer.batch_size='1' must lie in"):
        read_space(None, ["trainer.batch_size='1','16'"])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("'step'", "step"),
        ('"a b"', "a b"),
        ("step", "step"),
        ("it's", "it's"),
        ("'", "'"),
        (4, 4),
        ("[1,1]", "[1,1]"),
    ],
)
def test_people_read_values_without_quotes(value: object, read: object) -> None:
    assert unquoted(value) == read


# ---- several that name the same parameter


@pytest.mark.parametrize(
    ("params", "arguments", "space"),
    [
        ({WIDTH: "4,8"}, ["model.width=5,6"], Space({WIDTH: CategoricalDistribution((5, 6))}, [])),
        ({WIDTH: "4,8"}, ["model.width=5"], Space({}, ["model.width=5"])),
        ({WIDTH: 5}, ["model.width=4,8"], Space({WIDTH: CategoricalDistribution((4, 8))}, [])),
        ({WIDTH: 5}, ["model.width=6"], Space({}, ["model.width=6"])),
        (None, ["model.width=4,8", "model.width=5"], Space({}, ["model.width=5"])),
        (None, ["model.width=5", "model.width=4,8"], Space({WIDTH: CategoricalDistribution((4, 8))}, [])),
        ({"model": "plain,residual"}, ["model=plain"], Space({}, ["model=plain"])),
    ],
)
def test_the_later_of_two_overrides_counts_and_the_command_line_comes_last(
    params: dict[str, object] | None, arguments: list[str], space: Space
) -> None:
    assert read_space(params, arguments) == space


def test_a_replaced_parameter_leaves_the_others_as_they_are() -> None:
    space = read_space({LR: "0.1,0.2", WIDTH: "4,8", "trainer.epochs": 3}, ["model.width=5", "trainer.seed=1,2"])
    assert list(space.searched) == [LR, "trainer.seed"]
    assert space.fixed == ["trainer.epochs=3", "model.width=5"]


def test_a_value_of_a_studys_file_that_is_not_searched_keeps_its_interpolation() -> None:
    resolved = {"model.hidden": 64, "model.width": "range(4,9)", "data.limit": None}
    written = {
        "model.hidden": "${trainer.batch_size}",
        "model.width": "range(4,${oc.env:TOP})",
        "data.limit": None,
    }
    space = read_space(resolved, ["trainer.seed=1"], written)
    assert space.fixed == ["model.hidden=${trainer.batch_size}", "data.limit=null", "trainer.seed=1"]
    assert space.searched == {WIDTH: IntDistribution(4, 8)}


def test_nothing_searched_is_a_space_of_one_point() -> None:
    assert read_space(None, []) == read_space({}, []) == Space({}, [])
    assert list(grid(Space())) == [{}]


# ---- what is refused


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("optimizer.lr=interval(1,2000)", ["optimizer.lr=2000", "(0, 1000]", "peak learning rate"]),
        ("optimizer.lr=interval(0,1)", ["optimizer.lr=0", "(0, 1000]", "peak learning rate"]),
        ("optimizer.lr=interval(0.1,nan)", ["optimizer.lr=nan", "(0, 1000]"]),
        ("optimizer.lr=0.1,0.2,0", ["optimizer.lr=0", "(0, 1000]"]),
        ("model.width=range(0,9)", ["model.width=0", "[1, 100000]"]),
        ("model.width=auto,wide", ["model.width=wide", "channels of the first stage"]),
        ("model.depth=choice([1,1],[2,0])", ["model.depth=[2,0]", "[1, 100]", "blocks in each stage"]),
        ("optimizer.name=sgd,adam", ["optimizer.name=adam", "one of sgd, adamw"]),
        ("model.family=plain,nonsense", ["model.family=nonsense", "one of plain, residual, separable"]),
        ("trainer.epochs=1.5,2", ["trainer.epochs=1.5", "whole number"]),
        ("trainer.epochs=null,3", ["trainer.epochs=null", "whole number"]),
        ("model.width=interval(4.5,9)", ["model.width", "whole numbers only", "interval(1,9)"]),
        ("model.width=range(1,1.9,0.25)", ["model.width", "whole numbers only"]),
        ("trainer.epochs=tag(log,interval(1.5,8))", ["trainer.epochs", "whole numbers only"]),
        ("model.widht=4,8", ["model.widht is not a setting", "did you mean model.width?"]),
        ("modle.width=4,8", ["modle.width is not a setting", "did you mean model.width?"]),
        ("optimizer.lr=glob(*)", ["optimizer.lr=glob(*)", "can't be searched", "choice(a,b)", "interval(0.1,1)"]),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line_with_key_value_and_rule(argument: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(None, [argument])
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "sweep"), [(LR, "0.1,0"), (WIDTH, "interval(4.5,9)"), ("model.widht", "4,8"), (LR, "glob(*)")]
)
def test_a_studys_file_is_refused_in_the_words_that_the_command_line_is(name: str, sweep: str) -> None:
    with pytest.raises(ConfigError) as typed:
        read_space(None, [f"{name}={sweep}"])
    with pytest.raises(ConfigError) as written:
        read_space({"trainer.seed": "1,2", name: sweep}, [])
    assert str(typed.value) == str(written.value)


@pytest.mark.parametrize(
    "argument",
    ["optimizer.lr=interval(2,1)", "model.width=range(1,1)", "trainer.epochs=range(1,9,0)", "model.width"],
)
def test_a_sweep_that_makes_no_sense_is_refused_in_one_line(argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(None, [argument])
    assert "\n" not in str(caught.value)


# ---- what comes first


def test_what_others_may_depend_on_is_drawn_first() -> None:
    names = ["scheduler.gamma", "optimizer.name", "model", LR, "scheduler.name", "optimizer", WIDTH]
    ranks = {"group": ["model", "optimizer"], "name": ["optimizer.name", "scheduler.name"]}
    for order in itertools.islice(itertools.permutations(names), 0, None, 97):
        space = Space({name: IntDistribution(1, 2) for name in order})
        ordered = list(space.ordered)
        assert set(ordered[:2]) == set(ranks["group"])
        assert set(ordered[2:4]) == set(ranks["name"])
        rest = [name for name in order if name not in ordered[:4]]
        assert ordered[4:] == rest, "the rest keep their order"
        assert space.ordered == space.searched, "nothing is lost"


def test_the_setting_of_a_section_is_told_from_a_choice_of_its_group() -> None:
    assert is_setting(WIDTH)
    assert is_setting("optimizer.name")
    assert not any(
        map(is_setting, ["model", "experiment", "+model.width", "hydra.launcher.n_jobs", "model.nonsense"])
    )
    assert all(map(is_setting, [name for name in settings() if "." in name]))


# ---- the grid


def test_a_grid_has_every_point_once_and_the_last_parameter_varies_fastest() -> None:
    assert points("model.width=4,8", "optimizer.lr=0.1,0.2", "trainer.seed=range(0,2)") == [
        {WIDTH: width, LR: lr, "trainer.seed": seed} for width in (4, 8) for lr in (0.1, 0.2) for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("model.width=range(4,9,2)", [4, 6, 8]),
        ("model.width=range(4,8,3)", [4, 7]),
        ("model.width=interval(4,7)", [4, 5, 6, 7]),
        ("model.width=range(5,6)", [5]),
        ("optimizer.lr=range(0.25,1.5,0.25)", [0.25, 0.5, 0.75, 1.0, 1.25]),
        ("optimizer.lr=range(0.1,0.65,0.1)", pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])),
        ("model.depth=[1,1],[2]", ["[1,1]", "[2]"]),
        ("optimizer.nesterov=false,true", [False, True]),
    ],
)
def test_the_levels_of_a_parameter_are_its_choices_or_steps(sweep: str, values: list[object]) -> None:
    assert levels(sweep) == values


@pytest.mark.parametrize(
    "sweep",
    [
        "optimizer.lr=interval(0.1,0.5)",
        "optimizer.lr=tag(log,interval(0.1,0.5))",
        "model.width=tag(log,interval(1,8))",
    ],
)
def test_a_continuous_parameter_is_refused_in_a_grid_with_the_way_out(sweep: str) -> None:
    name = sweep.partition("=")[0]
    with pytest.raises(ConfigError, match="hydra/sweeper/sampler=tpe") as caught:
        points(sweep, "trainer.seed=1,2")
    assert str(caught.value).startswith(f"{name} ")
    assert "\n" not in str(caught.value)


def test_a_grid_of_too_many_points_is_refused_at_once_with_its_size() -> None:
    with pytest.raises(ConfigError, match=r"^the grid has 10,000,000,000 points, at most 1,000,000;"):
        points("model.width=range(1,100001)", "trainer.seed=range(0,100000)")


def test_a_grid_may_have_just_as_many_points_as_allowed() -> None:
    space = read_space(None, ["model.width=range(1,11)", "trainer.seed=range(0,10)"])
    assert len(list(grid(space, most=100))) == 100
    with pytest.raises(ConfigError):
        grid(space, most=99)


@pytest.mark.parametrize("text", ["trial=3", "+trial=3", "++trial=1,2"])
def test_the_number_of_a_trial_is_the_sweeps_to_give(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^trial is set by the sweep itself"):
        read_space({}, [text])
    key, _, value = text.partition("=")
    with pytest.raises(ConfigError, match=r"^trial is set by the sweep itself"):
        read_space({key: value}, [])


def test_the_steps_of_a_range_are_the_numbers_that_one_would_write() -> None:
    points = list(grid(read_space({}, ["optimizer.momentum=range(0.1,0.8,0.1)"])))
    assert [point["optimizer.momentum"] for point in points] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


SPACE = read_space(
    {
        "model": "choice(plain,residual)",
        "model.depth": "choice([1,1],[2,3,2])",
        "model.width": "range(4,17)",
        "optimizer.lr": "tag(log,interval(0.01,1))",
    },
    [],
)


def test_values_become_those_that_optuna_holds() -> None:
    point = {"model": "plain", "model.depth": [2, 3, 2], "model.width": 16, "optimizer.lr": 0.1}
    expected: list[dict[str, Value]] = [
        {"model": "plain", "model.depth": "[2,3,2]", "model.width": 16, "optimizer.lr": 0.1}
    ]
    assert read_start([point], SPACE) == expected
    assert read_start([{}], SPACE) == [{}]


@pytest.mark.parametrize("value", ["step", "'step'"])
def test_a_choice_is_found_by_its_value_however_it_is_written(value: str) -> None:
    space = read_space({"scheduler.name": "'step','constant'"}, [])
    assert read_start([{"scheduler.name": value}], space) == [{"scheduler.name": "'step'"}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.width", 17),
        ("model.width", 8.5),
        ("model.width", "8"),
        ("model.width", True),
        ("model", "separable"),
        ("model.depth", [2, 2]),
        ("optimizer.lr", 2),
        ("optimizer.lr", float("nan")),
        ("optimizer.lr", None),
    ],
)
def test_a_value_outside_the_space_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.start_with: .* isn't in what is searched, "):
        read_start([{name: value}], SPACE)


def test_what_is_not_searched_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"model.widht isn't searched; give values of model, model.depth"):
        read_start([{"model.widht": 8}], SPACE)


# ---- the points that are left of a finite space

GRID: list[Point] = [{"width": width, "lr": lr} for width in (4, 8, 16) for lr in (0.1, 0.2)]
# gamma exists only beside step.
CONDITIONAL: list[Point] = [
    {"scheduler": "step", "gamma": 0.5},
    {"scheduler": "step", "gamma": 0.75},
    {"scheduler": "cosine"},
    {"scheduler": "cosine"},
]


def tried(point: Point, became: Status = Status.complete) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING if became == Status.running else STATES.get(became, TrialState.FAIL),
        value=1.0 if became == Status.complete else None,
        params=point,
        distributions={name: CategoricalDistribution([value]) for name, value in point.items()},
        user_attrs={"standing": became.value},
    )


@pytest.mark.parametrize("points", [GRID, CONDITIONAL[:3], [{}]], ids=["plain", "conditional", "nothing searched"])
def test_every_point_comes_once_and_in_order_whatever_becomes_of_it(points: list[Point]) -> None:
    generator, living, trials = random.Random(0), Points(points), list[FrozenTrial]()
    statuses = [status for status in Status if status != Status.interrupted]
    while (point := living.upcoming(trials)) is not None:
        assert Points(points).upcoming(trials) == point == points[len(trials)], "as for a sweeper that joins now"
        trials.append(tried(point, generator.choice(statuses)))
    assert len(trials) == living.total == len(points)


def test_a_point_without_what_plays_no_role_is_one_point() -> None:
    assert Points(CONDITIONAL).total == 3


def test_an_interrupted_point_comes_again_and_a_running_one_does_not() -> None:
    trials = [tried(GRID[0]), tried(GRID[1], Status.interrupted), tried(GRID[2], Status.running)]
    left = Points(GRID)
    assert left.upcoming(trials) == GRID[1]
    trials.append(tried(GRID[1], Status.running))
    assert left.upcoming(trials) == GRID[3]


def test_trials_at_other_points_take_none() -> None:
    others: list[Point] = [{"seed": 3, "lr": 0.1}, {"width": 4}, {}]
    assert Points(GRID).upcoming([tried(point) for point in others]) == GRID[0]
