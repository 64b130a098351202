"""A step recorded is the step it was recorded from; on a GPU, where one is at hand, by CUDA graphs."""

import dataclasses
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor

from conftest import made_images
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import Data
from tinysweep.network.build import build_model
from tinysweep.settings.schema import (
    Config,
    Device,
    DropoutConfig,
    DropoutName,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    Precision,
)
from tinysweep.training.device import Hardware, hardware
from tinysweep.training.loop import fit
from tinysweep.training.optimizer import Optimizer
from tinysweep.training.step import EAGER_STEPS, AveragedModel, Body, RecordedStep, Step, fastest_step

SHAPE = DataShape(1, 12, 4)
CPU = Hardware(torch.device("cpu"), bf16=False, threads=1)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
Batch = tuple[Tensor, Tensor]


def made_step(optimizer: OptimizerName, machine: Hardware, dropout: DropoutConfig | None = None) -> Step:
    torch.manual_seed(0)
    config = ModelConfig(width=4, depth=[1, 1], stem_kernel=3, deskew=True)
    model = build_model(config, SHAPE, dropout).to(machine.device).train()
    return Step(model, Optimizer(OptimizerConfig(optimizer), model), AveragedModel(model, 0.9), machine, 0.1)


def made_batches(count: int, device: torch.device) -> list[Batch]:
    """Batches that live only until the next is drawn, as in training: each in new memory, and of other values."""
    return [
        (images.pixels.float().to(device), images.labels.to(device))
        for images in (made_images(16, 4, 12, seed=number) for number in range(count))
    ]


def trained(step: Step | RecordedStep, batches: list[Batch]) -> dict[str, Tensor]:
    """Every tensor that training leaves behind."""
    for number, (pixels, labels) in enumerate(batches):
        step(pixels, labels, 0.02 / (1 + number))
    plain = step.step if isinstance(step, RecordedStep) else step
    assert plain.average is not None
    state = {"total": plain.total, **plain.model.state_dict()}
    return state | {f"average.{name}": value for name, value in plain.average.module.state_dict().items()}


@pytest.mark.parametrize("optimizer", OptimizerName)
@pytest.mark.parametrize("steps", [1, EAGER_STEPS, EAGER_STEPS + 1, EAGER_STEPS + 5])
def test_a_recorded_step_trains_as_the_step_does(optimizer: OptimizerName, steps: int) -> None:
    recorded: list[Body] = []

    def replay_on_the_host(body: Body) -> Body:
        """A recording where there are no CUDA graphs: it does nothing now, and all of it later."""
        recorded.append(body)
        return body

    batches = made_batches(steps, CPU.device)
    expected = trained(made_step(optimizer, CPU), batches)
    got = trained(RecordedStep(made_step(optimizer, CPU), replay_on_the_host), batches)
    assert len(recorded) == (steps > EAGER_STEPS), "once, after the first steps"
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=name)


@pytest.mark.parametrize("size", [1, 7])
def test_a_batch_of_another_shape_is_refused_rather_than_misread(size: int) -> None:
    step = RecordedStep(made_step(OptimizerName.sgd, CPU), lambda body: body)
    (pixels, labels), *_ = made_batches(1, CPU.device)
    step(pixels, labels, 0.1)
    with pytest.raises(ValueError, match=r"shape of the first, \(16, 1, 12, 12\)"):
        step(pixels[:size], labels[:size], 0.1)


# ---- on a GPU


def gpu(precision: Precision = Precision.fp32) -> Hardware:
    return hardware(dataclasses.replace(Config().trainer, device=Device.cuda, precision=precision))


def relative(got: Tensor, expected: Tensor) -> float:
    """The length of the difference, relative to that of what is expected."""
    got, expected = got.double().cpu(), expected.double().cpu()
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


@needs_gpu
@pytest.mark.parametrize("optimizer", OptimizerName)
@pytest.mark.parametrize(("precision", "within"), [(Precision.fp32, 1e-3), (Precision.bf16, 5e-2)])
def test_a_graph_trains_as_the_step_does(optimizer: OptimizerName, precision: Precision, within: float) -> None:
    machine = gpu(precision)
    batches = made_batches(EAGER_STEPS + 9, machine.device)
    expected = trained(made_step(optimizer, machine), batches)
    got = trained(fastest_step(made_step(optimizer, machine)), batches)
    for name, value in expected.items():
        assert relative(got[name], value) < within, name


@needs_gpu
def test_a_graph_draws_dropout_anew_at_every_step() -> None:
    machine = gpu()
    plain = made_step(OptimizerName.sgd, machine, DropoutConfig(DropoutName.head, 0.5))
    step = fastest_step(plain)
    batch = made_batches(1, machine.device)[0]
    losses = []
    for _ in range(EAGER_STEPS + 6):
        plain.total.zero_()
        step(*batch, 0.0)  # the weights stay: what changes is dropout
        losses.append(plain.total.item())
    assert len(set(losses)) == len(losses)


@needs_gpu
def test_graphs_of_threads_each_in_its_own_stream_train_as_the_step_does() -> None:
    machine = gpu()
    batches = made_batches(EAGER_STEPS + 40, machine.device)
    expected = trained(made_step(OptimizerName.sgd, machine), batches)
    torch.cuda.synchronize()

    def train(step: Step) -> dict[str, Tensor]:
        with torch.cuda.stream(torch.cuda.Stream()):
            state = trained(fastest_step(step), batches)
            torch.cuda.current_stream().synchronize()
        return state

    steps = [made_step(OptimizerName.sgd, machine) for _ in range(6)]
    torch.cuda.synchronize()
    with ThreadPoolExecutor(3) as pool:  # so that some record while others train
        states = list(pool.map(train, steps))
    for got in states:
        for name, value in expected.items():
            assert relative(got[name], value) < 1e-3, name


@needs_gpu
def test_training_on_a_gpu_learns_what_training_on_a_cpu_does() -> None:
    data = Data(SHAPE, made_images(96, 4, 12), made_images(48, 4, 12, seed=1), (0.2,), (0.3,))

    def accuracy(device: Device) -> float:
        config = Config(
            model=ModelConfig(width=4, depth=[1, 1], stem_kernel=3), optimizer=OptimizerConfig(lr=0.05)
        )
        trainer = dataclasses.replace(config.trainer, device=device, epochs=20, batch_size=16, ema_decay=0.5)
        last = fit(dataclasses.replace(config, trainer=trainer), data).history[-1]
        assert last.validation_accuracy is not None
        return last.validation_accuracy

    assert accuracy(Device.cuda) == pytest.approx(accuracy(Device.cpu), abs=0.1)
    assert accuracy(Device.cuda) > 0.9


@needs_gpu
def test_a_run_on_a_gpu_waits_for_it_as_often_however_many_steps_it_takes() -> None:
    waits = []
    config = Config(model=ModelConfig(width=4, depth=[1, 1], stem_kernel=3), optimizer=OptimizerConfig(lr=0.05))
    trainer = dataclasses.replace(config.trainer, device=Device.cuda, epochs=2, batch_size=16)
    for images in (160, 1600):
        data = Data(SHAPE, made_images(images, 4, 12), None, (0.2,), (0.3,))
        waits.append(count_waits(partial(fit, dataclasses.replace(config, trainer=trainer), data)))
    assert waits[0] == waits[1]


def count_waits(action: Callable[[], object]) -> int:
    """How often PyTorch warns that an operation waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            action()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
