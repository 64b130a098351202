"""What the final of a study found, read back from its folder `final/`."""

import csv
import json
import types
from collections import Counter
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from tinysweep.errors import DataError, first_line
from tinysweep.results.verdict import Summary

WINNER = "winner"
PREFIX = f"{WINNER}-seed-"  # of the columns that hold its predictions
MOST_CLASSES = 1000
UNREADABLE = (OSError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class SeedFigures:
    """The figures of one seed: a candidate's on validation images, a final model's on test images."""

    seed: int
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None


@dataclass(frozen=True)
class Finalist:
    """A configuration that was trained with several seeds, and its figures over them."""

    name: str
    trial: int | None
    params: int
    macs: int
    runs: list[SeedFigures]
    role: str = "candidate"
    changed: dict[str, Any] = field(default_factory=dict)
    chosen: bool = False
    validation_accuracy: Summary | None = None
    validation_loss: Summary | None = None
    test_accuracy: Summary | None = None
    test_loss: Summary | None = None


@dataclass(frozen=True)
class Comparison:
    """The winner against another, as a difference in accuracy on the test images, with p-values over images, the
    models held fixed, and over seeds."""

    winner: str
    against: str
    role: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    test: str
    verdict: str
    p_value_seeds: float | None = None


@dataclass(frozen=True)
class Dropped:
    """One of whom no verdict is given, as its run of a stage, validation or test, failed with this seed."""

    name: str
    stage: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Final:
    """final.json."""

    choice: str
    confidence: float
    candidates: list[Finalist]
    tested: list[Finalist]
    comparisons: list[Comparison]
    dropped: list[Dropped] = field(default_factory=list)  # earlier versions had none

    @property
    def winner(self) -> Finalist | None:
        return next((each for each in self.tested if each.role == WINNER), None)


@dataclass(frozen=True)
class Predictions:
    """Classes that the winner predicts for the test images: labels (N,), and (N,) for each of its seeds."""

    labels: list[int]
    by_seed: dict[str, list[int]]

    @property
    def classes(self) -> int:
        """How many classes there are, by the largest that is named."""
        return 1 + max(max(column, default=0) for column in (self.labels, *self.by_seed.values()))

    def confusion(self) -> list[list[int]]:
        """How often images of a class (rows) were given each class (columns), over all seeds."""
        ends = range(self.classes)
        pairs = Counter(pair for given in self.by_seed.values() for pair in zip(self.labels, given, strict=True))
        return [[pairs[true, given] for given in ends] for true in ends]

    def wrong_seeds(self, index: int) -> int:
        """How many seeds err on an image."""
        return sum(given[index] != self.labels[index] for given in self.by_seed.values())

    def mistakes(self) -> list[int]:
        """Indices of the images that any seed errs on, those that most err on first."""
        wrong = {index: self.wrong_seeds(index) for index in range(len(self.labels))}
        return sorted((index for index in wrong if wrong[index]), key=lambda index: (-wrong[index], index))

    def mistakes_of_all(self) -> int:
        """How many images every seed errs on."""
        return sum(self.wrong_seeds(index) == len(self.by_seed) for index in self.mistakes())


def read_final(folder: Path) -> Final | None:
    """The final of the study in `folder`; None if there was none.

    Raises:
        DataError: final.json isn't what tinysweep-final writes.
    """
    file = folder / "final" / "final.json"
    try:
        final: Final = _read(Final, json.loads(file.read_text(encoding="utf-8")))
        return final
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise DataError(_damaged("final/final.json", error)) from error


def read_predictions(folder: Path) -> Predictions | None:
    """The winner's predictions; None if there are none.

    Raises:
        DataError: predictions.csv isn't what tinysweep-final writes.
    """
    try:
        with (folder / "final" / "predictions.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        columns = [name for name in (rows[0] if rows else {}) if name and name.startswith(PREFIX)]
        labels = [int(row["label"]) for row in rows]
        if [int(row["index"]) for row in rows] != list(range(len(rows))):
            raise ValueError("its column index isn't 0, 1, 2, …")
        by_seed = {name.removeprefix(PREFIX): [int(row[name]) for row in rows] for name in columns}
        if any(not 0 <= label < MOST_CLASSES for column in (labels, *by_seed.values()) for label in column):
            raise ValueError(f"it has a class that isn't one of 0 to {MOST_CLASSES - 1}")
        return Predictions(labels, by_seed)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise DataError(_damaged("final/predictions.csv", error)) from error


def _damaged(file: str, error: Exception) -> str:
    missing = "it lacks " if isinstance(error, KeyError) else ""
    return f"{file} isn't as tinysweep-final writes it ({missing}{first_line(error)}); run tinysweep-final again"


def _read(kind: Any, content: Any) -> Any:
    """Parsed JSON as a type: a dataclass whose fields that have a default may be missing, a list, or a value."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if content is None else _read(inner[0], content)
    if origin is list:
        return [_read(inner[0], each) for each in content]
    if origin is dict:
        return dict(content)
    if kind in (str, int, float, bool):
        return kind(content)
    hints = get_type_hints(kind)
    needed = [each for each in fields(kind) if each.name in content or _is_required(each)]
    return kind(**{each.name: _read(hints[each.name], content[each.name]) for each in needed})


def _is_required(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING
