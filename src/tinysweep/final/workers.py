"""Runs side by side, each worker a process of its own that keeps the data from one run to the next."""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tinysweep.errors import AbandonedError, TinysweepError
from tinysweep.run.run import run
from tinysweep.settings.schema import Config
from tinysweep.terminal import interrupt
from tinysweep.training.loop import Epoch

STOP_SECONDS = 10.0  # for a worker to close its record
CLOSED = (EOFError, OSError)  # what a pipe raises when there is nobody at its other end


@dataclass(frozen=True)
class Task:
    """A run that is to leave its record in a folder."""

    config: Config
    folder: Path


def train(task: Task) -> str | None:
    """Run a task quietly; the reason if it failed, which its record tells too."""
    try:
        run(task.config, task.folder, [], _require_parent)
    except TinysweepError as error:
        return str(error)
    except Exception as error:  # whatever stops one run, the others go on
        return f"{type(error).__name__}: {error}"
    return None


def _require_parent(_epoch: Epoch) -> None:
    """Called after each epoch: a run whose command was killed must not go on writing where another may begin.

    Raises:
        AbandonedError: the process that started this worker is gone.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        raise AbandonedError("the command that had started this run is gone")


def _serve(tasks: Connection) -> None:
    """A worker: trains what it is sent, until it is terminated or nobody is there to send."""
    signal.signal(signal.SIGTERM, interrupt)
    with contextlib.suppress(*CLOSED, KeyboardInterrupt):
        while True:
            tasks.send(train(tasks.recv()))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to be closed


class Worker:
    """A process that trains one task at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # threads of torch don't survive a fork
        self.tasks, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _without_interrupts():
            self.process.start()
        theirs.close()  # so that the end of the worker is the end of the pipe

    def send(self, task: Task) -> None:
        with contextlib.suppress(*CLOSED):  # a worker that has died is noticed when it is listened to
            self.tasks.send(task)

    def result(self) -> str | None:
        """What `train` returned, or how the worker ended instead."""
        try:
            reason: str | None = self.tasks.recv()
        except CLOSED:
            self.end()
            code = self.process.exitcode or 0
            how = (
                f"killed by {signal.Signals(-code).name}, perhaps for want of memory"
                if code < 0
                else f"exit {code}"
            )
            return f"its worker died ({how})"
        return reason

    def end(self) -> None:
        """Wait for the process, which has ended or been told to, and kill it if it doesn't."""
        self.process.join(STOP_SECONDS)
        self.process.kill()
        self.process.join()
        self.tasks.close()


class Pool:
    """At most `size` workers; with one, tasks run in this process.

    To be used in a with statement, whose end, by an interruption too, is the end of the workers and of whatever
    they were training.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.idle: list[Worker] = []
        self.busy: dict[Connection, tuple[Worker, int]] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        workers = [*self.idle, *(worker for worker, _ in self.busy.values())]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.end()

    def run(self, tasks: Sequence[Task], finished: Callable[[int, str | None], None]) -> None:
        """Train the tasks; `finished` is called with the position of each as soon as it is done, and with the
        reason if it failed."""
        if self.size == 1:
            for position, task in enumerate(tasks):
                finished(position, train(task))
            return
        waiting = deque(enumerate(tasks))
        while waiting or self.busy:
            while waiting and len(self.busy) < self.size:
                position, task = waiting.popleft()
                worker = self.idle.pop() if self.idle else Worker()
                self.busy[worker.tasks] = worker, position
                worker.send(task)
            for ready in wait(list(self.busy)):
                assert isinstance(ready, Connection)
                worker, position = self.busy.pop(ready)
                reason = worker.result()
                if not worker.tasks.closed:
                    self.idle.append(worker)
                finished(position, reason)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a process that is started meanwhile never see Ctrl-C, which a terminal sends to all: its parent stops
    it."""
    resource_tracker.ensure_running()  # it would let them through again when it is first needed
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
