"""One training step and the average of the weights; the same step as a CUDA graph, which a host launches whole."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tinysweep.training.device import ONE_AT_A_TIME, Hardware
from tinysweep.training.optimizer import Optimizer

Body = Callable[[], None]
EAGER_STEPS = 3  # in which libraries choose their kernels and take their memory, which a recording can't hold


class AveragedModel:
    """A copy, `module`, whose weights and buffers follow those of a model (Polyak & Juditsky, 1992; in this form
    Kingma & Ba, 2014, arXiv:1412.6980, section 7.2).

    Unlike `torch.optim.swa_utils.AveragedModel` it counts its updates on the host, so that no step waits for the
    device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        counts = {id(buffer): buffer for buffer in model.buffers() if not buffer.is_floating_point()}
        self.module = copy.deepcopy(model, counts)  # it shares the counts, which have no average
        self.follow, self.updates = get_ema_multi_avg_fn(decay), 0
        self.averages, self.values = (
            [tensor.detach() for tensor in (*one.parameters(), *one.buffers()) if tensor.is_floating_point()]
            for one in (self.module, model)
        )

    def update(self) -> None:
        """Follow the model: all the way at first, then by 1 - decay of it."""
        follow = self.follow if self.updates else get_ema_multi_avg_fn(0.0)
        follow(self.averages, self.values, self.updates)
        self.updates += 1


class Step:
    """Forward, backward, optimizer and average; on the device `total` sums the losses, and `correct` counts the
    images whose class the model told before it learned from them.

    Nothing in it waits for the device.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        average: AveragedModel | None,
        machine: Hardware,
        label_smoothing: float,
        class_weights: Tensor | None = None,
    ) -> None:
        self.model, self.optimizer, self.average = model, optimizer, average
        self.machine, self.label_smoothing, self.class_weights = machine, label_smoothing, class_weights
        self.total = torch.zeros((), device=machine.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=machine.device)

    def __call__(self, pixels: Tensor, labels: Tensor, lr: float | Tensor) -> None:
        """Learn from raw pixels (B, C, H, W) float and their labels (B,) at this learning rate."""
        with self.machine.autocast():
            logits = self.model(pixels)
        loss = F.cross_entropy(logits.float(), labels, self.class_weights, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step(lr)
        if self.average:
            self.average.update()
        self.total += loss.detach()
        self.correct += (logits.detach().argmax(1) == labels).sum()


class RecordedStep:
    """A step whose kernels are recorded once and from then on launched together, as a CUDA graph.

    The kernels of a small network take a GPU less time than a host needs to launch them one by one. The first
    steps are taken as they come, the next is recorded; every call is one step of training. A recording reads and
    writes fixed places in memory: every batch, which must have the shape of the first, and the learning rate are
    copied to theirs, and the optimizer gets the latter as a tensor. A batch of another shape is a ValueError.

    `record` takes a function, which it may call or not as long as that has no effect, and returns one that does
    the same work.
    """

    def __init__(self, step: Step, record: Callable[[Body], Body] | None = None) -> None:
        self.step, self.record = step, record or record_graph
        self.places: tuple[Tensor, Tensor] | None = None
        self.lr = torch.zeros((), device=step.machine.device)
        self.taken, self.replay = 0, self._body

    def __call__(self, pixels: Tensor, labels: Tensor, lr: float) -> None:
        if self.places is None:
            self.places = torch.empty_like(pixels), torch.empty_like(labels)
        if pixels.shape != self.places[0].shape:
            raise ValueError(f"every batch must have the shape of the first, {tuple(self.places[0].shape)}")
        self.places[0].copy_(pixels)
        self.places[1].copy_(labels)
        self.lr.fill_(lr)
        if self.taken == EAGER_STEPS:
            self.replay = self.record(self._body)
        self.replay()
        self.taken += 1

    def _body(self) -> None:
        assert self.places is not None
        self.step(*self.places, self.lr)


def record_graph(body: Body) -> Body:
    """Record the kernels that `body` launches, without running them, and return what launches them all. Other
    threads may train meanwhile, each in a stream of its own."""
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    # Nothing can be recorded in the default stream. A thread's own is kept, as all that is recorded in one stream
    # shares a workspace of cuBLAS, into which two graphs at a time mustn't write.
    stream = None if current == torch.cuda.default_stream() else current
    with ONE_AT_A_TIME, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        body()

    def replay() -> None:
        with ONE_AT_A_TIME:
            graph.replay()

    return replay


def fastest_step(step: Step) -> Step | RecordedStep:
    """The step as this device takes it fastest."""
    return RecordedStep(step) if step.machine.graphs else step
