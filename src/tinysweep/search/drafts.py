"""Trials drawn in memory, so that each enters the study whole: refused, or with all that others must know of it.

Optuna writes a trial bit by bit, its parameters, notes and state in a transaction each. Most proposals of a search
near its budget are refused at once, and there the storage would cost more than everything else together.
"""

import copy
from collections.abc import Container
from datetime import datetime
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

DRAFT = -1  # the id of the trial that is no trial of the storage yet


class DraftStorage:
    """A study's storage, and beside it the one trial that is being drawn. For Optuna's samplers the two are one:
    what they note of that trial stays here."""

    def __init__(self, storage: BaseStorage) -> None:
        self.storage = storage
        self.draft = create_trial(state=TrialState.WAITING)
        self.trials: list[FrozenTrial] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def begin(self, trials: list[FrozenTrial], params: dict[str, Any] | None) -> None:
        """Start the trial that will probably come next after `trials`, with the values of `params` instead of
        drawn ones."""
        self.trials, self.draft = trials, create_trial(state=TrialState.RUNNING)
        self.draft._trial_id, self.draft.number, self.draft.datetime_start = DRAFT, len(trials), datetime.now()
        if params is not None:
            self.draft.system_attrs["fixed_params"] = params  # where Optuna's Trial looks for them

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.draft if trial_id == DRAFT else self.storage.get_trial(trial_id)

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002 a name of Optuna's interface
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """What is known already: some samplers would read all trials once more for every draw."""
        chosen = [trial for trial in self.trials if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self.get_trial(trial_id).system_attrs

    def set_trial_param(self, trial_id: int, name: str, internal: float, distribution: BaseDistribution) -> None:
        assert trial_id == DRAFT
        self.draft.params[name] = distribution.to_external_repr(internal)
        self.draft.distributions[name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        assert trial_id == DRAFT
        self.draft.system_attrs[key] = value


class Drafter:
    """Draws trials of a study by its own sampler."""

    def __init__(self, study: optuna.Study) -> None:
        self.study, self.storage = study, DraftStorage(study._storage)
        self.drawn_from = optuna.load_study(
            study_name=study.study_name,
            storage=cast(BaseStorage, self.storage),
            sampler=study.sampler,
            pruner=study.pruner,
        )

    def begin(self, trials: list[FrozenTrial], params: dict[str, Any] | None = None) -> Trial:
        """A trial to draw parameters from, given all trials of the study; those in `params` are not drawn. It
        replaces the one before."""
        self.storage.begin(trials, params)
        self.drawn_from._thread_local.cached_all_trials = None  # what Optuna remembers of the trial before
        return Trial(self.drawn_from, DRAFT)

    def enter(self, state: TrialState, values: list[float] | None, notes: dict[str, Any]) -> FrozenTrial:
        """Put the drawn trial into the study, by a single write; as it is there."""
        draft = self.storage.draft
        draft.state, draft.values = state, values
        draft.datetime_complete = datetime.now() if state.is_finished() else None
        draft.user_attrs |= notes
        storage = self.study._storage
        draft._trial_id = storage.create_new_trial(self.study._study_id, draft)
        draft.number = storage.get_trial_number_from_id(draft._trial_id)
        return draft
