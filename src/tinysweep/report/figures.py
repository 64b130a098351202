"""The figures of a report, drawn by plotly; each function gives one, or says in a sentence why there is none."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from plotly.subplots import make_subplots

from tinysweep.metrics import METRICS
from tinysweep.report.importance import Importances
from tinysweep.report.mistakes import Predictions
from tinysweep.report.noise import error_bars, images_judged, standard_error
from tinysweep.report.style import (
    BEST,
    FRONT,
    LIMIT,
    SERIES,
    STATUS,
    Scale,
    apply_layout,
    label,
    scale,
    status_name,
    value_text,
)
from tinysweep.results.view import StudyView
from tinysweep.search.study import Status, status
from tinysweep.search.table import metric

NO_COMPLETED = "No trial has completed yet."
BINS = 24
MOST_DETAILED = 1000  # trials; all that is known of thousands would swell the page
CROWD = 60  # lines that are drawn thin and faint, as they cover each other
MOST_CHOICES = 12  # that are written on an axis
MOST_TICKS = 6
MOST_BARS = 60  # trials; the error bars of more would cover each other
ABSENT = -0.12  # where a line passes an axis whose parameter the trial hasn't drawn, as nothing read it
MOST_NUMBERED = 20  # classes; more than these leave no room for a number in each cell


def hover_text(view: StudyView, trial: FrozenTrial) -> str:
    """What shows where a person points at a trial; of the many of a large study, only what it came to."""
    notes, became = trial.user_attrs, status(trial)
    detailed = len(view.trials) <= MOST_DETAILED or trial.number in view.leaders
    more = ["validation_accuracy", "validation_loss", "params", "macs"] if detailed else []
    lines = [f"<b>trial {trial.number}</b>, {status_name(became)}"]
    for name in dict.fromkeys([*view.objectives, *more]):
        if notes.get(name) is not None:
            lines.append(f"{METRICS[name].label} {METRICS[name].text(notes[name])}")
    if detailed and became != Status.complete and notes.get("reason"):
        lines.append(label(notes["reason"], 90))
    elif detailed:
        lines += [f"{label(name)} = {label(value_text(value))}" for name, value in trial.params.items()]
    return "<br>".join(lines)


def accuracy_parameters(view: StudyView, winner: int | None) -> go.Figure | str:
    """Validation accuracy of the completed trials against their parameters, the Pareto front of the two, and the
    budget."""
    if not view.completed:
        return NO_COMPLETED
    limit, front = view.limit("params"), view.front()
    across = scale("params", [*(metric(trial, "params") for trial in view.completed), *([limit] if limit else [])])
    images = images_judged(view) if len(view.completed) <= MOST_BARS else None
    accuracies = [metric(trial, "validation_accuracy") for trial in view.completed]
    errors = [standard_error(trial, images) if images else 0.0 for trial in view.completed]
    ends = [accuracy + way * error for accuracy, error in zip(accuracies, errors, strict=True) for way in (-1, 1)]
    # A bar that would reach a perfect accuracy has no end on a logarithmic axis of errors.
    up = scale("validation_accuracy", [*accuracies, *(end for end in ends if 0 <= end < 1)])
    figure = go.Figure()

    def add(name: str, trials: Sequence[FrozenTrial], **style: Any) -> None:
        if images:
            style["error_y"] = error_bars(trials, images)
        figure.add_scatter(
            name=name,
            x=[across.place(metric(trial, "params")) for trial in trials],
            y=[up.place(metric(trial, "validation_accuracy")) for trial in trials],
            hovertext=[hover_text(view, trial) for trial in trials],
            hoverinfo="text",
            **style,
        )

    on_front = {trial.number for trial in front}
    others = [trial for trial in view.completed if trial.number not in on_front]
    plain = {"color": STATUS[Status.complete].colour, "size": 8, "opacity": 0.75}
    add("completed", others, mode="markers", marker=plain)
    line = {"color": FRONT, "width": 2, "shape": "hv"}
    add("Pareto front", front, mode="lines+markers", line=line, marker={"size": 10})
    chosen = [trial for trial in view.completed if trial.number == winner]
    add(f"trial {winner}", chosen, mode="markers", marker={"color": BEST, "size": 15, "symbol": "star"})
    if limit:
        figure.add_vline(x=limit, line={"color": LIMIT, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            x=math.log10(limit) if across.log else limit, y=0, yref="paper", yanchor="bottom", xanchor="right",
            xshift=-5, text=f"budget: fewer than {limit:,}", showarrow=False, font={"size": 12, "color": LIMIT},
        )  # fmt: skip
    return apply_layout(figure, 460, xaxis=across.axis, yaxis=up.axis)


def history(view: StudyView) -> go.Figure | str:
    """Each objective by trial, the best so far, and a strip of the trials that have no figure."""
    if not view.trials:
        return "No trial has begun yet."
    measured = {trial.number for objective in view.objectives for trial in view.measured(objective)}
    bare = [trial for trial in view.trials if trial.number not in measured]
    strip = [each for each in Status if any(status(trial) == each for trial in bare)]
    rows = [300.0] * len(view.objectives) + ([40.0 + 24 * len(strip)] if strip else [])
    figure = make_subplots(len(rows), 1, shared_xaxes=True, vertical_spacing=0.04, row_heights=rows)
    for row, objective in enumerate(view.objectives, 1):
        _add_objective(figure, view, objective, row)
    for place, each in enumerate(strip):
        found = [trial for trial in bare if status(trial) == each]
        _add_markers(figure, view, each, [float(place)] * len(found), found, len(rows))
    apply_layout(figure, int(sum(rows)) + 130)
    if strip:
        figure.update_yaxes(
            row=len(rows), col=1, tickvals=list(range(len(strip))), ticktext=[status_name(each) for each in strip],
            range=[len(strip) - 0.4, -0.6], showgrid=False, ticks="",
        )  # fmt: skip
    last = view.trials[-1].number
    figure.update_xaxes(range=[-0.02 * last - 0.6, 1.02 * last + 0.6])
    return figure.update_xaxes(row=len(rows), col=1, title={"text": "trial"})


def _add_objective(figure: go.Figure, view: StudyView, objective: str, row: int) -> None:
    trained = view.measured(objective)
    up = scale(objective, (metric(trial, objective) for trial in trained))
    for each in (Status.pruned, Status.complete):
        found = [trial for trial in trained if status(trial) == each]
        _add_markers(figure, view, each, [up.place(metric(trial, objective)) for trial in found], found, row)
    if steps := view.best_so_far(objective):
        steps.append((view.trials[-1].number, steps[-1][1]))
        line = {"color": LIMIT, "width": 1.5, "shape": "hv"}
        figure.add_scatter(
            x=[number for number, _ in steps], y=[up.place(value) for _, value in steps], mode="lines", line=line,
            name="best so far", hoverinfo="skip", showlegend=row == 1, row=row, col=1,
        )  # fmt: skip
    figure.update_yaxes(row=row, col=1, **up.axis)


def _add_markers(
    figure: go.Figure, view: StudyView, each: Status, heights: list[float], trials: list[FrozenTrial], row: int
) -> None:
    style = STATUS[each]
    figure.add_scatter(
        x=[trial.number for trial in trials], y=heights, mode="markers", name=status_name(each),
        marker={"color": style.colour, "symbol": style.symbol, "size": 9 if len(trials) < 300 else 6},
        hovertext=[hover_text(view, trial) for trial in trials], hoverinfo="text",
        showlegend=row == 1 and bool(trials), legendgroup=each.value, legendrank=list(Status).index(each),
        row=row, col=1,
    )  # fmt: skip


def importance_bars(found: Sequence[Importances] | str) -> go.Figure | str:
    """Shares of each parameter, a colour an objective."""
    if isinstance(found, str):
        return found
    figure = go.Figure()
    names = list(dict.fromkeys(name for each in found for name in each.shares))
    places = list(range(len(names)))
    for each, colour in zip(found, ("#0072b2", "#e69f00", *SERIES[2:]), strict=False):
        shares = [100 * each.shares.get(name, 0.0) for name in names]
        figure.add_bar(
            x=shares, y=places, orientation="h", name=METRICS[each.objective].label, marker={"color": colour},
            text=[f"{share:.0f}%" for share in shares], textposition="outside", cliponaxis=False, hoverinfo="skip",
        )  # fmt: skip
    apply_layout(figure, 110 + 30 * len(names) * len(found), showlegend=len(found) > 1, bargap=0.3)
    figure.update_yaxes(
        tickvals=places, ticktext=[label(name, 32) for name in names], autorange="reversed", showgrid=False,
        ticks="",
    )  # fmt: skip
    largest = max(100 * share for each in found for share in each.shares.values())
    return figure.update_xaxes(title={"text": "importance, % of the total"}, range=[0, 1.15 * largest])


def curves(view: StudyView, trials: Sequence[FrozenTrial]) -> go.Figure | str:
    """Validation loss by epoch of these trials, or by the epochs of each rung, the first of them thickest."""
    if not trials:
        return NO_COMPLETED
    drawn = {trial.number: curve for trial in trials if (curve := view.curve(trial.number))}
    if not drawn:
        return "The trials' folders hold no history.csv, so there are no curves to show."
    up = scale("validation_loss", (loss for curve in drawn.values() for _, loss in curve))
    figure, what = go.Figure(), "rung of" if "rungs" in view.definition else "epoch"
    for (number, curve), colour in zip(drawn.items(), SERIES, strict=False):
        figure.add_scatter(
            x=[epoch for epoch, _ in curve], y=[up.place(loss) for _, loss in curve], mode="lines+markers",
            name=f"trial {number}", line={"color": colour, "width": 3 if number == trials[0].number else 1.5},
            marker={"size": 5}, hovertext=[f"trial {number}, {what} {epoch}<br>validation loss {loss:.4f}"
                                           for epoch, loss in curve], hoverinfo="text",
        )  # fmt: skip
    apply_layout(figure, 430, yaxis=up.axis)
    epochs = sorted({epoch for curve in drawn.values() for epoch, _ in curve})
    if "rungs" in view.definition:
        return figure.update_xaxes(
            title={"text": "epochs of the rung"}, type="log", tickvals=epochs, ticktext=list(map(str, epochs))
        )
    return figure.update_xaxes(title={"text": "epoch"}, dtick=1 if epochs[-1] <= 15 else None, tickformat="d")


def costs(view: StudyView, kind: str) -> go.Figure | str:
    """How the costs of all trials that were composed lie about the limit: those that were let through, and those
    refused."""
    counted = [trial for trial in view.trials if kind in trial.user_attrs and status(trial) != Status.duplicate]
    refused = [metric(trial, kind) for trial in counted if status(trial) == Status.over_budget]
    admitted = [metric(trial, kind) for trial in counted if status(trial) != Status.over_budget]
    what, limit = METRICS[kind].label, view.limit(kind)
    if not refused:
        return f"No trial was refused whose {what} were counted."
    edges = bin_edges([*refused, *admitted], limit if limit is None or kind == "params" else limit + 1)
    places = np.log10(edges)
    figure = go.Figure()
    for name, found, became in (
        ("let through", admitted, Status.complete),
        ("over budget", refused, Status.over_budget),
    ):
        heights = np.histogram(found, edges)[0].tolist()
        ends = [f"{low:,.0f} to {high:,.0f} {what}" for low, high in itertools.pairwise(edges)]
        figure.add_bar(
            x=((places[1:] + places[:-1]) / 2).tolist(), width=0.92 * float(places[1] - places[0]), y=heights,
            name=name, marker={"color": STATUS[became].colour}, hoverinfo="text",
            hovertext=[f"{end}: {height} {name}" for end, height in zip(ends, heights, strict=True)],
        )  # fmt: skip
    across = scale(kind, edges.tolist())
    ticks = {math.log10(tick): text for tick, text in zip(across.ticks, across.labels, strict=True) if tick > 0}
    highest = max(map(sum, zip(*(bar.y for bar in figure.data), strict=True)))
    apply_layout(figure, 320, barmode="stack", legend={"traceorder": "normal"})
    figure.update_yaxes(title={"text": "trials"}, tickformat=",d", range=[0, 1.2 * highest])
    if limit:
        figure.add_vline(x=math.log10(limit), line={"color": LIMIT, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            x=math.log10(limit), y=1, yref="paper", xanchor="left", yanchor="top", xshift=4, showarrow=False,
            text=f"limit: {limit:,}", font={"size": 12, "color": LIMIT}, bgcolor="rgba(255,255,255,0.8)",
        )  # fmt: skip
    room = 0.3 * float(places[1] - places[0])
    return figure.update_xaxes(
        title={"text": across.title}, tickvals=list(ticks), ticktext=list(ticks.values()),
        range=[float(places[0]) - room, float(places[-1]) + room],
    )  # fmt: skip


def bin_edges(values: Sequence[float], limit: int | None) -> NDArray[np.float64]:
    """Edges of bins of equal factors, one of which is the limit: what must be below it is then on one side."""
    start = limit or min(values)
    low, high = min(*values, start), max(*values, start)
    factor = max((high / low) ** (1 / BINS), 1.02)
    below = math.ceil(math.log(start / low) / math.log(factor))
    above = math.floor(math.log(high / start) / math.log(factor)) + 1
    return np.asarray([start * factor**step for step in range(-below, above + 1)])


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates from 0 to 1: where each line meets it (None: nowhere), and its ticks."""

    name: str
    places: list[float | None]
    ticks: list[tuple[float, str]]


def parallel_coordinates(view: StudyView) -> go.Figure | str:
    """The completed trials, at most the LEADERS of a large study, as lines across an axis for each searched
    parameter and objective: three shades by rank, the best on top.

    plotly's own need WebGL and code made at run time, which a page that forbids everything can't have; lines do.
    """
    trials = view.completed[: len(view.leaders)]
    if not trials:
        return NO_COMPLETED
    if not view.searched:
        return "The study's trials have drawn no parameters."
    axes = [_parameter_axis(name, kind, trials) for name, kind in view.searched.items()]
    axes += [_objective_axis(name, trials) for name in view.objectives]
    figure = go.Figure()
    tenth, half = max(1, round(0.1 * len(trials))), max(1, math.ceil(0.5 * len(trials)))
    for name, ranks, colour, width in (
        ("lower half", range(half, len(trials)), "#c9ced6", 1.0),
        ("upper half", range(tenth, half), "#56b4e9", 1.2),
        ("best tenth", range(1, tenth), "#0072b2", 2.0),
        (f"best, trial {trials[0].number}", range(1), BEST, 3.0),
    ):
        if ranks:
            _add_lines(figure, view, axes, ranks, name, {"color": colour, "width": width})
    for position, axis in enumerate(axes):
        _add_axis(figure, position, axis)
    has_gaps = any(None in axis.places for axis in axes)
    apply_layout(figure, 430 if has_gaps else 390, margin={"l": 30, "r": 30, "t": 90, "b": 10})
    figure.update_layout(legend={"y": 1.17})
    figure.update_xaxes(range=[-0.35, len(axes) - 0.55], visible=False)
    return figure.update_yaxes(range=[(ABSENT if has_gaps else 0) - 0.06, 1.04], visible=False)


def _parameter_axis(name: str, kind: BaseDistribution, trials: Sequence[FrozenTrial]) -> Axis:
    values = [trial.params.get(name) for trial in trials]
    if isinstance(kind, CategoricalDistribution):
        # As text: Optuna may give True where 1 is a choice as well.
        choices = list(dict.fromkeys(str(choice) for choice in kind.choices))
        places = {choice: (index + 0.5) / len(choices) for index, choice in enumerate(choices)}
        written = choices[:: math.ceil(len(choices) / MOST_CHOICES)]
        ticks = [(places[choice], value_text(choice)) for choice in written]
        return Axis(name, [None if value is None else places[str(value)] for value in values], ticks)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    low, high = float(kind.low), float(kind.high)
    middle = (low * high) ** 0.5 if kind.log else (low + high) / 2
    marks: list[float] = [low, middle, high] if high > low else [low]
    if isinstance(kind, IntDistribution):
        marks = sorted({round(mark) for mark in marks})
    up = Scale(name, low, high, kind.log, marks, [value_text(mark) for mark in marks])
    ticks = [(up.share(mark), text) for mark, text in zip(up.ticks, up.labels, strict=True)]
    return Axis(name, [None if value is None else up.share(float(value)) for value in values], ticks)


def _objective_axis(name: str, trials: Sequence[FrozenTrial]) -> Axis:
    """The axis of a metric, upwards as in the other figures."""
    figures = [metric(trial, name) for trial in trials]
    up = scale(name, figures)
    ticks = [(up.share(tick), text) for tick, text in zip(up.ticks, up.labels, strict=True)]
    ticks = ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    return Axis(METRICS[name].label, [up.share(up.place(figure)) for figure in figures], ticks)


def _add_lines(
    figure: go.Figure, view: StudyView, axes: list[Axis], ranks: range, name: str, line: dict[str, object]
) -> None:
    """The lines of some trials as one trace, with gaps between them; the worst first, so that the best is on
    top."""
    across: list[int | None] = []
    up: list[float | None] = []
    texts: list[str | None] = []
    for rank in reversed(ranks):
        places = [axis.places[rank] for axis in axes]
        across += [*range(len(axes)), None]
        up += [*(ABSENT if place is None else place for place in places), None]
        texts += [*([hover_text(view, view.completed[rank])] * len(axes)), None]
    crowded = len(ranks) > CROWD
    figure.add_scatter(
        x=across, y=up, mode="lines+markers", line=line, marker={"size": 3 if crowded else 4}, name=name,
        opacity=0.45 if crowded else 1, hovertext=texts, hoverinfo="text", connectgaps=False,
    )  # fmt: skip


def _add_axis(figure: go.Figure, position: int, axis: Axis) -> None:
    figure.add_shape(type="line", x0=position, x1=position, y0=0, y1=1, line={"color": "#777777", "width": 1})
    section, _, leaf = axis.name.rpartition(".")
    parts = [f"{section}.", leaf] if section else axis.name.split(" ", 1)
    title = "<br>".join(label(part, 18) for part in parts)
    figure.add_annotation(
        x=position, y=1.0, yshift=12, text=f"<b>{title}</b>", showarrow=False, yanchor="bottom", font={"size": 12}
    )
    for place, text in [*axis.ticks, *([(ABSENT, "not read")] if None in axis.places else [])]:
        figure.add_annotation(
            x=position, y=place, xshift=-6, text=label(text, 16), showarrow=False, xanchor="right",
            font={"size": 11, "color": "#333333"}, bgcolor="rgba(255,255,255,0.75)", borderpad=1,
        )  # fmt: skip


def confusion_matrix(predictions: Predictions, names: list[str]) -> go.Figure | str:
    """How often each class was taken for each other, over the winner's seeds. Only mistakes are coloured, as the
    right ones outnumber them a hundredfold."""
    if not predictions.labels or not predictions.by_seed:
        return "The final's predictions.csv holds no predictions of the winner."
    counts, classes = predictions.confusion(), list(range(predictions.classes))
    wrong = [[None if true == given else counts[true][given] for given in classes] for true in classes]

    def text(true: int, given: int) -> str:
        became = "recognised" if true == given else f"taken for {label(names[given])}"
        return f"{label(names[true])} {became}: {counts[true][given]:,}"

    figure = go.Figure(
        go.Heatmap(
            z=wrong, x=classes, y=classes, colorscale=[[0, "#ffffff"], [1, "#d55e00"]], zmin=0,
            zmax=max(1, *(count or 0 for row in wrong for count in row)), xgap=1, ygap=1, hoverinfo="text",
            showscale=False, text=[[text(true, given) for given in classes] for true in classes],
        )
    )  # fmt: skip
    for true, given in itertools.product(classes, classes) if len(classes) <= MOST_NUMBERED else []:
        if count := counts[true][given]:
            colour = "#666666" if true == given else "#1a1a1a"
            font = {"size": 11, "color": colour}
            figure.add_annotation(x=given, y=true, text=f"{count:,}", showarrow=False, font=font)
    apply_layout(figure, 130 + min(36 * len(classes), 640))
    ticks = {"tickvals": classes, "ticktext": [label(name, 16) for name in names]} if len(classes) <= 40 else {}
    figure.update_xaxes(title={"text": "predicted class"}, showgrid=False, **ticks)
    return figure.update_yaxes(title={"text": "true class"}, showgrid=False, autorange="reversed", **ticks)
