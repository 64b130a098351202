"""How long an epoch of the baseline recipe takes: tinysweep's loop against the straightforward one."""

import argparse
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

import tinysweep
from tinysweep.data.catalogue import DataShape
from tinysweep.data.download import obtain
from tinysweep.data.load import Data, load
from tinysweep.files import write_whole
from tinysweep.network.build import build_model
from tinysweep.settings.schema import DEFAULT_ROOT, Config, Device, Precision
from tinysweep.training.device import hardware, usable_cores
from tinysweep.training.loop import fit

RESULT = Path(__file__).with_suffix(".csv")
WORKER_COUNTS = (0, 1, 2)
PROBE_STEPS = 100  # on which each worker count is tried
WARM_UP_STEPS = 20
QUICK_STEPS = 2  # in place of each of these and of a whole epoch
SHOWN = ["loop", "threads", "workers", "median_seconds", "images_per_second", "times_faster"]

Pictures = Dataset[tuple[torch.Tensor, int]]


@dataclass
class Loop:
    """One side of the comparison; `seconds` times that many steps, which are an epoch of as many batches."""

    name: str
    workers: int
    seconds: Callable[[int], float]
    rounds: list[float] = field(default_factory=list)


def recipe(root: Path) -> Config:
    """The baseline's settings for one epoch on the CPU."""
    config = tinysweep.compose("experiment=era_seed")
    trainer = replace(config.trainer, epochs=1, device=Device.cpu)
    return replace(config, data=replace(config.data, root=str(root)), trainer=trainer)


def straightforward_pictures(root: Path) -> Pictures:
    turned, shifted = transforms.RandomRotation(10), transforms.RandomAffine(0, translate=(0.1, 0.1))
    scaled = transforms.Normalize((0.1307,), (0.3081,))
    transform = transforms.Compose([turned, shifted, transforms.ToTensor(), scaled])
    pictures: Pictures = datasets.MNIST(root, train=True, transform=transform)
    return pictures


class Straightforward:
    """The loop that every tutorial has, over the first `images` pictures, the last incomplete batch left out."""

    def __init__(self, config: Config, shape: DataShape, pictures: Pictures, workers: int, images: int) -> None:
        self.threads = hardware(config.trainer)
        torch.manual_seed(config.trainer.seed)
        self.network = build_model(config.model, shape, config.dropout).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), config.optimizer.lr, config.optimizer.momentum)
        step = config.scheduler
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step.step_epochs, step.gamma)
        part, batch_size = Subset(pictures, range(images)), config.trainer.batch_size
        self.loader = DataLoader(part, batch_size, shuffle=True, num_workers=workers, drop_last=True)

    def epoch(self) -> float:
        """Train for an epoch; its seconds, the start of the workers included."""
        with self.threads.in_use():
            began = time.perf_counter()
            for pixels, labels in self.loader:
                self.optimizer.zero_grad()
                F.cross_entropy(self.network(pixels), labels).backward()
                self.optimizer.step()
            self.scheduler.step()
            return time.perf_counter() - began


def straightforward(config: Config, shape: DataShape, pictures: Pictures, workers: int, steps: int) -> float:
    """Seconds of an epoch of so many steps of the straightforward loop."""
    return Straightforward(config, shape, pictures, workers, steps * config.trainer.batch_size).epoch()


def fastest_workers(plain: Callable[[int, int], float], steps: int) -> int:
    """The number of workers with which the straightforward loop takes so many steps in the least time."""
    probes = {workers: plain(workers, steps) for workers in WORKER_COUNTS}
    for workers, seconds in probes.items():
        print(f"straightforward, {steps} steps, {workers} workers: {seconds:.1f} s", file=sys.stderr)
    return min(probes, key=lambda workers: probes[workers])


def tinysweep_loop(config: Config, data: Data, precision: Precision) -> Loop:
    """The loop whose seconds are those that tinysweep itself records for an epoch."""
    config = replace(config, trainer=replace(config.trainer, precision=precision))

    def seconds(steps: int) -> float:
        part = data.train.pick(torch.arange(steps * config.trainer.batch_size))
        return fit(config, replace(data, train=part)).history[0].seconds

    used = "bf16" if hardware(config.trainer).bf16 else "fp32"
    return Loop(f"tinysweep, {used}{' (auto)' if precision == Precision.auto else ''}", 0, seconds)


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """A row for each loop."""
    obtain("mnist", options.data)  # fetched into the folders where torchvision looks
    config = recipe(options.data)
    data, pictures = load(config.data), straightforward_pictures(options.data)
    batch_size = config.trainer.batch_size
    warm_up, probe, steps = WARM_UP_STEPS, PROBE_STEPS, len(data.train) // batch_size
    if options.quick:
        warm_up = probe = steps = QUICK_STEPS
    plain = partial(straightforward, config, data.shape, pictures)
    plain(0, warm_up)
    best = fastest_workers(plain, probe)
    loops = [Loop("straightforward, fp32", best, partial(plain, best))]
    loops += [tinysweep_loop(config, data, precision) for precision in (Precision.auto, Precision.fp32)]
    for loop in loops[1:]:
        loop.seconds(warm_up)
    for number in range(1, options.rounds + 1):
        for loop in loops:
            loop.rounds.append(loop.seconds(steps))
            print(f"round {number}/{options.rounds}: {loop.name}, {loop.rounds[-1]:.1f} s", file=sys.stderr)
    return tabulate(loops, steps * batch_size)


def tabulate(loops: list[Loop], images: int) -> pd.DataFrame:
    """What was run, how long it took, and where."""
    table = pd.DataFrame({"loop": [loop.name for loop in loops], "threads": usable_cores()})
    table["workers"] = [loop.workers for loop in loops]
    seconds = pd.Series([statistics.median(loop.rounds) for loop in loops])
    table["median_seconds"] = seconds.round(3)
    table["images_per_second"] = (images / seconds).round().astype(int)
    table["times_faster"] = (seconds[0] / seconds).round(2)
    table["images"] = images
    table["seconds_of_rounds"] = [" ".join(f"{one:.3f}" for one in loop.rounds) for loop in loops]
    table["cores"], table["cpu"], table["torch"] = usable_cores(), cpu_model(), torch.__version__
    return table


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    return named[1] if named else platform.processor() or platform.machine()


def read_options(parser: argparse.ArgumentParser, rounds: int = 5) -> argparse.Namespace:
    """The options that the comparisons of the loops have, beside those that the parser has already."""
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="epochs of each loop, taken in turn (default %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps an epoch: only a smoke test")
    parser.add_argument("--data", type=Path, default=Path(DEFAULT_ROOT), help="folder of MNIST", metavar="ROOT")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds={options.rounds} must be at least 1")
    options.data = options.data.expanduser()
    return options


def publish(table: pd.DataFrame, shown: list[str], result: Path, quick: bool) -> None:
    """Print a table, and write it unless its times mean nothing."""
    print(table[shown].to_string(index=False))
    if quick:
        print(f"a smoke test of {QUICK_STEPS} steps an epoch: these times mean nothing, and none is written")
    else:
        write_whole(result, table.to_csv(index=False))


def main() -> None:
    options = read_options(argparse.ArgumentParser(description=__doc__))
    publish(measure(options), SHOWN, RESULT, options.quick)


if __name__ == "__main__":
    main()
