"""Parallel coordinates: a line a trial, across an axis for each searched parameter and one for the objective.

plotly's own need WebGL and code made at run time, which a page that forbids everything can't have; lines do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from tinysweep.report.look import label, layout, tell
from tinysweep.report.style import BEST, scale, short, words
from tinysweep.results.view import StudyView
from tinysweep.search.table import metric

CROWD = 60  # lines that are drawn thin and faint, as they cover each other
MOST_CHOICES = 12  # that are written on an axis
MOST_TICKS = 6
ABSENT = -0.12  # where a line passes an axis whose parameter the trial hasn't drawn, as nothing read it


@dataclass(frozen=True)
class Axis:
    """An axis from 0 to 1: its name, where each line meets it (None: nowhere), and its ticks."""

    name: str
    places: list[float | None]
    ticks: list[tuple[float, str]]


def parallel(view: StudyView) -> go.Figure | str:
    """The completed trials, at most the LEADERS of a large study, in three shades by rank and the best on top."""
    trials = view.completed[: len(view.leaders)]
    if not trials:
        return "No trial has completed yet."
    if not view.searched:
        return "The study's trials have drawn no parameters."
    axes = [_parameter(name, kind, trials) for name, kind in view.searched.items()]
    axes += [_objective(name, trials) for name in view.objectives]
    figure = go.Figure()
    tenth, half = max(1, round(0.1 * len(trials))), max(1, math.ceil(0.5 * len(trials)))
    for name, first, last, colour, width in (
        ("lower half", half, len(trials), "#c9ced6", 1.0),
        ("upper half", tenth, half, "#56b4e9", 1.2),
        ("best tenth", 1, tenth, "#0072b2", 2.0),
        (f"best, trial {trials[0].number}", 0, 1, BEST, 3.0),
    ):
        if first < last:
            _lines(figure, view, axes, range(first, last), name, {"color": colour, "width": width})
    for position, one in enumerate(axes):
        _draw_axis(figure, position, one)
    gaps = any(None in one.places for one in axes)
    layout(figure, 430 if gaps else 390, margin={"l": 30, "r": 30, "t": 90, "b": 10})
    figure.update_layout(legend={"y": 1.17})
    figure.update_xaxes(range=[-0.35, len(axes) - 0.55], visible=False)
    return figure.update_yaxes(range=[(ABSENT if gaps else 0) - 0.06, 1.04], visible=False)


def _parameter(name: str, kind: BaseDistribution, trials: Sequence[FrozenTrial]) -> Axis:
    values = [trial.params.get(name) for trial in trials]
    if isinstance(kind, CategoricalDistribution):
        # As text: Optuna may give True where 1 is a choice as well.
        choices = list(dict.fromkeys(str(choice) for choice in kind.choices))
        place = {choice: (index + 0.5) / len(choices) for index, choice in enumerate(choices)}
        ticks = [(place[choice], short(choice)) for choice in choices[:: math.ceil(len(choices) / MOST_CHOICES)]]
        return Axis(name, [None if value is None else place[str(value)] for value in values], ticks)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    low, high, log = float(kind.low), float(kind.high), kind.log

    def part(value: float) -> float:
        if high == low:
            return 0.5
        return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

    spread = [low, (low * high) ** 0.5 if log else (low + high) / 2, high] if high > low else [low]
    if isinstance(kind, IntDistribution):
        spread = sorted({round(value) for value in spread})
    ticks = [(part(value), short(value)) for value in spread]
    return Axis(name, [None if value is None else part(float(value)) for value in values], ticks)


def _objective(name: str, trials: Sequence[FrozenTrial]) -> Axis:
    """The axis of a metric, upwards as in the other figures."""
    figures = [metric(trial, name) for trial in trials]
    up = scale(name, figures)
    low, high = (math.log(up.low), math.log(up.high)) if up.log else (up.low, up.high)

    def part(placed: float) -> float:
        share = ((math.log(placed) if up.log else placed) - low) / (high - low)
        return 1 - share if up.accuracy else share

    ticks = [(part(tick), text) for tick, text in zip(up.ticks, up.labels, strict=True)]
    ticks = ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    return Axis(words(name), [part(up.place(figure)) for figure in figures], ticks)


def _lines(
    figure: go.Figure, view: StudyView, axes: list[Axis], ranks: range, name: str, line: dict[str, object]
) -> None:
    """The lines of some trials as one trace, with gaps between them; the worst first, so that the best is on
    top."""
    across: list[int | None] = []
    up: list[float | None] = []
    told: list[str | None] = []
    for rank in reversed(ranks):
        text = tell(view, view.completed[rank])
        places = [one.places[rank] for one in axes]
        across += [*range(len(axes)), None]
        up += [*(ABSENT if place is None else place for place in places), None]
        told += [*([text] * len(axes)), None]
    crowded = len(ranks) > CROWD
    figure.add_scatter(
        x=across, y=up, mode="lines+markers", line=line, marker={"size": 3 if crowded else 4}, name=name,
        opacity=0.45 if crowded else 1, hovertext=told, hoverinfo="text", connectgaps=False,
    )  # fmt: skip


def _draw_axis(figure: go.Figure, position: int, one: Axis) -> None:
    figure.add_shape(type="line", x0=position, x1=position, y0=0, y1=1, line={"color": "#777777", "width": 1})
    section, _, leaf = one.name.rpartition(".")
    parts = [f"{section}.", leaf] if section else one.name.split(" ", 1)
    title = "<br>".join(label(part, 18) for part in parts)
    figure.add_annotation(
        x=position, y=1.0, yshift=12, text=f"<b>{title}</b>", showarrow=False, yanchor="bottom", font={"size": 12}
    )
    written = list(one.ticks) + ([(ABSENT, "not read")] if None in one.places else [])
    for place, text in written:
        figure.add_annotation(
            x=position, y=place, xshift=-6, text=label(text, 16), showarrow=False, xanchor="right",
            font={"size": 11, "color": "#333333"}, bgcolor="rgba(255,255,255,0.75)", borderpad=1,
        )  # fmt: skip
