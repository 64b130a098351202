"""The command `tinysweep-export`: a trained model as ONNX, checked against PyTorch before it is left behind."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tinysweep.errors import ConfigError, DataError, require_package
from tinysweep.settings.schema import DataConfig, DataName
from tinysweep.terminal import outlasting_readers, program

if TYPE_CHECKING:
    from tinysweep.run.checkpoint import SavedModel

CALIBRATION = 1000  # images
NOTE = (
    "The test set was read to compare the files with PyTorch and for their accuracy; nothing was chosen by it.\n"
    "Times: medians of single images on one thread of this machine."
)

DESCRIPTION = """\
Write a trained model as ONNX:

  model.onnx       float32, batch norm folded into the convolutions
  model.int8.onnx  quantised (QDQ, a scale a channel), calibrated on training
                   images
  model.c, .h      with --c: the quantised model in C99, in integers, without
                   heap or dependencies

The ONNX files take raw pixels, uint8 (batch, channels, size, size) of 0 to 255, as many
images at a time as you like, normalise them inside, and give logits, float32
(batch, classes), of which softmax makes probabilities. Their metadata tell the
data set and the names of the classes: all that tinysweep-predict needs.

model.onnx must give the same class as PyTorch for every test image, or it is
not written. The test set is read for this comparison and for the accuracy of
each file; nothing is chosen by it. The data are those that the model was
trained on, as saved with it or in the record of its run beside it."""

EXAMPLES = """\
examples:
  tinysweep-export outputs/sweeps/quick/trials/17
  tinysweep-export outputs/runs/2026-11-24/23-58-53-thorough --out deploy --calibration 5000
  tinysweep-export outputs/sweeps/quick/trials/17 --c
  tinysweep-export elsewhere/model.pt --data mnist
  tinysweep-export outputs/runs/2026-11-25/10-12-40-cats --root /new/place/of/photos"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tinysweep-export",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="the folder of a run, or its model.pt")
    add("--out", type=Path, metavar="FOLDER", help="where to write (default: beside the model)")
    calibration = "training images to calibrate on (default: %(default)s)"
    add("--calibration", type=int, default=CALIBRATION, metavar="N", help=calibration)
    add("--c", action="store_true", help="write model.c and model.h as well, for microcontrollers")
    add("--no-int8", dest="int8", action="store_false", help="write model.onnx only")
    unknown = "the data set, where neither the model nor a record beside it tells"
    add("--data", choices=[name.value for name in DataName], help=unknown)
    add("--root", metavar="FOLDER", help="where the data lie now, if not where the run read them")
    return parser


def export(options: argparse.Namespace) -> None:
    """Convert, check, write, quantise, write, and print what came of it."""
    if options.calibration < 1:
        raise ConfigError(f"--calibration {options.calibration} must be 1 at least: images to calibrate on")
    if options.c and not options.int8:
        raise ConfigError("--c writes the quantised model in C; leave out --no-int8")
    for package in ("onnx", "onnxruntime", "onnxscript"):
        require_package("tinysweep-export", package, "onnx")
    if not options.path.exists():
        raise DataError(f"{options.path}: no such file; give the folder of a finished run or its model.pt")
    from tinysweep.deploy.export import export_files  # noqa: PLC0415 torch is imported only once it is needed
    from tinysweep.run.checkpoint import read_model  # noqa: PLC0415

    saved = read_model(options.path)
    data = find_data(saved, options.data, options.root)
    folder = options.out or saved.file.parent
    require_writable(folder)
    with outlasting_readers():
        table = export_files(saved, data, folder, options.calibration if options.int8 else 0, as_c=options.c)
    print(f"\n{table}\n{NOTE}")


def find_data(saved: "SavedModel", name: str | None, root: str | None) -> DataConfig:
    """The data that a model was trained on, at another root if one is given."""
    data = saved.data
    if data and name not in (None, data.name):
        raise ConfigError(f"--data {name}: {saved.file} was trained on {data.name}; leave --data out")
    if data is None:
        if name is None:
            from tinysweep.data.catalogue import DATA_SETS  # noqa: PLC0415

            known = ", ".join([*DATA_SETS, DataName.image_folder])
            raise ConfigError(
                f"{saved.file} doesn't say what it was trained on, and there is no record beside it; give --data "
                f"NAME ({known}) and, for images of your own, --root FOLDER"
            )
        data = DataConfig(DataName(name))
        if name == DataName.image_folder:
            if not root:
                raise ConfigError("--data image_folder needs --root FOLDER, the folder of class subfolders")
            data = DataConfig(data.name, image_size=saved.shape.size, colour=saved.shape.channels == 3)
    return dataclasses.replace(data, root=root) if root else data


def require_writable(folder: Path) -> None:
    """Make a folder if it isn't there, and see to it that files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, "not writable")
    except OSError as error:
        raise DataError(f"can't write to {folder} ({error.strerror}); give another folder by --out") from error


def main() -> None:
    """Entry point of the console script."""
    program(build_parser(), export)


if __name__ == "__main__":
    main()
