"""A model in C compiles without a warning, gives what ONNX Runtime gives of the same int8 model, and needs no more
memory than the gate has counted."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from conftest import Command, made_images
from tinysweep.commands import export
from tinysweep.data.catalogue import DataShape
from tinysweep.deploy.c import STRICT, compiler, running_c, write_c
from tinysweep.deploy.classifier import OnnxModel
from tinysweep.deploy.export import convert, fold_norms, quantise
from tinysweep.deploy.integer import fraction
from tinysweep.errors import ConfigError
from tinysweep.network.budget import measure
from tinysweep.network.build import build_model
from tinysweep.run.labels import LabelNames
from tinysweep.settings.schema import Activation, DataName, Family, Head, ModelConfig
from tinysweep.training.loop import Normalise

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")

plain, residual, separable = Family.plain, Family.residual, Family.separable
SILU, GAP, LINEAR, SPATIAL = Activation.silu, Head.gap, Head.linear, Head.spatial
NETWORKS = [
    ModelConfig(family=plain, head=SPATIAL, padding=False),
    ModelConfig(family=plain, head=GAP, pool_before_norm=True, hidden=5),
    ModelConfig(family=plain, head=LINEAR, pool_before_norm=True, activation=SILU, growth=0.6, bottleneck=0.5),
    ModelConfig(family=residual, head=SPATIAL, activation=SILU, growth=1.0),
    pytest.param(ModelConfig(family=residual, head=LINEAR, crop=2, bias=True), marks=pytest.mark.slow),
    ModelConfig(family=separable, head=GAP, stem_padding=True),
    pytest.param(ModelConfig(family=separable, head=LINEAR, activation=SILU, crop=1), marks=pytest.mark.slow),
]


def labels(shape: DataShape) -> LabelNames:
    names = ("zero", "one */ two", *map(str, range(2, shape.classes)))
    return LabelNames(DataName.mnist, shape.channels, shape.size, names)


def quantised(config: ModelConfig, shape: DataShape, images: NDArray[np.uint8]) -> bytes:
    """A network with weights and norms as training may leave them, negative scales among them, in int8."""
    torch.manual_seed(0)
    network = build_model(config, shape)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.3)
    normalise = Normalise((0.3,) * shape.channels, (0.2,) * shape.channels)
    whole = nn.Sequential(normalise, network)
    with torch.no_grad():
        for _ in range(20):  # so that norms know what they see
            whole(torch.from_numpy(images).float())
    model = fold_norms(whole.eval())
    return quantise(convert(model, labels(shape)), images, labels(shape))


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", NETWORKS)
def test_c_gives_the_logits_of_onnx_runtime_in_no_more_memory_than_was_counted(
    config: ModelConfig, channels: int
) -> None:
    config.width, config.depth, config.stem_kernel = 4, [1, 2], 3
    shape = DataShape(channels, 16, 4)
    light = np.random.default_rng(0).random((200, 1, 1, 1))  # so that all logits vary
    images = (light * made_images(200, classes=4, size=16, channels=channels).pixels.numpy()).astype(np.uint8)
    content = quantised(config, shape, images)
    expected = OnnxModel(content, Path("model.onnx"), threads=1).logits(images)
    made = write_c(content, labels(shape), "digits")
    with running_c(made) as predict:
        found = predict(images)
    assert np.unique(expected).size > 12, "logits that hardly differ would prove little"
    assert (found == expected).mean() > 0.99
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.99
    assert np.abs(found - expected).max() <= 1.01 * made.scale, "one step, where a sum lies right between two"
    seen_whole = channels * (16**2 - (16 - 2 * config.crop) ** 2)  # the gate counts the image as cropped
    assert made.arena <= measure(config, shape).activation_bytes + seen_whole


def test_it_stays_within_arena_pixels_and_logits_and_leaves_no_undefined_behaviour(tmp_path: Path) -> None:
    shape = DataShape(1, 16, 4)
    config = ModelConfig(family=residual, width=4, depth=[1, 2], stem_kernel=3, activation=SILU, growth=1.0)
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)
    content = quantised(config, shape, images)
    made = write_c(content, labels(shape), "7 digits")
    assert made.name == "model_7_digits"
    (tmp_path / f"{made.name}.c").write_text(made.source)
    (tmp_path / f"{made.name}.h").write_text(made.header)
    pixels = ", ".join(map(str, images[0].ravel().tolist()))
    upper = made.name.upper()
    (tmp_path / "main.c").write_text(f"""
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include "{made.name}.h"
        static const uint8_t image[{upper}_PIXELS] = {{{pixels}}};
        int main(void) {{
            uint8_t *arena = malloc({upper}_ARENA_BYTES), *logits = malloc({upper}_CLASSES);
            memcpy(arena, image, {upper}_PIXELS);  /* the image may lie in the arena */
            const int inside = {made.name}_predict(arena, arena, logits);
            const int apart = {made.name}_predict(image, arena, 0);
            printf("%d %d\\n", inside, apart);
            free(arena); free(logits);
            return 0;
        }}
    """)
    build = [compiler() or "cc", *STRICT, "-fsanitize=address,undefined", "-fno-sanitize-recover", "-g",
             f"{made.name}.c", "main.c", "-o", "main"]  # fmt: skip
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    expected = OnnxModel(content, Path("model.onnx"), threads=1).logits(images[:1]).argmax(1)
    assert ran.stdout.split() == [str(expected[0])] * 2


@pytest.mark.parametrize("factor", [1e-6, 0.003, 0.49999, 0.5, 0.99999999999, 1.0, 7.3])
def test_a_factor_is_a_31_bit_number_and_a_shift(factor: float) -> None:
    whole, shift = fraction(factor)
    assert 2**30 <= whole < 2**31
    assert whole * 2.0**-shift == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "said"), [({"views": 5}, "--c has no code for"), ({"deskew": True}, "--c has no code for")]
)
def test_what_has_no_integer_layer_is_refused(changes: dict[str, object], said: str) -> None:
    shape = DataShape(1, 12, 3)
    config = ModelConfig(family=plain, width=2, depth=[1, 1], stem_kernel=3, **changes)  # type: ignore[arg-type]
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 12, 12), dtype=np.uint8)
    with pytest.raises(ConfigError, match=said):
        write_c(quantised(config, shape, images), labels(shape), "model")


def test_c_needs_the_quantised_model(command: Command) -> None:
    ended = command("somewhere", "--c", "--no-int8", main=export.main)
    assert (ended.status, ended.err) == (1, "error: --c writes the quantised model in C; leave out --no-int8\n")
