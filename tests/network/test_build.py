"""Networks: exact parameter counts against hand counts, shapes, where things sit, and what is refused."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError
from tinysweep.network.build import (
    BLOCKS,
    MOST_CHANNELS,
    Residual,
    SpatialPool,
    Views,
    build_model,
    channel_plan,
    with_width,
)
from tinysweep.settings.schema import Activation, DropoutConfig, DropoutName, Family, GrowthBy, Head, ModelConfig

MNIST = DataShape(channels=1, size=28, classes=10)
PRESETS = Path(__file__).parents[2] / "conf" / "model"


def preset(name: str) -> ModelConfig:
    """A file of conf/model as the typed section that Hydra makes of it."""
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(PRESETS / f"{name}.yaml"))
    return cast(ModelConfig, OmegaConf.to_object(merged))


def small(**changes: Any) -> ModelConfig:
    """A plain model of two stages of width 3, unless told otherwise."""
    settings: dict[str, Any] = {"family": Family.plain, "width": 3, "depth": [1, 2], "stem_kernel": 3}
    return ModelConfig(**(settings | changes))


def counts(model: nn.Module) -> list[int]:
    """Trainable parameters of each layer that has any, in the order of execution."""
    layers = [module for module in model.modules() if not list(module.children())]
    totals = [sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers]
    return [total for total in totals if total]


def images(shape: DataShape, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, shape.channels, shape.size, shape.size, generator=generator)


# ---- parameters


def test_the_baseline_has_exactly_its_published_parameters() -> None:
    found = counts(build_model(preset("era_seed"), MNIST))
    by_hand = [
        1 * 4 * 9 + 4, 2 * 4,
        4 * 8 * 9 + 8, 2 * 8,
        8 * 16 * 9 + 16, 2 * 16,
        16 * 32 * 9 + 32, 2 * 32,
        32 * 4 * 4 * 25 + 25,
        25 * 10 + 10,
    ]  # fmt: skip
    assert found == by_hand == [40, 8, 296, 16, 1168, 32, 4640, 64, 12825, 260]
    assert sum(found) == 19_349


@pytest.mark.parametrize(
    ("head", "hidden", "by_hand"),
    [
        # 28 pixels a side, 24 after the stem, 12 after the pooling between the stages; 6 channels.
        (Head.linear, 0, [6 * 6 * 6 * 10 + 10]),
        (Head.linear, 7, [6 * 6 * 6 * 7 + 7, 7 * 10 + 10]),
        (Head.gap, 0, [6 * 10 + 10]),
        (Head.gap, 7, [6 * 7 + 7, 7 * 10 + 10]),
        (Head.spatial, 0, [6 * 12 * 12, 6 * 10 + 10]),
        (Head.spatial, 7, [6 * 12 * 12, 6 * 7 + 7, 7 * 10 + 10]),
    ],
)
def test_every_head_has_the_parameters_counted_by_hand(head: Head, hidden: int, by_hand: list[int]) -> None:
    config = ModelConfig(width=4, depth=[1, 1], growth=1.5, head=head, hidden=hidden)
    found = counts(build_model(config, MNIST))
    assert found == [1 * 4 * 25, 2 * 4, 4 * 6 * 9, 2 * 6, *by_hand]


# ---- channels


@pytest.mark.parametrize(
    ("growth", "growth_by", "plan"),
    [
        (2.0, GrowthBy.stage, [[5], [10, 10, 10], [20, 20]]),
        (2.0, GrowthBy.conv, [[5], [10, 20, 40], [80, 160]]),
        (1.5, GrowthBy.stage, [[5], [8, 8, 8], [11, 11]]),
        (0.1, GrowthBy.conv, [[5], [1, 1, 1], [1, 1]]),
    ],
)
def test_channels_grow_with_each_stage_or_each_block(
    growth: float, growth_by: GrowthBy, plan: list[list[int]]
) -> None:
    config = ModelConfig(width=5, depth=[1, 3, 2], growth=growth, growth_by=growth_by)
    assert channel_plan(config) == plan
    for family in BLOCKS:
        model = build_model(replace(config, family=family, stem_padding=True), MNIST)
        blocks = [block for block in model if isinstance(block, nn.Sequential | Residual)]
        norms = [[m for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1] for block in blocks]
        assert [norm.num_features for norm in norms] == [channels for stage in plan for channels in stage]


@pytest.mark.parametrize(
    ("width", "growth", "multiple", "plan"),
    [
        (16, 1.22, 8, [[16, 16], [16], [24]]),  # 16, 19.5, 23.8
        (16, 1.5, 1, [[16, 16], [24], [36]]),
        (5, 2.0, 4, [[4, 4], [8], [20]]),
        (2, 1.0, 8, [[8, 8], [8], [8]]),
    ],
)
def test_channels_are_rounded_to_a_multiple(
    width: int, growth: float, multiple: int, plan: list[list[int]]
) -> None:
    config = ModelConfig(width=width, depth=[2, 1, 1], growth=growth, channel_multiple=multiple)
    assert channel_plan(config) == plan


def test_the_first_convolution_may_have_a_fraction_of_the_width() -> None:
    config = ModelConfig(width=32, depth=[2, 3], growth=0.625, stem_fraction=0.5)
    assert channel_plan(config) == [[16, 32], [20, 20, 20]]
    assert channel_plan(replace(config, stem_fraction=0.01, channel_multiple=4))[0] == [4, 32]


@pytest.mark.parametrize("family", list(BLOCKS))
def test_a_bottleneck_is_a_1x1_convolution_at_the_end_of_each_stage_but_the_last(family: Family) -> None:
    config = small(family=family, width=8, depth=[2, 1, 1], growth=1.0, head=Head.gap)
    narrow = replace(config, bottleneck=0.5)
    points = [layer for layer in build_model(narrow, MNIST).modules() if isinstance(layer, nn.Conv2d)]
    reducing = [layer for layer in points if (layer.in_channels, layer.out_channels) == (8, 4)]
    assert [layer.kernel_size for layer in reducing] == [(1, 1), (1, 1)]
    by_hand = 2 * (8 * 4 + 2 * 4)  # what two of them add
    saved = {Family.separable: 2 * (4 * 9 + 2 * 4 + 4 * 8)}.get(family, 2 * 4 * 8 * 9)  # by half the inputs
    if family == Family.residual:
        assert sum(isinstance(layer, Residual) for layer in build_model(narrow, MNIST)) == 1  # inside a stage only
    assert sum(counts(build_model(narrow, MNIST))) == sum(counts(build_model(config, MNIST))) + by_hand - saved


@pytest.mark.parametrize("stages", [2, 9])
def test_channels_beyond_every_budget_are_refused(stages: int) -> None:
    config = ModelConfig(width=3, depth=[90] * stages, growth=10, growth_by=GrowthBy.conv)
    with pytest.raises(ConfigError, match=rf"model\.growth=10 .* more than {MOST_CHANNELS:,} channels.*; use "):
        channel_plan(config)
    assert channel_plan(replace(config, growth_by=GrowthBy.stage, depth=[2, 2]))[-1] == [30, 30]


# ---- shapes


@pytest.mark.parametrize(("family", "head"), list(product(BLOCKS, Head)))
def test_every_family_and_head_gives_a_logit_for_each_class(family: Family, head: Head) -> None:
    torch.manual_seed(0)
    for channels, size, classes in ((1, 28, 10), (3, 32, 5), (2, 17, 2), (1, 8, 3)):
        shape = DataShape(channels, size, classes)
        for hidden in (0, 8):
            model = build_model(small(family=family, head=head, width=8, hidden=hidden), shape)
            logits = model(images(shape))
            assert logits.shape == (3, classes)
            assert logits.isfinite().all()
            assert (logits[0] != logits[1]).all()


def test_every_parameter_of_every_family_and_head_learns() -> None:
    for family, head in product(BLOCKS, Head):
        torch.manual_seed(0)
        config = small(family=family, head=head, width=8, bias=True)
        model = build_model(config, MNIST)
        nn.functional.cross_entropy(model(images(MNIST, 8)), torch.arange(8)).backward()
        still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not still


@pytest.mark.parametrize(
    ("padding", "stem_padding", "sides"),
    [
        (False, False, [26, 11, 9]),
        (True, False, [26, 13, 13]),
        (False, True, [28, 12, 10]),
        (True, True, [28, 14, 14]),
    ],
)
def test_padding_keeps_the_image_size(padding: bool, stem_padding: bool, sides: list[int]) -> None:
    found: list[int] = []
    model = build_model(small(padding=padding, stem_padding=stem_padding), MNIST)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _layer, _inputs, output: found.append(output.shape[-1]))
    model(images(MNIST))
    assert found == sides


def test_a_cropped_image_is_seen_as_its_middle() -> None:
    whole, middle = build_model(small(crop=2), MNIST).eval(), build_model(small(), DataShape(1, 24, 10)).eval()
    middle.load_state_dict({_without_crop(name): weights for name, weights in whole.state_dict().items()})
    pixels = images(MNIST)
    torch.testing.assert_close(whole(pixels), middle(pixels[:, :, 2:-2, 2:-2]))


@pytest.mark.parametrize("views", [5, 9])
def test_a_prediction_is_the_mean_of_those_of_shifted_views_the_centre_counted_twice(views: int) -> None:
    config, shape = small(crop=1), DataShape(2, 12, 4)
    one, several = (build_model(replace(config, views=count), shape) for count in (1, views))
    several.load_state_dict(one.state_dict())
    pixels = images(shape, 6)
    pixels[:, :, [0, -1]] = pixels[:, :, :, [0, -1]] = (
        0.7  # so that it doesn't matter which way an edge is continued
    )
    assert torch.equal(several.train()(pixels), one.train()(pixels)), "training has one view"
    several.load_state_dict(one.state_dict())
    with torch.no_grad():
        shifts = [(y, x) for y, x in product((-1, 0, 1), repeat=2) if views == 9 or not (y and x)]
        found = [one.eval()(pixels.roll(shift, (2, 3))).log_softmax(1) for shift in [*shifts, (0, 0)]]
        assert len(found) == views + 1
        expected = torch.stack(found).mean(0)
        torch.testing.assert_close(several.eval()(pixels), expected)
        assert not torch.allclose(expected, found[-1], atol=1e-3)
        torch.testing.assert_close(several(pixels[2:3]), expected[2:3])
    assert isinstance(several, Views)
    assert type(one) is nn.Sequential


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("family", BLOCKS)
@pytest.mark.parametrize("head", Head)
def test_pooling_before_a_norm_that_keeps_the_order_is_pooling_after_it(family: Family, head: Head) -> None:
    config = small(family=family, head=head, growth=2, depth=[1, 2, 1])
    dropout = DropoutConfig(DropoutName.stage)
    after, before = (
        build_model(replace(config, pool_before_norm=early), MNIST, dropout).eval() for early in (False, True)
    )
    for model in (after, before):  # layers have other names in the two, but the same order
        torch.manual_seed(1)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, 0.1, 0.4) if parameter.ndim == 1 else nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        expected, found = after(images(MNIST)), before(images(MNIST))
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected)
        for model in (after, before):
            norms(model)[0].weight.neg_()
        assert not torch.allclose(before(images(MNIST)), after(images(MNIST)))


def test_pooling_before_norms_leaves_them_a_quarter_of_the_pixels_except_behind_a_shortcut() -> None:
    def pixels(early: bool) -> list[int]:
        found: list[int] = []
        model = build_model(
            ModelConfig(Family.residual, width=4, depth=[1, 2, 1], growth=2, pool_before_norm=early), MNIST
        )
        for norm in norms(model):
            norm.register_forward_hook(lambda _layer, inputs, _output: found.append(inputs[0].shape[-1] ** 2))
        model(images(MNIST))
        return found

    assert pixels(False) == [24**2, 12**2, 12**2, 6**2]
    assert pixels(True) == [12**2, 12**2, 12**2, 6**2], (
        "the second stage ends with a sum, which is pooled as it is"
    )


def _without_crop(name: str) -> str:
    """What a weight is called in the network that has no crop before its first layer."""
    layer, rest = name.split(".", 1)
    return f"{int(layer) - 1}.{rest}"


@pytest.mark.parametrize(
    ("size", "changes", "where"),
    [
        (1, {"stem_kernel": 3}, "in stage 1"),
        (4, {"stem_kernel": 5}, "in stage 1"),
        (1, {"stem_kernel": 1}, "in stage 2"),
        (1, {"stem_kernel": 1, "depth": [1], "head": Head.linear}, "after the last pooling"),
        (8, {"depth": [1, 1, 1, 1]}, "in stage 4"),
        (8, {"depth": [1, 2], "padding": False}, "in stage 2"),
        (4, {"crop": 2}, "after model.crop"),
        (8, {"crop": 3, "stem_kernel": 3}, "in stage 1"),
        (8, {"depth": [1, 1, 1], "head": Head.linear, "stem_padding": True, "padding": False}, "in stage 3"),
    ],
)
def test_an_image_that_shrinks_to_nothing_is_refused(size: int, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(small(**changes), DataShape(1, size, 10))
    message = str(caught.value)
    assert message.startswith("model.depth: ")
    assert f"a {size}x{size} image has no pixels left {where}; use fewer stages or blocks" in message
    advised = {"depth": [1], "crop": 0, "stem_kernel": 1, "kernel": 1, "head": Head.gap}
    model = build_model(small(**changes | advised), DataShape(1, size, 10))
    assert model.eval()(torch.zeros(1, 1, size, size)).shape == (1, 10), "the advice doesn't help"


def test_a_network_that_is_not_refused_runs() -> None:
    sizes, built = range(1, 13), 0
    for size, head, depth, padding in product(sizes, Head, ([1], [1, 1], [2, 2]), (True, False)):
        shape = DataShape(1, size, 2)
        try:
            model = build_model(small(head=head, depth=depth, padding=padding), shape)
        except ConfigError:
            continue
        built += 1
        assert model.eval()(images(shape, 1)).shape == (1, 2)
    assert 0 < built < 12 * 3 * 3 * 2


def test_an_unresolved_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.width=auto must be resolved"):
        build_model(ModelConfig(), MNIST)


def test_with_width_changes_the_width_alone() -> None:
    config = small(family=Family.separable, hidden=2)
    assert with_width(config, 9) == replace(config, width=9)
    assert config.width == 3


# ---- activations


@pytest.mark.parametrize(("family", "head"), list(product(BLOCKS, Head)))
def test_the_activation_is_the_same_everywhere_and_costs_no_parameters(family: Family, head: Head) -> None:
    config = small(family=family, head=head, hidden=5)
    relu, silu = (build_model(replace(config, activation=kind), MNIST) for kind in Activation)
    assert counts(relu) == counts(silu)
    kinds: dict[type[nn.Module], type[nn.Module]] = {nn.ReLU: nn.SiLU}
    swapped = [kinds.get(type(layer), type(layer)) for layer in relu.modules()]
    assert swapped == [type(layer) for layer in silu.modules()]
    assert nn.SiLU in swapped


# ---- dropout

BLOCK, POOL, DROPOUT = "Sequential", "MaxPool2d", "Dropout"
HEAD = ["SpatialPool", "Linear", "ReLU"]


@pytest.mark.parametrize(
    ("place", "layers"),
    [
        (DropoutName.block, [BLOCK, DROPOUT, POOL, BLOCK, DROPOUT, BLOCK, DROPOUT, *HEAD, "Linear"]),
        (DropoutName.stage, [BLOCK, DROPOUT, POOL, BLOCK, BLOCK, DROPOUT, *HEAD, "Linear"]),
        (DropoutName.head, [BLOCK, POOL, BLOCK, BLOCK, *HEAD, DROPOUT, "Linear"]),
    ],
)
def test_dropout_sits_where_its_name_says(place: DropoutName, layers: list[str]) -> None:
    config = small(hidden=5)
    model = build_model(config, MNIST, DropoutConfig(place, 0.4))
    assert [type(layer).__name__ for layer in model] == layers
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.4}
    without = build_model(config, MNIST)
    assert [type(layer).__name__ for layer in without] == [name for name in layers if name != DROPOUT]


@pytest.mark.parametrize("place", [place for place in DropoutName if place != DropoutName.none])
def test_dropout_is_at_random_in_training_only(place: DropoutName) -> None:
    torch.manual_seed(0)
    model = build_model(small(width=8), MNIST, DropoutConfig(place, 0.5))
    batch = images(MNIST)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


# ---- parts


def test_only_blocks_that_keep_the_channels_have_a_shortcut() -> None:
    model = build_model(ModelConfig(Family.residual, width=4, depth=[2, 3, 1], growth=2), MNIST)
    blocks = [layer for layer in model if isinstance(layer, nn.Sequential | Residual)]
    channels = [1, 4, 4, 8, 8, 8, 16]
    assert [isinstance(block, Residual) for block in blocks] == [a == b for a, b in pairwise(channels)]


def test_spatial_pooling_weighs_each_pixel_of_each_channel() -> None:
    pool = SpatialPool(2, 3)
    nn.init.zeros_(pool.weight)
    with torch.no_grad():
        pool.weight[0, 1, 2], pool.weight[1, 0, 0] = 2.0, -1.0
    features = torch.randn(4, 2, 3, 3)
    expected = torch.stack([2 * features[:, 0, 1, 2], -features[:, 1, 0, 0]], dim=1)
    torch.testing.assert_close(pool(features), expected)


def test_separable_blocks_look_at_each_channel_apart_then_mix_them() -> None:
    model = build_model(small(family=Family.separable, growth=2.0), MNIST)
    found = [(m.kernel_size, m.groups) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert found == [((3, 3), 1), ((3, 3), 3), ((1, 1), 1), ((3, 3), 6), ((1, 1), 1)]
