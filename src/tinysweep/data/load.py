"""A data set as tensors in memory: training and validation split, and the test set, read only when asked for."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinysweep.data import arrays
from tinysweep.data import folder as image_folder
from tinysweep.data.catalogue import DATA_SETS, DataShape, is_own
from tinysweep.data.download import obtain, read_idx, read_split
from tinysweep.errors import ConfigError, DataError
from tinysweep.settings.schema import DataConfig, DataName


@dataclass(frozen=True)
class Images:
    """Pixels uint8 (N, C, H, W) and labels int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, indices: Tensor) -> "Images":
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """What training may see. Mean and standard deviation, a channel each on the scale of [0, 1], are those of
    the training images alone."""

    shape: DataShape
    train: Images
    validation: Images | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def describe(config: DataConfig) -> DataShape:
    """Channels, size and classes, which of arrays of the user's own are known once these are read."""
    if config.name == DataName.image_folder:
        return DataShape(3 if config.colour else 1, config.image_size, len(image_folder.class_names(config)))
    return arrays.read(config).shape if is_own(config.name) else DATA_SETS[config.name].shape


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The names of a data set's classes, in the order of the labels."""
    if config.name == DataName.image_folder:
        return tuple(image_folder.class_names(config))
    return arrays.read(config).classes if is_own(config.name) else DATA_SETS[config.name].classes


def repeated_note(config: DataConfig) -> str | None:
    """A line on test images that are training images as well, pixel for pixel, if arrays of the user's own have
    any."""
    if config.name == DataName.image_folder or not is_own(config.name):
        return None
    own = arrays.read(config)
    count = own.repeated
    return (
        f"note: {count:,} of the {len(own.test.labels):,} test images are training images too" if count else None
    )


def load(config: DataConfig) -> Data:
    """The training and validation images of a data set, fetched if need be. Those that an image folder gives for
    validation are all taken, unless `validation` is 0; otherwise some training images are held out."""
    shape = describe(config)
    _require_digest(config)
    everything = _read(config, "train")
    given = _read(config, "validation") if _gives_validation(config) else None
    _require_enough(config, everything.labels, len(given) if given else 0)
    wanted = 0 if given else config.validation
    held_out, rest = split(everything.labels, wanted, config.split_seed, 0 if given else config.fold)
    validation = given or everything.pick(held_out)
    train = everything.pick(rest[: config.limit])
    mean, std = pixel_statistics(train.pixels)
    return Data(shape, train, validation if len(validation) else None, mean, std)


def load_test(config: DataConfig) -> Images:
    """The test images; a run calls this once, when its training is over."""
    _require_digest(config)
    return _read(config, "test")


def check(configs: Sequence[DataConfig], *, images: bool = True) -> None:
    """See to it that each of these will load: that the data is there and undamaged, fetched if need be, that there
    are as many images as are asked for, and enough of each class, and, unless `images` is false, that those of a
    folder can be read, which takes about as long as to load them."""
    for config in {(_place(config), config.digest): config for config in configs}.values():
        _require_digest(config)
    labels_of = functools.cache(_labels)
    folders: dict[tuple[str, float], DataConfig] = {}
    for config in configs:
        given = 0
        if config.name == DataName.image_folder:
            given = len(image_folder.list_images(config, "validation")) if _gives_validation(config) else 0
            folders[config.root, config.test_fraction] = config
        _require_enough(config, _training_labels(config, labels_of), given)
    for config in folders.values() if images else []:
        image_folder.require_readable(config)


def fold_count(config: DataConfig) -> int:
    """How many folds there are to hold out: one if none is, or if a folder has validation images of its own."""
    if config.validation == 0 or _gives_validation(config):
        return 1
    labels = _training_labels(config)
    return len(labels) // held_out_count(labels, config.validation)


def pin(config: DataConfig, digests: dict[str, str] | None = None) -> DataConfig:
    """The same data, its place an absolute path, and of the user's own with the digest of what it holds now. The
    other data sets need none, as they are what their names say wherever they lie. `digests` are those of the
    places looked at before; one that isn't there is added."""
    found = with_absolute_root(config)
    if not is_own(config.name) or config.digest is not None:
        return found
    digests = {} if digests is None else digests
    if (place := _place(found)) not in digests:
        digests[place] = _content_digest(config)  # whose errors name the place as it was typed
    return replace(found, digest=digests[place])


def _place(config: DataConfig) -> str:
    """What tells images of the user's own from others: where they lie and, of arrays, how they are read."""
    return config.root if config.name == DataName.image_folder else arrays.place(config)


def with_absolute_root(config: DataConfig) -> DataConfig:
    """The same data by an absolute path; ~, which differs between machines, stays."""
    return config if config.root.startswith("~") else replace(config, root=str(Path(config.root).absolute()))


def _content_digest(config: DataConfig) -> str:
    """A fingerprint of images of the user's own."""
    if config.name == DataName.image_folder:
        return image_folder.content_digest(config)
    return arrays.read(config).digest


def _require_digest(config: DataConfig) -> None:
    if config.digest is not None and (found := _content_digest(config)) != config.digest:
        raise DataError(
            f"data.root={config.root} holds {found}, not the images of data.digest={config.digest}: some were "
            "changed, added or removed; bring them back, or begin anew with these: a search under another "
            "hydra.sweeper.study_name, a run from its first epoch, not by resume=, with data.digest=null"
        )


def _gives_validation(config: DataConfig) -> bool:
    """Whether an image folder itself says which images are for validation."""
    folder = config.name == DataName.image_folder
    return folder and config.validation > 0 and image_folder.VALIDATION in image_folder.layout(config).parts


def _read(config: DataConfig, part: str) -> Images:
    if config.name == DataName.image_folder:
        pixels, labels = image_folder.read(config, part)
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels))
    if is_own(config.name):
        own = getattr(arrays.read(config), part)
        return Images(torch.from_numpy(own.pixels), torch.from_numpy(own.labels))
    images, small = read_split(obtain(config.name, Path(config.root), config.download), part)
    return Images(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(small.astype(np.int64)))


def _labels(name: DataName, root: str, download: bool) -> Tensor:
    """The labels (N,) of a named data set's training images."""
    files = obtain(name, Path(root), download)
    return torch.from_numpy(read_idx(files["train_labels"]).astype(np.int64))


def _training_labels(config: DataConfig, named: Callable[[DataName, str, bool], Tensor] = _labels) -> Tensor:
    """The labels (N,) of the training images, none of which is read; those of a named data set by `named`."""
    if config.name == DataName.image_folder:
        return torch.tensor([label for label, _ in image_folder.list_images(config, "train")])
    if is_own(config.name):
        return torch.from_numpy(arrays.read(config).train.labels)
    return named(config.name, config.root, config.download)


# ---- splitting


def _require_enough(config: DataConfig, labels: Tensor, given: int) -> None:
    """Refuse to hold out or train on more images than there are; `given` is how many come apart for validation."""
    names = class_names(config) if is_own(config.name) else ()
    held_out = 0 if given else held_out_count(labels, config.validation, names)
    left = len(labels) - held_out
    folds = len(labels) // held_out if held_out else 1
    if config.fold >= folds and config.validation > 0:
        those = "the folder's own validation images" if given else f"{len(labels)} images, {held_out} held out,"
        raise ConfigError(f"data.fold={config.fold} must be below {folds}: {those} make no more folds")
    if config.limit is not None and config.limit > left:
        raise ConfigError(
            f"data.limit={config.limit} must not exceed the {left} images there are to train on, "
            f"{given or held_out} being held out for validation"
        )


def held_out_count(labels: Tensor, held_out: float, names: Sequence[str] = ()) -> int:
    """How many images a number or fraction `held_out` stands for; refused unless each class keeps one to train on.
    `names` are those of the classes, if they have any."""
    if held_out == 0:
        return 0
    wanted = max(1, round(held_out * len(labels))) if held_out < 1 else int(held_out)
    counts = torch.bincount(labels)
    if alone := (counts == 1).nonzero().flatten().tolist():
        name = names[alone[0]] if names else alone[0]
        raise DataError(
            f"class {name} has 1 image to train on, but a validation split needs at least 2 of each class; "
            "add images, or set data.validation=0"
        )
    most = int((counts - 1).clamp(min=0).sum())
    if wanted > most:
        raise ConfigError(
            f"data.validation={held_out:g} must leave an image of each class to train on: at most "
            f"{most} of the {len(labels)} images there are"
        )
    return wanted


def split(labels: Tensor, held_out: float, seed: int, fold: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of the images held out and of the rest, both in random order.

    `held_out` is a number of images or, below 1, a fraction, which if not 0 holds out one image at least. The
    total is exact, and of every class the same share is held out: rounded down, what is missing then going to
    the classes with the largest remainders. So a class with a share of less than one image may have none held
    out, but each keeps one at least to train on. A later fold is drawn so from what those before it have left,
    as long as that is enough for one more.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if held_out == 0:
        return order[:0], order
    wanted, counts = held_out_count(labels, held_out), torch.bincount(labels)
    shuffled = labels[order]
    free = torch.ones(len(labels), dtype=torch.bool)
    for _ in range(fold + 1):
        there = torch.bincount(shuffled[free], minlength=len(counts))
        spare = torch.minimum(there, counts - 1)
        exact = there.double() * wanted / int(there.sum())
        quota = exact.floor().long()
        for _ in range(wanted - int(quota.sum())):
            remainder = torch.where(quota < spare, exact - quota, -math.inf)
            quota[remainder.argsort(descending=True, stable=True)[0]] += 1
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        for label, count in enumerate(quota.tolist()):
            chosen[(free & (shuffled == label)).nonzero().flatten()[:count]] = True
        free &= ~chosen
    return order[chosen], order[~chosen]


def pixel_statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 (N, C, H, W), on the scale of [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in pixels.unbind(1):
        # Unlike a mean, counts need no float copy of the data set; in parts, as they need one of 64-bit integers.
        counts = [torch.bincount(part.flatten(), minlength=256) for part in channel.split(4096)]
        share = torch.stack(counts).sum(0) / channel.numel()
        mean = float((share * levels).sum())
        variance = float((share * (levels - mean) ** 2).sum())
        means.append(mean)
        deviations.append(max(variance**0.5, 1e-3))  # a constant image must not divide by zero
    return tuple(means), tuple(deviations)
