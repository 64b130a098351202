"""The user's own images: a folder with one subfolder a class, resized to one square size."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinysweep.config import DataConfig
from tinysweep.errors import DataError
from tinysweep.picture_files import EXTENSIONS, files_in, fitted, opened

PARTS = {"train", "test", "val", "valid", "validation"}
LAYOUT = "give class subfolders, or train/ and test/ that hold them (data.validation splits training images off)"


def class_names(config: DataConfig) -> list[str]:
    """Names of the class subfolders, sorted; their order is the order of the labels.

    Raises:
        DataError: no such folder, fewer than two classes in it, parts in place of classes, or different ones in
            train/ and test/.
    """
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data.root={config.root} must be a folder of class subfolders, but there is no such folder"
        )
    folder = root / "train" if _has_parts(root) else root
    names = _subfolders(folder)
    if _has_parts(root) and (odd := sorted(set(names) ^ set(_subfolders(root / "test")))):
        raise DataError(f"train/ and test/ in {root} must hold the same class subfolders, but one lacks {odd[0]}")
    if names and PARTS.issuperset(names):
        raise DataError(f"{folder} holds {' and '.join(names)}, which are parts and not classes; {LAYOUT}")
    if len(names) < 2:
        raise DataError(
            f"data.root={config.root} must hold at least two class subfolders (or train/ and test/ with them), "
            f"but {folder} holds {len(names)}"
        )
    return names


def read(config: DataConfig, part: str) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (N, C, size, size) and labels int64 (N,) of the part "train" or "test".

    The parts are the folders train/ and test/ where both exist; otherwise `test_fraction` of each class, at
    least one image, is the test part: always the same one, whatever the seeds, so that no test image is trained
    on by another run. Only files of the part asked for are opened.

    Raises:
        DataError: a class has too few images in either part, or a file is no readable image.
    """
    pixels, labels = [], []
    for label, name in enumerate(class_names(config)):
        files = _parts(config, name)[part]
        for file in files:
            with opened(file) as image:
                pixels.append(fitted(image, 3 if config.colour else 1, config.image_size))
        labels += [label] * len(files)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels)


def _has_parts(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "test").is_dir()


def _subfolders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")


def _parts(config: DataConfig, name: str) -> dict[str, list[Path]]:
    """The files of one class by part."""
    root = Path(config.root).expanduser()
    if _has_parts(root):
        return {part: _files(root / part / name) for part in ("train", "test")}
    files = _files(root / name)
    if len(files) == 1:
        raise DataError(
            f"class folder {root / name} has 1 image, but a class needs at least 2: one to train, one to test"
        )
    count = min(max(1, round(config.test_fraction * len(files))), len(files) - 1)
    order = np.random.default_rng(0).permutation(len(files))
    return {
        "train": [files[index] for index in sorted(order[count:])],
        "test": [files[index] for index in sorted(order[:count])],
    }


def _files(folder: Path) -> list[Path]:
    files = files_in(folder)
    if not files:
        raise DataError(f"class folder {folder} holds no images of the kinds {' '.join(sorted(EXTENSIONS))}")
    return files
