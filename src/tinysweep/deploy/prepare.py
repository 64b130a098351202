"""A picture of one thing, drawn or photographed, brought into the form of the images that a model was trained on.

MNIST's digits are light on black, scaled to fit a box of 20x20 pixels with their aspect ratio kept, and placed in
28x28 with their centre of mass in the middle (LeCun et al., 1998, "Gradient-based learning applied to document
recognition").
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tinysweep.data.pictures import fit, on_background, open_picture
from tinysweep.errors import DataError
from tinysweep.run.labels import LabelNames
from tinysweep.settings.schema import DataName

Grey = NDArray[np.uint8]
Levels = NDArray[np.float64]
Mask = NDArray[np.bool_]

WORKING_SIZE = 320  # pixels a side that larger pictures are reduced to first, which also averages noise away
BLACK = 8  # grey levels up to which a border counts as black
FAINTEST = 0.15  # part of the background's light that a stroke must at least take away
SHARPEST_NOISE = 6  # standard deviations of the background's noise that it must differ by
DARKEST = 80  # grey levels of a background; what takes light away from a darker one counts for less
WIDEST = 0.3  # of the longer side: what is darker over more than this is shadow or table, and no stroke
EDGE = {True: 0.4, False: 0.15}  # part of the contrast from which a pixel belongs to a stroke, or to a garment
LEAST_PART = 0.05  # of the largest part's area; what is smaller, such as dust, is left out
LEAST_AREA = 0.001  # of the picture's; what covers less is nothing
# What MNIST's digits keep to, but for a few in a thousand.
GAP = 0.16  # in a stroke, in parts of the longer side; what lies further apart is two things
LEAST_HOLE = 0.01  # of a digit's area; what is smaller is a gap in the ink
THICKEST = 0.5  # of a stroke, in parts of the digit's longer side
TALL, WIDE = 9, 1.6  # height in widths, and width in heights, at most
MOST_PARTS = 3
THINNEST = 0.06  # a digit's area, in parts of the square of its longer side
EIGHT = np.ones((3, 3), int)  # pixels that touch by a corner belong together


class Invert(StrEnum):
    auto = "auto"
    yes = "yes"
    no = "no"


@dataclass(frozen=True)
class Form:
    """How the images of a data set were made: the longest side of what they show, in pixels; whether it is placed
    by its centre of mass or by its bounding box; whether it is a stroke, of one brightness, and a digit."""

    box: int
    by_mass: bool
    stroke: bool
    digit: bool = False


FORMS = {
    DataName.mnist: Form(20, by_mass=True, stroke=True, digit=True),
    DataName.kmnist: Form(28, by_mass=False, stroke=True),
    DataName.fashion_mnist: Form(28, by_mass=False, stroke=False),
}


def prepare(file: Path, labels: LabelNames, invert: Invert, as_is: bool) -> Grey:
    """The picture in a file as a model takes it: raw pixels (channels, size, size)."""
    if file.is_dir():
        raise DataError(f"{file} is a folder without pictures; give a picture or a folder that holds some")
    with open_picture(file) as image:
        if labels.data not in FORMS:
            return fit(image, labels.channels, labels.size)
        picture = _to_grey(image)
        if as_is:
            plain = fit(Image.fromarray(picture), 1, labels.size)
            return 255 - plain if invert == Invert.yes else plain
        try:
            return to_form(picture, FORMS[labels.data], labels.size, invert)[None]
        except DataError as error:
            raise DataError(f"{file} {error}; --as-is takes it all the same") from error


def _to_grey(image: Image.Image) -> Grey:
    """Grey levels (H, W), before black where a picture is transparent and what is drawn is light, otherwise before
    white."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        luminance, opacity = (np.asarray(band, np.float64) for band in (rgba.convert("L"), rgba.getchannel("A")))
        light = (luminance * opacity).sum() > 127.5 * opacity.sum()
        image = on_background(image, "black" if light else "white")
    return np.asarray(image.convert("L"))


def to_form(picture: Grey, form: Form, size: int, invert: Invert) -> Grey:
    """The form (size, size) of a picture (H, W). A picture that has the size and, if it shows a stroke, a black
    border, as it is or inverted, is taken to have it already. Refused: a picture in which nothing stands out from
    the background or, where a digit is wanted, what does isn't one."""
    dark = _is_dark_on_light(picture.astype(np.float64)) if invert == Invert.auto else invert == Invert.yes
    if picture.shape == (size, size):
        upright = 255 - picture if dark else picture
        black = np.median(_border(upright.astype(np.float64))) <= BLACK
        if (black or not form.stroke) and np.ptp(upright) >= 255 * FAINTEST:
            return upright
    factor = -(-max(picture.shape) // WORKING_SIZE)
    levels = np.asarray(Image.fromarray(picture).reduce(factor), dtype=np.float64)
    levels *= 255 / max(1, _highest(levels))
    # A sheet on a dark table has a border that tells nothing of its ink, so the other way is tried as well.
    for dark_on_light in [dark] if invert != Invert.auto else [dark, not dark]:
        turned = levels if dark_on_light else 255 - levels
        if invert != Invert.auto:  # whoever says so may have cropped the picture to the stroke
            turned = np.pad(turned, max(levels.shape) // 4, constant_values=_highest(turned))
        contrast = _contrast(turned, form)
        parts = _find_parts(contrast, form)
        if parts is not None:
            return _place(contrast, parts, form, size)
    raise DataError("is blank: nothing in it stands out from the background, or only what runs off its edge")


def _is_dark_on_light(levels: Levels) -> bool:
    """Whether the border, most of which is background though three quarters may lie in shadow, is lighter than the
    middle between the extremes."""
    return bool(np.quantile(_border(levels), 0.75) > (_highest(levels) - _highest(-levels)) / 2)


def _border(levels: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])


def _highest(levels: Levels) -> float:
    """The largest level but for a few, which may be faulty pixels."""
    rank = max(1, min(20, levels.size // 100))
    return float(np.partition(levels.ravel(), -rank)[-rank])


def _contrast(levels: Levels, form: Form) -> Levels:
    """The part of the background's light that is missing at each pixel. The background of strokes is what a
    closing leaves: it fills all that is dark and narrow, and keeps shadows, tables and their edges as they are."""
    if not form.stroke:
        paper = float(np.median(_border(levels)))
        return (paper - levels) / max(paper, DARKEST)
    longer = max(levels.shape)
    smooth = ndimage.gaussian_filter(levels, longer / WORKING_SIZE)
    side = round(WIDEST * longer) | 1
    padded = np.pad(smooth, side, constant_values=-np.inf)  # what lies along the picture's edge isn't filled
    background = ndimage.grey_closing(padded, (side, side))[side:-side, side:-side]
    contrast: Levels = (background - smooth) / np.maximum(background, DARKEST)
    return contrast - np.median(contrast)


def _find_parts(contrast: Levels, form: Form) -> Mask | None:
    """The pixels of what stands out from the background, without what is small beside the largest of its connected
    parts; None if nothing stands out, or only noise. Of a digit, parts that run off the picture's edge, as a
    table's do, are left out as well, unless it is cut out closely."""
    noise = 1.4826 * float(np.median(np.abs(contrast)))  # the median deviation of a normal distribution, scaled
    peak = _highest(contrast)
    if peak < max(FAINTEST, SHARPEST_NOISE * noise):
        return None
    labels, _ = ndimage.label(contrast > max(EDGE[form.stroke] * peak, 3 * noise), EIGHT)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    if form.digit:
        inside = areas.copy()
        inside[np.unique(_border(labels))] = 0
        main = labels == areas.argmax()
        cut_out_closely = all(side.any() for side in (main[0], main[-1], main[:, 0], main[:, -1]))
        if inside.sum() >= LEAST_AREA * labels.size or not cut_out_closely:
            areas = inside
    parts: Mask = ((areas >= LEAST_PART * areas.max()) & (areas > 0))[labels]
    if parts.sum() < LEAST_AREA * parts.size:
        return None
    if form.digit:
        _require_digit(parts)
    return parts


def _require_digit(parts: Mask) -> None:
    """Refuse what hasn't the shape of a digit: one stroke, which may have gaps, around two holes at most. A few
    in a thousand of MNIST's own haven't."""
    height, width = parts[_bounds(parts)].shape
    longest = max(height, width)
    joined = ndimage.binary_dilation(parts, EIGHT, max(1, round(GAP / 2 * longest)))
    count = ndimage.label(parts, EIGHT)[1]
    if count > MOST_PARTS or ndimage.label(joined)[1] > 1 or width > WIDE * height:
        raise DataError(f"shows no single digit: {count} strokes stand out, or a wide one")
    holes, _ = ndimage.label(~np.pad(parts, 1))
    if (np.bincount(holes.ravel())[2:] > LEAST_HOLE * parts.sum()).sum() > 2:
        raise DataError("shows no single digit: what stands out in it has more than two holes")
    thickest = 2 * ndimage.distance_transform_edt(np.pad(parts, 1)).max() / longest
    if thickest > THICKEST or height > TALL * width or parts.sum() < THINNEST * longest**2:
        raise DataError(
            "shows no single digit: what stands out in it is too thick or too thin for a digit's stroke"
        )


def _bounds(parts: Mask) -> tuple[slice, ...]:
    """Rows and columns of the box around a mask."""
    (bounds,) = ndimage.find_objects(parts.astype(int))
    return tuple(bounds)


def _place(contrast: Levels, parts: Mask, form: Form, size: int) -> Grey:
    """What stands out, scaled to the form's box, in the middle of black (size, size)."""
    full = np.median(contrast[parts & (contrast > _highest(contrast) / 2)]) if form.stroke else 1
    values = np.where(parts, (contrast / full).clip(0, 1), 0)[_bounds(parts)]
    height, width = (max(1, round(side * form.box / max(values.shape))) for side in values.shape)
    image = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    shrunk = np.asarray(image, dtype=np.float64)
    if form.stroke:
        shrunk = shrunk / shrunk.max()  # a thin stroke pales as it is scaled down, but MNIST's don't
    middle = ndimage.center_of_mass(shrunk) if form.by_mass else (height / 2, width / 2)
    ends = zip(middle, shrunk.shape, strict=True)
    top, left = (min(max(round(size / 2 - at), 0), size - side) for at, side in ends)
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + height, left : left + width] = np.rint(255 * shrunk)
    return canvas
