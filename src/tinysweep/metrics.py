"""The metrics: the only place that knows which way is better, what each is called and how it is written."""

import math
import re
from dataclasses import dataclass
from typing import Literal

PER_CENT, LOSS, COUNT, SECONDS, SCORE = "per cent", "loss", "count", "seconds", "score"


@dataclass(frozen=True)
class Metric:
    """What a metric is called in a sentence, on an axis and above a column, and how its figures are written."""

    name: str  # its key in records, trials.csv and hydra.sweeper.objective
    label: str
    title: str
    header: str
    format: str  # PER_CENT, LOSS, COUNT, SECONDS or SCORE
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
        if self.format in (LOSS, SCORE):
            return f"{value:.4f}"
        return f"{value:,.1f} s" if self.format == SECONDS else f"{value:,.0f}"

    def possible(self, value: float) -> float:
        """The nearest figure that can be: the interval of a mean of few seeds may end beyond."""
        if self.format == SCORE:
            return value
        return min(1.0, max(0.0, value)) if self.format == PER_CENT else max(0.0, value)

    def difference(self, value: float) -> str:
        """A figure less another, with its sign."""
        if value == 0:
            return "same"
        if self.format == PER_CENT:
            return f"{100 * value:+.2f} points"
        if self.format in (LOSS, SCORE):
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


class Metrics(dict[str, Metric]):
    """Metrics by name. One of a user's own, which `metrics.NAME` computes, is made of its name when asked for."""

    def __missing__(self, name: str) -> Metric:
        if found := _own(name):
            return found
        raise KeyError(name)

    def find(self, name: str) -> Metric | None:
        """The metric of this name, a user's own included; None if the name is that of something else."""
        return self.get(name) or _own(name)


def _own(name: str) -> Metric | None:
    """A metric of a user's own; of all of these more is better, as only their function knows what they are."""
    known = re.fullmatch(r"(validation|test)_([a-zA-Z]\w*)(?<!_sd)", name)
    if not known:
        return None
    label = name.replace("_", " ")
    header = name.removeprefix("validation_").replace("_", " ")
    return Metric(name, label, label, header, SCORE, higher_is_better=True, each_epoch=known[1] == "validation")


def _share(name: str, label: str, header: str) -> Metric:
    """A metric of validation images between 0 and 1, of which more is better."""
    return Metric(name, label, f"{label}, %", header, PER_CENT, higher_is_better=True, each_epoch=True)


# Further figures of the images that a model is evaluated on, by their names in records and in sentences.
FURTHER = {
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "worst_class_accuracy": "worst-class accuracy",
}
_ROWS = (
    _share("validation_accuracy", "validation accuracy", "accuracy"),
    Metric(
        "validation_loss", "validation loss", "validation loss (cross-entropy)", "loss", LOSS, each_epoch=True
    ),
    *(
        _share(f"validation_{name}", f"validation {label}", label.replace(" ", "\n"))
        for name, label in FURTHER.items()
    ),
    Metric("params", "parameters", "trainable parameters", "params", COUNT),
    Metric("macs", "MACs", "multiply-accumulates an image", "MACs", COUNT),
    Metric(
        "activation_bytes", "activation bytes", "peak activation memory, bytes", "activation\nbytes", COUNT
    ),
    Metric("seconds", "training time", "training time, s", "seconds", SECONDS),
)  # fmt: skip
METRICS = Metrics({metric.name: metric for metric in _ROWS})  # what a study can aim for
TEST_METRICS = Metrics(
    {
        metric.name: metric
        for metric in (
            Metric("test_accuracy", "test accuracy", "test accuracy, %", "test\naccuracy", PER_CENT, True),
            Metric("test_loss", "test loss", "test loss (cross-entropy)", "test\nloss", LOSS),
            *(
                Metric(f"test_{name}", f"test {label}", f"test {label}, %", f"test\n{label}", PER_CENT, True)
                for name, label in FURTHER.items()
            ),
        )
    }
)  # known of finals and single runs, never of trials
ALL_METRICS = Metrics(METRICS | TEST_METRICS)
