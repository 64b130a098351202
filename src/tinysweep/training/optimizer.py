"""Optimizers of which only weights decay.

The arithmetic is that of PyTorch's fused kernels, called as functions: its optimizer classes import PyTorch's
compiler, which takes more than a second at every start, and nothing here compiles.
"""

from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from tinysweep.settings.schema import OptimizerConfig, OptimizerName

EPSILON = 1e-8  # as in torch.optim.AdamW


class Group:
    """Parameters with one weight decay, and what is remembered of each from step to step: its momentum and, for
    AdamW, the mean of its squared gradients and the number of its steps."""

    def __init__(self, params: list[Tensor], weight_decay: float, adaptive: bool) -> None:
        self.params, self.weight_decay = params, weight_decay
        self.memory = [[torch.zeros_like(parameter) for parameter in params] for _ in range(2 if adaptive else 1)]
        if adaptive:
            self.memory.append([torch.zeros((), device=parameter.device) for parameter in params])

    def with_gradients(self) -> list[list[Tensor]]:
        """Parameters, gradients and each kind of memory, in step with each other, of those parameters that have a
        gradient; one that is frozen, or took no part in the loss, stays where it is."""
        gradients: list[Any] = [parameter.grad for parameter in self.params]
        present = [gradient is not None for gradient in gradients]
        columns: list[list[Tensor]] = [self.params, gradients, *self.memory]
        return [list(compress(column, present)) for column in columns]


class Optimizer:
    """SGD with momentum, plain or Nesterov's (Sutskever et al., 2013), or Adam whose decay stands apart from the
    gradient (Loshchilov & Hutter, 2017, arXiv:1711.05101).

    Vectors are biases and the scales and shifts of norms: they don't decay, as is the convention (Goyal et al.,
    2017, arXiv:1706.02677, section 5.3).
    """

    def __init__(self, config: OptimizerConfig, model: nn.Module) -> None:
        self.config, self.adaptive = config, config.name == OptimizerName.adamw
        # Only what the budget counts, even if a network of the user's own thaws the others later.
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = [parameter for parameter in trainable if parameter.ndim > 1]
        vectors = [parameter for parameter in trainable if parameter.ndim <= 1]
        self.groups = [
            Group(list[Tensor](weights), config.weight_decay, self.adaptive),
            Group(list[Tensor](vectors), 0.0, self.adaptive),
        ]

    def zero_grad(self) -> None:
        for group in self.groups:
            for parameter in group.params:
                parameter.grad = None

    def memory(self) -> list[Tensor]:
        """All that is remembered from step to step, in a fixed order."""
        return [tensor for group in self.groups for kind in group.memory for tensor in kind]

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Move at this learning rate, a number or a scalar on the device of the parameters."""
        for group in self.groups:
            self._move(group.with_gradients(), group.weight_decay, lr)

    def _move(self, tensors: list[list[Tensor]], weight_decay: float, lr: float | Tensor) -> None:
        config = self.config
        if self.adaptive:
            params, gradients, momenta, squares, steps = tensors
            adamw(
                params, gradients, momenta, squares, [], steps,
                fused=True, amsgrad=False, beta1=config.momentum, beta2=config.beta2,
                lr=lr, weight_decay=weight_decay, eps=EPSILON, maximize=False,
            )  # fmt: skip
        else:
            params, gradients, momenta = tensors
            sgd(
                params, gradients, momenta,  # type: ignore[arg-type]  # a list of tensors that may be None
                fused=True, weight_decay=weight_decay, momentum=config.momentum,
                lr=lr, dampening=0.0, nesterov=config.nesterov, maximize=False,
            )  # fmt: skip
