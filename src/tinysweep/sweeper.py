"""The search: ask, compose, gate, launch, tell, until the study has its trials."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial

from tinysweep.batch import Batch, Launch, figures, read_record, settle
from tinysweep.definition import define, made_name, require_comparable, require_same
from tinysweep.device import usable_cores
from tinysweep.errors import StudyError
from tinysweep.lease import LEASE_PREFIX, Lease
from tinysweep.outcome import write_results, write_winner
from tinysweep.plugin import METRICS, SweeperConfig
from tinysweep.proposals import Proposal, Proposer, Refusal
from tinysweep.samplers import GridOrder, build_sampler, is_grid
from tinysweep.screen import Screen, result
from tinysweep.space import Value, grid, read_space
from tinysweep.study import TRAINED, Standing, Study, open_storage, standing, storage_errors
from tinysweep.table import Table
from tinysweep.trial import build_pruner
from tinysweep.trial_config import Composer

DEFAULT_TRIALS = 20
BATCH_A_WORKER = 4  # keeps all but the last seconds of a batch busy, while the sampler still hears back often
JUDGED_FROM = 10  # finished trials; a failure among fewer says little of a rate


class Sweep:
    """One call of the sweeper: it reads and checks everything before the study is touched."""

    def __init__(
        self,
        config: SweeperConfig,
        master: DictConfig,
        context: HydraContext,
        task: TaskFunction,
        arguments: list[str],
    ) -> None:
        self.config, self.master, self.objectives = config, master, config.objectives
        self.space = read_space(config.params, arguments)
        self.composer = Composer(context.config_loader, master, self.space.fixed)
        base = self.composer.base({})
        self.composer.compose(*config.retrain)
        self.pruner = build_pruner(master.hydra.sweeper.pruner)
        require_comparable(self.objectives, base, self.space, not isinstance(self.pruner, NopPruner))
        self.points = self._grid_points() if is_grid(master.hydra.sweeper.sampler) else None
        self.n_trials = config.n_trials or (None if self.points is not None else DEFAULT_TRIALS)
        self.definition = define(self.space, self.objectives, base)
        self.name = config.study_name or made_name(self.space, self.definition)
        with read_write(master.hydra), open_dict(master.hydra):
            master.hydra.sweeper.study_name = self.name
            quoted = self.name.replace("\\", "\\\\").replace("'", "\\'")
            master.hydra.overrides.hydra.append(f"hydra.sweeper.study_name='{quoted}'")
        self.folder = Path(master.hydra.sweep.dir).absolute()
        self.table = Table(self.name, self.objectives, list(self.space.searched))
        self.workers = _workers(master.hydra.launcher)
        searches_threads = "trainer.threads" in self.space.searched or base.trainer.threads
        self.threads = None if searches_threads or not self.workers else max(1, usable_cores() // self.workers)
        self.launch: Launch = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=master
        ).launch  # fmt: skip

    def _grid_points(self) -> list[dict[str, Value]]:
        """Every point of the grid, without the parameters that play no role at it."""
        order = list(self.space.ordered)
        points = []
        for point in grid(self.space):
            values: dict[str, Value] = {}
            for name in order:
                if self.composer.reads(name, values):
                    values[name] = point[name]
            points.append(values)
        return points

    def run(self) -> None:
        """Search until the study has its trials, the space is used up, or the time is over.

        Raises:
            StudyError: a changed study, no model that fits, too many failures, a storage that fails.
            KeyboardInterrupt: passed on, once all that had finished is written.
        """
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        where = self.config.storage or str(self.folder / "study.db")
        with storage_errors(where):
            self.folder.mkdir(parents=True, exist_ok=True)
            storage = open_storage(self.config.storage, self.folder)
            study = self._open(storage)
            study.lease.begin(study.optuna.set_user_attr)
            try:
                self._search(study)
            except KeyboardInterrupt:
                print(f"stopped; {_progress(study, self.n_trials)}. The same command goes on from here.", flush=True)
                raise
            finally:
                study.lease.end()
                self.table.write(study.trials(), self.folder / "trials.csv")
            self._conclude(study)

    def _open(self, storage: optuna.storages.BaseStorage) -> Study:
        """The study, new or begun by an earlier call, with this call's sampler and pruner."""
        optimized = optuna.create_study(
            study_name=self.name,
            storage=storage,
            directions=["maximize" if METRICS[name] else "minimize" for name in self.objectives],
            pruner=self.pruner,
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
        require_same(optimized, self.definition)
        joined = sum(key.startswith(LEASE_PREFIX) for key in optimized.user_attrs)
        sampler = self.master.hydra.sweeper.sampler
        optimized.sampler = GridOrder(self.points) if self.points is not None else build_sampler(sampler, joined)
        return Study(optimized, self.folder, Lease(self.folder))

    def _search(self, study: Study) -> None:
        began = time.monotonic()
        proposer = Proposer(study, self.space, self.composer, self.n_trials)
        total = self.n_trials or len(study.optuna.sampler.points)  # type: ignore[attr-defined]
        with Screen(self.objectives, total, _count(study.trials(), *TRAINED)) as screen:
            screen.resume(study.trials())
            batch = Batch(study, self.objectives, self.launch, screen.finished)
            while True:
                self._recover(study, screen)
                self._judge_failures(study.trials())
                if self.config.max_seconds and time.monotonic() - began >= self.config.max_seconds:
                    screen.say(f"max_seconds={self.config.max_seconds:g} are over")
                    return
                proposals = self._gather(study, proposer, screen)
                if not proposals:
                    return
                batch.run(proposals, self._job)
                self.table.write(study.trials(), self.folder / "trials.csv")

    def _recover(self, study: Study, screen: Screen) -> None:
        """Close what a sweeper that died has left running, by its record if it had finished; else propose it again."""
        for trial in study.abandoned():
            record = read_record(study.trial_folder(trial.number))
            if not (record and settle(study, trial.number, record, self.objectives)):
                notes = figures(record) | {"folder": str(study.trial_folder(trial.number))} if record else {}
                if not study.close(trial.number, Standing.interrupted, "its sweeper died", **notes):
                    continue
                if self.points is None and "seed" in trial.user_attrs:  # it had passed the gate
                    study.optuna.enqueue_trial(trial.params)
            screen.finished(study.trial(trial.number))

    def _gather(self, study: Study, proposer: Proposer, screen: Screen) -> list[Proposal]:
        """The next batch: as many proposals as there is need for, fewer where the space is used up."""
        trials = study.trials()
        going = _count(trials, Standing.running)
        need = (self.config.batch_size or BATCH_A_WORKER * (self.workers or 1))
        if self.n_trials is not None:
            need = min(need, self.n_trials - _count(trials, *TRAINED) - going)
        proposals: list[Proposal] = []
        refusals: list[Refusal] = []
        in_a_row = 0
        while len(proposals) < need and in_a_row < self.config.max_rejections:
            sampler = study.optuna.sampler
            if isinstance(sampler, GridOrder) and sampler.upcoming(study.trials()) is None:
                break
            answer = proposer.propose()
            if isinstance(answer, Proposal):
                proposals.append(answer)
                in_a_row = 0
            else:
                refusals.append(answer)
                in_a_row += 1
        if refusals:
            screen.say(_refused(refusals))
        if in_a_row >= self.config.max_rejections and not proposals:
            if not any(refusal.became == Standing.duplicate for refusal in refusals):
                raise StudyError(_nothing_fits(refusals, study.trials()))
            screen.say(f"{in_a_row:,} proposals in a row brought nothing new: the space is used up")
        return proposals

    def _job(self, proposal: Proposal) -> list[str]:
        """The overrides of a trial's job. The test set stays unread whatever the configuration says."""
        threads = [] if self.threads is None else [f"trainer.threads={self.threads}"]
        return [*self.space.fixed, *proposal.overrides, *threads, "trainer.test=false", f"trial={proposal.number}"]

    def _judge_failures(self, trials: Sequence[FrozenTrial]) -> None:
        failed = [trial for trial in trials if standing(trial) == Standing.failed]
        finished = _count(trials, *TRAINED)
        if finished >= min(JUDGED_FROM, self.n_trials or 1) and len(failed) > self.config.max_failure_rate * finished:
            raise StudyError(
                f"{len(failed)} of {finished} trials failed, more than hydra.sweeper.max_failure_rate="
                f"{self.config.max_failure_rate:g}; the last: trial {failed[-1].number}, "
                f"{failed[-1].user_attrs.get('reason')}"
            )

    def _conclude(self, study: Study) -> None:
        """Print the result and write it for others to use."""
        trials = study.trials()
        best = write_results(study, self.objectives)
        print(f"\n{_progress(study, self.n_trials)}\n\n{result(trials, self.objectives, list(self.space.searched))}")
        print(f"\n{'table of trials':<16} {self.folder / 'trials.csv'}")
        if best:
            command = write_winner(study, best, self.composer, self.config.retrain)
            print(f"{'train the winner':<16} {command}")
        elif _count(trials, Standing.over_budget):
            raise StudyError(_nothing_fits([], trials))


def _workers(launcher: DictConfig) -> int | None:
    """How many jobs a local launcher runs at a time; None for one that runs them elsewhere."""
    name = str(launcher._target_).rsplit(".", maxsplit=1)[-1]
    if name == "BasicLauncher":
        return 1
    if name == "JoblibLauncher":
        from joblib import effective_n_jobs  # noqa: PLC0415 only there if that launcher is

        return int(effective_n_jobs(launcher.n_jobs))
    return None


def _count(trials: Sequence[FrozenTrial], *standings: Standing) -> int:
    return sum(standing(trial) in standings and trial.datetime_start is not None for trial in trials)


def _progress(study: Study, n_trials: int | None) -> str:
    trials = study.trials()
    words = [f"{_count(trials, became)} {became.value.replace('_', ' ')}" for became in Standing
             if _count(trials, became)]  # fmt: skip
    of = f" of {n_trials}" if n_trials else ""
    return f"study {study.optuna.study_name}: {_count(trials, *TRAINED)}{of} trials ({', '.join(words) or 'none'})"


def _refused(refusals: list[Refusal]) -> str:
    kinds = {became: sum(refusal.became == became for refusal in refusals) for became in Standing}
    words = ", ".join(f"{count} {became.value.replace('_', ' ')}" for became, count in kinds.items() if count)
    return f"not trained: {words} (the last, trial {refusals[-1].number}: {refusals[-1].reason})"


def _nothing_fits(refusals: list[Refusal], trials: Sequence[FrozenTrial]) -> str:
    sizes = [trial.user_attrs["params"] for trial in trials if "params" in trial.user_attrs]
    last = refusals[-1].reason if refusals else "every point of the grid is over the budget"
    smallest = f"the smallest had {min(sizes):,} trainable parameters; " if sizes else ""
    row = f"{len(refusals):,} proposals in a row were refused: " if refusals else ""
    return f"no model fits: {row}{smallest}{last}; search smaller models or raise the budget"
