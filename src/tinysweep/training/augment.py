"""Batched augmentation: every image of a batch gets its own draws, on the device that the batch is on."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tinysweep.settings.schema import AugmentationConfig

LARGEST_KRONECKER = 2**20  # values of a matrix from coarse to fine grids: 28x28 pixels need 63,504


def augment(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Randomly transformed copies of square `images`, (B, C, H, W) float with background 0, same shape and range.

    Rotation, scale, shear, shift, flip and elastic displacement are one resampling; what comes from
    outside the image is 0. Elastic displacement after Simard et al. (2003, "Best practices for convolutional
    neural networks"), random erasing after Zhong et al. (2017, arXiv:1708.04896). `generator` must live on the
    device of `images`.
    """
    if _moves(config):
        affine = draw_affine(images, config, generator)
        elastic = draw_elastic(images, config, generator) if config.elastic_pixels else None
        places = sampling_grid(affine, elastic, images.shape[-2], images.shape[-1]).permute(0, 2, 3, 1)
        images = F.grid_sample(images, places, mode=str(config.interpolation), align_corners=False)
    if config.erase_probability:
        images = images.masked_fill(erasing_mask(images, config, generator), 0.0)
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


def draw_elastic(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Noise (B, 2, rows, columns), x before y, on a coarse grid whose pitch is the smoothness.

    Brought to full size by bicubic interpolation, it is a smooth field of displacements in coordinates of [-1, 1].
    The root mean square of an image's displacements along an axis is drawn up to `elastic_pixels`.
    """
    height, width = images.shape[-2:]
    rows, columns = (max(2, math.ceil(side / config.elastic_sigma_pixels)) for side in (height, width))
    noise = torch.randn(len(images), 2, rows, columns, generator=generator, device=images.device)
    strength = config.elastic_pixels * torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    by_row, by_column = bicubic_matrix(rows, height, images.device), bicubic_matrix(columns, width, images.device)
    # The sum of squares over all pixels, without computing them: a quadratic form of the noise.
    squares = noise * (by_row.T @ by_row @ noise @ (by_column.T @ by_column))
    rms = (squares.sum((1, 2, 3), keepdim=True) / (2 * height * width)).sqrt()
    noise *= strength / rms
    noise[:, 0] *= 2 / width  # from pixels
    noise[:, 1] *= 2 / height
    return noise


def sampling_grid(affine: Tensor, elastic: Tensor | None, height: int, width: int) -> Tensor:
    """Where each output pixel samples the input: (B, 2, height, width), x before y, in coordinates of [-1, 1].

    `affine`, (B, 2, 3), says it as `torch.nn.functional.affine_grid(..., align_corners=False)` does; `elastic`,
    (B, 2, rows, columns), is added by bicubic interpolation. Both are sums of products of a function of the row
    and one of the column, so the whole grid is a matrix product. A matrix that turns or shears a square image
    distorts one that isn't square, as coordinates run over [-1, 1] along both axes whatever the shape.
    """
    rows, columns = elastic.shape[2:] if elastic is not None else (0, 0)
    weights = affine.new_zeros(len(affine), 2, 2 + rows, 2 + columns)
    weights[:, :, 0, 0] = affine[:, :, 2]
    weights[:, :, 0, 1] = affine[:, :, 0]  # of x, which runs along a row
    weights[:, :, 1, 0] = affine[:, :, 1]
    if elastic is not None:
        weights[:, :, 2:, 2:] = elastic
    by_row, by_column = axis_functions(height, rows, affine), axis_functions(width, columns, affine)
    if by_row.numel() * by_column.numel() > LARGEST_KRONECKER:
        return by_row @ (weights @ by_column.T)
    # On small images one large product is several times faster than many small ones.
    product = weights.flatten(2) @ torch.kron(by_row, by_column).T
    return product.view(len(affine), 2, height, width)


def axis_functions(size: int, coarse: int, like: Tensor) -> Tensor:
    """Functions of the position along an axis, a column each (size, 2 + coarse): 1, the coordinate in [-1, 1], and
    what each of `coarse` values contributes by bicubic interpolation."""
    places = (torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1
    affine = torch.stack((torch.ones_like(places), places), dim=1)
    return torch.cat((affine, bicubic_matrix(coarse, size, like.device)), dim=1) if coarse else affine


def bicubic_matrix(coarse: int, size: int, device: torch.device) -> Tensor:
    """The matrix (size, coarse) that interpolates one axis from `coarse` values to `size`."""
    impulses = torch.eye(coarse, device=device).view(1, coarse, 1, coarse)
    return F.interpolate(impulses, (1, size), mode="bicubic", align_corners=False).view(coarse, size).T


def erasing_mask(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """The mask (B, 1, H, W) of the pixels to erase: at most one square an image, anywhere in it."""
    height, width = images.shape[-2:]
    chance, area, top, left = torch.rand(4, len(images), 1, 1, 1, generator=generator, device=images.device)
    side = (area * config.erase_fraction * height * width).sqrt().floor().clamp(min=1)  # whole pixels
    row = torch.arange(height, device=images.device).view(1, 1, -1, 1) - (top * (height - side + 1)).floor()
    column = torch.arange(width, device=images.device).view(1, 1, 1, -1) - (left * (width - side + 1)).floor()
    side = side * (chance < config.erase_probability)
    return (row >= 0) & (row < side) & (column >= 0) & (column < side)  # type: ignore[no-any-return]
