"""What has become of the finished trials, read once each, so that a study of thousands isn't gone through for
every new trial."""

from collections import Counter

from optuna.trial import FrozenTrial, TrialState

from tinysweep.study import TRAINED, Standing, is_going, standing


class Ledger:
    """Counts and configurations of a study's trials. Only the last few, from the first that isn't finished on, are
    looked at again: what is finished never changes."""

    def __init__(self) -> None:
        self.read = 0  # the trials before this number are finished and taken in
        self.counts: Counter[Standing] = Counter()
        self.first: dict[str, int] = {}  # configuration -> the first trial that was trained with it

    def _take_in(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        while self.read < len(trials) and trials[self.read].state.is_finished():
            trial = trials[self.read]
            became = standing(trial)
            self.counts[became] += 1
            if became in TRAINED and (key := trial.user_attrs.get("key")):
                self.first.setdefault(key, trial.number)
            self.read += 1
        return trials[self.read :]

    def count(self, trials: list[FrozenTrial], *standings: Standing) -> int:
        """How many trials of the study have one of these standings; `trials` are all of it, in order."""
        rest = self._take_in(trials)
        began = (standing(trial) for trial in rest if trial.datetime_start is not None)
        return sum(self.counts[became] for became in standings) + sum(became in standings for became in began)

    def going(self, trials: list[FrozenTrial], number: int | None = None) -> int:
        """How many trials are being trained, or were when their sweepers died; for the trial `number`, which asks
        whether there is room for it, those before it that are about to be count too."""
        rest = self._take_in(trials)
        return sum(is_going(trial) or _decides_before(trial, number) for trial in rest if trial.number != number)

    def twin(self, trials: list[FrozenTrial], key: str, number: int) -> FrozenTrial | None:
        """A trial other than `number` that has, or is being trained with, the configuration `key`."""
        rest = self._take_in(trials)
        if key in self.first:
            return trials[self.first[key]]
        twins = [trial for trial in rest if trial.number != number and trial.user_attrs.get("key") == key]
        known = (
            is_going(trial) or standing(trial) in TRAINED or _decides_before(trial, number) for trial in twins
        )
        return next((trial for trial, counts in zip(twins, known, strict=True) if counts), None)


def _decides_before(trial: FrozenTrial, number: int | None) -> bool:
    """Whether a running trial that has shown its configuration comes first, when two show theirs at once."""
    running = trial.state == TrialState.RUNNING and "key" in trial.user_attrs
    return number is not None and trial.number < number and running
