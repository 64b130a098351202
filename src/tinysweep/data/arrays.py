"""The user's own images as arrays: a .npz or .csv file, IDX files, or what a function of the user's own loads.

Whatever they come as, they become uint8 pixels and labels from 0, with the classes' names beside them.
"""

import hashlib
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tinysweep.data.catalogue import DataShape
from tinysweep.data.download import read_idx
from tinysweep.errors import DataError, first_line
from tinysweep.settings.schema import DataConfig, DataName
from tinysweep.targets import Target

Array = NDArray[Any]
TRAIN, TEST = "train", "test"
IDX_PARTS = {TRAIN: ("train",), TEST: ("t10k", "test")}  # how the names of the files of a part begin
CSV_LABELS = ("label", "labels", "class", "target", "y")


@dataclass(frozen=True)
class Part:
    """Pixels uint8 (N, C, size, size) and labels int64 (N,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def pick(self, indices: Array) -> "Part":
        return Part(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True)
class Arrays:
    """All images of a data set, and the names of its classes in the order of the labels."""

    train: Part
    test: Part
    classes: tuple[str, ...]

    @property
    def shape(self) -> DataShape:
        _, channels, size, _ = self.train.pixels.shape
        return DataShape(channels, size, len(self.classes))

    @cached_property
    def digest(self) -> str:
        """A fingerprint of pixels, labels, classes and parts."""
        whole = hashlib.sha256("\n".join(self.classes).encode())
        for part in (self.train, self.test):
            for array in (part.pixels, part.labels):
                whole.update(f"{array.shape}".encode())
                whole.update(np.ascontiguousarray(array).data)
        return f"images-{whole.hexdigest()[:16]}"

    @cached_property
    def repeated(self) -> int:
        """How many test images are training images as well, pixel for pixel."""
        known = set(map(bytes, self.train.pixels.reshape(len(self.train.pixels), -1)))
        return sum(bytes(image) in known for image in self.test.pixels.reshape(len(self.test.pixels), -1))


_last: dict[tuple[object, ...], Arrays] = {}


def read(config: DataConfig) -> Arrays:
    """The images of a configuration; read once as long as their file stays as it is.

    Without a test part, `test_fraction` of each class, at least one image, is the test part: always the same one,
    whatever the seeds, so that no test image is trained on by another run.

    Raises:
        ConfigError: the function of the user's own can't be found or fails.
        DataError: there is no such file, or it holds something else.
    """
    key = (place(config), _times(config))
    if key not in _last:
        _last.clear()
        _last[key] = _read(config)
    return _last[key]


def place(config: DataConfig) -> str:
    """What tells one data set from another, as long as no file changes."""
    return repr((config.name.value, config.root, config.target, config.options, config.test_fraction))


def _times(config: DataConfig) -> tuple[tuple[str, int, int], ...]:
    """What tells whether files have changed since."""
    if config.name == DataName.custom:
        return ()
    stats = [(str(file), file.stat()) for files in _files(config).values() for file in files]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _read(config: DataConfig) -> Arrays:
    raw = _READERS[config.name](config)
    names, labels = _number_labels({part: raw_labels for part, (_, raw_labels) in raw.items()})
    pixels = {part: _to_squares(part, images) for part, (images, _) in raw.items()}
    unit = all(each.dtype.kind in "fb" and each.max() <= 1 for each in pixels.values())
    parts = {part: Part(_to_bytes(part, each, 255 if unit else 1), labels[part]) for part, each in pixels.items()}
    for part, found in parts.items():
        if len(found.pixels) != len(found.labels):
            raise DataError(f"{part}: {len(found.pixels)} images, but {len(found.labels)} labels")
        if found.pixels.shape[1:] != parts[TRAIN].pixels.shape[1:]:
            raise DataError(
                f"test images are {_sides(found.pixels)}, but training images {_sides(parts[TRAIN].pixels)}"
            )
    train = parts[TRAIN]
    if TEST in parts:
        return Arrays(train, parts[TEST], names)
    held_out, rest = _divide(train.labels, names, config.test_fraction)
    return Arrays(train.pick(rest), train.pick(held_out), names)


Raw = dict[str, tuple[Array, Array]]  # by part, images and labels as they come


def _read_npz(config: DataConfig) -> Raw:
    """The arrays x_train, y_train, x_test and y_test, as Keras's mnist.npz has them, the last two if there."""
    (file,) = _files(config)[TRAIN]
    try:
        archive = np.load(file, allow_pickle=False)
        held = {name: archive[name] for name in getattr(archive, "files", ())}  # a .npy is an array itself
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        objects = "pickled" in str(error)  # NumPy advises to trust the file
        reason = "it is none, or one of Python objects" if objects else first_line(error)
        raise DataError(f"{file} can't be read as a .npz file of arrays: {reason}") from error
    return _by_name(held, str(file))


def _by_name(held: dict[str, Any], where: str) -> Raw:
    wanted = [f"{kind}_{part}" for part in (TRAIN, TEST) for kind in ("x", "y")]
    there = [name for name in wanted if held.get(name) is not None]
    if there not in (wanted[:2], wanted):
        raise DataError(
            f"{where} holds {', '.join(held) or 'nothing'}; it must hold x_train and y_train, and x_test and "
            "y_test if there is a test part"
        )
    return {part: (np.asarray(held[f"x_{part}"]), np.asarray(held[f"y_{part}"]))
            for part in (TRAIN, TEST)[: len(there) // 2]}  # fmt: skip


def _read_csv(config: DataConfig) -> Raw:
    """One image a line: a column of labels, and the pixels row by row, as Kaggle's digit-recognizer has them."""
    import pandas as pd  # noqa: PLC0415 other data needs no such import

    found: Raw = {}
    for part, (file,) in _files(config).items():
        try:
            table = pd.read_csv(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} can't be read as CSV: {first_line(error)}") from error
        labels = [name for name in table if str(name).casefold() in CSV_LABELS]
        if len(labels) != 1:
            raise DataError(
                f"{file} must have a first line with names and one column called label, and pixels in all others; "
                f"its first line begins with {', '.join(map(str, table.columns[:3]))}"
            )
        pixels = table.drop(columns=labels)
        if odd := [str(name) for name, kind in pixels.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]:
            raise DataError(f"{file}: column {odd[0]} holds text, but all columns but {labels[0]} must be pixels")
        found[part] = (pixels.to_numpy(), table[labels[0]].to_numpy())
    return found


def _read_idx(config: DataConfig) -> Raw:
    """Four files of one's own, two for each part, named as MNIST's are."""
    return {part: (read_idx(images), read_idx(labels)) for part, (images, labels) in _files(config).items()}


def _load_custom(config: DataConfig) -> Raw:
    """What a function returns: (x_train, y_train), or that and (x_test, y_test), or arrays by these names."""
    target = Target("data.target", config.target or "")
    made = target.call({"root": str(Path(config.root).expanduser())}, config.options)
    try:
        return _as_raw(made, target.shown)
    except ValueError as error:
        raise DataError(f"{target.shown}: what it returns makes no arrays: {first_line(error)}") from error


def _as_raw(made: Any, where: str) -> Raw:
    if isinstance(made, dict):
        return _by_name(made, where)
    pairs = made if _is_pairs(made) else (made,)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs) or len(pairs) > 2:
        raise DataError(
            f"{where} must return (x_train, y_train), or ((x_train, y_train), (x_test, y_test)), or a "
            "dict of arrays by these names"
        )
    return {part: (np.asarray(images), np.asarray(labels))
            for part, (images, labels) in zip((TRAIN, TEST), pairs, strict=False)}  # fmt: skip


def _is_pairs(made: Any) -> bool:
    return isinstance(made, tuple | list) and all(isinstance(pair, tuple | list) for pair in made)


_READERS = {
    DataName.npz: _read_npz,
    DataName.csv: _read_csv,
    DataName.idx: _read_idx,
    DataName.custom: _load_custom,
}


# ---- where they lie


def _files(config: DataConfig) -> dict[str, list[Path]]:
    """The files of each part."""
    root = Path(config.root).expanduser()
    if config.name == DataName.npz or (config.name == DataName.csv and root.is_file()):
        if not root.is_file():
            raise DataError(f"data.root={config.root} must be a .{config.name} file, but there is no such file")
        return {TRAIN: [root]}
    if not root.is_dir():
        kind = "a .csv file or a folder of them" if config.name == DataName.csv else "a folder of IDX files"
        raise DataError(f"data.root={config.root} must be {kind}, but there is none")
    files = sorted(file for file in root.iterdir() if file.is_file() and file.name[0] != ".")
    return _csv_files(root, files) if config.name == DataName.csv else _idx_files(root, files)


def _csv_files(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    found = {}
    for part in (TRAIN, TEST):
        named = [file for file in files if file.suffix == ".csv" and part in file.stem.casefold()]
        if len(named) > 1:
            raise DataError(f"{root} holds {named[0].name} and {named[1].name}; one must be the {part} part")
        if named:
            found[part] = named
    if TRAIN not in found:
        raise DataError(f"{root} must hold a .csv file with train in its name, and may hold one with test")
    return found


def _idx_files(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for part, beginnings in IDX_PARTS.items():
        of_part = []
        for kind, dimensions in (("images", 3), ("labels", 1)):
            pattern = rf"({'|'.join(beginnings)})-{kind}[-.]idx{dimensions}-ubyte(\.gz)?"
            named = [file for file in files if re.fullmatch(pattern, file.name)]
            of_part += named[:1]
        if len(of_part) == 1 or (not of_part and part == TRAIN):
            lacking = "labels" if of_part and "images" in of_part[0].name else "images"
            raise DataError(
                f"{root} lacks {beginnings[0]}-{lacking}-idx{3 if lacking == 'images' else 1}-ubyte, as is or .gz"
            )
        if of_part:
            found[part] = of_part
    return found


# ---- what they become


def _number_labels(labels: dict[str, Array]) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """The names of the classes, sorted, and the labels as their places among them."""
    flat = {part: each.reshape(-1) if each.shape[1:] in ((), (1,)) else each for part, each in labels.items()}
    for part, each in flat.items():
        if each.dtype.kind == "O" and all(isinstance(name, str) for name in each.flat):
            flat[part] = each.astype(str)
        elif each.dtype.kind not in "iufbU":
            raise DataError(
                f"{part}: labels must be whole numbers or names, one for each image, not {_form(each)}"
            )
        if each.ndim != 1:
            raise DataError(
                f"{part}: labels have shape {each.shape}; there must be one an image, so of one-hot rows argmax(1)"
            )
        if each.dtype.kind == "f" and not (each == np.floor(each)).all():
            raise DataError(
                f"{part}: labels must be whole numbers or names, not {each[each != np.floor(each)][0]}"
            )
    flat = {part: each.astype(np.int64) if each.dtype.kind == "f" else each for part, each in flat.items()}
    known = np.unique(flat[TRAIN])
    if len(known) < 2:
        raise DataError(f"the training images must have at least two classes, but there is {len(known)}")
    if TEST in flat and len(strange := np.setdiff1d(flat[TEST], known)):
        raise DataError(f"test images have the class {strange[0]}, which no training image has")
    places = {part: np.searchsorted(known, each).astype(np.int64) for part, each in flat.items()}
    return tuple(map(str, known)), places


def _to_squares(part: str, images: Array) -> Array:
    """Images in any of the usual forms as (N, C, size, size): (N, H, W), (N, H, W, C), (N, C, H, W) or, grey,
    (N, H * W)."""
    if images.dtype.kind not in "uifb" or images.ndim < 2 or not len(images):
        raise DataError(f"{part}: images must be numbers, (N, H, W) or (N, H, W, C), not {_form(images)}")
    if images.ndim == 2:
        side = round(images.shape[1] ** 0.5)
        if side**2 != images.shape[1]:
            raise DataError(f"{part}: {images.shape[1]} pixels an image make no square; give (N, H, W)")
        images = images.reshape(-1, side, side)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"{part}: images must have one channel or three, (N, H, W, C), not {_form(images)}")
    if images.shape[2] != images.shape[3]:
        raise DataError(f"{part}: images must be square, not {_sides(images)}; pad or crop them")
    return images


def _to_bytes(part: str, images: Array, scale: int) -> NDArray[np.uint8]:
    """Whole numbers or floats of 0 to 255, or floats of 0 to 1, as bytes."""
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 255):  # also where one is no number
        raise DataError(f"{part}: pixels must lie in 0 to 255, or in 0 to 1, not in {low:g} to {high:g}")
    return np.ascontiguousarray(np.rint(images.astype(np.float32) * scale).astype(np.uint8))


def _form(images: Array) -> str:
    return f"{images.dtype} of shape {images.shape}"


def _sides(images: Array) -> str:
    return "x".join(map(str, images.shape[1:]))


def _divide(labels: NDArray[np.int64], names: tuple[str, ...], fraction: float) -> tuple[Array, Array]:
    """Indices of the test part, a fraction of each class, and of the rest."""
    order = np.random.default_rng(0).permutation(len(labels))
    held_out = []
    for label, name in enumerate(names):
        mine = order[labels[order] == label]
        if len(mine) < 2:
            raise DataError(f"class {name} has 1 image, but a class needs at least 2: one to train, one to test")
        held_out.append(mine[: min(max(1, round(fraction * len(mine))), len(mine) - 1)])
    test = np.sort(np.concatenate(held_out))
    return test, np.setdiff1d(np.arange(len(labels)), test)
