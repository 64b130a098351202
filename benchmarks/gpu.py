"""Training on a CUDA GPU: whole recipes with steps as CUDA graphs and with kernels launched one by one.

    python benchmarks/gpu.py

For each recipe: images a second (median of the epochs after the first), how much of that time the GPU computes,
and the seconds of the whole training with the test accuracy of its last epoch's model. Needs MNIST and a GPU.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tinysweep
from tinysweep.config import DEFAULT_ROOT, Config
from tinysweep.data import load, load_test
from tinysweep.device import hardware
from tinysweep.files import write_whole
from tinysweep.training import Epoch, evaluate, fit

RESULT = Path(__file__).with_suffix(".csv")
RECIPES = ("default", "era_seed", "best_20k", "fast")
TIMED_EPOCHS = 6  # the first of which isn't counted


def epoch_seconds(config: Config, epochs: int) -> float:
    """Median seconds of an epoch on all training images, the first epoch left out."""
    short = replace(config, trainer=replace(config.trainer, epochs=epochs, clean_epochs=0))
    return statistics.median(epoch.seconds for epoch in fit(short, load(short.data)).history[1:])


def computing_seconds(config: Config) -> float:
    """Seconds in which the GPU computes during an epoch: the sum of its kernels."""
    short = replace(config, trainer=replace(config.trainer, epochs=2, clean_epochs=0))
    data, activities = load(short.data), [torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities)

    def second_epoch_only(epoch: Epoch) -> None:
        torch.cuda.synchronize()
        profiler.start() if epoch.epoch == 1 else profiler.stop()

    fit(short, data, second_epoch_only)
    return 1e-6 * sum(float(event.self_device_time_total) for event in profiler.key_averages())


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
    config = tinysweep.resolve(config, tinysweep.describe(config.data))
    images = len(load(config.data).train)
    for together in (False, True):
        config = replace(config, trainer=replace(config.trainer, cuda_graphs=together))
        epoch = epoch_seconds(config, TIMED_EPOCHS)
        yield {
            "recipe": name,
            "launched": "together" if together else "one by one",
            "batch": config.trainer.batch_size,
            "images_a_second": round(images / epoch),
            "ms_a_step": 1000 * epoch * config.trainer.batch_size / images,
            "computing": computing_seconds(config) / epoch,
            **whole_run(config),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="default, or names of conf/experiment")
    parser.add_argument("--data", default=DEFAULT_ROOT, help="folder of MNIST", metavar="ROOT")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    table = pd.DataFrame([row for name in options.recipes for row in measure(name, options.data)])
    table = table.round({"ms_a_step": 3, "computing": 3, "run_seconds": 2})
    print(table.to_string(index=False))
    table["device"], table["torch"] = torch.cuda.get_device_name(), torch.__version__
    write_whole(RESULT, table.to_csv(index=False))


if __name__ == "__main__":
    main()
