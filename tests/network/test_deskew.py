"""Deskewing: slanted ink is set upright about its centre of mass, and nothing else happens to an image."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinysweep.data.load import load_test
from tinysweep.network.deskew import Deskew
from tinysweep.settings.schema import DataConfig

SIZE = 28


def strokes(slants: list[float], right: float = 0.0, down: float = 0.0) -> Tensor:
    """A blurred straight stroke of 16 rows an image, (N, 1, SIZE, SIZE) in [0, 255], each row so many pixels
    to the right of the one above."""
    rows, columns = torch.arange(SIZE) - (SIZE - 1) / 2 - down, torch.arange(SIZE) - (SIZE - 1) / 2 - right
    middles = torch.tensor(slants)[:, None] * rows
    ink = 255 * torch.exp(-((columns - middles[:, :, None]) ** 2) / 2)
    return (ink * (rows.abs() < 8)[:, None])[:, None]


def moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of grey images with background 0: centre of mass (N, 2) as (right, down), covariance of the two (N,) and
    variance downwards (N,), both not divided by the mass; in pixels."""
    mass, place = images.double().sum(1), torch.arange(SIZE, dtype=torch.float64)
    total = mass.sum((1, 2))
    right, down = (mass.sum(1) * place).sum(1) / total, (mass.sum(2) * place).sum(1) / total
    across, along = place - right[:, None], place - down[:, None]
    covariance = (mass * along[:, :, None] * across[:, None, :]).sum((1, 2))
    return torch.stack((right, down), 1), covariance, (mass.sum(2) * along.square()).sum(1)


def slant(images: Tensor) -> Tensor:
    _, covariance, variance = moments(images)
    return covariance / variance


@pytest.mark.parametrize("place", [(0.0, 0.0), (3.0, -2.0), (-1.5, 2.5)])
def test_strokes_of_any_slant_become_the_upright_one(place: tuple[float, float]) -> None:
    slanted = strokes([-0.8, -0.33, 0.0, 0.1, 0.5], *place)
    upright = Deskew()(slanted)
    assert slant(slanted).abs().max() > 0.7
    assert slant(upright).abs().max() < 1e-4
    # Interpolation between two pixels blurs a stroke a little.
    torch.testing.assert_close(upright, strokes([0.0] * 5, *place), rtol=0, atol=255 / 8)
    torch.testing.assert_close(moments(upright)[0], moments(slanted)[0], rtol=0, atol=1e-3)


def test_digits_are_sheared_as_by_an_affine_grid(mnist_root: Path) -> None:
    digits = load_test(DataConfig(root=str(mnist_root))).pixels[:200].float()
    (_, down), lean = moments(digits)[0].T, slant(digits)
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(digits), 1, 1)
    matrices[:, 0, 1] = lean
    matrices[:, 0, 2] = -lean * (down - (SIZE - 1) / 2) * 2 / SIZE
    grid = F.affine_grid(matrices, [len(digits), 1, SIZE, SIZE], align_corners=False)
    expected = F.grid_sample(digits.double(), grid, align_corners=False)
    assert lean.abs().max() > 0.5
    torch.testing.assert_close(Deskew()(digits).double(), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("level", [0.0, -0.4242, 255.0])
def test_an_image_without_ink_or_slant_stays_as_it_is(level: float) -> None:
    blank = torch.full((2, 3, SIZE, 20), level)
    assert torch.equal(Deskew()(blank), blank)
    flat, dot = blank.clone(), blank.clone()
    flat[:, :, 9, 3:17] += 1
    dot[:, :, 0, 0] += 1
    for image in (flat, dot):
        torch.testing.assert_close(Deskew()(image), image)


def test_brightness_and_contrast_make_no_difference() -> None:
    slanted = strokes([-0.5, 0.3])
    torch.testing.assert_close(Deskew()(slanted / 78 - 0.42), Deskew()(slanted) / 78 - 0.42, rtol=0, atol=1e-4)


def test_channels_move_together() -> None:
    slanted = strokes([0.4])
    colours = torch.cat((slanted, slanted.flip(3), torch.zeros_like(slanted)), 1)
    upright = Deskew()(colours)
    assert upright.is_contiguous(memory_format=torch.channels_last)
    # Each leans as far to one side as the other to the other, so the whole doesn't.
    torch.testing.assert_close(upright, colours, rtol=0, atol=0.01)


def test_bfloat16_autocast_changes_nothing_and_the_steepest_slant_is_finite() -> None:
    images = torch.zeros(2, 1, SIZE, SIZE)
    images[0, 0, 13, :14], images[0, 0, 14, 14:] = 255, 255  # nearly lying
    images[1] = strokes([0.7])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = Deskew()(images)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, Deskew()(images))
    assert math.isfinite(cast.sum())
