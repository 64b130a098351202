"""Pictures of any kind, read upright and in 8 bits, and resized to what a model takes."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tinysweep.errors import DataError, first_line

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
OWN = {"Software": "tinysweep"}  # what the plots that tinysweep draws say of themselves, as PNG text
MOST_PIXELS = 50_000_000  # as many as a phone's camera; a decoded picture takes up to 4 bytes for each


def files_in(folder: Path) -> list[Path]:
    """Pictures in a folder and its subfolders, but for hidden ones, which other programs leave behind."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):  # several times as fast as Path.rglob
        folders[:] = [name for name in folders if name[0] != "."]
        visible = (Path(place, name) for name in names if name[0] != ".")
        found += [file for file in visible if file.suffix.lower() in EXTENSIONS and file.is_file()]
    return sorted(found)


def is_own_plot(file: Path) -> bool:
    """Whether a file is a plot that tinysweep drew, and no picture to classify."""
    try:
        with Image.open(file) as image:
            return image.info.items() >= OWN.items()
    except Exception:  # whatever is wrong with it is told when it is read
        return False


@contextmanager
def open_picture(file: Path) -> Iterator[Image.Image]:
    """The picture in a file, the first if there are several, turned upright as its EXIF data say, in 8 bits a
    channel. What fails inside the with block counts as the file's fault."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield _to_eight_bits(ImageOps.exif_transpose(image), image.format)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except Image.DecompressionBombError as error:
        limit = f"a picture may have {MOST_PIXELS:,} pixels at most"
        raise DataError(f"{file} is too large: {limit}; make it smaller") from error
    except Exception as error:  # decoders raise anything from OSError to SyntaxError
        raise DataError(f"{file} is not a readable image ({first_line(error)}); mend or remove it") from error


def _to_eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Grey images of 16 bits, which Pillow would clip at 255, brought to 8; others as they are."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("the range of 32-bit pixels is not known")
    return image


def on_background(image: Image.Image, colour: str) -> Image.Image:
    """The picture as it looks before a colour, if it is transparent anywhere."""
    if not image.has_transparency_data:
        return image
    background = Image.new("RGBA", image.size, colour)
    return Image.alpha_composite(background, image.convert("RGBA"))


def fit(image: Image.Image, channels: int, size: int) -> NDArray[np.uint8]:
    """A picture on white, grey or with three channels, resized to uint8 (channels, size, size)."""
    converted = on_background(image, "white").convert("RGB" if channels == 3 else "L")
    array = np.asarray(converted.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    return array.transpose(2, 0, 1) if channels == 3 else array[None]
