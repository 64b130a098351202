"""Worker processes that stay warm and share nothing: one that is killed takes only its own job with it, and all go
when the process that had started them does."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from joblib.externals.loky import ProcessPoolExecutor

Key = TypeVar("Key", bound=Hashable)
LOOK_SECONDS = 1.0  # how often a worker looks whether the process that had started it is still there


@dataclass(frozen=True)
class Done(Generic[Key]):
    """A job that has ended: what its function returned or raised, or `died`, how its worker did."""

    key: Key
    returned: Any = None
    error: BaseException | None = None
    died: str | None = None

    def result(self) -> Any:
        """What the function returned; what it raised is raised again."""
        if self.error:
            raise self.error
        return self.returned


class Processes(Generic[Key]):
    """Runs jobs in so many processes of their own, first come, first served.

    A pool would share its queues: joblib ends every worker of one when any is killed."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._idle: list[ProcessPoolExecutor] = []
        self._waiting: deque[tuple[Key, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._at_work: dict[Future[Any], tuple[Key, ProcessPoolExecutor]] = {}

    def submit(self, key: Key, function: Callable[..., Any], *args: Any) -> None:
        """Run `function`, which another process can import, as soon as a worker is free."""
        self._waiting.append((key, function, args))
        self._assign()

    def wait(self, seconds: float | None = None) -> list[Done[Key]]:
        """Those jobs that have ended since the last call; if none has, it waits for the next, so long at most."""
        if not self._at_work:  # for which `concurrent.futures` wouldn't wait
            time.sleep(seconds or 0)
        ended = wait(list(self._at_work), timeout=seconds, return_when=FIRST_COMPLETED).done
        done = [self._take(future) for future in ended]
        self._assign()  # before anything is made of the results: no worker is to wait for that
        return done

    def stop(self) -> None:
        """End every worker, at work or not; what was at work has no result."""
        executors = [*self._idle, *(executor for _, executor in self._at_work.values())]
        with ThreadPoolExecutor(len(executors) or 1) as threads:  # so that all die while each is waited for
            list(threads.map(partial(ProcessPoolExecutor.shutdown, kill_workers=True), executors))
        self._idle.clear()
        self._waiting.clear()
        self._at_work.clear()

    def _assign(self) -> None:
        while self._waiting and len(self._at_work) < self.workers:
            key, function, args = self._waiting.popleft()
            executor, future = self._hand_out(function, args)
            self._at_work[future] = key, executor

    def _hand_out(
        self, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> "tuple[ProcessPoolExecutor, Future[Any]]":
        while self._idle:
            executor = self._idle.pop()
            try:
                return executor, executor.submit(function, *args)
            except BrokenExecutor:  # killed while it was idle
                executor.shutdown(wait=False, kill_workers=True)
        executor = _start()
        return executor, executor.submit(function, *args)

    def _take(self, future: "Future[Any]") -> Done[Key]:
        key, executor = self._at_work.pop(future)
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            executor.shutdown(wait=False, kill_workers=True)
            return Done(key, died=type(error).__name__)
        self._idle.append(executor)
        return Done(key, None if error else future.result(), error)


def _start() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, initializer=_begin, initargs=(os.getpid(),))


def _begin(parent: int) -> None:
    """Called once in a worker. A terminal sends Ctrl-C to all processes, but it is the parent that ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
