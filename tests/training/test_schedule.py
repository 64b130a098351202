"""Learning-rate factors: exact at chosen steps, equal to torch's schedulers, and never out of [0, 1]."""

import math
from dataclasses import replace
from itertools import pairwise, product
from typing import Literal

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR, StepLR

from tinysweep.settings.schema import SchedulerConfig, SchedulerName
from tinysweep.training.schedule import factor

WARMS_UP = (SchedulerName.cosine, SchedulerName.linear, SchedulerName.onecycle)
PEAK = 0.3


def factors(config: SchedulerConfig, steps: int, steps_per_epoch: int = 1) -> list[float]:
    return [factor(config, step, steps, steps_per_epoch) for step in range(steps)]


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)


def of_torch(scheduler: LRScheduler, steps: int) -> list[float]:
    """What torch's scheduler makes of the peak in each of so many steps, as a fraction of it."""
    found = [float(scheduler.get_last_lr()[0]) / PEAK]
    for _ in range(steps - 1):
        scheduler.optimizer.step()
        scheduler.step()
        found.append(float(scheduler.get_last_lr()[0]) / PEAK)
    return found


# ---- by hand


def test_constant_stays_at_the_peak() -> None:
    assert factors(SchedulerConfig(SchedulerName.constant), 7) == [1.0] * 7


def test_step_decays_every_so_many_epochs_and_only_between_epochs() -> None:
    config = SchedulerConfig(SchedulerName.step, step_epochs=2, gamma=0.5)
    assert factors(config, 15, steps_per_epoch=3) == [1.0] * 6 + [0.5] * 6 + [0.25] * 3


def test_cosine_warms_up_in_a_line_and_falls_along_a_cosine() -> None:
    config = SchedulerConfig(SchedulerName.cosine, warmup_fraction=0.2, start_fraction=0.1, end_fraction=0.02)
    eighth = math.cos(math.pi / 4)
    assert factors(config, 11) == pytest.approx(
        [
            0.1,
            0.55,
            1.0,
            0.02 + 0.98 * (1 + math.cos(math.pi / 8)) / 2,
            0.02 + 0.98 * (1 + eighth) / 2,
            0.02 + 0.98 * (1 + math.sin(math.pi / 8)) / 2,
            0.51,
            0.02 + 0.98 * (1 - math.sin(math.pi / 8)) / 2,
            0.02 + 0.98 * (1 - eighth) / 2,
            0.02 + 0.98 * (1 - math.cos(math.pi / 8)) / 2,
            0.02,
        ],
        abs=1e-12,
    )


def test_linear_rises_and_falls_in_lines() -> None:
    config = SchedulerConfig(SchedulerName.linear, warmup_fraction=0.4, start_fraction=0.2, end_fraction=0.4)
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert factors(config, 11) == pytest.approx(expected, abs=1e-12)


def test_onecycle_rises_and_falls_along_cosines() -> None:
    config = SchedulerConfig(SchedulerName.onecycle, warmup_fraction=0.5, start_fraction=0.2, end_fraction=0.0)
    eighth = math.cos(math.pi / 4)
    rising = [0.2, 0.2 + 0.8 * (1 - eighth) / 2, 0.6, 0.2 + 0.8 * (1 + eighth) / 2, 1.0]
    falling = [(1 + eighth) / 2, 0.5, (1 - eighth) / 2, 0.0]
    assert factors(config, 9) == pytest.approx(rising + falling, abs=1e-12)


# ---- against torch


def test_step_is_steplr_stepped_once_an_epoch() -> None:
    epochs, steps_per_epoch = 17, 4
    config = SchedulerConfig(SchedulerName.step, step_epochs=5, gamma=0.3)
    expected = of_torch(StepLR(sgd(), step_size=5, gamma=0.3), epochs)
    found = factors(config, epochs * steps_per_epoch, steps_per_epoch)
    assert found == pytest.approx([value for value in expected for _ in range(steps_per_epoch)])


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_cosine_without_warmup_is_cosineannealinglr(end: float) -> None:
    # They coincide where torch's T_max, at which it reaches eta_min, is our last step: one less than all steps.
    config = SchedulerConfig(SchedulerName.cosine, warmup_fraction=0.0, end_fraction=end)
    expected = of_torch(CosineAnnealingLR(sgd(), T_max=36, eta_min=end * PEAK), 37)
    assert factors(config, 37) == pytest.approx(expected, abs=1e-9)


def test_cosine_with_warmup_is_linearlr_then_cosineannealinglr() -> None:
    # They coincide where warmup_fraction * (steps - 1) is a whole number of steps: the milestone.
    config = SchedulerConfig(SchedulerName.cosine, warmup_fraction=0.25, start_fraction=0.04, end_fraction=0.01)
    optimizer = sgd()
    rising = LinearLR(optimizer, start_factor=0.04, total_iters=10)
    falling = CosineAnnealingLR(optimizer, T_max=30, eta_min=0.01 * PEAK)
    expected = of_torch(SequentialLR(optimizer, [rising, falling], milestones=[10]), 41)
    assert factors(config, 41) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("name", "strategy"), [(SchedulerName.onecycle, "cos"), (SchedulerName.linear, "linear")])
def test_onecycle_and_linear_are_onecyclelr(name: SchedulerName, strategy: Literal["cos", "linear"]) -> None:
    # Torch's peak lies at step pct_start * steps - 1, ours at warmup_fraction * (steps - 1): both at 10 here.
    # Torch divides the peak by div_factor at the start, and that by final_div_factor at the end.
    config = SchedulerConfig(name, warmup_fraction=10 / 43, start_fraction=1 / 25, end_fraction=1 / 25 / 8)
    scheduler = OneCycleLR(
        sgd(),
        max_lr=PEAK,
        total_steps=44,
        pct_start=11 / 44,
        anneal_strategy=strategy,
        cycle_momentum=False,
        div_factor=25,
        final_div_factor=8,
    )
    assert factors(config, 44) == pytest.approx(of_torch(scheduler, 44), abs=1e-9)


# ---- everywhere

WARMUPS = (0.0, 0.01, 0.1, 1 / 3, 0.5, 0.95, 0.999999)
FRACTIONS = (0.0, 1e-6, 0.04, 0.3, 1.0)
LENGTHS = (1, 2, 3, 10, 11, 97)


def shapes(name: SchedulerName) -> list[SchedulerConfig]:
    return [SchedulerConfig(name, *settings) for settings in product(WARMUPS, FRACTIONS, FRACTIONS)]


@pytest.mark.parametrize("name", WARMS_UP)
def test_a_factor_is_never_negative_nor_above_one(name: SchedulerName) -> None:
    for config, steps in product(shapes(name), LENGTHS):
        assert all(0.0 <= value <= 1.0 for value in factors(config, steps)), (config, steps)


@pytest.mark.parametrize("name", WARMS_UP)
def test_the_last_step_is_at_end_fraction(name: SchedulerName) -> None:
    for config, steps in product(shapes(name), LENGTHS[1:]):
        assert factors(config, steps)[-1] == pytest.approx(config.end_fraction, abs=1e-12), (config, steps)


@pytest.mark.parametrize("name", WARMS_UP)
def test_the_first_step_is_at_start_fraction_or_without_warmup_at_the_peak(name: SchedulerName) -> None:
    for config, steps in product(shapes(name), LENGTHS[1:]):
        expected = config.start_fraction if config.warmup_fraction else 1.0
        assert factors(config, steps)[0] == pytest.approx(expected, abs=1e-12), (config, steps)


@pytest.mark.parametrize("name", WARMS_UP)
def test_it_rises_to_the_peak_and_then_only_falls(name: SchedulerName) -> None:
    for config, steps in product(shapes(name), LENGTHS):
        found = factors(config, steps)
        top = found.index(max(found))
        assert all(a <= b for a, b in pairwise(found[: top + 1])), (config, steps)
        assert all(a >= b for a, b in pairwise(found[top:])), (config, steps)
        spacing = 1 / max(1, steps - 1)
        if config.start_fraction < 1 and config.end_fraction < 1 and config.warmup_fraction:
            assert top / max(1, steps - 1) == pytest.approx(config.warmup_fraction, abs=1.001 * spacing)


@pytest.mark.parametrize("name", list(SchedulerName))
def test_a_run_of_one_step_is_at_the_peak(name: SchedulerName) -> None:
    config = SchedulerConfig(name)
    assert factors(config, 1) == [1.0]
    if name in WARMS_UP:
        assert factors(replace(config, warmup_fraction=0.9, start_fraction=0.1, end_fraction=0.2), 1) == [1.0]


def test_the_number_of_epochs_does_not_move_what_moves_every_step() -> None:
    for name in WARMS_UP:
        config = SchedulerConfig(name)
        assert factors(config, 12, steps_per_epoch=1) == factors(config, 12, steps_per_epoch=6)
