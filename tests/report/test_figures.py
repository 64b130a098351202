"""The figures of a report and its pictures: every trial where it belongs, on axes that can be read."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from PIL import Image

import made_study as made
from tinysweep.metrics import METRICS
from tinysweep.report.figures import (
    ABSENT,
    accuracy_parameters,
    bin_edges,
    costs,
    curves,
    history,
    hover_text,
    importance_bars,
    parallel_coordinates,
)
from tinysweep.report.importance import MANY, Importances, importances
from tinysweep.report.page import draw, find
from tinysweep.report.pictures import png, write_pictures
from tinysweep.report.style import BEST, FRONT, LIMIT, STATUS, label, scale, status_name, value_text
from tinysweep.results.view import LEADERS, StudyView
from tinysweep.search.study import Status, status
from tinysweep.search.table import metric, pareto_front

pytestmark = pytest.mark.usefixtures("quiet_optuna")

MIXED = made.mixed()
TWO = ("validation_accuracy", "params")


def trace(figure: Any, name: str) -> Any:
    (found,) = (each for each in figure.data if each.name == name)
    return found


def count(trials: list[Any], *states: Status) -> int:
    return sum(status(trial) in states for trial in trials)


# ---- axes


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(12))
def test_an_axis_shows_every_figure_between_its_ends_and_has_readable_ticks(name: str, seed: int) -> None:
    generator = random.Random(seed)
    spread = 10 ** generator.uniform(-4, 1)
    figures = [min(1, 0.5 * math.exp(generator.uniform(-spread, spread))) for _ in range(9)]
    if name not in ("validation_accuracy", "validation_loss"):
        figures = [max(1.0, 30_000 * figure) for figure in figures]
    axis = scale(name, figures)
    places = [axis.place(figure) for figure in figures]
    assert all(axis.low <= place <= axis.high for place in places)
    assert 3 <= len(axis.ticks) <= 12
    assert axis.ticks == sorted(set(axis.ticks))
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert len(set(axis.labels)) == len(axis.ticks)
    for tick, text in zip(axis.ticks, axis.labels, strict=True):
        value = float(text.replace(",", ""))
        assert (100 - value if axis.by_error else value) == pytest.approx(tick, rel=1e-3, abs=1e-4)
    order = sorted(figures, reverse=axis.by_error)
    assert [axis.place(figure) for figure in order] == sorted(places)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("validation_accuracy", [1.0]),
        ("validation_accuracy", [0.0, 1.0]),
        ("validation_accuracy", []),
        ("validation_loss", [0.0, 0.0]),
        ("validation_loss", [math.nan, math.inf, 0.1]),
        ("seconds", [0.0]),
        ("params", [1]),
        ("macs", [1, 10**12]),
    ],
)
def test_an_axis_of_odd_figures_has_ends_and_ticks(name: str, figures: list[float]) -> None:
    axis = scale(name, figures)
    assert 0 <= axis.low < axis.high < math.inf
    assert axis.ticks
    assert all(axis.low <= axis.place(figure) <= axis.high for figure in figures if math.isfinite(figure))
    assert not axis.log or axis.low > 0


def test_values_are_written_as_people_read_them() -> None:
    values = [0.123456, 12, True, "[1,2]", "'a b'", None]
    assert [value_text(value) for value in values] == ["0.123", "12", "True", "[1,2]", "a b", "–"]


# ---- the figures


def test_each_completed_trial_is_a_point_and_the_front_is_that_of_the_table(tmp_path: Path) -> None:
    view = made.view(tmp_path, MIXED)
    figure = accuracy_parameters(view, view.completed[0].number)
    front = trace(figure, "Pareto front")
    wanted = pareto_front(MIXED, list(TWO))
    points = {(metric(trial, "params"), 100 * (1 - metric(trial, "validation_accuracy"))) for trial in wanted}
    assert set(zip(front.x, front.y, strict=True)) == points
    assert list(front.x) == sorted(front.x)
    assert list(front.y) == sorted(front.y, reverse=True)
    assert len(front.x) + len(trace(figure, "completed").x) == count(MIXED, Status.complete)
    star = trace(figure, f"trial {view.completed[0].number}")
    assert star.hovertext[0].startswith(f"<b>trial {view.completed[0].number}</b>")
    assert f"model.width = {view.completed[0].params['model.width']}" in star.hovertext[0]


@pytest.mark.parametrize(("limit", "lines"), [("20000", 1), ("None", 0)])
def test_the_budget_is_a_line_where_there_is_one(tmp_path: Path, limit: str, lines: int) -> None:
    figure: Any = accuracy_parameters(made.view(tmp_path, MIXED, **{"budget.params": limit}), None)
    assert [shape.x0 for shape in figure.layout.shapes] == [20_000] * lines
    assert not lines or figure.layout.xaxis.range[1] > (
        math.log10(20_000) if figure.layout.xaxis.type == "log" else 20_000
    )


def test_the_history_holds_every_trial_once_with_its_state(tmp_path: Path) -> None:
    figure: Any = history(made.view(tmp_path, MIXED))
    drawn: dict[str, int] = {}
    for each in figure.data:
        if each.name != "best so far":
            drawn[each.name] = drawn.get(each.name, 0) + len(each.x)
    assert {name: number for name, number in drawn.items() if number} == {
        status_name(state): count(MIXED, state) for state in Status if count(MIXED, state)
    }


def test_a_pruned_trial_that_diverged_has_no_figure(tmp_path: Path) -> None:
    trials = [made.completed(0, 0.9, 50), made.pruned(1, math.nan, 50), made.pruned(2, 0.5, 50)]
    assert [trial.number for trial in made.view(tmp_path, trials).measured("validation_accuracy")] == [0, 2]


def test_lines_across_the_parameters_are_one_a_trial_and_end_at_its_figure(tmp_path: Path) -> None:
    generator = random.Random(0)
    trials = [made.completed(n, 0.5 + n / 80, 99, chosen=made.draw(generator, sparse=True)) for n in range(20)]
    view = made.view(tmp_path, trials)
    figure: Any = parallel_coordinates(view)
    axes = len(made.KINDS) + 1
    lines = [
        list(each.y[start : start + axes]) for each in figure.data for start in range(0, len(each.y), axes + 1)
    ]
    assert len(lines) == len(trials)
    assert sum(ABSENT in line for line in lines) == sum("optimizer.lr" not in trial.params for trial in trials)
    assert all(place == ABSENT or 0 <= place <= 1 for line in lines for place in line)
    ends = [line[-1] for line in lines]
    best = figure.data[-1]
    assert best.name == "best, trial 19"
    assert best.y[axes - 1] == max(ends)
    one = trials[19].params
    order = [0, 1, 2]
    placed = dict(zip(view.searched, [best.y[index] for index in order], strict=True))
    assert placed["model.width"] == pytest.approx((one["model.width"] - 2) / 23)
    assert placed["model"] == {"plain": 0.25, "residual": 0.75}[one["model"]]


def test_an_axis_of_one_value_and_one_of_truths_can_be_drawn(tmp_path: Path) -> None:
    kinds: dict[str, BaseDistribution] = {
        "model.width": IntDistribution(3, 3),
        "optimizer.nesterov": CategoricalDistribution([True, 1]),
    }
    chosen = {"model.width": 3, "optimizer.nesterov": True}
    trials = [made.completed(number, 0.9 + number / 50, 9, kinds=kinds, chosen=chosen) for number in range(2)]
    figure: Any = parallel_coordinates(made.view(tmp_path, trials))
    assert [each.y[0] for each in figure.data] == [0.5, 0.5]
    assert [each.y[1] for each in figure.data] == [0.25, 0.25]


def test_a_large_study_shows_the_lines_of_its_best(tmp_path: Path) -> None:
    figure: Any = parallel_coordinates(made.view(tmp_path, made.mixed(count=800)))
    assert sum(sum(place is None for place in each.y) for each in figure.data) == LEADERS


def test_curves_are_what_the_histories_hold(tmp_path: Path) -> None:
    trials = [made.completed(number, 0.9 + number / 100, 5) for number in range(4)]
    made.leave(tmp_path, 3, [0.5, 0.25, 0.125])
    made.leave(tmp_path, 2, [0.4])
    (tmp_path / "trials/1").mkdir()
    (tmp_path / "trials/1/history.csv").write_text("epoch,validation_loss\n1,x\n")
    view = made.view(tmp_path, trials)
    figure: Any = curves(view, view.completed)
    assert [each.name for each in figure.data] == ["trial 3", "trial 2"]
    assert [tuple(each.y) for each in figure.data] == [(0.5, 0.25, 0.125), (0.4,)]
    assert tuple(figure.data[0].x) == (1, 2, 3)


def test_curves_of_a_study_with_rungs_show_each_whole_training_by_its_epochs(tmp_path: Path) -> None:
    trials = [made.completed(0, 0.9, 5)]
    made.leave(tmp_path, 0, [0.5, 9, 9, 0.25, 9], rungs=[1, 3, 3, 3, 9])
    view = made.view(tmp_path, trials, rungs="1, 3")
    figure: Any = curves(view, view.completed)
    assert (tuple(figure.data[0].x), tuple(figure.data[0].y)) == ((1, 3), (0.5, 0.25)), "the last one isn't whole"
    assert figure.layout.xaxis.title.text == "epochs of the rung"
    assert png(figure, "curves").startswith(b"\x89PNG")


def test_costs_lie_on_the_side_of_the_limit_that_they_were_judged_by(tmp_path: Path) -> None:
    trials = [*MIXED, made.refused(40, 20_000), made.completed(41, 0.9, 19_999)]
    figure: Any = costs(made.view(tmp_path, trials), "params")
    limit = math.log10(20_000)
    for name, sign, states in (
        ("over budget", 1, (Status.over_budget,)),
        ("let through", -1, (Status.complete, Status.pruned)),
    ):
        bars = trace(figure, name)
        assert sum(bars.y) == count(trials, *states)
        assert all(sign * (place - limit) > 0 for place, height in zip(bars.x, bars.y, strict=True) if height)


def test_a_bound_that_may_be_reached_counts_as_within(tmp_path: Path) -> None:
    over = made.trial(1, Status.over_budget, params=10, macs=701, reason="701 MACs an image")
    view = made.view(tmp_path, [made.completed(0, 0.9, 10), over], **{"budget.macs": "700"})
    figure: Any = costs(view, "macs")
    assert sum(trace(figure, "let through").y) == sum(trace(figure, "over budget").y) == 1
    assert not any(
        a and b for a, b in zip(trace(figure, "let through").y, trace(figure, "over budget").y, strict=True)
    )


@pytest.mark.parametrize("seed", range(20))
def test_bins_hold_every_cost_and_have_the_limit_for_an_edge(seed: int) -> None:
    generator = random.Random(seed)
    values = [generator.randint(1, 10 ** generator.randint(1, 9)) for _ in range(generator.randint(1, 30))]
    limit = generator.choice([None, 20_000, values[0]])
    edges = bin_edges(values, limit)
    assert np.histogram(values, edges)[0].sum() == len(values)
    assert edges[-1] > max(values)
    assert limit is None or float(np.min(np.abs(edges / limit - 1))) < 1e-9
    assert len(edges) < 60
    assert all(low < high for low, high in itertools.pairwise(edges))


# ---- importances


@pytest.mark.parametrize(("number", "method"), [(40, "fANOVA"), (2 * MANY, "PED-ANOVA")])
def test_what_decides_is_the_most_important(tmp_path: Path, number: int, method: str) -> None:
    found = importances(made.view(tmp_path, made.mixed(count=number)), "validation_accuracy")
    assert isinstance(found, Importances)
    assert found == importances(made.view(tmp_path, made.mixed(count=number)), "validation_accuracy")
    assert next(iter(found.shares)) == "optimizer.lr"
    assert found.shares["optimizer.lr"] > 0.5
    assert sum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert (found.method, found.trials) == (method, count(made.mixed(count=number), Status.complete))
    bars: Any = importance_bars([found])
    assert list(bars.data[0].x) == pytest.approx([100 * share for share in found.shares.values()])


@pytest.mark.parametrize(("number", "judged"), [(20, False), (MANY, True)])
def test_a_parameter_that_some_trials_lack_is_judged_where_the_method_can(
    tmp_path: Path, number: int, judged: bool
) -> None:
    generator = random.Random(0)
    trials = [
        made.completed(n, generator.random(), 9, chosen=made.draw(generator, sparse=True)) for n in range(number)
    ]
    found = importances(made.view(tmp_path, trials), "validation_accuracy")
    assert isinstance(found, Importances)
    assert ("optimizer.lr" in found.shares) is judged
    assert ("optimizer.lr" in found.left_out) is not judged


# ---- text


def test_labels_are_text_to_plotly() -> None:
    assert label('<b>x</b> & <a href="y">') == '&lt;b&gt;x&lt;/b&gt; &amp; &lt;a href="y"&gt;'
    assert label("x" * 70) == "x" * 59 + "…"


def test_what_shows_at_a_trial_of_a_large_study_is_short(tmp_path: Path) -> None:
    trials = made.mixed(count=2000)
    view = made.view(tmp_path, trials)
    assert "model.width" in hover_text(view, view.completed[0])
    assert "model.width" not in hover_text(view, view.completed[-1])
    assert "must be fewer" not in hover_text(view, trials[1])
    assert "must be fewer" in hover_text(made.view(tmp_path, trials[:50]), trials[1])


# ---- pictures


def seen(path: Path, colour: str) -> int:
    """How many pixels of a picture have a colour."""
    with Image.open(path) as image:
        wanted = np.round(255 * np.array(to_rgb(colour)))
        return int((np.abs(np.asarray(image.convert("RGB")) - wanted).max(-1) <= 2).sum())


def pictures_of(view: StudyView) -> dict[str, Path]:
    return {path.stem: path for path in write_pictures(view, draw(view, find(view)))}


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_pictures_show_what_the_page_shows(tmp_path: Path) -> None:
    view = made.view(tmp_path, MIXED, name="$x^2$ <b>日本")
    for trial in view.completed[:3]:
        made.leave(tmp_path, trial.number, [0.5, 0.2])
    paths = pictures_of(view)
    assert set(paths) == {"search_history", "accuracy_parameters", "importances", "curves"}
    for colour in (FRONT, LIMIT, BEST):
        assert seen(paths["accuracy_parameters"], colour) > 100
    for became in (Status.complete, Status.pruned, Status.over_budget, Status.failed):
        assert seen(paths["search_history"], STATUS[became].colour) > 20, became
    assert seen(paths["importances"], STATUS[Status.complete].colour) > 1000
    assert seen(paths["curves"], "#d55e00") > 200
    assert seen(paths["curves"], "#56b4e9") == 0


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_picture_that_cant_be_had_says_why(tmp_path: Path) -> None:
    assert all(seen(path, "#555555") > 20 for path in pictures_of(made.view(tmp_path, [])).values())
