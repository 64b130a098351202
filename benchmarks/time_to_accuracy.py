"""Time to 99.4% on the test set: `experiment=fast` against the baseline recipe's 20 epochs.

    python benchmarks/time_to_accuracy.py

In every round: one epoch of the straightforward loop and one of tinysweep's with the baseline recipe, both taken
times 20, and the whole of `experiment=fast` with a seed of its own, whose last epoch's model is tested once.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

import epoch_time as loops
import tinysweep
from tinysweep.data.download import obtain
from tinysweep.data.load import Data, load, load_test
from tinysweep.settings.schema import Config, Precision
from tinysweep.training.device import hardware, usable_cores
from tinysweep.training.loop import fit
from tinysweep.training.score import evaluate

RESULT = Path(__file__).with_suffix(".csv")
WANTED = 0.994
SHOWN = ["what", "epochs", "median_seconds", "times_faster", "test_accuracy", "sd", "reach_99.4"]


def fast(root: Path, quick: bool) -> tuple[Config, Data]:
    """The recipe and its data; only some images of it for a smoke test."""
    config = tinysweep.compose("experiment=fast", "trainer.device=cpu")
    limit = loops.QUICK_STEPS * config.trainer.batch_size if quick else None
    config = replace(config, data=replace(config.data, root=str(root), limit=limit))
    return config, load(config.data)


def trained(config: Config, data: Data, seed: int) -> tuple[float, float]:
    """Seconds of a whole training, and the test accuracy of what came out."""
    config = replace(config, trainer=replace(config.trainer, seed=seed))
    result = fit(config, data)
    return result.seconds, evaluate(result.model, load_test(config.data), hardware(config.trainer)).accuracy


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """A row for each recipe and loop."""
    obtain("mnist", options.data)
    baseline, (config, data) = loops.recipe(options.data), fast(options.data, options.quick)
    images = load(baseline.data)
    steps = loops.QUICK_STEPS if options.quick else len(images.train) // baseline.trainer.batch_size
    probe, warm_up = (
        (loops.QUICK_STEPS, loops.QUICK_STEPS) if options.quick else (loops.PROBE_STEPS, loops.WARM_UP_STEPS)
    )
    plain = partial(loops.straightforward, baseline, images.shape, loops.straightforward_pictures(options.data))
    plain(0, warm_up)
    workers, ours = loops.fastest_workers(plain, probe), loops.tinysweep_loop(baseline, images, Precision.auto)
    ours.seconds(warm_up)
    epochs = tinysweep.compose("experiment=era_seed").trainer.epochs
    seconds: dict[str, list[float]] = {f"baseline, straightforward loop, {workers} workers": [], "baseline": []}
    slow, own = seconds.values()
    runs: list[tuple[float, float]] = []
    for seed in range(options.rounds):
        slow.append(epochs * plain(workers, steps))
        own.append(epochs * ours.seconds(steps))
        runs.append(trained(config, data, seed))
        print(f"seed {seed}: {runs[-1][0]:.1f} s, {100 * runs[-1][1]:.2f}%; "
              f"baseline {slow[-1]:.0f} s straightforward, {own[-1]:.0f} s here", file=sys.stderr)  # fmt: skip
    seconds["fast"] = [took for took, _ in runs]
    return tabulate(seconds, epochs, config, [accuracy for _, accuracy in runs])


def tabulate(
    seconds: dict[str, list[float]], epochs: int, config: Config, accuracies: list[float]
) -> pd.DataFrame:
    """What was run, how long it took, what came of it, and where."""
    table = pd.DataFrame({"what": list(seconds)})
    table["epochs"] = [epochs, epochs, config.trainer.epochs]
    medians = pd.Series([statistics.median(taken) for taken in seconds.values()])
    table["median_seconds"], table["times_faster"] = medians.round(1), (medians[0] / medians).round(2)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    table["test_accuracy"] = ["", "", f"{100 * statistics.mean(accuracies):.2f}%"]
    table["sd"] = ["", "", f"{100 * spread:.2f}"]
    table["reach_99.4"] = ["", "", f"{sum(one >= WANTED for one in accuracies)} of {len(accuracies)}"]
    table["test_accuracies"] = ["", "", " ".join(f"{100 * one:.2f}" for one in accuracies)]
    table["seconds_of_rounds"] = [" ".join(f"{one:.1f}" for one in taken) for taken in seconds.values()]
    table["cores"], table["cpu"], table["torch"] = usable_cores(), loops.cpu_model(), torch.__version__
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = loops.read_options(parser, rounds=10)
    loops.publish(measure(options), SHOWN, RESULT, options.quick)


if __name__ == "__main__":
    main()
