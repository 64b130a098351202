"""Whether a drawing looks like the digit that a model takes it for.

A network names whatever it is shown, and letters often with certainty. But the edges of one digit's images, told
apart by direction and blurred (as in Dalal and Triggs, 2005, "Histograms of oriented gradients"), lie close to a
plane of few dimensions, and those of most letters don't. MNIST's planes come with the package, so that they serve
any model of MNIST, exported or not, where no data are; `python -m tinysweep.deploy.likeness` makes them anew.
"""

import io
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinysweep.files import write_whole
from tinysweep.settings.schema import DataConfig

if TYPE_CHECKING:
    from tinysweep.data.load import Data

FILE = Path(__file__).with_name("likeness.npz")
BLUR, STEP = 2, 3  # pixels: how far an edge may lie elsewhere, and from one place looked at to the next
POWER = 0.7  # of an edge's strength; below 1, a faint edge counts for more
DIMENSIONS = 12  # with fewer some typed digits are refused, with more fewer letters
REFUSED = 0.005  # of each digit's validation images

Half = NDArray[np.float16]


@dataclass(frozen=True)
class Planes:
    """Of each digit the mean of its edges (10, E), the orthonormal axes of its plane (10, DIMENSIONS, E), and the
    squared distance (10,) from it up to which a drawing resembles the digit."""

    means: Half
    axes: Half
    limits: NDArray[np.float64]

    def distances(self, pixels: NDArray[np.uint8], label: int) -> NDArray[np.float64]:
        """Squared, of images (N, 28, 28) from the plane of a digit -> (N,)."""
        offsets = edges(pixels) - self.means[label]
        within = offsets @ self.axes[label].T.astype(np.float64)
        found: NDArray[np.float64] = np.square(offsets).sum(1) - np.square(within).sum(1)
        return found

    def resembles(self, image: NDArray[np.uint8], label: int) -> bool:
        """Whether an image (28, 28) is as close to a digit as nearly all of its own are."""
        return bool(self.distances(image[None], label)[0] <= self.limits[label])


def edges(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How much brighter images (N, 28, 28) get rightwards, leftwards, downwards and upwards about each of 9x9
    places -> (N, 324), of length 1."""
    parts = []
    for along, across in ((1, 2), (2, 1)):
        slopes = ndimage.correlate1d(
            ndimage.correlate1d(pixels.astype(float), [-1, 0, 1], along), [1, 2, 1], across
        )
        for signed in (slopes, -slopes):
            blurred = ndimage.gaussian_filter(signed.clip(0), (0, BLUR, BLUR))
            parts.append(blurred[:, 1::STEP, 1::STEP] ** POWER)
    strengths = np.stack(parts, 1).reshape(len(pixels), -1)
    found: NDArray[np.float64] = strengths / np.linalg.norm(strengths, axis=1, keepdims=True)
    return found


def fit_planes(data: "Data") -> Planes:
    """The planes of a data set's training images, with limits from its validation images."""
    parts = [part for part in (data.train, data.validation) if part]
    (train, labels), (others, other_labels) = ((part.pixels[:, 0].numpy(), part.labels.numpy()) for part in parts)
    means, axes = [], []
    for label in range(10):
        vectors = edges(train[labels == label])
        means.append(vectors.mean(0))
        axes.append(np.linalg.eigh(np.cov(vectors.T))[1][:, -DIMENSIONS:].T)
    planes = Planes(np.array(means, np.float16), np.array(axes, np.float16), np.zeros(10))
    for label in range(10):
        planes.limits[label] = np.quantile(planes.distances(others[other_labels == label], label), 1 - REFUSED)
    return planes


@cache
def planes() -> Planes:
    """Those of MNIST that come with the package."""
    with np.load(FILE) as content:
        return Planes(**content)


def main() -> None:
    """Write the file of planes, from the data set's default split."""
    from tinysweep.data.load import load  # noqa: PLC0415 it imports torch, which no other use of planes needs

    stream = io.BytesIO()
    np.savez_compressed(stream, **asdict(fit_planes(load(DataConfig()))))
    write_whole(FILE, stream.getvalue())


if __name__ == "__main__":
    main()
