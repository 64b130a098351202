"""Optimizers, built so that only weights decay."""

from typing import Any

import torch
from torch import nn

from tinysweep.config import OptimizerConfig, OptimizerName


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of `config` over the model's parameters.

    Vectors are biases and the scales and shifts of norms: they don't decay, as is the convention (see Goyal et
    al., 2017, arXiv:1706.02677, section 5.3).
    """
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    if config.name == OptimizerName.adamw:
        return torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=(config.momentum, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=True,
    )
