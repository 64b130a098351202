"""Optuna's storage in a database, made for many trials at work at once."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy
from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from sqlalchemy.exc import IntegrityError

COUNTED = (
    models.TrialParamModel,
    models.TrialUserAttributeModel,
    models.TrialSystemAttributeModel,
    models.TrialIntermediateValueModel,
)  # what an unfinished trial gets more of
NONE_ABOVE = 2**31 - 1


class Database(_CachedStorage):
    """Reads, of unfinished trials, those that have changed: another state, or more notes or values than when they
    were read last. Optuna's own cache reads all that each of them has whenever a study is looked at, which with 64
    workers takes 40 ms, ten times for each trial.

    What is written over, such as a value by a job that was started once more, is so seen when something is added
    or the trial ends."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self._looks: dict[int, dict[int, tuple[object, ...]]] = {}  # of the trials of each study

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            study = self._studies.setdefault(study_id, _StudyInfo())
            known, found = self._looks.get(study_id, {}), self._look(study_id, study)
            changed = {trial for trial, looks in found.items() if known.get(trial) != looks}
            if not changed:
                return
            if len(changed) == 1:
                trials = [self._backend.get_trial(*changed)]
            else:
                wanted = (changed, NONE_ABOVE) if study.trials else (set(), -1)
                trials = self._backend._get_trials(study_id, None, *wanted)
            self._looks[study_id] = found  # from before they were read: what came in between is read once more
            self._add_trials_to_cache(study_id, trials)
            for trial in trials:
                if trial.state.is_finished():
                    study.unfinished_trial_ids.discard(trial._trial_id)
                    study.last_finished_trial_id = max(study.last_finished_trial_id, trial._trial_id)
                else:
                    study.unfinished_trial_ids.add(trial._trial_id)

    def _look(self, study_id: int, study: _StudyInfo) -> dict[int, tuple[object, ...]]:
        """The state, and the numbers of notes and values, of each trial that isn't known to have finished."""
        trial = models.TrialModel
        counts = [
            sqlalchemy.select(sqlalchemy.func.count()).where(model.trial_id == trial.trial_id).scalar_subquery()
            for model in COUNTED
        ]
        unknown = trial.trial_id > study.last_finished_trial_id
        first = {study.last_finished_trial_id, *study.unfinished_trial_ids}
        query = sqlalchemy.select(trial.trial_id, trial.state, *counts).where(
            trial.study_id == study_id,
            trial.trial_id >= min(first),  # or the database goes through all of the study's
            unknown | trial.trial_id.in_(sorted(study.unfinished_trial_ids)),
        )
        with _create_scoped_session(self._backend.scoped_session) as session:
            return {number: tuple(rest) for number, *rest in session.execute(query)}

    def set_trial_user_attrs(self, trial_id: int, notes: Mapping[str, Any]) -> None:
        """Set several notes of a trial: what it has none of in one transaction, the rest one by one."""
        model = models.TrialUserAttributeModel
        try:
            with _create_scoped_session(self._backend.scoped_session) as session:
                trial = models.TrialModel.find_or_raise_by_id(trial_id, session)
                self.check_trial_is_updatable(trial_id, trial.state)
                there = set(session.scalars(sqlalchemy.select(model.key).where(model.trial_id == trial_id)))
                new = [
                    {"trial_id": trial_id, "key": name, "value_json": json.dumps(value)}
                    for name, value in notes.items()
                    if name not in there
                ]
                if new:
                    session.execute(sqlalchemy.insert(model), new)
        except IntegrityError:  # another sweeper has set one meanwhile
            there = set(notes)
        for name in notes.keys() & there:
            self.set_trial_user_attr(trial_id, name, notes[name])


def set_notes(storage: BaseStorage, trial_id: int, notes: Mapping[str, Any]) -> None:
    """Set several notes of a trial, at once where a storage can."""
    if at_once := getattr(storage, "set_trial_user_attrs", None):
        at_once(trial_id, notes)
        return
    for name, value in notes.items():
        storage.set_trial_user_attr(trial_id, name, value)
