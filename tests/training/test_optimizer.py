"""Optimizers: what decays and what doesn't, and steps equal to those of torch's plain optimizers."""

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from tinysweep.data.catalogue import DataShape
from tinysweep.network.build import BLOCKS, SpatialPool, build_model
from tinysweep.settings.schema import Family, Head, ModelConfig, OptimizerConfig, OptimizerName
from tinysweep.training.optimizer import Optimizer

SHAPE = DataShape(channels=1, size=12, classes=3)
WEIGHT_LAYERS = (nn.Conv2d, nn.Linear, SpatialPool)


def network(family: Family = Family.residual, head: Head = Head.spatial) -> nn.Module:
    """A model with every kind of parameter, none of them zero."""
    torch.manual_seed(0)
    config = ModelConfig(family, width=4, depth=[1, 2], growth=1, stem_kernel=3, bias=True, head=head, hidden=5)
    model = build_model(config, SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + 0.5)
    return model


def weights(model: nn.Module) -> list[Tensor]:
    """By the kind of layer: the weights of convolutions, linear layers and learned pooling."""
    return [layer.weight for layer in model.modules() if isinstance(layer, WEIGHT_LAYERS)]


def others(model: nn.Module) -> list[Tensor]:
    """Everything else: biases, and scales and shifts of norms."""
    chosen = {id(weight) for weight in weights(model)}
    return [parameter for parameter in model.parameters() if id(parameter) not in chosen]


def take_steps(
    model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer, steps: int, lr: float | Tensor = 0.0
) -> None:
    """Steps along made gradients, the same for every model of one architecture; PyTorch's has its own rate."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(lr) if isinstance(optimizer, Optimizer) else optimizer.step()


@pytest.mark.parametrize("name", list(OptimizerName))
@pytest.mark.parametrize(("family", "head"), list(product(BLOCKS, Head)))
def test_weights_decay_and_biases_and_norms_do_not(name: OptimizerName, family: Family, head: Head) -> None:
    model = network(family, head)
    before = copy.deepcopy(model)
    optimizer = Optimizer(OptimizerConfig(name, weight_decay=0.1), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.2)
    assert len(weights(model)) >= 5
    for new, old in zip(weights(model), weights(before), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.2 * 0.1))
    assert len(others(model)) >= 11
    for new, old in zip(others(model), others(before), strict=True):
        assert torch.equal(new, old)


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(OptimizerName.sgd, lr=0.05, weight_decay=0.0, momentum=0.0),
        OptimizerConfig(OptimizerName.sgd, lr=0.05, weight_decay=0.02, momentum=0.7),
        OptimizerConfig(OptimizerName.sgd, lr=0.05, weight_decay=0.02, momentum=0.7, nesterov=True),
        OptimizerConfig(OptimizerName.adamw, lr=0.01, weight_decay=0.0),
        OptimizerConfig(OptimizerName.adamw, lr=0.01, weight_decay=0.3, momentum=0.6, beta2=0.8),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("number", [float, torch.tensor], ids=["float", "tensor"])
def test_steps_are_those_of_torchs_plain_optimizer(
    config: OptimizerConfig, steps: int, number: Callable[[float], float | Tensor]
) -> None:
    model = network()
    start, reference = copy.deepcopy(model), copy.deepcopy(model)
    groups = [
        {"params": weights(reference), "weight_decay": config.weight_decay},
        {"params": others(reference), "weight_decay": 0.0},
    ]
    plain: torch.optim.Optimizer
    if config.name == OptimizerName.sgd:
        plain = torch.optim.SGD(
            groups, config.lr, config.momentum, nesterov=config.nesterov, foreach=False, fused=False
        )
    else:
        betas = (config.momentum, config.beta2)
        plain = torch.optim.AdamW(groups, config.lr, betas, foreach=False, fused=False)
    take_steps(model, Optimizer(config, model), steps, number(config.lr))
    take_steps(reference, plain, steps)
    for new, expected, old in zip(model.parameters(), reference.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(new, expected)
        assert not torch.equal(new, old)


@pytest.mark.parametrize("name", list(OptimizerName))
def test_a_parameter_without_a_gradient_stays_and_the_others_move_as_torchs_do(name: OptimizerName) -> None:
    config = OptimizerConfig(name, lr=0.05, weight_decay=0.0)
    model, reference = network(), network()
    plain: torch.optim.Optimizer = torch.optim.AdamW(reference.parameters(), config.lr, weight_decay=0.0)
    if name == OptimizerName.sgd:
        plain = torch.optim.SGD(reference.parameters(), config.lr, config.momentum)
    optimizer = Optimizer(config, model)
    generator = torch.Generator().manual_seed(1)
    for unused in (0, 3, None, 5):  # another in each step, so that each keeps a memory of its own
        for number, pair in enumerate(zip(model.parameters(), reference.parameters(), strict=True)):
            gradient = torch.randn(pair[0].shape, generator=generator)
            pair[0].grad = pair[1].grad = None if number == unused else gradient
        optimizer.step(config.lr)
        plain.step()
        for new, expected in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(new, expected)
