"""The command `tinysweep-predict`: what a trained model sees in pictures of any kind."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysweep.data.pictures import MOST_PIXELS, files_in, is_own_plot
from tinysweep.deploy.classifier import Prediction, open_model, rank_classes
from tinysweep.deploy.likeness import planes
from tinysweep.deploy.prepare import FORMS, Invert, prepare
from tinysweep.errors import ConfigError, DataError, TinysweepError
from tinysweep.settings.schema import DataName
from tinysweep.terminal import program

SURE = 0.55  # of MNIST's validation images, default models give 0.3% a lower probability

DESCRIPTION = f"""\
Name the class of pictures: PNG, JPEG or whatever else Pillow reads, of any
size and mode, up to {MOST_PIXELS:,} pixels. MODEL is the folder of a run or its
model.pt, which PyTorch runs, or an .onnx file of tinysweep-export, which ONNX
Runtime runs. A line for each picture gives its likeliest classes with their
probabilities, the softmax of the model's logits.

For a model of MNIST a picture is made what MNIST's are (LeCun et al., 1998):
  - grey, and inverted if its border is lighter than the middle between its
    darkest and lightest pixels;
  - without its background, which may be ruled, in shadow or run off to a
    table, and without dust;
  - cropped to the stroke and scaled, with its aspect ratio, to fit 20x20;
  - placed in 28x28 with its centre of mass in the middle.
What is 28x28 with a black border, as it is or inverted, is taken as it is.
What hasn't the shape of one digit, isn't named with a probability of at
least {SURE}, or looks unlike MNIST's images of that digit is refused; a third
of printed letters, such as J, Q, j and t, still pass for one.
For KMNIST and Fashion-MNIST the picture is scaled to fit 28x28 and centred.
For a model of an image folder it is resized as in training, and no more.

A picture that can't be read or shows nothing gets a line on standard error;
the others are named all the same, and the exit status is 1."""

EXAMPLES = """\
examples:
  tinysweep-predict outputs/sweeps/quick/trials/17 seven.png photo.jpg
  tinysweep-predict deploy/model.int8.onnx scans/ --top 1
  tinysweep-predict outputs/sweeps/quick/trials/17 seven.png --json | jq .predictions[0].class"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tinysweep-predict",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder of a run, its model.pt, or an .onnx file")
    add("images", type=Path, nargs="+", metavar="IMAGE", help="a picture, or a folder of pictures")
    add("--top", type=int, default=3, metavar="N", help="classes a picture, at least 1 (default: %(default)s)")
    add("--json", action="store_true", help="an object a picture, each on a line of its own")
    invert = "dark on light becomes light on dark; auto looks at the border (default: %(default)s)"
    add("--invert", choices=[each.value for each in Invert], default=Invert.auto.value, help=invert)
    add("--as-is", action="store_true", help="resize the picture, and invert it only if told to")
    unknown = "the data set that the model was trained on, where neither it nor a record beside it tells"
    add("--data", choices=[name.value for name in DataName], help=unknown)
    return parser


def predict(options: argparse.Namespace) -> None:
    """Print the classes of every picture; exit with 1 if one couldn't be read, whose line is on standard error."""
    if options.top < 1:
        raise ConfigError(f"--top {options.top} must be 1 at least: how many classes to name")
    labels, model = open_model(options.model, options.data)
    if labels.data not in FORMS and options.invert != Invert.auto:
        raise ConfigError(f"--invert {options.invert} is for models of digits and the like, not of {labels.data}")
    files, failed = list(_find_pictures(options.images)), False
    width, longest = max((len(str(file)) for file in files), default=0), max(map(len, labels.classes))
    for file in files:
        try:
            pixels = prepare(file, labels, Invert(options.invert), options.as_is)
            predictions = rank_classes(model(pixels[None])[0], labels.classes)
            if labels.data == DataName.mnist and not options.as_is:
                require_digit(file, pixels[0], predictions[0])
        except TinysweepError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        likeliest = predictions[: options.top]
        if options.json:
            named = [
                {"label": each.label, "class": each.name, "probability": each.probability} for each in likeliest
            ]
            line = json.dumps({"image": str(file), "predictions": named}, ensure_ascii=False)
        else:
            words = [f"{each.name:<{longest}} {100 * each.probability:5.1f}%" for each in likeliest]
            line = "  ".join([f"{file!s:<{width}}", *words])
        print(line, flush=True)
    if failed:
        raise SystemExit(1)


def _find_pictures(given: list[Path]) -> Iterator[Path]:
    """The pictures given, those of a folder in its place, but for plots of this program's own, which are passed
    over with a word; a folder without any is refused in its turn."""
    for path in given:
        for file in (files_in(path) or [path]) if path.is_dir() else [path]:
            if is_own_plot(file):
                print(f"{file} is a plot that tinysweep drew: passed over", file=sys.stderr)
            else:
                yield file


def require_digit(file: Path, image: NDArray[np.uint8], best: Prediction) -> None:
    """Refuse an image (28, 28) of which a model of digits is unsure, or that doesn't look like what it names."""
    if best.probability < SURE:
        reason = f"the likeliest, {best.name}, gets {100 * best.probability:.0f}%, less than {100 * SURE:.0f}%"
    elif not planes().resembles(image, best.label):
        reason = f"the likeliest is {best.name}, but it doesn't look like MNIST's"
    else:
        return
    raise DataError(f"{file} shows no single digit: {reason}; --as-is names it all the same")


def main() -> None:
    """Entry point of the console script."""
    program(build_parser(), predict)


if __name__ == "__main__":
    main()
