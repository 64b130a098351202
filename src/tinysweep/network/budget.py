"""What a model costs, without allocating it, and the gate that no model over budget passes.

Costs are those of one image: trainable parameters, multiply-accumulates (MACs), and the peak of activation
memory with int8 activations.
"""

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import BudgetError, ConfigError
from tinysweep.network.build import Crop, Residual, SpatialPool, build_model, with_width
from tinysweep.network.custom import run_forward, target_of
from tinysweep.network.deskew import Deskew
from tinysweep.settings.schema import BudgetConfig, Config, DropoutConfig, Family, ModelConfig
from tinysweep.settings.section import AUTO

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
    """A whole model, layer by layer in the order of execution, and what isn't trained and doesn't count: frozen
    parameters, and the values of buffers, such as the running statistics of norms."""

    layers: tuple[LayerCost, ...]
    frozen: int = 0
    buffers: int = 0

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

    Other layers, and functions that multiply matrices or convolve, are counted in a forward pass on the meta
    device, or, where a network of one's own can't go there, on the CPU.

    Raises:
        ConfigError: a network of one's own can't be built or used as one.
    """
    try:
        return _measure_on("meta", config, shape, dropout)
    except ConfigError:
        if config.family != Family.custom:
            raise
        return _measure_on("cpu", config, shape, dropout)


def _measure_on(device: str, config: ModelConfig, shape: DataShape, dropout: DropoutConfig | None) -> Cost:
    with torch.device(device):
        model = build_model(dataclasses.replace(config, views=1), shape, dropout)
    image = (shape.channels, shape.size, shape.size)
    layers = [] if config.family == Family.custom else _known_layers(model, image)
    trainable = count_trainable(model)
    if not layers or sum(layer.params for layer in layers) != trainable:  # two may share their weights
        layers = _passed_layers(model, shape, f"model.target={config.target}")
    layers = layers if config.views == 1 else _seen_often(layers, config.views, image)
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    return Cost(tuple(layers), frozen, sum(buffer.numel() for buffer in model.buffers()))


def count_trainable(model: nn.Module) -> int:
    """The parameters that training moves, shared ones once."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


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


def _passed_layers(model: nn.Module, shape: DataShape, name: str = "the network") -> list[LayerCost]:
    """The layers of a model as a forward pass meets them, without gradients to be kept. It isn't done where every
    layer is known, as PyTorch imports its compiler for it, which takes seconds."""
    meter = _Meter(model)
    where = next((weight.device for weight in model.parameters()), None)
    # Two images, so that a network that mixes them up is found out.
    images = torch.empty(2, shape.channels, shape.size, shape.size, device=where).fill_(0)
    with meter.flops:
        run_forward(model.eval(), images, shape.classes, name)
    return meter.all_layers()


class _Meter:
    """Notes what each layer of a model makes and costs, while a forward pass goes through it."""

    def __init__(self, model: nn.Module) -> None:
        from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 few need it, and it imports a compiler

        self.model = model
        self.flops = FlopCounterMode(display=False)  # of the operations that multiply, whatever layer calls them
        self.layers: list[LayerCost] = []
        self.counted: set[nn.Parameter] = set()
        self.begun: list[tuple[int, int]] = []
        self.claimed = 0  # of those flops, by the layers that have ended
        for name, layer in model.named_modules():
            if not list(layer.children()) or list(layer.parameters(recurse=False)):
                layer.register_forward_pre_hook(self._begin)
                layer.register_forward_hook(functools.partial(self._end, name), with_kwargs=True)

    def _begin(self, *_: Any) -> None:
        self.begun.append((self.flops.get_total_flops(), self.claimed))

    def _end(self, name: str, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
        flops, claimed = self.begun.pop()
        own = self.flops.get_total_flops() - flops - (self.claimed - claimed)
        self.claimed += own
        given = next((each for each in (*inputs, *named.values()) if isinstance(each, Tensor)), None)
        first = made if isinstance(made, Tensor) else next(iter(made), None)  # attention gives its weights besides
        if not isinstance(given, Tensor) or not isinstance(first, Tensor):
            return
        cost = _layer_cost(name, layer, tuple(given.shape[1:]), tuple(first.shape[1:]))
        macs = max(cost.macs, own // 4)
        self.layers.append(dataclasses.replace(cost, params=self._count(layer), macs=macs))

    def _count(self, layer: nn.Module) -> int:
        """The weights of a layer that no layer before it has, be it this one, used twice."""
        own = {weight for weight in layer.parameters(recurse=False) if weight.requires_grad} - self.counted
        self.counted.update(own)
        return sum(weight.numel() for weight in own)

    def all_layers(self) -> list[LayerCost]:
        """The layers in the order of execution, then what they leave over."""
        # A layer may lend its weights without being called, and weights that take no part in it count as well.
        rest = [
            LayerCost(name, _kind(layer), (), params, 0, 0)
            for name, layer in self.model.named_modules()
            if (params := self._count(layer))
        ]
        elsewhere = (self.flops.get_total_flops() - self.claimed) // 4  # two images, multiplied and added
        functions = [LayerCost("", "functions", (), 0, elsewhere, 0)] if elsewhere else []
        return [*self.layers, *rest, *functions]


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

    Raises:
        ConfigError: a network of one's own costs less, or the same, at a larger width.
    """
    params: dict[int, int] = {}

    def fits_at(width: int) -> bool:
        if width > LARGEST_WIDTH:
            return False
        cost = measure(with_width(config, width), shape)
        params[width] = cost.params
        return not excesses(cost, budget)

    if not fits_at(1):
        return None
    fitting, excessive = 1, 2
    while fits_at(excessive):
        fitting, excessive = excessive, 2 * excessive
        _require_growth(config, params)
    while excessive - fitting > 1:
        middle = (fitting + excessive) // 2
        fitting, excessive = (middle, excessive) if fits_at(middle) else (fitting, middle)
    _require_growth(config, params)
    return fitting


def _require_growth(config: ModelConfig, params: dict[int, int]) -> None:
    """Refuse a network whose parameters, by width, don't grow with it."""
    if config.family != Family.custom:
        return
    widths = sorted(params)
    for width, wider in itertools.pairwise(widths):
        if params[width] > params[wider] or params[widths[0]] == params[widths[-1]]:
            raise ConfigError(
                f"model.target={config.target} has {params[width]:,} parameters at width {width} and "
                f"{params[wider]:,} at width {wider}, so none is the widest that fits; give model.width a number"
            )


def resolve(config: Config, shape: DataShape) -> Config:
    """The configuration with a number for `model.width=auto`: the widest that fits, or a BudgetError; and, of a
    network of one's own, with the digest of its source."""
    model = config.model
    if model.family == Family.custom:
        digest = target_of(model).digest() if model.digest is None else model.digest
        model = dataclasses.replace(model, digest=digest)
        unread = model.width == AUTO and not target_of(model).takes("width")
        config = dataclasses.replace(config, model=with_width(model, 1) if unread else model)
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
    width = (
        widest(config, shape, budget)
        if config.family != Family.custom or target_of(config).takes("width")
        else None
    )
    smaller = (
        "other options"
        if config.family == Family.custom
        else "fewer stages or blocks, a smaller growth, another head"
    )
    advice = (
        f"no width fits: use {smaller}, or a larger budget"
        if width is None
        else f"the widest that fits is model.width={width}, which model.width=auto finds by itself"
    )
    return "\n".join([*lines, advice])
