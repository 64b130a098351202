"""How a named data set gets onto this machine: looked for, verified, and fetched where it is missing."""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from tinysweep.data.catalogue import DATA_SETS, STEMS, DataSet
from tinysweep.data.idx import parse_idx, read_content, read_idx
from tinysweep.errors import DataError

logger = logging.getLogger(__name__)

LOCK_SECONDS = 1800.0


@dataclass
class Found:
    """The intact files by key, and what is wrong with each damaged one that was passed over."""

    files: dict[str, Path] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        return [stem for key, stem in STEMS.items() if key not in self.files]


def obtain(name: str, root: Path, download: bool = True) -> Mapping[str, Path]:
    """The four verified IDX files of a data set, by the keys of STEMS, fetched below `root` if need be.

    Raises:
        DataError: unknown name; files missing or damaged and not to be had; `root` can't be written.
    """
    if name not in DATA_SETS:
        raise DataError(f"unknown data set {name!r}: known are {', '.join(DATA_SETS)}; choose one of these")
    data_set, root = DATA_SETS[name], root.expanduser()
    found = look(data_set, root)
    if found.missing and not download:
        raise refusal(data_set, root, found, "download is off")
    for fault in found.damaged:
        logger.warning("passed over: %s", fault)
    if not found.missing:
        return found.files
    lock = FileLock(root / f".{name}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        reason = f"another process has been fetching for {LOCK_SECONDS:g} s (it holds {lock.lock_file})"
        raise refusal(data_set, root, found, reason) from None
    except OSError as error:
        reason = f"it can't be fetched, for the folder can't be written ({error.strerror or error})"
        raise refusal(data_set, root, found, reason) from error
    with held:
        found = look(data_set, root)
        return fetch(data_set, root, found) if found.missing else found.files


def look(data_set: DataSet, root: Path) -> Found:
    """The first intact file of each kind.

    Raises:
        DataError: a folder can't be looked into.
    """
    found = Found()
    for key, stem in STEMS.items():
        for path in candidates(data_set, root, stem):
            try:
                verify(data_set, key, path)
            except DataError as error:
                found.damaged.append(str(error))
            else:
                found.files[key] = path
                break
    return found


def candidates(data_set: DataSet, root: Path, stem: str) -> list[Path]:
    """The files that bear the name in some spelling, those in `root` itself first.

    Raises:
        DataError: a folder can't be looked into.
    """
    folders = [root, root / data_set.folder / "raw", *(root / other for other in data_set.other_folders)]
    # Plain files are faster to read, but without a SHA-256 only the .gz can be verified.
    suffixes = ("", ".gz") if data_set.sha256 else (".gz", "")
    spellings = (stem, stem.replace("-idx", ".idx"))
    paths = [folder / (name + suffix) for folder in folders for suffix in suffixes for name in spellings]
    try:
        return [path for path in paths if path.is_file()]
    except OSError as error:
        raise DataError(
            f"can't look into {root} ({error.strerror}); set data.root to a readable folder"
        ) from error


def verify(data_set: DataSet, key: str, path: Path) -> None:
    """
    Raises:
        DataError: not an IDX file, or not this one of this data set.
    """
    position = list(STEMS).index(key)
    content = read_content(path)
    shape, expected_shape = parse_idx(content, path).shape, data_set.shapes[position]
    what = f"{key} of {data_set.folder}"
    if shape != expected_shape:
        raise DataError(
            f"wrong shape: {path} holds {shape}, {what} have {expected_shape}; put the right file there"
        )
    digest = hashlib.sha256(content).hexdigest()
    if data_set.sha256:
        expect(digest, data_set.sha256[position], f"{path} has an uncompressed SHA-256", what)
    elif any(digest in other.sha256 for other in DATA_SETS.values()):
        raise DataError(f"wrong data set: {path} is not {what}; give each data set a root of its own")
    elif path.suffix == ".gz":
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        expect(md5, data_set.gz_md5[position], f"{path} has an MD5", what)


def expect(digest: str, expected: str, found: str, what: str) -> None:
    """
    Raises:
        DataError: the digests differ.
    """
    if digest != expected:
        raise DataError(
            f"damaged: {found} of {digest}, {what} have {expected}; replace it by an intact copy or delete it"
        )


def fetch(data_set: DataSet, root: Path, found: Found) -> dict[str, Path]:
    """The files, fetched from the first source that has them intact into torchvision's folder below `root`.

    Raises:
        DataError: every source failed.
    """
    raw = root / data_set.folder / "raw"
    # Beside its target, so that a move is a rename; a fixed name, so that a killed fetch is cleared up later.
    temporary = raw.with_name(".fetching")
    failures = []
    for source in data_set.sources:
        logger.info("fetching %s from %s into %s", data_set.folder, source.name, raw)
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            source.fetch(temporary)
            fetched = look(data_set, temporary)
            if fetched.missing:
                raise DataError(", ".join(fetched.damaged) or f"it lacks {', '.join(fetched.missing)}")
            raw.mkdir(exist_ok=True)
            for path in temporary.rglob("*-ubyte*"):
                path.replace(raw / path.name)
            return {key: raw / path.name for key, path in fetched.files.items()}
        except Exception as error:  # whatever ails one source, the next is tried, and the reason is told
            failures.append(f"{source.name}: {' '.join(str(error).split()) or type(error).__name__}")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise refusal(data_set, root, found, f"every source failed: {'; '.join(failures)}")


def refusal(data_set: DataSet, root: Path, found: Found, reason: str) -> DataError:
    parts = [f"{data_set.folder} is incomplete in {root}: no intact {', '.join(found.missing)}"]
    remedy = f"put the four IDX files into data.root, plain or .gz: {', '.join(STEMS.values())}{data_set.hint}"
    return DataError("; ".join([*parts, *found.damaged, reason, remedy]))


def read_split(
    files: Mapping[str, Path], split: Literal["train", "test"]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 28, 28) and labels (N,) in 0..9.

    Raises:
        DataError: not IDX files, or of other shapes, empty, of unequal counts, or with another label.
    """
    images_path, labels_path = files[f"{split}_images"], files[f"{split}_labels"]
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28):
        raise DataError(
            f"{images_path} holds {images.shape}, images are (N, 28, 28); replace it by an intact copy"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"{labels_path} holds {labels.shape} labels, {images_path} {len(images)} images, each needs one;"
            " use two files of one set"
        )
    if not len(images):
        raise DataError(f"{images_path} holds no images, at least one is needed; replace it by an intact copy")
    if labels.max() > 9:
        raise DataError(
            f"{labels_path} holds the label {labels.max()}, labels are 0 to 9; use a set of ten classes"
        )
    return images, labels
