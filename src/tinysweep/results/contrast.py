"""What sets two trials apart, and whether their figures can be compared at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinysweep.console import clean
from tinysweep.data.catalogue import DATA_SETS
from tinysweep.errors import DataError
from tinysweep.results.layout import Value
from tinysweep.results.merged import TESTED, read_record
from tinysweep.results.ranking import Trial, read_value
from tinysweep.results.where import written
from tinysweep.search.compose_trial import identity

JUDGED = ("validation_accuracy", TESTED)  # what chance changes from image to image
Difference = tuple[str, Value | None, Value | None]


def config(trial: Trial) -> dict[str, Any]:
    """The configuration in a trial's record; empty where the record isn't on this machine."""
    folder = trial.values["folder"]
    if folder is None:
        return {}
    try:
        found = read_record(Path(str(folder)))["config"]
    except (DataError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def differences(one: Trial, other: Trial, parameters: Sequence[str]) -> list[Difference]:
    """The settings in which two trials differ, with their values: all of them where both records are there, with
    the searched `parameters` first, or else these alone."""
    settings = [identity(config(trial)) for trial in (one, other)]
    if all(settings):
        names = [name for name in parameters if any(name in found for found in settings)]
        names = list(dict.fromkeys([*names, *settings[0], *settings[1]]))
        pairs = [(name, _setting(settings[0], name), _setting(settings[1], name)) for name in names]
    else:
        pairs = [(name, one.values[name], other.values[name]) for name in parameters]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _setting(settings: Mapping[str, Any], name: str) -> Value | None:
    return read_value(written(settings[name])) if name in settings else None


@dataclass(frozen=True)
class HeldOut:
    """The images that validation figures are judged on, as data.validation says it: a number of them, or below 1 a
    part of the data set, drawn by a seed. `folder` tells apart image folders alone: by what they hold or, in old
    records, by where they lie."""

    data: str
    folder: str
    share: float
    seed: int

    def __str__(self) -> str:
        size = f"{self.share:,.0f} images" if self.share >= 1 else f"{100 * self.share:g}% of the images"
        return f"{size} of {clean(self.folder or self.data)}, data.split_seed={self.seed}"


def held_out(trial: Trial) -> HeldOut | None:
    """What a trial was judged on, if its record is there and it held anything out."""
    data: Any = config(trial).get("data")
    try:
        name, share, seed = str(data["name"]), float(data["validation"]), int(data["split_seed"])
        held = data.get("digest")
        folder = "" if name in DATA_SETS else f"data.digest={held}" if held else str(data["root"])
    except (KeyError, TypeError, ValueError):
        return None
    return HeldOut(name, folder, share, seed) if share > 0 else None


def images(trial: Trial, column: str) -> int | None:
    """On how many images an accuracy was measured, as far as its record and what is known of data sets tell."""
    data = config(trial).get("data")
    known = DATA_SETS.get(str(data.get("name"))) if isinstance(data, dict) else None
    if column == TESTED:
        return known.test_count if known else None
    judge = held_out(trial)
    if judge is None or not known:  # an image folder may have a val/ of any size
        return None
    return int(judge.share) if judge.share >= 1 else max(1, round(judge.share * known.train_count))


@dataclass(frozen=True)
class Chance:
    """Two accuracies, each with the number of images that it was measured on."""

    accuracies: tuple[float, float]
    images: tuple[int, int]

    @property
    def difference(self) -> float:
        return self.accuracies[0] - self.accuracies[1]

    @property
    def standard_error(self) -> float:
        """The binomial standard error of the difference: the root of the sum of p(1 - p)/n. It takes the images to
        be different ones; models that fail on the same images differ by chance less than this."""
        pairs = zip(self.accuracies, self.images, strict=True)
        return math.sqrt(sum(accuracy * (1 - accuracy) / count for accuracy, count in pairs))

    @property
    def is_noise(self) -> bool:
        return abs(self.difference) <= self.standard_error


def chance(one: Trial, other: Trial, column: str) -> Chance | None:
    """What may lie behind the difference of two accuracies, if it is known how they were measured."""
    accuracies = one.figure(column), other.figure(column)
    counts = images(one, column), images(other, column)
    if counts[0] is None or counts[1] is None or not all(0 <= accuracy <= 1 for accuracy in accuracies):
        return None
    return Chance(accuracies, (counts[0], counts[1]))
