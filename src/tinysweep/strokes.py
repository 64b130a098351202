"""A picture of one thing, drawn or photographed, brought into the form of the images that a model was trained on.

MNIST's digits are light on black, scaled to fit a box of 20x20 pixels with their aspect ratio kept, and placed in
28x28 with their centre of mass in the middle (LeCun et al., 1998, "Gradient-based learning applied to document
recognition").
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tinysweep.config import DataName
from tinysweep.picture_files import on_background

Grey = NDArray[np.uint8]
Levels = NDArray[np.float64]

WORKING_SIZE = 640  # pixels a side that larger pictures are reduced to first, which also averages noise away
BLACK = 8  # grey levels up to which a border counts as black
FAINTEST = 12  # grey levels that a stroke must at least differ by from its background
SHARPEST_NOISE = 6  # standard deviations of the background's noise that it must differ by
EDGE = 0.15  # part of a stroke's contrast from which a pixel belongs to it
LEAST_PART = 0.05  # of the largest part's area; what is smaller, such as dust, is left out


class Invert(StrEnum):
    auto = "auto"
    yes = "yes"
    no = "no"


@dataclass(frozen=True)
class Form:
    """How the images of a data set were made: the longest side of what they show, in pixels; whether it is placed
    by its centre of mass or by its bounding box; whether it is a stroke, of one brightness."""

    box: int
    by_mass: bool
    stroke: bool


FORMS = {
    DataName.mnist: Form(20, by_mass=True, stroke=True),
    DataName.kmnist: Form(28, by_mass=False, stroke=True),
    DataName.fashion_mnist: Form(28, by_mass=False, stroke=False),
}


def grey(image: Image.Image) -> Grey:
    """A picture as grey levels (H, W), before black where it is transparent and what is drawn is light, otherwise
    before white."""
    if image.has_transparency_data:
        luminance = np.asarray(image.convert("RGBA").convert("L"), dtype=np.float64)
        opacity = np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float64)
        light = (luminance * opacity).sum() > 127.5 * opacity.sum()
        image = on_background(image, "black" if light else "white")
    return np.asarray(image.convert("L"))


def formed(picture: Grey, form: Form, size: int, invert: Invert) -> Grey | None:
    """The form (size, size) of a picture (H, W), or None if nothing stands out from its background. A picture that
    has the size and, if it shows a stroke, a black border, as it is or inverted, is taken to have it already."""
    if picture.shape == (size, size):
        upright = 255 - picture if _is_dark_on_light(picture.astype(np.float64), invert) else picture
        black = np.median(_border(upright.astype(np.float64))) <= BLACK
        if (black or not form.stroke) and np.ptp(upright) >= FAINTEST:
            return upright
    factor = -(-max(picture.shape) // WORKING_SIZE)
    levels = np.asarray(Image.fromarray(picture).reduce(factor), dtype=np.float64)
    background, noise = _background(levels, invert)
    contrast = levels - background
    contrast = -contrast if _is_dark_on_light(contrast, invert) else contrast
    peak = _highest(contrast)
    if peak < max(FAINTEST, SHARPEST_NOISE * noise):
        return None
    parts = _large_parts(contrast > max(EDGE * peak, 3 * noise))
    full = np.median(contrast[parts & (contrast > peak / 2)]) if form.stroke else 255
    values = np.where(parts, (contrast / full).clip(0, 1), 0)
    shrunk = _scaled(_cropped(values), form.box)
    if form.stroke:
        shrunk /= shrunk.max()  # a thin stroke pales as it is scaled down, but MNIST's don't
    return _placed(shrunk, size, form.by_mass)


def _is_dark_on_light(levels: Levels, invert: Invert) -> bool:
    """Whether the border, most of which is background, is lighter than the middle between the extremes."""
    if invert != Invert.auto:
        return invert == Invert.yes
    return bool(np.median(_border(levels)) > (_highest(levels) - _highest(-levels)) / 2)


def _border(levels: Levels) -> Levels:
    return np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])


def _highest(levels: Levels) -> float:
    """The largest level but for a few, which may be faulty pixels."""
    rank = max(1, min(20, levels.size // 100))
    return float(np.partition(levels.ravel(), -rank)[-rank])


def _background(levels: Levels, invert: Invert) -> tuple[Levels, float]:
    """A background whose lighting may fall off smoothly, and the standard deviation of its noise: a quadratic
    surface fitted to what is background at first sight, then repeatedly to all that lies near it."""
    height, width = levels.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)  # (H, W, 6)
    step = max(1, max(height, width) // 64)
    some = levels[::step, ::step]
    first = _first_sight(some, invert)
    used, target, kept = terms[::step, ::step].reshape(-1, 6), some.ravel(), first.ravel()
    fit = np.full(target.shape, np.median(target[kept]))
    for turn in range(8):
        off = np.abs(target - fit)
        noise = 1.4826 * float(np.median(off[kept]))  # the median deviation of a normal distribution, scaled
        kept = (off <= max(3.0, 2.5 * noise)) & (kept if turn == 0 else True)
        near = used[kept]
        coefficients = np.linalg.lstsq(near.T @ near, near.T @ target[kept])[0]
        fit = used @ coefficients
    return terms @ coefficients, noise


def _first_sight(levels: Levels, invert: Invert) -> NDArray[np.bool_]:
    """Pixels that are likely background: the margin or, where it is known to be lighter or darker than the stroke,
    what lies on that side of the middle."""
    middle = (float(levels.min()) + float(levels.max())) / 2
    if invert != Invert.auto:
        return np.asarray(levels >= middle if invert == Invert.yes else levels <= middle, bool)
    margin = np.ones(levels.shape, bool)
    band = max(1, round(0.08 * min(levels.shape)))
    margin[band:-band, band:-band] = False
    return margin


def _large_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts of a mask that are not small beside the largest."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    large: NDArray[np.bool_] = areas >= LEAST_PART * areas.max()
    return large[labels] & mask


def _cropped(values: Levels) -> Levels:
    rows, columns = np.flatnonzero(values.any(1)), np.flatnonzero(values.any(0))
    return values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scaled(values: Levels, box: int) -> Levels:
    """Levels (H, W) in [0, 1] with their longer side as long as the box."""
    height, width = (max(1, round(side * box / max(values.shape))) for side in values.shape)
    image = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64).copy()


def _placed(values: Levels, size: int, by_mass: bool) -> Grey:
    """Levels in [0, 1] in the middle of black (size, size), as uint8."""
    corner = []
    for axis, side in enumerate(values.shape):
        along = values.sum(1 - axis)
        middle = float(along @ np.arange(side) / along.sum()) if by_mass else side / 2
        corner.append(min(max(round(size / 2 - middle), 0), size - side))
    top, left = corner
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + values.shape[0], left : left + values.shape[1]] = np.rint(255 * values)
    return canvas
