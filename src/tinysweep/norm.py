"""Batch norm that is fast for narrow layers on a CPU.

PyTorch's kernel for channels-last tensors works along the channels of a pixel, so it falls back to one value at
a time for those that don't fill a vector register: measured up to 4 times slower than the code below by
benchmarks/norm.py. Here a row is as many pixels as fill some registers, and every operation runs along rows.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

NARROW, EVEN = 32, (16, 24)  # PyTorch's own kernel is faster from so many channels on, and with those
ROW_LENGTH = 128  # values, at least, if the number of pixels divides so


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with the same parameters, buffers and results up to rounding (Ioffe & Szegedy, 2015,
    arXiv:1502.03167)."""

    def forward(self, x: Tensor) -> Tensor:
        narrow = x.shape[1] < NARROW and x.shape[1] not in EVEN
        suits = narrow and x.is_contiguous(memory_format=torch.channels_last)
        if not (self.training and suits and x.device.type == "cpu" and x.is_floating_point()):
            return super().forward(x)
        if x.numel() == x.shape[1]:
            raise ValueError(f"batch norm needs more than one value a channel to train, got {tuple(x.shape)}")
        y, mean, variance = cast(
            tuple[Tensor, Tensor, Tensor], _Normalise.apply(x, self.weight, self.bias, self.eps)
        )
        with torch.no_grad():
            self._track(mean, variance, x.numel() // x.shape[1])
        return y

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1


class _Normalise(torch.autograd.Function):
    """(x, weight, bias, eps) -> (y, mean, biased variance), with the statistics in float32 whatever x is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels, count = x.shape[1], x.numel() // x.shape[1]
        pixels = _pixels_in_a_row(channels, count)
        rows = x.permute(0, 2, 3, 1).reshape(-1, pixels * channels).float()
        mean = _channel_sums(rows, channels) / count
        square = _channel_sums(rows * rows, channels) / count
        variance = (square - mean * mean).clamp(min=0)
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        y = torch.addcmul((bias - mean * scale).repeat(pixels), rows, scale.repeat(pixels))
        ctx.save_for_backward(rows, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return _like(y, x), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, weight, mean, inverse = ctx.saved_tensors
        channels, of_y = len(weight), gradients[0]
        pixels, count = rows.shape[1] // channels, rows.numel() // channels
        upstream = of_y.permute(0, 2, 3, 1).reshape(rows.shape).float()
        of_bias = _channel_sums(upstream, channels)
        of_weight = (_channel_sums(upstream * rows, channels) - mean * of_bias) * inverse
        scale = weight * inverse
        slope = -scale * of_weight * inverse / count
        offset = -scale * of_bias / count - slope * mean
        of_x = torch.addcmul(offset.repeat(pixels), rows, slope.repeat(pixels))
        of_x.addcmul_(upstream, scale.repeat(pixels))
        return _like(of_x, of_y), of_weight, of_bias, None


def _pixels_in_a_row(channels: int, count: int) -> int:
    """The smallest power of two that makes rows long enough, as far as it divides the number of pixels."""
    pixels = 1
    while pixels * channels < ROW_LENGTH and count % (2 * pixels) == 0:
        pixels *= 2
    return pixels


def _channel_sums(rows: Tensor, channels: int) -> Tensor:
    """(N, pixels * channels) -> (channels,)."""
    return rows.sum(0).view(-1, channels).sum(0)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """Rows as a tensor of the shape and dtype of x, channels last, and no view, so that ReLU may be in place."""
    result = torch.empty_like(x, memory_format=torch.channels_last)
    result.permute(0, 2, 3, 1).view(rows.shape).copy_(rows)
    return result
