"""A trained model as ONNX, in float32 and in int8."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinysweep.deploy.onnx_session import METADATA
from tinysweep.run.labels import LabelNames

OPSET = 20  # ONNX 1.15; ONNX Runtime has it since 1.17
INPUT, OUTPUT = "pixels", "logits"
CALIBRATED_AT_ONCE = 100  # images


class FromBytes(nn.Module):
    """A model that takes its pixels as uint8."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels.float())  # type: ignore[no-any-return]


def folded(model: nn.Module) -> nn.Module:
    """A copy, to predict with, in which each batch norm has become part of the convolution before it.

    One that comes after max pooling can only if it turns no channel's order round; else it stays.
    """
    return _fold(copy.deepcopy(model).eval())


def _fold(module: nn.Module) -> nn.Module:
    for child in module.children():
        _fold(child)
    if isinstance(module, nn.Sequential):
        places = {index: layer for index, layer in enumerate(module) if isinstance(layer, nn.Conv2d)}
        for index, layer in places.items():
            pooled = isinstance(module[index + 1], nn.MaxPool2d)
            norm = module[index + 1 + pooled]
            if isinstance(norm, nn.BatchNorm2d) and not (pooled and bool((norm.weight < 0).any())):
                module[index], module[index + 1 + pooled] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return module


def convert(model: nn.Module, labels: LabelNames) -> bytes:
    """The ONNX file of a model of raw pixels: pixels uint8 (batch, C, H, W) -> logits float32 (batch, classes)."""
    # Two, as a batch of one would not stay dynamic.
    example = torch.zeros(2, labels.channels, labels.size, labels.size, dtype=torch.uint8)
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
    return _described(content, labels)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Raw pixels uint8 (N, C, H, W), some at a time."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        starts = range(0, len(pixels), CALIBRATED_AT_ONCE)
        self.parts: Iterator[NDArray[np.uint8]] = (pixels[start : start + CALIBRATED_AT_ONCE] for start in starts)

    def get_next(self) -> dict[str, Any] | None:
        part = next(self.parts, None)
        return None if part is None else {INPUT: part}


def quantise(content: bytes, pixels: NDArray[np.uint8], labels: LabelNames) -> bytes:
    """A converted model with weights in int8, a scale for each channel, and activations in uint8, their ranges
    being those that the images, raw pixels (N, C, H, W), lead to. What it takes and gives stays the same.

    Activations without sign are what ONNX Runtime's kernels for x86 are made for: with int8 they took two to four
    times as long. Weights keep to 7 bits: where the processor has no VNNI instructions, those kernels add two
    products in 16 bits, which 8-bit weights overflow, and the same file would lose points of accuracy there."""
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
            reduce_range=True,
        )
        return _described(onnx.load(quantised), labels)


def _described(content: onnx.ModelProto, labels: LabelNames) -> bytes:
    """The bytes of a file that tells its label names."""
    content.ClearField("metadata_props")
    content.metadata_props.add(key=METADATA, value=labels.to_json())
    onnx.checker.check_model(content)
    return bytes(content.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporter and the quantiser, which a user can do nothing about."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
