"""What the final of a study found, read back from its folder `final/`."""

import csv
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinysweep.errors import DataError, first_line
from tinysweep.results.verdict import Summary

WINNER = "winner"
PREFIX = f"{WINNER}-seed-"  # of the columns that hold its predictions
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Finalist:
    """A configuration that was trained with several seeds, and its figures by name: of all, and of each seed."""

    name: str
    role: str
    trial: int | None
    params: int
    macs: int
    changed: dict[str, Any]
    summaries: dict[str, Summary]
    runs: list[dict[str, Any]]
    chosen: bool


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
    p_value_seeds: float | None
    test: str
    verdict: str


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

    def mistakes(self) -> list[int]:
        """Indices of the images that any seed errs on, those that most err on first."""
        wrong = Counter(
            index
            for given in self.by_seed.values()
            for index, (true, other) in enumerate(zip(self.labels, given, strict=True))
            if true != other
        )
        return sorted(wrong, key=lambda index: (-wrong[index], index))


def read_final(folder: Path) -> Final | None:
    """The final of the study in `folder`; None if there was none.

    Raises:
        DataError: final.json isn't what tinysweep-final writes.
    """
    file = folder / "final" / "final.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Final(
            str(content["choice"]),
            float(content["confidence"]),
            [_finalist(each, "candidate") for each in content["candidates"]],
            [_finalist(each, str(each["role"])) for each in content["tested"]],
            [_comparison(each) for each in content["comparisons"]],
            [_dropped(each) for each in content.get("dropped", [])],
        )
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
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
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(_damaged("final/predictions.csv", error)) from error


def _damaged(file: str, error: Exception) -> str:
    missing = "it lacks " if isinstance(error, KeyError) else ""
    return f"{file} isn't as tinysweep-final writes it ({missing}{first_line(error)}); run tinysweep-final again"


def _finalist(content: dict[str, Any], role: str) -> Finalist:
    names = [name for name in content if name.endswith(("_accuracy", "_loss"))]
    return Finalist(
        str(content["name"]),
        role,
        None if content.get("trial") is None else int(content["trial"]),
        int(content["params"]),
        int(content["macs"]),
        dict(content.get("changed") or {}),
        {name: _summary(content[name]) for name in names},
        [
            {**run, "seed": int(run["seed"]), **{name: float(run[name]) for name in names}}
            for run in content["runs"]
        ],
        bool(content.get("chosen", False)),
    )


def _dropped(content: dict[str, Any]) -> Dropped:
    return Dropped(str(content["name"]), str(content["stage"]), int(content["seed"]), str(content["reason"]))


def _summary(content: dict[str, Any]) -> Summary:
    sd, low, high = (_number(content[name]) for name in ("sd", "low", "high"))
    return Summary(float(content["mean"]), sd, low, high, int(content["n"]))


def _comparison(content: dict[str, Any]) -> Comparison:
    winner, against, role, test, verdict = (
        str(content[name]) for name in ("winner", "against", "role", "test", "verdict")
    )
    low, high, p_value = (_number(content[name]) for name in ("low", "high", "p_value"))
    seeds = _number(content.get("p_value_seeds"))
    return Comparison(
        winner, against, role, float(content["difference"]), low, high, p_value, seeds, test, verdict
    )


def _number(content: Any) -> float | None:
    return None if content is None else float(content)
