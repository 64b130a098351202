"""The figures of a report as plotly draws them; each function gives the figure, or in one sentence why there is
none."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from plotly.subplots import make_subplots

from tinysweep.report.importance import Importances
from tinysweep.report.look import SYMBOLS, axis, label, layout, tell
from tinysweep.report.style import BEST, COLOURS, FRONT, LIMIT, SERIES, scale, words
from tinysweep.results.view import StudyView
from tinysweep.search.study import Status, status
from tinysweep.search.table import metric

NO_COMPLETED = "No trial has completed yet."
BINS = 24


def accuracy_parameters(view: StudyView, winner: int | None) -> go.Figure | str:
    """Validation accuracy of the completed trials against their parameters, the Pareto front of the two, and the
    budget."""
    if not view.completed:
        return NO_COMPLETED
    limit, front = view.limit("params"), view.front()
    across = scale("params", [*(metric(trial, "params") for trial in view.completed), *([limit] if limit else [])])
    up = scale("validation_accuracy", (metric(trial, "validation_accuracy") for trial in view.completed))

    def points(name: str, trials: Sequence[FrozenTrial], **style: Any) -> go.Scatter:
        return go.Scatter(
            name=name,
            x=[across.place(metric(trial, "params")) for trial in trials],
            y=[up.place(metric(trial, "validation_accuracy")) for trial in trials],
            hovertext=[tell(view, trial) for trial in trials],
            hoverinfo="text",
            **style,
        )

    figure = go.Figure()
    members = {trial.number for trial in front}
    others = [trial for trial in view.completed if trial.number not in members]
    plain = {"color": COLOURS[Status.complete], "size": 8, "opacity": 0.75}
    figure.add_trace(points("completed", others, mode="markers", marker=plain))
    line = {"color": FRONT, "width": 2, "shape": "hv"}
    figure.add_trace(points("Pareto front", front, mode="lines+markers", line=line, marker={"size": 10}))
    chosen = [trial for trial in view.completed if trial.number == winner]
    figure.add_trace(
        points(f"trial {winner}", chosen, mode="markers", marker={"color": BEST, "size": 15, "symbol": "star"})
    )
    if limit:
        figure.add_vline(x=limit, line={"color": LIMIT, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            x=math.log10(limit) if across.log else limit, y=0, yref="paper", yanchor="bottom", xanchor="right",
            xshift=-5, text=f"budget: fewer than {limit:,}", showarrow=False, font={"size": 12, "color": LIMIT},
        )  # fmt: skip
    return layout(figure, 460, xaxis=axis(across), yaxis=axis(up))


def history(view: StudyView) -> go.Figure | str:
    """Each objective by trial, the best so far, and a strip of the trials that have no figure."""
    if not view.trials:
        return "No trial has begun yet."
    kept = {trial.number for objective in view.objectives for trial in view.measured(objective)}
    bare = [trial for trial in view.trials if trial.number not in kept]
    states = [state for state in Status if any(status(trial) == state for trial in bare)]
    rows = [300.0] * len(view.objectives) + ([40.0 + 24 * len(states)] if states else [])
    figure = make_subplots(len(rows), 1, shared_xaxes=True, vertical_spacing=0.04, row_heights=rows)
    for row, objective in enumerate(view.objectives, 1):
        _progress(figure, view, objective, row)
    for state in states:
        found = [trial for trial in bare if status(trial) == state]
        _markers(figure, view, state, [float(states.index(state))] * len(found), found, len(rows))
    layout(figure, int(sum(rows)) + 130)
    if states:
        figure.update_yaxes(
            row=len(rows), col=1, tickvals=list(range(len(states))), ticktext=[words(state) for state in states],
            range=[len(states) - 0.4, -0.6], showgrid=False, ticks="",
        )  # fmt: skip
    last = view.trials[-1].number
    figure.update_xaxes(range=[-0.02 * last - 0.6, 1.02 * last + 0.6])
    return figure.update_xaxes(row=len(rows), col=1, title={"text": "trial"})


def _progress(figure: go.Figure, view: StudyView, objective: str, row: int) -> None:
    trained = view.measured(objective)
    up = scale(objective, (float(trial.user_attrs[objective]) for trial in trained))
    for state in (Status.pruned, Status.complete):
        found = [trial for trial in trained if status(trial) == state]
        heights = [up.place(float(trial.user_attrs[objective])) for trial in found]
        _markers(figure, view, state, heights, found, row)
    steps = view.best_so_far(objective)
    if steps:
        steps.append((view.trials[-1].number, steps[-1][1]))
        line = {"color": LIMIT, "width": 1.5, "shape": "hv"}
        figure.add_scatter(
            x=[number for number, _ in steps], y=[up.place(value) for _, value in steps], mode="lines", line=line,
            name="best so far", hoverinfo="skip", showlegend=row == 1, row=row, col=1,
        )  # fmt: skip
    figure.update_yaxes(row=row, col=1, **axis(up))


def _markers(
    figure: go.Figure, view: StudyView, state: Status, heights: list[float], trials: list[FrozenTrial], row: int
) -> None:
    figure.add_scatter(
        x=[trial.number for trial in trials], y=heights, mode="markers", name=words(state),
        marker={"color": COLOURS[state], "symbol": SYMBOLS[state], "size": 9 if len(trials) < 300 else 6},
        hovertext=[tell(view, trial) for trial in trials], hoverinfo="text", showlegend=row == 1 and bool(trials),
        legendgroup=state.value, legendrank=list(Status).index(state), row=row, col=1,
    )  # fmt: skip


def importance_bars(found: Sequence[Importances]) -> go.Figure:
    """Shares of each parameter, a colour an objective."""
    figure = go.Figure()
    names = list(dict.fromkeys(name for each in found for name in each.shares))
    for each, colour in zip(found, ("#0072b2", "#e69f00", *SERIES[2:]), strict=False):
        shares = [100 * each.shares.get(name, 0.0) for name in names]
        figure.add_bar(
            x=shares, y=list(range(len(names))), orientation="h", name=words(each.objective),
            marker={"color": colour}, text=[f"{share:.0f}%" for share in shares], textposition="outside",
            cliponaxis=False, hoverinfo="skip",
        )  # fmt: skip
    layout(figure, 110 + 30 * len(names) * len(found), showlegend=len(found) > 1, bargap=0.3)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[label(name, 32) for name in names], autorange="reversed",
        showgrid=False, ticks="",
    )  # fmt: skip
    largest = max(100 * share for each in found for share in each.shares.values())
    return figure.update_xaxes(title={"text": "importance, % of the total"}, range=[0, 1.15 * largest])


def curves(view: StudyView, trials: Sequence[FrozenTrial]) -> go.Figure | str:
    """Validation loss by epoch of these trials, the first of them thickest."""
    found = {trial.number: view.curve(trial.number) for trial in trials}
    drawn = {number: curve for number, curve in found.items() if curve}
    if not drawn:
        return (
            "The trials' folders hold no history.csv, so there are no curves to show." if found else NO_COMPLETED
        )
    up = scale("validation_loss", (loss for curve in drawn.values() for _, loss in curve))
    figure = go.Figure()
    for (number, curve), colour in zip(drawn.items(), SERIES, strict=False):
        figure.add_scatter(
            x=[epoch for epoch, _ in curve], y=[up.place(loss) for _, loss in curve], mode="lines+markers",
            name=f"trial {number}", line={"color": colour, "width": 3 if number == trials[0].number else 1.5},
            marker={"size": 5}, hovertext=[f"trial {number}, epoch {epoch}<br>validation loss {loss:.4f}"
                                           for epoch, loss in curve], hoverinfo="text",
        )  # fmt: skip
    last = max(epoch for curve in drawn.values() for epoch, _ in curve)
    layout(figure, 430, yaxis=axis(up))
    return figure.update_xaxes(title={"text": "epoch"}, dtick=1 if last <= 15 else None, tickformat="d")


def costs(view: StudyView, kind: str) -> go.Figure | str:
    """How the costs of all trials that were composed lie about the limit: those that were let through, and those
    refused."""
    counted = [trial for trial in view.trials if kind in trial.user_attrs and status(trial) != Status.duplicate]
    refused = [metric(trial, kind) for trial in counted if status(trial) == Status.over_budget]
    admitted = [metric(trial, kind) for trial in counted if status(trial) != Status.over_budget]
    if not refused:
        return f"No trial was refused whose {words(kind)} were counted."
    limit = view.limit(kind)
    edges = bins([*refused, *admitted], limit if limit is None or kind == "params" else limit + 1)
    figure = go.Figure()
    for name, found, colour in (
        ("let through", admitted, COLOURS[Status.complete]),
        ("over budget", refused, COLOURS[Status.over_budget]),
    ):
        heights, _ = np.histogram(found, edges)
        places = np.log10(edges)
        ends = [f"{low:,.0f} to {high:,.0f} {words(kind)}" for low, high in itertools.pairwise(edges)]
        figure.add_bar(
            x=((places[1:] + places[:-1]) / 2).tolist(), width=0.92 * float(places[1] - places[0]),
            y=heights.tolist(), name=name, marker={"color": colour},
            hovertext=[f"{end}: {height} {name}" for end, height in zip(ends, heights, strict=True)],
            hoverinfo="text",
        )  # fmt: skip
    across = scale(kind, edges.tolist())
    ticks = [math.log10(tick) for tick in across.ticks if tick > 0]
    labels = [text for tick, text in zip(across.ticks, across.labels, strict=True) if tick > 0]
    highest = max(sum(bar.y[index] for bar in figure.data) for index in range(len(edges) - 1))
    layout(figure, 320, barmode="stack", legend={"traceorder": "normal"})
    figure.update_yaxes(title={"text": "trials"}, tickformat=",d", range=[0, 1.2 * highest])
    if limit:
        figure.add_vline(x=math.log10(limit), line={"color": LIMIT, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            x=math.log10(limit), y=1, yref="paper", xanchor="left", yanchor="top", xshift=4, showarrow=False,
            text=f"limit: {limit:,}", font={"size": 12, "color": LIMIT}, bgcolor="rgba(255,255,255,0.8)",
        )  # fmt: skip
    room = 0.3 * float(np.log10(edges[1] / edges[0]))
    ends_at = [float(np.log10(edges[0])) - room, float(np.log10(edges[-1])) + room]
    return figure.update_xaxes(title={"text": across.title}, tickvals=ticks, ticktext=labels, range=ends_at)


def bins(values: Sequence[float], limit: int | None) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Edges of bins of equal factors, one of which is the limit: what must be below it is then on one side."""
    start = limit or min(values)
    low, high = min(*values, start), max(*values, start)
    factor = max((high / low) ** (1 / BINS), 1.02)
    below = math.ceil(math.log(start / low) / math.log(factor))
    above = math.floor(math.log(high / start) / math.log(factor)) + 1
    return np.asarray([start * factor**step for step in range(-below, above + 1)])
