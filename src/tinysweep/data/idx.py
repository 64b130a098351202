"""IDX files: arrays of bytes behind a small header, the format described on Yann LeCun's MNIST page."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysweep.errors import DataError
from tinysweep.files import write_whole

UINT8 = 0x08
GZIP_MAGIC = b"\x1f\x8b"
REMEDY = "replace it by an intact copy, or delete it and have it fetched again"


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an IDX file, plain or gzipped, as a writable copy.

    Raises:
        DataError: unreadable, broken gzip, wrong magic number, truncated, or trailing bytes.
    """
    return parse_idx(read_content(path), path).copy()


def read_content(path: Path) -> bytes:
    """The uncompressed bytes of a file.

    Raises:
        DataError: unreadable or broken gzip.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; make it a readable IDX file") from error
    # By its first bytes, not its name: browsers unpack a download and keep ".gz", and no IDX file starts so.
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"broken gzip: {path} does not unpack ({error}); {REMEDY}") from error


def parse_idx(content: bytes, path: Path) -> NDArray[np.uint8]:
    """A read-only view of the array in the uncompressed content of an IDX file; `path` is for messages.

    Raises:
        DataError: wrong magic number, truncated, or trailing bytes.
    """
    magic, dimensions = content[:4], content[3] if len(content) > 3 else 0
    if len(content) >= 4 and (magic[:3] != bytes([0, 0, UINT8]) or dimensions not in (1, 2, 3)):
        raise DataError(
            f"wrong magic number: {path} starts with {magic.hex(' ')}, an IDX file of bytes starts with"
            f" 00 00 08 and 1 to 3 dimensions; {REMEDY}"
        )
    header = 4 + 4 * dimensions
    if len(content) < max(header, 8):
        raise DataError(f"truncated: {path} holds {len(content)} bytes, fewer than an IDX header; {REMEDY}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = header + math.prod(shape)
    if len(content) != size:
        fault = "truncated" if len(content) < size else "trailing bytes"
        raise DataError(
            f"{fault}: {path} holds {len(content)} bytes, its header says {shape} and so {size}; {REMEDY}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Writes an IDX file, gzipped if the name ends in `.gz`; it appears whole or not at all.

    Raises:
        ValueError: not an array of uint8 of 1 to 3 dimensions.
    """
    if array.dtype != np.uint8 or array.ndim not in (1, 2, 3):
        raise ValueError(f"IDX takes uint8 of 1 to 3 dimensions, got {array.dtype} of {array.ndim}")
    magic = bytes([0, 0, UINT8, array.ndim])
    content = magic + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    write_whole(path, content)


def sha256_of_content(path: Path) -> str:
    """SHA-256 of the uncompressed content, so that `x` and `x.gz` compare equal.

    Raises:
        DataError: unreadable or broken gzip.
    """
    return hashlib.sha256(read_content(path)).hexdigest()
