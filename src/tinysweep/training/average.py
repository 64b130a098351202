"""An exponential average of a model's weights."""

import copy

import torch
from torch import Tensor, nn


class AveragedModel:
    """A copy, `module`, whose weights and buffers follow those of a model (Polyak & Juditsky, 1992; in this form
    Kingma & Ba, 2014, arXiv:1412.6980, section 7.2).

    Unlike `torch.optim.swa_utils.AveragedModel` it counts its updates on the host, so that no step waits for the
    device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = copy.deepcopy(model), decay, 0
        tensors = [_state(self.module), _state(model)]
        self.averages, self.values = ([one for one in part if one.is_floating_point()] for part in tensors)
        self.counts, self.counted = ([one for one in part if not one.is_floating_point()] for part in tensors)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model as it is: whole at first, then with a weight of 1 - decay; counts always whole."""
        torch._foreach_lerp_(self.averages, self.values, 1 - self.decay if self.updates else 1.0)
        torch._foreach_copy_(self.counts, self.counted)
        self.updates += 1


def _state(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
