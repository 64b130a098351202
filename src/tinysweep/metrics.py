"""The metrics: the only place that knows which way is better, what each is called and how it is written."""

import math
from dataclasses import dataclass
from typing import Literal

PER_CENT, LOSS, COUNT, SECONDS = "per cent", "loss", "count", "seconds"


@dataclass(frozen=True)
class Metric:
    """What a metric is called in a sentence, on an axis and above a column, and how its figures are written."""

    name: str  # its key in records, trials.csv and hydra.sweeper.objective
    label: str
    title: str
    header: str
    format: str  # PER_CENT, LOSS, COUNT or SECONDS
    higher_is_better: bool = False
    each_epoch: bool = False  # known after every epoch, so that a pruner can compare it

    def text(self, value: float | None, deviation: float | None = None) -> str:
        """A figure as people read it, with its standard deviation if it is a mean of several that differ."""
        if value is None or not math.isfinite(value):
            return "–"
        if deviation:
            sd = f"{100 * deviation:.2f}" if self.format == PER_CENT else self.text(deviation).removesuffix(" s")
            return f"{self.text(value)} ± {sd}"
        if self.format == PER_CENT:
            return f"{100 * value:.2f}%"
        if self.format == LOSS:
            return f"{value:.4f}"
        return f"{value:,.1f} s" if self.format == SECONDS else f"{value:,.0f}"

    def possible(self, value: float) -> float:
        """The nearest figure that can be: the interval of a mean of few seeds may end beyond."""
        return min(1.0, max(0.0, value)) if self.format == PER_CENT else max(0.0, value)

    def difference(self, value: float) -> str:
        """A figure less another, with its sign."""
        if value == 0:
            return "same"
        if self.format == PER_CENT:
            return f"{100 * value:+.2f} points"
        if self.format == LOSS:
            return f"{value:+.2g}"
        return f"{value:+,.1f} s" if self.format == SECONDS else f"{value:+,.0f}"

    def loss(self, value: float) -> float:
        """A figure of which less is better."""
        return -value if self.higher_is_better else value

    @property
    def dtype(self) -> str:
        """As pandas calls it."""
        return "Int64" if self.format == COUNT else "Float64"

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """As Optuna calls it."""
        return "maximize" if self.higher_is_better else "minimize"


_ROWS = (
    Metric(
        "validation_accuracy", "validation accuracy", "validation accuracy, %", "accuracy", PER_CENT,
        higher_is_better=True, each_epoch=True,
    ),
    Metric(
        "validation_loss", "validation loss", "validation loss (cross-entropy)", "loss", LOSS, each_epoch=True
    ),
    Metric("params", "parameters", "trainable parameters", "params", COUNT),
    Metric("macs", "MACs", "multiply-accumulates an image", "MACs", COUNT),
    Metric(
        "activation_bytes", "activation bytes", "peak activation memory, bytes", "activation\nbytes", COUNT
    ),
    Metric("seconds", "training time", "training time, s", "seconds", SECONDS),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ROWS}  # what a study can aim for
TEST_METRICS = {
    metric.name: metric
    for metric in (
        Metric("test_accuracy", "test accuracy", "test accuracy, %", "test\naccuracy", PER_CENT, True),
        Metric("test_loss", "test loss", "test loss (cross-entropy)", "test\nloss", LOSS),
    )
}  # known of finals and single runs, never of trials
ALL_METRICS = METRICS | TEST_METRICS
