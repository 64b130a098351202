"""A digit is named whatever picture it comes in; what can't be is told in one line, and the others are named."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import nn

from conftest import Command
from small_model import trained_run
from tinysweep.commands.predict import SURE, main, prepared, require_digit
from tinysweep.data import folder as image_folder
from tinysweep.data.catalogue import DATA_SETS, DataShape
from tinysweep.data.load import load, load_test
from tinysweep.data.pictures import MOST_PIXELS, open_picture
from tinysweep.deploy.classifier import ranked
from tinysweep.deploy.likeness import edges, fitted_planes, planes
from tinysweep.deploy.onnx_model import convert, folded
from tinysweep.deploy.strokes import FORMS, Invert, formed
from tinysweep.errors import DataError
from tinysweep.network.build import build_model
from tinysweep.run.curves import draw
from tinysweep.run.labels import LabelNames
from tinysweep.run.saved import read, save
from tinysweep.settings.schema import DataConfig, DataName, ModelConfig
from tinysweep.training.loop import Epoch, Normalise, Result

pytestmark = pytest.mark.filterwarnings("error")

Grey = NDArray[np.uint8]
DIGITS = DATA_SETS[DataName.mnist].classes
LABELS = LabelNames(DataName.mnist, 1, 28, DIGITS)
MNIST = FORMS[DataName.mnist]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> Path:
    """The folder of a run with a model that knows digits."""
    return trained_run(tmp_path_factory, mnist_root)


@pytest.fixture(scope="module")
def model(small: Path) -> nn.Module:
    return read(small).model


@pytest.fixture(scope="module")
def exported(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    file.write_bytes(convert(folded(read(small).model), LABELS))
    return file


@pytest.fixture(scope="module")
def digits(mnist_root: Path) -> Grey:
    """Test images (300, 28, 28)."""
    return load_test(DataConfig(root=str(mnist_root))).pixels[:300, 0].numpy()


@pytest.fixture(scope="module")
def drawings(digits: Grey, model: nn.Module) -> list[tuple[int, NDArray[np.float64]]]:
    """What the model says of some digits, and these drawn large: ink (224, 224), 0 to 1, smooth-edged."""
    return [
        (label, large(digit)) for digit, label in zip(digits[:24], named(model, list(digits[:24])), strict=True)
    ]


def large(digit: Grey) -> NDArray[np.float64]:
    scaled = Image.fromarray(digit).resize((224, 224), Image.Resampling.BICUBIC)
    return np.asarray(1 / (1 + np.exp(-12 * (np.asarray(scaled) / 255 - 0.5))))


def named(model: nn.Module, pixels: list[Grey]) -> list[int]:
    with torch.inference_mode():
        return model(torch.from_numpy(np.stack(pixels)).view(-1, 1, 28, 28).float()).argmax(1).tolist()  # type: ignore[no-any-return]


def on_canvas(ink: NDArray[np.float64], height: int, width: int, top: int, left: int) -> NDArray[np.float64]:
    canvas = np.zeros((height, width))
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return canvas


def mixed(ink: NDArray[np.float64], pen: Any, paper: Any) -> Grey:
    """Ink (H, W) of one colour on paper of another, each grey or RGB."""
    pen, paper = np.asarray(pen, float), np.asarray(paper, float)
    share = ink[..., None] if pen.ndim == 1 else ink
    picture: Grey = np.rint(share * pen + (1 - share) * paper).astype(np.uint8)
    return picture


def photographed(ink: NDArray[np.float64]) -> Grey:
    """On paper on which the light falls off, with noise, off the centre."""
    ink = on_canvas(ink, 300, 420, 50, 150)
    y, x = np.mgrid[0:1:300j, 0:1:420j]
    paper = 215 - 70 * x - 40 * (y - 0.3) ** 2
    noise = np.random.default_rng(0).normal(0, 6, ink.shape)
    picture: Grey = (paper * (1 - 0.75 * ink) + noise).clip(0, 255).astype(np.uint8)
    return picture


# ---- pictures in every form; each is saved as a file and read again


def translucent(ink: NDArray[np.float64], colour: int) -> Image.Image:
    rgba = np.full((*ink.shape, 4), colour, np.uint8)
    rgba[..., 3] = np.rint(255 * ink)
    return Image.fromarray(rgba)


PICTURES: dict[str, Callable[[NDArray[np.float64]], Image.Image]] = {
    "light on dark.png": lambda ink: Image.fromarray(mixed(ink, 255, 0)),
    "dark on light.png": lambda ink: Image.fromarray(mixed(ink, 0, 255)),
    "grey on grey.png": lambda ink: Image.fromarray(mixed(ink, 120, 170)),
    "off the centre.png": lambda ink: Image.fromarray(mixed(on_canvas(ink, 400, 700, 20, 440), 0, 255)),
    "colour.png": lambda ink: Image.fromarray(mixed(ink, (200, 30, 30), (240, 230, 120))),
    "colour.jpg": lambda ink: Image.fromarray(mixed(ink, (250, 220, 40), (10, 30, 90))),
    "photo.jpg": lambda ink: Image.fromarray(photographed(ink)),
    "black on nothing.png": lambda ink: translucent(ink, 0),
    "white on nothing.png": lambda ink: translucent(ink, 255),
    "16 bits.png": lambda ink: Image.fromarray((65535 * (1 - ink)).astype(np.uint16)),
    "12 bits.tif": lambda ink: Image.fromarray((4095 * ink).astype(np.uint16)),
    "palette.gif": lambda ink: Image.fromarray(mixed(ink, 0, 255)).convert("RGB").quantize(8),
    "one bit.png": lambda ink: Image.fromarray(mixed(ink, 0, 255)).convert("1"),
    "cmyk.tif": lambda ink: Image.fromarray(mixed(ink, 0, 255)).convert("CMYK"),
    "small.bmp": lambda ink: Image.fromarray(mixed(ink, 0, 255)).resize((48, 48), Image.Resampling.BOX),
    "squat.webp": lambda ink: Image.fromarray(mixed(on_canvas(ink, 230, 900, 3, 300), 0, 255)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_digit_is_named_whatever_picture_it_comes_in(
    name: str, drawings: list[tuple[int, NDArray[np.float64]]], model: nn.Module, tmp_path: Path
) -> None:
    forms = []
    for _, ink in drawings:
        PICTURES[name](ink).save(tmp_path / name)
        forms.append(prepared(tmp_path / name, LABELS, Invert.auto, as_is=False)[0])
    same = sum(found == label for found, (label, _) in zip(named(model, forms), drawings, strict=True))
    assert same >= len(drawings) - 1


def test_a_large_photo_is_named(
    drawings: list[tuple[int, NDArray[np.float64]]], model: nn.Module, tmp_path: Path
) -> None:
    label, ink = drawings[0]
    Image.fromarray(photographed(ink)).resize((4000, 4000)).save(tmp_path / "large.jpg")
    pixels = prepared(tmp_path / "large.jpg", LABELS, Invert.auto, as_is=False)
    assert named(model, [pixels[0]]) == [label]


def test_a_picture_turned_by_its_camera_is_turned_back(
    drawings: list[tuple[int, NDArray[np.float64]]], tmp_path: Path
) -> None:
    upright = Image.fromarray(mixed(drawings[0][1], 0, 255))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90).save(tmp_path / "turned.png", exif=exif)
    forms = [prepared(tmp_path / name, LABELS, Invert.auto, as_is=False) for name in ("upright.png", "turned.png")]
    assert (forms[0] == forms[1]).all()


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


def written(ink: NDArray[np.float64], surface: NDArray[np.float64]) -> Grey:
    """Ink (H, W) on a surface (360, 480), in its middle, with a camera's noise."""
    top, left = (360 - len(ink)) // 2, (480 - ink.shape[1]) // 2
    noise = np.random.default_rng(0).normal(0, 3, surface.shape)
    shown = surface * (1 - 0.8 * on_canvas(ink, 360, 480, top, left)) + noise
    picture: Grey = shown.clip(0, 255).astype(np.uint8)
    return picture


@pytest.mark.parametrize("name", SURFACES)
def test_a_digit_is_named_whatever_it_is_written_on(
    name: str, drawings: list[tuple[int, NDArray[np.float64]]], model: nn.Module
) -> None:
    some = drawings[:12]
    forms = [formed(written(ink, SURFACES[name]), MNIST, 28, Invert.auto) for _, ink in some]
    same = sum(found == label for found, (label, _) in zip(named(model, forms), some, strict=True))
    assert same >= len(some) - 1


def waves(width: float, length: float) -> NDArray[np.float64]:
    rough = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (360, 480)), (length, width))
    grain: NDArray[np.float64] = 140 + 40 * (rough - rough.mean()) / rough.std()
    return grain


def typed(text: str) -> NDArray[np.float64]:
    image = Image.new("L", (440, 130))
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 90)
    ImageDraw.Draw(image).text((10, 10), text, 255, font)
    return np.asarray(image) / 255


NO_DIGIT = {
    **{f"nothing, {name}": written(np.zeros((9, 9)), surface) for name, surface in SURFACES.items()},
    **{f"grain {size}": waves(*size).clip(0, 255).astype(np.uint8) for size in ((2, 2), (8, 8), (4, 40), (40, 6))},
    **{f"squares of {n}": np.where((X // n + Y // n) % 2, 220, 40).astype(np.uint8) for n in (8, 20, 45, 90)},
    **{f"stripes of {n}": np.where((X + 0.7 * Y) // n % 2, 220, 40).astype(np.uint8) for n in (15, 40, 90)},
    **{text: written(typed(text), PAPER) for text in ("hello", "1998", "407", "no", "10%", "x = 2")},
    "black rules through it": written(typed("7"), PAPER * (1 - 2.3 * RULES)),
    "a spot": written(((X - 100) ** 2 + (Y - 100) ** 2 < 9000).astype(float)[:200, :200], PAPER),
}


@pytest.mark.parametrize("name", NO_DIGIT)
def test_what_hasnt_the_shape_of_one_digit_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"^(shows no single digit: |is blank: )"):
        formed(NO_DIGIT[name], MNIST, 28, Invert.auto)


# A person may read O, o, l, I, S, s, Z, z, B, b, g, q and D as digits.
LETTERS = "ACEFGHJKLMNPQRTUVWXYacdefhijkmnprtuvwxy"
FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmr10")


def printed(character: str, font: str) -> Grey:
    """A character on paper."""
    image = Image.new("L", (96, 112))
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    ImageDraw.Draw(image).text((16, 0), character, 255, ImageFont.truetype(str(file), 80))
    return mixed(np.asarray(image) / 255, 40, 220)


def answered(model: nn.Module, picture: Grey) -> float:
    """The probability with which a picture is named, 0 if it is refused."""
    try:
        form = formed(picture, MNIST, 28, Invert.auto)
        with torch.inference_mode():
            (logits,) = model(torch.from_numpy(form).view(1, 1, 28, 28).float()).double().numpy()
        best = ranked(logits, DIGITS)[0]
        require_digit(Path("it"), form, best)
    except DataError:
        return 0
    return best.probability


def test_most_letters_are_refused_and_typed_digits_are_not(model: nn.Module) -> None:
    letters, numerals = (
        [answered(model, printed(character, font)) for font in FONTS for character in characters]
        for characters in (LETTERS, DIGITS)
    )
    assert np.mean(np.array(letters) > 0) < 0.45
    assert np.mean(np.array(numerals) > 0) > 0.9


def test_of_the_data_sets_own_digits_hardly_any_is_refused_for_its_looks(mnist_root: Path) -> None:
    test = load_test(DataConfig(root=str(mnist_root)))
    pixels, labels = test.pixels[:2000, 0].numpy(), test.labels[:2000].numpy()
    shipped = planes()
    for label in range(10):
        distances = shipped.distances(pixels[labels == label], label)
        assert (distances > shipped.limits[label]).mean() < 0.03


def test_an_images_edges_are_its_own(digits: Grey) -> None:
    assert edges(digits[:9]) == pytest.approx(np.concatenate([edges(digit[None]) for digit in digits[:9]]))


def test_the_planes_that_come_along_are_those_of_the_training_images(mnist_root: Path) -> None:
    data = load(DataConfig(root=str(mnist_root), limit=5000))
    assert data.validation
    parts = [(part.pixels[:, 0].numpy(), part.labels.numpy()) for part in (data.train, data.validation)]
    some, shipped = fitted_planes(*parts), planes()
    assert some.limits == pytest.approx(shipped.limits, rel=0.25)
    for label in range(10):
        anew, given = (each.distances(parts[1][0][:500], label) for each in (some, shipped))
        assert np.corrcoef(anew, given)[0, 1] > 0.95


def test_a_letter_is_refused_by_the_command_unless_taken_as_it_is(
    command: Command, place: Path, small: Path, exported: Path, model: nn.Module
) -> None:
    letters = [printed(letter, FONTS[0]) for letter in LETTERS]
    forms = [formed(letter, MNIST, 28, Invert.auto) for letter in letters if not answered(model, letter)]
    with torch.inference_mode():
        chances = model(torch.from_numpy(np.stack(forms))[:, None].float()).softmax(1).amax(1)
    assert chances.max() > 0.8, "or certainty alone would refuse it"
    Image.fromarray(forms[int(chances.argmax())]).save(place / "letter.png")
    for path in (small, exported):
        ended = command(str(path), "letter.png", main=main)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("error: letter.png shows no single digit: the likeliest is ")
        assert command(str(path), "letter.png", "--as-is", main=main).status == 0


def test_of_the_data_sets_own_digits_hardly_any_is_refused_for_its_shape(digits: Grey) -> None:
    for digit in digits[:100]:
        assert formed(mixed(on_canvas(large(digit), 300, 320, 40, 50), 20, 230), MNIST, 28, Invert.auto).any()


def test_what_the_model_is_unsure_of_is_refused_unless_taken_as_it_is(
    command: Command, place: Path, small: Path, model: nn.Module, digits: Grey
) -> None:
    mixtures = np.rint(0.5 * digits[:-1] + 0.5 * digits[1:]).astype(np.uint8)
    with torch.inference_mode():
        chances = model(torch.from_numpy(mixtures)[:, None].float()).softmax(1).amax(1)
    two = mixtures[int(chances.argmin())]
    assert chances.min() < SURE, "or this test tells nothing"
    for name, digit in (("both", two), ("one", digits[0])):
        Image.fromarray(digit).save(place / f"{name}.png")
    ended = command(str(small), "both.png", "one.png", main=main)
    assert ended.status == 1
    assert ended.out.startswith("one.png")
    assert ended.err.startswith("error: both.png shows no single digit: the likeliest, ")
    assert command(str(small), "both.png", "--as-is", main=main).status == 0


def test_plots_that_tinysweep_drew_are_passed_over(
    command: Command, place: Path, small: Path, digits: Grey
) -> None:
    (place / "run").mkdir()
    draw([Epoch(1, 1.0, 1.0, 0.5, 0.1, 1.0)], "run", place / "run" / "curves.png")
    Image.fromarray(digits[0]).save(place / "run" / "digit.png")
    ended = command(str(small), "run", main=main)
    assert (ended.status, ended.out.split()[0], ended.out.count("\n")) == (0, "run/digit.png", 1)
    assert ended.err == "run/curves.png is a plot that tinysweep drew: passed over\n"


# ---- the form of MNIST


@pytest.mark.parametrize("kind", ["light on dark", "dark on light", "colour"])
def test_an_image_of_the_data_set_is_taken_as_it_is(digits: Grey, tmp_path: Path, kind: str) -> None:
    for digit in digits[:50]:
        image = Image.fromarray(255 - digit if kind == "dark on light" else digit)
        image.convert("RGB" if kind == "colour" else "L").save(tmp_path / "digit.png")
        assert (prepared(tmp_path / "digit.png", LABELS, Invert.auto, as_is=False)[0] == digit).all()


def test_every_digit_and_its_negative_keep_their_pixels(digits: Grey) -> None:
    for digit in digits:
        for picture in (digit, 255 - digit):
            form = formed(picture, MNIST, 28, Invert.auto)
            assert (form == digit).all()


def test_a_form_is_20_pixels_long_and_centred_by_mass(drawings: list[tuple[int, NDArray[np.float64]]]) -> None:
    for _, ink in drawings:
        form = formed(mixed(ink, 0, 255), MNIST, 28, Invert.auto)
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


@pytest.mark.parametrize(("top", "left"), [(0, 0), (90, 4), (30, 130)])
def test_where_a_digit_stands_changes_nothing(
    drawings: list[tuple[int, NDArray[np.float64]]], top: int, left: int
) -> None:
    for _, ink in drawings[:5]:
        centred, moved = (mixed(on_canvas(ink, 360, 400, *at), 10, 240) for at in ((68, 88), (top, left)))
        forms = [formed(picture, MNIST, 28, Invert.auto) for picture in (centred, moved)]
        assert alike(*forms)


def test_dust_and_faulty_pixels_change_nothing(drawings: list[tuple[int, NDArray[np.float64]]]) -> None:
    clean = mixed(on_canvas(drawings[0][1], 400, 400, 90, 90), 60, 220)
    dirty = clean.copy()
    for y, x in ((5, 5), (390, 200), (20, 380), (200, 12)):
        dirty[y : y + 3, x : x + 3] = 0
    dirty[300, 20] = 255
    forms = [formed(picture, MNIST, 28, Invert.auto) for picture in (clean, dirty)]
    assert alike(*forms)


def test_invert_overrules_what_the_border_says(digits: Grey) -> None:
    digit = digits[0]
    for invert, picture in ((Invert.yes, 255 - digit), (Invert.no, digit)):
        form = formed(picture, MNIST, 28, invert)
        assert (form == digit).all()
    one = np.full((200, 60), 20, np.uint8)  # cropped so tightly that most of its border is stroke
    one[:, :8] = one[:, 52:] = 230
    one[:30, :25] = one[170:, 35:] = 230
    form = formed(one, MNIST, 28, Invert.yes)
    assert form[14, 14] == 255
    assert not form[:, :10].any()
    inverted = formed(255 - one, MNIST, 28, Invert.no)
    assert alike(form, inverted)


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
        prepared(tmp_path / "blank.png", LABELS, Invert.auto, as_is=False)


def test_as_is_only_resizes(tmp_path: Path) -> None:
    Image.fromarray(BLANK["fading"]).save(tmp_path / "x.png")
    plain = prepared(tmp_path / "x.png", LABELS, Invert.auto, as_is=True)
    expected = Image.fromarray(BLANK["fading"]).resize((28, 28), Image.Resampling.BILINEAR)
    assert (plain[0] == np.asarray(expected)).all()
    assert (prepared(tmp_path / "x.png", LABELS, Invert.yes, as_is=True) == 255 - plain).all()


def test_garments_keep_their_texture_and_fill_the_image() -> None:
    texture = np.random.default_rng(0).integers(30, 200, (9, 6)).repeat(20, 0).repeat(20, 1)
    picture = np.full((300, 300), 255, np.uint8)
    picture[50:230, 100:220] = texture
    form = formed(picture, FORMS[DataName.fashion_mnist], 28, Invert.auto)
    rows, columns = np.flatnonzero(form.any(1)), np.flatnonzero(form.any(0))
    assert (rows[0], rows[-1]) == (0, 27)
    assert (columns[0], columns[-1]) == (4, 22)
    assert abs(float(form[:, 4:23].mean()) - float(255 - texture.mean())) < 3
    assert len(np.unique(form)) > 30


# ---- models of an image folder


@pytest.mark.parametrize("colour", [False, True])
def test_own_images_are_read_as_in_training(tmp_path: Path, colour: bool) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        folder = tmp_path / "test" / label
        folder.mkdir(parents=True)
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "train" / label / "x.png")
        rgba = rng.integers(0, 256, (30, 50, 4), dtype=np.uint8)
        for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "CMYK"):
            Image.fromarray(rgba).convert(mode).save(folder / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
        Image.fromarray(rng.integers(0, 65536, (30, 50), dtype=np.uint16)).save(folder / "sixteen.png")
        exif = Image.Exif()
        exif[0x0112] = 8
        Image.fromarray(rgba[..., :3]).save(folder / "turned.jpg", exif=exif)
    config = DataConfig(DataName.image_folder, root=str(tmp_path), image_size=12, colour=colour)
    pixels, _ = image_folder.read(config, "test")
    labels = LabelNames(DataName.image_folder, 3 if colour else 1, 12, ("a", "b"))
    files = [file for label in ("a", "b") for file in sorted((tmp_path / "test" / label).iterdir())]
    assert len(files) == len(pixels)
    for file, expected in zip(files, pixels, strict=True):
        assert (prepared(file, labels, Invert.auto, as_is=False) == expected).all(), file


def own_model(folder: Path, classes: tuple[str, ...]) -> Path:
    """A run's model of grey images of 12x12 with its classes, the folder of which is gone by now."""
    shape, config = DataShape(1, 12, len(classes)), ModelConfig(width=3, depth=[1, 1], stem_kernel=3)
    images = folder.parent / "photos"
    for name in classes:
        (images / name).mkdir(parents=True)
    folder.mkdir()
    network = nn.Sequential(Normalise((0.2,), (0.3,)), build_model(config, shape)).eval()
    data = DataConfig(DataName.image_folder, root=str(images), image_size=12)
    save(folder / "model.pt", Result(network, [], 0.0), config, shape, data)
    for name in classes:
        (images / name).rmdir()
    return folder


def test_the_classes_of_own_images_go_by_their_names(command: Command, place: Path) -> None:
    folder = own_model(place / "run", ("bird of prey", "cat"))
    Image.new("RGBA", (5, 9), "red").save(place / "x.png")
    ended = command(str(folder), "x.png", main=main)
    assert (ended.status, ended.err) == (0, "")
    assert "bird of prey " in ended.out
    assert "cat " in ended.out
    assert (
        "--invert yes is for models of digits" in command(str(folder), "x.png", "--invert", "yes", main=main).err
    )


# ---- the command


@pytest.fixture
def pictures(place: Path, digits: Grey) -> list[str]:
    """Three test images: 7, 2 and 1."""
    names = [f"scans/{number}.png" for number in range(3)]
    (place / "scans").mkdir()
    for name, digit in zip(names, digits, strict=False):
        Image.fromarray(digit).save(place / name)
    return names


def test_each_picture_gets_a_line_with_its_likeliest_classes(
    command: Command, small: Path, pictures: list[str], model: nn.Module, digits: Grey
) -> None:
    ended = command(str(small), *pictures, main=main)
    assert (ended.status, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert [line[0] for line in lines] == pictures
    assert [line[1] for line in lines] == ["7", "2", "1"]
    assert all(len(line) == 7 for line in lines), "three classes and their probabilities"
    with torch.inference_mode():
        expected = model(torch.from_numpy(digits[:3]).unsqueeze(1).float()).softmax(1)
    for line, chances in zip(lines, expected, strict=True):
        for label, percent in zip(line[1::2], line[2::2], strict=True):
            assert float(percent.rstrip("%")) == pytest.approx(100 * float(chances[int(label)]), abs=0.051)


def test_json_is_an_object_a_line_and_the_same_from_either_runtime(
    command: Command, small: Path, exported: Path, pictures: list[str]
) -> None:
    found = []
    for path in (small, small / "model.pt", exported):
        ended = command(str(path), *pictures, "--json", "--top", "99", main=main)
        assert (ended.status, ended.err) == (0, "")
        found.append([json.loads(line) for line in ended.out.splitlines()])
    for one, other in ((found[0], found[1]), (found[0], found[2])):
        for a, b in zip(one, other, strict=True):
            assert a["image"] == b["image"]
            chances = [{each["class"]: each["probability"] for each in of["predictions"]} for of in (a, b)]
            assert chances[0] == pytest.approx(chances[1], abs=1e-5)
            assert sum(chances[0].values()) == pytest.approx(1)
            assert [each["probability"] for each in a["predictions"]] == sorted(chances[0].values(), reverse=True)
            assert all(each["class"] == str(each["label"]) for each in a["predictions"])


def test_a_folder_stands_for_the_pictures_in_it(command: Command, exported: Path, pictures: list[str]) -> None:
    Path("scans/notes.txt").write_text("no picture")
    Path("scans/.hidden.png").write_text("no picture")
    Path("scans/deep").mkdir()
    Path(pictures[2]).rename("scans/deep/last.PNG")
    ended = command(str(exported), "scans", "--top", "1", main=main)
    assert ended.status == 0
    lines = [line.split()[:2] for line in ended.out.splitlines()]
    assert lines == [["scans/0.png", "7"], ["scans/1.png", "2"], ["scans/deep/last.PNG", "1"]]


def test_bad_pictures_dont_keep_the_others_from_being_named(
    command: Command, exported: Path, pictures: list[str], tmp_path: Path
) -> None:
    content = Path(pictures[0]).read_bytes()
    bad = {"empty.png": b"", "text.png": b"no image\n" * 9, "half.png": content[: len(content) // 2]}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    (tmp_path / "folder").mkdir()
    names = [*bad, "missing.png", "blank.png", "folder"]
    wrong = [str(tmp_path / name) for name in names]
    ended = command(str(exported), pictures[0], *wrong, pictures[1], "--top", "1", main=main)
    assert ended.status == 1
    assert [line.split()[1] for line in ended.out.splitlines()] == ["7", "2"]
    errors = ended.err.splitlines()
    assert len(errors) == len(wrong)
    for line, name in zip(errors, wrong, strict=True):
        assert line.startswith(f"error: {name}")
    reasons = [" is not a readable image"] * 3 + [": no such file", " is blank", " is a folder without pictures"]
    assert all(reason in line for line, reason in zip(errors, reasons, strict=True))


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    for side in (7100, 30000):  # what Pillow would warn of, or read, and what it would refuse itself
        Image.new("1", (side, side)).save(tmp_path / "huge.png")
        with warnings.catch_warnings(action="error"), pytest.raises(DataError, match="is too large") as caught:
            prepared(tmp_path / "huge.png", LABELS, Invert.auto, as_is=False)
        assert f"may have {MOST_PIXELS:,} pixels at most" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_32_bit_pixels_are_refused_for_their_range_isnt_known(tmp_path: Path) -> None:
    Image.fromarray(np.ones((9, 9), np.float32)).save(tmp_path / "x.tif")
    with (
        pytest.raises(DataError, match="the range of 32-bit pixels is not known"),
        open_picture(tmp_path / "x.tif"),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such file; give the folder of a finished run, its model.pt or an exported"),
        (["."], "model.pt: no such file; give the folder of a finished run or its model.pt"),
        (["{picture}"], "0.png is not a model saved by tinysweep ("),
        (["junk.onnx"], "junk.onnx is not an ONNX model that runs here"),
        (["{small}", "--top", "0"], "--top 0 must be 1 at least"),
        (["{small}", "--data", "fashion_mnist"], "was trained on mnist; leave --data out"),
        (["{exported}", "--data", "fashion_mnist"], "was trained on mnist; leave --data out"),
        (["bare.pt"], "bare.pt doesn't say what it was trained on, and there is no record beside it; give --data"),
    ],
)
def test_a_wrong_model_or_option_is_refused_in_one_line(
    command: Command, small: Path, exported: Path, pictures: list[str], words: list[str], said: str
) -> None:
    Path("junk.onnx").write_text("junk")
    bare(small, Path("bare.pt"))
    given = [word.format(small=small, exported=exported, picture=pictures[0]) for word in words]
    ended = command(given[0], pictures[0], *given[1:], main=main)
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert ended.err.startswith("error: ")
    assert said in ended.err


def bare(small: Path, path: Path) -> None:
    """A model as it was saved before files told their data, away from its record."""
    content = torch.load(small / "model.pt")
    torch.save({key: content[key] for key in ("model", "shape", "weights")}, path)


def test_a_bare_model_is_told_its_data(command: Command, place: Path, small: Path, pictures: list[str]) -> None:
    bare(small, place / "bare.pt")
    for data, expected in (("mnist", "7"), ("fashion_mnist", "Sneaker"), ("kmnist", "ya")):
        ended = command("bare.pt", pictures[0], "--data", data, "--top", "1", main=main)
        assert ended.status == 0
        assert ended.out.split("  ")[1].strip().startswith(expected)


def test_a_missing_onnx_runtime_is_named_with_its_extra(
    command: Command, exported: Path, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = command(str(exported), pictures[0], main=main)
    expected = "error: an .onnx file needs the package onnxruntime; pip install 'tinysweep[onnx]'\n"
    assert (ended.status, ended.err) == (1, expected)
