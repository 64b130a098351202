"""Batch norm that is fast for narrow layers on a CPU.

PyTorch's kernel for channels-last tensors works along the channels of a pixel, and takes one value at a time of
those that don't fill a vector register: several times slower where channels are few. Here several pixels make a
row, whose values are as many channels to that kernel; the statistics of a channel are put together from those of
its places in the row.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

# PyTorch's own way is the faster one with so many channels, and from 16 on with multiples of 8.
WIDE, FEW, EVEN = 64, 16, 8
MANY = 2**14  # pixels of all images; with fewer, the small operations here cost more than they save
ROW_LENGTH = 128  # values, at least, if the number of pixels divides so


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with the same parameters, buffers and results up to rounding (Ioffe & Szegedy, 2015,
    arXiv:1502.03167)."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and _suits(x)):
            return super().forward(x)
        y, mean, variance = cast(
            tuple[Tensor, Tensor, Tensor], _BatchNormalise.apply(x, self.weight, self.bias, self.eps)
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


def _suits(x: Tensor) -> bool:
    """Whether this module's way is the faster one."""
    channels = x.shape[1]
    narrow = channels < FEW or (channels < WIDE and channels % EVEN > 0)
    many = x.numel() // channels >= MANY
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return narrow and many and plain and x.is_contiguous(memory_format=torch.channels_last)


class _BatchNormalise(torch.autograd.Function):
    """(x, weight, bias, eps) -> (y, mean, biased variance), with the statistics in float32 whatever x is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels, pixels = x.shape[1], _pixels_in_a_row(x.shape[1], x.numel() // x.shape[1])
        rows = x.permute(0, 2, 3, 1).view(-1, pixels * channels)
        # Statistics have the dtype of the running ones that are passed, which otherwise are of no use here.
        typed = torch.zeros(rows.shape[1])
        partial, around = torch.batch_norm_update_stats(rows, typed, typed.clone(), 0.0)
        mean = partial.view(pixels, channels).mean(0)
        between = (partial.view(pixels, channels) - mean).square_()
        variance = between.add_(around.view(pixels, channels)).mean(0)
        weights, biases, means, variances = torch.stack((weight, bias, mean, variance)).repeat(1, pixels)
        y = torch.empty_like(x)  # no view, so that what follows may be in place
        _affine(rows, weights, biases, means, variances, eps, y.permute(0, 2, 3, 1).view(rows.shape))
        ctx.eps = eps
        ctx.save_for_backward(rows, weight, mean, variance, weights, means, variances)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, weight, mean, variance, weights, means, variances = ctx.saved_tensors
        channels, of_y = len(weight), gradients[0]
        pixels, count = rows.shape[1] // channels, rows.numel() // channels
        upstream = of_y.permute(0, 2, 3, 1).reshape(rows.shape)
        # As if mean and variance were constants: PyTorch's derivative in evaluation.
        of_x, *sums = torch.ops.aten.native_batch_norm_backward(
            upstream, rows, weights, means, variances, None, None, False, ctx.eps, [True, True, True]
        )
        of_weight, of_bias = (part.view(pixels, channels).sum(0) for part in sums)
        # And what comes by way of them: a linear function of x.
        inverse = (variance + ctx.eps).rsqrt()
        offset = of_bias * weight * inverse / -count
        slope = of_weight * weight * inverse.square() / -count
        slopes, offsets, ones = torch.stack((slope, offset, torch.ones_like(mean))).repeat(1, pixels)
        of_x += _affine(rows, slopes, offsets, means, ones, 0.0, torch.empty_like(rows))
        return _as_images(of_x, of_y), of_weight, of_bias, None


def _affine(
    rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, out: Tensor
) -> Tensor:
    """(rows - mean) / sqrt(variance + eps) * weight + bias in one pass, into `out`, of the dtype of the rows."""
    unused = weight.new_empty(0), weight.new_empty(0)
    torch.native_batch_norm(rows, weight, bias, mean, variance, False, 0.0, eps, out=(out, *unused))
    return out


def _pixels_in_a_row(channels: int, count: int) -> int:
    """The smallest power of two that makes rows long enough, as far as it divides the number of pixels."""
    pixels = 1
    while pixels * channels < ROW_LENGTH and count % (2 * pixels) == 0:
        pixels *= 2
    return pixels


def _as_images(rows: Tensor, like: Tensor) -> Tensor:
    """Rows of pixels as images of the shape (B, C, H, W) of another tensor, channels last."""
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
