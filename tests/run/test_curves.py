"""The picture of a run, looked at as a viewer would: is it one, and are the curves in it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tinysweep.run.curves import TRAIN, VALIDATION, draw
from tinysweep.training.loop import Epoch


def history(epochs: int, validated: bool = True) -> list[Epoch]:
    return [
        Epoch(n, 1 / n, 2 / n if validated else None, 1 - 0.5 / n if validated else None, 0.1, 1.0)
        for n in range(1, epochs + 1)
    ]


def drawn(path: Path, epochs: list[Epoch], title: str = "trial") -> Image.Image:
    """The picture, whose drawing must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(epochs, title, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def pixels_of(image: Image.Image, colour: str) -> int:
    """How many pixels of a picture have a colour."""
    wanted = np.round(255 * np.array(to_rgb(colour)))
    return int((np.abs(np.asarray(image) - wanted).max(-1) <= 2).sum())


@pytest.mark.parametrize("epochs", [1, 2, 30])
@pytest.mark.parametrize("validated", [True, False])
def test_each_curve_there_is_shows_in_a_picture_of_sensible_size(
    tmp_path: Path, epochs: int, validated: bool
) -> None:
    image = drawn(tmp_path / "curves.png", history(epochs, validated))
    assert 400 <= image.width <= 1600
    assert 300 <= image.height <= 1000
    assert pixels_of(image, TRAIN) > 20
    assert (pixels_of(image, VALIDATION) > 40) is validated
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # there is nothing to see on a logarithmic axis
def test_a_perfect_model_can_be_drawn(tmp_path: Path) -> None:
    perfect = [Epoch(n, 0.0, 0.0, 1.0, 0.1, 1.0) for n in (1, 2, 3)]
    draw(perfect, "trial", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert pixels_of(image.convert("RGB"), VALIDATION) > 20


@pytest.mark.parametrize("title", ["$_$", "50% $x", "a_b^c", ""])
def test_a_title_is_no_formula(tmp_path: Path, title: str) -> None:
    assert pixels_of(drawn(tmp_path / "curves.png", history(2), title), TRAIN) > 20
