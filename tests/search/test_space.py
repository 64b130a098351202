"""What a study searches: which distributions a sweep becomes, what is refused, and which points come first."""

import itertools
import random
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.errors import ConfigError
from tinysweep.search.space import (
    NEVER_TRIED,
    Points,
    Space,
    Value,
    contains,
    extremes,
    grid,
    is_setting,
    parse,
    read_space,
    read_start_points,
    without_quotes,
)
from tinysweep.search.study import STATES, Status
from tinysweep.settings.explain import settings

Point = dict[str, Value]
LR = "optimizer.lr"
WIDTH = "model.width"


def points(*arguments: str) -> list[Point]:
    return list(grid(read_space(None, list(arguments))))


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
        ("model.width=sort(9,3,1)", CategoricalDistribution((1, 3, 9))),
        ("model.width=range(4,9)", IntDistribution(4, 8)),
        ("model.width=range(4,9,2)", IntDistribution(4, 8, step=2)),
        ("model.width=range(9,4,-1)", IntDistribution(5, 9)),
        ("optimizer.lr=range(0.5,2.0,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("optimizer.lr=interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("optimizer.lr=tag(log,interval(0.01,1))", FloatDistribution(0.01, 1.0, log=True)),
        ("data.validation=interval(10,100)", FloatDistribution(10.0, 100.0)),
        # Of a setting that takes whole numbers an interval has only those.
        ("trainer.epochs=interval(4.0,9.0)", IntDistribution(4, 9)),
        ("model.width=interval(1,1e3)", IntDistribution(1, 1000)),
        ("data.limit=tag(log,interval(4,64))", IntDistribution(4, 64, log=True)),
        ("trainer.epochs=range(1.0,4.0)", IntDistribution(1, 3)),
    ],
)
def test_a_sweep_becomes_the_distribution_that_it_describes(sweep: str, distribution: BaseDistribution) -> None:
    name, _, written = sweep.partition("=")
    assert read_space(None, [sweep]) == read_space({name: written}, []) == Space({name: distribution}, [])


def test_a_shuffled_sweep_has_the_same_values_in_an_order_of_its_own() -> None:
    found = read_space(None, ["trainer.epochs=shuffle(range(1,9))"]).searched["trainer.epochs"]
    assert isinstance(found, CategoricalDistribution)
    assert sorted(extremes(found), key=int) == [1, 2, 3, 4, 5, 6, 7, 8]


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


@pytest.mark.parametrize(
    ("name", "value", "parsed", "shown"),
    [
        ("model.depth", "[1,2]", [1, 2], "[1,2]"),
        ("data.limit", "null", None, "null"),
        (LR, 1e-7, 1e-7, 1e-7),
        ("optimizer.nesterov", True, True, True),
        ("model", "'plain'", "plain", "plain"),
        ("scheduler.name", '"step"', "step", "step"),
        ("name", '"it\'s"', "it's", "it's"),
    ],
)
def test_a_drawn_value_is_read_as_the_command_line_reads_it_and_shown_without_quotes(
    name: str, value: Value, parsed: object, shown: object
) -> None:
    assert parse(name, value) == parsed
    assert type(parse(name, value)) is type(parsed)
    assert without_quotes(value) == shown


@pytest.mark.parametrize(
    ("params", "arguments", "space"),
    [
        ({WIDTH: "4,8"}, ["model.width=5,6"], Space({WIDTH: CategoricalDistribution((5, 6))}, [])),
        ({WIDTH: "4,8"}, ["model.width=5"], Space({}, ["model.width=5"])),
        ({WIDTH: 5}, ["model.width=4,8"], Space({WIDTH: CategoricalDistribution((4, 8))}, [])),
        ({WIDTH: 5}, ["model.width=6"], Space({}, ["model.width=6"])),
        (None, ["model.width=4,8", "model.width=5"], Space({}, ["model.width=5"])),
        ({"model": "plain,residual"}, ["model=plain"], Space({}, ["model=plain"])),
        (
            {LR: "0.1,0.2", "trainer.epochs": 3},
            ["model.width=5"],
            Space({LR: CategoricalDistribution((0.1, 0.2))}, ["trainer.epochs=3", "model.width=5"]),
        ),
    ],
)
def test_the_later_of_two_overrides_counts_and_the_command_line_comes_last(
    params: dict[str, object] | None, arguments: list[str], space: Space
) -> None:
    assert read_space(params, arguments) == space


def test_a_value_of_a_studys_file_that_is_not_searched_keeps_its_interpolation() -> None:
    resolved = {"model.hidden": 64, "model.width": "range(4,9)", "data.limit": None}
    written = {**resolved, "model.hidden": "${trainer.batch_size}", "model.width": "range(4,${oc.env:TOP})"}
    space = read_space(resolved, ["trainer.seed=1"], written)
    assert space.fixed == ["model.hidden=${trainer.batch_size}", "data.limit=null", "trainer.seed=1"]
    assert space.searched == {WIDTH: IntDistribution(4, 8)}


# ---- what is refused


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("optimizer.lr=interval(1,2000)", ["optimizer.lr=2000", "(0, 1000]", "peak learning rate"]),
        ("optimizer.lr=interval(0.1,nan)", ["optimizer.lr=nan", "(0, 1000]"]),
        ("optimizer.lr=0.1,0.2,0", ["optimizer.lr=0", "(0, 1000]"]),
        ("model.width=range(0,9)", ["model.width=0", "[1, 100000]"]),
        ("model.width=auto,wide", ["model.width=wide", "channels of the first stage"]),
        ("model.depth=choice([1,1],[2,0])", ["model.depth=[2, 0]", "[1, 100]", "blocks in each stage"]),
        ("trainer.batch_size='1','16'", ["trainer.batch_size=1 must lie in"]),
        ("optimizer.name=sgd,adam", ["optimizer.name=adam", "one of sgd, adamw"]),
        ("trainer.epochs=1.5,2", ["trainer.epochs=1.5", "whole number"]),
        ("trainer.epochs=null,3", ["trainer.epochs=null", "whole number"]),
        ("model.width=interval(4.5,9)", ["model.width", "whole numbers only", "interval(1,9)"]),
        ("model.width=range(1,1.9,0.25)", ["model.width", "whole numbers only"]),
        ("model.widht=4,8", ["model.widht is not a setting", "did you mean model.width?"]),
        ("optimizer.lr=glob(*)", ["optimizer.lr=glob(*)", "can't be searched", "choice(a,b)", "interval(0.1,1)"]),
        ("optimizer.lr=interval(2,1)", ["optimizer.lr=interval(2,1)"]),
        ("model.width=range(1,1)", ["model.width=range(1,1)"]),
        ("trial=3", ["trial is set by the sweep itself"]),
        ("++trial=1,2", ["trial is set by the sweep itself"]),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line_however_it_is_given(sweep: str, words: list[str]) -> None:
    name, _, written = sweep.partition("=")
    with pytest.raises(ConfigError) as caught:
        read_space(None, [sweep])
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    with pytest.raises(ConfigError) as in_file:
        read_space({"trainer.seed": "1,2", name: written}, [])
    assert str(in_file.value) == message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ([4, 8], "write model.width: choice(4,8)"),
        ({"type": "int", "low": 4, "high": 8}, "write model.width: range(4,17), choice(a,b), interval(0.1,1) or "),
    ],
)
def test_what_other_sweepers_take_for_a_sweep_is_refused_with_what_to_write(written: Any, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space({WIDTH: written}, [])
    assert str(caught.value).startswith(f"hydra.sweeper.params.model.width={written} must be a sweep; {meant}")
    assert read_space({"model.depth": [1, 2]}, []).fixed == ["model.depth=[1, 2]"], "a list that is a value"


# ---- what comes first


def test_what_others_may_depend_on_is_drawn_first() -> None:
    names = ["scheduler.gamma", "optimizer.name", "model", LR, "scheduler.name", "optimizer", WIDTH]
    for order in itertools.islice(itertools.permutations(names), 0, None, 97):
        space = Space({name: IntDistribution(1, 2) for name in order})
        ordered = list(space.ordered)
        assert set(ordered[:2]) == {"model", "optimizer"}
        assert set(ordered[2:4]) == {"optimizer.name", "scheduler.name"}
        assert ordered[4:] == [name for name in order if name not in ordered[:4]], "the rest keep their order"
        assert space.ordered == space.searched, "nothing is lost"


def test_the_setting_of_a_section_is_told_from_a_choice_of_its_group() -> None:
    assert all(is_setting(name) for name in settings() if "." in name)
    others = ["model", "experiment", "+model.width", "hydra.launcher.n_jobs", "model.nonsense"]
    assert not any(map(is_setting, others))


SPACE = read_space(
    {
        "model": "choice(plain,residual)",
        "model.depth": "choice([1,1],[2,3,2])",
        "model.width": "range(4,17)",
        "optimizer.lr": "tag(log,interval(0.01,1))",
        "scheduler.name": "'step','constant'",
    },
    [],
)


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [
        ("model", "plain", "plain"),
        ("model.depth", [2, 3, 2], "[2,3,2]"),
        ("model.width", 16, 16),
        ("optimizer.lr", 0.1, 0.1),
        ("scheduler.name", "step", "'step'"),
        ("scheduler.name", "'step'", "'step'"),
    ],
)
def test_a_point_to_start_with_becomes_what_optuna_holds(name: str, value: Any, held: Value) -> None:
    assert read_start_points([{name: value}, {}], SPACE) == [{name: held}, {}]


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
def test_a_point_outside_the_space_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.start_with: .* isn't in what is searched, "):
        read_start_points([{name: value}], SPACE)
    with pytest.raises(ConfigError, match=r"model.widht isn't searched; give values of model, model.depth"):
        read_start_points([{"model.widht": value}], SPACE)


def test_a_distribution_contains_what_it_may_give() -> None:
    for distribution, inside, outside in [
        (IntDistribution(4, 8, step=2), (4, 6, 8), (3, 5, 10)),
        (FloatDistribution(0.5, 2.0), (0.5, 1, 2.0), (0.4, 2.1)),
        (CategoricalDistribution(("a", 1)), ("a", 1), ("b", 2, None)),
    ]:
        assert all(contains(distribution, value) for value in inside)
        assert not any(contains(distribution, value) for value in outside)


# ---- the grid


def test_a_grid_has_every_point_once_and_the_last_parameter_varies_fastest() -> None:
    assert points("model.width=8,4", "optimizer.lr=0.1,0.2", "trainer.seed=range(0,2)") == [
        {WIDTH: width, LR: lr, "trainer.seed": seed} for width in (8, 4) for lr in (0.1, 0.2) for seed in (0, 1)
    ]
    assert list(grid(Space())) == [{}]


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("model.width=range(4,9,2)", [4, 6, 8]),
        ("model.width=range(4,8,3)", [4, 7]),
        ("model.width=interval(4,7)", [4, 5, 6, 7]),
        ("optimizer.lr=range(0.25,1.5,0.25)", [0.25, 0.5, 0.75, 1.0, 1.25]),
        ("optimizer.lr=range(0.1,0.8,0.1)", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ("model.depth=[1,1],[2]", ["[1,1]", "[2]"]),
        ("optimizer.nesterov=false,true", [False, True]),
    ],
)
def test_the_levels_of_a_parameter_are_its_choices_or_steps(sweep: str, values: list[object]) -> None:
    name = sweep.partition("=")[0]
    assert [point[name] for point in points(sweep)] == values


@pytest.mark.parametrize(
    "sweep",
    [
        "optimizer.lr=interval(0.1,0.5)",
        "optimizer.lr=tag(log,interval(0.1,0.5))",
        "model.width=tag(log,interval(1,8))",
    ],
)
def test_a_continuous_parameter_is_refused_in_a_grid_with_the_way_out(sweep: str) -> None:
    with pytest.raises(ConfigError, match=r"^\S+ is continuous, and a grid needs values: .*sampler=tpe$"):
        points(sweep, "trainer.seed=1,2")


def test_a_grid_of_too_many_points_is_refused_at_once_with_its_size() -> None:
    with pytest.raises(ConfigError, match=r"^the grid has 10,000,000,000 points, at most 1,000,000;"):
        points("model.width=range(1,100001)", "trainer.seed=range(0,100000)")
    space = read_space(None, ["model.width=range(1,11)", "trainer.seed=range(0,10)"])
    assert len(list(grid(space, most=100))) == 100
    with pytest.raises(ConfigError):
        grid(space, most=99)


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
    statuses = [status for status in Status if status not in NEVER_TRIED]
    while (point := living.upcoming(trials)) is not None:
        assert Points(points).upcoming(trials) == point == points[len(trials)], "as for a sweeper that joins now"
        trials.append(tried(point, generator.choice(statuses)))
    assert len(trials) == living.total == len(points)


def test_points_that_differ_in_nothing_that_plays_a_role_are_one() -> None:
    assert Points(CONDITIONAL).total == 3


@pytest.mark.parametrize("became", NEVER_TRIED)
def test_an_interrupted_or_withdrawn_point_comes_again_and_a_running_one_does_not(became: Status) -> None:
    trials = [tried(GRID[0]), tried(GRID[1], became), tried(GRID[2], Status.running)]
    left = Points(GRID)
    assert left.upcoming(trials) == GRID[1]
    trials.append(tried(GRID[1], Status.running))
    assert left.upcoming(trials) == GRID[3]


def test_trials_at_other_points_take_none() -> None:
    others: list[Point] = [{"seed": 3, "lr": 0.1}, {"width": 4}, {}]
    assert Points(GRID).upcoming([tried(point) for point in others]) == GRID[0]
