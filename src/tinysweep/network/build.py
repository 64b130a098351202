"""Networks from a vocabulary that the families share, so that a sweep can move between them.

A network is a stem convolution, stages of blocks split by 2x2 max pooling, and a head. The family decides
what a block is; the channels follow from `width` and `growth`, the same way for every family.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError
from tinysweep.network.custom import build_custom
from tinysweep.network.deskew import Deskew
from tinysweep.network.norm import BatchNorm2d
from tinysweep.settings.schema import Activation, DropoutConfig, DropoutName, Family, GrowthBy, Head, ModelConfig

MOST_CHANNELS = 10**7  # out of reach of every budget, and small enough that the size of no tensor overflows


class Residual(nn.Module):
    """Identity plus a body that keeps the shape (He et al., 2015, arXiv:1512.03385)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]  # (B, C, H, W)


class SpatialPool(nn.Module):
    """Learned spatial pooling: each channel is a weighted sum over its pixels, starting as their mean."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, size, size), 1 / size**2))

    def forward(self, x: Tensor) -> Tensor:
        # Without the layout of x, the gradient's would be the other one, and every kernel before this slower.
        weight = self.weight[None].contiguous(memory_format=torch.channels_last)
        return (x * weight).sum((2, 3))  # (B, C, H, W) -> (B, C)


class Crop(nn.Module):
    """The middle of an image, so many pixels less on each side."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        inside = slice(self.pixels, -self.pixels)
        # A copy of its own: a convolution of a view onto the larger image is slower.
        return x[:, :, inside, inside].contiguous(memory_format=torch.channels_last)


class Views(nn.Sequential):
    """A network that predicts, in evaluation mode, from several views of an image: as it is, which counts twice,
    and shifted by a pixel, up, down, left, right and, with 9 views, diagonally. Edges are repeated, so that
    background goes on as background. The mean of the views' log-probabilities takes the place of logits (after
    the test-time augmentation of Jordan, 2024, arXiv:2404.00498). In training there is one view."""

    def __init__(self, network: nn.Sequential, views: int) -> None:
        super().__init__(*network)
        self.corners = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (0, 2), (2, 0), (2, 2)][:views]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self._logits(x)
        height, width = x.shape[2:]
        wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
        views = [wide[:, :, top : top + height, left : left + width] for top, left in self.corners]
        logits = self._logits(torch.cat(views).contiguous(memory_format=torch.channels_last))
        of_views: Tensor = logits.float().log_softmax(1).unflatten(0, (len(views), -1))  # (views, B, classes)
        return (of_views.sum(0) + of_views[0]) / (len(views) + 1)

    def _logits(self, x: Tensor) -> Tensor:
        return super().forward(x)  # type: ignore[no-untyped-call,no-any-return]


Block = Callable[[ModelConfig, int, int], nn.Module]


def activation(config: ModelConfig) -> nn.Module:
    """ReLU, or the smooth SiLU, x * sigmoid(x) (Elfwing et al., 2017, arXiv:1702.03118)."""
    return nn.SiLU(inplace=True) if config.activation == Activation.silu else nn.ReLU(inplace=True)


def convolution(
    config: ModelConfig, inputs: int, outputs: int, kernel: int, padded: bool, groups: int = 1
) -> list[nn.Module]:
    """Convolution, batch norm, activation: (B, inputs, H, W) -> (B, outputs, H', W')."""
    padding = kernel // 2 if padded else 0
    return [
        nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=config.bias, groups=groups),
        BatchNorm2d(outputs),
        activation(config),
    ]


def plain_block(config: ModelConfig, inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(*convolution(config, inputs, outputs, config.kernel, config.padding))


def residual_block(config: ModelConfig, inputs: int, outputs: int) -> nn.Module:
    """A plain block, with a shortcut wherever it keeps the number of channels."""
    body = plain_block(config, inputs, outputs)
    return Residual(body) if inputs == outputs else body


def separable_block(config: ModelConfig, inputs: int, outputs: int) -> nn.Module:
    """Depthwise then pointwise convolution (Howard et al., 2017, arXiv:1704.04861)."""
    return nn.Sequential(
        *convolution(config, inputs, inputs, config.kernel, config.padding, groups=inputs),
        *convolution(config, inputs, outputs, 1, False),
    )


BLOCKS: dict[Family, Block] = {
    Family.plain: plain_block,
    Family.residual: residual_block,
    Family.separable: separable_block,
}


def channel_plan(config: ModelConfig) -> list[list[int]]:
    """Channels of every block, stage by stage; `width` must be a number by now."""
    plan: list[list[int]] = []
    blocks = 0
    for stage, depth in enumerate(config.depth):
        exponents = [stage if config.growth_by == GrowthBy.stage else blocks + i for i in range(depth)]
        plan.append([_channels(config, exponent) for exponent in exponents])
        blocks += depth
    plan[0][0] = _round_channels(config, int(config.width) * config.stem_fraction)
    return plan


def _channels(config: ModelConfig, exponent: int) -> int:
    width = int(config.width)
    if math.log(width) + exponent * math.log(config.growth) > math.log(MOST_CHANNELS):
        raise ConfigError(
            f"model.growth={config.growth:g} to the power of {exponent} times model.width={width} makes more than "
            f"{MOST_CHANNELS:,} channels; use fewer stages or blocks, a smaller growth, or model.growth_by=stage"
        )
    return _round_channels(config, width * config.growth**exponent)


def _round_channels(config: ModelConfig, channels: float) -> int:
    multiple = config.channel_multiple
    return multiple * max(1, round(channels / multiple))


def _shrunk(size: int, kernel: int, padded: bool) -> int:
    return size if padded else size - kernel + 1


def _require_pixels(size: int, where: str, shape: DataShape) -> None:
    if size < 1:
        raise ConfigError(
            f"model.depth: a {shape.size}x{shape.size} image has no pixels left {where}; "
            "use fewer stages or blocks, smaller kernels, padding (model.stem_padding, model.padding), "
            "a smaller model.crop, or a head that doesn't pool (model.head=gap or spatial)"
        )


def build_model(config: ModelConfig, shape: DataShape, dropout: DropoutConfig | None = None) -> nn.Sequential:
    """The network of `config`, with the layers of `dropout`: normalised images (B, channels, size, size) -> logits
    (B, classes)."""
    if isinstance(config.width, str):
        raise ConfigError(f"model.width={config.width} must be resolved to a number first (see budget.resolve)")
    dropout = dropout or DropoutConfig()
    layers: list[nn.Module] = [Deskew()] if config.deskew else []
    if config.family == Family.custom:
        network = nn.Sequential(*layers, build_custom(config, shape))
    else:
        network = _build_of_blocks(config, shape, dropout, layers)
    return network if config.views == 1 else Views(network, config.views)


def layout(config: ModelConfig) -> torch.memory_format:
    """How weights and images lie in memory: channels last, which is faster, except for a network of one's own,
    which may use `view` where that needs the usual layout."""
    return torch.contiguous_format if config.family == Family.custom else torch.channels_last


def _build_of_blocks(
    config: ModelConfig, shape: DataShape, dropout: DropoutConfig, layers: list[nn.Module]
) -> nn.Sequential:
    """Stem, stages and head, after the layers that are there already."""
    block = nn.Module()  # the last one
    channels, size = shape.channels, shape.size - 2 * config.crop
    if config.crop:
        _require_pixels(size, "after model.crop", shape)
        layers.append(Crop(config.crop))
    for stage, widths in enumerate(channel_plan(config)):
        if stage > 0:
            if config.bottleneck:
                narrow = _round_channels(config, channels * config.bottleneck)
                block = nn.Sequential(*convolution(config, channels, narrow, 1, False))
                layers.append(block)
                channels = narrow
            _pool(config, block, layers)
            size //= 2
        for position, width in enumerate(widths):
            if stage == position == 0:
                size = _shrunk(size, config.stem_kernel, config.stem_padding)
                block = nn.Sequential(
                    *convolution(config, channels, width, config.stem_kernel, config.stem_padding)
                )
            else:
                size = _shrunk(size, config.kernel, config.padding)
                block = BLOCKS[config.family](config, channels, width)
            _require_pixels(size, f"in stage {stage + 1}", shape)
            layers.append(block)
            channels = width
            layers += _dropout(dropout, DropoutName.block)
        layers += _dropout(dropout, DropoutName.stage)
    if config.head == Head.linear:
        _pool(config, block, layers)
        size //= 2
        _require_pixels(size, "after the last pooling", shape)
    *head, classifier = _head(config, channels, size, shape)
    return nn.Sequential(*layers, *head, *_dropout(dropout, DropoutName.head), classifier)


def _pool(config: ModelConfig, block: nn.Module, layers: list[nn.Module]) -> None:
    """Halve what the last block gives: behind it, or within it, between its last convolution and that's norm."""
    if config.pool_before_norm and isinstance(block, nn.Sequential):
        block.insert(len(block) - 2, nn.MaxPool2d(2))
    else:
        layers.append(nn.MaxPool2d(2))


def _dropout(dropout: DropoutConfig, place: DropoutName) -> list[nn.Module]:
    return [nn.Dropout(dropout.rate)] if dropout.name == place else []


def _head(config: ModelConfig, channels: int, size: int, shape: DataShape) -> list[nn.Module]:
    layers: list[nn.Module]
    if config.head == Head.linear:
        layers, features = [nn.Flatten()], channels * size**2
    elif config.head == Head.gap:
        layers, features = [nn.AdaptiveAvgPool2d(1), nn.Flatten()], channels
    else:
        layers, features = [SpatialPool(channels, size)], channels
    if config.hidden:
        layers += [nn.Linear(features, config.hidden), activation(config)]
        features = config.hidden
    return [*layers, nn.Linear(features, shape.classes)]


def with_width(config: ModelConfig, width: int) -> ModelConfig:
    """The same model at another width."""
    return dataclasses.replace(config, width=width)
