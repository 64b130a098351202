"""What the figures of a report share: their look, the symbols of states, and what shows where a person points."""

import html
import math
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from tinysweep.report.style import Scale, short, shown, words
from tinysweep.results.view import StudyView
from tinysweep.search.study import Status, status

SYMBOLS = {
    Status.complete: "circle",
    Status.pruned: "triangle-down",
    Status.failed: "x",
    Status.over_budget: "square",
    Status.running: "star",
    Status.invalid: "cross",
    Status.duplicate: "diamond",
    Status.interrupted: "hourglass",
    Status.withdrawn: "circle-open",
}
MOST_TOLD = 1000  # trials; all that is known of thousands would swell the page
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def label(content: object, most: int = 60) -> str:
    """Text for plotly, which takes <b>, <a> and entities in every label for markup."""
    plain = str(content)
    return html.escape(plain if len(plain) <= most else plain[: most - 1] + "…", quote=False)


def layout(figure: go.Figure, height: int, **settings: Any) -> go.Figure:
    """The look that all figures share."""
    figure.update_layout(
        template="none", height=height, autosize=True, font={"family": FONT, "size": 13, "color": "#1a1a1a"},
        paper_bgcolor="#ffffff", plot_bgcolor="#ffffff", margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": "#999999", "align": "left",
                    "font": {"family": FONT, "size": 12, "color": "#1a1a1a"}},
        hovermode="closest",
    )  # fmt: skip
    figure.update_xaxes(gridcolor="#ececec", linecolor="#999999", zeroline=False, automargin=True, ticks="outside")
    figure.update_yaxes(gridcolor="#ececec", linecolor="#999999", zeroline=False, automargin=True, ticks="outside")
    return figure.update_layout(**settings)


def axis(measured: Scale) -> dict[str, Any]:
    """A scale as plotly wants it."""
    ends = [measured.high, measured.low] if measured.accuracy else [measured.low, measured.high]
    return {
        "title": {"text": measured.title},
        "type": "log" if measured.log else "linear",
        "range": [math.log10(end) for end in ends] if measured.log else ends,
        "tickvals": measured.ticks,
        "ticktext": measured.labels,
    }


def tell(view: StudyView, trial: FrozenTrial) -> str:
    """What is shown where a person points at a trial; of the many of a large study, only what it came to."""
    notes = trial.user_attrs
    told = len(view.trials) <= MOST_TOLD or trial.number in view.leaders
    more = ["validation_accuracy", "validation_loss", "params", "macs"] if told else []
    lines = [f"<b>trial {trial.number}</b>, {label(words(status(trial)))}"]
    names = dict.fromkeys([*view.objectives, *more])
    lines += [f"{words(name)} {shown(name, notes[name])}" for name in names if notes.get(name) is not None]
    if told and status(trial) != Status.complete and notes.get("reason"):
        lines.append(label(notes["reason"], 90))
    elif told:
        lines += [f"{label(name)} = {label(short(value))}" for name, value in trial.params.items()]
    return "<br>".join(lines)
