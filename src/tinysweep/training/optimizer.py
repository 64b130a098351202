"""Optimizers, built so that only weights decay.

The arithmetic is that of PyTorch's fused kernels, called as functions: its optimizer classes import PyTorch's
compiler, which takes more than a second at every start, and nothing here compiles.
"""

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from tinysweep.settings.schema import OptimizerConfig, OptimizerName

EPSILON = 1e-8  # as in torch.optim.AdamW


class Group:
    """Parameters with one weight decay, and what the optimizer remembers of each."""

    def __init__(self, params: list[Tensor], weight_decay: float, adaptive: bool) -> None:
        self.params, self.weight_decay = params, weight_decay
        self.momenta = [torch.zeros_like(parameter) for parameter in params]
        self.squares = [torch.zeros_like(parameter) for parameter in params] if adaptive else []
        self.steps = [torch.zeros((), device=parameter.device) for parameter in params] if adaptive else []

    @property
    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.params if parameter.grad is not None]


class Optimizer:
    """Moves parameters along their gradients, all of which must be there."""

    def __init__(self, config: OptimizerConfig, decayed: list[Tensor], spared: list[Tensor]) -> None:
        self.config = config
        adaptive = config.name == OptimizerName.adamw
        self.advance = _adamw if adaptive else _sgd
        self.groups = [Group(decayed, config.weight_decay, adaptive), Group(spared, 0.0, adaptive)]

    def zero_grad(self) -> None:
        for group in self.groups:
            for parameter in group.params:
                parameter.grad = None

    def memory(self) -> list[Tensor]:
        """All that is remembered from step to step, in a fixed order."""
        return [tensor for group in self.groups for tensor in (*group.momenta, *group.squares, *group.steps)]

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Move at this learning rate, a number or a scalar on the device of the parameters."""
        for group in self.groups:
            self.advance(group, self.config, lr)


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer of `config` over the model's parameters.

    Vectors are biases and the scales and shifts of norms: they don't decay, as is the convention (see Goyal et
    al., 2017, arXiv:1706.02677, section 5.3).
    """
    decayed: list[Tensor] = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    spared: list[Tensor] = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return Optimizer(config, decayed, spared)


def _sgd(group: Group, config: OptimizerConfig, lr: float | Tensor) -> None:
    """With momentum, plain or Nesterov's (Sutskever et al., 2013)."""
    sgd(
        group.params,
        group.gradients,
        group.momenta,  # type: ignore[arg-type]  # a list of tensors that may be None
        fused=True,
        weight_decay=group.weight_decay,
        momentum=config.momentum,
        lr=lr,
        dampening=0.0,
        nesterov=config.nesterov,
        maximize=False,
    )


def _adamw(group: Group, config: OptimizerConfig, lr: float | Tensor) -> None:
    """Adam whose decay stands apart from the gradient (Loshchilov & Hutter, 2017, arXiv:1711.05101)."""
    adamw(
        group.params,
        group.gradients,
        group.momenta,
        group.squares,
        [],
        group.steps,
        fused=True,
        amsgrad=False,
        beta1=config.momentum,
        beta2=config.beta2,
        lr=lr,
        weight_decay=group.weight_decay,
        eps=EPSILON,
        maximize=False,
    )
