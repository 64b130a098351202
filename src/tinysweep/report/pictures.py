"""The main figures of a study as PNG files, for a README or a slide."""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter
from optuna.trial import FrozenTrial

from tinysweep.data.pictures import OWN
from tinysweep.files import write_whole
from tinysweep.report.importance import Importances
from tinysweep.report.style import BEST, COLOURS, FRONT, LIMIT, SERIES, Scale, scale, words
from tinysweep.results.view import StudyView
from tinysweep.search.study import Status, status
from tinysweep.search.table import metric

MARKERS = {Status.complete: "o", Status.pruned: "v"}
LONGEST = 40  # letters of a name
Picture = Callable[[Figure], str | None]  # draws; or says in one sentence why it can't


def draw_all(view: StudyView, winner: int | None, found: Sequence[Importances] | str, best: int) -> list[Path]:
    """Draw the four pictures into the study's folder `figures`; one that can't be had says why.

    `found`: the importances; `best`: how many trials' curves are shown.
    """
    pictures: dict[str, tuple[str, Picture]] = {
        "search_history": ("search history", lambda figure: search_history(figure, view)),
        "accuracy_parameters": (
            "accuracy against parameters",
            lambda figure: accuracy_parameters(figure, view, winner),
        ),
        "importances": ("what mattered", lambda figure: importance_bars(figure, found)),
        "curves": ("the best trials", lambda figure: curves(figure, view, best)),
    }
    folder = view.folder / "figures"
    folder.mkdir(exist_ok=True)
    for name, (title, picture) in pictures.items():
        write_whole(folder / f"{name}.png", png(picture, f"{clipped(view.name)}: {title}"))
    return [folder / f"{name}.png" for name in pictures]


def png(picture: Picture, title: str) -> bytes:
    """A picture as a PNG."""
    # A name may hold $, which is no formula, and letters that the font lacks, which show as boxes.
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        if why := picture(figure):
            figure.clear()
            figure.text(0.5, 0.5, why, ha="center", va="center", color="#555555", wrap=True)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, metadata=OWN)
    return stream.getvalue()


def clipped(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def accuracy_parameters(figure: Figure, view: StudyView, winner: int | None) -> str | None:
    """Validation accuracy of the completed trials against parameters, their Pareto front, and the budget."""
    if not view.completed:
        return "No trial has completed yet."
    limit, front = view.limit("params"), view.front()
    across = scale("params", [*(metric(trial, "params") for trial in view.completed), *([limit] if limit else [])])
    up = scale("validation_accuracy", (metric(trial, "validation_accuracy") for trial in view.completed))
    axes = _axes(figure)[0]

    def places(trials: Sequence[FrozenTrial]) -> tuple[list[float], list[float]]:
        return (
            [across.place(metric(trial, "params")) for trial in trials],
            [up.place(metric(trial, "validation_accuracy")) for trial in trials],
        )

    members = {trial.number for trial in front}
    others = [trial for trial in view.completed if trial.number not in members]
    axes.plot(*places(others), "o", color=COLOURS[Status.complete], alpha=0.75, ms=6, label="completed")
    axes.step(*places(front), "o-", where="post", color=FRONT, ms=7, label="Pareto front")
    chosen = [trial for trial in view.completed if trial.number == winner]
    axes.plot(*places(chosen), "*", color=BEST, ms=15, label=f"trial {winner}" if chosen else "_")
    if limit:
        axes.axvline(limit, color=LIMIT, ls="--", lw=1.2, label=f"budget: fewer than {limit:,}")
    _apply(axes, "x", across)
    _apply(axes, "y", up)
    _legend(axes, 4)
    return None


def search_history(figure: Figure, view: StudyView) -> str | None:
    """Each objective by trial and the best so far; below, the trials that have no figure, by their state."""
    if not view.trials:
        return "No trial has begun yet."
    kept = {trial.number for name in view.objectives for trial in view.measured(name)}
    bare = [trial for trial in view.trials if trial.number not in kept]
    states = [state for state in Status if any(status(trial) == state for trial in bare)]
    rows = [3.0] * len(view.objectives) + ([0.3 + 0.25 * len(states)] if states else [])
    figure.set_size_inches(8, 1.3 + sum(rows))
    panels = _axes(figure, rows)
    for axes, objective in zip(panels, view.objectives, strict=False):
        _progress(axes, view, objective)
    _legend(panels[0], 3)
    if states:
        for place, state in enumerate(states):
            numbers = [trial.number for trial in bare if status(trial) == state]
            panels[-1].plot(numbers, [place] * len(numbers), "s", ms=5, color=COLOURS[state])
        panels[-1].set(yticks=range(len(states)), yticklabels=[words(state) for state in states])
        panels[-1].set_ylim(len(states) - 0.5, -0.5)
        panels[-1].grid(axis="y", visible=False)
    panels[-1].set_xlabel("trial")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return None


def _progress(axes: Axes, view: StudyView, objective: str) -> None:
    trained = view.measured(objective)
    up = scale(objective, (float(trial.user_attrs[objective]) for trial in trained))
    for state, marker in MARKERS.items():
        found = [trial for trial in trained if status(trial) == state]
        heights = [up.place(float(trial.user_attrs[objective])) for trial in found]
        if found:
            numbers, size = [trial.number for trial in found], 6 if len(found) < 300 else 3
            axes.plot(numbers, heights, marker, color=COLOURS[state], ms=size, label=words(state))
    steps = view.best_so_far(objective)
    if steps:
        steps = [*steps, (view.trials[-1].number, steps[-1][1])]
        line = [up.place(value) for _, value in steps]
        axes.step([number for number, _ in steps], line, where="post", color=LIMIT, lw=1.2, label="best so far")
    _apply(axes, "y", up)


def importance_bars(figure: Figure, found: Sequence[Importances] | str) -> str | None:
    """Shares of each parameter, a colour an objective."""
    if isinstance(found, str):
        return found
    names = list(dict.fromkeys(name for each in found for name in each.shares))
    figure.set_size_inches(8, 1.3 + 0.32 * len(names) * len(found))
    axes = _axes(figure)[0]
    thick = 0.75 / len(found)
    for index, (each, colour) in enumerate(zip(found, ("#0072b2", "#e69f00", *SERIES[2:]), strict=False)):
        shares = [100 * each.shares.get(name, 0.0) for name in names]
        places = [place + (index - (len(found) - 1) / 2) * thick for place in range(len(names))]
        bars = axes.barh(places, shares, thick, color=colour, label=words(each.objective))
        axes.bar_label(bars, [f"{share:.0f}%" for share in shares], padding=4, fontsize=9)
    axes.set(xlabel=f"importance, % of the total ({found[0].method}, {found[0].trials:,} trials)")
    axes.set(yticks=range(len(names)), yticklabels=[clipped(name) for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    if len(found) > 1:
        _legend(axes, len(found))
    return None


def curves(figure: Figure, view: StudyView, best: int) -> str | None:
    """Validation loss by epoch of the best trials, the first of them thickest."""
    found = {trial.number: view.curve(trial.number) for trial in view.completed[:best]}
    drawn = {number: curve for number, curve in found.items() if curve}
    if not drawn:
        return "The trials' folders hold no curves." if found else "No trial has completed yet."
    up = scale("validation_loss", (loss for curve in drawn.values() for _, loss in curve))
    axes = _axes(figure)[0]
    for (number, curve), colour in zip(drawn.items(), SERIES, strict=False):
        epochs, heights = [epoch for epoch, _ in curve], [up.place(loss) for _, loss in curve]
        width = 2.6 if number == view.completed[0].number else 1.3
        axes.plot(epochs, heights, "o-", ms=3.5, lw=width, color=colour, label=f"trial {number}")
    _apply(axes, "y", up)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9, ncols=2)
    return None


def _axes(figure: Figure, rows: Sequence[float] = (1.0,)) -> list[Axes]:
    """Panels below each other that share the horizontal axis, with the look that all pictures share."""
    panels = figure.subplots(len(rows), 1, sharex=True, height_ratios=rows, squeeze=False)[:, 0]
    for axes in panels:
        axes.grid(color="#ececec")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return list(panels)


def _legend(axes: Axes, columns: int) -> None:
    """A legend above the panel, where it hides nothing; none if there is nothing to name."""
    if axes.get_legend_handles_labels()[0]:
        corner, pad = (0, 1), 0.2
        axes.legend(
            loc="lower left", bbox_to_anchor=corner, borderaxespad=pad, ncols=columns, frameon=False, fontsize=9
        )


def _apply(axes: Axes, which: str, measured: Scale) -> None:
    """Put a scale on the x or y axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    ends = (measured.high, measured.low) if measured.accuracy else (measured.low, measured.high)
    if measured.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(*ends)
    axis.set_major_locator(FixedLocator(measured.ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels(measured.labels)
    axis.set_label_text(measured.title)
