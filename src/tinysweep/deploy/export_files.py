"""The files of an export: written once they have been checked, and measured beside the model they come from."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tinysweep import console
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import Images, describe, load, load_test
from tinysweep.deploy.onnx_model import convert, folded, quantise
from tinysweep.deploy.onnx_session import OnnxModel
from tinysweep.errors import ConfigError, DataError
from tinysweep.files import write_whole
from tinysweep.run.labels import LabelNames, class_names
from tinysweep.run.saved import Saved
from tinysweep.settings.schema import DataConfig
from tinysweep.training.device import Hardware

AT_ONCE = 250  # images
CLOSE = 1e-3  # difference of two logits, as a part of the largest, that rounding can account for
MOST_LOST = 0.002  # accuracy that int8 may lose without a warning
WARM_UP, TIMED = 50, 300  # single images

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """A file: its size, parameters, accuracy on the test set in [0, 1], and the median time of one image at a time
    on one thread."""

    name: str
    size: int
    params: int
    accuracy: float
    milliseconds: float
    by: str


def shape_of(data: DataConfig) -> DataShape:
    """
    Raises:
        DataError: an image folder is missing or holds no classes.
    """
    try:
        return describe(data)
    except DataError as error:
        raise DataError(f"{error}; --root FOLDER tells where the images are now") from error


def export_files(saved: Saved, data: DataConfig, folder: Path, calibration: int) -> list[Measured]:
    """Write model.onnx and, calibrated on so many training images unless 0, model.int8.onnx, named like the model;
    print what the checks find.

    Raises:
        ConfigError, DataError: the data are not those of the model or can't be had, or the float model differs
            from PyTorch; then it isn't written.
    """
    if (found := shape_of(data)) != saved.shape:
        raise ConfigError(f"{saved.file} is for {_words(saved.shape)}, but data={data.name} has {_words(found)}")
    calibrating = load(data).train.pixels[:calibration].numpy() if calibration else None
    test = load_test(data)
    labels = LabelNames(data.name, found.channels, found.size, saved.classes or class_names(data))
    reference, model = _reference(saved, test)
    slim = folded(saved.model)
    content, plain = convert(slim, labels), folder / f"{saved.file.stem}.onnx"
    table = [model, _leave(content, plain, slim, test, lambda logits: agreement(plain, logits, reference))]
    if calibrating is None:
        return table

    def judged(logits: Logits) -> str:
        same = int((logits.argmax(1) == reference.argmax(1)).sum())
        return (
            f"calibrated on {len(calibrating):,} training images; the same class as PyTorch on {same:,} of the "
            f"{len(test):,} test images"
        )

    content, small = quantise(content, calibrating, labels), plain.with_suffix(".int8.onnx")
    table.append(_leave(content, small, slim, test, judged))
    warn_of_loss(table[1], table[2])
    return table


def _reference(saved: Saved, test: Images) -> tuple[Logits, Measured]:
    """The logits (N, classes) of the test images by PyTorch, and its figures."""
    one = test.pixels[:1]
    with Hardware(torch.device("cpu"), bf16=False, threads=1).in_use(), torch.inference_mode():
        logits = np.concatenate([saved.model(part.float()).numpy() for part in test.pixels.split(AT_ONCE)])
        took = milliseconds(lambda: saved.model(one.float()))
    return logits, _measured(saved.file, saved.model, logits, test, took, "PyTorch")


def _leave(
    content: bytes, file: Path, model: nn.Module, test: Images, judged: Callable[[Logits], str]
) -> Measured:
    """Run a converted model on the test images, print the judgement of its logits, and write it."""
    session = OnnxModel(content, file, threads=1)
    logits = np.concatenate([session.logits(part.numpy()) for part in test.pixels.split(AT_ONCE)])
    print(f"{file}: {judged(logits)}", flush=True)
    write_whole(file, content)
    one = test.pixels[:1].numpy()
    return _measured(file, model, logits, test, milliseconds(lambda: session.logits(one)), "ONNX Runtime")


def agreement(file: Path, logits: Logits, reference: Logits) -> str:
    """In words, how two models' logits (N, classes) of the same images agree.

    Raises:
        DataError: another class for any image, or logits further apart than rounding explains.
    """
    total = len(reference)
    others = int((logits.argmax(1) != reference.argmax(1)).sum())
    apart = float(np.abs(logits - reference).max())
    if others or not apart <= CLOSE * max(1.0, float(np.abs(reference).max())):
        raise DataError(
            f"{file} was not written, as it must equal the model in PyTorch: another class on {others:,} of the "
            f"{total:,} test images, logits up to {apart:.2g} apart"
        )
    return f"the same class as PyTorch on all {total:,} test images, logits at most {apart:.1e} apart"


def warn_of_loss(plain: Measured, small: Measured) -> None:
    """Say so if quantisation costs more than MOST_LOST of accuracy."""
    lost = plain.accuracy - small.accuracy
    if lost > MOST_LOST:
        print(
            f"warning: int8 loses {100 * lost:.2f} points of test accuracy ({100 * plain.accuracy:.2f}% to "
            f"{100 * small.accuracy:.2f}%), more than {100 * MOST_LOST:g}; calibrate on more images "
            "(--calibration), or use the float model",
            file=sys.stderr,
        )


def report(table: list[Measured]) -> str:
    """The files as a text table."""
    rows = [("file", "bytes", "parameters", "test accuracy", "ms an image", "run by")]
    rows += [
        (
            each.name,
            f"{each.size:,}",
            f"{each.params:,}",
            f"{100 * each.accuracy:.2f}%",
            f"{each.milliseconds:.3f}",
            each.by,
        )
        for each in table
    ]
    return console.table(rows, "lrrrrl", rules=(0,))


def milliseconds(once: Callable[[], object]) -> float:
    """The median time of many calls, the first of which aren't counted."""
    times = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[WARM_UP:])


def _measured(file: Path, model: nn.Module, logits: Logits, test: Images, took: float, by: str) -> Measured:
    accuracy = float((logits.argmax(1) == test.labels.numpy()).mean())
    params = sum(weights.numel() for weights in model.parameters())
    return Measured(file.name, file.stat().st_size, params, accuracy, took, by)


def _words(shape: DataShape) -> str:
    return f"{shape.channels}x{shape.size}x{shape.size} images of {shape.classes} classes"
