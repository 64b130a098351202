"""The trials that a sweep has given out: handed to workers, and settled as their records say."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from optuna.trial import FrozenTrial

from tinysweep.errors import ConfigError, StudyError
from tinysweep.metrics import METRICS
from tinysweep.run.record import ENDED, State, close_left_record, read_record
from tinysweep.search.study import Status, Study, trial_path
from tinysweep.search.workers.pool import Ended, Pool

MOST_DEATHS = 3  # of a trial's workers; whatever the trial, one may be killed for another's sake
MOST_MACHINES = 10  # that die under a trial, which it isn't to blame for; but no sweep is to go on for ever
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds until a trial that met an outage is tried again


def settle(study: Study, number: int, record: dict[str, Any], objectives: list[str]) -> bool:
    """Close a trial as its finished record says; False if it isn't finished, or another sweeper closed the
    trial."""
    if record["state"] == State.running:
        return False
    notes = figures(record) | {"folder": trial_path(number)}
    became, reason = Status(record["state"]), record["reason"]
    values = None
    if error := record.get("error"):
        notes["error"] = error
    if became == Status.complete:
        wrong = [name for name in objectives if notes[name] is None or not math.isfinite(notes[name])]
        if wrong:
            became, reason = Status.failed, f"its record has {wrong[0]}={notes[wrong[0]]}"
            notes["error"] = ConfigError.__name__  # the same would be missing again
        else:
            values = [float(notes[name]) for name in objectives]
    return study.close(number, became, reason, values, **notes)


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """What a study notes of a record, by the names of METRICS and of the table's columns."""
    metrics, cost = record["metrics"], record["cost"]
    every = {**metrics, **cost, "seconds": record["train_seconds"]}
    own = [name for name in metrics if name.startswith("validation_")]
    return {name: every.get(name) for name in dict.fromkeys((*METRICS, *own))} | {
        name: record[name] for name in ("epochs", "seed", "started", "finished")
    }


def leave_interrupted(study: Study, number: int, objectives: list[str], reason: str) -> bool:
    """Close a trial whose job is gone: as its record says if it had finished, else as interrupted. False if
    another sweeper closed it."""
    folder = study.trial_folder(number)
    record = read_record(folder)
    if record and record["state"] != State.running:
        return settle(study, number, record, objectives)
    close_left_record(folder, State.interrupted, reason)
    notes = figures(record) | {"folder": trial_path(number)} if record else {}
    return study.close(number, Status.interrupted, reason, **notes)


class Jobs:
    """Hands trials to a pool of workers and settles them.

    Whatever a worker says, a trial is judged by the record in its folder. One whose worker died is handed out
    again as the same trial, which goes on with what is left in its folder; so is, after a pause, one that met an
    outage, of the storage or of a disk."""

    def __init__(
        self,
        study: Study,
        objectives: list[str],
        pool: Pool,
        finished: Callable[[FrozenTrial], None],
        say: Callable[[str], None],
        patience: float,
    ) -> None:
        """`finished` is called with every trial that is closed, `say` with what a person should know meanwhile;
        `patience` are the seconds for which a trial is held back, all in all, before an outage ends the sweep."""
        self.study, self.objectives, self.pool = study, objectives, pool
        self.finished, self.say, self.patience = finished, say, patience
        self.out: dict[int, list[str]] = {}
        self.deaths: Counter[tuple[int, bool]] = Counter()  # of each trial, its workers' and its machines'
        self.paused: dict[int, float] = {}  # until when
        self.held_back: defaultdict[int, float] = defaultdict(float)  # seconds, of each trial since any has ended

    def submit(self, number: int, overrides: list[str]) -> None:
        """Hand out a trial."""
        self.out[number] = overrides
        self.pool.submit(number, overrides)

    def wait(self) -> None:
        """Wait until a job has ended, or for a moment, and settle what has.

        Raises:
            StudyError: an outage has lasted too long, or a machine can train nothing.
        """
        for ended in self.pool.wait(self._look):
            if ended.number in self.out:
                self._take(ended)
        for number in [number for number, due in self.paused.items() if due <= time.monotonic()]:
            del self.paused[number]
            self.pool.submit(number, self.out[number])

    def interrupt(self, reason: str) -> None:
        """Stop the workers, and close what they were at."""
        self.pool.stop()
        self._look()
        for number in sorted(self.out):
            leave_interrupted(self.study, number, self.objectives, reason)
            self._done(number)

    def _look(self) -> set[int]:
        for number in sorted(self.out):
            record = read_record(self.study.trial_folder(number))
            if record and record["state"] in ENDED:
                settle(self.study, number, record, self.objectives)
                self._done(number)
        return set(self.out)

    def _take(self, ended: Ended) -> None:
        number, told = ended.number, ended.outcome
        folder = self.study.trial_folder(number)
        record = read_record(folder)
        if record and record["state"] in ENDED:
            self.held_back.clear()
            settle(self.study, number, record, self.objectives)
        elif told.unfit:
            self.interrupt("its machine can train nothing")
            raise StudyError(told.reason)
        elif told.outage:
            self._pause(number, told.reason or "")
            return
        elif ended.died:
            self.deaths[number, ended.machine] += 1
            most = MOST_MACHINES if ended.machine else MOST_DEATHS
            if self.deaths[number, ended.machine] < most:
                self.say(f"trial {number}: {ended.died}; it goes on with another")
                self.pool.submit(number, self.out[number])
                return
            self._fail(number, f"{ended.died}, {most} times", "worker died")
        elif record and record["state"] == State.interrupted:
            settle(self.study, number, record, self.objectives)
        else:
            self._fail(number, told.reason or "its job ended without a record", told.error or "no record")
        self._done(number)

    def _pause(self, number: int, reason: str) -> None:
        """Hand a trial out again once an outage may be over, each time after about twice as long. Every trial has
        pauses of its own: many may meet the same outage, and one may meet another hours later."""
        if not self.held_back:
            self.say(f"trial {number}: {reason}; it is tried again for {self.patience:g} s")
        before = self.held_back[number]
        if before >= self.patience:
            raise StudyError(
                f"{reason}; this has lasted for {self.patience:g} s; what had finished is kept, and the same "
                "command goes on from there"
            )
        pause = min(before + FIRST_PAUSE, LONGEST_PAUSE, self.patience - before)
        self.held_back[number] = before + pause
        self.paused[number] = time.monotonic() + pause

    def _fail(self, number: int, reason: str, error: str) -> None:
        close_left_record(self.study.trial_folder(number), State.failed, reason, error)
        self.study.close(number, Status.failed, reason, folder=trial_path(number), error=error)

    def _done(self, number: int) -> None:
        del self.out[number]
        self.finished(self.study.trial(number))
