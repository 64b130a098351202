"""What a sweep asks of whoever runs its jobs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tinysweep.search.workers.job import Outcome, SweepContext

MOST_QUEUED = 8


@dataclass(frozen=True)
class Ended:
    """A job that is no longer at work: by itself, with what it told, or because its worker has died, and how; of
    the death of a whole `machine` no trial is the cause."""

    number: int
    outcome: Outcome = field(default_factory=Outcome)
    died: str | None = None
    machine: bool = False


class Pool(Protocol):
    """Runs jobs, each given by the number of its trial and its overrides."""

    threads: int | None  # CPU threads that a job may use; None where nothing tells

    def begin(self, context: SweepContext) -> None:
        """Get ready; called once, before anything is submitted."""

    @property
    def capacity(self) -> int:
        """How many jobs it takes at a time: those that it runs, and a few that wait for a worker."""

    def submit(self, number: int, overrides: list[str]) -> None:
        """Run a job as soon as a worker is free."""

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:
        """Wait until a job has ended, or for a moment. `look` settles what has left a finished record and tells
        which trials haven't; for those that don't know of a job's end before all have ended."""

    def stop(self) -> None:
        """End what is at work, as far as it can be ended from here."""


def with_queue(workers: int) -> int:
    """How many jobs are out at a time: one for each worker, and some that wait, so that a worker which gets free
    needn't wait until the next is drawn. A lone worker has none: what is drawn next is to know its result."""
    return workers + min(MOST_QUEUED, workers // 2)
