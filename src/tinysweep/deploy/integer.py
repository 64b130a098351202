"""A quantised ONNX graph as a list of integer layers, for a machine that has neither floats nor an allocator.

Every activation is uint8 with a scale and a zero point of its tensor, every weight int8 with a scale of its
channel. A sum of products comes back to 8 bits by a multiplication with a 31-bit fraction and a shift (Jacob et
al., 2018, arXiv:1712.05877); what only depends on one byte, such as SiLU, is a table of 256.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from tinysweep.errors import ConfigError

Table = NDArray[np.uint8]
Ints = NDArray[np.int64]
Shape = tuple[int, int, int]  # channels, height, width
THROUGH = ("Reshape", "Flatten", "Identity")
CODES = np.arange(256)


@dataclass(frozen=True)
class Value:
    """An activation tensor; a code stands for scale * (code - zero). Tables are computed as ONNX Runtime
    does, in float32, as a pixel often lies right between two codes."""

    name: str
    shape: Shape
    scale: float
    zero: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape)

    def real(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        return np.float32(self.scale) * (codes.astype(np.float32) - np.float32(self.zero))

    def codes(self, real: NDArray[Any]) -> Table:
        found: Table = np.clip(np.rint(real / np.float32(self.scale)) + self.zero, 0, 255).astype(np.uint8)
        return found


@dataclass
class Layer:
    """One layer: `kind` is the function that runs it, `numbers` and `arrays` what it is given besides. A `table`
    is looked up for every byte that it makes; `zero` is the zero point of these bytes before that."""

    kind: str
    inputs: list[Value]
    output: Value
    numbers: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    table: Table | None = None
    zero: int = -1

    def __post_init__(self) -> None:
        self.zero = self.output.zero


@dataclass
class Program:
    """Layers in the order of execution. The first reads the image's bytes through a table a channel, from `crop`
    pixels inside its edge on."""

    image: Shape
    tables: Table
    crop: int
    layers: list[Layer]

    def offsets(self) -> tuple[dict[str, int], int]:
        """Where in an arena each activation lies, and how many bytes that takes: no two overlap while both are
        needed, and what is added or looked up in place lies where it was. The image may lie at its beginning."""
        size = math.prod(self.image)
        while True:
            found, lacking = self._arrange(size)
            if not lacking:
                return found, size
            size += lacking

    def _arrange(self, size: int) -> tuple[dict[str, int], int]:
        """The places of all activations in an arena of that size, at one end of it and at the other by turns, and
        how many bytes it lacks for the first that has no place."""
        last = {value.name: step for step, layer in enumerate(self.layers) for value in layer.inputs}
        found: dict[str, int] = {}
        live = {"": (0, math.prod(self.image), last[self.layers[0].inputs[0].name])}  # begin, end, last step
        for step, layer in enumerate(self.layers):
            output = layer.output
            place = None
            if layer.kind in (
                "add",
                "look_up",
            ):  # byte by byte, so in place of an input that isn't needed any more
                place = next((live[each.name][0] for each in layer.inputs if last[each.name] == step), None)
            if place is None:
                taken = sorted((begin, end) for begin, end, _ in live.values())
                edges = [0, *itertools.chain.from_iterable(taken), size]
                gaps = list(zip(edges[::2], edges[1::2], strict=True))
                fitting = [(begin, end) for begin, end in gaps if end - begin >= output.bytes]
                if not fitting:
                    return {}, output.bytes - max(end - begin for begin, end in gaps)
                place = fitting[0][0] if taken[0][0] > 0 else fitting[-1][1] - output.bytes
            found[output.name] = place
            live = {name: each for name, each in live.items() if each[2] > step}
            live[output.name] = (place, place + output.bytes, last.get(output.name, len(self.layers)))
        return found, 0


def fraction(factor: float) -> tuple[int, int]:
    """A positive real number as a 31-bit whole number and how far it is shifted right."""
    mantissa, exponent = math.frexp(factor)
    whole = round(mantissa * 2**31)
    if whole == 2**31:
        whole, exponent = whole // 2, exponent + 1
    shift = 31 - exponent
    return (whole, shift) if shift <= 62 else (whole >> (shift - 62), 62)  # what 64 bits can be shifted by


def read_program(content: bytes) -> Program:
    """The layers of a quantised model.

    Raises:
        ConfigError: it has an operation that there is no integer layer for.
    """
    return _Reader(onnx.load_from_string(content)).read()


class _Reader:
    """Goes through a graph in the QDQ form, from one QuantizeLinear to the next."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = self.graph = model.graph
        self.constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        sides = graph.input[0].type.tensor_type.shape.dim[1:]
        self.image: Shape = (sides[0].dim_value, sides[1].dim_value, sides[2].dim_value)
        self.values: dict[str, Value] = {}
        self.sigmoids: dict[str, tuple[Value, Table]] = {}  # codes of a sigmoid by those of its input
        self.layers: list[Layer] = []
        self.tables, self.crop = np.zeros((0, 256), np.uint8), 0

    def read(self) -> Program:
        for node in self.graph.node:
            if node.op_type == "QuantizeLinear":
                self._read_value(node)
        return Program(self.image, self.tables, self.crop, self.layers)

    def _read_value(self, node: NodeProto) -> None:
        name = node.output[0]
        scale, zero = float(self.constants[node.input[1]]), int(self.constants[node.input[2]])
        maker = self._maker(node.input[0])
        clipped = maker.op_type == "Relu" and self._maker(maker.input[0]).op_type != "DequantizeLinear"
        if clipped:
            maker = self._maker(maker.input[0])
        read = getattr(self, f"_read_{maker.op_type.lower()}", None)
        if read is None:
            raise ConfigError(
                f"--c has no code for {maker.op_type}: it is for tinysweep's networks, without model.views and "
                "model.deskew, and for those made of the same layers"
            )
        read(maker, Value(name, (0, 0, 0), scale, zero))
        if clipped:
            self._look_up(self.values[name], self.values[name], np.maximum(CODES, zero).astype(np.uint8))

    # ---- what leads to a value

    def _maker(self, name: str) -> NodeProto:
        """The node that computes a tensor, reshaping aside."""
        if name not in self.makers:
            raise ConfigError("--c has no code for constants in floating point; it needs a fully quantised model")
        node = self.makers[name]
        return self._maker(node.input[0]) if node.op_type in THROUGH else node

    def _input(self, name: str) -> Value:
        """The activation that a dequantised tensor stands for."""
        node = self._maker(name)
        if node.op_type != "DequantizeLinear" or node.input[0] not in self.values:
            raise ConfigError(
                f"--c has no code for {node.op_type} in floating point; it needs a fully quantised model"
            )
        return self.values[node.input[0]]

    def _constant(self, name: str) -> tuple[Ints, NDArray[np.float64], Ints]:
        """Codes, scales and zero points of dequantised weights."""
        codes, scale, zero = (self.constants[each] for each in self.makers[name].input)
        return (
            codes.astype(np.int64),
            np.atleast_1d(scale).astype(np.float64),
            np.atleast_1d(zero).astype(np.int64),
        )

    def _real(self, name: str) -> NDArray[np.float64]:
        """Weights as real numbers, which may be quantised or not."""
        if name in self.constants:
            return np.asarray(self.constants[name], np.float64)
        codes, scale, zero = self._constant(name)
        spread = (-1, *(1,) * (codes.ndim - 1))
        return np.asarray((codes - zero.reshape(spread)) * scale.reshape(spread), np.float64)

    def _take(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.values[layer.output.name] = layer.output

    def _shaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        channels, height, width = (*shape, 1, 1)[:3]
        return Value(value.name, (int(channels), int(height), int(width)), value.scale, value.zero)

    # ---- layers

    def _read_div(self, node: NodeProto, output: Value, crop: int = 0) -> None:
        """The image, normalised."""
        minus = self.makers[node.input[0]]
        chain = [minus.op_type, self.makers[minus.input[0]].op_type]
        if chain != ["Sub", "Cast"] or self.values:
            raise ConfigError(
                "--c has no code for what comes before the first convolution; model.deskew must be false"
            )
        shift, scale = (np.broadcast_to(self.constants[each.input[1]].reshape(-1), self.image[0])
                        for each in (minus, node))  # fmt: skip
        self.tables = np.stack(
            [output.codes((CODES.astype(np.float32) - s) / d) for s, d in zip(shift, scale, strict=True)]
        )
        channels, height, width = self.image
        self.crop = crop
        self.values[output.name] = self._shaped(output, (channels, height - 2 * crop, width - 2 * crop))

    def _read_slice(self, node: NodeProto, output: Value) -> None:
        """A crop, which takes two slices."""
        starts = {int(self.constants[each.input[1]][0]) for each in (node, self._maker(node.input[0]))}
        inner = self._maker(self._maker(node.input[0]).input[0])
        if len(starts) != 1 or inner.op_type != "Div":
            raise ConfigError("--c has no code for model.views; export a model of one view")
        self._read_div(inner, output, starts.pop())

    def _read_conv(self, node: NodeProto, output: Value) -> None:
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        kernel, stride, pads = given["kernel_shape"], given.get("strides", [1, 1]), given.get("pads", [0] * 4)
        if len({*kernel}) > 1 or len({*stride}) > 1 or len({*pads}) > 1 or {*given.get("dilations", [1])} != {1}:
            raise ConfigError("--c has no code for convolutions with other than square, undilated kernels")
        weights, *_ = self._constant(node.input[1])
        source = self._input(node.input[0])
        sides = [(side + 2 * pads[0] - kernel[0]) // stride[0] + 1 for side in source.shape[1:]]
        self._weigh(node, source, self._shaped(output, (len(weights), *sides)), {
            "kernel": kernel[0], "stride": stride[0], "padding": pads[0], "groups": given.get("group", 1),
        })  # fmt: skip

    def _read_gemm(self, node: NodeProto, output: Value) -> None:
        weights, *_ = self._constant(node.input[1])
        source = self._input(node.input[0])
        flat = self._shaped(source, (source.bytes, 1, 1))
        numbers = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
        self._weigh(node, flat, self._shaped(output, (len(weights),)), numbers)

    def _weigh(self, node: NodeProto, source: Value, output: Value, numbers: dict[str, int]) -> None:
        """Sums of inputs times weights."""
        codes, scales, zeros = self._constant(node.input[1])
        codes = codes - zeros.reshape(-1, *(1,) * (codes.ndim - 1))
        scales = np.broadcast_to(scales, len(codes))
        bias = self._real(node.input[2]) if len(node.input) > 2 else np.zeros(len(codes))
        fractions = [fraction(source.scale * scale / output.scale) for scale in scales]
        self._take(Layer("convolve", [source], output, numbers, {
            "weights": codes.astype(np.int8),
            "bias": np.rint(bias / (source.scale * scales)).astype(np.int32),
            "factors": np.array([whole for whole, _ in fractions], np.int32),
            "shifts": np.array([shift for _, shift in fractions], np.uint8),
        }))  # fmt: skip

    def _read_maxpool(self, node: NodeProto, output: Value) -> None:
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if [*given["kernel_shape"], *given["strides"]] != [2] * 4 or any(given.get("pads", [0])):
            raise ConfigError("--c has no code for pooling other than 2x2")
        source = self._input(node.input[0])
        channels, height, width = source.shape
        made = self._shaped(output, (channels, height // 2, width // 2))
        self._take(Layer("pool", [source], made, table=self._recoded(source, output)))

    def _recoded(self, source: Value, output: Value) -> Table | None:
        """Codes of one scale as those of another; None if it is the same."""
        same = (source.scale, source.zero) == (output.scale, output.zero)
        return None if same else output.codes(source.real(CODES))

    def _read_dequantizelinear(self, node: NodeProto, output: Value) -> None:
        """The same activation once more, reshaped, or on another scale."""
        source = self.values[node.input[0]]
        table = self._recoded(source, output)
        made = self._shaped(output, source.shape)
        if table is None:
            self.values[output.name] = Value(source.name, source.shape, source.scale, source.zero)
        else:
            self._look_up(source, made, table)

    def _look_up(self, source: Value, output: Value, table: Table) -> None:
        """A function of each byte: part of the layer that makes it, if nothing else needs what that made."""
        maker = self.layers[-1] if self.layers and self.layers[-1].output.name == source.name else None
        later = sum(source.name in (value.name for value in layer.inputs) for layer in self.layers)
        if maker is not None and not later and (source.name == output.name or self._is_used_up(source)):
            maker.table = table if maker.table is None else table[maker.table]
            maker.output = output
        else:
            self.layers.append(Layer("look_up", [source], output, table=table))
        self.values[output.name] = output

    def _is_used_up(self, source: Value) -> bool:
        """Whether one function of its bytes, a sigmoid and a product in it, is all that an activation is for."""
        readers = [
            node for node in self.graph.node if node.op_type == "DequantizeLinear" and node.input[0] == source.name
        ]
        kinds = sorted(
            node.op_type for each in readers for node in self.graph.node if each.output[0] in node.input
        )
        return kinds in (["Mul", "Sigmoid"], ["Relu"], ["Sigmoid"], ["QuantizeLinear"])

    def _read_relu(self, node: NodeProto, output: Value) -> None:
        source = self._input(node.input[0])
        table = output.codes(np.maximum(0, source.real(CODES)))
        self._look_up(source, self._shaped(output, source.shape), table)

    def _read_sigmoid(self, node: NodeProto, output: Value) -> None:
        source = self._input(node.input[0])
        self.sigmoids[output.name] = source, output.codes(1 / (1 + np.exp(-source.real(CODES))))
        self.values[output.name] = self._shaped(output, source.shape)

    def _read_mul(self, node: NodeProto, output: Value) -> None:
        """SiLU, or an activation times constant weights a pixel, which a sum follows."""
        for first, second in (node.input, [*node.input][::-1]):
            name = self._maker(second).input[0]
            if name in self.sigmoids and self._maker(first).input[0] != name:
                source, codes = self.sigmoids[name]
                table = output.codes(source.real(CODES) * self.values[name].real(codes))
                self._look_up(source, self._shaped(output, source.shape), table)
                return
            if name in self.constants:
                source, (weights, scale, zero) = self._input(first), self._constant(second)
                whole, shift = fraction(source.scale * float(scale[0]) / output.scale)
                made = self._shaped(output, source.shape)
                self._take(Layer("multiply", [source], made, {"factor": whole, "shift": shift}, {
                    "weights": np.broadcast_to(weights - zero[0], (1, *source.shape)).astype(np.int16),
                }))  # fmt: skip
                return
        raise ConfigError("--c has no code for a product of two activations")

    def _read_reducesum(self, node: NodeProto, output: Value) -> None:
        source = self._input(node.input[0])
        self._sum(source, output, source.scale / output.scale)

    def _read_reducemean(self, node: NodeProto, output: Value) -> None:
        source = self._input(node.input[0])
        self._sum(source, output, source.scale / output.scale / math.prod(source.shape[1:]))

    def _sum(self, source: Value, output: Value, factor: float) -> None:
        """Of each channel's pixels; a product with weights that comes before is part of it."""
        whole, shift = fraction(factor)
        made = self._shaped(output, source.shape[:1])
        numbers = {"factor": whole, "shift": shift}
        if self.layers[-1].kind == "multiply" and self.layers[-1].output.name == source.name:
            inner = self.layers.pop()
            inside = {f"inner_{key}": value for key, value in inner.numbers.items()} | {"inner_zero": source.zero}
            self._take(Layer("weighted_sum", inner.inputs, made, numbers | inside, inner.arrays))
        else:
            self._take(Layer("sum", [source], made, numbers))

    def _read_add(self, node: NodeProto, output: Value) -> None:
        sources = [self._input(name) for name in node.input]
        ratios = [source.scale / output.scale for source in sources]
        _, shift = fraction(max(ratios))
        numbers = {f"factor_{place}": round(ratio * 2.0**shift) for place, ratio in enumerate(ratios)} | {
            "shift": shift
        }
        self._take(Layer("add", sources, self._shaped(output, sources[0].shape), numbers))

    def _read_batchnormalization(self, node: NodeProto, output: Value) -> None:
        """A norm that could not become part of a convolution, as there is pooling between the two."""
        source = self._input(node.input[0])
        weight, bias, mean, variance = (self._real(name) for name in node.input[1:5])
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
        slope = weight / np.sqrt(variance + epsilon)
        factor = slope * source.scale / output.scale
        shift = fraction(float(np.abs(factor).max()))[1]
        self._take(Layer("scale", [source], self._shaped(output, source.shape), {"shift": shift}, {
            "factors": np.rint(factor * 2.0**shift).astype(np.int32),
            "offsets": np.rint((bias - mean * slope) / output.scale * 2.0**shift).astype(np.int64),
        }))  # fmt: skip
