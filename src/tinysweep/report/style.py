"""The look that the figures of a report share: colours, axes on which every trial can be read, and text."""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from matplotlib.ticker import MaxNLocator

from tinysweep.metrics import METRICS
from tinysweep.search.space import without_quotes
from tinysweep.search.study import Status


@dataclass(frozen=True)
class StatusStyle:
    """How trials of a status are drawn, and what a page says of them."""

    colour: str
    symbol: str  # as plotly names it
    meaning: str


# Colours of Okabe and Ito (2008), which the colour-blind can tell apart, and greys for what taught nothing.
STATUS = {
    Status.complete: StatusStyle("#0072b2", "circle", "trained to the end"),
    Status.pruned: StatusStyle("#e69f00", "triangle-down", "stopped early, as others did better by then"),
    Status.failed: StatusStyle("#d55e00", "x", "raised an error, diverged or lost its worker"),
    Status.over_budget: StatusStyle(
        "#cc79a7", "square", "refused before training, as it costs more than the budget allows"
    ),
    Status.running: StatusStyle("#009e73", "star", "in training when this page was made"),
    Status.invalid: StatusStyle("#444444", "cross", "refused before training, as a setting breaks its rule"),
    Status.duplicate: StatusStyle(
        "#56b4e9", "diamond", "not trained, as another trial has the same configuration"
    ),
    Status.interrupted: StatusStyle("#888888", "hourglass", "cut short, and proposed again"),
    Status.withdrawn: StatusStyle(
        "#bbbbbb", "circle-open", "not trained, as other sweepers made up the number of trials"
    ),
}
FRONT, LIMIT, BEST = "#009e73", "#333333", "#d55e00"
SERIES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#999999")  # best first
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

WIDE = 20  # figures whose ends are further apart than this factor stand on a logarithmic axis
SMALLEST_ERROR = 0.005  # %; a perfect accuracy has no place on a logarithmic axis of errors
STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))


def status_name(status: Status) -> str:
    """A status as people write it."""
    return status.replace("_", " ")


def value_text(value: object) -> str:
    """The value of a searched parameter as people read it."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(without_quotes(value))


def label(content: object, most: int = 60) -> str:
    """Text for plotly, which takes <b>, <a> and entities in every label for markup."""
    plain = str(content)
    return html.escape(plain if len(plain) <= most else plain[: most - 1] + "…", quote=False)


def apply_layout(figure: go.Figure, height: int, **settings: Any) -> go.Figure:
    """Give a figure the look that all share, and settings of its own."""
    figure.update_layout(
        template="none", height=height, autosize=True, font={"family": FONT, "size": 13, "color": "#1a1a1a"},
        paper_bgcolor="#ffffff", plot_bgcolor="#ffffff", margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": "#999999", "align": "left",
                    "font": {"family": FONT, "size": 12, "color": "#1a1a1a"}},
        hovermode="closest",
    )  # fmt: skip
    shared = {"gridcolor": "#ececec", "linecolor": "#999999", "zeroline": False, "automargin": True}
    figure.update_xaxes(ticks="outside", **shared)
    figure.update_yaxes(ticks="outside", title_standoff=14, **shared)
    return figure.update_layout(**settings)


@dataclass(frozen=True)
class Scale:
    """An axis: its title, its ends, and the ticks with what is written at them, in the units of `place`."""

    title: str
    low: float
    high: float
    log: bool
    ticks: list[float]
    labels: list[str]
    by_error: bool = False  # an accuracy stands by its error in per cent, the smallest on top

    def place(self, value: float) -> float:
        """Where a figure stands."""
        if self.by_error:
            return max(100 * (1 - value), SMALLEST_ERROR)
        return max(value, self.low) if self.log else value

    def share(self, place: float) -> float:
        """How far up the axis a place is, from 0 to 1."""
        if self.high == self.low:
            return 0.5
        if self.log:
            share = math.log(place / self.low) / math.log(self.high / self.low)
        else:
            share = (place - self.low) / (self.high - self.low)
        return 1 - share if self.by_error else share

    @property
    def axis(self) -> dict[str, Any]:
        """The axis as plotly wants it."""
        ends = [self.high, self.low] if self.by_error else [self.low, self.high]
        return {
            "title": {"text": self.title},
            "type": "log" if self.log else "linear",
            "range": [math.log10(end) for end in ends] if self.log else ends,
            "tickvals": self.ticks,
            "ticktext": self.labels,
        }


def scale(name: str, figures: Iterable[float]) -> Scale:
    """The axis of a metric on which all of these figures can be seen.

    Accuracies stand by their error on a logarithmic axis, and so do losses, so that equal steps are equal factors
    and a few bad trials don't press the good ones together.
    """
    values = [value for value in figures if math.isfinite(value)] or [1.0]
    title = METRICS[name].title
    if name == "validation_accuracy":
        errors = [max(100 * (1 - value), SMALLEST_ERROR) for value in values]
        low, high = _pad(min(errors), max(errors))
        ticks = _log_ticks(low, min(high, 100.0))
        return Scale(title, low, high, True, ticks, [f"{round(100 - tick, 6):.6g}" for tick in ticks], True)
    positive = [value for value in values if value > 0] or [1.0]
    log = name == "validation_loss" or max(positive) > WIDE * min(positive)
    if log:
        low, high = _pad(min(positive), max(positive))
        ticks = _log_ticks(low, high)
    else:
        low, high = _linear_ends(min(values), max(values))
        ticks = _round_ticks(low, high, 6, [1, 2, 5, 10])
    return Scale(title, low, high, log, ticks, [f"{tick:,.6g}" for tick in ticks])


def _linear_ends(low: float, high: float) -> tuple[float, float]:
    """Ends of a linear axis: from 0, unless that would press all figures into the far half of it."""
    if 0 < high < 2 * low:
        room = 0.08 * (high - low) or 0.08 * high
        return low - room, high + room
    return 0.0, 1.08 * high or 1.0


def _pad(low: float, high: float) -> tuple[float, float]:
    """Ends of a logarithmic axis with room beside the outermost figures, and never too near each other."""
    room = max((high / low) ** 0.07, 1.05 if high > low else 1.3)
    return low / room, high * room


def _round_ticks(low: float, high: float, most: int, steps: list[float]) -> list[float]:
    return [float(tick) for tick in MaxNLocator(most, steps=steps).tick_values(low, high) if low <= tick <= high]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis, from four to ten of them where that can be."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in STEPS:
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks
    return [tick for tick in _round_ticks(low, high, 9, [1, 2, 2.5, 5, 10]) if tick > 0]
