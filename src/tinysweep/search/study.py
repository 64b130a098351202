"""A study: Optuna's trials, what became of each, and which sweeper each belongs to."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from tinysweep.errors import is_from_outside
from tinysweep.search.drafts import Drafter
from tinysweep.search.lease import Lease


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


def trial_path(number: int) -> str:
    """Where a trial lies below its study's folder, the same on every machine."""
    return f"trials/{number}"


class Study:
    """An Optuna study seen by one of the sweepers that may be at work on it."""

    def __init__(self, optimized: optuna.Study, folder: Path, lease: Lease) -> None:
        self.optuna, self.folder, self.lease = optimized, folder, lease
        self.drafter = Drafter(optimized)
        # What failed from outside before this sweeper began may have been mended meanwhile.
        self.retried = frozenset(trial.number for trial in self.trials() if failed_from_outside(trial))

    def trials(self) -> list[FrozenTrial]:
        """Every trial, in the order of their numbers; not to be changed."""
        return self.optuna.get_trials(deepcopy=False)

    def status(self, trial: FrozenTrial) -> Status:
        """What became of a trial in the eyes of this sweeper: what it is to try again counts as interrupted."""
        return Status.interrupted if trial.number in self.retried else status(trial)

    def trial(self, number: int) -> FrozenTrial:
        return self.optuna._storage.get_trial(self._trial_id(number))

    def trial_folder(self, number: int) -> Path:
        return self.folder / trial_path(number)

    def draft(self, trials: list[FrozenTrial], params: dict[str, Any] | None = None) -> Trial:
        """A trial to draw parameters from that is not in the study yet; `trials` are all that are. Those in
        `params` are given instead of drawn."""
        return self.drafter.begin(trials, params)

    def enter(
        self,
        became: Status = Status.running,
        reason: str | None = None,
        values: list[float] | None = None,
        **notes: Any,
    ) -> FrozenTrial:
        """Put the drafted trial into the study, signed by this sweeper, with its notes, and closed unless it is
        `running`; as it is there. No other sweeper ever sees a part of it."""
        notes["sweeper"] = self.lease.token
        if became == Status.running:
            return self.drafter.enter(TrialState.RUNNING, None, notes)
        return self.drafter.enter(_state(became, values), values, notes | _noted(became, reason))

    def close(
        self,
        number: int,
        became: Status,
        reason: str | None = None,
        values: list[float] | None = None,
        **notes: Any,
    ) -> bool:
        """Give a running trial its final status; False if another sweeper has closed it meanwhile."""
        trial_id = self._trial_id(number)
        try:
            for name, value in (notes | _noted(became, reason)).items():
                self.optuna._storage.set_trial_user_attr(trial_id, name, value)
            self.optuna.tell(number, values, state=_state(became, values), skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _trial_id(self, number: int) -> int:
        return self.optuna._storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)

    def abandoned(self) -> list[FrozenTrial]:
        """Running trials whose sweeper is no longer there."""
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        return [trial for trial in running if not self.is_attended(trial)]

    def release(self, reason: str) -> None:
        """Close as interrupted what this sweeper has asked for and will not come to train."""
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and trial.user_attrs.get("sweeper") == self.lease.token:
                self.close(trial.number, Status.interrupted, reason)

    def is_attended(self, trial: FrozenTrial) -> bool:
        """Whether the sweeper of a running trial is alive."""
        token = trial.user_attrs.get("sweeper")
        return token is not None and self.lease.is_alive(token, self.optuna.user_attrs)


def _noted(became: Status, reason: str | None) -> dict[str, str]:
    return {"standing": became.value} | ({"reason": reason} if reason else {})


def _state(became: Status, values: list[float] | None) -> TrialState:
    """Optuna's state of a trial that is closed as `became`."""
    return STATES.get(became, TrialState.COMPLETE if values is not None else TrialState.FAIL)
