"""Which trials are best, and which under which number of parameters."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinysweep.console import clean
from tinysweep.results.layout import Value
from tinysweep.results.merged import FIGURES, Merged
from tinysweep.search.study import Status

BUDGETS = (1_000, 2_000, 5_000, 10_000, 20_000)  # trainable parameters, of which a model has fewer


@dataclass(frozen=True)
class Trial:
    """A row of the merged table: its study and itself as people call them, and its values by column."""

    study: str
    name: str
    values: Mapping[str, Value | None]

    @property
    def called(self) -> str:
        return self.name if self.values["number"] is None else f"{self.study} {self.name}"

    @property
    def complete(self) -> bool:
        return self.values["state"] == Status.complete

    def figure(self, column: str) -> float:
        """A number, or infinity where there is none."""
        value = self.values.get(column)
        return float(value) if isinstance(value, int | float) else math.inf


def rows(merged: Merged) -> list[Trial]:
    """Every row of the merged table."""
    columns = {name: _values(merged, name) for name in merged.frame.columns}
    names = _names(columns["number"], columns["folder"])
    values = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [Trial(*row) for row in zip(merged.labels, names, values, strict=True)]


def _values(merged: Merged, name: str) -> list[Value | None]:
    found = merged.frame[name].astype(object)
    return [
        None if missing else value if name in FIGURES else read_value(value)
        for value, missing in zip(found, found.isna(), strict=True)
    ]


@functools.lru_cache(maxsize=65536)
def read_value(text: str) -> Value:
    """A parameter as a table holds it: a number, a truth value, or else text."""
    if text in ("True", "true", "False", "false"):
        return text in ("True", "true")
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if "_" not in text and math.isfinite(value):
            return value
    return text


def _names(numbers: Sequence[Value | None], folders: Sequence[Value | None]) -> list[str]:
    """The numbers of trials, and for single runs as much of the end of their folders as tells them apart."""
    rows = list(zip(numbers, folders, strict=True))
    paths = [Path(str(folder or "-")).parts if number is None else () for number, folder in rows]
    different, length = len(set(paths)), 1
    while len({parts[-length:] for parts in paths}) < different:
        length += 1
    return [
        clean("/".join(parts[-length:])) if number is None else str(number)
        for number, parts in zip(numbers, paths, strict=True)
    ]


def ranked(trials: Sequence[Trial], column: str, descending: bool) -> list[Trial]:
    """Trials in the order of a column, numbers before text and what lacks it last; ties by validation loss, then
    parameters, both from the lowest, then study and number."""

    def tie(trial: Trial) -> tuple[float, float, str, float, str]:
        loss, params = trial.figure("validation_loss"), trial.figure("params")
        return loss, params, trial.study, trial.figure("number"), trial.name

    def key(trial: Trial) -> tuple[bool, Value]:
        value = trial.values[column]
        assert value is not None
        return isinstance(value, str) != descending, value

    settled = sorted(trials, key=tie)
    having = [trial for trial in settled if trial.values[column] is not None]
    lacking = [trial for trial in settled if trial.values[column] is None]
    # Python's sort keeps the order of equals, reversed or not.
    return sorted(having, key=key, reverse=descending) + lacking


def judged(order: Sequence[Trial], column: str) -> list[Trial]:
    """Those of ranked trials that can be the best: completed, and with a value in the column."""
    return [trial for trial in order if trial.complete and trial.values[column] is not None]


def best_under(order: Sequence[Trial]) -> list[tuple[int, Trial | None]]:
    """For each of BUDGETS the first of ranked trials that has fewer parameters."""
    return [
        (budget, next((trial for trial in order if trial.figure("params") < budget), None)) for budget in BUDGETS
    ]
