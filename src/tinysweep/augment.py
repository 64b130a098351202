"""Batched augmentation: every image of a batch gets its own draws, on the device that the batch is on."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tinysweep.config import AugmentationConfig


def augment(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Randomly transformed copies of square `images`, (B, C, H, W) float with background 0, same shape and range.

    Rotation, scale, shear, shift, flip and elastic displacement are one resampling; what comes from
    outside the image is 0. Elastic displacement after Simard et al. (2003, "Best practices for convolutional
    neural networks"), random erasing after Zhong et al. (2017, arXiv:1708.04896). `generator` must live on the
    device of `images`.
    """
    if _moves(config):
        grid = affine_grid(draw_affine(images, config, generator), images.shape[-2], images.shape[-1])
        if config.elastic_pixels:
            grid += elastic_field(images, config, generator)
        places = grid.permute(0, 2, 3, 1)  # (B, H, W, 2), as a view
        images = F.grid_sample(images, places, mode=str(config.interpolation), align_corners=False)
    if config.erase_probability:
        images = images.masked_fill(erased(images, config, generator), 0.0)
    return images


def _moves(config: AugmentationConfig) -> bool:
    return any(
        (
            config.rotation_degrees,
            config.shift_fraction,
            config.scale_fraction,
            config.shear_degrees,
            config.elastic_pixels,
            config.flip_probability,
        )
    )


def draw_affine(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Matrices (B, 2, 3) from output to input coordinates, both of which run over [-1, 1].

    The content is flipped, turned, sheared and scaled about the centre, and shifted last, so that no shift
    grows with the scale.
    """
    draws = torch.rand(6, len(images), generator=generator, device=images.device)
    turn, shear, grow, shift_x, shift_y = 2 * draws[:5] - 1  # (B,) each, in [-1, 1)
    angle = torch.deg2rad(turn * config.rotation_degrees)
    slant = torch.tan(torch.deg2rad(shear * config.shear_degrees))
    size = 1 / (1 + grow * config.scale_fraction)
    mirror = 1 - 2 * (draws[5] < config.flip_probability).to(images.dtype)
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    a, b = mirror * cos, mirror * (slant * cos + sin)
    c, d = -sin, cos - slant * sin
    # A shift by a fraction of the image is twice that in coordinates that run from -1 to 1.
    right, down = 2 * config.shift_fraction * shift_x, 2 * config.shift_fraction * shift_y
    rows = (a, b, -a * right - b * down, c, d, -c * right - d * down)
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def affine_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel samples the input, (B, 2, H, W) with x before y, from matrices (B, 2, 3).

    The same as `torch.nn.functional.affine_grid(..., align_corners=False)` by broadcasting. With x and y in planes
    of their own a CPU adds whole rows at a time, which is several times faster. Coordinates run over [-1, 1] along
    both axes whatever the shape, so a matrix that turns or shears a square image distorts one that isn't square.
    """
    x = (torch.arange(width, device=matrices.device) * 2 + 1) / width - 1  # (W,)
    y = (torch.arange(height, device=matrices.device) * 2 + 1) / height - 1  # (H,)
    by_column = matrices[:, :, 0, None] * x  # (B, 2, W)
    by_row = matrices[:, :, 1, None] * y + matrices[:, :, 2, None]  # (B, 2, H)
    return by_column[:, :, None, :] + by_row[:, :, :, None]


def elastic_field(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Smooth random displacements (B, 2, H, W), x before y, in coordinates of [-1, 1]; the root mean square of an
    image's displacements along an axis is drawn up to `elastic_pixels`.

    Noise on a coarse grid whose pitch is the smoothness, brought to full size by bicubic interpolation, which
    two small matrix products do an order of magnitude faster than `torch.nn.functional.interpolate`.
    """
    height, width = images.shape[-2:]
    coarse = [max(2, math.ceil(side / config.elastic_sigma_pixels)) for side in (height, width)]
    noise = torch.randn(len(images), 2, *coarse, generator=generator, device=images.device)
    by_row, by_column = bicubic(coarse[0], height, images.device), bicubic(coarse[1], width, images.device)
    smooth = by_row @ noise @ by_column.T  # (B, 2, H, W)
    rms = smooth.square().mean((1, 2, 3), keepdim=True).sqrt()
    strength = config.elastic_pixels * torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    pixel = torch.tensor([2 / width, 2 / height], device=images.device).view(2, 1, 1)
    return smooth.mul_(strength / rms).mul_(pixel)


def bicubic(coarse: int, size: int, device: torch.device) -> Tensor:
    """The matrix (size, coarse) that interpolates one axis from `coarse` values to `size`."""
    impulses = torch.eye(coarse, device=device).view(1, coarse, 1, coarse)
    return F.interpolate(impulses, (1, size), mode="bicubic", align_corners=False).view(coarse, size).T


def erased(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """The mask (B, 1, H, W) of the pixels to erase: at most one square an image, anywhere in it."""
    height, width = images.shape[-2:]
    chance, area, top, left = torch.rand(4, len(images), 1, 1, 1, generator=generator, device=images.device)
    side = (area * config.erase_fraction * height * width).sqrt().floor().clamp(min=1)  # whole pixels
    row = torch.arange(height, device=images.device).view(1, 1, -1, 1) - (top * (height - side + 1)).floor()
    column = torch.arange(width, device=images.device).view(1, 1, 1, -1) - (left * (width - side + 1)).floor()
    side = side * (chance < config.erase_probability)
    return (row >= 0) & (row < side) & (column >= 0) & (column < side)  # type: ignore[no-any-return]
