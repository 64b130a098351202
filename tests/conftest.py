"""Fixtures that several test modules share: the real MNIST, and small made data that can be learned."""

from pathlib import Path

import pytest
import torch

from tinysweep.config import DEFAULT_ROOT
from tinysweep.data import Data, Images
from tinysweep.fetch import obtain
from tinysweep.model import DataShape


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small work is fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder of real MNIST, fetched if this machine hasn't got it."""
    root = Path(DEFAULT_ROOT).expanduser()
    obtain("mnist", root)
    return root


def made_images(count: int, classes: int = 10, size: int = 28, channels: int = 1, seed: int = 0) -> Images:
    """Noise with a bright bar whose row tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 60, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        row = label * size // classes
        pixels[index, :, row : row + max(1, size // classes)] = 255
    return Images(pixels, labels)


@pytest.fixture
def made_data() -> Data:
    """200 training and 50 validation images of 10 classes."""
    return Data(DataShape(1, 28, 10), made_images(200), made_images(50, seed=1), (0.2,), (0.3,))
