"""The user's own images: a folder with one subfolder a class, resized to one square size."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysweep.data.pictures import EXTENSIONS, files_in, fit, open_picture
from tinysweep.errors import DataError
from tinysweep.settings.schema import DataConfig

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# What the folder of a part may be called, whatever its case.
PART_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
LAYOUT = "give class subfolders, or train/ with val/, test/ or both, which hold them"


@dataclass(frozen=True)
class Layout:
    """Where the images of a folder lie: `parts` are the folders of train, validation and test that it has, all of
    them with the same class subfolders; empty where these lie in `root` itself."""

    root: Path
    parts: dict[str, Path]
    classes: list[str]

    def files(self, name: str, test_fraction: float) -> dict[str, list[Path]]:
        """The images of one class by part."""
        given = {part: _files(folder / name) for part, folder in self.parts.items() if part != TRAIN}
        folder = self.parts.get(TRAIN, self.root) / name
        return given | ({TRAIN: _files(folder)} if TEST in given else _divide(folder, test_fraction))


def layout(config: DataConfig) -> Layout:
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data.root={config.root} must be a folder of class subfolders, but there is no such folder"
        )
    parts = _find_parts(root)
    folder = parts.get(TRAIN, root)
    classes = _subfolders(folder)
    if len(classes) < 2:
        raise DataError(
            f"data.root={config.root} must hold at least two class subfolders (or train/ and test/ with them), "
            f"but {folder} holds {len(classes)}"
        )
    for other in parts.values():
        if odd := sorted(set(classes) ^ set(_subfolders(other))):
            lacking = other if odd[0] in classes else folder
            raise DataError(
                f"{folder.name}/ and {other.name}/ in {root} must hold the same class subfolders, "
                f"but {lacking.name}/ lacks {odd[0]}"
            )
    return Layout(root, parts, classes)


def class_names(config: DataConfig) -> list[str]:
    """Names of the class subfolders, sorted; their order is the order of the labels."""
    return layout(config).classes


def list_images(config: DataConfig, part: str) -> list[tuple[int, Path]]:
    """Label and file of each image of "train", "validation" or "test", none of which is opened.

    The parts are the folders train/, val/ and test/ as far as they exist. Without test/, `test_fraction` of each
    class, at least one image, is the test part: always the same one, whatever the seeds, so that no test image is
    trained on by another run. Where `validation` is 0, the images of val/ are training images like the others.
    """
    found = layout(config)
    wanted = [TRAIN, VALIDATION] if part == TRAIN and config.validation == 0 else [part]
    pairs = []
    for label, name in enumerate(found.classes):
        by_part = found.files(name, config.test_fraction)
        pairs += [(label, file) for each in wanted for file in by_part.get(each, [])]
    return pairs


def read(config: DataConfig, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, C, size, size) and labels (N,) of a part; files of other parts aren't opened."""
    pixels, labels = [], []
    for label, file in list_images(config, part):
        with open_picture(file) as image:
            pixels.append(fit(image, 3 if config.colour else 1, config.image_size))
        labels.append(label)
    return np.stack(pixels), np.array(labels)


def require_readable(config: DataConfig) -> None:
    """See to it that every image can be read; none is kept. That goes for those of the test part too: to mend one
    after a study would make it a study of other images."""
    for part in (TRAIN, VALIDATION, TEST):
        for _, file in list_images(config, part):
            with open_picture(file) as image:
                image.load()


def content_digest(config: DataConfig) -> str:
    """A fingerprint of the images: their bytes, names, classes and parts, and nothing else, so that it is the same
    wherever the folder lies, whenever it was copied, and whatever else is in it."""
    found = layout(config)
    whole = hashlib.sha256()
    for part in sorted(found.parts) or [""]:
        for name in found.classes:
            folder = found.parts.get(part, found.root) / name
            for file in _files(folder):
                try:
                    content = hashlib.sha256(file.read_bytes()).hexdigest()
                except OSError as error:
                    raise DataError(f"{file} can't be read: {error.strerror}; mend or remove it") from error
                whole.update(json.dumps([part, name, file.parts[len(folder.parts) :], content]).encode())
    return f"images-{whole.hexdigest()[:16]}"


def _find_parts(root: Path) -> dict[str, Path]:
    """The folder of each part in `root`, or none where its subfolders are the classes. What may be either is
    refused: a wrong guess would test on training images, or take parts for classes."""
    parts: dict[str, Path] = {}
    others = []
    for name in _subfolders(root):
        part = PART_NAMES.get(name.casefold())
        if part is None:
            others.append(name)
        elif part in parts:
            raise DataError(
                f"{root} holds {parts[part].name}/ and {name}/, but one folder may be the {part} part; "
                "move one of them away"
            )
        else:
            parts[part] = root / name
    if len(parts) == 1 and TEST not in parts and others and _holds_images(*parts.values()):
        return {}  # a class of that name, such as trains among vehicles; test images may well have no classes
    classes = set(_subfolders(parts[TRAIN])) if TRAIN in parts else set()
    for name in others:
        hints = any(word in PART_NAMES for word in re.split("[^a-z]+", name.casefold()))  # as in training_set
        if (hints or classes & set(_subfolders(root / name))) and not _holds_images(root / name):
            raise DataError(
                f"{root / name} looks like a part of the images, but parts are called train, val and test; "
                "rename it, or move it away"
            )
    listed = " and ".join(f"{folder.name}/" for folder in parts.values())
    if parts and TRAIN not in parts:
        raise DataError(f"{root} holds {listed} but no train/, which parts begin with; {LAYOUT}")
    if list(parts) == [TRAIN] and others:
        raise DataError(f"{root} holds {listed}, which is a part, beside {others[0]}/, which isn't; {LAYOUT}")
    return parts


def _subfolders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")


def _holds_images(folder: Path) -> bool:
    """Whether images lie in a folder itself, not only below it."""
    return any(child.suffix.lower() in EXTENSIONS and child.is_file() for child in folder.iterdir())


def _divide(folder: Path, test_fraction: float) -> dict[str, list[Path]]:
    """The images of a class that come without a test part, some being held out for it."""
    files = _files(folder)
    if len(files) == 1:
        raise DataError(
            f"class folder {folder} has 1 image, but a class needs at least 2: one to train, one to test"
        )
    count = min(max(1, round(test_fraction * len(files))), len(files) - 1)
    order = np.random.default_rng(0).permutation(len(files))
    return {
        TRAIN: [files[index] for index in sorted(order[count:])],
        TEST: [files[index] for index in sorted(order[:count])],
    }


def _files(folder: Path) -> list[Path]:
    """The images of a class."""
    files = files_in(folder)
    if not files:
        raise DataError(f"class folder {folder} holds no images of the kinds {' '.join(sorted(EXTENSIONS))}")
    inner = {file.parts[len(folder.parts)] for file in files}
    parts = {PART_NAMES[name.casefold()]: name for name in sorted(inner) if name.casefold() in PART_NAMES}
    if len(parts) > 1:
        raise DataError(
            f"class folder {folder} holds {' and '.join(f'{name}/' for name in parts.values())}, but parts come "
            f"before classes, as in train/{folder.name}"
        )
    return files
