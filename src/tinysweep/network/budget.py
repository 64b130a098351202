"""What a model costs, without allocating it, and the gate that no model over budget passes.

Costs are those of one image: trainable parameters, multiply-accumulates (MACs), and the peak of activation
memory with int8 activations.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import BudgetError
from tinysweep.network.build import Crop, Residual, SpatialPool, build_model, with_width
from tinysweep.network.deskew import Deskew
from tinysweep.settings.schema import AUTO, BudgetConfig, Config, DropoutConfig, ModelConfig

LARGEST_WIDTH = 100_000  # where the range of model.width ends
CONTAINERS = (nn.Sequential, Residual)
IN_PLACE = (nn.BatchNorm2d, nn.ReLU, nn.SiLU, nn.Dropout)  # or folded into the layer before

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerCost:
    """One layer: its output shape without the batch, its cost, and the activation bytes live while it runs."""

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """A whole model, layer by layer in the order of execution."""

    layers: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        return max(layer.activation_bytes for layer in self.layers)


def measure(config: ModelConfig, shape: DataShape, dropout: DropoutConfig | None = None) -> Cost:
    """The cost of the model of `config`: no weight is allocated, and no image computed. The layers of `dropout`,
    which cost nothing, are listed if it is given.

    MACs are counted for convolutions, linear layers, learned pooling and deskewing. Peak activation memory is the
    largest sum of a layer's input and output at a byte a value, as a microcontroller needs it that runs layer by
    layer with batch norm folded into the convolution and activation and the shortcut's sum done in place (the
    accounting of Lin et al., 2020, MCUNet, arXiv:2007.10319).

    Of a layer that isn't among ours, such as one of a block of your own, the parameters and activations are
    counted, but no MACs.
    """
    with torch.device("meta"):
        model = build_model(dataclasses.replace(config, views=1), shape, dropout)
    image = (shape.channels, shape.size, shape.size)
    layers = _known_layers(model, image)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if not layers or sum(layer.params for layer in layers) != trainable:  # two may share their weights
        layers = _passed_layers(model, image)
    return Cost(tuple(layers if config.views == 1 else _seen_often(layers, config.views, image)))


def _seen_often(layers: list[LayerCost], views: int, image: Shape) -> list[LayerCost]:
    """Layers that see one view of an image after another, while the image is kept for those to come."""
    pixels = math.prod(image)
    often = [
        dataclasses.replace(each, macs=views * each.macs, activation_bytes=pixels + each.activation_bytes)
        for each in layers
    ]
    return [LayerCost("", f"Views x{views}", image, 0, 0, 2 * pixels), *often]


def _known_layers(model: nn.Module, inputs: Shape) -> list[LayerCost]:
    """The layers of a model in the order of execution, which is that of their names where every container is a
    sequence; empty if some layer or container isn't known."""
    found = []
    for name, layer in model.named_modules(remove_duplicate=False):
        if list(layer.children()):
            if type(layer) not in CONTAINERS:  # one derived from them may have weights of its own
                return []
            continue
        if (outputs := output_shape(layer, inputs)) is None:
            return []
        found.append(_layer_cost(name, layer, inputs, outputs))
        inputs = outputs
    return found


def _passed_layers(model: nn.Module, image: Shape) -> list[LayerCost]:
    """The layers of a model as a forward pass on the meta device meets them. It isn't done where every layer is
    known, as PyTorch imports its compiler for it, which takes seconds."""
    found: list[LayerCost] = []
    counted: set[nn.Parameter] = set()

    def count(layer: nn.Module) -> int:
        """The weights of a layer that no layer before it has, be it this one, used twice."""
        own = {weight for weight in layer.parameters(recurse=False) if weight.requires_grad} - counted
        counted.update(own)
        return sum(weight.numel() for weight in own)

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Any) -> None:
        made = outputs if isinstance(outputs, Tensor) else outputs[0]  # as attention gives its weights besides
        cost = _layer_cost(name, layer, tuple(inputs[0].shape[1:]), tuple(made.shape[1:]))
        found.append(dataclasses.replace(cost, params=count(layer)))

    for name, layer in model.named_modules():
        if not list(layer.children()) or list(layer.parameters(recurse=False)):
            layer.register_forward_hook(functools.partial(note, name))
    model.eval()(torch.empty(1, *image, device="meta"))
    # A layer may lend its weights without being called, and weights that take no part in it count as well.
    for name, layer in model.named_modules():
        if params := count(layer):
            found.append(LayerCost(name, _kind(layer), (), params, 0, 0))
    return found


def output_shape(layer: nn.Module, inputs: Shape) -> Shape | None:
    """The shape, without the batch, of what a layer makes of an input of shape (C, H, W) or (features,); None if
    the layer isn't known."""
    if isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str) and layer.dilation == (1, 1):
        return (layer.out_channels, *map(_slid, inputs[1:], layer.kernel_size, layer.padding, layer.stride))
    if isinstance(layer, Crop):
        return (inputs[0], *(side - 2 * layer.pixels for side in inputs[1:]))
    if isinstance(layer, nn.MaxPool2d) and layer.kernel_size == layer.stride == 2:
        return (inputs[0], *(side // 2 for side in inputs[1:]))
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size == 1:
        return (inputs[0], 1, 1)
    if isinstance(layer, SpatialPool):
        return inputs[:1]
    if isinstance(layer, nn.Flatten):
        return (math.prod(inputs),)
    if isinstance(layer, nn.Linear):
        return (layer.out_features,)
    return inputs if isinstance(layer, (*IN_PLACE, Deskew)) else None


def _slid(side: int, kernel: int, padding: int, stride: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def _layer_cost(name: str, layer: nn.Module, inputs: Shape, outputs: Shape) -> LayerCost:
    values = math.prod(outputs)
    macs, live = 0, math.prod(inputs) + values
    if isinstance(layer, nn.Conv2d):
        macs = values * layer.weight[0].numel()
    elif isinstance(layer, nn.Linear | SpatialPool):
        macs = layer.weight.numel()
    elif isinstance(layer, Deskew):
        macs = 2 * values  # a moment and an interpolation; the others are of whole rows
    elif isinstance(layer, (*IN_PLACE, nn.Flatten)):
        live = values  # folded, in place, or no work at all
    own = layer.parameters(recurse=False)
    return LayerCost(name, _kind(layer), outputs, sum(p.numel() for p in own if p.requires_grad), macs, live)


def _kind(layer: nn.Module) -> str:
    """Such as "Conv2d 3x3" or "Conv2d 3x3 depthwise"."""
    words = [type(layer).__name__]
    if isinstance(layer, nn.Conv2d):
        words.append("x".join(str(side) for side in layer.kernel_size))
        words += ["depthwise"] if layer.groups > 1 else []
    return " ".join(words)


def excesses(cost: Cost, budget: BudgetConfig) -> list[str]:
    """What a cost exceeds, a clause a bound; empty if it fits."""
    return list(_exceeded_bounds(cost, budget).values())


def _exceeded_bounds(cost: Cost, budget: BudgetConfig) -> dict[str, str]:
    """The kinds of cost, named as in LayerCost, that are over their bound, each with its clause."""
    found = {}
    if cost.params >= budget.params:
        found["params"] = f"{cost.params:,} trainable parameters, must be fewer than budget.params={budget.params}"
    if budget.macs is not None and cost.macs > budget.macs:
        found["macs"] = f"{cost.macs:,} MACs an image, at most budget.macs={budget.macs}"
    if budget.activation_bytes is not None and cost.activation_bytes > budget.activation_bytes:
        found["activation_bytes"] = (
            f"{cost.activation_bytes:,} peak activation bytes, at most "
            f"budget.activation_bytes={budget.activation_bytes}"
        )
    return found


def fits(config: ModelConfig, shape: DataShape, budget: BudgetConfig) -> bool:
    """Whether a model is within every bound."""
    return not excesses(measure(config, shape), budget)


def widest(config: ModelConfig, shape: DataShape, budget: BudgetConfig) -> int | None:
    """The largest width within the budget, all other choices given, or None if not even width 1 is.

    Every cost rises with the width, so doubling and then bisection find it.
    """

    def fits_at(width: int) -> bool:
        return width <= LARGEST_WIDTH and fits(with_width(config, width), shape, budget)

    if not fits_at(1):
        return None
    fitting, excessive = 1, 2
    while fits_at(excessive):
        fitting, excessive = excessive, 2 * excessive
    while excessive - fitting > 1:
        middle = (fitting + excessive) // 2
        fitting, excessive = (middle, excessive) if fits_at(middle) else (fitting, middle)
    return fitting


def resolve(config: Config, shape: DataShape) -> Config:
    """The configuration with a number for `model.width=auto`: the widest that fits, or a BudgetError."""
    if config.model.width != AUTO:
        return config
    width = widest(config.model, shape, config.budget)
    if width is None:
        raise BudgetError(refusal(with_width(config.model, 1), shape, config.budget, config.dropout))
    return dataclasses.replace(config, model=with_width(config.model, width))


def gate(config: Config, shape: DataShape) -> Cost:
    """The cost of a configuration whose width is a number, or a BudgetError where it is over budget."""
    cost = measure(config.model, shape)
    if excesses(cost, config.budget):
        raise BudgetError(refusal(config.model, shape, config.budget, config.dropout))
    return cost


def refusal(
    config: ModelConfig, shape: DataShape, budget: BudgetConfig, dropout: DropoutConfig | None = None
) -> str:
    """Why a model is refused: cost and limit, the layers that cost most of the first thing that is over its
    limit, and the widest width that would fit."""
    cost = measure(config, shape, dropout)
    exceeded = _exceeded_bounds(cost, budget)
    kind = next(iter(exceeded), "params")
    costliest = sorted(cost.layers, key=lambda layer: -int(getattr(layer, kind)))[:3]
    lines = [f"over budget at model.width={config.width}: {'; '.join(exceeded.values())}"]
    lines += [f"  {layer.params:>12,} params {layer.macs:>14,} MACs {layer.activation_bytes:>10,} live bytes  "
              f"{layer.kind} -> {'x'.join(map(str, layer.output))} (layer {layer.name})"
              for layer in costliest]  # fmt: skip
    width = widest(config, shape, budget)
    advice = (
        "no width fits: use fewer stages or blocks, a smaller growth, another head, or a larger budget"
        if width is None
        else f"the widest that fits is model.width={width}, which model.width=auto finds by itself"
    )
    return "\n".join([*lines, advice])
