"""The figures of a report as parts of its page: each with its caption, or the sentence that says why it isn't
there."""

import json

import plotly.graph_objects as go

from tinysweep.report import figures
from tinysweep.report.importance import FEW, Importances
from tinysweep.report.markup import Html, tag
from tinysweep.report.parallel import parallel
from tinysweep.report.style import words
from tinysweep.results.view import LEADERS, StudyView

BEST_CURVES = 8
AXIS_PIXELS = 112  # that an axis of parallel coordinates needs to be read
HISTORY = (
    "Each point is a trial: its figure when it ended, or when it was stopped. The line is the best completed "
    "trial until then. The strip holds the trials that have no figure."
)


def plot(
    figure: go.Figure | str, label: str, caption: str, least: int | None = None, narrow: bool = False
) -> Html:
    """A figure with its caption, or the sentence that says why there is none. `least`: pixels below which it
    scrolls sideways instead of shrinking; `narrow`: whether it would be too wide at the width of the page."""
    if isinstance(figure, str):
        return tag("p", figure, class_="note")
    # Within a script nothing is escaped but by JSON itself, and a < could end the script.
    data = json.dumps(json.loads(figure.to_json()), separators=(",", ":")).replace("<", "\\u003c")
    height = f"height: {figure.layout.height}px" + (f"; min-width: {least}px" if least else "")
    return tag(
        "figure",
        tag(
            "div",
            tag("div", class_="plot", style=height, role="img", aria_label=label),
            tag("script", Html(data), type="application/json"),
            class_="scroll",
        ),
        tag("figcaption", caption),
        class_="figure narrow" if narrow else "figure",
    )


def accuracy(view: StudyView, winner: int | None) -> Html:
    caption = (
        "The completed trials by accuracy on validation images; equal steps upwards are equal factors of the "
        "error. No trial beats one on the Pareto front with as few parameters. "
    )
    if view.completed and winner == view.completed[0].number:
        caption += f"The star is trial {winner}, the best by {words(view.objectives[0])}."
    else:
        caption += f"The star is trial {winner}, which won the final."
    return plot(figures.accuracy_parameters(view, winner), "accuracy against parameters", caption)


def importance(important: list[Importances] | str) -> Html:
    if isinstance(important, str):
        return tag("p", important, class_="note")
    first = important[0]
    meaning = {
        "fANOVA": "the part of the differences that each parameter explains by itself, by fANOVA",
        "PED-ANOVA": "how much the values of the best tenth differ from those of all, by PED-ANOVA",
    }[first.method]
    aims = " and ".join(words(each.objective) for each in important)
    caption = f"For {aims}: {meaning}, over {first.trials:,} completed trials."
    if first.trials < FEW:
        caption += " So few trials give a hint, not a measurement."
    if first.left_out:
        caption += f" Left out, as they do not vary or not every trial draws them: {', '.join(first.left_out)}."
    return plot(figures.importance_bars(important), "importance of each parameter", caption)


def parameters(view: StudyView) -> Html:
    some = f", of the best {LEADERS}" if len(view.completed) > LEADERS else ""
    caption = (
        f"Each line is a completed trial{some}, coloured by its rank in {words(view.objectives[0])}. Where the "
        "blue lines meet, good trials agree on a value. A click on the legend hides a group."
    )
    least = AXIS_PIXELS * (len(view.searched) + len(view.objectives))
    return plot(parallel(view), "parallel coordinates", caption, least)


def curves(view: StudyView) -> Html:
    best = view.completed[:BEST_CURVES]
    caption = (
        f"Validation loss of the best {len(best)} trials after each epoch, logarithmic; the best is thickest."
    )
    return plot(figures.curves(view, best), "learning curves", caption)


def history(view: StudyView) -> Html:
    return plot(figures.history(view), "search history", HISTORY)
