"""Forward and backward of batch norm in training on this CPU: tinysweep's for narrow layers against PyTorch's."""

import statistics
import time

import pandas as pd
import torch
from torch import nn

from tinysweep.network.norm import BatchNorm2d

SHAPES = [
    (128, 4, 26),
    (128, 8, 24),
    (64, 12, 12),
    (64, 12, 24),
    (256, 20, 10),
    (256, 28, 10),
]  # batch, channels, side
ROUNDS, STEPS = 9, 20


def milliseconds(norm: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> float:
    """Time of one step: forward, and backward to the input and the weights."""
    began = time.perf_counter()
    for _ in range(STEPS):
        norm(x).backward(upstream)
        x.grad = None
    return 1000 * (time.perf_counter() - began) / STEPS


def main() -> None:
    rows = []
    for batch, channels, side in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x, upstream = (
                torch.randn(batch, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
                for _ in range(2)
            )
            x.requires_grad_()
            norms = {"torch": nn.BatchNorm2d(channels), "tinysweep": BatchNorm2d(channels)}
            times: dict[str, list[float]] = {name: [] for name in norms}
            for _ in range(ROUNDS):  # in turn, so that a change in the machine's load meets both
                for name, norm in norms.items():
                    times[name].append(milliseconds(norm, x, upstream))
            medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
            rows.append({"shape": f"{batch}x{channels}x{side}x{side}", "dtype": str(dtype)[6:], **medians})
    table = pd.DataFrame(rows)
    table["times_faster"] = table["torch_ms"] / table["tinysweep_ms"]
    print(f"{torch.get_num_threads()} threads, medians of {ROUNDS}")
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
