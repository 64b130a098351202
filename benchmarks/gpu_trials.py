"""How one GPU trains the trials of a study fastest: one after the other, in several processes side by side, with
or without NVIDIA's multi-process service (MPS), or in several threads of a process, each with a CUDA stream.

    python benchmarks/gpu_trials.py --out outputs/gpu_trials

All ways ("arms") train the same: small networks as a search under 20,000 and under 1,000 parameters draws them,
two seeds of each, as long as a trial's first rung. Workers are started and warm before the clock runs, as they
stay warm in a study; recording CUDA graphs, which every trial does, counts. In one arm a process is killed while
it trains, to see whether the others go on unharmed.

After every arm FOLDER/arms.csv gets a row, and FOLDER/epochs.csv what each training found. The arms most worth
knowing come first, and none is begun that may not end in time. With --device cpu --tiny it takes half a minute and
shows that all but MPS and streams runs.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import pandas as pd
import torch

from tinysweep.data.catalogue import DATA_SETS
from tinysweep.data.load import Data, load
from tinysweep.errors import first_line
from tinysweep.files import write_whole
from tinysweep.network.budget import resolve
from tinysweep.settings.schema import (
    DEFAULT_ROOT,
    Activation,
    AugmentationConfig,
    BudgetConfig,
    Config,
    DataConfig,
    Device,
    Family,
    Head,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    SchedulerName,
    TrainerConfig,
)
from tinysweep.training.device import usable_cores
from tinysweep.training.loop import fit

EPOCHS, BATCH, HELD_OUT, IMAGES = 3, 128, 10_000, 60_000  # as the first rung of sweeps/budget20k.yaml
WARM_UP_STEPS = 8  # enough to record a graph
PATIENCE = 90.0  # seconds without an answer after which an arm has failed
MIB = 2**20
FIGURES = ("train_loss", "validation_loss", "validation_accuracy", "train_accuracy")
WARMING_UP = threading.Lock()


class Network(NamedTuple):
    """What a search draws of one; the widest within `params` that fits."""

    params: int
    family: Family
    depth: list[int]
    growth: float
    stem_kernel: int
    stem_fraction: float
    bottleneck: float
    head: Head


NETWORKS = (  # drawn at random from the spaces of sweeps/budget20k.yaml and sweeps/budget1k.yaml
    Network(20_000, Family.residual, [2, 2, 2], 1.39, 5, 0.5, 0.0, Head.gap),
    Network(20_000, Family.residual, [3, 4], 1.21, 5, 0.5, 0.5, Head.spatial),
    Network(20_000, Family.plain, [3, 3], 1.26, 5, 1.0, 0.5, Head.spatial),
    Network(1_000, Family.residual, [1, 2, 2], 1.39, 5, 0.5, 0.0, Head.gap),
    Network(20_000, Family.plain, [3, 4], 1.18, 3, 0.5, 0.0, Head.spatial),
    Network(20_000, Family.residual, [3, 4], 1.41, 5, 1.0, 0.5, Head.spatial),
    Network(1_000, Family.plain, [2, 2], 1.54, 3, 1.0, 0.5, Head.gap),
    Network(20_000, Family.plain, [1, 3, 2], 1.50, 5, 0.5, 0.0, Head.gap),
    Network(1_000, Family.plain, [3, 3], 1.42, 5, 1.0, 0.5, Head.spatial),
    Network(20_000, Family.plain, [2, 2, 2], 0.612, 5, 1.0, 0.5, Head.spatial),
    Network(20_000, Family.plain, [2, 4], 0.786, 3, 0.5, 0.0, Head.gap),
    Network(1_000, Family.plain, [2, 4], 0.889, 5, 1.0, 0.5, Head.spatial),
)


@dataclass(frozen=True)
class Arm:
    """One way to train them: processes, and threads in each; of all trainings, or of one in so many."""

    processes: int = 1
    threads: int = 1
    mps: bool = False
    one_in: int = 1
    kill: bool = False  # one of the processes, while it trains

    def __str__(self) -> str:
        counts = {"processes": self.processes, "threads": self.threads}
        kinds = [f"{count} {kind}" for kind, count in counts.items() if count > 1] or ["one after the other"]
        extras = {"MPS": self.mps, "one killed": self.kill, f"one training in {self.one_in}": self.one_in > 1}
        return ", ".join([" of ".join(kinds), *(extra for extra, holds in extras.items() if holds)])

    @property
    def at_once(self) -> int:
        return self.processes * self.threads


ALONE = Arm()
ARMS = (  # the most worth knowing first
    ALONE,
    Arm(12, mps=True),
    Arm(threads=12),
    Arm(one_in=4),  # how far the GPU repeats itself, with nothing beside it
    Arm(8, mps=True),
    Arm(threads=8),
    Arm(12),
    Arm(4, threads=4, mps=True),
    Arm(4, mps=True),
    Arm(threads=4),
    Arm(16, mps=True),
    Arm(8),
    Arm(2, mps=True),
    Arm(4, mps=True, kill=True),  # after the others with MPS, as it may harm the service
    Arm(threads=2),
    Arm(4),
    Arm(2),
)
TINY_ARMS = (ALONE, Arm(2, mps=True), Arm(threads=2), Arm(2, kill=True))


class ArmError(Exception):
    """Why an arm has no figures."""


# ---- what is trained


def trainings(root: str, device: Device, count: int, tiny: bool) -> list[Config]:
    """So many configurations: all networks with a first seed, then with the next."""
    data = DataConfig(root=root, validation=HELD_OUT)
    if tiny:
        data = replace(data, validation=200, limit=4 * BATCH)
    epochs, shape, known = 1 if tiny else EPOCHS, DATA_SETS[data.name].shape, list[Config]()
    for network in NETWORKS:
        model = ModelConfig(
            family=network.family, width="auto", depth=network.depth, growth=network.growth,
            stem_kernel=network.stem_kernel, stem_fraction=network.stem_fraction, bottleneck=network.bottleneck,
            head=network.head, activation=Activation.silu, channel_multiple=4 if network.params > 5000 else 1,
            deskew=network.params <= 5000,
        )  # fmt: skip
        config = Config(
            data=data,
            model=model,
            augmentation=AugmentationConfig(
                rotation_degrees=8, shift_fraction=0.05, scale_fraction=0.1, shear_degrees=4, elastic_pixels=0.5
            ),
            optimizer=OptimizerConfig(lr=0.1, nesterov=True),
            scheduler=SchedulerConfig(SchedulerName.onecycle, warmup_fraction=0.25),
            trainer=TrainerConfig(epochs=epochs, batch_size=BATCH, clean_epochs=1, threads=1, device=device),
            budget=BudgetConfig(network.params),
        )
        known.append(resolve(config, shape))
    return [
        replace(network, trainer=replace(network.trainer, seed=seed))
        for seed in range(1 + count // len(known))
        for network in known
    ][:count]


# ---- in a worker


class Answer(NamedTuple):
    """What a thread of a worker says: it is ready, has begun a training, has trained, or has ended."""

    kind: str
    process: int
    number: int = -1
    epochs: list[dict[str, Any]] = []  # noqa: RUF012 nobody changes it
    seconds: float = 0.0
    error: str = ""
    gpu_bytes: int = 0  # in use by all, as the training ends
    torch_bytes: int = 0  # the most that this process's tensors took
    host_bytes: int = 0


def serve(todo: Any, answers: Any, configs: list[Config], threads: int) -> None:
    """Train what comes, on so many threads."""
    data = load(configs[0].data)
    warm_up(configs[: len(NETWORKS) : 3], data)
    if threads == 1:
        train_in_turn(todo, answers, configs, data)
        return
    with ThreadPoolExecutor(threads) as pool:
        for ended in [pool.submit(in_own_stream, todo, answers, configs, data) for _ in range(threads)]:
            ended.result()


def warm_up(configs: list[Config], data: Data) -> None:
    """A few steps of each, by which libraries are loaded and set up."""
    short = replace(data, train=data.train.pick(torch.arange(min(len(data.train), WARM_UP_STEPS * BATCH))))
    for config in configs:
        train(0, replace(config, trainer=replace(config.trainer, epochs=1)), short)


def in_own_stream(todo: Any, answers: Any, configs: list[Config], data: Data) -> None:
    on_gpu = configs[0].trainer.device == Device.cuda
    with torch.cuda.stream(torch.cuda.Stream()) if on_gpu else contextlib.nullcontext():
        with WARMING_UP:  # libraries are set up anew for each thread, and while none records a graph
            warm_up(configs[:1], data)
        train_in_turn(todo, answers, configs, data)


def train_in_turn(todo: Any, answers: Any, configs: list[Config], data: Data) -> None:
    """Train one after the other until there is None; an error ends a training, not the others."""
    answers.put(Answer("ready", os.getpid()))
    while (number := todo.get()) is not None:
        answers.put(Answer("begun", os.getpid(), number))
        answers.put(train(number, configs[number], data))
    answers.put(Answer("ended", os.getpid()))


def train(number: int, config: Config, data: Data) -> Answer:
    began = time.perf_counter()
    try:
        epochs, error = [asdict(epoch) for epoch in fit(config, data, progress=False).history], ""
    except Exception as failure:
        epochs, error = [], f"{type(failure).__name__}: {first_line(failure)}"
    seconds, used, reserved = time.perf_counter() - began, 0, 0
    if config.trainer.device == Device.cuda:
        free, total = torch.cuda.mem_get_info()
        used, reserved = total - free, torch.cuda.max_memory_reserved()
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Answer("trained", os.getpid(), number, epochs, seconds, error, used, reserved, host)


# ---- an arm


@dataclass
class Taken:
    """An arm as it went."""

    arm: Arm
    start_seconds: float = 0.0
    seconds: float = 0.0
    found: list[Answer] = field(default_factory=list)
    note: str = ""

    @property
    def whole(self) -> list[Answer]:
        return [answer for answer in self.found if not answer.error]


class Workers:
    """The processes of an arm; they are gone when the context ends."""

    def __init__(self, arm: Arm, configs: list[Config], until: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.arm, self.until = arm, until
        self.todo, self.answers = context.Queue(), context.Queue()
        arguments = (self.todo, self.answers, configs, arm.threads)
        self.pool = [context.Process(target=serve, args=arguments, daemon=True) for _ in range(arm.processes)]

    def __enter__(self) -> "Workers":
        for process in self.pool:
            process.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for process in self.pool:
            process.join(0 if error else 10)  # one that shares the service had better end by itself
            process.kill()
            process.join()

    def kill_last(self) -> None:
        process = self.pool.pop()
        process.kill()
        process.join()

    def answer(self) -> Answer:
        """The next answer of any thread.

        Raises:
            ArmError: a process has died, or nothing came in time.
        """
        latest = min(time.monotonic() + PATIENCE, self.until)
        while time.monotonic() < latest:
            with contextlib.suppress(Empty):
                answer: Answer = self.answers.get(timeout=0.5)
                return answer
            if dead := [process.exitcode for process in self.pool if process.exitcode]:
                raise ArmError(f"a process ended with status {dead[0]}")
        raise ArmError("no answer in time")

    def await_each(self, kind: str) -> Iterator[Answer]:
        """Answers until one of this kind has come from each thread of each process that lives."""
        came = 0
        while came < len(self.pool) * self.arm.threads:
            answer = self.answer()
            came += answer.kind == kind
            yield answer


def take(arm: Arm, configs: list[Config], until: float, kill_after: float) -> Taken:
    """Train the configurations in this way; what went wrong is its note."""
    taken, began = Taken(arm), time.perf_counter()
    try:
        if arm.mps and configs[0].trainer.device != Device.cuda:
            raise ArmError("left out: MPS is CUDA's")
        with sharing(arm) as service, Workers(arm, configs, until) as workers:
            for _ in workers.await_each("ready"):
                pass
            if service and not service.answer("get_server_list"):
                raise ArmError("the processes didn't find the multi-process service")
            taken.start_seconds = time.perf_counter() - began
            train_all(taken, workers, range(0, len(configs), arm.one_in), kill_after)
    except ArmError as error:
        taken.note = str(error)
    if failed := [answer for answer in taken.found if answer.error]:
        taken.note = f"{len(failed)} trainings failed, the first: {failed[0].error}"
    return taken


def train_all(taken: Taken, workers: Workers, numbers: range, kill_after: float) -> None:
    began = time.perf_counter()
    for number in [*numbers, *[None] * taken.arm.at_once]:
        workers.todo.put(number)
    victim = workers.pool[-1].pid if taken.arm.kill else None
    for answer in workers.await_each("ended"):
        if answer.kind == "trained":
            taken.found.append(answer)
            taken.seconds = time.perf_counter() - began
        elif answer.process == victim:  # it has begun, so it holds no lock of the queue
            time.sleep(kill_after)
            workers.kill_last()
            victim = None
    if taken.arm.kill:
        taken.note = f"one process was killed; {len(taken.found)} of {len(numbers)} trainings came to their end"


# ---- how processes share a GPU


class Service:
    """NVIDIA's multi-process service, with its sockets in a folder."""

    PROGRAM = "nvidia-cuda-mps-control"

    def start(self) -> None:
        self._call(["-d"], "")

    def answer(self, words: str) -> str:
        return self._call([], f"{words}\n")

    def stop(self) -> None:
        try:
            self.answer("quit")
        except ArmError as error:
            print(f"not stopped: {error}", file=sys.stderr)

    def _call(self, options: list[str], words: str) -> str:
        with tempfile.TemporaryFile("w+") as printed:  # the service would keep a pipe open
            try:
                subprocess.run(
                    [self.PROGRAM, *options], input=words, text=True, stdout=printed, stderr=printed, timeout=30,
                    check=True,
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError) as error:
                raise ArmError(f"no multi-process service: {first_line(error)}") from error
            printed.seek(0)
            return printed.read().strip()


@contextlib.contextmanager
def sharing(arm: Arm) -> Iterator[Service | None]:
    """How the processes started meanwhile share the GPU: by a service of their own, or by none, even if one runs
    on this machine."""
    service = Service() if arm.mps else None
    with (
        tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as after,
    ):
        wanted = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        if arm.threads > 1:
            wanted["CUDA_DEVICE_MAX_CONNECTIONS"] = "32"  # else 8 queues, which streams beyond that many share
        for name, value in wanted.items():
            after.callback(set_variable, name, os.environ.get(name))
            set_variable(name, value)
        if service:
            service.start()
            after.callback(service.stop)
        yield service


def set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


# ---- the tables


def histories(taken: Taken) -> dict[int, list[tuple[float, ...]]]:
    """What each training found, but for its time."""
    return {one.number: [tuple(epoch[name] for name in FIGURES) for epoch in one.epochs] for one in taken.whole}


def compare(taken: Taken, alone: Taken) -> dict[str, Any]:
    """How many trainings found the same as alone, bit for bit, and how far the last epoch's validation losses
    lie apart, relative to them."""
    expected, got = histories(alone), histories(taken)
    both = sorted(expected.keys() & got.keys())
    apart = [abs(got[one][-1][1] / expected[one][-1][1] - 1) for one in both]
    return {
        "same_bits": sum(got[one] == expected[one] for one in both),
        "median_difference": statistics.median(apart) if apart else None,
        "largest_difference": max(apart, default=None),
    }


def row(taken: Taken, alone: Taken, images: int) -> dict[str, Any]:
    """The row of an arm; `images` are those that a training trains on."""
    arm, whole = taken.arm, taken.whole
    known: dict[str, Any] = {"arm": str(arm), "at_once": arm.at_once, "trainings": len(whole)}
    if whole:
        rate, own = (len(each.whole) / each.seconds for each in (taken, alone))
        hosts = {answer.process: answer.host_bytes for answer in whole}  # the last is the most
        gpu = max(answer.gpu_bytes for answer in whole) / MIB
        known |= {
            "start_seconds": taken.start_seconds,
            "seconds": taken.seconds,
            "images_a_second": round(rate * images),
            "times": rate / own,
            "trials_an_hour": round(3600 * rate),
            "busy": sum(answer.seconds for answer in whole) / taken.seconds / arm.at_once,
            "gpu_mib": round(gpu),
            "gpu_mib_a_trial": round(gpu / arm.at_once),
            "torch_mib_a_trial": round(max(answer.torch_bytes for answer in whole) / MIB / arm.threads),
            "host_mib": round(sum(hosts.values()) / MIB),
            **compare(taken, alone),
        }
    return known | {"note": taken.note}


def save(folder: Path, done: list[Taken], images: int, device: str) -> pd.DataFrame:
    """Write what is known, and give the table of the arms."""
    rows = [row(taken, done[0], images) for taken in done]
    table = pd.DataFrame(rows).round({"start_seconds": 1, "seconds": 2, "times": 2, "busy": 3})
    written = table.assign(device=device, torch=torch.__version__, cores=usable_cores())
    write_whole(folder / "arms.csv", written.to_csv(index=False))
    kept = ("epoch", *FIGURES, "seconds")
    epochs = [
        {"arm": str(taken.arm), "training": one.number, "process": one.process} | {key: epoch[key] for key in kept}
        for taken in done
        for one in taken.whole
        for epoch in one.epochs
    ]
    write_whole(folder / "epochs.csv", pd.DataFrame(epochs).to_csv(index=False))
    return table


def measure(options: argparse.Namespace) -> None:
    """Take one arm after the other while there is time, and write down each."""
    began, done, longest = time.monotonic(), list[Taken](), 0.0
    configs = trainings(options.data, Device(options.device), options.trainings, options.tiny)
    load(configs[0].data)  # fetched before the workers look for it
    images = (configs[0].data.limit or IMAGES - HELD_OUT) // BATCH * BATCH * configs[0].trainer.epochs
    options.out.mkdir(parents=True, exist_ok=True)
    device, kill_after = device_name(options.device), 0.0
    for arm in TINY_ARMS if options.tiny else ARMS:
        if time.monotonic() - began + longest > options.seconds:
            print(f"no time left for: {arm}", file=sys.stderr)
            continue
        arm_began = time.monotonic()
        done.append(take(arm, configs, began + options.seconds + PATIENCE, kill_after))
        if not done[0].whole:
            sys.exit(f"nothing can be trained here: {done[0].note}")
        if arm == ALONE:
            kill_after = done[0].seconds / len(done[0].whole) / 2
        else:  # no other takes as long as that one
            longest = max(longest, time.monotonic() - arm_began)
        table = save(options.out, done, images, device)
        print(f"{time.monotonic() - began:.0f} s: {table.iloc[-1].dropna().to_dict()}", file=sys.stderr)
    print(table.drop(columns=["start_seconds", "host_mib"]).to_string(index=False, na_rep=""))


def device_name(device: str) -> str:
    """Such as "NVIDIA H100"; asked in another process, as this one must not set up CUDA beside the service."""
    if device != Device.cuda:
        return device
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
    return subprocess.run(asked, text=True, capture_output=True, check=False).stdout.strip() or device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the tables go")
    parser.add_argument("--seconds", type=float, default=480, help="begin no arm that may end later (default 480)")
    parser.add_argument("--trainings", type=int, help="how many (default 24, two seeds of each network)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="few images and few arms: only a smoke test")
    parser.add_argument("--data", default=DEFAULT_ROOT, help="folder of MNIST", metavar="ROOT")
    options = parser.parse_args()
    options.trainings = options.trainings or (4 if options.tiny else 2 * len(NETWORKS))
    measure(options)


if __name__ == "__main__":
    main()
