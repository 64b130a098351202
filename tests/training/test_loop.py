"""The training loop: it learns, repeats itself bit for bit, keeps its hands off the caller, and stops on NaN."""

import dataclasses
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tinysweep
from conftest import made_images
from tinysweep.console import Progress
from tinysweep.data.catalogue import DataShape
from tinysweep.data.load import Data, load
from tinysweep.errors import BudgetError, ConfigError, DivergedError
from tinysweep.network import budget
from tinysweep.network.build import BLOCKS, build_model
from tinysweep.settings.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    DropoutConfig,
    DropoutName,
    Family,
    Head,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    Precision,
    SchedulerConfig,
    SchedulerName,
    TrainerConfig,
)
from tinysweep.training import loop as training
from tinysweep.training.augment import augment
from tinysweep.training.device import Hardware, hardware
from tinysweep.training.loop import Epoch, Normalise, Result, TrainingState, fit
from tinysweep.training.optimizer import Optimizer
from tinysweep.training.schedule import factor
from tinysweep.training.score import evaluate
from tinysweep.training.step import RecordedStep

SHAPE = DataShape(1, 12, 4)
PLAIN = Hardware(torch.device("cpu"), bf16=False, threads=1)


def small_data(train: int = 48, validation: int = 24) -> Data:
    """Made images of 4 classes, 12 by 12."""
    held_out = made_images(validation, 4, 12, seed=1) if validation else None
    return Data(SHAPE, made_images(train, 4, 12), held_out, (0.2,), (0.3,))


def small_config(model: ModelConfig | None = None, **trainer: Any) -> Config:
    """A config that trains on `small_data` in a few hundredths of a second."""
    settings = {"epochs": 3, "batch_size": 16, "threads": 1, "precision": "fp32", "device": "cpu", **trainer}
    return Config(
        model=model or ModelConfig(width=4, depth=[1, 1], stem_kernel=3),
        optimizer=OptimizerConfig(lr=0.05),
        trainer=TrainerConfig(**settings),
    )


def busy_config(**trainer: Any) -> Config:
    """Everything random at once: dropout and each kind of augmentation; and an average."""
    return dataclasses.replace(
        small_config(ModelConfig(width=4, depth=[1, 1], stem_kernel=3), **{"ema_decay": 0.9, **trainer}),
        dropout=DropoutConfig(DropoutName.head, 0.3),
        augmentation=AugmentationConfig(
            rotation_degrees=10,
            shift_fraction=0.1,
            elastic_pixels=0.5,
            flip_probability=0.5,
            erase_probability=0.5,
        ),
    )


def state_of(result: Result) -> dict[str, Tensor]:
    return dict(result.model.state_dict())


def same_bits(one: Result, other: Result) -> bool:
    """Whether weights and history, times aside, are equal."""
    states = [state_of(result) for result in (one, other)]
    histories = [[dataclasses.replace(epoch, seconds=0) for epoch in result.history] for result in (one, other)]
    return histories[0] == histories[1] and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0] | states[1]
    )


# ---- learning


@pytest.mark.parametrize(("family", "head"), list(product(BLOCKS, Head)))
def test_every_family_and_head_can_learn_one_batch_by_heart(family: Family, head: Head) -> None:
    model = ModelConfig(family=family, width=16, depth=[2, 1], growth=1, stem_kernel=3, head=head)
    config = dataclasses.replace(
        small_config(model, epochs=80, batch_size=16), optimizer=OptimizerConfig(lr=0.1, weight_decay=0)
    )
    history = fit(config, small_data(train=16, validation=0)).history
    assert history[0].train_loss > 1
    assert history[-1].train_loss < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", OptimizerName)
def test_what_is_learned_holds_on_images_not_seen(precision: str, name: OptimizerName) -> None:
    config = dataclasses.replace(
        small_config(epochs=12, precision=precision), optimizer=OptimizerConfig(name, lr=0.03, weight_decay=0)
    )
    result = fit(config, small_data(train=96))
    assert result.history[-1].validation_accuracy == 1
    assert all(tensor.dtype != torch.bfloat16 for tensor in state_of(result).values())


@pytest.mark.slow
def test_a_slice_of_real_mnist_is_learned(mnist_root: Path) -> None:
    config = Config(
        data=DataConfig(root=str(mnist_root), download=False, limit=2000, validation=1000),
        model=ModelConfig(depth=[1, 1, 1]),
        trainer=TrainerConfig(epochs=2, batch_size=16, threads=1, precision=Precision.fp32),
        scheduler=SchedulerConfig(SchedulerName.onecycle, warmup_fraction=0.3),
    )
    loaded = load(config.data)
    last = fit(budget.resolve(config, loaded.shape), loaded).history[-1]
    assert last.validation_accuracy is not None
    assert last.validation_accuracy > 0.9


# ---- repeatability


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bits_whatever_happened_before(precision: str) -> None:
    config, data = busy_config(precision=precision), small_data()
    first = fit(config, data)
    torch.manual_seed(123)
    torch.rand(7)
    assert same_bits(first, fit(config, data))
    other = fit(busy_config(precision=precision, seed=1), data)
    assert first.history[0].train_loss != other.history[0].train_loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trainings_in_several_threads_give_the_bits_of_each_alone(precision: str) -> None:
    data = small_data()
    configs = [small_config(precision=precision, epochs=1, seed=number % 5) for number in range(40)]
    alone = [fit(config, data) for config in configs[:5]]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet at every point
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda config: fit(config, data, progress=False), configs))
    finally:
        sys.setswitchinterval(interval)
    assert [same_bits(alone[number % 5], result) for number, result in enumerate(together)] == [True] * 40


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("optimizer", OptimizerName)
@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.0, "clean_epochs": 1}, {"precision": "bf16"}])
def test_training_goes_on_from_the_state_after_any_epoch_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], optimizer: OptimizerName, recorded: bool
) -> None:
    if recorded:  # as where there are CUDA graphs, whose first steps after a restart are taken one by one again
        monkeypatch.setattr(training, "fastest_step", lambda step: RecordedStep(step, lambda body: body))
    config = dataclasses.replace(
        busy_config(epochs=4, batch_size=8, **changes), optimizer=OptimizerConfig(optimizer, lr=0.01)
    )
    data, states, told = small_data(), list[TrainingState](), list[Epoch]()
    whole = fit(config, data, told.append, keep=states.append)
    assert [len(state["history"]) for state in states] == [1, 2, 3, 4]
    for done, state in enumerate(states, start=1):
        told.clear()
        torch.rand(7)
        assert same_bits(fit(config, data, told.append, state), whole), f"after epoch {done}"
        assert [epoch.epoch for epoch in told] == list(range(done + 1, 5))


@pytest.mark.parametrize("stopped", [False, True])
def test_random_state_threads_and_images_of_the_caller_are_left_alone(stopped: bool) -> None:
    def stop(_epoch: Epoch) -> None:
        if stopped:
            raise KeyboardInterrupt

    data = small_data()
    before = data.train.pixels.clone()
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        fit(busy_config(epochs=1), data, stop)
    except KeyboardInterrupt:
        assert stopped
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data.train.pixels, before)
    assert not torch.is_inference_mode_enabled()


def test_training_and_evaluation_use_the_threads_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    original = Normalise.forward

    def counting(self: Normalise, pixels: Tensor) -> Tensor:
        seen[self.training].add(torch.get_num_threads())
        return original(self, pixels)

    monkeypatch.setattr(Normalise, "forward", counting)
    config = small_config(epochs=1, threads=2)
    data = small_data()
    assert data.validation is not None
    result = fit(config, data)
    evaluate(result.model, data.validation, hardware(config.trainer))
    assert seen == {True: {2}, False: {2}}
    assert torch.get_num_threads() == 1


# ---- what is shown


class Bar(Progress):
    """Remembers what it was told."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs, "epochs")
        self.reached: list[float] = []

    def reach(self, done: float) -> None:
        self.reached.append(done)


def test_a_bar_moves_with_each_step_and_counts_an_epoch_once_it_has_ended() -> None:
    bar, seen = Bar(2), list[float]()
    config = small_config(epochs=2)
    fit(config, small_data(), lambda _: seen.append(max(bar.reached)), progress=bar)
    assert bar.reached == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 4 / 3, 5 / 3, 2])
    assert seen[0] < 1, "the epoch was told before it counted as done"
    bar, states = Bar(2), list[TrainingState]()
    fit(config, small_data(), keep=states.append)
    fit(config, small_data(), state=states[0], progress=bar)
    assert bar.reached == pytest.approx([1, 4 / 3, 5 / 3, 2])


def test_training_shows_a_bar_at_a_terminal_unless_told_not_to_and_nothing_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = fit(busy_config(), small_data())
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert same_bits(fit(busy_config(), small_data()), silent), "showing it changes no bit"
    assert "3/3 epochs" in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)
    fit(busy_config(), small_data(), progress=False)
    assert capsys.readouterr() == ("", "")


# ---- epochs


def test_each_epoch_is_told_in_order_and_who_is_told_may_stop_the_training() -> None:
    class EnoughError(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise EnoughError

    told: list[Epoch] = []
    result = fit(small_config(epochs=4), small_data(), told.append)
    assert told == result.history
    assert [epoch.epoch for epoch in told] == [1, 2, 3, 4]
    assert 0 < sum(epoch.seconds for epoch in told) <= result.seconds
    with pytest.raises(EnoughError):
        fit(small_config(epochs=4), small_data(), stop)


def test_without_validation_its_figures_are_none() -> None:
    last = fit(small_config(), small_data(validation=0)).history[-1]
    assert last.validation_loss is None
    assert last.validation_accuracy is None
    assert last.train_loss > 0


@pytest.mark.parametrize("name", SchedulerName)
def test_the_rate_is_that_of_the_schedule_at_every_step_and_told_of_the_last(
    name: SchedulerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float | Tensor] = []
    original = Optimizer.step

    def step(self: Optimizer, lr: float | Tensor) -> None:
        used.append(lr)
        original(self, lr)

    monkeypatch.setattr(Optimizer, "step", step)
    config = dataclasses.replace(
        small_config(epochs=4, batch_size=20),
        scheduler=SchedulerConfig(name, step_epochs=2) if name == SchedulerName.step else SchedulerConfig(name),
    )
    steps = 48 // 20
    history = fit(config, small_data()).history
    assert used == [0.05 * factor(config.scheduler, number, 4 * steps, steps) for number in range(4 * steps)]
    assert [epoch.lr for epoch in history] == used[steps - 1 :: steps]


def seen_by_augment(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, AugmentationConfig]]:
    """What `fit` passes to `augment` from here on."""
    seen: list[tuple[Tensor, AugmentationConfig]] = []

    def spy(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
        seen.append((images.clone(), config))
        return augment(images, config, generator)

    monkeypatch.setattr(training, "augment", spy)
    return seen


def test_the_last_epochs_are_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_by_augment(monkeypatch)
    config = busy_config(epochs=5, clean_epochs=2)
    fit(config, small_data())
    assert [strength for _, strength in seen] == [config.augmentation] * 3 + [AugmentationConfig()] * 2


@pytest.mark.parametrize(("images", "batch_size"), [(48, 16), (1500, 16), (1500, 1000)])
def test_an_epoch_shows_every_image_once_in_a_new_order(
    monkeypatch: pytest.MonkeyPatch, images: int, batch_size: int
) -> None:
    seen = seen_by_augment(monkeypatch)
    data = small_data(train=images, validation=0)
    data.train.pixels[:, 0, 0, 0] = torch.arange(images) % 256
    data.train.pixels[:, 0, 0, 1] = torch.arange(images) // 256
    shown = images // batch_size * batch_size

    fit(small_config(ModelConfig(width=1, depth=[1]), epochs=2, batch_size=batch_size), data)
    pixels = torch.cat([chunk for chunk, _ in seen])[:, 0, 0]
    numbers = (pixels[:, 0] + 256 * pixels[:, 1]).int().tolist()
    orders = numbers[:shown], numbers[shown:]
    assert len(numbers) == 2 * shown
    assert [len(set(order)) for order in orders] == [shown, shown]
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("batch_size", [49, 1_000_000])
def test_a_batch_larger_than_the_data_set_is_the_data_set(batch_size: int) -> None:
    data = small_data()
    assert same_bits(
        fit(small_config(batch_size=batch_size), data), fit(small_config(batch_size=len(data.train)), data)
    )


# ---- a device that isn't waited for


class ReadBack(TorchDispatchMode):
    """Counts what makes a host wait for its device: numbers read from tensors, shapes that depend on values, and
    values brought there one by one."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += func._schema.name.removeprefix("aten::") in self.WAITING
        return func(*args, **kwargs or {})


def times_read_back(config: Config, images: int) -> int:
    data, counted = small_data(train=images, validation=0), ReadBack()
    with counted:
        fit(config, data)
    return counted.times


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_a_step_never_waits_for_the_device(optimizer: OptimizerName) -> None:
    config = dataclasses.replace(busy_config(epochs=2), optimizer=OptimizerConfig(optimizer))
    few, many = times_read_back(config, 32), times_read_back(config, 320)
    assert few == many > 0
    longer = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, epochs=5))
    assert times_read_back(longer, 32) - few == 2 * 3, "an epoch reads its loss and what was right"


# ---- losses


def test_label_smoothing_raises_the_floor_of_the_training_loss_alone() -> None:
    plain, smooth = (
        fit(small_config(epochs=20, label_smoothing=smoothing), small_data()).history[-1] for smoothing in (0, 0.2)
    )
    floor = -(0.85 * math.log(0.85) + 3 * 0.05 * math.log(0.05))  # 0.2 shared by all 4 classes
    assert plain.train_loss < 0.1
    assert floor <= smooth.train_loss < floor + 0.1
    assert smooth.validation_loss is not None
    assert smooth.validation_loss < floor


@pytest.mark.parametrize("count", [24, 2500])
def test_evaluation_is_plain_cross_entropy_and_accuracy(count: int) -> None:
    images = made_images(count, 4, 12, seed=3)
    model = fit(busy_config(epochs=1), small_data()).model.train()
    score = evaluate(model, images, PLAIN)
    assert not model.training
    with torch.no_grad():
        logits = model(images.pixels.float())
    assert score.loss == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-5)
    assert score.accuracy == pytest.approx((logits.argmax(1) == images.labels).double().mean().item(), abs=1e-9)
    assert score.predicted.tolist() == logits.argmax(1).tolist()
    assert 0 < score.accuracy < 1


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 200, (50, 2, 8, 8), generator=generator).float()
    pixels[:, 1] /= 3
    scaled = pixels / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
    normalised = Normalise(tuple(mean.tolist()), tuple(std.tolist()))(pixels)
    assert normalised.mean((0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert normalised.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_views_change_validation_and_the_model_but_not_training() -> None:
    data = small_data()
    assert data.validation
    one, five = (fit(small_config(ModelConfig(width=4, depth=[1, 1], views=views)), data) for views in (1, 5))
    assert [epoch.train_loss for epoch in one.history] == [epoch.train_loss for epoch in five.history]
    weights = one.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in five.model.state_dict().items())
    logits = five.model(data.validation.pixels.float())
    assert five.history[-1].validation_loss == pytest.approx(
        F.nll_loss(logits.log_softmax(1), data.validation.labels).item()
    )
    assert five.history[-1].validation_loss != pytest.approx(one.history[-1].validation_loss, rel=1e-3)


@pytest.mark.parametrize("ema_decay", [0.0, 0.7])
def test_the_model_returned_is_the_one_that_was_evaluated(ema_decay: float) -> None:
    data = small_data()
    assert data.validation is not None
    result = fit(small_config(ema_decay=ema_decay), data)
    assert not result.model.training
    score = evaluate(result.model, data.validation, PLAIN)
    assert score.loss == result.history[-1].validation_loss
    assert score.accuracy == result.history[-1].validation_accuracy


def test_the_average_is_the_exponential_one_of_the_weights_after_each_step() -> None:
    def trained(epochs: int, ema_decay: float) -> dict[str, Tensor]:
        """After one step an epoch at a constant rate, so that a shorter run is the start of a longer one."""
        config = dataclasses.replace(
            small_config(epochs=epochs, batch_size=48, ema_decay=ema_decay),
            scheduler=SchedulerConfig(SchedulerName.constant),
        )
        return state_of(fit(config, small_data()))

    raw = [trained(epochs, 0.0) for epochs in (1, 2, 3, 4)]
    averaged = trained(4, 0.7)
    for name, value in averaged.items():
        if value.is_floating_point():
            expected = raw[0][name]
            for state in raw[1:]:
                expected = 0.7 * expected + 0.3 * state[name]
            torch.testing.assert_close(value, expected)
        else:
            assert torch.equal(value, raw[-1][name]), "counts have no average"
    assert any(not torch.allclose(averaged[name], raw[-1][name], rtol=0.01) for name in averaged)


# ---- failure


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_huge_learning_rate_is_told_with_its_epoch(precision: str) -> None:
    told: list[Epoch] = []
    config = dataclasses.replace(small_config(precision=precision, epochs=8), optimizer=OptimizerConfig(lr=1000))
    with pytest.raises(DivergedError) as caught:
        fit(config, small_data(), told.append)
    assert f"loss of epoch {len(told) + 1} is " in str(caught.value)
    assert "optimizer.lr=1000 " in str(caught.value)
    assert all(math.isfinite(epoch.train_loss) for epoch in told)


def test_a_validation_loss_that_is_no_number_is_told_too() -> None:
    deep = ModelConfig(width=4, depth=[24], stem_kernel=3)
    config = dataclasses.replace(
        small_config(deep, epochs=1, batch_size=48),  # one step: the training loss is that of the first weights
        optimizer=OptimizerConfig(lr=1000),
        scheduler=SchedulerConfig(SchedulerName.constant),
    )
    assert math.isfinite(fit(config, small_data(validation=0)).history[0].train_loss)
    with pytest.raises(DivergedError, match=r"validation loss of epoch 1 is nan; lower optimizer\.lr=1000 "):
        fit(config, small_data())


@pytest.mark.parametrize("bound", ["params", "macs", "activation_bytes"])
def test_a_model_over_budget_is_refused_as_the_gate_refuses_it(bound: str) -> None:
    config = small_config()
    cost = getattr(budget.gate(config, SHAPE), bound)
    setattr(config.budget, bound, cost if bound == "params" else cost - 1)
    with pytest.raises(BudgetError) as by_the_gate:
        budget.gate(config, SHAPE)
    with pytest.raises(BudgetError) as by_fit:
        fit(config, small_data(), lambda _epoch: pytest.fail("it was trained"))
    assert str(by_fit.value) == str(by_the_gate.value)
    setattr(config.budget, bound, cost + 1)
    assert len(fit(config, small_data()).history) == config.trainer.epochs


def test_settings_that_cannot_be_trained_are_refused_before_training() -> None:
    contradictory = small_config()
    contradictory.trainer.clean_epochs = 4
    for config, message in (
        (contradictory, r"trainer\.clean_epochs=4 must not exceed trainer\.epochs=3"),
        (small_config(ModelConfig()), r"model\.width=auto must be resolved"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(config, small_data(), lambda _epoch: pytest.fail("it was trained"))


# ---- what is imported


def test_the_example_of_the_package_runs_without_what_it_does_not_need(mnist_root: Path) -> None:
    assert tinysweep.__doc__
    example = "\n".join(line[4:] for line in tinysweep.__doc__.splitlines() if line.startswith("    "))
    assert "tinysweep.fit(" in example
    needless = "{'hydra', 'optuna', 'torch._dynamo', 'sympy', 'matplotlib', 'pandas'}"
    program = f"""
import sys
import tinysweep
from tinysweep.settings.schema import Config, DataConfig, ModelConfig, TrainerConfig

tinysweep.Config = lambda: Config(
    data=DataConfig(root=sys.argv[1], download=False, limit=100, validation=100),
    model=ModelConfig(depth=[1, 1]),
    trainer=TrainerConfig(epochs=1, threads=1, ema_decay=0.5),
)
{example}
print({needless} & set(sys.modules))
import tinysweep.run.run
print({needless} & set(sys.modules) - {{'hydra'}})
"""
    words = [sys.executable, "-c", program, str(mnist_root)]
    accuracy, *loaded = subprocess.check_output(words, text=True, timeout=120).splitlines()
    assert 0 <= float(accuracy) <= 1
    assert loaded == ["set()", "set()"], "nor does a run, but for Hydra"


def test_training_accuracy_is_that_of_the_images_before_they_are_learned_from() -> None:
    data, config = small_data(validation=0), small_config(batch_size=48, epochs=1)
    torch.manual_seed(config.trainer.seed)
    network = build_model(config.model, data.shape, config.dropout).train()
    pixels = Normalise(data.mean, data.std)(data.train.pixels.float())
    right = int((network(pixels).argmax(1) == data.train.labels).sum())
    assert fit(config, data).history[0].train_accuracy == right / 48
    longer = fit(small_config(epochs=30), data).history
    assert longer[-1].train_accuracy == 1.0
