"""What a model of digits names is refused if it doesn't look like that digit: most letters are, few digits."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from conftest import Command
from small_model import LABELS, Export, Grey
from tinysweep.commands.predict import SURE, main, require_digit
from tinysweep.data.load import Images, load
from tinysweep.deploy.classifier import rank_classes
from tinysweep.deploy.likeness import edges, fit_planes, planes
from tinysweep.deploy.prepare import FORMS, Invert, to_form
from tinysweep.errors import DataError
from tinysweep.settings.schema import DataConfig, DataName

# A person may read O, o, l, I, S, s, Z, z, B, b, g, q and D as digits.
LETTERS = "ACEFGHJKLMNPQRTUVWXYacdefhijkmnprtuvwxy"
FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmr10")


def print_character(character: str, font: str) -> Grey:
    """A character on paper, in the form of MNIST's images."""
    image = Image.new("L", (96, 112))
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    ImageDraw.Draw(image).text((16, 0), character, 255, ImageFont.truetype(str(file), 80))
    ink = np.asarray(image) / 255
    paper: Grey = np.rint(40 * ink + 220 * (1 - ink)).astype(np.uint8)
    return to_form(paper, FORMS[DataName.mnist], 28, Invert.auto)


def probabilities(model: nn.Module, forms: list[Grey]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.from_numpy(np.stack(forms))[:, None].float()).softmax(1)  # type: ignore[no-any-return]


def is_named(model: nn.Module, character: str, font: str) -> bool:
    try:
        form = print_character(character, font)
        logits = probabilities(model, [form]).log()[0].numpy()
        require_digit(Path("it"), form, rank_classes(logits, LABELS.classes)[0])
    except DataError:
        return False
    return True


@pytest.mark.slow
def test_most_letters_are_refused_and_typed_digits_are_not(model: nn.Module) -> None:
    letters, numerals = (
        [is_named(model, character, font) for font in FONTS for character in characters]
        for characters in (LETTERS, LABELS.classes)
    )
    assert np.mean(letters) < 0.45
    assert np.mean(numerals) > 0.9


def test_a_letter_is_refused_by_the_command_unless_taken_as_it_is(
    command: Command, place: Path, small: Path, exported: Export, model: nn.Module
) -> None:
    letters = [letter for letter in "AEKMTX" if not is_named(model, letter, FONTS[0])]
    forms = []
    for letter in letters:
        try:
            forms.append(print_character(letter, FONTS[0]))
        except DataError:
            continue
    certain = probabilities(model, forms).amax(1)
    assert certain.max() > 0.8, "or certainty alone would refuse it"
    Image.fromarray(forms[int(certain.argmax())]).save(place / "letter.png")
    for path in (small, exported.folder / "model.onnx"):
        ended = command(str(path), "letter.png", main=main)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("error: letter.png shows no single digit: the likeliest is ")
        assert command(str(path), "letter.png", "--as-is", main=main).status == 0


def test_what_the_model_is_unsure_of_is_refused_unless_taken_as_it_is(
    command: Command, place: Path, small: Path, model: nn.Module, digits: Grey
) -> None:
    mixtures = np.rint(0.5 * digits[:-1] + 0.5 * digits[1:]).astype(np.uint8)
    certain = probabilities(model, list(mixtures)).amax(1)
    assert certain.min() < SURE, "or this test tells nothing"
    for name, digit in (("both", mixtures[int(certain.argmin())]), ("one", digits[0])):
        Image.fromarray(digit).save(place / f"{name}.png")
    ended = command(str(small), "both.png", "one.png", main=main)
    assert ended.status == 1
    assert ended.out.startswith("one.png")
    assert ended.err.startswith("error: both.png shows no single digit: the likeliest, ")
    assert command(str(small), "both.png", "--as-is", main=main).status == 0


def test_of_the_data_sets_own_digits_hardly_any_is_refused_for_its_looks(mnist_test: Images) -> None:
    pixels, labels = mnist_test.pixels[:1000, 0].numpy(), mnist_test.labels[:1000].numpy()
    for label in range(10):
        distances = planes().distances(pixels[labels == label], label)
        assert (distances > planes().limits[label]).mean() < 0.03


def test_an_images_edges_are_its_own(digits: Grey) -> None:
    assert edges(digits[:9]) == pytest.approx(np.concatenate([edges(digit[None]) for digit in digits[:9]]))


@pytest.mark.slow
def test_the_planes_that_come_along_are_those_of_the_training_images(mnist_root: Path) -> None:
    data = load(DataConfig(root=str(mnist_root), limit=5000))
    assert data.validation
    some, pixels = fit_planes(data), data.validation.pixels[:500, 0].numpy()
    assert some.limits == pytest.approx(planes().limits, rel=0.25)
    for label in range(10):
        anew, given = (each.distances(pixels, label) for each in (some, planes()))
        assert np.corrcoef(anew, given)[0, 1] > 0.95
