"""What a model is worth on images: loss, accuracy, the figures of unbalanced classes, and metrics of one's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinysweep.data.load import Images
from tinysweep.errors import ConfigError
from tinysweep.network.build import Views
from tinysweep.targets import Target, article, failed
from tinysweep.training.device import Hardware

EVALUATED_AT_ONCE = 1000  # images, or views of them
TRIED_PER_CLASS = 4  # made images by which a metric of one's own is tried before training


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy, accuracy in [0, 1], and of each image the class predicted, int64, and the loss, float32,
    both (N,) on the CPU; then further figures by name."""

    loss: float
    accuracy: float
    predicted: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), repr=False, compare=False)
    losses: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)
    further: dict[str, float] = field(default_factory=dict)

    def figures(self, part: str) -> dict[str, float]:
        """All figures by the names of metrics of this part of the data, validation or test."""
        every = {"loss": self.loss, "accuracy": self.accuracy, **self.further}
        return {f"{part}_{name}": value for name, value in every.items()}


def evaluate(model: nn.Module, images: Images, machine: Hardware, own: Mapping[str, str] | None = None) -> Score:
    """The score of a model that takes raw pixels; `own` are metrics of one's own, each MODULE:FUNCTION by name.

    Raises:
        ConfigError: one of these fails or gives no finite number.
    """
    model.eval()
    loss = torch.zeros((), device=machine.device)
    parts: list[Tensor] = []
    losses = torch.empty(len(images), device=machine.device)
    views = max((len(each.corners) for each in model.modules() if isinstance(each, Views)), default=1)
    at_once = EVALUATED_AT_ONCE // views
    with machine.in_use(), torch.inference_mode(), machine.autocast():
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            pixels, labels = images.pixels[part].to(machine.device), images.labels[part].to(machine.device)
            logits = model(pixels.float().contiguous(memory_format=torch.channels_last)).float()  # (B, classes)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            losses[part] = F.cross_entropy(logits, labels, reduction="none")
            parts.append(logits)
    every, labels = torch.cat(parts).cpu(), images.labels.cpu()
    predicted = every.argmax(1)
    further = class_figures(predicted, labels)
    further |= {name: own_figure(name, target, every, labels) for name, target in (own or {}).items()}
    accuracy = int((predicted == labels).sum()) / len(images)
    return Score(loss.item() / len(images), accuracy, predicted, losses.cpu(), further)


def class_figures(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Figures in which every class counts the same, of predictions and labels (N,): the mean recall of the
    classes that there are (balanced accuracy) and the least, and the mean F1 of the classes that are there or were
    predicted (macro F1; of the two in Opitz and Burst, 2019, arXiv:1911.03347, the averaged one)."""
    classes = 1 + int(max(predicted.max(), labels.max()))
    there = torch.bincount(labels, minlength=classes).double()
    said = torch.bincount(predicted, minlength=classes).double()
    right = torch.bincount(labels[predicted == labels], minlength=classes).double()
    recall = (right / there)[there > 0]
    f1 = (2 * right / (there + said))[there + said > 0]
    return {
        "macro_f1": f1.mean().item(),
        "balanced_accuracy": recall.mean().item(),
        "worst_class_accuracy": recall.min().item(),
    }


def own_figure(name: str, target: str, logits: Tensor, labels: Tensor) -> float:
    """What a metric of one's own gives for logits (N, classes), float32, and labels (N,), int64, on the CPU.

    Raises:
        ConfigError: it can't be found, fails, or gives no finite number.
    """
    function = Target(f"metrics.{name}", target)
    try:
        value = function.find()(logits.clone(), labels.clone())  # it may change what it gets
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{function.shown} {failed(error)}") from error
    try:
        figure = float(value) if not isinstance(value, bool | str) else None
    except (TypeError, ValueError, RuntimeError):
        figure = None
    if figure is None:
        raise ConfigError(f"{function.shown} returns {article(value)}; it must return one number")
    if not math.isfinite(figure):
        raise ConfigError(f"{function.shown} returns {figure}; it must return a finite number")
    return figure


def check_metrics(own: Mapping[str, str], classes: int) -> None:
    """Try each metric of one's own on made images, so that what is wrong with it is known before any training.

    Raises:
        ConfigError: as `own_figure`.
    """
    labels = torch.arange(classes).repeat(TRIED_PER_CLASS)
    logits = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(0))
    for name, target in own.items():
        own_figure(name, target, logits, labels)
