"""The user's own images: a folder with one subfolder a class, resized to one square size."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tinysweep.config import DataConfig
from tinysweep.errors import DataError

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def class_names(config: DataConfig) -> list[str]:
    """Names of the class subfolders, sorted; their order is the order of the labels.

    Raises:
        DataError: no such folder, or fewer than two classes in it.
    """
    folder = _training_folder(config)
    if not folder.is_dir():
        raise DataError(
            f"data.root={config.root} must be a folder of class subfolders, but there is no such folder"
        )
    names = sorted(child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")
    if len(names) < 2:
        raise DataError(
            f"data.root={config.root} must hold at least two class subfolders (or train/ and test/ with them), "
            f"but {folder} holds {len(names)}"
        )
    return names


def read(config: DataConfig, part: str) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (N, C, size, size) and labels int64 (N,) of the part "train" or "test".

    The parts are the folders train/ and test/ where both exist; otherwise `test_fraction` of each class,
    at least one image, drawn by `split_seed`, is the test part. Only files of the part asked for are opened.

    Raises:
        DataError: a class has too few images, or a file is no readable image.
    """
    names = class_names(config)
    root = Path(config.root).expanduser()
    separate = _has_parts(root)
    pixels, labels = [], []
    for label, name in enumerate(names):
        folder = root / part / name if separate else root / name
        files = _files(folder)
        if not separate:
            files = _share(files, config, part, label)
        if not files:
            raise DataError(f"class folder {folder} holds no images of the kinds {' '.join(sorted(EXTENSIONS))}")
        pixels += [_pixels(file, config) for file in files]
        labels += [label] * len(files)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels)


def _has_parts(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "test").is_dir()


def _training_folder(config: DataConfig) -> Path:
    root = Path(config.root).expanduser()
    return root / "train" if _has_parts(root) else root


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())


def _share(files: list[Path], config: DataConfig, part: str, label: int) -> list[Path]:
    """The files of one class that belong to a part."""
    if len(files) == 1:
        raise DataError(
            f"class folder {files[0].parent} has 1 image, but a class needs at least 2: one to train, one to test"
        )
    count = min(max(1, round(config.test_fraction * len(files))), len(files) - 1) if files else 0
    order = np.random.default_rng([config.split_seed, label]).permutation(len(files))
    chosen = order[:count] if part == "test" else order[count:]
    return [files[index] for index in sorted(chosen)]


def _pixels(file: Path, config: DataConfig) -> np.ndarray:
    """One image as uint8 (C, size, size)."""
    try:
        with Image.open(file) as image:
            converted = image.convert("RGB" if config.colour else "L")
            resized = converted.resize((config.image_size, config.image_size), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is not a readable image ({error}); mend or remove it") from error
    array = np.asarray(resized, dtype=np.uint8)
    return array.transpose(2, 0, 1) if config.colour else array[None]
