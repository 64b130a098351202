"""A digit is read whatever picture it comes in, drawn or photographed; what is no digit is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import nn

from small_model import LABELS, Grey, Ink
from tinysweep.data import folder as image_folder
from tinysweep.data import pictures
from tinysweep.deploy.prepare import FORMS, Invert, prepare, to_form
from tinysweep.errors import DataError
from tinysweep.run.labels import LabelNames
from tinysweep.settings.schema import DataConfig, DataName

pytestmark = pytest.mark.filterwarnings("error")

Drawings = list[tuple[int, Ink]]


def digit_of(picture: Grey, invert: Invert = Invert.auto) -> Grey:
    """A picture in the form of MNIST's images."""
    return to_form(picture, FORMS[DataName.mnist], 28, invert)


def enlarge(digit: Grey) -> Ink:
    """A digit drawn large: ink (224, 224), 0 to 1, smooth-edged."""
    scaled = Image.fromarray(digit).resize((224, 224), Image.Resampling.BICUBIC)
    return np.asarray(1 / (1 + np.exp(-12 * (np.asarray(scaled) / 255 - 0.5))))


def classify(model: nn.Module, images: list[Grey]) -> list[int]:
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack(images)).view(-1, 1, 28, 28).float()
        return model(pixels).argmax(1).tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def drawings(digits: Grey, model: nn.Module) -> Drawings:
    """What the model says of some digits, and these drawn large."""
    some = list(digits[:24])
    return [(label, enlarge(digit)) for digit, label in zip(some, classify(model, some), strict=True)]


def on_canvas(ink: Ink, height: int, width: int, top: int, left: int) -> Ink:
    canvas = np.zeros((height, width))
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return canvas


def paint(ink: Ink, pen: Any, paper: Any) -> Grey:
    """Ink (H, W) of one colour on paper of another, each grey or RGB."""
    pen, paper = np.asarray(pen, float), np.asarray(paper, float)
    share = ink[..., None] if pen.ndim == 1 else ink
    picture: Grey = np.rint(share * pen + (1 - share) * paper).astype(np.uint8)
    return picture


def photograph(ink: Ink) -> Image.Image:
    """On paper on which the light falls off, with noise, off the centre."""
    ink = on_canvas(ink, 300, 420, 50, 150)
    y, x = np.mgrid[0:1:300j, 0:1:420j]
    paper = 215 - 70 * x - 40 * (y - 0.3) ** 2
    noise = np.random.default_rng(0).normal(0, 6, ink.shape)
    return Image.fromarray((paper * (1 - 0.75 * ink) + noise).clip(0, 255).astype(np.uint8))


def translucent(ink: Ink, colour: int) -> Image.Image:
    rgba = np.full((*ink.shape, 4), colour, np.uint8)
    rgba[..., 3] = np.rint(255 * ink)
    return Image.fromarray(rgba)


# ---- pictures in every form; each is saved as a file and read again

PICTURES: dict[str, Callable[[Ink], Image.Image]] = {
    "light on dark.png": lambda ink: Image.fromarray(paint(ink, 255, 0)),
    "dark on light.png": lambda ink: Image.fromarray(paint(ink, 0, 255)),
    "grey on grey.png": lambda ink: Image.fromarray(paint(ink, 120, 170)),
    "off the centre.png": lambda ink: Image.fromarray(paint(on_canvas(ink, 400, 700, 20, 440), 0, 255)),
    "colour.png": lambda ink: Image.fromarray(paint(ink, (200, 30, 30), (240, 230, 120))),
    "colour.jpg": lambda ink: Image.fromarray(paint(ink, (250, 220, 40), (10, 30, 90))),
    "photo.jpg": photograph,
    "black on nothing.png": lambda ink: translucent(ink, 0),
    "white on nothing.png": lambda ink: translucent(ink, 255),
    "16 bits.png": lambda ink: Image.fromarray((65535 * (1 - ink)).astype(np.uint16)),
    "12 bits.tif": lambda ink: Image.fromarray((4095 * ink).astype(np.uint16)),
    "palette.gif": lambda ink: Image.fromarray(paint(ink, 0, 255)).convert("RGB").quantize(8),
    "one bit.png": lambda ink: Image.fromarray(paint(ink, 0, 255)).convert("1"),
    "cmyk.tif": lambda ink: Image.fromarray(paint(ink, 0, 255)).convert("CMYK"),
    "small.bmp": lambda ink: Image.fromarray(paint(ink, 0, 255)).resize((48, 48), Image.Resampling.BOX),
    "squat.webp": lambda ink: Image.fromarray(paint(on_canvas(ink, 230, 900, 3, 300), 0, 255)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_digit_is_read_whatever_picture_it_comes_in(
    name: str, drawings: Drawings, model: nn.Module, tmp_path: Path
) -> None:
    forms = []
    for _, ink in drawings:
        PICTURES[name](ink).save(tmp_path / name)
        forms.append(prepare(tmp_path / name, LABELS, Invert.auto, as_is=False)[0])
    same = sum(found == label for found, (label, _) in zip(classify(model, forms), drawings, strict=True))
    assert same >= len(drawings) - 1


def test_a_large_photo_is_read(drawings: Drawings, model: nn.Module, tmp_path: Path) -> None:
    label, ink = drawings[0]
    photograph(ink).resize((4000, 4000)).save(tmp_path / "large.jpg")
    assert classify(model, [prepare(tmp_path / "large.jpg", LABELS, Invert.auto, as_is=False)[0]]) == [label]


# ---- paper, light and tables; and what is no digit

Y, X = np.mgrid[:360, :480].astype(float)
PAPER = 225 - 60 * X / 480 - 30 * (Y / 360 - 0.3) ** 2
RULES = (np.abs((Y + 0.02 * X) % 60 - 30) < 1) * 0.35
SQUARES = np.maximum(RULES, (np.abs((X - 0.02 * Y) % 40 - 20) < 1) * 0.35)
TABLE = 50 + 8 * np.sin(X / 7)
SURFACES = {
    "ruled": PAPER * (1 - RULES),
    "squared": PAPER * (1 - SQUARES),
    "half in a hard shadow": PAPER * np.where(X + 0.4 * Y > 300, 0.45, 1),
    "ruled and in shadow": PAPER * (1 - RULES) * np.where(Y - 0.3 * X > 120, 0.5, 1),
    "beside a dark table": np.where(X - 0.1 * Y < 50, TABLE, PAPER),
    "at a corner of a dark table": np.where((X > 420) | (Y + 0.05 * X > 330), TABLE, PAPER),
}


def write_on(surface: Ink, ink: Ink) -> Grey:
    """Ink (H, W) in the middle of a surface (360, 480), with a camera's noise."""
    top, left = (360 - len(ink)) // 2, (480 - ink.shape[1]) // 2
    noise = np.random.default_rng(0).normal(0, 3, surface.shape)
    picture = surface * (1 - 0.8 * on_canvas(ink, 360, 480, top, left)) + noise
    return picture.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", SURFACES)
def test_a_digit_is_read_whatever_it_is_written_on(name: str, drawings: Drawings, model: nn.Module) -> None:
    forms = [digit_of(write_on(SURFACES[name], ink)) for _, ink in drawings[:12]]
    same = sum(found == label for found, (label, _) in zip(classify(model, forms), drawings[:12], strict=True))
    assert same >= 11


def waves(width: float, length: float) -> Grey:
    rough = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (360, 480)), (length, width))
    grain = 140 + 40 * (rough - rough.mean()) / rough.std()
    return grain.clip(0, 255).astype(np.uint8)  # type: ignore[no-any-return]


def type_text(text: str) -> Ink:
    image = Image.new("L", (440, 130))
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 90)
    ImageDraw.Draw(image).text((10, 10), text, 255, font)
    return np.asarray(image) / 255


NO_DIGIT = {
    **{f"nothing, {name}": write_on(surface, np.zeros((9, 9))) for name, surface in SURFACES.items()},
    **{f"grain {size}": waves(*size) for size in ((2, 2), (8, 8), (4, 40), (40, 6))},
    **{f"squares of {n}": np.where((X // n + Y // n) % 2, 220, 40).astype(np.uint8) for n in (8, 20, 45, 90)},
    **{f"stripes of {n}": np.where((X + 0.7 * Y) // n % 2, 220, 40).astype(np.uint8) for n in (15, 40, 90)},
    **{text: write_on(PAPER, type_text(text)) for text in ("hello", "1998", "407", "no", "10%", "x = 2")},
    "black rules through it": write_on(PAPER * (1 - 2.3 * RULES), type_text("7")),
    "a spot": write_on(PAPER, ((X - 100) ** 2 + (Y - 100) ** 2 < 9000).astype(float)[:200, :200]),
}


@pytest.mark.parametrize("name", NO_DIGIT)
def test_what_hasnt_the_shape_of_one_digit_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"^(shows no single digit: |is blank: )"):
        digit_of(NO_DIGIT[name])


@pytest.mark.slow
def test_of_the_data_sets_own_digits_hardly_any_is_refused_for_its_shape(digits: Grey) -> None:
    for digit in digits[:100]:
        assert digit_of(paint(on_canvas(enlarge(digit), 300, 320, 40, 50), 20, 230)).any()


BLANK: dict[str, Grey] = {
    "white": np.full((40, 30), 255, np.uint8),
    "black": np.zeros((28, 28), np.uint8),
    "one pixel": np.full((1, 1), 7, np.uint8),
    "two pixels": np.array([[0, 255]], np.uint8),
    "a line of pixels": np.full((1, 2000), 90, np.uint8),
    "fading": np.linspace(90, 220, 300 * 200).reshape(300, 200).astype(np.uint8),
    "noise": np.random.default_rng(0).normal(150, 9, (200, 300)).clip(0, 255).astype(np.uint8),
    "noise of the size": np.random.default_rng(1).normal(128, 9, (28, 28)).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", BLANK)
def test_nothing_is_seen_in_a_blank_picture(name: str, tmp_path: Path) -> None:
    Image.fromarray(BLANK[name]).save(tmp_path / "blank.png")
    with pytest.raises(DataError, match=r"blank\.png is blank: nothing in it stands out from the background"):
        prepare(tmp_path / "blank.png", LABELS, Invert.auto, as_is=False)


# ---- the form of MNIST


def test_an_image_of_the_data_set_and_its_negative_are_taken_as_they_are(digits: Grey, tmp_path: Path) -> None:
    for digit in digits:
        assert (digit_of(digit) == digit).all()
        assert (digit_of(255 - digit) == digit).all()
    Image.fromarray(digits[0]).convert("RGB").save(tmp_path / "digit.png")
    assert (prepare(tmp_path / "digit.png", LABELS, Invert.auto, as_is=False)[0] == digits[0]).all()


def test_a_form_is_20_pixels_long_and_centred_by_mass(drawings: Drawings) -> None:
    for _, ink in drawings:
        form = digit_of(paint(ink, 0, 255))
        assert form.max() == 255
        rows, columns = np.flatnonzero(form.any(1)), np.flatnonzero(form.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        for axis in (0, 1):
            mass = form.sum(1 - axis) / form.sum()
            assert abs(float(mass @ np.arange(28)) - 14) <= 0.5, "as in MNIST itself"


def alike(one: Grey, other: Grey) -> bool:
    """Whether two forms are the same up to faint edges and a pixel's shift, which rounding decides."""
    shifted = [np.roll(other, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return min(float(np.abs(one.astype(float) - each).mean()) for each in shifted) < 3


def test_neither_its_place_nor_dust_and_faulty_pixels_change_a_digit(drawings: Drawings) -> None:
    for _, ink in drawings[:5]:
        centred = paint(on_canvas(ink, 360, 400, 68, 88), 10, 240)
        dirty = centred.copy()
        for y, x in ((5, 5), (350, 200), (20, 380), (200, 12)):
            dirty[y : y + 3, x : x + 3] = 0
        dirty[300, 20] = 255
        moved = [paint(on_canvas(ink, 360, 400, *at), 10, 240) for at in ((0, 0), (90, 4), (30, 130))]
        assert all(alike(digit_of(centred), digit_of(other)) for other in (dirty, *moved))


def test_invert_overrules_what_the_border_says(digits: Grey) -> None:
    for invert, picture in ((Invert.yes, 255 - digits[0]), (Invert.no, digits[0])):
        assert (digit_of(picture, invert) == digits[0]).all()
    one = np.full((200, 60), 20, np.uint8)  # cropped so tightly that most of its border is stroke
    one[:, :8] = one[:, 52:] = 230
    one[:30, :25] = one[170:, 35:] = 230
    form = digit_of(one, Invert.yes)
    assert form[14, 14] == 255
    assert not form[:, :10].any()
    assert alike(form, digit_of(255 - one, Invert.no))


def test_as_is_only_resizes(tmp_path: Path) -> None:
    Image.fromarray(BLANK["fading"]).save(tmp_path / "x.png")
    plain = prepare(tmp_path / "x.png", LABELS, Invert.auto, as_is=True)
    expected = Image.fromarray(BLANK["fading"]).resize((28, 28), Image.Resampling.BILINEAR)
    assert (plain[0] == np.asarray(expected)).all()
    assert (prepare(tmp_path / "x.png", LABELS, Invert.yes, as_is=True) == 255 - plain).all()


def test_garments_keep_their_texture_and_fill_the_image() -> None:
    texture = np.random.default_rng(0).integers(30, 200, (9, 6)).repeat(20, 0).repeat(20, 1)
    picture = np.full((300, 300), 255, np.uint8)
    picture[50:230, 100:220] = texture
    form = to_form(picture, FORMS[DataName.fashion_mnist], 28, Invert.auto)
    rows, columns = np.flatnonzero(form.any(1)), np.flatnonzero(form.any(0))
    assert (rows[0], rows[-1]) == (0, 27)
    assert (columns[0], columns[-1]) == (4, 22)
    assert abs(float(form[:, 4:23].mean()) - float(255 - texture.mean())) < 3
    assert len(np.unique(form)) > 30


# ---- other pictures


@pytest.mark.parametrize("colour", [False, True])
def test_own_images_are_read_as_in_training(tmp_path: Path, colour: bool) -> None:
    rng = np.random.default_rng(0)
    for name in ("test/a", "test/b", "train/a", "train/b"):
        (tmp_path / name).mkdir(parents=True)
        rgba = rng.integers(0, 256, (30, 50, 4), dtype=np.uint8)
        for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "CMYK"):
            Image.fromarray(rgba).convert(mode).save(
                tmp_path / name / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
            )
    config = DataConfig(DataName.image_folder, root=str(tmp_path), image_size=12, colour=colour)
    labels = LabelNames(DataName.image_folder, 3 if colour else 1, 12, ("a", "b"))
    files = [file for _, file in image_folder.list_images(config, "test")]
    for file, expected in zip(files, image_folder.read(config, "test")[0], strict=True):
        assert (prepare(file, labels, Invert.auto, as_is=False) == expected).all(), file


@pytest.mark.parametrize("limit", [(pictures, "MOST_PIXELS"), (Image, "MAX_IMAGE_PIXELS")])
def test_a_picture_of_too_many_pixels_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: tuple[Any, str]
) -> None:
    Image.new("1", (30, 30)).save(tmp_path / "huge.png")
    monkeypatch.setattr(*limit, 400)
    with pytest.raises(DataError, match=r"is too large: a picture may have [\d,]+ pixels at most") as caught:
        prepare(tmp_path / "huge.png", LABELS, Invert.auto, as_is=False)
    assert "\n" not in str(caught.value)
