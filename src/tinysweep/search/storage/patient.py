"""A storage that is away for a while is waited for, and a call to it that is made again does no harm."""

import copy
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.errors import first_line, is_outage
from tinysweep.search.storage.database import set_notes

PAUSES = 0.2, 5.0  # the first and the longest, in seconds; each is twice the one before
SHORT = 5.0  # seconds that are waited without a word
CREATED = "created"  # a trial's system attribute: which call has made it

T = TypeVar("T")
P = ParamSpec("P")

log = logging.getLogger(__name__)


class Patience:
    """How long calls to a storage that is away are made again: `seconds` from the first that failed, whichever
    thread made it, so that what comes after one has given up doesn't wait as long once more. That it is away is
    said, if `aloud`."""

    def __init__(self, seconds: float, where: str, *, aloud: bool = True) -> None:
        self.seconds, self.where, self.aloud = seconds, where, aloud
        self.away_since: float | None = None
        self.seen_away = 0.0

    def outlast(self, call: Callable[[bool], T]) -> T:
        """The answer to a call, which is told whether it is made again.

        Raises:
            OSError: the last outage, an OutageError of a server, once the time is over.
        """
        began, pause, again = time.monotonic(), PAUSES[0], False
        while True:
            try:
                answer = call(again)
            except OSError as error:
                left = self._left(began, error)
                if left <= 0:
                    raise
            else:
                if again:  # else it may have come from what the storage remembers
                    self.away_since = None
                return answer
            time.sleep(min(left, pause * random.uniform(0.5, 1)))
            pause, again = min(2 * pause, PAUSES[1]), True

    def _left(self, began: float, error: OSError) -> float:
        """The seconds for which a call is still to be made again; none if the error is of another kind."""
        if not is_outage(error):
            return 0
        now = time.monotonic()
        if self.away_since is None or now - self.seen_away > max(self.seconds, 60):  # another outage
            self.away_since = now
            if self.aloud and self.seconds > SHORT:
                log.warning(
                    "the study's storage %s is away (%s); it is waited for up to %g seconds",
                    self.where, first_line(error), self.seconds,
                )  # fmt: skip
        self.seen_away = now
        return min(began, self.away_since) + self.seconds - now


def _patient(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate["PatientStorage", P], T]:
    """A method of storages, made again while the storage is away."""

    def call(self: "PatientStorage", /, *args: P.args, **kwargs: P.kwargs) -> T:
        own: Callable[P, T] = getattr(self.storage, method.__name__)
        return self.patience.outlast(lambda _: own(*args, **kwargs))

    return call


class PatientStorage(BaseStorage):
    """A storage whose every call is made again while it is away.

    A call may have been carried out although its answer was lost. To read again, or to set a parameter, an
    attribute or an intermediate value again, does no harm, as it puts the same in the same place. Of the others:

    - A new study is there already: DuplicatedStudyError, as if another sweep had been quicker, and whoever shares
      studies loads it then.
    - A study that was deleted is missing, which is what was asked for.
    - A new trial carries a mark of the call that makes it, by which the second try finds it.
    - A trial that is closed in the very way that was asked for was closed by the first try, or by another sweep
      that read the same record. Otherwise another has closed it: UpdateFinishedTrialError, as always.
    - Whether the first try or another sweep has set a waiting trial running can't be told. False says that it was
      another: nobody trains it, rather than two. Only trials that a person has enqueued wait (`Study.ask`).
    """

    def __init__(self, storage: BaseStorage, patience: Patience) -> None:
        self.storage, self.patience = storage, patience

    create_new_study = _patient(BaseStorage.create_new_study)
    set_study_user_attr = _patient(BaseStorage.set_study_user_attr)
    set_study_system_attr = _patient(BaseStorage.set_study_system_attr)
    get_study_id_from_name = _patient(BaseStorage.get_study_id_from_name)
    get_study_name_from_id = _patient(BaseStorage.get_study_name_from_id)
    get_study_directions = _patient(BaseStorage.get_study_directions)
    get_study_user_attrs = _patient(BaseStorage.get_study_user_attrs)
    get_study_system_attrs = _patient(BaseStorage.get_study_system_attrs)
    get_all_studies = _patient(BaseStorage.get_all_studies)
    set_trial_param = _patient(BaseStorage.set_trial_param)
    set_trial_intermediate_value = _patient(BaseStorage.set_trial_intermediate_value)
    set_trial_user_attr = _patient(BaseStorage.set_trial_user_attr)
    set_trial_system_attr = _patient(BaseStorage.set_trial_system_attr)
    get_trial_id_from_study_id_trial_number = _patient(BaseStorage.get_trial_id_from_study_id_trial_number)
    get_trial = _patient(BaseStorage.get_trial)
    get_all_trials = _patient(BaseStorage.get_all_trials)
    get_best_trial = _patient(BaseStorage.get_best_trial)

    def set_trial_user_attrs(self, trial_id: int, notes: Mapping[str, Any]) -> None:
        """Several at a time."""
        self.patience.outlast(lambda _: set_notes(self.storage, trial_id, notes))

    def delete_study(self, study_id: int) -> None:
        def delete(again: bool) -> None:
            with suppress(*[KeyError] if again else []):
                self.storage.delete_study(study_id)

        self.patience.outlast(delete)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        mark = uuid.uuid4().hex
        wanted = copy.copy(template_trial) if template_trial else create_trial(state=TrialState.RUNNING)
        wanted.system_attrs = {**wanted.system_attrs, CREATED: mark}

        def create(again: bool) -> int:
            trials = self.storage.get_all_trials(study_id, deepcopy=False) if again else []
            made = [trial._trial_id for trial in trials if trial.system_attrs.get(CREATED) == mark]
            return made[0] if made else self.storage.create_new_trial(study_id, wanted)

        return self.patience.outlast(create)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        def close(again: bool) -> bool:
            try:
                return self.storage.set_trial_state_values(trial_id, state, values)
            except optuna.exceptions.UpdateFinishedTrialError:
                trial = self.storage.get_trial(trial_id)
                if again and (trial.state, trial.values) == (state, None if values is None else list(values)):
                    return True
                raise

        return self.patience.outlast(close)

    def remove_session(self) -> None:
        self.storage.remove_session()
