"""The picture of a run, looked at as a viewer would: is it one, and are the curves in it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tinysweep.errors import ConfigError
from tinysweep.run.curves import APART, TRAIN, VALIDATION, LiveCurves, _apart, draw, first_plain_epoch
from tinysweep.settings.schema import AugmentationConfig, Config, TrainerConfig
from tinysweep.training.loop import Epoch

PLAIN = "#f0f0f0"  # behind the epochs without augmentation


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


def test_training_accuracy_is_a_second_curve_where_it_was_counted(tmp_path: Path) -> None:
    old = history(5)
    draw(old, "", tmp_path / "old.png")
    draw(
        [Epoch(**{**vars(epoch), "train_accuracy": 0.1 * epoch.epoch}) for epoch in old], "", tmp_path / "new.png"
    )
    assert pixels_of(tmp_path / "new.png", TRAIN) > 1.5 * pixels_of(tmp_path / "old.png", TRAIN)


def test_epochs_without_augmentation_are_marked_once_they_are_reached(tmp_path: Path) -> None:
    for plain_from in (None, 4, 6):
        draw(history(5), "", tmp_path / f"{plain_from}.png", plain_from)
    grey = {name: pixels_of(tmp_path / f"{name}.png", PLAIN) for name in (None, 4, 6)}
    assert grey[4] > 1000 + 10 * max(grey[None], grey[6])


def test_only_augmentation_that_ends_has_epochs_without_it() -> None:
    moving = AugmentationConfig(shift_fraction=0.1)
    assert first_plain_epoch(Config(augmentation=moving, trainer=TrainerConfig(epochs=9, clean_epochs=2))) == 8
    assert first_plain_epoch(Config(augmentation=moving)) is None
    assert first_plain_epoch(Config(trainer=TrainerConfig(epochs=9, clean_epochs=2))) is None


@pytest.mark.parametrize("shares", [[0.0, 0.0], [0.3, 0.31], [0.5, 0.9], [0.97, 1.0], [0.4]])
def test_the_figures_at_two_ends_never_cover_each_other(shares: list[float]) -> None:
    places = _apart(shares)
    assert places == sorted(places)
    assert places[-1] - places[0] >= min(APART, len(shares) - 1) - 1e-9
    assert all(abs(place - share) <= APART for place, share in zip(places, shares, strict=True))


def test_live_curves_are_refused_where_nothing_can_show_them() -> None:
    with pytest.raises(ConfigError, match="draws in a notebook"):
        LiveCurves()
