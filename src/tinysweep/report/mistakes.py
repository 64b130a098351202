"""The winner's confusions and mistakes, out of the final's predictions and the test images."""

import base64
import contextlib
import dataclasses
import io
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from torch import Tensor

from tinysweep.data.folder import class_names
from tinysweep.data.load import load_test
from tinysweep.errors import DataError, TinysweepError
from tinysweep.report.final import Predictions
from tinysweep.report.look import label, layout
from tinysweep.report.markup import Html, join, tag, void
from tinysweep.results.view import StudyView
from tinysweep.settings.schema import DataName

MOST_MISTAKES = 60
MOST_NUMBERED = 20  # classes; more than these leave no room for a number in each cell
LARGEST_SIDE = 64  # pixels of a test image on the page


def confusion(view: StudyView, predictions: Predictions, number: int | None) -> go.Figure | str:
    """How often each class was taken for each other, over the winner's seeds. Only mistakes are coloured, as the
    right ones outnumber them a hundredfold."""
    if not predictions.labels or not predictions.by_seed:
        return "The final's predictions.csv holds no predictions of the winner."
    classes = predictions.classes
    counts = predictions.confusion()
    names = class_words(view, number, classes)
    ends = list(range(classes))
    wrong = [[None if true == given else counts[true][given] for given in ends] for true in ends]
    most = max((count or 0 for row in wrong for count in row), default=0)
    figure = go.Figure(
        go.Heatmap(
            z=wrong, x=ends, y=ends, colorscale=[[0, "#ffffff"], [1, "#d55e00"]], zmin=0, zmax=max(most, 1),
            xgap=1, ygap=1, hoverinfo="text", showscale=False,
            text=[[f"{label(names[true])} taken for {label(names[given])}: {counts[true][given]:,}"
                   if true != given else f"{label(names[true])} recognised: {counts[true][true]:,}"
                   for given in ends] for true in ends],
        )
    )  # fmt: skip
    if classes <= MOST_NUMBERED:
        for true in ends:
            for given in ends:
                if count := counts[true][given]:
                    colour = "#666666" if true == given else "#1a1a1a"
                    figure.add_annotation(x=given, y=true, text=f"{count:,}", showarrow=False,
                                          font={"size": 11, "color": colour})  # fmt: skip
    layout(figure, 130 + min(36 * classes, 640))
    ticks = {"tickvals": ends, "ticktext": [label(name, 16) for name in names]} if classes <= 40 else {}
    figure.update_xaxes(title={"text": "predicted class"}, showgrid=False, **ticks)
    return figure.update_yaxes(title={"text": "true class"}, showgrid=False, autorange="reversed", **ticks)


def class_words(view: StudyView, number: int | None, classes: int) -> list[str]:
    """The names of the classes: those of the user's own folders where they are at hand, else numbers."""
    names: list[str] = []
    with contextlib.suppress(TinysweepError):  # the data may be elsewhere by now
        if number is not None and (data := view.config(number).data).name == DataName.image_folder:
            names = class_names(data)
    return names if len(names) >= classes else [str(label) for label in range(classes)]


def mistakes(view: StudyView, predictions: Predictions, number: int | None) -> Html:
    """The test images that the winner errs on, those that most seeds err on first."""
    wrong = predictions.mistakes()
    seeds = len(predictions.by_seed)
    if not wrong:
        return tag("p", f"Not one of {len(predictions.labels):,} test images was misclassified.")
    common = sum(_errors(predictions, index) == seeds for index in wrong)
    told = (
        f"{len(wrong):,} of {len(predictions.labels):,} test images are misclassified by at least one of {seeds} "
        f"seed{'s' if seeds > 1 else ''}, {common:,} by every one."
    )
    try:
        pixels = _test_images(view, predictions, number)
    except TinysweepError as error:
        return join([tag("p", told), tag("p", f"They can't be shown: {error}.", class_="note")])
    names = class_words(view, number, predictions.classes)
    cards = [_card(predictions, index, pixels[index], names) for index in wrong[:MOST_MISTAKES]]
    if len(wrong) > MOST_MISTAKES:
        told += f" The first {MOST_MISTAKES} are shown."
    note = (
        "True class → what each seed predicts; a mistake is bold. The number is the image's index in the test set."
    )
    return join([tag("p", told), tag("p", note, class_="note"), tag("div", join(cards), class_="mistakes")])


def _errors(predictions: Predictions, index: int) -> int:
    return sum(given[index] != predictions.labels[index] for given in predictions.by_seed.values())


def _test_images(view: StudyView, predictions: Predictions, number: int | None) -> Tensor:
    """Pixels uint8 (N, C, H, W) of the test images, which are read to be shown and for nothing else.

    Raises:
        DataError: they aren't on this machine, or aren't those that the predictions were made for.
    """
    if number is None:
        raise DataError("no trial has completed that says which data it was")
    images = load_test(dataclasses.replace(view.config(number).data, download=False))
    if images.labels.tolist() != predictions.labels:
        raise DataError("the test images on this machine aren't those that the predictions were made for")
    return images.pixels


def _card(predictions: Predictions, index: int, pixels: Tensor, names: list[str]) -> Html:
    true = predictions.labels[index]
    given = [seeds[index] for seeds in predictions.by_seed.values()]
    said: list[Any] = []
    for position, each in enumerate(given):
        said += [", "] if position else []
        said.append(tag("b", names[each]) if each != true else names[each])
    alt = f"test image {index}: {names[true]}, predicted {', '.join(names[each] for each in given)}"
    picture = void("img", src=data_uri(pixels), alt=alt, width=56, height=56)
    return tag("figure", picture, tag("figcaption", f"{names[true]} → ", *said, tag("small", f"#{index}")))


def data_uri(pixels: Tensor) -> str:
    """An image, uint8 (C, H, W), as a PNG inside an address; no larger than LARGEST_SIDE."""
    array = pixels.permute(1, 2, 0).numpy().astype(np.uint8)
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if (ratio := LARGEST_SIDE / max(image.size)) < 1:
        image = image.resize((math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
