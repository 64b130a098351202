"""How figures of a study are shown: words, numbers, and the axes on which they stand; colours of states."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from tinysweep.search.space import without_quotes
from tinysweep.search.study import Status

# Colours of Okabe and Ito (2008), which the colour-blind can tell apart, and greys for what taught nothing.
COLOURS = {
    Status.complete: "#0072b2",
    Status.pruned: "#e69f00",
    Status.failed: "#d55e00",
    Status.over_budget: "#cc79a7",
    Status.running: "#009e73",
    Status.invalid: "#444444",
    Status.duplicate: "#56b4e9",
    Status.interrupted: "#888888",
    Status.withdrawn: "#bbbbbb",
}
FRONT, LIMIT, BEST = "#009e73", "#333333", "#d55e00"
SERIES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#999999")  # best first

NAMES = {
    "validation_accuracy": "validation accuracy, %",
    "validation_loss": "validation loss (cross-entropy)",
    "params": "trainable parameters",
    "macs": "multiply-accumulates an image",
    "activation_bytes": "peak activation memory, bytes",
    "seconds": "training time, s",
}
WIDE = 20  # a range of figures whose ends are further apart than this factor is shown on a logarithmic axis
SMALLEST_ERROR = 0.005  # %; a perfect accuracy has no place on a logarithmic axis of errors
STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))


def words(name: str) -> str:
    """A metric or a state as people write it."""
    return {"params": "parameters", "macs": "MACs", "seconds": "training time"}.get(name, name.replace("_", " "))


def shown(name: str, value: float | None) -> str:
    """A figure as people read it."""
    if value is None or not math.isfinite(value):
        return "–"
    if name.endswith("accuracy"):
        return f"{100 * value:.2f}%"
    if name.endswith("loss"):
        return f"{value:.4f}"
    return f"{value:,.1f} s" if name == "seconds" else f"{value:,.0f}"


def short(value: object) -> str:
    """A parameter as people read it."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(without_quotes(value))


@dataclass(frozen=True)
class Scale:
    """An axis: its title, its ends, and the ticks with what is written at them, in the units of `place`."""

    title: str
    accuracy: bool  # errors in per cent, the smallest on top, with accuracies written at the ticks
    log: bool
    low: float
    high: float
    ticks: list[float]
    labels: list[str]

    def place(self, value: float) -> float:
        """Where a figure stands."""
        if self.accuracy:
            return max(100 * (1 - value), SMALLEST_ERROR)
        return max(value, self.low) if self.log else value


def scale(name: str, figures: Iterable[float]) -> Scale:
    """The axis of a metric on which all of these figures can be seen.

    Accuracies stand by their error on a logarithmic axis, and so do losses, so that equal steps are equal factors
    and a few bad trials don't press the good ones together.
    """
    values = [value for value in figures if math.isfinite(value)] or [1.0]
    title = NAMES[name]
    if name == "validation_accuracy":
        errors = [max(100 * (1 - value), SMALLEST_ERROR) for value in values]
        low, high = _padded(min(errors), max(errors))
        ticks = _log_ticks(low, min(high, 100.0))
        return Scale(title, True, True, low, high, ticks, [f"{round(100 - tick, 6):.6g}" for tick in ticks])
    positive = [value for value in values if value > 0] or [1.0]
    if name == "validation_loss" or max(positive) > WIDE * min(positive):
        low, high = _padded(min(positive), max(positive))
        ticks = _log_ticks(low, high)
        return Scale(title, False, True, low, high, ticks, [f"{tick:,.6g}" for tick in ticks])
    low, high = _linear_ends(min(values), max(values))
    inside = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = [float(tick) for tick in inside if low <= tick <= high]
    return Scale(title, False, False, low, high, ticks, [f"{tick:,.6g}" for tick in ticks])


def _linear_ends(low: float, high: float) -> tuple[float, float]:
    """Ends of a linear axis: from 0, unless that would press all figures into the far half of it."""
    if 0 < high < 2 * low:
        room = 0.08 * (high - low) or 0.08 * high
        return low - room, high + room
    return 0.0, 1.08 * high or 1.0


def _padded(low: float, high: float) -> tuple[float, float]:
    """Ends of a logarithmic axis with room beside the outermost figures, and never too near each other."""
    room = max((high / low) ** 0.07, 1.05 if high > low else 1.3)
    return low / room, high * room


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis, from four to ten of them where that can be."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in STEPS:
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks
    inside = MaxNLocator(9, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in inside if low <= tick <= high and tick > 0]
