"""The training loop: a typed configuration and tensors in, a trained model and its history out.

It knows nothing of Hydra, Optuna or files.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tinysweep.console import Progress
from tinysweep.data.load import Data
from tinysweep.errors import ConfigError, DivergedError
from tinysweep.network.budget import count_trainable, gate
from tinysweep.network.build import build_model, layout
from tinysweep.settings.schema import AugmentationConfig, ClassWeights, Config
from tinysweep.training.augment import augment
from tinysweep.training.device import ONE_AT_A_TIME, Hardware, hardware
from tinysweep.training.optimizer import Optimizer
from tinysweep.training.schedule import factor
from tinysweep.training.score import evaluate
from tinysweep.training.step import AveragedModel, Step, fastest_step

# Images; several batches share the fixed cost of an augmentation. On a GPU that cost is all there is to it.
AUGMENTED_AT_ONCE = {"cpu": 1024, "mps": 1024, "cuda": 16384}

# All that training goes on from after an epoch, as torch.save takes it: tensors, numbers, and the history.
TrainingState = dict[str, Any]


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed; validation figures are None where nothing was held out. `epochs` is how many the
    training has that it belongs to, where a trial has several trainings, one after another. `train_accuracy` is of
    images as they were trained on, augmented, each before its step; records of earlier versions lack it. `further`
    are more validation figures, by the names of their metrics."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    seconds: float
    epochs: int | None = None
    train_accuracy: float | None = None
    further: dict[str, float] = field(default_factory=dict)

    def figure(self, metric: str) -> float | None:
        """The figure of a metric, if this epoch has it."""
        value: float | None = self.further.get(metric, getattr(self, metric, None))
        return value

    @property
    def is_comparable(self) -> bool:
        """Whether its figures are for comparing trials: of several trainings, only those of the last epoch are."""
        return self.epochs in (None, self.epoch)


@dataclass(frozen=True)
class Result:
    """A trained model in evaluation mode, for raw pixels (B, C, H, W) of 0 to 255, and how it got there."""

    model: nn.Module
    history: list[Epoch]
    seconds: float


class Normalise(nn.Module):
    """Raw pixels of 0 to 255 to the mean 0 and deviation 1 that networks are trained on."""

    shift: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("shift", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("scale", 255 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.shift) / self.scale


def fit(
    config: Config,
    data: Data,
    on_epoch: Callable[[Epoch], None] | None = None,
    state: TrainingState | None = None,
    keep: Callable[[TrainingState], None] | None = None,
    progress: Progress | bool = True,
) -> Result:
    """Train the model of `config`, whose width must be resolved, on `data`.

    `on_epoch` is called after each epoch and may raise to stop. On a CPU the same configuration, data,
    machine and number of threads give the same bits. Several threads of a process may train at a time, with the
    same bits as alone, but for dropout, which draws from the random state that they share. The caller's random
    state and thread count are left as they were.

    `keep` is called before `on_epoch` with the state of training, which is the caller's to keep. As the `state` of
    a later call of the same configuration it leads to the same bits as training that never stopped; the history is
    that of all epochs.

    A bar shows how far training is and how long it will take, in a notebook or where standard error is a terminal,
    unless `progress` is false; or it is a bar of the caller's, which counts epochs.

    Raises:
        ConfigError: `model.width` is still auto, or settings changed in Python contradict each other.
        BudgetError: the model costs more than `config.budget` allows.
        DivergedError: the training or validation loss of an epoch is not a finite number.
    """
    config.check()
    cost = gate(config, data.shape)
    machine, start = hardware(config.trainer), time.perf_counter()
    with _watch(progress, config, state) as bar, machine.in_use(), machine.random_state_kept():
        with ONE_AT_A_TIME:
            machine.seed(config.trainer.seed)
            training = _Training(config, data, machine)
        if (count := count_trainable(training.model)) != cost.params:
            raise ConfigError(
                f"model.target={config.model.target} made a network of {cost.params:,} trainable parameters to be "
                f"costed, and now one of {count:,}; it must make the same one whenever it is called"
            )
        if state:
            training.restore(state)
        while len(training.history) < config.trainer.epochs:
            epoch = training.epoch(bar)
            if keep:
                keep(training.state())
            if on_epoch:
                on_epoch(epoch)
            bar.reach(epoch.epoch)
    return Result(training.averaged.eval(), training.history, time.perf_counter() - start)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights of classes, float32 (classes,), by which all that are among the labels (N,) count the same; their
    mean over the labels is 1 (King and Zeng, 2001)."""
    counts = torch.bincount(labels, minlength=classes)
    present = counts > 0
    weights = len(labels) / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 0.0).float()


def _watch(
    progress: Progress | bool, config: Config, state: TrainingState | None
) -> AbstractContextManager[Progress]:
    """The caller's bar, which goes on after training, or one that ends with it."""
    if isinstance(progress, Progress):
        return nullcontext(progress)
    return Progress(config.trainer.epochs, "epochs", len(state["history"]) if state else 0, watched=progress)


def require_finite(loss: float, name: str, config: Config) -> None:
    """Refuse a loss that is no number, or infinite."""
    if not math.isfinite(loss):
        raise DivergedError(
            f"training diverged: {name} is {loss}; "
            f"lower optimizer.lr={config.optimizer.lr:g} or raise scheduler.warmup_fraction"
        )


class _Training:
    """Model, optimizer, average and random state of one run, advanced an epoch at a time."""

    def __init__(self, config: Config, data: Data, machine: Hardware) -> None:
        self.config, self.machine = config, machine
        self.train = data.train.to(machine.device)
        self.validation = data.validation and data.validation.to(machine.device)
        self.batch_size = min(config.trainer.batch_size, len(self.train))
        self.steps_per_epoch = len(self.train) // self.batch_size
        model = build_model(config.model, data.shape, config.dropout)
        network = nn.Sequential(Normalise(data.mean, data.std), model)
        self.model: nn.Module = network.to(machine.device).to(memory_format=layout(config.model))
        self.average = AveragedModel(self.model, config.trainer.ema_decay) if config.trainer.ema_decay else None
        self.averaged: nn.Module = self.average.module if self.average else self.model
        self.optimizer = Optimizer(config.optimizer, self.model)
        weights = None
        if config.trainer.class_weights == ClassWeights.balanced:
            weights = balanced_weights(self.train.labels, data.shape.classes)
        smoothing = config.trainer.label_smoothing
        self.step = Step(self.model, self.optimizer, self.average, machine, smoothing, weights)
        self.advance = fastest_step(self.step)
        self.generator = torch.Generator(machine.device).manual_seed(config.trainer.seed)
        self.steps_taken, self.lr = 0, 0.0
        self.history: list[Epoch] = []

    def epoch(self, bar: Progress) -> Epoch:
        """Train on every image once, at most a last incomplete batch aside, and evaluate on those held out. What
        the bar shows is counted on the host, as nothing here may wait for the device."""
        number, began = len(self.history) + 1, time.perf_counter()
        self.step.total.zero_()
        self.step.correct.zero_()
        self.model.train()
        steps = self.config.trainer.epochs * self.steps_per_epoch
        for taken, (pixels, labels) in enumerate(self._batches(number)):
            bar.reach(number - 1 + taken / self.steps_per_epoch)
            scale = factor(self.config.scheduler, self.steps_taken, steps, self.steps_per_epoch)
            self.lr = self.config.optimizer.lr * scale
            self.advance(pixels, labels, self.lr)
            self.steps_taken += 1
        loss = self.step.total.item() / self.steps_per_epoch
        right = self.step.correct.item() / (self.steps_per_epoch * self.batch_size)
        require_finite(loss, f"the loss of epoch {number}", self.config)
        found: dict[str, float] = {}
        if self.validation:
            score = evaluate(self.averaged, self.validation, self.machine, self.config.metrics)
            require_finite(score.loss, f"the validation loss of epoch {number}", self.config)
            found = score.figures("validation")
        main = (found.pop("validation_loss", None), found.pop("validation_accuracy", None))
        seconds = time.perf_counter() - began
        figures = (loss, *main, self.lr, seconds)
        self.history.append(Epoch(number, *figures, train_accuracy=right, further=found))
        return self.history[-1]

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of augmented raw pixels (B, C, H, W) float and labels (B,)."""
        trainer = self.config.trainer
        clean = epoch > trainer.epochs - trainer.clean_epochs
        augmentation = AugmentationConfig() if clean else self.config.augmentation
        order = torch.randperm(len(self.train), generator=self.generator, device=self.machine.device)
        order = order[: self.steps_per_epoch * self.batch_size]
        batches = max(1, AUGMENTED_AT_ONCE[self.machine.device.type] // self.batch_size)
        for indices in order.split(batches * self.batch_size):
            chunk = self.train.pick(indices)
            pixels = augment(chunk.pixels.float(), augmentation, self.generator)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            yield from zip(pixels.split(self.batch_size), chunk.labels.split(self.batch_size), strict=True)

    def state(self) -> TrainingState:
        """What `restore` needs; copies on the device, so that taking it doesn't wait for that."""
        random = [torch.get_rng_state()]
        if self.machine.device.type != "cpu":  # dropout draws on the device
            random.append(torch.get_device_module(self.machine.device).get_rng_state())
        return {
            "model": _copies(self.model),
            "average": _copies(self.average.module) if self.average else None,
            "updates": self.average.updates if self.average else 0,
            "optimizer": [tensor.clone() for tensor in self.optimizer.memory()],
            "random": random,
            "generator": self.generator.get_state(),
            "steps_taken": self.steps_taken,
            "lr": self.lr,
            "history": [asdict(epoch) for epoch in self.history],
        }

    @torch.no_grad()
    def restore(self, state: TrainingState) -> None:
        """Go back to a state, in the places in memory that are there, as those are what steps read and write."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.module.load_state_dict(state["average"])
            self.average.updates = state["updates"]
        for own, kept in zip(self.optimizer.memory(), state["optimizer"], strict=True):
            own.copy_(kept)
        host, *device = state["random"]
        torch.set_rng_state(host)
        if self.machine.device.type != "cpu":
            torch.get_device_module(self.machine.device).set_rng_state(device[0])
        self.generator.set_state(state["generator"])
        self.steps_taken, self.lr = state["steps_taken"], state["lr"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
