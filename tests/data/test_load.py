"""Splits, pixel statistics and limits on made labels; and the real MNIST as training sees it."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from conftest import made_images
from tinysweep.data import load as data
from tinysweep.data.catalogue import DataShape
from tinysweep.data.download import read_split
from tinysweep.data.load import Images, check, describe, load, load_test, pixel_statistics, split
from tinysweep.errors import ConfigError, DataError
from tinysweep.settings.schema import DataConfig


def labels_of(*counts: int) -> Tensor:
    """Shuffled labels, so many of each class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]


UNEVEN = labels_of(300, 17, 2, 0, 61, 120)


@pytest.fixture
def made_mnist(monkeypatch: pytest.MonkeyPatch) -> Images:
    """Stands for the training part of MNIST; reading the test part is an error."""
    images = made_images(100)

    def read_split(_files: object, part: str) -> tuple[object, object]:
        assert part == "train"
        return images.pixels[:, 0].numpy(), images.labels.numpy()

    monkeypatch.setattr(data, "obtain", lambda *_: {})
    monkeypatch.setattr(data, "read_split", read_split)
    return images


# ---- the split


@pytest.mark.parametrize("held_out", [1, 7, 100, 250, 480, 0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_is_complete_disjoint_exact_and_stratified(held_out: float, seed: int) -> None:
    held, rest = split(UNEVEN, held_out, seed)
    wanted = held_out if held_out >= 1 else held_out * len(UNEVEN)
    assert len(held) == wanted
    assert torch.equal(torch.cat([held, rest]).sort().values, torch.arange(len(UNEVEN)))
    counts = torch.bincount(UNEVEN)
    share = torch.bincount(UNEVEN[held], minlength=len(counts))
    assert ((share - counts * wanted / len(UNEVEN)).abs() < 1).all()
    assert (share[counts > 0] < counts[counts > 0]).all(), "each class must keep an image to train on"


def test_the_seed_alone_decides_the_split_and_its_random_order() -> None:
    torch.manual_seed(1)
    first = split(UNEVEN, 100, seed=5)
    torch.manual_seed(2)
    again = split(UNEVEN, 100, seed=5)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert set(first[0].tolist()) != set(split(UNEVEN, 100, seed=6)[0].tolist())
    labels = torch.arange(2).repeat_interleave(500)
    for part in split(labels, 0.5, seed=0):
        assert 80 < labels[part[:200]].sum() < 120, "a limit must draw from all classes alike"


def test_a_fraction_is_the_count_it_stands_for_and_one_image_at_least() -> None:
    for by_fraction, by_count in zip(split(UNEVEN, 0.3, seed=0), split(UNEVEN, 150, seed=0), strict=True):
        assert torch.equal(by_fraction, by_count)
    assert len(split(labels_of(20, 20), 0.001, seed=0)[0]) == 1


def test_none_held_out_leaves_every_image_even_of_a_class_with_one() -> None:
    held, rest = split(labels_of(5, 1), 0, seed=0)
    assert len(held) == 0
    assert sorted(rest.tolist()) == list(range(6))


def test_a_class_with_one_image_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"^class 2 has 1 image .*data\.validation=0$"):
        split(labels_of(50, 50, 1), 10, seed=0)


def test_the_small_classes_keep_an_image_when_almost_all_are_held_out() -> None:
    labels = labels_of(2, 2, 2, 1000)
    held, rest = split(labels, len(labels) - 4, seed=0)
    assert torch.bincount(labels[rest]).tolist() == [1, 1, 1, 1]
    assert torch.bincount(labels[held]).tolist() == [1, 1, 1, 999]


@pytest.mark.parametrize("held_out", [40, 62, 100, 166, 250, 480, 0.2, 0.5])
@pytest.mark.parametrize("labels", [UNEVEN, labels_of(*[2] * 250)], ids=["uneven", "pairs"])
def test_folds_are_stratified_and_share_no_image(labels: Tensor, held_out: float) -> None:
    wanted, counts = round(held_out if held_out >= 1 else held_out * len(labels)), torch.bincount(labels)
    if wanted > (counts - 1).clamp(min=0).sum():
        return  # of which tests are below
    drawn = []
    for fold in range(len(labels) // wanted):
        held, rest = split(labels, held_out, 5, fold)
        assert len(held) == wanted
        assert torch.equal(torch.cat([held, rest]).sort().values, torch.arange(len(labels)))
        assert (torch.bincount(labels[rest], minlength=len(counts))[counts > 0] > 0).all(), "none to train on"
        share = torch.bincount(labels[held], minlength=len(counts))
        assert ((share - counts * wanted / len(labels)).abs() < 2).all()
        drawn.append(held)
    assert len(torch.cat(drawn).unique()) == wanted * len(drawn)
    assert torch.equal(drawn[0], split(labels, held_out, 5)[0])


def test_a_fold_that_does_not_exist_is_refused(made_mnist: Images) -> None:
    folds = [load(DataConfig(validation=30, fold=fold, limit=40)) for fold in range(3)]
    seen = {image.numpy().tobytes() for each in folds for image in each.validation.pixels}  # type: ignore[union-attr]
    assert len(seen) == 90
    with pytest.raises(ConfigError, match=r"data\.fold=3 must be below 3: 100 images, 30 held out, make no more"):
        load(DataConfig(validation=30, fold=3))
    assert len(load(DataConfig(validation=0, fold=3)).train) == len(made_mnist), (
        "where none is held out, none is read"
    )


@pytest.mark.parametrize("held_out", [1003, 1006, 1007, 5000, 0.9999])
def test_more_than_can_be_held_out_is_refused_with_the_most_that_can(held_out: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.validation={held_out:g} must .* at most 1002 of the 1006"):
        split(labels_of(2, 2, 2, 1000), held_out, seed=0)


# ---- statistics


def test_statistics_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5000, 3, 6, 6), generator=generator, dtype=torch.uint8)
    pixels[:, 1] //= 4
    pixels[:, 2] = 200 + pixels[:, 2] // 128
    mean, std = pixel_statistics(pixels)
    scaled = pixels.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-6)
    assert std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), rel=1e-5)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_images_have_a_deviation_to_divide_by(value: int) -> None:
    mean, std = pixel_statistics(torch.full((4, 1, 3, 3), value, dtype=torch.uint8))
    assert mean == pytest.approx((value / 255,))
    assert std[0] > 0


# ---- loading


def test_statistics_are_of_the_training_images_alone(made_mnist: Images) -> None:
    made_mnist.pixels[:, :, :3] = made_mnist.labels.view(-1, 1, 1, 1) * 25  # so that every part differs
    loaded = load(DataConfig(validation=30, limit=20))
    assert loaded.validation is not None
    assert (loaded.mean, loaded.std) == pixel_statistics(loaded.train.pixels)
    assert loaded.mean != pixel_statistics(made_mnist.pixels)[0]


def test_images_keep_their_labels(made_mnist: Images) -> None:
    loaded = load(DataConfig(validation=30))
    assert loaded.validation is not None
    known = {image.numpy().tobytes(): label for image, label in zip(*vars(made_mnist).values(), strict=True)}
    for part in (loaded.train, loaded.validation):
        assert part.pixels.shape[1:] == (1, 28, 28)
        assert part.labels.dtype == torch.int64
        for image, label in zip(part.pixels, part.labels, strict=True):
            assert known[image.numpy().tobytes()] == label


def test_a_limit_shortens_training_and_leaves_validation_as_it_was(made_mnist: Images) -> None:
    whole, limited, all_left = (load(DataConfig(validation=30, limit=limit)) for limit in (None, 12, 70))
    assert whole.validation is not None
    assert limited.validation is not None
    assert (len(whole.train), len(limited.train), len(all_left.train)) == (len(made_mnist) - 30, 12, 70)
    assert torch.equal(limited.train.pixels, whole.train.pixels[:12])
    assert torch.equal(limited.validation.pixels, whole.validation.pixels)
    with pytest.raises(ConfigError, match=r"data\.limit=71 must not exceed the 70 images .* 30 being held out"):
        load(DataConfig(validation=30, limit=71))
    without = load(DataConfig(validation=0))
    assert (len(without.train), without.validation) == (100, None)


# ---- the real thing


def test_real_mnist_is_split_and_its_test_images_are_left_alone(
    mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[str] = []

    def noted(files: dict[str, Path], part: Literal["train", "test"]) -> object:
        parts.append(part)
        return read_split(files, part)

    monkeypatch.setattr(data, "read_split", noted)
    config = DataConfig(root=str(mnist_root), download=False)

    loaded = load(config)
    assert parts == ["train"]
    assert loaded.validation is not None
    assert loaded.shape == describe(config) == DataShape(1, 28, 10)
    assert (len(loaded.train), len(loaded.validation)) == (55000, 5000)
    assert loaded.mean == pytest.approx((0.1306,), abs=1e-3)
    assert loaded.std == pytest.approx((0.308,), abs=1e-3)
    assert torch.bincount(loaded.validation.labels).tolist() == [
        494, 562, 496, 511, 487, 452, 493, 522, 487, 496
    ]  # fmt: skip

    counts = [data.fold_count(dataclasses.replace(config, validation=held_out)) for held_out in (0, 5000, 0.3)]
    assert counts == [1, 12, 3]
    check([config, dataclasses.replace(config, limit=55000), dataclasses.replace(config, fold=11)])
    with pytest.raises(ConfigError, match=r"data\.fold=12 must be below 12: 60000 images, 5000 held out, make no"):
        check([dataclasses.replace(config, fold=12)])
    with pytest.raises(ConfigError, match="must not exceed the 55000 images"):
        check([config, dataclasses.replace(config, limit=55001)])
    assert parts == ["train"]

    test = load_test(config)
    assert parts == ["train", "test"]
    assert test.pixels.shape == (10000, 1, 28, 28)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
