"""Which hardware a run uses and how: device, precision, threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tinysweep.errors import ConfigError
from tinysweep.settings.schema import Device, Precision, TrainerConfig


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
