"""How time and memory grow: of a run with its images, and of `tinysweep-compare` with the rows of its tables.

    python benchmarks/growth.py

A run is one epoch of `experiment=fast` on MNIST's training images, repeated as often as needed; compare ranks a
made table of completed trials. Each is a process of its own, so that its peak memory is its own (read where Linux
tells it). Growth is given as the exponent between a size and the one before it: 1 is linear. How a study grows
with its trials: overhead.py.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

import tinysweep
from epoch_time import cpu_model
from peak import peak_mib
from tinysweep.data.load import load
from tinysweep.files import write_whole
from tinysweep.training.device import usable_cores
from tinysweep.training.loop import fit

RESULT = Path(__file__).with_suffix(".csv")
IMAGES = (60_000, 240_000, 1_000_000)
ROWS = (1_000, 10_000, 100_000)
COMPARE = Path(__file__).with_name("peak.py")


def one_run(images: int) -> float:
    """Seconds of an epoch of so many images."""
    config = tinysweep.compose("experiment=fast", "trainer.epochs=1")
    data = load(config.data)
    train = data.train.pick(torch.arange(images) % len(data.train))
    return fit(config, replace(data, train=train)).history[0].seconds


def made_table(rows: int) -> pd.DataFrame:
    """So many completed trials."""
    real = pd.read_csv(Path(__file__).parents[1] / "results" / "budget20k" / "trials.csv")
    complete = real[real["state"] == "complete"]
    made = pd.concat([complete] * math.ceil(rows / len(complete)), ignore_index=True).head(rows)
    return made.assign(number=range(rows))


def measured_run(images: int) -> tuple[float, float]:
    """Seconds of the epoch and peak memory, MiB, in a process of its own."""
    command = [sys.executable, __file__, "--run", str(images)]
    seconds, memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(memory)


def measured_comparison(rows: int) -> tuple[float, float]:
    """Seconds of the whole command and its peak memory, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        made_table(rows).to_csv(Path(folder) / "trials.csv", index=False)
        command, began = [sys.executable, str(COMPARE), "trials.csv"], time.perf_counter()
        ended = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return time.perf_counter() - began, float(ended.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(one_run(options.run), peak_mib())
        return
    rows = []
    for what, measured, sizes in (("run", measured_run, IMAGES), ("compare", measured_comparison, ROWS)):
        before: tuple[int, float, float] | None = None
        for size in sizes:
            seconds, memory = measured(size)
            row = {"what": what, "size": size, "seconds": seconds, "peak_mib": memory}
            if before:
                step = math.log(size / before[0])
                row["exponent_of_time"] = math.log(seconds / before[1]) / step
                row["exponent_of_memory"] = math.log(memory / before[2]) / step
            before = size, seconds, memory
            rows.append(row)
            print(f"{what} of {size:,}: {seconds:.1f} s, {memory:,.0f} MiB", file=sys.stderr)
    table = pd.DataFrame(rows).round(2)
    print(table.to_string(index=False, na_rep=""))
    table["cores"], table["cpu"], table["torch"] = usable_cores(), cpu_model(), torch.__version__
    write_whole(RESULT, table.to_csv(index=False))


if __name__ == "__main__":
    main()
