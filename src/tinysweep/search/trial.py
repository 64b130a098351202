"""One trial of a sweep, from inside its job: trained quietly, reported after every epoch, pruned if it falls
behind."""

import logging
from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from tinysweep.data.load import describe
from tinysweep.errors import AbandonedError, ConfigError, PrunedError
from tinysweep.metrics import METRICS
from tinysweep.network.budget import resolve
from tinysweep.run.record import Record
from tinysweep.run.run import run
from tinysweep.search.compose_trial import digest, identity
from tinysweep.search.plan import build_pruner
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import is_closed, reopened
from tinysweep.settings.schema import Config
from tinysweep.training.loop import Epoch

log = logging.getLogger(__name__)


def run_trial(
    config: Config, sweeper: DictConfig, study_folder: Path, folder: Path, overrides: list[str]
) -> Record:
    """Train trial number `config.trial` of the study that `sweeper`, the composed hydra.sweeper, describes.

    Raises:
        TinysweepError: as `run`; the record tells.
    """
    assert config.trial is not None
    first = sweeper.objective if isinstance(sweeper.objective, str) else sweeper.objective[0]
    reporter = Reporter(_open(config.trial, sweeper, study_folder), first, config.trainer.epochs)
    reporter.require_open()
    reporter.require_costed(config)
    return run(config, folder, overrides, reporter)


def _open(number: int, sweeper: DictConfig, study_folder: Path) -> Trial:
    study = optuna.load_study(
        study_name=sweeper.study_name,
        storage=open_storage(sweeper.storage, study_folder),
        sampler=optuna.samplers.RandomSampler(),  # nothing is drawn here, and the default sampler costs time
        pruner=build_pruner(sweeper.pruner),
    )
    return reopened(study, number)


class Reporter:
    """Called after each epoch: reports it to the study and asks whether to go on."""

    def __init__(self, trial: Trial, metric: str, epochs: int) -> None:
        self.trial, self.metric, self.epochs = trial, metric, epochs
        # Optuna compares epochs for a single objective only, and what a model costs doesn't change with them.
        self.compares = len(trial.study.directions) == 1 and METRICS[metric].each_epoch

    def __call__(self, epoch: Epoch) -> None:
        """Report an epoch.

        Raises:
            PrunedError: the pruner stops the trial.
            AbandonedError: the trial was closed by another sweeper, its own having died.
        """
        try:
            prune = self._report(epoch)
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
            # The result, which the record keeps, is worth more than the chance to prune.
            log.warning("trial %d: epoch %d not reported: %s", self.trial.number, epoch.epoch, error)
            return
        if prune and epoch.epoch < self.epochs:
            name = type(self.trial.study.pruner).__name__
            raise PrunedError(f"stopped by {name} after epoch {epoch.epoch} of {self.epochs}")

    def require_open(self) -> None:
        """Refuse to go on with a trial that isn't running any more.

        Raises:
            AbandonedError: another sweeper closed it, because this job's own has died.
        """
        if is_closed(self.trial):
            raise AbandonedError(f"trial {self.trial.number} was closed by another sweeper")

    def require_costed(self, config: Config) -> None:
        """Refuse a configuration other than the one that the sweep composed, counted and compared with those of
        all other trials.

        Raises:
            ConfigError: a YAML file, or what a resolver gives, has changed meanwhile.
            BudgetError: no width fits.
        """
        costed = self.trial.user_attrs.get("key")
        if costed not in (None, digest(identity(resolve(config, describe(config.data))))):
            raise ConfigError(
                "the job composes another configuration than its sweep did, as after a change of a YAML file; "
                "the same command begins again with what holds now"
            )

    def _report(self, epoch: Epoch) -> bool:
        self.require_open()
        value = getattr(epoch, self.metric) if self.compares else None
        if value is None:
            return False
        try:
            self.trial.report(value, epoch.epoch)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise AbandonedError(f"trial {self.trial.number} was closed by another sweeper") from error
        return self.trial.should_prune()
