"""Which hardware a run uses and how: device, precision, threads."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tinysweep.errors import ConfigError
from tinysweep.settings.schema import Device, Precision, TrainerConfig

# What threads of a process share: its random state, from which initial weights are drawn, and CUDA's recording of
# graphs: one at a time, and before torch 2.13 none may be launched meanwhile, as both count random numbers.
ONE_AT_A_TIME = threading.RLock()

# Bounds of `parallel_trainings` on a GPU, for processes that take turns on it. On an H100, 8 of them trained 1.4
# times as many images a second as one: more than a few gain little. benchmarks/gpu_trials.py measures it anew.
TRAININGS_A_GPU = 4
GPU_BYTES_A_TRAINING = 2 * 2**30  # CUDA and its libraries in a process of their own, and images augmented at once


@dataclass(frozen=True)
class Hardware:
    """The device, whether convolutions run in bfloat16, how many CPU threads there are, and whether the kernels of
    a step are launched together."""

    device: torch.device
    bf16: bool
    threads: int
    graphs: bool = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Run with this many threads, and afterwards with as many as before."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def random_state_kept(self) -> Iterator[None]:
        """Leave the caller's random state afterwards as it was, on the CPU and on this device."""
        # Unless told which, torch sets up every GPU, and warns of it.
        devices = [self.device] if self.device.type != "cpu" else []
        kept = torch.random.fork_rng(devices)
        with ONE_AT_A_TIME:
            kept.__enter__()
        try:
            yield
        finally:
            with ONE_AT_A_TIME:  # not while another thread draws its weights
                kept.__exit__(None, None, None)

    def seed(self, seed: int) -> None:
        """Begin the random states that `random_state_kept` keeps at this seed, and no other GPU's."""
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def describe(self) -> str:
        """Such as "cpu, 2 threads, bf16"."""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device.type == "cpu" else ""
        return f"{self.device.type}{threads}, {self.precision}"


def hardware(config: TrainerConfig) -> Hardware:
    """The hardware that `device`, `precision` and `threads` ask for."""
    available = {
        Device.cpu: True,
        Device.cuda: torch.cuda.is_available(),
        Device.mps: torch.backends.mps.is_available(),
    }
    name = config.device
    if name == Device.auto:
        name = next(candidate for candidate in (Device.cuda, Device.mps, Device.cpu) if available[candidate])
    if not available[name]:
        found = ", ".join(device for device, there in available.items() if there)
        raise ConfigError(f"trainer.device={name} is not available on this machine; use auto or one of: {found}")
    bf16 = config.precision == Precision.bf16 or (config.precision == Precision.auto and _has_fast_bf16(name))
    graphs = name == Device.cuda and config.cuda_graphs
    return Hardware(torch.device(name), bf16, config.threads or usable_cores(), graphs)


def parallel_trainings(device: Device) -> int:
    """How many trainings at a time this machine carries on a device, each in a process of its own: on a CPU one a
    core, on GPUs as many as fit into what memory is free, up to a few each, and no more than there are cores.

    Asking sets up CUDA in this process, which takes some of that memory.
    """
    kind = hardware(TrainerConfig(device=device)).device.type
    if kind == "cuda":
        free = [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
        fitting = sum(min(TRAININGS_A_GPU, each // GPU_BYTES_A_TRAINING) for each in free)
        return max(1, min(fitting, usable_cores()))
    return usable_cores() if kind == "cpu" else 1  # nothing was measured on an Apple GPU


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_fast_bf16(device: Device) -> bool:
    if device == Device.cuda:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == Device.cpu:
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(feature)) for feature in ("avx512_bf16", "amx_bf16"))
    return False
