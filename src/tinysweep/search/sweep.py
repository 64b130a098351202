"""The search: ask, compose, gate, launch, tell, until the study has its trials."""

import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from tinysweep import console
from tinysweep.errors import StudyError, is_outage
from tinysweep.metrics import METRICS
from tinysweep.search.plan import Plan, build_sampler, require_same
from tinysweep.search.propose import Proposal, Proposer, Refusal
from tinysweep.search.storage.location import Kind, Location, locate
from tinysweep.search.storage.opening import look_into, open_storage, storage_errors
from tinysweep.search.study import (
    TRACKED,
    TRAINED,
    Presence,
    Status,
    Study,
    count,
    failed_from_outside,
    is_being_trained,
    status,
)
from tinysweep.search.table import (
    Table,
    metric,
    rank_runs,
    rank_trials,
    write_results,
    write_winner,
)
from tinysweep.search.words import figure, how_far, nothing_fits, refusals_line, result, to_try_again, trial_line
from tinysweep.search.workers.dispatch import Jobs, leave_interrupted
from tinysweep.settings.command_line import as_typed, shown_folder
from tinysweep.settings.schema import TrackerName
from tinysweep.tracking.tracker import Tracking

JUDGED_FROM = 10  # finished trials; a failure among fewer says little of a rate
JOINED = "joined"  # the study's note of how many sweepers have been at work on it
TABLE_SECONDS = 5.0  # between two writings of trials.csv, at least
TABLE_SHARE = 50  # times as long as a writing takes, which grows with the trials
TOLD_TOGETHER = 10  # refusals


class Sweep:
    """One call of the sweeper."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.table = Table(plan.name, plan.objectives, list(plan.space.searched))
        self.best: FrozenTrial | None = None
        self.refusals: list[Refusal] = []  # that haven't been told yet
        self.in_a_row: list[Refusal] = []  # since the last proposal that was handed out
        self.used_up = self.time_over = False

    def run(self) -> None:
        """Search until the study has its trials, the space is used up, or the time is over.

        Raises:
            StudyError: a changed study, no model that fits, too many failures, a storage that fails.
            KeyboardInterrupt: passed on, once all that had finished is written.
        """
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Constraints have been set, but")  # said again at every draw
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        location = locate(self.plan.config.storage, self.plan.folder)
        # Two at once would both make the tables of a database, whose file may be that of several studies.
        beside = self.plan.folder if location.kind == Kind.server else location.file.parent
        lock = FileLock(beside / ".opening.lock")
        with (
            storage_errors(location.shown, self.plan.folder),
            lock if Path(lock.lock_file).exists() else nullcontext(),
        ):
            self._require_open(location)
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        with storage_errors(location.shown, self.plan.folder):
            with lock:
                study = self._open()
                tracking = self._begin_tracking(study)
                study.presence.begin()
            try:
                self._search(study)
            except KeyboardInterrupt:
                study.release("the sweep was interrupted")
                print(
                    f"stopped; {how_far(study, self.plan.n_trials)}; the same command goes on from here",
                    flush=True,
                )
                raise
            finally:
                self.plan.pool.stop()
                study.presence.end()
                self._write_table(study)
                study.clear()
                tracking.close_group(self._found(study), others=bool(study.presence.other_sweepers()))
            self._conclude(study)

    def _require_open(self, location: Location) -> None:
        """Refuse a study that this sweep can't go on with, while nothing has been made or changed.

        Raises:
            StudyError: it is another study, or one of other settings, or its storage has lost it.
        """
        with look_into(location) as storage:
            names = optuna.get_all_study_names(storage) if storage else []
            study = None
            if storage and self.plan.name in names:
                study = optuna.load_study(
                    study_name=self.plan.name, storage=storage, sampler=optuna.samplers.RandomSampler()
                )
            begun = study is not None and bool(study.get_trials(deepcopy=False))
            if not begun and any((self.plan.folder / "trials").glob("*/record.json")):
                others = ", ".join(name for name in names if name != self.plan.name)
                raise StudyError(
                    f"{self.plan.folder} holds the trials of another study, which its storage no longer has"
                    f"{f' (it has {others})' if others else ''}; move the folder away, or begin another study: "
                    "hydra.sweeper.study_name=NAME"
                )
            if study and not self._may_begin_anew(study):
                require_same(study, self.plan.definition)

    def _may_begin_anew(self, study: optuna.Study) -> bool:
        """Whether a study was begun with other settings that came to nothing: no trial was trained, such as where
        no model fits, and no other sweep is at work on it."""
        if study.user_attrs.get("definition", self.plan.definition) == self.plan.definition:
            return False
        idle = (Status.over_budget, Status.invalid, Status.duplicate, Status.withdrawn)
        if any(status(trial) not in idle for trial in study.get_trials(deepcopy=False)):
            return False
        return not Presence(study, self.plan.folder).other_sweepers()

    def _create(self, storage: BaseStorage) -> optuna.Study:
        return optuna.create_study(
            study_name=self.plan.name,
            storage=storage,
            directions=[METRICS[name].direction for name in self.plan.objectives],
            pruner=self.plan.pruner,
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )

    def _open(self) -> Study:
        """The study, new or begun by an earlier call, with this call's sampler and pruner."""
        config = self.plan.config
        storage = open_storage(config.storage, self.plan.folder, config.storage_patience)
        optimized = self._create(storage)
        if self._may_begin_anew(optimized):
            optuna.delete_study(study_name=self.plan.name, storage=storage)
            optimized = self._create(storage)
        require_same(optimized, self.plan.definition)  # which another sweep may have begun since it was looked at
        optimized.set_metric_names(self.plan.objectives)  # as dashboards show them
        optimized.set_user_attr("retrain", self.plan.config.retrain)  # for the final, which Hydra doesn't compose
        optimized.set_user_attr("typed", as_typed())  # for the report
        # Earlier versions left a note of each sweeper instead of their number.
        notes = optimized.user_attrs
        joined = notes.get(JOINED, sum(key.startswith("sweeper:") for key in notes))
        optimized.set_user_attr(JOINED, joined + 1)
        if not self.plan.is_grid:  # whose points are given, not drawn
            optimized.sampler = build_sampler(self.plan.sampler, joined)
        return Study(optimized, self.plan.folder)

    def _begin_tracking(self, study: Study) -> Tracking:
        """Make the study known where its trials are logged, before any of them is, so that all find the same."""
        plan, key = self.plan, study.optuna.user_attrs.get(TRACKED)
        if key is None and plan.tracker.name != TrackerName.none:
            key = uuid.uuid4().hex
            study.optuna.set_user_attr(TRACKED, key)
        tracking = Tracking(plan.tracker.of_study(plan.name, key))
        tracking.open_group({**plan.definition, "folder": str(plan.folder)})
        return tracking

    def _found(self, study: Study) -> dict[str, float]:
        """The figures of the best configuration so far, as those of the study where it is logged."""
        best = next(iter(rank_trials(study.trials(), self.plan.objectives)), None)
        if best is None:
            return {}
        aims = {f"best_{name}": metric(best, name) for name in self.plan.objectives}
        return {"best_trial": float(best.number), **aims}

    def _search(self, study: Study) -> None:
        plan, self.began = self.plan, time.monotonic()
        if plan.points:
            plan.points.status = study.status
        grid = plan.points if plan.is_grid else None
        proposer = Proposer(study, plan.space, plan.composer, plan.n_trials, start=plan.start, grid=grid)
        trials = study.trials()
        self.best = next(iter(rank_runs(trials, plan.objectives)), None)
        with console.Progress(plan.total, "trials", study.count(trials, *TRAINED)) as progress:
            self.progress = progress
            jobs = Jobs(
                study, plan.objectives, plan.pool, self._report_trial, progress.print, plan.config.storage_patience
            )
            plan.begin(study.presence.mark)
            try:
                self._keep_busy(study, proposer, jobs)
            except KeyboardInterrupt:
                jobs.interrupt("the sweep was interrupted")
                raise
            finally:
                self._tell_refusals(least=1)
        if self.used_up:
            self._require_new(study)

    def _keep_busy(self, study: Study, proposer: Proposer, jobs: Jobs) -> None:
        """Hand out trials as workers become free, until there is nothing left to hand out."""
        due = 0.0
        failure: StudyError | None = None
        while True:
            trials = self._recover(study)
            failure = failure or self._too_many_failures(study, trials)
            if not (failure or self.used_up or self._is_time_over()):
                self._hand_out(study, proposer, jobs)
            if not jobs.out:
                if failure:
                    raise failure
                return
            jobs.wait()
            if (began := time.monotonic()) > due:
                with ignoring_outages():  # the last writing needs the disk, those before can wait
                    self._write_table(study)
                written = time.monotonic()
                due = written + max(TABLE_SECONDS, TABLE_SHARE * (written - began))

    def _is_time_over(self) -> bool:
        most = self.plan.config.max_seconds
        if self.time_over or not most or time.monotonic() - self.began < most:
            return self.time_over
        self.progress.print(f"hydra.sweeper.max_seconds={most:g} are over")
        self.time_over = True
        return True

    def _report_trial(self, trial: FrozenTrial) -> None:
        """Say what became of a trial that has just been trained."""
        aim = self.plan.objectives[0]
        if status(trial) == Status.complete:
            self.best = rank_runs([trial, *([self.best] if self.best else [])], self.plan.objectives)[0]
            self.progress.describe(f"best {figure(self.best, aim)}")
        self.progress.print(trial_line(trial, self.best, aim, bool(self.plan.config.rungs)))
        if status(trial) != Status.interrupted:
            self.progress.advance()

    def _recover(self, study: Study) -> list[FrozenTrial]:
        """Close what a sweeper that died has left running: by its record if it had finished; else it is proposed
        again. All trials as they are then."""
        trials = study.trials()
        abandoned = study.abandoned_trials(trials)
        for trial in abandoned:
            if leave_interrupted(study, trial.number, self.plan.objectives, "its sweeper died"):
                self._report_trial(study.trial(trial.number))
        return study.trials() if abandoned else trials

    def _hand_out(self, study: Study, proposer: Proposer, jobs: Jobs) -> None:
        """Propose as many trials as the workers can take now, fewer where there is no need or the space is used
        up."""
        room = min(self.plan.config.batch_size or self.plan.pool.capacity, self.plan.pool.capacity)
        while len(jobs.out) < room and not self.used_up:
            trials = study.trials()
            if not self._is_room_for_more(study, trials):
                break
            answer = proposer.propose(trials=trials)
            if isinstance(answer, Proposal):
                jobs.submit(answer.number, self.plan.job(answer))
                self.in_a_row = []
            else:
                self.refusals.append(answer)
                self.in_a_row.append(answer)
                self.used_up = len(self.in_a_row) >= self.plan.config.max_rejections
        self._tell_refusals(least=TOLD_TOGETHER)

    def _tell_refusals(self, least: int) -> None:
        if len(self.refusals) >= least:
            self.progress.print(refusals_line(self.refusals))
            self.refusals = []

    def _require_new(self, study: Study) -> None:
        """Say that the space is used up, or refuse to end well where nothing in it fits."""
        if not any(refusal.became == Status.duplicate for refusal in self.in_a_row):
            raise StudyError(nothing_fits(self.in_a_row, study.trials()))
        print(f"{len(self.in_a_row):,} proposals in a row brought nothing new: the space is used up", flush=True)

    def _is_room_for_more(self, study: Study, trials: list[FrozenTrial]) -> bool:
        """Whether the study lacks trials, and its space has a point that none of them has."""
        points = self.plan.points
        if points and points.upcoming(trials) is None:
            return False
        ledger = study.ledger(trials)
        taken = ledger.trained + sum(map(is_being_trained, ledger.open))
        return self.plan.n_trials is None or taken < self.plan.n_trials

    def _too_many_failures(self, study: Study, trials: list[FrozenTrial]) -> StudyError | None:
        ledger = study.ledger(trials)
        failed, finished = ledger.counts[Status.failed], ledger.trained
        rate = self.plan.config.max_failure_rate
        if finished >= min(JUDGED_FROM, self.plan.total or JUDGED_FROM) and failed > rate * finished:
            last = next(trial for trial in reversed(trials) if study.status(trial) == Status.failed)
            hope = "; once that is mended, the same command tries it again" if failed_from_outside(last) else ""
            return StudyError(
                f"{failed} of {finished} trials failed, more than hydra.sweeper.max_failure_rate={rate:g}; "
                f"the last, trial {last.number}: {last.user_attrs.get('reason')}{hope}"
            )
        return None

    def _write_table(self, study: Study) -> None:
        self.table.write(study.trials(), self.plan.folder / "trials.csv")

    def _conclude(self, study: Study) -> None:
        """Print the result and write it for others to use."""
        plan, trials = self.plan, study.trials()
        best = write_results(plan.folder, plan.name, trials, plan.objectives)
        if words := to_try_again(study):
            print(f"\n{words}")
        print(f"\n{how_far(study, plan.n_trials)}\n\n{result(trials, plan.objectives, list(plan.space.searched))}")
        print(f"\ntable of trials   {shown_folder(plan.folder)}/trials.csv")
        if best:
            command = write_winner(plan.folder, plan.name, best, plan.composer, plan.config.retrain)
            print(f"train the winner  {command}")
        elif trials and not count(trials, *TRAINED, Status.running, Status.interrupted):
            raise StudyError(nothing_fits([], trials))


@contextmanager
def ignoring_outages() -> Iterator[None]:
    """Go on where a disk is full for a moment."""
    try:
        yield
    except OSError as error:
        if not is_outage(error):
            raise
