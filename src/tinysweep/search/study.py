"""A study: Optuna's trials, what became of each, and which of the sweepers that share it are alive."""

import logging
import platform
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from tinysweep.errors import first_line, is_from_outside
from tinysweep.files import is_held
from tinysweep.search.storage.database import set_notes

log = logging.getLogger(__name__)


class Status(StrEnum):
    """What became of a trial; Optuna's own states don't tell a refused trial from a pruned one."""

    running = "running"
    complete = "complete"
    pruned = "pruned"
    failed = "failed"
    interrupted = "interrupted"
    over_budget = "over_budget"
    invalid = "invalid"
    duplicate = "duplicate"
    withdrawn = "withdrawn"


PLAIN = {TrialState.COMPLETE: Status.complete, TrialState.PRUNED: Status.pruned}
TRAINED = (Status.complete, Status.pruned, Status.failed)  # what counts towards n_trials
STATES = {
    Status.complete: TrialState.COMPLETE,
    Status.pruned: TrialState.PRUNED,
    # A sampler learns from the constraint of a pruned trial, not from that of a failed one.
    Status.over_budget: TrialState.PRUNED,
}


def status(trial: FrozenTrial) -> Status:
    """What became of a trial, from its note, or from Optuna's state where that says it all."""
    if not trial.state.is_finished():
        return Status.running
    return Status(trial.user_attrs.get("standing", PLAIN.get(trial.state, Status.failed)))


def count(trials: Sequence[FrozenTrial], *statuses: Status) -> int:
    """How many of the trials that have begun have one of these statuses."""
    return sum(trial.datetime_start is not None and status(trial) in statuses for trial in trials)


def failed_from_outside(trial: FrozenTrial) -> bool:
    """Whether a trial failed for a reason outside its configuration, so that it is worth another try."""
    notes = trial.user_attrs
    failed = status(trial) == Status.failed
    return failed and is_from_outside(notes.get("error"), notes.get("reason") or "")


def is_being_trained(trial: FrozenTrial) -> bool:
    """Whether a trial has passed the gate and has no result yet; before that it has no key."""
    return trial.state == TrialState.RUNNING and "key" in trial.user_attrs


def trial_path(number: int) -> str:
    """Where a trial lies below its study's folder, the same on every machine."""
    return f"trials/{number}"


# Optuna has no public way to a trial that another process has asked for, nor, without reading the whole study, to
# its state.


def reopen_trial(study: optuna.Study, number: int) -> Trial:
    """A trial that another process, or an earlier call, has asked for."""
    return Trial(study, trial_id(study, number))


def trial_id(study: optuna.Study, number: int) -> int:
    """By what the storage knows a trial."""
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def is_closed(trial: Trial) -> bool:
    """Whether a trial has been closed, by whoever it was."""
    return trial.storage.get_trial(trial._trial_id).state.is_finished()


HEARTBEAT_SECONDS = 20.0
EXPIRED_SECONDS = 180.0
HEARTBEATS = "sweepers"  # the study's note of when each sweeper was last seen
TRACKED = "tracked"  # the study's note of what tells it from others of its name where it is logged


def kernel() -> str:
    """What all processes have in common that see each other's file locks: containers on one machine do."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()


class Presence:
    """How a sweeper shows the others that it is alive: by a lock in the study's folder, which the operating system
    frees however the process ends, and, as others may not see that lock, by the time, noted in the study every 20
    seconds."""

    def __init__(self, study: optuna.Study, folder: Path) -> None:
        self.study, self.folder = study, folder / ".sweepers"
        self.token = f"{kernel()}.{uuid.uuid4().hex}"
        self.lock = FileLock(self._lock_file(self.token))
        self.mark = Path(self.lock.lock_file)  # there as long as this sweeper is
        self.ended = threading.Event()
        self.beating = threading.Thread(target=self._beat, daemon=True)

    def begin(self) -> None:
        """Begin to be seen; to be called by one sweeper of a study at a time."""
        self.lock.acquire(blocking=False)
        self._note(time.time())
        self._clear()
        self.beating.start()

    def end(self) -> None:
        self.ended.set()
        self.beating.join()
        self.lock.release()
        self._note(None)  # should the storage fail, the file is left, whose free lock says it all the same
        self.mark.unlink(missing_ok=True)

    def _beat(self) -> None:
        said = False
        while not self.ended.wait(HEARTBEAT_SECONDS):
            try:
                self._note(time.time())
                said = False
            except Exception as error:  # whatever a storage raises that is away for a while
                if not said:
                    log.warning(
                        "the study's storage can't be told that this sweep is alive (%s); after %.0f minutes "
                        "other sweeps take up its trials",
                        first_line(error), EXPIRED_SECONDS / 60,
                    )  # fmt: skip
                said = True

    def _note(self, moment: float | None) -> None:
        """Note when this sweeper was last seen, or that it has ended; those that were killed go."""
        known = self.study.user_attrs.get(HEARTBEATS, {})
        seen = {token: last for token, last in known.items() if token != self.token and self.is_alive(token)}
        self.study.set_user_attr(HEARTBEATS, seen | ({} if moment is None else {self.token: moment}))

    def _clear(self) -> None:
        """Remove the locks of sweepers that were killed. One of another machine may have made its lock and not
        have noted yet that it lives."""
        for file in self.folder.glob("*.*.lock"):
            with suppress(FileNotFoundError):  # its sweeper has ended meanwhile
                judged = file.name.startswith(kernel()) or not _is_recent(file.stat().st_mtime)
                if judged and not is_held(file) and not self.is_alive(file.stem):
                    file.unlink()

    def is_alive(self, token: str) -> bool:
        """Whether the sweeper of a token lives."""
        if token == self.token:
            return True
        file = self._lock_file(token)
        if token.startswith(kernel()) and file.exists():
            return is_held(file)
        return _is_recent(self.study.user_attrs.get(HEARTBEATS, {}).get(token, 0.0))

    def other_sweepers(self) -> list[str]:
        """The tokens of the other sweepers that live."""
        tokens = self.study.user_attrs.get(HEARTBEATS, {})
        return [token for token in tokens if token != self.token and self.is_alive(token)]

    def _lock_file(self, token: str) -> Path:
        return self.folder / f"{token}.lock"


def _is_recent(moment: float) -> bool:
    return time.time() - moment < EXPIRED_SECONDS


class Ledger:
    """What became of the trials of a study, brought up to date by the trials that were still open at the last look
    alone: with thousands that are closed, and can't change any more, a pass over all takes too long to be made
    several times for each proposal."""

    def __init__(self, status: Callable[[FrozenTrial], Status]) -> None:
        self.status = status
        self.counts: Counter[Status] = Counter()  # of closed trials
        self.open: list[FrozenTrial] = []
        self.interrupted: list[FrozenTrial] = []
        self._by_key: dict[str, list[FrozenTrial]] = {}
        self._read = 0

    def update(self, trials: Sequence[FrozenTrial]) -> "Ledger":
        """Take in all trials as they are now."""
        numbers = [*(trial.number for trial in self.open), *range(self._read, len(trials))]
        self.open, self._read = [], max(self._read, len(trials))
        for trial in (trials[number] for number in numbers):
            if not trial.state.is_finished():
                self.open.append(trial)
                continue
            became = self.status(trial)
            self.counts[became] += 1
            if became == Status.interrupted:
                self.interrupted.append(trial)
            if key := trial.user_attrs.get("key"):
                self._by_key.setdefault(key, []).append(trial)
        return self

    @property
    def trained(self) -> int:
        return sum(self.counts[became] for became in TRAINED)

    def of_key(self, key: str) -> list[FrozenTrial]:
        """The trials of a configuration, in the order of their numbers."""
        found = [*self._by_key.get(key, []), *(trial for trial in self.open if trial.user_attrs.get("key") == key)]
        return sorted(found, key=lambda trial: trial.number)


class Study:
    """An Optuna study seen by one of the sweepers that may be at work on it."""

    def __init__(self, optimized: optuna.Study, folder: Path) -> None:
        self.optuna, self.folder = optimized, folder
        self.presence = Presence(optimized, folder)
        # What failed from outside before this sweeper began may have been mended meanwhile.
        self._ledger = Ledger(self.status)
        self.retried = frozenset(trial.number for trial in self.trials() if failed_from_outside(trial))

    def trials(self) -> list[FrozenTrial]:
        """Every trial, in the order of their numbers; not to be changed."""
        return self.optuna.get_trials(deepcopy=False)

    def trial(self, number: int) -> FrozenTrial:
        return self.trials()[number]

    def status(self, trial: FrozenTrial) -> Status:
        """What became of a trial in the eyes of this sweeper: what it is to try again counts as interrupted."""
        return Status.interrupted if trial.number in self.retried else status(trial)

    def ledger(self, trials: Sequence[FrozenTrial]) -> Ledger:
        """What became of all trials, as they have just been read, in the eyes of this sweeper."""
        return self._ledger.update(trials)

    def count(self, trials: Sequence[FrozenTrial], *statuses: Status) -> int:
        """How many of these trials have one of these statuses in the eyes of this sweeper."""
        return sum(self.status(trial) in statuses for trial in trials)

    def trial_folder(self, number: int) -> Path:
        return self.folder / trial_path(number)

    def ask(self, given: dict[str, Any] | None = None, trials: list[FrozenTrial] | None = None) -> Trial:
        """A new trial to draw parameters from; those that are `given` aren't drawn. It is signed by this sweeper
        from the moment that others can see it, or they would take it for one that its sweeper has left. `trials`
        are all that there are, if they have just been read."""
        trials, token = self.trials() if trials is None else trials, self.presence.token
        if given is None and any(trial.state == TrialState.WAITING for trial in self.ledger(trials).open):
            with FileLock(self.presence.folder / "asking.lock"):  # in SQLite two sweepers may both be given it
                trial = self.optuna.ask()
            trial.set_user_attr("sweeper", token)
            trial.set_user_attr("taken_over", True)  # by the number of its notes others see that it has changed
            return trial
        # Optuna would make it waiting and take it up by a second call, or sign it by one. The rest is as it does.
        self.optuna._thread_local.cached_all_trials = trials
        made = create_trial(
            state=TrialState.RUNNING,
            user_attrs={"sweeper": token},
            system_attrs={"fixed_params": given} if given else {},
        )
        return Trial(self.optuna, self.optuna._storage.create_new_trial(self.optuna._study_id, made))

    def note(self, trial: Trial, **notes: Any) -> None:
        """Note something of a trial of this sweeper's, for others to see."""
        set_notes(self.optuna._storage, trial._trial_id, notes)

    def close(
        self,
        number: int,
        became: Status,
        reason: str | None = None,
        values: list[float] | None = None,
        **notes: Any,
    ) -> bool:
        """Give a running trial its final status; False if another sweeper has closed it meanwhile."""
        state = STATES.get(became, TrialState.COMPLETE if values is not None else TrialState.FAIL)
        notes |= {"standing": became.value} | ({"reason": reason} if reason else {})
        try:
            set_notes(self.optuna._storage, trial_id(self.optuna, number), notes)
            self.optuna.tell(number, values, state, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def abandoned_trials(self, trials: list[FrozenTrial] | None = None) -> list[FrozenTrial]:
        """Running trials whose sweeper is no longer there; `trials` as for `ask`."""
        trials = self.trials() if trials is None else trials
        running = [trial for trial in self.ledger(trials).open if trial.state == TrialState.RUNNING]
        return [trial for trial in running if not self.is_attended(trial)]

    def is_attended(self, trial: FrozenTrial) -> bool:
        """Whether the sweeper of a running trial is alive."""
        token = trial.user_attrs.get("sweeper")
        return token is not None and self.presence.is_alive(token)

    def clear(self) -> None:
        """Remove what is left where jobs were cut short: locks that nobody holds, and folders of trials that had
        been handed out and never begun."""
        from tinysweep.run.record import RunFolder  # noqa: PLC0415  imports PyTorch, which comparing does without

        for trial in self.trials():
            if status(trial) in (Status.interrupted, Status.failed):
                RunFolder(self.trial_folder(trial.number)).clear()

    def release(self, reason: str) -> None:
        """Close as interrupted what this sweeper has asked for and will not come to train."""
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and trial.user_attrs.get("sweeper") == self.presence.token:
                self.close(trial.number, Status.interrupted, reason)
