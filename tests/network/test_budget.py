"""Costs against real models and hand counts, the widest model that fits, and the words of a refusal."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tinysweep.commands.inspect import inspect, layer_table
from tinysweep.data.catalogue import DataShape
from tinysweep.errors import BudgetError, ConfigError
from tinysweep.network.budget import (
    LARGEST_WIDTH,
    Cost,
    LayerCost,
    _passed_layers,
    excesses,
    fits,
    gate,
    measure,
    output_shape,
    refusal,
    resolve,
    widest,
)
from tinysweep.network.build import BLOCKS, Residual, SpatialPool, build_model, with_width
from tinysweep.network.deskew import Deskew
from tinysweep.settings.schema import (
    BudgetConfig,
    Config,
    DropoutConfig,
    DropoutName,
    Family,
    GrowthBy,
    Head,
    ModelConfig,
)
from tinysweep.settings.section import AUTO

MNIST = DataShape(channels=1, size=28, classes=10)
COLOUR = DataShape(channels=3, size=20, classes=4)

# One convolution a stage, for 6x6 images: few enough pixels to count everything by hand.
TINY = ModelConfig(width=2, depth=[1, 1], growth=2, stem_kernel=3, head=Head.gap)
TINY_SHAPE = DataShape(channels=1, size=6, classes=3)


def networks() -> list[tuple[ModelConfig, DataShape]]:
    """Every family and head, with and without what changes the cost."""
    variants: list[dict[str, Any]] = [
        {"depth": [1, 2]},
        {"depth": [2, 1], "bias": True, "hidden": 6, "stem_padding": True},
        {"depth": [1, 1], "growth": 0.5, "kernel": 1, "crop": 2, "deskew": True},
        {"depth": [2, 1], "bottleneck": 0.5, "stem_fraction": 0.5},
        {"depth": [1, 2, 1], "growth": 2, "pool_before_norm": True},
    ]
    heads, shapes = list(Head), (MNIST, COLOUR)
    return [
        (ModelConfig(family=family, head=heads[(i + j) % 3], width=6, **changes), shapes[(i + j) % 2])
        for (i, changes), (j, family) in product(enumerate(variants), enumerate(BLOCKS))
    ]


def real_params(config: ModelConfig, shape: DataShape) -> int:
    """The trainable parameters of the model as it will be trained."""
    return sum(parameter.numel() for parameter in build_model(config, shape).parameters())


# ---- what a model costs


def require_real_cost(config: ModelConfig, shape: DataShape) -> None:
    """Hold parameters and MACs to those that a forward pass of the real model shows."""
    model = build_model(config, shape).eval()
    elementwise = [0]  # products, which torch doesn't count; there are no others in learned pooling and deskewing
    for module in model.modules():
        if isinstance(module, SpatialPool | Deskew):
            module.register_forward_hook(
                lambda layer, inputs, _output: elementwise.append(
                    inputs[0].numel() * (2 if isinstance(layer, Deskew) else 1)
                )
            )
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, shape.channels, shape.size, shape.size))
    cost = measure(config, shape)
    assert cost.params == real_params(config, shape)
    assert cost.macs == counter.get_total_flops() / 2 + sum(elementwise)


def test_parameters_and_macs_are_those_of_the_real_model() -> None:
    for config, shape in networks():
        require_real_cost(config, shape)


class Own(nn.Module):
    """A block such as a user may write: layers side by side, one used twice, and weights without a layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(inputs, outputs, 3, padding="same")
        self.narrow = nn.Conv2d(inputs, outputs, 1)
        self.norm = nn.GroupNorm(1, outputs)
        self.scale = nn.Parameter(torch.ones(outputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(self.wide(x)) + self.narrow(x)) * self.scale  # type: ignore[no-any-return]


def test_layers_of_ones_own_cost_what_a_forward_pass_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS, Family.plain, lambda _config, inputs, outputs: Own(inputs, outputs))
    config = ModelConfig(family=Family.plain, width=4, depth=[2, 1], head=Head.gap)
    require_real_cost(config, COLOUR)
    layers = {layer.name: layer for layer in measure(config, COLOUR).layers}
    assert (layers["1.narrow"].output, layers["1.narrow"].macs) == ((4, 16, 16), 4 * 4 * 16 * 16)
    assert (layers["1"].params, layers["1"].macs) == (4, 0), "weights outside of the known layers: no MACs"
    assert [layer.params for layer in measure(config, COLOUR).layers if layer.name == "1.norm"] == [8, 0]
    assert max(layer.activation_bytes for layer in layers.values()) >= 2 * 4 * 16 * 16


class Lender(nn.Module):
    """Its convolution is never called, as its weights are used otherwise; and it has weights that take no part."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lent = nn.Conv2d(inputs, outputs, 1)
        self.idle = nn.Parameter(torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.lent.weight, self.lent.bias)


class Scaled(Residual):
    def __init__(self, body: nn.Module) -> None:
        super().__init__(body)
        self.scale = nn.Parameter(torch.ones(3))


def twice(inputs: int, outputs: int) -> nn.Module:
    """One convolution, used again, and one that shares its weights."""
    first, second, third = (nn.Conv2d(outputs if n else inputs, outputs, 1) for n in range(3))
    third.weight = second.weight
    return nn.Sequential(first, second, second, third)


@pytest.mark.parametrize(
    "block", [Lender, twice, lambda inputs, outputs: Scaled(nn.Sequential(nn.Conv2d(inputs, outputs, 1)))]
)
def test_no_weight_of_a_block_of_ones_own_goes_uncounted(
    block: Callable[[int, int], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BLOCKS, Family.plain, lambda _config, inputs, outputs: block(inputs, outputs))
    config = ModelConfig(family=Family.plain, width=4, depth=[2], head=Head.gap, growth=1.0)
    shape = DataShape(4, 16, 10)
    model = build_model(config, shape)
    assert measure(config, shape).params == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("views", [5, 9])
def test_views_multiply_macs_and_keep_the_image(views: int) -> None:
    for family in BLOCKS:
        config = ModelConfig(family=family, width=5, depth=[1, 2], views=views)
        require_real_cost(config, COLOUR)
        once, cost = measure(replace(config, views=1), COLOUR), measure(config, COLOUR)
        assert (cost.params, cost.macs) == (once.params, views * once.macs)
        assert cost.activation_bytes == once.activation_bytes + 3 * 20 * 20
        assert (cost.layers[0].kind, cost.layers[0].output) == (f"Views x{views}", (3, 20, 20))
        assert [layer.name for layer in cost.layers[1:]] == [layer.name for layer in once.layers]
        for count, within in ((1, True), (views, False)):
            assert fits(replace(config, views=count), COLOUR, BudgetConfig(macs=once.macs)) is within


def test_known_layers_are_those_that_a_forward_pass_meets() -> None:
    for config, shape in networks():
        with torch.device("meta"):
            model = build_model(config, shape)
        assert _passed_layers(model, shape) == [*measure(config, shape).layers]


def test_a_layer_with_other_settings_than_ours_is_no_known_one() -> None:
    for layer in (nn.Conv2d(1, 1, 3, dilation=2), nn.MaxPool2d(3), nn.AdaptiveAvgPool2d(2), nn.GroupNorm(1, 1)):
        assert output_shape(layer, (1, 9, 9)) is None
    assert output_shape(nn.Conv2d(1, 2, 3, stride=2, padding=1), (1, 9, 9)) == (2, 5, 5)


def test_every_layer_of_a_small_network_costs_what_is_counted_by_hand() -> None:
    cost = measure(TINY, TINY_SHAPE)
    assert [(layer.kind, layer.params, layer.macs, layer.activation_bytes) for layer in cost.layers] == [
        ("Conv2d 3x3", 1 * 2 * 9, 2 * 4 * 4 * 9, 36 + 32),
        ("BatchNorm2d", 2 * 2, 0, 32),
        ("ReLU", 0, 0, 32),
        ("MaxPool2d", 0, 0, 32 + 8),
        ("Conv2d 3x3", 2 * 4 * 9, 4 * 2 * 2 * 18, 8 + 16),
        ("BatchNorm2d", 2 * 4, 0, 16),
        ("ReLU", 0, 0, 16),
        ("AdaptiveAvgPool2d", 0, 0, 16 + 4),
        ("Flatten", 0, 0, 4),
        ("Linear", 4 * 3 + 3, 4 * 3, 4 + 3),
    ]
    assert cost.params == 18 + 4 + 72 + 8 + 15 == 117
    assert cost.macs == 288 + 288 + 12
    assert cost.activation_bytes == 68


def test_separable_residual_and_spatial_layers_cost_what_is_counted_by_hand() -> None:
    separable = measure(replace(TINY, family=Family.separable), TINY_SHAPE)
    assert [(layer.kind, layer.macs, layer.activation_bytes) for layer in separable.layers if layer.macs] == [
        ("Conv2d 3x3", 288, 68),
        ("Conv2d 3x3 depthwise", 2 * 2 * 2 * 9, 8 + 8),
        ("Conv2d 1x1", 4 * 2 * 2 * 2, 8 + 16),
        ("Linear", 12, 7),
    ]
    residual = measure(replace(TINY, family=Family.residual, growth=1, head=Head.spatial), TINY_SHAPE)
    # The shortcut's input is the convolution's input, so it takes no bytes of its own.
    assert [(layer.kind, layer.macs, layer.activation_bytes) for layer in residual.layers if layer.macs] == [
        ("Conv2d 3x3", 288, 68),
        ("Conv2d 3x3", 2 * 2 * 2 * 18, 8 + 8),
        ("SpatialPool", 2 * 2 * 2, 8 + 2),
        ("Linear", 2 * 3, 2 + 3),
    ]


def test_a_model_far_larger_than_memory_is_measured() -> None:
    cost = measure(ModelConfig(width=100_000, depth=[1, 1], growth=1, head=Head.gap), MNIST)
    assert cost.params == 25 * 10**5 + 9 * 10**10 + 2 * 2 * 10**5 + 10 * 10**5 + 10


def test_measuring_leaves_random_state_and_default_device_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    measure(TINY, TINY_SHAPE)
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled()


# ---- bounds


@pytest.mark.parametrize(
    ("budget", "allowed"),
    [
        (BudgetConfig(params=117), False),
        (BudgetConfig(params=118), True),
        (BudgetConfig(macs=587), False),
        (BudgetConfig(macs=588), True),
        (BudgetConfig(activation_bytes=67), False),
        (BudgetConfig(activation_bytes=68), True),
        (BudgetConfig(params=118, macs=588, activation_bytes=68), True),
        (BudgetConfig(params=118, macs=588, activation_bytes=67), False),
    ],
)
def test_parameters_must_be_fewer_and_the_rest_at_most(budget: BudgetConfig, allowed: bool) -> None:
    cost = measure(TINY, TINY_SHAPE)
    assert (cost.params, cost.macs, cost.activation_bytes) == (117, 588, 68)
    assert fits(TINY, TINY_SHAPE, budget) is allowed
    assert (excesses(cost, budget) == []) is allowed
    config = Config(model=TINY, budget=budget)
    if allowed:
        assert gate(config, TINY_SHAPE) == cost
    else:
        with pytest.raises(BudgetError):
            gate(config, TINY_SHAPE)


def test_every_exceeded_bound_is_named_with_cost_and_limit() -> None:
    cost = Cost((LayerCost("0", "Conv2d 3x3", (1,), 12_345, 67_890, 4_321),))
    assert excesses(cost, BudgetConfig(params=12_345, macs=67_889, activation_bytes=4_320)) == [
        "12,345 trainable parameters, must be fewer than budget.params=12345",
        "67,890 MACs an image, at most budget.macs=67889",
        "4,321 peak activation bytes, at most budget.activation_bytes=4320",
    ]


# ---- the widest that fits

BOUNDS = [
    BudgetConfig(params=1_000),
    BudgetConfig(params=5_000),
    BudgetConfig(params=20_000),
    BudgetConfig(params=300_000),
    BudgetConfig(macs=300_000),
    BudgetConfig(activation_bytes=9_000),
    BudgetConfig(params=8_000, macs=500_000, activation_bytes=12_000),
]


def within(config: ModelConfig, shape: DataShape, budget: BudgetConfig) -> bool:
    """The rule again, with the parameters of a real model."""
    cost = measure(config, shape)
    return (
        real_params(config, shape) < budget.params
        and (budget.macs is None or cost.macs <= budget.macs)
        and (budget.activation_bytes is None or cost.activation_bytes <= budget.activation_bytes)
    )


@pytest.mark.parametrize("budget", BOUNDS, ids=str)
@pytest.mark.parametrize("family", list(BLOCKS))
def test_auto_is_the_widest_within_every_bound(family: Family, budget: BudgetConfig) -> None:
    model = ModelConfig(family=family, growth_by=GrowthBy.conv, depth=[1, 2], growth=1.3)
    config = Config(name="kept", model=model, budget=budget)
    resolved = resolve(config, MNIST)
    width = resolved.model.width
    assert isinstance(width, int)
    assert resolved == replace(config, model=with_width(model, width))
    assert within(resolved.model, MNIST, budget)
    assert not within(with_width(model, width + 1), MNIST, budget)
    assert gate(resolved, MNIST).params == real_params(resolved.model, MNIST)


def test_auto_stops_where_the_range_of_width_ends() -> None:
    config = ModelConfig(depth=[1], head=Head.gap)
    assert widest(config, MNIST, BudgetConfig(params=10**9)) == LARGEST_WIDTH
    with_width(config, LARGEST_WIDTH)
    with pytest.raises(ConfigError, match=r"model\.width=100001 must lie in"):
        with_width(config, LARGEST_WIDTH + 1)


@pytest.mark.parametrize("growth_by", list(GrowthBy))
@pytest.mark.parametrize("family", list(BLOCKS))
def test_the_largest_budget_has_a_widest_model(family: Family, growth_by: GrowthBy) -> None:
    budget = BudgetConfig(params=10**12)
    config = ModelConfig(family=family, depth=[1, 2, 1], growth=10, growth_by=growth_by, kernel=1)
    width = widest(config, MNIST, budget)
    assert width is not None
    assert fits(with_width(config, width), MNIST, budget)
    assert not fits(with_width(config, width + 1), MNIST, budget)


@pytest.mark.parametrize(
    "budget",
    [
        BudgetConfig(params=50),
        BudgetConfig(macs=1_000),
        BudgetConfig(activation_bytes=784),
        BudgetConfig(params=1),
    ],
    ids=str,
)
def test_it_is_told_when_no_width_fits(budget: BudgetConfig) -> None:
    config = Config(budget=budget)
    narrow = replace(config, model=with_width(config.model, 1))
    assert widest(config.model, MNIST, budget) is None
    for refusing in (lambda: resolve(config, MNIST), lambda: gate(narrow, MNIST)):
        with pytest.raises(BudgetError, match=r"^over budget at model\.width=1: ") as caught:
            refusing()
        assert str(caught.value).splitlines()[-1].startswith("no width fits: use fewer stages")


def test_images_and_channels_that_make_no_model_are_refused_before_any_budget() -> None:
    with pytest.raises(ConfigError, match="no pixels left"):
        resolve(Config(), DataShape(1, 4, 10))
    with pytest.raises(ConfigError, match="channels"):
        resolve(Config(model=ModelConfig(depth=[90] * 9, growth=10, growth_by=GrowthBy.conv)), MNIST)


# ---- the refusal


@pytest.mark.parametrize("budget", BOUNDS[:3] + BOUNDS[4:], ids=str)
@pytest.mark.parametrize("family", list(BLOCKS))
def test_the_advice_of_a_refusal_is_true(family: Family, budget: BudgetConfig) -> None:
    config = ModelConfig(family=family, width=200, depth=[1, 2], growth=1.3)
    with pytest.raises(BudgetError) as caught:
        gate(Config(model=config, budget=budget), MNIST)
    advice = re.search(r"the widest that fits is model\.width=(\d+), which", str(caught.value).splitlines()[-1])
    assert advice
    width = int(advice[1])
    assert within(with_width(config, width), MNIST, budget)
    assert not within(with_width(config, width + 1), MNIST, budget)
    assert resolve(Config(model=replace(config, width=AUTO), budget=budget), MNIST).model.width == width


@pytest.mark.parametrize(
    ("budget", "kind"),
    [
        (BudgetConfig(), "params"),
        (BudgetConfig(params=10**7, macs=10_000), "macs"),
        (BudgetConfig(params=10**7, activation_bytes=7_000), "activation_bytes"),
        (BudgetConfig(macs=10_000), "params"),
    ],
)
def test_a_refusal_names_the_layers_that_cost_most(budget: BudgetConfig, kind: str) -> None:
    config = ModelConfig(width=12, depth=[1, 1, 2], head=Head.linear, hidden=100)
    cost = measure(config, MNIST)
    first, *lines, _advice = refusal(config, MNIST, budget).splitlines()
    assert first == f"over budget at model.width=12: {'; '.join(excesses(cost, budget))}"
    named = [re.search(r"\(layer (\S+)\)$", line) for line in lines]
    assert [match and match[1] for match in named] == [
        layer.name for layer in sorted(cost.layers, key=lambda layer: getattr(layer, kind), reverse=True)[:3]
    ]
    by_name = {layer.name: layer for layer in cost.layers}
    for line, match in zip(lines, named, strict=True):
        assert match
        layer = by_name[match[1]]
        numbers = re.findall(r"([\d,]+) (params|MACs|live bytes)", line)
        assert numbers == [
            (f"{layer.params:,}", "params"),
            (f"{layer.macs:,}", "MACs"),
            (f"{layer.activation_bytes:,}", "live bytes"),
        ]
        assert f"{layer.kind} -> {'x'.join(map(str, layer.output))}" in line


# ---- the table


def test_the_table_has_a_line_for_each_layer_and_totals() -> None:
    config = ModelConfig(width=9, depth=[1, 2], head=Head.linear, hidden=30)
    cost = measure(config, MNIST)
    header, rule, *lines, rule_again, total = layer_table(cost).splitlines()
    assert re.split(r"\s{2,}", header) == ["layer", "kind", "output", "params", "MACs", "live bytes"]
    assert rule == rule_again == "-" * max(len(line) for line in layer_table(cost).splitlines())
    assert [re.split(r"\s{2,}", line) for line in lines] == [
        [
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output)),
            f"{layer.params:,}",
            f"{layer.macs:,}",
            f"{layer.activation_bytes:,}",
        ]
        for layer in cost.layers
    ]
    columns = list(zip(*[line.replace(",", "").split()[-3:] for line in lines], strict=True))
    params, macs, live = [[int(cell) for cell in column] for column in columns]
    assert re.split(r"\s{2,}", total) == ["total", f"{sum(params):,}", f"{sum(macs):,}", f"{max(live):,} peak"]


def test_in_python_the_table_has_the_same_rows_as_numbers_within_the_budget_or_not() -> None:
    config = Config(model=ModelConfig(width=32), dropout=DropoutConfig(name=DropoutName.block))
    layers = inspect(config)
    cost = measure(config.model, MNIST, config.dropout)
    printed = [line.split()[0] for line in layer_table(cost).splitlines() if "---" not in line]
    assert [layers.index.name, *layers.index] == printed
    assert layers.params[:-1].sum() == layers.params["total"] == cost.params > config.budget.params
    assert layers.MACs[:-1].sum() == layers.MACs["total"] == cost.macs
    assert layers["live bytes"][:-1].max() == layers["live bytes"]["total"] == cost.activation_bytes
    assert inspect(Config()).params["total"] < Config().budget.params, "model.width=auto fits"


def test_a_refusal_names_layers_as_they_are_listed_with_dropout() -> None:
    config = Config(model=ModelConfig(width=32), dropout=DropoutConfig(name=DropoutName.block))
    with pytest.raises(BudgetError) as caught:
        gate(config, MNIST)
    listed = {layer.name: layer.params for layer in measure(config.model, MNIST, config.dropout).layers}
    named = re.findall(r"^ +([\d,]+) params .*\(layer (\S+)\)$", str(caught.value), flags=re.MULTILINE)
    assert len(named) == 3
    assert all(listed[name] == int(params.replace(",", "")) for params, name in named)
