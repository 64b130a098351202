"""Pictures of all kinds, read upright, in 8 bits and at the size asked for; and those that can't be."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tinysweep.data.pictures import EXTENSIONS, fit, open_picture
from tinysweep.errors import DataError

RAMP = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10


def read(file: Path, channels: int = 1, size: int = 4) -> NDArray[np.uint8]:
    with open_picture(file) as image:
        return fit(image, channels, size)


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS - {".ppm"}))
def test_every_kind_of_file_is_read_with_rows_as_rows(tmp_path: Path, suffix: str) -> None:
    large = RAMP.repeat(8, 0).repeat(8, 1)
    Image.fromarray(large).save(tmp_path / f"x{suffix}")
    assert read(tmp_path / f"x{suffix}", size=32)[0] == pytest.approx(large.astype(float), abs=6)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (300, 7), (4, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_becomes_the_one_asked_for(tmp_path: Path, size: tuple[int, int], channels: int) -> None:
    Image.fromarray(np.full((*size, 3), (200, 100, 50), np.uint8)).save(tmp_path / "x.png")
    pixels = read(tmp_path / "x.png", channels, size=9)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (channels, 9, 9)
    assert (pixels == pixels[:, :1, :1]).all()
    grey = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert pixels[:, 4, 4].tolist() == ([200, 100, 50] if channels == 3 else [grey])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    Image.fromarray((np.arange(16).reshape(4, 4) * 4369).astype(np.uint16)).save(tmp_path / f"x{suffix}")
    assert read(tmp_path / f"x{suffix}")[0] == pytest.approx(np.arange(16.0).reshape(4, 4) * 17, abs=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str, channels: int) -> None:
    if mode == "P":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.paste(0, (2, 0, 4, 4))
        image.save(tmp_path / "x.png", transparency=0)
    else:
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (0, 0, 2, 4))
        image.convert(mode).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png", channels)[:, 0].tolist() == [[0, 0, 255, 255]] * channels


def test_palette_indices_are_not_taken_for_brightness(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "x.gif")
    assert read(tmp_path / "x.gif", 3)[:, 0, 0].tolist() == [200, 100, 50]


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))  # as stored, the top is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn a quarter clockwise to show": the left becomes the top, the top the right
    image.save(tmp_path / "x.jpg", exif=exif)
    pixels = read(tmp_path / "x.jpg")[0]
    assert (pixels[:, 0] < 10).all()
    assert (pixels[:, -1] > 245).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_no_known_range_are_refused(tmp_path: Path, dtype: type[np.generic]) -> None:
    Image.fromarray(np.zeros((4, 4), dtype)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif .*range of 32-bit pixels"):
        read(tmp_path / "x.tif")


@pytest.mark.parametrize("damage", ["no image", "empty", "truncated", "broken chunk"])
def test_a_damaged_image_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    position = content.index(b"IDAT")
    damaged = {
        "no image": b"no image",
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "broken chunk": content[:position] + b"\0\0\0\0" + content[position + 4 :],  # Pillow: SyntaxError
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(DataError, match=rf"^{path} is not a readable image") as caught:
        read(path)
    assert "\n" not in str(caught.value)
