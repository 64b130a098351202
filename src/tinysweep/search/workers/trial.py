"""The training of one trial, in the process of its job: it reports to the study and may be stopped, and a job that
was started once more is the same trial."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from tinysweep.data.load import describe
from tinysweep.errors import AbandonedError, ConfigError, PrunedError
from tinysweep.files import remove_if_empty
from tinysweep.metrics import METRICS
from tinysweep.network.budget import resolve
from tinysweep.run.record import ENDED, Record, RunFolder, State, close_left_record, read_record
from tinysweep.run.run import run
from tinysweep.search.compose_trial import digest, identity
from tinysweep.search.plan import build_pruner
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import TRACKED, is_closed, reopen_trial, trial_path
from tinysweep.settings.schema import Config
from tinysweep.training.loop import Epoch

log = logging.getLogger(__name__)


def run_trial(
    config: Config, sweeper: DictConfig, study_folder: Path, folder: Path, overrides: list[str]
) -> Record:
    """Train trial number `config.trial` of the study that `sweeper`, the composed hydra.sweeper, describes.

    An engine such as Ray or SLURM starts a job once more whose worker died. That goes on with what the earlier
    attempt has left: with its result if it had one, and past the rungs that it had finished.

    Raises:
        TinysweepError: as `run`; the record tells.
    """
    assert config.trial is not None
    study = optuna.load_study(
        study_name=sweeper.study_name,
        # That the storage is away the sweep says, once for all of its jobs.
        storage=open_storage(sweeper.storage, study_folder, sweeper.storage_patience, aloud=False),
        sampler=optuna.samplers.RandomSampler(),  # nothing is drawn here, and the default sampler costs time
        pruner=build_pruner(sweeper.pruner),
    )
    first = sweeper.objective if isinstance(sweeper.objective, str) else sweeper.objective[0]
    epochs = config.trainer.epochs
    with alone(folder):
        reporter = Reporter(reopen_trial(study, config.trial), first, epochs)
        reporter.require_open()
        if (finished := take_over(folder)) is not None:
            return finished
        reporter.require_costed(config)
        key = study.user_attrs.get(TRACKED)
        config = replace(config, tracker=config.tracker.of_study(study.study_name, key))
        rungs = [*(rung for rung in sweeper.rungs if rung < epochs), epochs] if sweeper.rungs else []
        done = finished_rungs(reporter.trial, study_folder, rungs[:-1])
        reporter.take_over(done)
        return run(config, folder, overrides, reporter, rungs, done)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only attempt at a trial that is at work. Several may be: a queue runs what its sweep had given up and
    handed out again, or a node that was thought to be dead comes back. All but one wait, and find its result."""
    try:
        with RunFolder(folder).hold(wait=True):
            yield
    finally:
        remove_if_empty(folder)  # an attempt that has nothing to do leaves no trace


def take_over(folder: Path) -> Record | None:
    """Make the folder free that an earlier attempt of the same job has left; its record, if it had finished."""
    earlier = RunFolder(folder)
    left = read_record(folder)
    if left and left["state"] in ENDED:
        return Record.read(earlier.record)
    close_left_record(folder, State.interrupted, "its worker died; its job was started once more", held=True)
    earlier.config.unlink(missing_ok=True)  # which is what takes a folder
    return None


def finished_rungs(trial: Trial, study_folder: Path, rungs: Sequence[int]) -> list[Epoch]:
    """The epochs of the first rungs that an earlier trial of the same configuration, or an earlier attempt of this
    one, had finished and been let past when it was cut short; of several, of the one that came furthest."""
    most: list[Epoch] = []
    trials = trial.study.get_trials(deepcopy=False)[: trial.number + 1] if rungs else []
    key = trial.user_attrs.get("key")
    for other in (each for each in trials if each.user_attrs.get("key") == key):
        history = RunFolder(study_folder / trial_path(other.number)).read_history()
        whole = {epoch.epochs for epoch in history if epoch.is_comparable} & other.intermediate_values.keys()
        passed = list(itertools.takewhile(whole.__contains__, rungs))
        most = max(most, [epoch for epoch in history if epoch.epochs in passed], key=len)
    return most


class Reporter:
    """Called after each epoch: reports it to the study and asks whether to go on."""

    def __init__(self, trial: Trial, metric: str, epochs: int) -> None:
        self.trial, self.metric, self.epochs = trial, metric, epochs
        # Optuna compares epochs for a single objective only, and what a model costs doesn't change with them.
        self.compares = len(trial.study.directions) == 1 and METRICS[metric].each_epoch
        known = trial.storage.get_trial(trial._trial_id).intermediate_values
        self.reported = max(known, default=0)  # by an earlier attempt of this job

    def __call__(self, epoch: Epoch) -> None:
        """Report an epoch; of rungs, the last of each.

        Raises:
            PrunedError: the pruner stops the trial.
            AbandonedError: the trial was closed by another sweeper, its own having died.
        """
        try:
            self.require_open()
            value = epoch.figure(self.metric) if self.compares else None
            if value is None or not epoch.is_comparable:
                return
            prune = self._report(value, epoch.epoch)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise self._abandoned_error() from error
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
            # The result, which the record keeps, is worth more than the chance to prune.
            log.warning("trial %d: epoch %d not reported: %s", self.trial.number, epoch.epoch, error)
            return
        if prune and epoch.epoch < self.epochs:
            name = type(self.trial.study.pruner).__name__
            if epoch.epochs:
                raise PrunedError(f"stopped by {name} after the rung of {epoch.epoch} of {self.epochs} epochs")
            raise PrunedError(f"stopped by {name} after epoch {epoch.epoch} of {self.epochs}")

    def _report(self, value: float, step: int) -> bool:
        """Report a value, and whether the pruner stops the trial."""
        if step > self.reported:
            self.trial.report(value, step)
        else:  # Optuna would keep the value of an earlier attempt
            self.trial.storage.set_trial_intermediate_value(self.trial._trial_id, step, value)
            if step == self.reported:  # and its pruner see those that this object has read
                self.trial = reopen_trial(self.trial.study, self.trial.number)
        # A pruner judges by the last step, which is the earlier attempt's until this one has come as far.
        return step >= self.reported and self.trial.should_prune()

    def take_over(self, done: Sequence[Epoch]) -> None:
        """Report the rungs of an earlier trial. It was let past them, so the answers don't count; but a pruner
        that isn't asked at each rung takes the next one for the first."""
        for epoch in done:
            with suppress(PrunedError):
                self(epoch)

    def require_open(self) -> None:
        """Refuse to go on with a trial that another sweeper has closed, because this job's own has died."""
        if is_closed(self.trial):
            raise self._abandoned_error()

    def _abandoned_error(self) -> AbandonedError:
        return AbandonedError(f"trial {self.trial.number} was closed by another sweeper")

    def require_costed(self, config: Config) -> None:
        """Refuse a configuration other than the one that the sweep composed, counted and compared with those of
        all other trials: a YAML file, or what a resolver gives, has changed meanwhile."""
        costed = self.trial.user_attrs.get("key")
        if costed not in (None, digest(identity(resolve(config, describe(config.data))))):
            raise ConfigError(
                "the job composes another configuration than its sweep did, as after a change of a YAML file; "
                "the same command begins again with what holds now"
            )
