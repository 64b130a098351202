"""Training on a CUDA GPU: whole recipes with steps as CUDA graphs and with kernels launched one by one.

    python benchmarks/gpu.py

For each recipe, on all training images: images a second (median of the epochs after the first), the share of
that time that the GPU needs to compute the steps, and with graphs the seconds of the whole training and the test
accuracy of its last epoch's model.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tinysweep
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import load, load_test
from tinysweep.files import write_whole
from tinysweep.network.build import build_model
from tinysweep.settings.schema import DEFAULT_ROOT, Config
from tinysweep.training.device import hardware
from tinysweep.training.loop import fit
from tinysweep.training.optimizer import Optimizer
from tinysweep.training.score import evaluate
from tinysweep.training.step import EAGER_STEPS, RecordedStep, Step

RESULT = Path(__file__).with_suffix(".csv")
RECIPES = ("default", "era_seed", "best_20k", "fast")
TIMED_EPOCHS = 4  # the first of which isn't counted
REPLAYED = 500  # steps


def epoch_seconds(config: Config, epochs: int) -> float:
    """Median seconds of an epoch on all training images, the first epoch left out."""
    short = replace(config, trainer=replace(config.trainer, epochs=epochs, clean_epochs=0))
    return statistics.median(epoch.seconds for epoch in fit(short, load(short.data)).history[1:])


def computing_seconds(config: Config, shape: DataShape) -> float:
    """Seconds that the GPU computes in a step: those of graphs launched one after the other."""
    machine, batch = hardware(config.trainer), config.trainer.batch_size
    model = build_model(config.model, shape, config.dropout).to(machine.device)
    model = model.to(memory_format=torch.channels_last)
    step = RecordedStep(Step(model.train(), Optimizer(config.optimizer, model), None, machine, 0.0))
    pixels = torch.randn(batch, shape.channels, shape.size, shape.size, device=machine.device)
    labels = torch.randint(shape.classes, (batch,), device=machine.device)
    for _ in range(EAGER_STEPS + 1):
        step(pixels.contiguous(memory_format=torch.channels_last), labels, 0.0)
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(REPLAYED):
        step.replay()
    ended.record()
    torch.cuda.synchronize()
    return 1e-3 * float(began.elapsed_time(ended)) / REPLAYED


def whole_run(config: Config) -> dict[str, Any]:
    """The recipe as it stands: seconds of its training, the test accuracy of its last epoch's model."""
    data = load(config.data)
    began = time.perf_counter()
    result = fit(config, data)
    seconds = time.perf_counter() - began
    score = evaluate(result.model, load_test(config.data), hardware(config.trainer))
    return {"epochs": config.trainer.epochs, "run_seconds": seconds, "test_accuracy": score.accuracy}


def measure(name: str, root: str) -> Iterator[dict[str, Any]]:
    words = [] if name == "default" else [f"experiment={name}"]
    config = tinysweep.compose(*words, "trainer.device=cuda", f"data.root={root}", "data.validation=0")
    shape = tinysweep.describe(config.data)
    config = tinysweep.resolve(config, shape)
    images, computing = len(load(config.data).train), computing_seconds(config, shape)
    for together in (False, True):
        config = replace(config, trainer=replace(config.trainer, cuda_graphs=together))
        epoch = epoch_seconds(config, TIMED_EPOCHS)
        step = epoch * config.trainer.batch_size / images
        yield {
            "recipe": name,
            "launched": "together" if together else "one by one",
            "batch": config.trainer.batch_size,
            "images_a_second": round(images / epoch),
            "ms_a_step": 1000 * step,
            "computing": computing / step,
            **(whole_run(config) if together else {}),
        }
        print(f"{name}, {'together' if together else 'one by one'}: {epoch:.3f} s an epoch", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="default, or names of conf/experiment")
    parser.add_argument("--data", default=DEFAULT_ROOT, help="folder of MNIST", metavar="ROOT")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    table = pd.DataFrame([row for name in options.recipes for row in measure(name, options.data)])
    table = table.round({"ms_a_step": 3, "computing": 3, "run_seconds": 2})
    print(table.to_string(index=False, na_rep=""))
    table["device"], table["torch"] = torch.cuda.get_device_name(), torch.__version__
    write_whole(RESULT, table.to_csv(index=False))


if __name__ == "__main__":
    main()
