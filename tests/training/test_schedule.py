"""Learning-rate factors: exact at chosen steps, equal to torch's schedulers, and never out of [0, 1]."""

from dataclasses import replace
from itertools import pairwise, product
from typing import Literal

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR, StepLR

from tinysweep.settings.schema import Config, SchedulerConfig, SchedulerName, TrainerConfig
from tinysweep.training.schedule import factor, shorten

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


def test_constant_stays_at_the_peak() -> None:
    assert factors(SchedulerConfig(SchedulerName.constant), 7) == [1.0] * 7


def test_step_is_steplr_stepped_once_an_epoch() -> None:
    epochs, steps_per_epoch = 17, 4
    config = SchedulerConfig(SchedulerName.step, step_epochs=5, gamma=0.3)
    expected = of_torch(StepLR(sgd(), step_size=5, gamma=0.3), epochs)
    found = factors(config, epochs * steps_per_epoch, steps_per_epoch)
    assert found == pytest.approx([value for value in expected for _ in range(steps_per_epoch)])


def test_cosine_is_linearlr_then_cosineannealinglr() -> None:
    # They coincide where warmup_fraction * (steps - 1) is a whole number of steps, the milestone, and T_max,
    # at which it reaches eta_min, is our last step.
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


WARMUPS = (0.0, 0.01, 0.1, 1 / 3, 0.5, 0.95, 0.999999)
FRACTIONS = (0.0, 1e-6, 0.04, 0.3, 1.0)
LENGTHS = (2, 3, 10, 11, 97)


def shapes(name: SchedulerName) -> list[SchedulerConfig]:
    return [SchedulerConfig(name, *settings) for settings in product(WARMUPS, FRACTIONS, FRACTIONS)]


@pytest.mark.parametrize("name", WARMS_UP)
def test_it_rises_from_the_start_to_the_peak_and_falls_to_the_end_within_bounds(name: SchedulerName) -> None:
    for config, steps in product(shapes(name), LENGTHS):
        found = factors(config, steps)
        top = found.index(max(found))
        assert all(0.0 <= value <= 1.0 for value in found), (config, steps)
        assert found[0] == pytest.approx(config.start_fraction if config.warmup_fraction else 1.0, abs=1e-12)
        assert found[-1] == pytest.approx(config.end_fraction, abs=1e-12), (config, steps)
        assert all(a <= b for a, b in pairwise(found[: top + 1])), (config, steps)
        assert all(a >= b for a, b in pairwise(found[top:])), (config, steps)
        if config.start_fraction < 1 and config.end_fraction < 1 and config.warmup_fraction:
            spacing = 1 / (steps - 1)
            assert top / (steps - 1) == pytest.approx(config.warmup_fraction, abs=1.001 * spacing)
        assert found == factors(config, steps, steps_per_epoch=steps), "epochs don't matter"


@pytest.mark.parametrize("name", list(SchedulerName))
def test_a_run_of_one_step_is_at_the_peak(name: SchedulerName) -> None:
    config = SchedulerConfig(name)
    assert factors(config, 1) == [1.0]
    if name in WARMS_UP:
        assert factors(replace(config, warmup_fraction=0.9, start_fraction=0.1, end_fraction=0.2), 1) == [1.0]


# ---- fewer epochs


@pytest.mark.parametrize("name", list(SchedulerName))
@pytest.mark.parametrize("clean", [0, 1, 4, 12])
def test_a_shorter_training_is_a_whole_one_of_the_same_recipe(name: SchedulerName, clean: int) -> None:
    step = {"step_epochs": 4} if name == SchedulerName.step else {}
    config = Config(scheduler=SchedulerConfig(name, **step), trainer=TrainerConfig(epochs=12, clean_epochs=clean))
    assert shorten(config, 12) == config
    ends = set()
    for epochs in (1, 3, 6, 12):
        shorter = shorten(config, epochs)
        shorter.check()
        assert shorter.trainer.epochs == epochs
        assert shorter.trainer.clean_epochs == min(clean, epochs)
        assert replace(shorter, trainer=config.trainer, scheduler=config.scheduler) == config, "else the same"
        if epochs > 1:  # in one epoch there is no step from epoch to epoch
            ends.add(factors(shorter.scheduler, 5 * epochs, 5)[-1])
    assert len(ends) == 1, "the learning rate goes down as far in fewer epochs"
