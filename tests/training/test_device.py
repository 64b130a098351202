"""Which device, precision and threads a run gets, and that threads are given back."""

import os
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType

import pytest
import torch
from torch import nn

from tinysweep.errors import ConfigError
from tinysweep.settings.schema import Device, Precision, TrainerConfig
from tinysweep.training.device import TRAININGS_A_GPU, Hardware, hardware, parallel_trainings

CPU = torch.device("cpu")


def make_available(monkeypatch: pytest.MonkeyPatch, *devices: Device) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: Device.cuda in devices)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: Device.mps in devices)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)


def give_features(monkeypatch: pytest.MonkeyPatch, **features: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(features))


# ---- device


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        ((), Device.cpu),
        ((Device.mps,), Device.mps),
        ((Device.cuda,), Device.cuda),
        ((Device.cuda, Device.mps), Device.cuda),
    ],
)
def test_auto_prefers_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, available: tuple[Device, ...], chosen: Device
) -> None:
    make_available(monkeypatch, *available)
    assert hardware(TrainerConfig()).device == torch.device(chosen)
    for device in (Device.cpu, *available):
        assert hardware(TrainerConfig(device=device)).device == torch.device(device)


@pytest.mark.parametrize(
    ("wanted", "available", "there"),
    [
        (Device.cuda, (), "cpu"),
        (Device.mps, (Device.cuda,), "cpu, cuda"),
        (Device.cuda, (Device.mps,), "cpu, mps"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, wanted: Device, available: tuple[Device, ...], there: str
) -> None:
    make_available(monkeypatch, *available)
    with pytest.raises(ConfigError) as caught:
        hardware(TrainerConfig(device=wanted))
    expected = f"trainer.device={wanted} is not available on this machine; use auto or one of: {there}"
    assert str(caught.value) == expected


# ---- precision


@pytest.mark.parametrize(
    ("features", "bf16"),
    [
        ({}, False),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_auto_precision_on_a_cpu_is_bf16_where_it_has_the_instructions(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], bf16: bool
) -> None:
    give_features(monkeypatch, **features)
    assert hardware(TrainerConfig(device=Device.cpu)).bf16 is bf16
    assert hardware(TrainerConfig(device=Device.cpu, precision=Precision.fp32)).bf16 is False
    assert hardware(TrainerConfig(device=Device.cpu, precision=Precision.bf16)).bf16 is True


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_on_cuda_is_bf16_where_it_is_not_emulated(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    make_available(monkeypatch, Device.cuda)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
    )
    give_features(monkeypatch, avx512_bf16=not native)
    assert hardware(TrainerConfig()).bf16 is native
    assert hardware(TrainerConfig(precision=Precision.fp32)).bf16 is False
    make_available(monkeypatch, Device.mps)
    assert hardware(TrainerConfig()).bf16 is False


@pytest.mark.parametrize(("bf16", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_convolutions_run_in_the_chosen_precision(bf16: bool, expected: torch.dtype) -> None:
    with Hardware(CPU, bf16, 1).autocast():
        features = nn.Conv2d(1, 2, 3)(torch.zeros(1, 1, 5, 5))
    assert features.dtype == expected
    assert nn.Conv2d(1, 2, 3)(torch.zeros(1, 1, 5, 5)).dtype == torch.float32


# ---- threads


@pytest.mark.parametrize(("affinity", "count", "cores"), [({1, 4, 5}, 8, 3), (None, 6, 6), (None, None, 1)])
def test_threads_are_as_asked_or_one_a_usable_core(
    monkeypatch: pytest.MonkeyPatch, affinity: set[int] | None, count: int | None, cores: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: affinity, raising=False)
    if affinity is None:  # as on systems that know none
        monkeypatch.delattr(os, "sched_getaffinity")
    assert hardware(TrainerConfig(device=Device.cpu, threads=7)).threads == 7
    assert hardware(TrainerConfig(device=Device.cpu, threads=0)).threads == cores


@pytest.mark.parametrize("error", [nullcontext(), pytest.raises(KeyboardInterrupt)])
def test_threads_are_given_back_after_use(error: AbstractContextManager[object]) -> None:
    with error, Hardware(CPU, False, 3).in_use():
        assert torch.get_num_threads() == 3
        if not isinstance(error, nullcontext):
            raise KeyboardInterrupt
    assert torch.get_num_threads() == 1


# ---- random states


def test_a_seed_decides_what_is_drawn_and_the_callers_draws_go_on_as_if_nothing_had_been() -> None:
    machine = Hardware(CPU, False, 1)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    draws = []
    for seed in (1, 1, 2):
        with machine.random_state_kept():
            machine.seed(seed)
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.rand(4), expected)


def test_a_run_on_the_cpu_of_a_machine_with_gpus_leaves_these_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    make_available(monkeypatch, Device.cuda)
    monkeypatch.setattr(torch.cuda, "get_rng_state", pytest.fail)
    monkeypatch.setattr(torch.cuda, "manual_seed", pytest.fail)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", pytest.fail)
    machine = hardware(TrainerConfig(device=Device.cpu))
    with machine.random_state_kept():
        machine.seed(1)


# ---- trainings at a time


def give_gpus(monkeypatch: pytest.MonkeyPatch, *free_gib: float) -> None:
    make_available(monkeypatch, *([Device.cuda] if free_gib else []))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free_gib))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (int(free_gib[gpu] * 2**30), 80 * 2**30))


def give_cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(count)), raising=False)


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_a_cpu_carries_a_training_a_core(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    give_cores(monkeypatch, cores)
    for gpus in ((), (70, 70)):  # those aren't asked
        give_gpus(monkeypatch, *gpus)
        assert parallel_trainings(Device.cpu) == cores
    give_gpus(monkeypatch)
    assert parallel_trainings(Device.auto) == cores


@pytest.mark.parametrize(
    ("cores", "free_gib", "expected"),
    [
        (64, [70.0], TRAININGS_A_GPU),
        (64, [70.0, 70.0], 2 * TRAININGS_A_GPU),
        (64, [70.0, 5.0], TRAININGS_A_GPU + 2),  # another's work on the second
        (64, [3.9], 1),
        (64, [0.5], 1),  # one is tried all the same
        (64, [0.5, 0.5], 1),
        (3, [70.0, 70.0], 3),
    ],
)
def test_gpus_carry_as_many_as_fit_into_their_memory_up_to_a_bound_and_to_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, free_gib: list[float], expected: int
) -> None:
    give_cores(monkeypatch, cores)
    give_gpus(monkeypatch, *free_gib)
    for device in (Device.cuda, Device.auto):
        assert parallel_trainings(device) == expected


def test_an_apple_gpu_carries_one(monkeypatch: pytest.MonkeyPatch) -> None:
    make_available(monkeypatch, Device.mps)
    give_cores(monkeypatch, 8)
    assert parallel_trainings(Device.auto) == parallel_trainings(Device.mps) == 1


def test_a_device_that_is_not_there_carries_none(monkeypatch: pytest.MonkeyPatch) -> None:
    make_available(monkeypatch)
    with pytest.raises(ConfigError, match="device=cuda is not available"):
        parallel_trainings(Device.cuda)


# ---- words


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Hardware(CPU, False, 1), "cpu, 1 thread, fp32"),
        (Hardware(CPU, True, 2), "cpu, 2 threads, bf16"),
        (Hardware(torch.device("cuda"), True, 8), "cuda, bf16"),
    ],
)
def test_a_machine_describes_itself(machine: Hardware, words: str) -> None:
    assert machine.describe() == words
