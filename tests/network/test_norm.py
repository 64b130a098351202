"""Batch norm for narrow layers: PyTorch's own is the reference."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tinysweep.network.norm import BatchNorm2d


def pair(channels: int, generator: torch.Generator) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Ours and PyTorch's with the same weights, neither 0 nor 1."""
    ours = BatchNorm2d(channels)
    with torch.no_grad():
        ours.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        ours.bias.copy_(torch.randn(channels, generator=generator))
    theirs = nn.BatchNorm2d(channels)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def batch(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    pixels = 3 * torch.randn(shape, generator=generator) + 1
    return pixels.contiguous(memory_format=torch.channels_last)


SHAPES = [(8, 4, 26, 26), (5, 7, 3, 3), (2, 1, 1, 1), (64, 12, 6, 6), (3, 15, 5, 7), (4, 28, 6, 6), (4, 16, 6, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_results_gradients_and_running_statistics_are_those_of_torch(
    shape: tuple[int, ...], generator: torch.Generator
) -> None:
    ours, theirs = pair(shape[1], generator)
    x, upstream = batch(shape, generator).requires_grad_(), batch(shape, generator)
    exact = x.detach().double().requires_grad_()
    theirs = theirs.double()
    for _ in range(2):
        found, expected = ours(x), theirs(exact)
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    found.backward(upstream)
    expected.backward(upstream.double())
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=1e-3, rtol=1e-3)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(mine.grad.double(), reference.grad, atol=1e-3, rtol=1e-3)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer.double(), theirs.get_buffer(name).double(), atol=1e-4, rtol=1e-4)


def test_bfloat16_is_normalised_in_float32(generator: torch.Generator) -> None:
    ours, theirs = pair(8, generator)
    x = batch((32, 8, 12, 12), generator).bfloat16()
    found = ours(x)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.float(), theirs(x.float()), atol=0.02, rtol=0.01)
    torch.testing.assert_close(ours.running_var, theirs.running_var, atol=1e-4, rtol=1e-4)


def test_relu_may_follow_in_place(generator: torch.Generator) -> None:
    ours, theirs = pair(8, generator)
    found, expected = (batch((4, 8, 6, 6), torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    nn.functional.relu(ours(found), inplace=True).square().sum().backward()
    nn.functional.relu(theirs(expected)).square().sum().backward()
    assert found.grad is not None
    assert expected.grad is not None
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-3, rtol=1e-3)


def test_evaluation_is_that_of_torch_to_the_bit(generator: torch.Generator) -> None:
    ours, theirs = pair(8, generator)
    x = batch((4, 8, 6, 6), generator)
    ours(x)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_one_value_a_channel_is_refused_in_training() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        BatchNorm2d(4)(torch.zeros(1, 4, 1, 1).contiguous(memory_format=torch.channels_last))
