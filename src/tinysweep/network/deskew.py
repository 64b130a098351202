"""Slanted writing set upright, by a horizontal shear of each image: a layer without weights before a network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_VARIANCE = 1e-3  # square pixels; ink that lies in one row has no slant, whatever rounding makes of it


class Deskew(nn.Module):
    """Images (B, C, H, W) sheared by their moments, about the centre of mass, until columns and rows of their ink
    don't correlate (LeCun et al., 1998, "Gradient-based learning applied to document recognition", section III.A).

    Ink is what is brighter than an image's darkest pixel, so it makes no difference whether pixels are normalised,
    and an image without ink stays as it is. Rows move by linear interpolation between two pixels; what comes from
    outside the image is as its darkest pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        background = x.amin((2, 3), keepdim=True)
        ink = x - background
        rows = torch.arange(height, dtype=x.dtype, device=x.device)
        columns = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
        # No matrix products, which autocast would round to bfloat16.
        of_row, leaning = ink.sum((1, 3)), (ink * columns).sum((1, 3))  # (B, H)
        total = of_row.sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        down = rows - (of_row * rows).sum(1, keepdim=True) / total
        variance = (of_row * down.square()).sum(1, keepdim=True) / total
        slant = (leaning * down).sum(1, keepdim=True) / total / variance.clamp(min=LEAST_VARIANCE)
        move = (slant * down)[:, None, :, None]  # pixels to the right of where a row's pixels are taken from
        whole = move.floor()
        places = torch.arange(1, width + 2, device=x.device) + whole.long()
        pixels = F.pad(ink, (1, 1))  # a dark one at each end of a row, for all that lies beyond
        pixels = pixels.gather(3, places.clamp(0, width + 1).expand(-1, x.shape[1], -1, -1))
        upright = torch.lerp(pixels[..., :-1], pixels[..., 1:], move - whole) + background
        return upright.contiguous(memory_format=torch.channels_last)
