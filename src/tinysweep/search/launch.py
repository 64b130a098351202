"""A batch of trials: launched together, each settled as soon as its record says what became of it."""

import json
import math
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from optuna.trial import FrozenTrial

from tinysweep.errors import ConfigError, TinysweepError, first_line
from tinysweep.metrics import METRICS
from tinysweep.run.record import RunFolder, State
from tinysweep.search.propose import Proposal
from tinysweep.search.study import Status, Study, trial_path

POLL_SECONDS = 0.3
DIED = "its worker died, killed or out of memory"

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a trial, or None where none was begun, or what is there isn't one."""
    try:
        record: dict[str, Any] = json.loads(RunFolder(folder).record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record


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
    return {name: every[name] for name in METRICS} | {
        name: record[name] for name in ("epochs", "seed", "started", "finished")
    }


class Batch:
    """Launches trials and settles them.

    Whatever launcher runs the jobs, a trial is judged by the record in its folder, which a thread looks at while
    the launcher blocks; so results count, for pruning too, before the whole batch is done. A launcher that raises
    has lost a worker and with it all of its jobs. Those that had not begun are launched again; those that had are
    launched again one at a time, and one that brings down its worker when alone is the culprit."""

    def __init__(
        self, study: Study, objectives: list[str], launch: Launch, finished: Callable[[FrozenTrial], None]
    ) -> None:
        self.study, self.objectives, self.launch, self.finished = study, objectives, launch, finished
        self.pending: dict[int, Proposal] = {}
        self.failure: Exception | None = None

    def run(self, proposals: list[Proposal], overrides: Callable[[Proposal], list[str]]) -> None:
        """Train the proposals; every one of them is closed afterwards.

        Raises:
            KeyboardInterrupt: passed on, once what had not finished is closed as interrupted.
            StudyError: the study's storage failed.
        """
        waiting = [proposals]
        try:
            while waiting:
                group = waiting.pop(0)
                self.pending = {proposal.number: proposal for proposal in group}
                broken = self._launch([overrides(proposal) for proposal in group], group)
                if broken:
                    waiting = self._again(group, broken) + waiting
        except KeyboardInterrupt:
            self.pending |= {proposal.number: proposal for group in waiting for proposal in group}
            self._interrupt()
            raise

    def _again(self, group: list[Proposal], broken: Exception) -> list[list[Proposal]]:
        """What to launch after a launcher broke down: all that can't be the cause together, the rest one by
        one."""
        left = list(self.pending.values())
        if len(group) == 1:
            for proposal in left:
                kind = type(broken).__name__
                self._fail(proposal.number, f"{DIED} ({kind}: {first_line(broken)})", kind)
            return []
        begun = [proposal for proposal in left if self.study.trial_folder(proposal.number).exists()]
        for proposal in begun:
            shutil.rmtree(self.study.trial_folder(proposal.number))
        fresh = [proposal for proposal in left if proposal not in begun]
        return (
            [fresh, *([proposal] for proposal in begun)] if fresh and begun else [[proposal] for proposal in left]
        )

    def _launch(self, jobs: list[list[str]], group: list[Proposal]) -> Exception | None:
        """Hand jobs to the launcher and settle them while it runs; what it raised if it broke down."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watcher.start()
        returns: Sequence[JobReturn] = []
        broken: Exception | None = None
        try:
            returns = self.launch(jobs, group[0].number)
        except Exception as error:
            broken = error
        finally:
            done.set()
            watcher.join()
        if self.failure:
            raise self.failure
        self._look()
        if broken is None:
            for proposal, returned in zip(group, returns, strict=True):
                if proposal.number in self.pending:
                    self._fail(proposal.number, *_fault(returned))
        return broken

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(POLL_SECONDS):
            try:
                self._look()
            except Exception as error:  # raised again by the thread that waits for the launcher
                self.failure = error
                return

    def _look(self) -> None:
        for number in list(self.pending):
            record = read_record(self.study.trial_folder(number))
            if record and record["state"] != State.running:
                settle(self.study, number, record, self.objectives)
                self._done(number)

    def _fail(self, number: int, reason: str, error: str) -> None:
        self.study.close(number, Status.failed, reason, folder=trial_path(number), error=error)
        self._done(number)

    def _interrupt(self) -> None:
        self._look()
        for number in list(self.pending):
            record = read_record(self.study.trial_folder(number))
            notes = figures(record) | {"folder": trial_path(number)} if record else {}
            self.study.close(number, Status.interrupted, "the sweep was interrupted", **notes)
            self._done(number)

    def _done(self, number: int) -> None:
        del self.pending[number]
        self.finished(self.study.trial(number))


def _fault(returned: JobReturn) -> tuple[str, str]:
    """Why a job that left no finished record failed, and the class of its error."""
    error, kind = returned._return_value, type(returned._return_value).__name__
    if returned.status != JobStatus.FAILED:
        return f"its job ended without a record ({returned.status.name})", "no record"
    return str(error) if isinstance(error, TinysweepError) else f"{kind}: {first_line(error)}", kind
