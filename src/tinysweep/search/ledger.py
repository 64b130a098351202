"""What has become of the finished trials, read once each, so that a study of thousands isn't gone through for
every new trial."""

from collections import Counter
from collections.abc import Callable

from optuna.trial import FrozenTrial, TrialState

from tinysweep.search.study import TRAINED, Status, status


class Ledger:
    """Counts and configurations of a study's trials. Only the last few, from the first that isn't finished on, are
    looked at again: what is finished never changes."""

    def __init__(self, status: Callable[[FrozenTrial], Status] = status) -> None:
        """`status`: what became of a trial, as the sweeper sees it that keeps the ledger."""
        self.status = status
        self.read = 0  # the trials before this number are finished and taken in
        self.counts: Counter[Status] = Counter()
        self.first: dict[str, int] = {}  # configuration -> the first trial that was trained with it
        self.stopped: dict[str, FrozenTrial] = {}  # configuration -> a trial with it that was cut short

    def _take_in(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        while self.read < len(trials) and trials[self.read].state.is_finished():
            trial = trials[self.read]
            became = self.status(trial)
            self.counts[became] += 1
            if key := trial.user_attrs.get("key"):
                if became in TRAINED:
                    self.first.setdefault(key, trial.number)
                elif became == Status.interrupted:
                    self.stopped[key] = trial
            self.read += 1
        return trials[self.read :]

    def count(self, trials: list[FrozenTrial], *statuses: Status) -> int:
        """How many trials of the study have one of these statuses; `trials` are all of it, in order."""
        rest = self._take_in(trials)
        began = (self.status(trial) for trial in rest if trial.datetime_start is not None)
        return sum(self.counts[became] for became in statuses) + sum(became in statuses for became in began)

    def going(self, trials: list[FrozenTrial], before: int | None = None) -> int:
        """How many trials are being trained, or were when their sweepers died; of those with a number below
        `before`, if that is given."""
        return sum(_is_going(trial, before) for trial in self._take_in(trials))

    def twin(self, trials: list[FrozenTrial], key: str, number: int | None = None) -> FrozenTrial | None:
        """A trial that has been, or is being, trained with the configuration `key`. Trial `number` asks for one
        that it must give way to: of two that are begun at once, the one with the lower number is trained."""
        rest = self._take_in(trials)
        if key in self.first:
            return trials[self.first[key]]
        twins = (trial for trial in rest if trial.number != number and trial.user_attrs.get("key") == key)
        return next((each for each in twins if _is_going(each, number) or self.status(each) in TRAINED), None)

    def cut_short(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Trials that were interrupted and whose configurations have not been taken up again."""
        rest = self._take_in(trials)
        stopped = self.stopped | {
            trial.user_attrs["key"]: trial
            for trial in rest
            if self.status(trial) == Status.interrupted and "key" in trial.user_attrs
        }
        taken = {
            trial.user_attrs.get("key") for trial in rest if _is_going(trial) or self.status(trial) in TRAINED
        }
        return [trial for key, trial in stopped.items() if key not in self.first and key not in taken]


def _is_going(trial: FrozenTrial, before: int | None = None) -> bool:
    return trial.state == TrialState.RUNNING and (before is None or trial.number < before)
