"""The jobs of trials: what each does in its own process, and how a sweep launches and settles them."""

import itertools
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, Trial
from sqlalchemy.exc import SQLAlchemyError

from tinysweep.data.load import describe
from tinysweep.errors import AbandonedError, ConfigError, PrunedError, TinysweepError, first_line
from tinysweep.metrics import METRICS
from tinysweep.network.budget import resolve
from tinysweep.run.record import Record, RunFolder, State, close_left_record, read_record
from tinysweep.run.run import run
from tinysweep.search.compose_trial import digest, identity
from tinysweep.search.plan import Launch, build_pruner
from tinysweep.search.propose import Proposal, Refusal
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import TRACKED, Status, Study, is_closed, reopen_trial, trial_path
from tinysweep.settings.schema import Config
from tinysweep.training.loop import Epoch

POLL_SECONDS = 0.3
DIED = "its worker died, killed or out of memory"

log = logging.getLogger(__name__)


# ---- in the job


def run_trial(
    config: Config, sweeper: DictConfig, study_folder: Path, folder: Path, overrides: list[str]
) -> Record:
    """Train trial number `config.trial` of the study that `sweeper`, the composed hydra.sweeper, describes.

    Raises:
        TinysweepError: as `run`; the record tells.
    """
    assert config.trial is not None
    study = optuna.load_study(
        study_name=sweeper.study_name,
        storage=open_storage(sweeper.storage, study_folder, sweeper.storage_patience),
        sampler=optuna.samplers.RandomSampler(),  # nothing is drawn here, and the default sampler costs time
        pruner=build_pruner(sweeper.pruner),
    )
    first = sweeper.objective if isinstance(sweeper.objective, str) else sweeper.objective[0]
    epochs = config.trainer.epochs
    reporter = Reporter(reopen_trial(study, config.trial), first, epochs)
    reporter.require_open()
    reporter.require_costed(config)
    key = study.user_attrs.get(TRACKED)
    config = replace(config, tracker=config.tracker.of_study(study.study_name, key))
    rungs = [*(rung for rung in sweeper.rungs if rung < epochs), epochs] if sweeper.rungs else []
    done = finished_rungs(reporter.trial, study_folder, rungs[:-1])
    reporter.take_over(done)
    return run(config, folder, overrides, reporter, rungs, done)


def finished_rungs(trial: Trial, study_folder: Path, rungs: Sequence[int]) -> list[Epoch]:
    """The epochs of the first rungs that an earlier trial of the same configuration had finished and been let past
    when it was cut short; of several such trials, of the one that came furthest."""
    most: list[Epoch] = []
    trials = trial.study.get_trials(deepcopy=False)[: trial.number] if rungs else []
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
            self.trial.report(value, epoch.epoch)
            prune = self.trial.should_prune()
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


# ---- in the sweep


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
    own = [name for name in metrics if name.startswith("validation_")]
    return {name: every.get(name) for name in dict.fromkeys((*METRICS, *own))} | {
        name: record[name] for name in ("epochs", "seed", "started", "finished")
    }


def leave_interrupted(study: Study, number: int, objectives: list[str], reason: str) -> bool:
    """Close a trial whose job is gone: as its record says if it had finished, else as interrupted. False if
    another sweeper closed it."""
    folder = study.trial_folder(number)
    record = read_record(folder)
    if record and record["state"] != State.running:
        return settle(study, number, record, objectives)
    close_left_record(folder, State.interrupted, reason)
    notes = figures(record) | {"folder": trial_path(number)} if record else {}
    return study.close(number, Status.interrupted, reason, **notes)


def stop_workers() -> None:
    """End the processes that the joblib launcher keeps warm; those of a sweep cut short are still at work."""
    if "joblib.externals.loky.reusable_executor" in sys.modules:
        from joblib.externals.loky import get_reusable_executor  # noqa: PLC0415 only there if that launcher is

        get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Jobs:
    """Launches trials and settles them.

    Whatever launcher runs the jobs, a trial is judged by the record in its folder, which a thread looks at while
    the launcher blocks; so results count, for pruning too, before the last job is done.

    A launcher that raises has lost a job, but others may go on, as on a cluster; they are waited for. What has not
    finished then is closed as interrupted, so that a job that is still queued stops by itself once it starts, and
    is proposed again as a new trial: those that had not begun are launched together, those that had one at a time.
    One that brings down its worker when alone is the culprit, and has failed."""

    def __init__(
        self,
        study: Study,
        objectives: list[str],
        launch: Launch,
        propose_again: Callable[[dict[str, Any]], Proposal | Refusal],
        finished: Callable[[FrozenTrial], None],
    ) -> None:
        self.study, self.objectives, self.launch = study, objectives, launch
        self.propose_again, self.finished = propose_again, finished
        self.pending: set[int] = set()
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
                self.pending = {proposal.number for proposal in group}
                if broken := self._launch([overrides(proposal) for proposal in group], group):
                    self._await_living()
                    waiting = self._again(len(group) == 1, broken) + waiting
        except KeyboardInterrupt:
            stop_workers()
            self.pending |= {proposal.number for group in waiting for proposal in group}
            self._interrupt("the sweep was interrupted")
            raise

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
        for number in sorted(self.pending):
            record = read_record(self.study.trial_folder(number))
            if record and record["state"] != State.running:
                settle(self.study, number, record, self.objectives)
                self._done(number)

    def _await_living(self) -> None:
        while any(RunFolder(self.study.trial_folder(number)).is_held for number in self.pending):
            time.sleep(POLL_SECONDS)
            self._look()
        self._look()

    def _again(self, alone: bool, broken: Exception) -> list[list[Proposal]]:
        """What to launch after a launcher broke down."""
        said = f"{DIED} ({type(broken).__name__}: {first_line(broken)})"
        if alone:
            for number in sorted(self.pending):
                self._fail(number, said, type(broken).__name__)
            return []
        left = [self.study.trial(number) for number in sorted(self.pending)]
        begun = {trial.number for trial in left if self.study.trial_folder(trial.number).exists()}
        self._interrupt(said)
        answers = [(trial.number in begun, self.propose_again(trial.params)) for trial in left]
        anew = [(suspect, answer) for suspect, answer in answers if isinstance(answer, Proposal)]
        fresh = [proposal for suspect, proposal in anew if not suspect]
        # Where none had begun, or all, nothing tells which of them is the cause.
        together = [fresh] if fresh and begun else [[proposal] for proposal in fresh]
        return [*together, *([proposal] for suspect, proposal in anew if suspect)]

    def _fail(self, number: int, reason: str, error: str) -> None:
        close_left_record(self.study.trial_folder(number), State.failed, reason, error)
        self.study.close(number, Status.failed, reason, folder=trial_path(number), error=error)
        self._done(number)

    def _interrupt(self, reason: str) -> None:
        for number in sorted(self.pending):
            leave_interrupted(self.study, number, self.objectives, reason)
            self._done(number)

    def _done(self, number: int) -> None:
        self.pending.remove(number)
        self.finished(self.study.trial(number))


def _fault(returned: JobReturn) -> tuple[str, str]:
    """Why a job that left no finished record failed, and the class of its error."""
    error, kind = returned._return_value, type(returned._return_value).__name__
    if returned.status != JobStatus.FAILED:
        return f"its job ended without a record ({returned.status.name})", "no record"
    return str(error) if isinstance(error, TinysweepError) else f"{kind}: {first_line(error)}", kind
