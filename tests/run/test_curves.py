"""The picture of a run, looked at as a viewer would: is it one, and are the curves in it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tinysweep.errors import ConfigError
from tinysweep.run.curves import TRAIN, VALIDATION, LiveCurves, draw
from tinysweep.training.loop import Epoch


def history(epochs: int, validated: bool = True) -> list[Epoch]:
    return [
        Epoch(n, 1 / n, 2 / n if validated else None, 1 - 0.5 / n if validated else None, 0.1, 1.0)
        for n in range(1, epochs + 1)
    ]


def pixels_of(path: Path, colour: str) -> int:
    """How many pixels of a PNG have a colour."""
    wanted = np.round(255 * np.array(to_rgb(colour)))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 400 <= image.width <= 1600
        assert 300 <= image.height <= 1000
        return int((np.abs(np.asarray(image.convert("RGB")) - wanted).max(-1) <= 2).sum())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("epochs", "title"), [(1, "trial"), (2, "$_$"), (30, "50% $x a_b^c"), (3, "")])
@pytest.mark.parametrize("validated", [True, False])
def test_each_curve_there_is_shows_below_a_title_that_is_no_formula(
    tmp_path: Path, epochs: int, title: str, validated: bool
) -> None:
    draw(history(epochs, validated), title, tmp_path / "curves.png")
    assert pixels_of(tmp_path / "curves.png", TRAIN) > 20
    assert (pixels_of(tmp_path / "curves.png", VALIDATION) > 40) is validated
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # there is nothing to see on a logarithmic axis
def test_a_perfect_model_can_be_drawn(tmp_path: Path) -> None:
    draw([Epoch(n, 0.0, 0.0, 1.0, 0.1, 1.0) for n in (1, 2, 3)], "trial", tmp_path / "curves.png")
    assert pixels_of(tmp_path / "curves.png", VALIDATION) > 20


def test_live_curves_are_refused_where_nothing_can_show_them() -> None:
    with pytest.raises(ConfigError, match="draws in a notebook"):
        LiveCurves()
