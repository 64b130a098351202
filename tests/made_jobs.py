"""Trials that are handed to workers without any training: a study, the records that jobs leave, and a pool that
does as it is told."""

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from tinysweep.metrics import METRICS
from tinysweep.search.study import Study, status
from tinysweep.search.table import LATER
from tinysweep.search.workers.dispatch import Jobs
from tinysweep.search.workers.job import Outcome, SweepContext
from tinysweep.search.workers.pool import Ended, Pool

SHARES = dict.fromkeys(LATER, 0.5)
PATIENCE = 60.0
Job = Callable[[int, int], Outcome | Ended | str | None]


class AnyTime(str):
    """Equal to every time."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    __hash__ = None  # type: ignore[assignment]


def made_record(
    state: str = "complete",
    reason: str | None = None,
    error: str | None = None,
    closed: bool = False,
    **metrics: float | None,
) -> dict[str, Any]:
    """What a run leaves as its record; if `closed`, another process wrote when it ended."""
    return {
        "state": state,
        "reason": reason,
        "error": error,
        "metrics": {"train_loss": 0.1, "validation_loss": 0.25, "validation_accuracy": 0.9} | SHARES | metrics,
        "cost": {"params": 100, "macs": 1000, "activation_bytes": 50},
        "epochs": 4,
        "seed": 3,
        "train_seconds": 1.5,
        "started": "2026-01-02T03:04:05+00:00",
        "finished": AnyTime() if closed else None if state == "running" else "2026-01-02T03:04:15+00:00",
    }


class Bench:
    """A study whose trials are handed to a pool, and what becomes of them."""

    def __init__(self, folder: Path, objectives: list[str]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [StudyDirection[METRICS[aim].direction.upper()] for aim in objectives]
        self.study = Study(optuna.create_study(directions=directions), folder)
        self.objectives = objectives
        self.finished: list[int] = []
        self.said: list[str] = []

    def jobs(self, pool: Pool, patience: float = PATIENCE) -> Jobs:
        return Jobs(self.study, self.objectives, pool, self._finished, self.said.append, patience)

    def run(self, count: int, pool: Pool) -> None:
        """Hand out so many trials at once, and wait for all."""
        self.hand_out(count, jobs := self.jobs(pool))
        wait_for_all(jobs)

    def hand_out(self, count: int, jobs: Jobs) -> None:
        for _ in range(count):
            number = self.study.ask().number
            jobs.submit(number, [f"trial={number}"])

    def leave(self, number: int, content: dict[str, Any]) -> Outcome:
        """Leave a record as a job would, and what such a job tells."""
        folder = self.study.trial_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(content))
        return Outcome()

    def _finished(self, trial: FrozenTrial) -> None:
        assert trial.state.is_finished()
        self.finished.append(trial.number)

    @property
    def statuses(self) -> list[str]:
        return [status(trial).value for trial in self.study.trials()]

    def reason(self, number: int) -> str:
        return str(self.study.trial(number).user_attrs.get("reason"))

    def record(self, number: int) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.study.trial_folder(number) / "record.json").read_text())
        return content


def wait_for_all(jobs: Jobs) -> None:
    while jobs.out:
        jobs.wait()


class ObedientPool:
    """Runs one job after another by a function: of its number, and how often it was run before. What that returns
    is what the job tells of its end, or as text how its worker died, or all of its end."""

    threads: int | None = 1
    capacity = 4

    def __init__(self, job: Job) -> None:
        self.job = job
        self.waiting: deque[int] = deque()
        self.ran: list[int] = []
        self.stopped = False

    def begin(self, context: SweepContext) -> None:
        """Nothing needs to be made ready."""

    def submit(self, number: int, overrides: list[str]) -> None:
        assert overrides == [f"trial={number}"]
        assert number not in self.waiting
        self.waiting.append(number)

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:  # noqa: ARG002 every end is known at once
        if not self.waiting:
            return []
        number = self.waiting.popleft()
        self.ran.append(number)
        told = self.job(number, self.ran.count(number) - 1)
        if isinstance(told, Ended):
            return [told]
        return [Ended(number, died=told) if isinstance(told, str) else Ended(number, told or Outcome())]

    def stop(self) -> None:
        self.stopped = True
