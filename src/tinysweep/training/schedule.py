"""Learning-rate schedules as pure functions of the step, and whole trainings of fewer epochs."""

import math
from dataclasses import replace

from tinysweep.settings.schema import Config, SchedulerConfig, SchedulerName


def factor(config: SchedulerConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """The fraction of the peak learning rate used at `step`, counted from 0, of `steps` in all.

    `step` decays once an epoch, the others move every step. With a warm-up the factor rises linearly (onecycle:
    along a cosine, as in Smith & Topin, 2017, arXiv:1708.07120) from `start_fraction`, reaches 1 at its end, and
    then falls to `end_fraction` at the last step.
    """
    if config.name == SchedulerName.constant:
        return 1.0
    if config.name == SchedulerName.step:
        return config.gamma ** (step // steps_per_epoch // config.step_epochs)
    peak = config.warmup_fraction * (steps - 1)
    if step < peak:
        rising = step / peak
        if config.name == SchedulerName.onecycle:
            return _cosine(config.start_fraction, 1.0, rising)
        return config.start_fraction + (1 - config.start_fraction) * rising
    falling = (step - peak) / (steps - 1 - peak or 1)  # a run of one step stays at the peak
    if config.name == SchedulerName.linear:
        return 1 + (config.end_fraction - 1) * falling
    return _cosine(1.0, config.end_fraction, falling)


def shorten(config: Config, epochs: int) -> Config:
    """The same recipe as a whole training of fewer epochs: as many of them as before, at most all, are without
    augmentation; those from decay to decay shrink in proportion, to the nearest whole number."""
    clean, scheduler = min(config.trainer.clean_epochs, epochs), config.scheduler
    if scheduler.name == SchedulerName.step:
        decay = round(scheduler.step_epochs * epochs / config.trainer.epochs)
        scheduler = replace(scheduler, step_epochs=max(1, decay))
    return replace(config, trainer=replace(config.trainer, epochs=epochs, clean_epochs=clean), scheduler=scheduler)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
