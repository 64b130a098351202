"""Augmentation: that each setting means what it says, measured on the images that come out."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinysweep.settings.schema import AugmentationConfig, Interpolation
from tinysweep.training import augment as module
from tinysweep.training.augment import augment, draw_elastic, erasing_mask, sampling_grid

STRONG = AugmentationConfig(
    rotation_degrees=30,
    shift_fraction=0.2,
    scale_fraction=0.3,
    shear_degrees=20,
    elastic_pixels=2,
    flip_probability=0.5,
    erase_probability=0.5,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, channels: int = 1, size: int = 28, seed: int = 5) -> Tensor:
    """Pixels of every value from 0 to 255."""
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=seeded(seed)).float()


def blobs(count: int, right: float = 0.0, down: float = 0.0, size: int = 48, spread: float = 2.5) -> Tensor:
    """The same round blob in every image, so many pixels from the centre."""
    place = torch.arange(size) - (size - 1) / 2
    columns, rows = torch.exp(-(((place - right) / spread) ** 2)), torch.exp(-(((place - down) / spread) ** 2))
    return (255 * rows[:, None] * columns[None, :]).expand(count, 1, size, size)


def centroids(images: Tensor) -> Tensor:
    """Where the brightness of each image lies, (B, 2) as (right, down) in pixels from the centre."""
    size = images.shape[-1]
    place = torch.arange(size) - (size - 1) / 2
    mass = images.sum((1, 2, 3))
    right = (images.sum((1, 2)) * place).sum(1) / mass
    down = (images.sum((1, 3)) * place).sum(1) / mass
    return torch.stack([right, down], dim=1)


def reaches(values: Tensor, low: float, high: float) -> None:
    """Uniform draws stay within their bounds, come near both ends, and have their middle in the middle."""
    slack = 0.02 * (high - low)
    tolerance = 0.002 * (high - low)
    assert low - tolerance <= values.min() <= low + slack
    assert high - slack <= values.max() <= high + tolerance
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert values.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.1)


# ---- whatever is drawn


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 9), (2, 1)])
def test_shape_type_and_range_are_kept(channels: int, size: int) -> None:
    images = noise(64, channels, size)
    before = images.clone()
    result = augment(images, STRONG, seeded())
    assert torch.equal(images, before), "the given images are left alone"
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 255.001  # bilinear weights add up to 1 but for rounding


def test_without_any_strength_images_are_the_same_bit_for_bit() -> None:
    images = noise(16) / 7
    assert torch.equal(augment(images, AugmentationConfig(), seeded()), images)
    idle = AugmentationConfig(elastic_sigma_pixels=2, erase_fraction=0.9)
    assert torch.equal(augment(images, idle, seeded()), images)


def test_every_image_of_a_batch_has_its_own_draws() -> None:
    images = noise(1).expand(200, 1, 28, 28)
    for setting in fields(AugmentationConfig):
        if setting.name in ("elastic_sigma_pixels", "erase_fraction", "flip_probability", "interpolation"):
            continue
        strength: dict[str, Any] = {setting.name: 1 if setting.name == "erase_probability" else 0.5}
        config = AugmentationConfig(**strength)
        distinct = len(augment(images, config, seeded()).flatten(1).unique(dim=0))
        assert distinct == 200 if setting.name != "erase_probability" else distinct > 150, setting.name
    assert len(augment(images, AugmentationConfig(flip_probability=0.5), seeded()).flatten(1).unique(dim=0)) == 2


def test_the_same_seed_gives_the_same_bits_and_nothing_else_is_drawn_from() -> None:
    images, generator, state = noise(32), seeded(3), torch.get_rng_state()
    first = augment(images, STRONG, generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, augment(images, STRONG, seeded(3)))
    assert not torch.equal(first, augment(images, STRONG, seeded(4)))
    assert not torch.equal(first, augment(images, STRONG, generator)), "the next batch has new draws"


def test_everything_is_made_on_the_device_of_the_images() -> None:
    images = noise(8)
    expected = augment(images, STRONG, seeded())
    with torch.device("meta"):  # whatever names no device of its own would land here, without values
        result = augment(images, STRONG, seeded())
    assert result.device == images.device
    assert torch.equal(result, expected)


def test_the_channels_of_an_image_move_together() -> None:
    images = noise(16).expand(16, 3, 28, 28)
    result = augment(images, STRONG, seeded())
    for channel in (1, 2):
        torch.testing.assert_close(result[:, channel], result[:, 0])


def test_what_comes_from_outside_is_background() -> None:
    white = torch.full((64, 1, 20, 20), 255.0)
    result = augment(white, AugmentationConfig(shift_fraction=0.5), seeded())
    corners = torch.stack([result[:, 0, y, x] for y in (0, -1) for x in (0, -1)])
    assert ((corners == 0).sum(0) >= 1).float().mean() > 0.9
    assert ((corners > 254.99).sum(0) == 1).float().mean() > 0.75


# ---- rotation, shift, scale, shear, flip


def test_rotation_is_uniform_up_to_so_many_degrees_about_the_centre() -> None:
    config = AugmentationConfig(rotation_degrees=20)
    found = centroids(augment(blobs(2000, right=12), config, seeded()))
    reaches(torch.rad2deg(torch.atan2(found[:, 1], found[:, 0])), -20, 20)
    torch.testing.assert_close(found.norm(dim=1), torch.full((2000,), 12.0), rtol=0, atol=0.02)


def test_scale_is_uniform_between_one_less_and_one_more_the_fraction() -> None:
    config = AugmentationConfig(scale_fraction=0.4)
    found = centroids(augment(blobs(2000, right=9, down=6), config, seeded()))
    reaches(found[:, 0] / 9, 0.6, 1.4)
    torch.testing.assert_close(found[:, 0] / 9, found[:, 1] / 6, rtol=0, atol=0.01)


def test_shear_slants_upright_lines_up_to_so_many_degrees() -> None:
    config = AugmentationConfig(shear_degrees=25)
    found = centroids(augment(blobs(2000, down=12), config, seeded()))
    reaches(torch.rad2deg(torch.atan2(found[:, 0], found[:, 1])), -25, 25)
    torch.testing.assert_close(found[:, 1], torch.full((2000,), 12.0), rtol=0, atol=0.02)
    flat = centroids(augment(blobs(200, right=12), config, seeded()))
    torch.testing.assert_close(flat, torch.tensor([[12.0, 0.0]]).expand(200, 2), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "others",
    [{}, {"rotation_degrees": 45, "scale_fraction": 0.4, "shear_degrees": 30, "flip_probability": 0.5}],
    ids=["alone", "among the others"],
)
def test_shift_is_uniform_up_to_a_fraction_of_the_image_size(others: dict[str, Any]) -> None:
    found = centroids(augment(blobs(2000, spread=1.5), AugmentationConfig(shift_fraction=0.2, **others), seeded()))
    for axis in (0, 1):
        reaches(found[:, axis], -0.2 * 48, 0.2 * 48)
    assert torch.corrcoef(found.T)[0, 1].abs() < 0.1, "both ways are drawn apart"


def test_a_flip_mirrors_left_and_right_with_its_probability() -> None:
    images = noise(1, channels=3).expand(2000, 3, 28, 28)
    result = augment(images, AugmentationConfig(flip_probability=0.3), seeded())
    mirrored = (result - images.flip(3)).abs().amax((1, 2, 3)) < 0.01
    same = (result - images).abs().amax((1, 2, 3)) < 0.01
    assert (mirrored ^ same).all()
    assert mirrored.float().mean() == pytest.approx(0.3, abs=0.04)


# ---- against torch


@pytest.mark.parametrize(("height", "width"), [(28, 28), (1, 1), (7, 12), (32, 5), (90, 100)])
@pytest.mark.parametrize("largest", [0, 2**20], ids=["axis by axis", "in one product"])
def test_the_sampling_grid_is_torchs_affine_grid_and_bicubic_interpolation(
    height: int, width: int, largest: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_KRONECKER", largest)
    matrices, coarse = torch.randn(6, 2, 3, generator=generator), torch.randn(6, 2, 7, 4, generator=generator)
    affine = F.affine_grid(matrices, [6, 1, height, width], align_corners=False).permute(0, 3, 1, 2)
    elastic = F.interpolate(coarse, (height, width), mode="bicubic")
    torch.testing.assert_close(sampling_grid(matrices, None, height, width), affine)
    torch.testing.assert_close(sampling_grid(matrices, coarse, height, width), affine + elastic, atol=2e-5, rtol=0)


def test_a_large_image_needs_no_larger_matrix_than_that(generator: torch.Generator) -> None:
    field = elastic_field(torch.zeros(1, 1, 1024, 1024), AugmentationConfig(elastic_pixels=1), generator)
    assert field.shape == (1, 2, 1024, 1024)


def test_nearest_interpolation_makes_no_new_values(generator: torch.Generator) -> None:
    images = torch.tensor([0.0, 100.0, 255.0])[torch.randint(0, 3, (32, 1, 28, 28), generator=generator)]
    found = {
        way: set(
            augment(images, AugmentationConfig(rotation_degrees=30, interpolation=way), seeded()).unique().tolist()
        )
        for way in Interpolation
    }
    assert found[Interpolation.nearest] == {0.0, 100.0, 255.0}
    assert len(found[Interpolation.bilinear]) > 1000


# ---- elastic displacement


def elastic_field(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Displacements (B, 2, H, W) alone, x before y, in coordinates of [-1, 1]."""
    coarse = draw_elastic(images, config, generator)
    return sampling_grid(torch.zeros(len(images), 2, 3), coarse, images.shape[-2], images.shape[-1])


def test_elastic_displacement_has_a_root_mean_square_up_to_the_bound() -> None:
    images = noise(1000, size=24)
    config = AugmentationConfig(elastic_pixels=1.5)
    pixels = elastic_field(images, config, seeded()) * 24 / 2
    assert pixels.shape == (1000, 2, 24, 24)
    reaches(pixels.square().mean((1, 2, 3)).sqrt(), 0, 1.5)
    assert pixels.mean() == pytest.approx(0, abs=0.05)
    assert torch.corrcoef(pixels.transpose(0, 1).flatten(1))[0, 1].abs() < 0.05, "both ways are drawn apart"


def test_elastic_displacement_is_smooth_and_smoother_with_a_larger_sigma() -> None:
    images = noise(300, size=32)
    roughness = []
    for sigma in (1.0, 4.0, 8.0, 16.0):
        config = AugmentationConfig(elastic_pixels=1, elastic_sigma_pixels=sigma)
        field = elastic_field(images, config, seeded())
        rms = field.square().mean((1, 2, 3)).sqrt()
        across = field.diff(dim=3).square().mean((1, 2, 3)).sqrt() / rms
        along = field.diff(dim=2).square().mean((1, 2, 3)).sqrt() / rms
        assert across.mean() == pytest.approx(along.mean().item(), rel=0.1)
        roughness.append(across.mean().item())
    independent, *smooth = roughness
    assert independent == pytest.approx(math.sqrt(2), rel=0.05)  # noise of a pixel's pitch isn't smoothed
    assert smooth == sorted(smooth, reverse=True)
    assert smooth[0] < 0.4
    assert 0.01 < smooth[-1] < 0.15, "parts of an image move apart"


# ---- erasing


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 1.0])
def test_what_is_erased_is_one_square_within_the_bound(fraction: float) -> None:
    config = AugmentationConfig(erase_probability=1, erase_fraction=fraction)
    mask = erasing_mask(noise(3000), config, seeded()).squeeze(1)
    heights, widths = mask.any(dim=2).sum(1), mask.any(dim=1).sum(1)
    areas = mask.sum((1, 2))
    assert torch.equal(heights, widths)
    assert torch.equal(areas, heights * widths)
    assert areas.max() <= fraction * 28 * 28
    assert areas.max() >= (math.isqrt(int(fraction * 28 * 28)) - 1) ** 2
    assert 0.38 < areas.float().mean() / (fraction * 28 * 28) < 0.5  # rounded down to whole pixels
    assert areas.min() < 0.2 * areas.max()


def test_every_pixel_can_be_erased_the_edges_alike() -> None:
    config = AugmentationConfig(erase_probability=1, erase_fraction=0.1)
    share = erasing_mask(noise(20_000), config, seeded()).float().mean(0).squeeze(0)
    assert share.min() > 0
    for flipped in (share.flip(0), share.flip(1), share.T):
        assert (share.sum(1) - flipped.sum(1)).abs().max() < 0.1 * share.sum(1).max()


def test_erasing_has_its_probability_and_leaves_background_and_the_others_untouched() -> None:
    images = noise(2000, channels=3) + 1
    config = AugmentationConfig(erase_probability=0.3, erase_fraction=0.3)
    result = augment(images, config, seeded())
    mask = erasing_mask(images, config, seeded())
    assert mask.flatten(1).any(dim=1).float().mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(result, images * ~mask)
