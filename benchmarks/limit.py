"""How near training is to what this machine can do: the convolutions' arithmetic of a step against its time.

    python benchmarks/limit.py

The limit is the rate at which the library trains one large convolution, forward and backward, in the same
precision. The share is what a recipe's convolutions would take at that rate, of what a step takes in all, its
augmentation included. Networks of a few channels can't reach it: it is a ruler, not a target.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import tinysweep
from epoch_time import cpu_model
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import load
from tinysweep.files import write_whole
from tinysweep.settings.schema import Config, Device
from tinysweep.training.device import Hardware, hardware, usable_cores
from tinysweep.training.loop import fit

RESULT = Path(__file__).with_suffix(".csv")
RECIPES = ("era_seed", "best_20k", "fast")
STEPS = 150
LARGE = (64, 64, 64, 28)  # images, channels in and out, pixels a side


def convolution_flops(config: Config, shape: DataShape) -> float:
    """Floating-point operations of the convolutions in a step: forward, and backward for weights and inputs, the
    latter not for the first convolution."""
    layers = [layer for layer in tinysweep.measure(config.model, shape).layers if layer.kind.startswith("Conv")]
    passes = sum(3 * layer.macs for layer in layers) - layers[0].macs
    return 2.0 * passes * config.trainer.batch_size


def step_seconds(config: Config) -> float:
    """Mean seconds of a training step over a short epoch, as `fit` takes it."""
    count = STEPS * config.trainer.batch_size
    short = replace(config, data=replace(config.data, limit=count), trainer=replace(config.trainer, epochs=1))
    short = replace(short, trainer=replace(short.trainer, clean_epochs=0, device=Device.cpu))
    return fit(short, load(short.data)).history[0].seconds / STEPS


def limit_rate(machine: Hardware) -> float:
    """Floating-point operations a second in training one large convolution."""
    images, inputs, outputs, side = LARGE
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    dtype = torch.bfloat16 if machine.bf16 else torch.float32
    x, upstream = (
        torch.randn(images, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for channels in (inputs, outputs)
    )
    x.requires_grad_()
    times = []
    with machine.in_use():
        for _ in range(12):
            began = time.perf_counter()
            with machine.autocast():
                y = layer(x)
            y.backward(upstream)
            times.append(time.perf_counter() - began)
    return 2 * 3 * upstream.numel() * inputs * 9 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each is taken, in turn (default 5)")
    options = parser.parse_args()
    configs = {name: tinysweep.compose(f"experiment={name}", "trainer.device=cpu") for name in RECIPES}
    shapes = {name: tinysweep.describe(config.data) for name, config in configs.items()}
    configs = {name: tinysweep.resolve(config, shapes[name]) for name, config in configs.items()}
    machine = hardware(configs[RECIPES[0]].trainer)
    rates, seconds = [], {name: list[float]() for name in RECIPES}
    for number in range(options.rounds + 1):
        rates.append(limit_rate(machine))
        for name, config in configs.items():
            seconds[name].append(step_seconds(config))
        print(f"round {number} of {options.rounds}", flush=True)
    limit = statistics.median(rates[1:])  # the first of each finds cold caches
    rows = []
    for name, config in configs.items():
        flops, step = convolution_flops(config, shapes[name]), statistics.median(seconds[name][1:])
        rows.append({"recipe": name, "batch": config.trainer.batch_size, "mflop_a_step": flops / 1e6,
                     "ms_a_step": 1000 * step, "gflop_a_second": flops / step / 1e9,
                     "limit_gflop_a_second": limit / 1e9, "share": flops / step / limit})  # fmt: skip
    table = pd.DataFrame(rows).round(3)
    print(table.to_string(index=False))
    table["precision"] = "bf16" if machine.bf16 else "fp32"
    table["cores"], table["cpu"], table["torch"] = usable_cores(), cpu_model(), torch.__version__
    write_whole(RESULT, table.to_csv(index=False))


if __name__ == "__main__":
    main()
