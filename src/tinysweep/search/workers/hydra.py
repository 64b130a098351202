"""Jobs by any other launcher of Hydra's, which takes several at a time and tells of none before all have ended."""

import threading
import time
from collections.abc import Callable, Sequence

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from tinysweep.errors import first_line
from tinysweep.run.record import RunFolder
from tinysweep.search.study import trial_path
from tinysweep.search.workers.job import Outcome, SweepContext
from tinysweep.search.workers.local import DIED
from tinysweep.search.workers.pool import Ended

POLL_SECONDS = 0.3


class HydraPool:
    """A launcher, and the jobs that it is given next.

    A launcher that raises has lost a job, but others may go on, as on a cluster; they are waited for. Those that
    haven't finished then are launched one at a time, so that only what brings down its worker when alone is said
    to have died. Should one still wait in a queue, it and its second launch see each other, as run_trial tells."""

    def __init__(self, capacity: int, threads: int | None = None) -> None:
        self.capacity, self.threads = capacity, threads
        self.queue: list[tuple[int, list[str]]] = []
        self.suspects: list[tuple[int, list[str]]] = []

    def begin(self, context: SweepContext) -> None:
        self.study = context.study
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context.hydra, task_function=context.task, config=context.master
        )

    def submit(self, number: int, overrides: list[str]) -> None:
        self.queue.append((number, overrides))

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:
        """Launch what waits, and block until all of it has ended."""
        if self.suspects:
            batch = [self.suspects.pop(0)]
        else:
            batch, self.queue = self.queue, []
        if not batch:
            time.sleep(POLL_SECONDS)
            return []
        returns, broken = self._launch(batch, look)
        if broken is None:
            return [Ended(job[0], Outcome.of(told)) for job, told in zip(batch, returns, strict=True)]
        while any(RunFolder(self.study / trial_path(number)).is_held for number, _ in batch):
            time.sleep(POLL_SECONDS)
        left = look()
        batch = [job for job in batch if job[0] in left]
        if len(batch) == 1:
            said = f"{DIED} ({type(broken).__name__}: {first_line(broken)})"
            return [Ended(batch[0][0], died=said)]
        self.suspects = [*batch, *self.suspects]
        return []

    def _launch(
        self, batch: list[tuple[int, list[str]]], look: Callable[[], set[int]]
    ) -> tuple[Sequence[JobReturn], Exception | None]:
        """Launch a batch and settle its trials meanwhile; what the launcher raised if it broke down."""
        done = threading.Event()
        failures: list[Exception] = []

        def watch() -> None:
            try:
                while not done.wait(POLL_SECONDS):
                    look()
            except Exception as error:  # raised again by the thread that waits for the launcher
                failures.append(error)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            returns = self.launcher.launch([overrides for _, overrides in batch], batch[0][0])
            broken = None
        except Exception as error:
            returns, broken = [], error
        finally:
            done.set()
            watcher.join()
        if failures:
            raise failures[0]
        return returns, broken

    def stop(self) -> None:
        self.queue, self.suspects = [], []
