"""A quantised model as one C99 file and a header, without floats, heap or dependencies, and how both are tried."""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinysweep.deploy.integer import Layer, Program, read_program
from tinysweep.errors import ConfigError, DataError, first_line
from tinysweep.run.labels import LabelNames

LAYERS = Path(__file__).with_name("layers.c")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2")
TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t"}


@dataclass(frozen=True)
class CFile:
    """A model in C: `name` begins all that it makes known, `arena` is the working memory and `constants` what lies
    in flash beside the code, both in bytes."""

    name: str
    source: str
    header: str
    arena: int
    constants: int
    classes: int
    scale: float  # of the logits' codes, above their zero point
    zero: int


def write_c(content: bytes, labels: LabelNames, stem: str) -> CFile:
    """The C form of a quantised ONNX model, its names beginning with `stem`.

    Raises:
        ConfigError: it has an operation that there is no integer layer for.
    """
    program = read_program(content)
    name = re.sub(r"\W", "_", stem)
    name = name if not name[:1].isdigit() else f"model_{name}"
    writer = _Writer(program, name)
    source = writer.source()
    _, arena = program.offsets()
    logits, header = program.layers[-1].output, _header(program, labels, name, arena)
    return CFile(name, source, header, arena, writer.constants, logits.shape[0], logits.scale, logits.zero)


class _Writer:
    """Writes the constants of a program as arrays and its layers as calls."""

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name = program, name
        self.offsets, self.arena = program.offsets()
        self.arrays: list[str] = []
        self.constants = 0

    def source(self) -> str:
        calls = [self._call(step, layer) for step, layer in enumerate(self.program.layers)]
        used = {layer.kind for layer in self.program.layers}
        last = self.program.layers[-1].output
        body = "\n".join(f"    {line}" for call in calls for line in call.splitlines())
        return f'''/* Made by tinysweep. An image classifier in integers; {self.name}.h tells how to use it. */

#include "{self.name}.h"

{_functions(used)}
{"".join(self.arrays)}
int {self.name}_predict(const uint8_t *pixels, uint8_t *arena, uint8_t *logits)
{{
{body}
    const uint8_t *made = arena + {self.offsets[last.name]};
    int best = 0;
    for (int c = 0; c < {last.shape[0]}; c++) {{
        if (made[c] > made[best])
            best = c;
        if (logits)
            logits[c] = made[c];
    }}
    return best;
}}
'''

    def _array(self, label: str, values: NDArray[Any] | None) -> str:
        """The name of a new array, or 0 for none."""
        if values is None:
            return "0"
        flat = values.reshape(-1)
        lines = [", ".join(map(str, flat[start : start + 20].tolist())) for start in range(0, len(flat), 20)]
        text = ",\n    ".join(lines)
        self.arrays.append(f"static const {TYPES[str(flat.dtype)]} {label}[{len(flat)}] = {{\n    {text}}};\n\n")
        self.constants += flat.nbytes
        return label

    def _place(self, name: str) -> str:
        return f"arena + {self.offsets[name]}"

    def _call(self, step: int, layer: Layer) -> str:
        """The call that runs a layer."""
        output, numbers = layer.output, layer.numbers
        arrays = {name: self._array(f"{name}_{step}", values) for name, values in layer.arrays.items()}
        table = self._array(f"table_{step}", layer.table)
        if layer.kind == "convolve":
            return self._convolution(step, layer, arrays, table)
        if any(value.name not in self.offsets for value in layer.inputs):
            raise ConfigError("--c has no code for a network that begins otherwise than with a convolution")
        inputs = [self._place(value.name) for value in layer.inputs]
        source, to = layer.inputs[0], self._place(output.name)
        channels, height, width = source.shape
        pixels = height * width
        given = {
            "pool": f"{inputs[0]}, {channels}, {height}, {width}, {table}",
            "look_up": f"{inputs[0]}, {source.bytes}, {table}",
        }
        if layer.kind == "add":
            zeros = ", ".join(str(value.zero) for value in layer.inputs)
            factors = f"{numbers['factor_0']}, {numbers['factor_1']}, {numbers['shift']}"
            given["add"] = f"{', '.join(inputs)}, {source.bytes}, {zeros}, {factors}, {layer.zero}, {table}"
        end = f"{layer.zero}, {table}"
        if layer.kind == "scale":
            given["scale"] = (
                f"{inputs[0]}, {channels}, {pixels}, {source.zero}, {arrays['factors']}, {arrays['offsets']}, "
                f"{numbers['shift']}, {end}"
            )
        if layer.kind == "sum":
            given["sum"] = (
                f"{inputs[0]}, {channels}, {pixels}, {source.zero}, {numbers['factor']}, {numbers['shift']}, {end}"
            )
        if layer.kind == "weighted_sum":
            inner = f"{numbers['inner_factor']}, {numbers['inner_shift']}, {numbers['inner_zero']}"
            given["weighted_sum"] = (
                f"{inputs[0]}, {arrays['weights']}, {channels}, {pixels}, {source.zero}, {inner}, "
                f"{numbers['factor']}, {numbers['shift']}, {end}"
            )
        return f"{layer.kind}({given[layer.kind]}, {to});"

    def _convolution(self, step: int, layer: Layer, arrays: dict[str, str], table: str) -> str:
        (source,), output, numbers = layer.inputs, layer.output, layer.numbers
        channels, height, width = source.shape
        row, plane, tables, begin = width, height * width, "0", "pixels"
        if source.name in self.offsets:
            begin = self._place(source.name)
        else:
            _, high, wide = self.program.image
            crop = self.program.crop
            row, plane = wide, high * wide
            tables = self._array(f"input_tables_{step}", self.program.tables)
            begin = f"pixels + {crop * wide + crop}"
        fields = {
            "channels": channels, "height": height, "width": width, "stride_row": row, "stride_plane": plane,
            "outputs": output.shape[0], "kernel": numbers["kernel"], "stride": numbers["stride"],
            "padding": numbers["padding"], "groups": numbers["groups"], "zero_in": source.zero,
            "zero_out": layer.zero, **arrays, "input_tables": tables, "table": table,
        }  # fmt: skip
        text = ", ".join(f".{name} = {value}" for name, value in fields.items())
        self.arrays.append(f"static const convolution layer_{step} = {{\n    {text}}};\n\n")
        return f"convolve(&layer_{step}, {begin}, {self._place(output.name)});"


def _functions(used: set[str]) -> str:
    """The functions that a program calls, and what these need."""
    parts = re.split(r"\n(?=static |typedef )", LAYERS.read_text())
    wanted = used | {"convolve", "narrow"}
    names = [re.match(r"static [\w ]*?(\w+)\(", part) for part in parts]
    return "\n".join(part for part, name in zip(parts, names, strict=True) if not name or name[1] in wanted)


def _header(program: Program, labels: LabelNames, name: str, arena: int) -> str:
    upper, last = name.upper(), program.layers[-1].output
    channels, height, width = program.image
    order = "channel by channel, row by row" if channels > 1 else "row by row"
    # A comment can hold any name but its own end.
    classes = ", ".join(labels.classes).replace("*/", "* /").replace("\n", " ")
    return f"""/* Made by tinysweep. {channels}x{height}x{width} images of {last.shape[0]} classes: {classes}. */

#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#define {upper}_PIXELS {channels * height * width}
#define {upper}_CLASSES {last.shape[0]}
#define {upper}_ARENA_BYTES {arena}

/* A logit is {last.scale:.9g} times what lies above {last.zero}. */

/* The class of an image.
   pixels: {upper}_PIXELS bytes of 0 to 255, {order}; they may lie at the beginning of arena
   arena:  {upper}_ARENA_BYTES bytes of working memory, of any content before and after
   logits: {upper}_CLASSES bytes, or 0 */
int {name}_predict(const uint8_t *pixels, uint8_t *arena, uint8_t *logits);

#endif
"""


# ---- trying it


def compiler() -> str | None:
    """The C compiler of this machine, if it has one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@contextmanager
def running_c(
    made: CFile, flags: tuple[str, ...] = STRICT
) -> Iterator[Callable[[NDArray[np.uint8]], NDArray[np.float32]]]:
    """A model compiled by this machine's compiler, warnings being errors: raw pixels (N, C, H, W) -> logits
    (N, classes).

    Raises:
        DataError: it doesn't compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, f"{made.name}.c"), Path(folder, "model.so")
        source.write_text(made.source)
        source.with_suffix(".h").write_text(made.header)
        command = [compiler() or "cc", *flags, "-shared", "-fPIC", str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataError(f"{made.name}.c doesn't compile: {first_line(done.stderr.strip())}")
        predict = getattr(ctypes.CDLL(str(library)), f"{made.name}_predict")

        def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            arena, codes = np.full(made.arena, 77, np.uint8), np.zeros((len(pixels), made.classes), np.uint8)
            for image, row in zip(np.ascontiguousarray(pixels), codes, strict=True):
                predict(*(ctypes.c_void_p(each.ctypes.data) for each in (image, arena, row)))
            return np.float32(made.scale) * (codes.astype(np.float32) - np.float32(made.zero))

        yield logits
