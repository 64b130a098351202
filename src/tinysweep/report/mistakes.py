"""What a final's winner predicts for the test images, and those that it errs on as a page shows them."""

import base64
import contextlib
import csv
import io
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from tinysweep.data.catalogue import is_own
from tinysweep.data.folder import class_names
from tinysweep.data.load import load_test
from tinysweep.errors import DataError, TinysweepError
from tinysweep.final.results import damage_message
from tinysweep.results.view import StudyView

PREFIX = "winner-seed-"  # of the columns that hold its predictions
MOST_CLASSES = 1000
MOST_MISTAKES = 60
LARGEST_SIDE = 64  # pixels of a test image on the page


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
        raise DataError(damage_message("final/predictions.csv", error)) from error


@dataclass(frozen=True)
class Mistake:
    """A test image as an address, the name of its class, and of those that each seed predicts."""

    index: int
    address: str
    true: str
    predicted: list[str]


def names_of_classes(view: StudyView, number: int | None, classes: int) -> list[str]:
    """The names of the classes: those of the user's own folders where they are at hand, else numbers."""
    names: list[str] = []
    with contextlib.suppress(TinysweepError):  # the data may be elsewhere by now
        if number is not None and (data := view.config(number).data) and is_own(data.name):
            names = class_names(data)
    return names if len(names) >= classes else [str(label) for label in range(classes)]


def mistakes(view: StudyView, predictions: Predictions, number: int | None, names: list[str]) -> list[Mistake]:
    """The first MOST_MISTAKES images that the winner, trained as trial `number`, errs on.

    Raises:
        TinysweepError: the images aren't on this machine, or aren't those that the predictions were made for.
    """
    if number is None:
        raise DataError("no trial has completed that says which data it was")
    images = load_test(replace(view.config(number).data, download=False))
    if images.labels.tolist() != predictions.labels:
        raise DataError("the test images on this machine aren't those that the predictions were made for")
    return [
        Mistake(
            index,
            png_address(images.pixels[index]),
            names[predictions.labels[index]],
            [names[given[index]] for given in predictions.by_seed.values()],
        )
        for index in predictions.mistakes()[:MOST_MISTAKES]
    ]


def png_address(pixels: Tensor) -> str:
    """An image, uint8 (C, H, W), as a PNG inside an address; no larger than LARGEST_SIDE."""
    array = pixels.permute(1, 2, 0).numpy().astype(np.uint8)
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if (ratio := LARGEST_SIDE / max(image.size)) < 1:
        image = image.resize((math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
