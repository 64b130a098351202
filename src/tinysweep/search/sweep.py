"""The search: ask, compose, gate, launch, tell, until the study has its trials."""

import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage

from tinysweep.errors import StudyError
from tinysweep.metrics import METRICS
from tinysweep.search.launch import Batch, figures, read_record, settle
from tinysweep.search.lease import LEASE_PREFIX, Lease
from tinysweep.search.ledger import Ledger
from tinysweep.search.plan import Plan, build_sampler, require_same
from tinysweep.search.progress import Screen, from_outside, nothing_fits, progress, refused, result
from tinysweep.search.propose import Proposal, Proposer, Refusal
from tinysweep.search.storage import look_into, open_storage, storage_errors
from tinysweep.search.storage_location import Kind, Location, locate
from tinysweep.search.study import TRAINED, Status, Study, count, failed_from_outside, status, trial_path
from tinysweep.search.table import Table, write_results, write_winner
from tinysweep.settings.command_line import as_typed

JUDGED_FROM = 10  # finished trials; a failure among fewer says little of a rate


class Sweep:
    """One call of the sweeper."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.table = Table(plan.name, plan.objectives, list(plan.space.searched))

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
        with storage_errors(location.shown), lock if Path(lock.lock_file).exists() else nullcontext():
            self._require_open(location)
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        with storage_errors(location.shown):
            with lock:
                study = self._open()
            self.ledger = Ledger(study.status)
            if self.plan.points:
                self.plan.points.status = study.status
            study.lease.begin(study.optuna.set_user_attr)
            try:
                self._search(study)
            except KeyboardInterrupt:
                study.release("the sweep was interrupted")
                print(
                    f"stopped; {progress(study, self.plan.n_trials)}; the same command goes on from here",
                    flush=True,
                )
                raise
            finally:
                self._stop_workers()
                study.lease.end()
                self._write_table(study)
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
        notes, lease = study.user_attrs, Lease(self.plan.folder)
        if notes.get("definition", self.plan.definition) == self.plan.definition:
            return False
        idle = (Status.over_budget, Status.invalid, Status.duplicate, Status.withdrawn)
        if any(status(trial) not in idle for trial in study.get_trials(deepcopy=False)):
            return False
        tokens = [key.removeprefix(LEASE_PREFIX) for key in notes if key.startswith(LEASE_PREFIX)]
        return not any(lease.is_alive(token, notes) for token in tokens)

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
        storage = open_storage(self.plan.config.storage, self.plan.folder)
        optimized = self._create(storage)
        if self._may_begin_anew(optimized):
            optuna.delete_study(study_name=self.plan.name, storage=storage)
            optimized = self._create(storage)
        require_same(optimized, self.plan.definition)  # which another sweep may have begun since it was looked at
        optimized.set_metric_names(self.plan.objectives)  # as dashboards show them
        optimized.set_user_attr("retrain", self.plan.config.retrain)  # for the final, which Hydra doesn't compose
        optimized.set_user_attr("typed", as_typed())  # for the report
        if not self.plan.is_grid:  # whose points are given, not drawn
            joined = sum(key.startswith(LEASE_PREFIX) for key in optimized.user_attrs)
            optimized.sampler = build_sampler(self.plan.sampler, joined)
        return Study(optimized, self.plan.folder, Lease(self.plan.folder))

    def _search(self, study: Study) -> None:
        began, limit = time.monotonic(), self.plan.config.max_seconds
        plan = self.plan
        proposer = Proposer(
            study,
            plan.space,
            plan.composer,
            self.ledger,
            plan.n_trials,
            start=plan.start,
            grid=plan.points if plan.is_grid else None,
        )
        fresh = [trial for trial in study.trials() if trial.number not in study.retried]
        with Screen(self.plan.objectives, self.plan.total, fresh) as screen:
            batch = Batch(study, self.plan.objectives, self.plan.launch, screen.finished)
            while True:
                self._recover(study, screen)
                self._judge_failures(study)
                if limit and time.monotonic() - began >= limit:
                    screen.say(f"hydra.sweeper.max_seconds={limit:g} are over")
                    return
                proposals = self._gather(study, proposer, screen)
                if not proposals:
                    return
                batch.run(proposals, self.plan.job)
                self._write_table(study)

    def _recover(self, study: Study, screen: Screen) -> None:
        """Close what a sweeper that died has left running: by its record if it had finished; else propose it
        again."""
        for trial in study.abandoned():
            folder = study.trial_folder(trial.number)
            record = read_record(folder)
            if not (record and settle(study, trial.number, record, self.plan.objectives)):
                notes = figures(record) | {"folder": trial_path(trial.number)} if record else {}
                if not study.close(trial.number, Status.interrupted, "its sweeper died", **notes):
                    continue
            screen.finished(study.trial(trial.number))

    def _gather(self, study: Study, proposer: Proposer, screen: Screen) -> list[Proposal]:
        """The next batch: as many proposals as there is need for, fewer where the space is used up."""
        need = self.plan.batch_size
        if self.plan.n_trials is not None:
            trials = study.trials()
            done = self.ledger.count(trials, *TRAINED) + self.ledger.going(trials)
            need = min(need, self.plan.n_trials - done)
        most, points = self.plan.config.max_rejections, self.plan.points
        proposals: list[Proposal] = []
        refusals: list[Refusal] = []
        in_a_row = 0
        proposer.refresh()
        while len(proposals) < need and in_a_row < most:
            if points and points.upcoming(proposer.trials) is None:
                break
            answer = proposer.propose()
            if isinstance(answer, Proposal):
                proposals.append(answer)
                in_a_row = 0
            else:
                refusals.append(answer)
                in_a_row += 1
        if refusals:
            screen.say(refused(refusals))
        if in_a_row >= most and not proposals:
            if not any(refusal.became == Status.duplicate for refusal in refusals):
                raise StudyError(nothing_fits(refusals, study.trials()))
            screen.say(f"{in_a_row:,} proposals in a row brought nothing new: the space is used up")
        return proposals

    def _judge_failures(self, study: Study) -> None:
        trials = study.trials()
        failed, finished = self.ledger.count(trials, Status.failed), self.ledger.count(trials, *TRAINED)
        rate = self.plan.config.max_failure_rate
        if finished >= min(JUDGED_FROM, self.plan.total or JUDGED_FROM) and failed > rate * finished:
            last = next(trial for trial in reversed(trials) if study.status(trial) == Status.failed)
            hope = "; once that is mended, the same command tries it again" if failed_from_outside(last) else ""
            raise StudyError(
                f"{failed} of {finished} trials failed, more than hydra.sweeper.max_failure_rate={rate:g}; "
                f"the last, trial {last.number}: {last.user_attrs.get('reason')}{hope}"
            )

    def _write_table(self, study: Study) -> None:
        self.table.write(study.trials(), self.plan.folder / "trials.csv")

    def _stop_workers(self) -> None:
        """End the processes that the joblib launcher keeps warm; those of a sweep cut short are still at work."""
        if "joblib.externals.loky.reusable_executor" in sys.modules:
            from joblib.externals.loky import get_reusable_executor  # noqa: PLC0415 only there if that launcher is

            get_reusable_executor().shutdown(wait=True, kill_workers=True)

    def _conclude(self, study: Study) -> None:
        """Print the result and write it for others to use."""
        plan, trials = self.plan, study.trials()
        best = write_results(study, plan.objectives)
        if words := from_outside(study):
            print(f"\n{words}")
        print(
            f"\n{progress(study, plan.n_trials)}\n\n{result(trials, plan.objectives, list(plan.space.searched))}"
        )
        print(f"\ntable of trials   {self.plan.folder / 'trials.csv'}")
        if best:
            print(f"train the winner  {write_winner(study, best, plan.composer, plan.config.retrain)}")
        elif trials and not count(trials, *TRAINED, Status.running, Status.interrupted):
            raise StudyError(nothing_fits([], trials))
