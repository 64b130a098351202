"""A trained model as ONNX, in float32 and in int8: converted, checked against PyTorch, measured and written."""

import copy
import io
import itertools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinysweep import console
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import Images, class_names, describe, load, load_test
from tinysweep.deploy.c import compiler, running_c, write_c
from tinysweep.deploy.classifier import METADATA, OnnxModel
from tinysweep.errors import ConfigError, DataError
from tinysweep.files import write_whole
from tinysweep.run.checkpoint import SavedModel
from tinysweep.run.labels import LabelNames
from tinysweep.settings.schema import DataConfig
from tinysweep.training.device import Hardware

OPSET = 20  # ONNX 1.15; ONNX Runtime has it since 1.17
INPUT, OUTPUT = "pixels", "logits"
AT_ONCE, CALIBRATED_AT_ONCE = 250, 50  # images
CLOSE = 1e-3  # difference of two logits, as a part of the largest, that rounding can account for
PERCENTILE = 99.98  # of a tensor's values that its range in eight bits holds, as many left out on either side
MOST_LOST = 0.002  # accuracy that int8 may lose without a warning
WARM_UP, TIMED = 50, 300  # single images
HEADER = ("file", "bytes", "parameters", "test accuracy", "ms an image", "run by")

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Measurement:
    """Of a model: its logits (N, classes) of the test images, the part of these that it names rightly, and the
    median time in milliseconds of one image at a time on one thread."""

    logits: Logits
    accuracy: float
    milliseconds: float


def export_files(
    saved: SavedModel, data: DataConfig, folder: Path, calibration: int, *, as_c: bool = False
) -> str:
    """Write model.onnx and, calibrated on so many training images unless 0, model.int8.onnx, and that one `as_c`,
    named like the model; print what the checks find, and return a table of the files. A float model that differs
    from PyTorch isn't written."""
    try:
        shape = describe(data)
    except DataError as error:
        raise DataError(f"{error}; --root FOLDER tells where the images are now") from error
    if shape != saved.shape:
        raise ConfigError(f"{saved.file} is for {_words(saved.shape)}, but data={data.name} has {_words(shape)}")
    calibrating = load(data).train.pixels[:calibration].numpy() if calibration else None
    test = load_test(data)
    labels = LabelNames(data.name, shape.channels, shape.size, saved.classes or class_names(data))
    with Hardware(torch.device("cpu"), bf16=False, threads=1).in_use(), torch.inference_mode():
        reference = measure(lambda pixels: saved.model(torch.from_numpy(pixels).float()).numpy(), test)
    table = [HEADER, _row(saved.file, saved.model, reference, "PyTorch")]

    slim = fold_norms(saved.model)
    content, file = convert(slim, labels), folder / f"{saved.file.stem}.onnx"
    plain = measure(OnnxModel(content, file, threads=1).logits, test)
    print(f"{file}: {agreement(file, plain.logits, reference.logits)}", flush=True)
    write_whole(file, content)
    table.append(_row(file, slim, plain, "ONNX Runtime"))

    if calibrating is not None:
        content, file = quantise(content, calibrating, labels), file.with_suffix(".int8.onnx")
        small = measure(OnnxModel(content, file, threads=1).logits, test)
        same = int((small.logits.argmax(1) == reference.logits.argmax(1)).sum())
        print(
            f"{file}: calibrated on {len(calibrating):,} training images; the same class as PyTorch on {same:,} "
            f"of the {len(test):,} test images",
            flush=True,
        )
        write_whole(file, content)
        table.append(_row(file, slim, small, "ONNX Runtime"))
        warn_of_loss(plain.accuracy, small.accuracy)
        if as_c:
            table.append(_export_c(content, labels, folder / f"{saved.file.stem}.c", test, small))
    return console.table(table, "lrrrrl", rules=(0,))


def _export_c(content: bytes, labels: LabelNames, file: Path, test: Images, small: Measurement) -> tuple[str, ...]:
    """Write a quantised model in C, try it on the test images if there is a compiler, and return its row."""
    made = write_c(content, labels, file.stem)
    row = (file.name, f"{made.constants:,}", "", "", "", "not run: there is no C compiler")
    said = "not tried, as there is no C compiler"
    if compiler():
        with running_c(made) as predict:
            found = measure(predict, test)
        same = int((found.logits.argmax(1) == small.logits.argmax(1)).sum())
        equal = int((found.logits == small.logits).all(1).sum())
        said = f"the same class as ONNX Runtime's int8 on {same:,} of the {len(test):,} test images"
        said += f", the same logits on {equal:,}"
        row = (*row[:3], f"{100 * found.accuracy:.2f}%", f"{found.milliseconds:.3f}", "C, in integers")
    print(f"{file}: {said}; {made.constants:,} bytes of constants, {made.arena:,} of working memory", flush=True)
    write_whole(file, made.source)
    write_whole(file.with_suffix(".h"), made.header)
    return row


def _words(shape: DataShape) -> str:
    return f"{shape.channels}x{shape.size}x{shape.size} images of {shape.classes} classes"


def _row(file: Path, model: nn.Module, measured: Measurement, by: str) -> tuple[str, ...]:
    params = sum(weights.numel() for weights in model.parameters())
    figures = f"{params:,}", f"{100 * measured.accuracy:.2f}%", f"{measured.milliseconds:.3f}"
    return file.name, f"{file.stat().st_size:,}", *figures, by


# ---- conversion


class FromBytes(nn.Module):
    """A model that takes its pixels as uint8."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels.float())  # type: ignore[no-any-return]


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy, to predict with, in which each batch norm has become part of the convolution before it.

    One that comes after max pooling can only if it turns no channel's order round; else it stays.
    """
    model = copy.deepcopy(model).eval()
    for module in [each for each in model.modules() if isinstance(each, nn.Sequential)]:
        for index, layer in enumerate(module):
            if not isinstance(layer, nn.Conv2d):
                continue
            pooled = isinstance(module[index + 1], nn.MaxPool2d)
            norm = module[index + 1 + pooled]
            if isinstance(norm, nn.BatchNorm2d) and not (pooled and bool((norm.weight < 0).any())):
                module[index], module[index + 1 + pooled] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return model


def convert(model: nn.Module, labels: LabelNames) -> bytes:
    """The ONNX file of a model of raw pixels: pixels uint8 (batch, C, H, W) -> logits float32 (batch, classes)."""
    example = torch.zeros(2, labels.channels, labels.size, labels.size, dtype=torch.uint8)  # 1 isn't kept dynamic
    with _quiet():
        program = torch.onnx.export(
            FromBytes(model).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    content = program.model_proto
    graph = content.graph
    # The exporter notes the Python lines that each node comes from, and where they lie on this machine.
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return _serialise(content, labels)


def quantise(content: bytes, pixels: Pixels, labels: LabelNames) -> bytes:
    """A converted model with weights in int8, a scale for each channel, and activations in uint8, their ranges
    being those that the images, raw pixels (N, C, H, W), lead to, but for one value in ten thousand on either
    side. What it takes and gives stays the same.

    The rare far ones cost all others precision: with ranges that held them all, a model of 955 parameters lost
    more than twice as much accuracy.

    Activations without sign are what ONNX Runtime's kernels for x86 are made for: with int8 they took two to four
    times as long. Weights keep to 7 bits: where the processor has no VNNI instructions, those kernels add two
    products in 16 bits, which 8-bit weights overflow, and the same file would lose points of accuracy there. What
    comes before the first convolution stays in float: to set an image upright in eight bits took twice as long."""
    nodes = onnx.load_from_string(content).graph.node
    prepares = [node.name for node in itertools.takewhile(lambda node: node.op_type != "Conv", nodes)]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, quantised = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        plain.write_bytes(content)
        quantize_static(
            plain,
            quantised,
            _Batches(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "CalibPercentile": PERCENTILE,
                "CalibTensorRangeSymmetric": False,  # the other way of counting fails on values that hardly differ
                "CalibStridedMinMax": 1,  # a part at a time: the values of all activations are held until counted
            },
            reduce_range=True,
            nodes_to_exclude=prepares,
        )
        return _serialise(onnx.load(quantised), labels)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Raw pixels (N, C, H, W) as the quantiser asks for them: some parts, then the next of these."""

    def __init__(self, pixels: Pixels) -> None:
        self.parts = [
            pixels[start : start + CALIBRATED_AT_ONCE] for start in range(0, len(pixels), CALIBRATED_AT_ONCE)
        ]
        self.asked = iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.asked = iter(self.parts[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        part = next(self.asked, None)
        return None if part is None else {INPUT: part}


def _parts(pixels: Pixels) -> Iterator[Pixels]:
    return (pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE))


def _serialise(content: onnx.ModelProto, labels: LabelNames) -> bytes:
    """The bytes of a file that tells the names of its labels."""
    content.ClearField("metadata_props")
    content.metadata_props.add(key=METADATA, value=labels.to_json())
    onnx.checker.check_model(content)
    return bytes(content.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter and the quantiser say and warn of, with which a user can do nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


# ---- checks


def measure(model: Callable[[Pixels], Logits], test: Images) -> Measurement:
    pixels = test.pixels.numpy()
    logits = np.concatenate([model(part) for part in _parts(pixels)])
    times = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        model(pixels[:1])
        times.append(time.perf_counter() - began)
    accuracy = float((logits.argmax(1) == test.labels.numpy()).mean())
    return Measurement(logits, accuracy, 1000 * statistics.median(times[WARM_UP:]))


def agreement(file: Path, logits: Logits, reference: Logits) -> str:
    """In words, how two models' logits (N, classes) of the same images agree; refused if rounding doesn't explain
    the difference."""
    total = len(reference)
    others = int((logits.argmax(1) != reference.argmax(1)).sum())
    apart = float(np.abs(logits - reference).max())
    if others or not apart <= CLOSE * max(1.0, float(np.abs(reference).max())):
        raise DataError(
            f"{file} was not written, as it must equal the model in PyTorch: another class on {others:,} of the "
            f"{total:,} test images, logits up to {apart:.2g} apart"
        )
    return f"the same class as PyTorch on all {total:,} test images, logits at most {apart:.1e} apart"


def warn_of_loss(plain: float, small: float) -> None:
    """Say so if quantisation costs more than MOST_LOST of accuracy."""
    if plain - small > MOST_LOST:
        print(
            f"warning: int8 loses {100 * (plain - small):.2f} points of test accuracy ({100 * plain:.2f}% to "
            f"{100 * small:.2f}%), more than {100 * MOST_LOST:g}; calibrate on more images (--calibration), or "
            "use the float model",
            file=sys.stderr,
        )
