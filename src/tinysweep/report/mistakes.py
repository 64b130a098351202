"""The test images that a final's winner errs on, as they are shown on a page."""

import base64
import contextlib
import io
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from tinysweep.data.folder import class_names
from tinysweep.data.load import load_test
from tinysweep.errors import DataError, TinysweepError
from tinysweep.report.final import Predictions
from tinysweep.results.view import StudyView
from tinysweep.settings.schema import DataName

MOST_MISTAKES = 60
LARGEST_SIDE = 64  # pixels of a test image on the page


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
        if number is not None and (data := view.config(number).data).name == DataName.image_folder:
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
