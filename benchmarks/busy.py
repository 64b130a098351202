"""How busy a sweep keeps its workers, and what the sweeper costs a trial. Nothing is trained.

    python -W ignore benchmarks/busy.py
    python -W ignore benchmarks/busy.py --workers 64 --trials 5000 --samplers tpe --profile

The whole sweep runs in this process: study, sampler, gate, records and table are the real ones. The workers are
threads that sleep as long as a training would take (log-normal around --seconds) and leave a finished record;
their own CPU time isn't the sweeper's. A study of 5,000 trials isn't trained: all but the last --waves a worker
are put into its storage, with all notes that trials have. --storages takes sqlite, journal and URLs.

busy: the part of all workers' time in which they trained, from the first start to the last end; busy_whole: until
there was nothing left to hand out. The sweeper's milliseconds are its thread's CPU time a trained trial, in all
and spent by the sampler, by composing and the gate, and by the storage and settling; sweeper_share is the part of
the time in which it was at work rather than waiting.
"""

import argparse
import contextlib
import cProfile
import io
import json
import os
import pstats
import queue
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import optuna
import pandas as pd
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, create_trial

from epoch_time import cpu_model
from gate import make_plan
from overhead import SPACE, quality
from tinysweep.data.load import describe
from tinysweep.files import write_whole
from tinysweep.network import budget
from tinysweep.run.record import Record, RunFolder, State
from tinysweep.search import propose
from tinysweep.search.plan import Plan
from tinysweep.search.storage.database import Database
from tinysweep.search.storage.patient import PatientStorage
from tinysweep.search.study import Status, Study, trial_path
from tinysweep.search.sweep import Sweep
from tinysweep.search.workers.dispatch import Jobs, figures
from tinysweep.search.workers.job import SweepContext
from tinysweep.search.workers.pool import Ended, with_queue
from tinysweep.training.device import hardware, usable_cores
from tinysweep.training.loop import Epoch

RESULT = Path(__file__).parents[1] / "results" / "busy.csv"
LEAST = 40  # trials that are trained, however few the workers
SPREAD = 0.3  # of the logarithm of a training's seconds
PARTS = ("sampler", "compose", "storage", "rest")
FILES = {"sqlite": "study.db", "journal": "study.log"}
PARTS_OF = {"settle": "storage"}


# ---- workers that sleep


class Sleepers:
    """A pool of threads, each of which takes the next trial as soon as it is free."""

    threads: int | None = None

    def __init__(self, workers: int, seconds: float, template: Record) -> None:
        self.workers, self.seconds, self.template = workers, seconds, template
        self.todo: queue.SimpleQueue[tuple[int, list[str]] | None] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self.spans: list[tuple[float, float]] = []
        self.last_given = 0.0
        self.started: list[threading.Thread] = []

    def begin(self, context: SweepContext) -> None:
        self.study = context.study
        self.started = [threading.Thread(target=self._work, args=(seed,)) for seed in range(self.workers)]
        for thread in self.started:
            thread.start()

    @property
    def capacity(self) -> int:
        return with_queue(self.workers)

    def submit(self, number: int, overrides: list[str]) -> None:
        self.last_given = time.perf_counter()
        self.todo.put((number, overrides))

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:  # noqa: ARG002 every end is known at once
        ended = []
        with contextlib.suppress(queue.Empty):
            ended.append(self.ended.get(timeout=1))
            while True:
                ended.append(self.ended.get_nowait())
        return ended

    def stop(self) -> None:
        for _ in self.started:
            self.todo.put(None)
        for thread in self.started:
            thread.join()
        self.started = []

    def _work(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        while job := self.todo.get():
            number, overrides = job
            began = time.perf_counter()
            folder = RunFolder(self.study / trial_path(number))
            folder.path.mkdir(parents=True)
            lasts = self.seconds * random.lognormal(-(SPREAD**2) / 2, SPREAD)
            time.sleep(max(0.0, began + lasts - time.perf_counter()))
            rate = float(dict(word.split("=", 1) for word in overrides)["optimizer.lr"])
            write(folder, replace(self.template, overrides=overrides), quality(rate), lasts)
            self.spans.append((began, time.perf_counter()))
            self.ended.put(Ended(number))

    def busy(self, end: float) -> float:
        """The part of the workers' time until `end` in which they trained."""
        first = min(began for began, _ in self.spans)
        trained = sum(max(0.0, min(ended, end) - began) for began, ended in self.spans)
        return trained / self.workers / (end - first)


def write(folder: RunFolder, record: Record, accuracy: float, seconds: float) -> None:
    """Leave what a run of an epoch would."""
    record.metrics = dict(record.metrics)
    epoch = Epoch(1, 1 - accuracy, 1 - accuracy, accuracy, 0.1, seconds, train_accuracy=accuracy)
    record.close(State.complete)
    folder.write(record, [epoch])


# ---- where the sweeper's time goes


class Clock:
    """CPU and wall-clock seconds of the thread that makes it, by what it was at."""

    def __init__(self) -> None:
        self.owner, self.parts = threading.get_ident(), ["rest"]
        self.restart()

    def restart(self) -> None:
        self.cpu, self.wall = defaultdict[str, float](float), defaultdict[str, float](float)
        self.last = time.thread_time(), time.perf_counter()

    def switch(self) -> None:
        now = time.thread_time(), time.perf_counter()
        part = PARTS_OF.get(self.parts[-1], self.parts[-1])
        self.cpu[part] += now[0] - self.last[0]
        self.wall[part] += now[1] - self.last[1]
        self.last = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time noted as `part`, without what is noted otherwise within it."""

        @wraps(function)
        def noting(*args: Any, **named: Any) -> Any:
            if threading.get_ident() != self.owner:  # such as the sweeper's heartbeat
                return function(*args, **named)
            self.switch()
            self.parts.append(part)
            try:
                return function(*args, **named)
            finally:
                self.switch()
                self.parts.pop()

        return noting

    @contextlib.contextmanager
    def watching(self, plan: Plan) -> Iterator[None]:
        places: dict[str, list[tuple[Any, tuple[str, ...]]]] = {
            "compose": [(plan.composer, ("config", "overrides", "reads")), (plan, ("job",)),
                        (budget, ("resolve", "measure", "excesses")),
                        (propose, ("pin", "describe", "digest", "identity"))],
            "settle": [(Jobs, ("wait",))],
            "waiting": [(plan.pool, ("wait",))],
        }  # fmt: skip
        with contextlib.ExitStack() as stack:
            for part, functions in places.items():
                for owner, names in functions:
                    for name in names:
                        noting = self.timed(part, getattr(owner, name))
                        stack.enter_context(mock.patch.object(owner, name, noting))
            yield

    def watch(self, study: optuna.Study) -> None:
        for part, owner in (("sampler", study.sampler), ("storage", study._storage)):
            kind: type = optuna.samplers.BaseSampler if part == "sampler" else BaseStorage
            for name in (name for name in dir(kind) if not name.startswith("_")):
                setattr(owner, name, self.timed(part, getattr(owner, name)))


class TimedSweep(Sweep):
    """A sweep of which is known how its time was spent while it handed out trials."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        super().__init__(plan)
        self.clock = clock

    def _open(self) -> Study:
        study = super()._open()
        self.clock.watch(study.optuna)
        return study

    def _keep_busy(self, *arguments: Any) -> None:
        self.clock.restart()
        super()._keep_busy(*arguments)
        self.clock.switch()


# ---- studies


def begun(storage: str, trials: int, options: argparse.Namespace) -> Path:
    """The folder of a study of so many finished trials; that of a file is made once."""
    folder = Path(options.begun.name) / f"{storage.partition(':')[0]}-{trials}"
    where = FILES.get(storage)
    if where and folder.exists():
        return folder
    folder.mkdir(exist_ok=True)
    words = [f"hydra.sweeper.storage='{folder / where if where else storage}'", "hydra/sweeper/sampler=random"]
    plan = make_plan(folder, *SPACE, *words)
    study = Sweep(plan)._open().optuna
    put_in(study, plan, begin(plan), trials)
    if where == FILES["sqlite"]:
        study._storage.storage._backend.engine.dispose()  # type: ignore[attr-defined]  # so that all is in one file
    return folder


def put_in(study: optuna.Study, plan: Plan, template: Record, trials: int) -> None:
    """Put finished trials into a study, with all notes that trials have."""
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    held = json.loads(json.dumps(vars(template), default=lambda _: None))
    made: list[FrozenTrial] = []
    for number in range(trials):
        trial = drawn.ask(plan.space.ordered)
        accuracy = quality(trial.params["optimizer.lr"])
        notes = figures(held) | {"validation_accuracy": accuracy, "validation_loss": 1 - accuracy}
        signs = {"sweeper": "earlier", "key": f"made{number}", "standing": Status.complete.value}
        finished = create_trial(
            values=[accuracy],
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**signs, **notes, "folder": trial_path(number)},
        )
        finished.number = number
        made.append(finished)
    assert isinstance(study._storage, PatientStorage)
    if isinstance(study._storage.storage, Database):
        insert(study._storage.storage._backend, study._study_id, made)
    else:
        study.add_trials(made)


def insert(database: RDBStorage, study_id: int, trials: list[FrozenTrial]) -> None:
    """Put trials into an empty study at once: one by one Optuna takes minutes for 5,000."""
    rows: list[dict[str, Any]] = [
        {"number": trial.number, "study_id": study_id, "state": trial.state,
         "datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
        for trial in trials
    ]  # fmt: skip
    with database.engine.begin() as connection:
        made = sqlalchemy.insert(models.TrialModel).returning(
            models.TrialModel.trial_id, sort_by_parameter_order=True
        )
        ids = connection.scalars(made, rows).all()
        both = list(zip(ids, trials, strict=True))
        params = [
            {"trial_id": key, "param_name": name, "param_value": kind.to_internal_repr(trial.params[name]),
             "distribution_json": distribution_to_json(kind)}
            for key, trial in both for name, kind in trial.distributions.items()
        ]  # fmt: skip
        values = [{"trial_id": key, "objective": 0, "value": trial.value,
                   "value_type": models.TrialValueModel.TrialValueType.FINITE} for key, trial in both]  # fmt: skip
        notes = [
            {"trial_id": key, "key": name, "value_json": json.dumps(value)}
            for key, trial in both
            for name, value in trial.user_attrs.items()
        ]
        connection.execute(sqlalchemy.insert(models.TrialParamModel), params)
        connection.execute(sqlalchemy.insert(models.TrialValueModel), values)
        connection.execute(sqlalchemy.insert(models.TrialUserAttributeModel), notes)


def run(sampler: str, workers: int, size: int, storage: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row: a sweep that brings a study to `size` trials."""
    trained = min(size, max(LEAST, options.waves * workers))
    words = [f"hydra/sweeper/sampler={sampler}", f"hydra.sweeper.n_trials={size}"]
    with tempfile.TemporaryDirectory() as folder:
        where = FILES.get(storage)
        words.append(f"hydra.sweeper.storage='{f'{folder}/{where}' if where else storage}'")
        made = begun(storage, size - trained, options) if size > trained else None
        if made and where:
            shutil.copy(made / where, folder)
        plan = make_plan(Path(folder), *SPACE, *words)
        plan.pool = pool = Sleepers(workers, options.seconds, begin(plan))
        clock, profile = Clock(), cProfile.Profile(time.thread_time)
        profiled = profile if options.profile else contextlib.nullcontext()
        with contextlib.redirect_stdout(io.StringIO()), clock.watching(plan), profiled:
            TimedSweep(plan, clock).run()
        if not where:
            optuna.delete_study(study_name=plan.name, storage=storage)
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(30).sort_stats("cumulative").print_stats(50)
    assert len(pool.spans) == trained
    per = {part: 1000 * clock.cpu[part] / trained for part in PARTS}
    return {
        "workers": workers,
        "trials": size,
        "sampler": sampler,
        "storage": storage.partition(":")[0],
        "trained": trained,
        "busy": pool.busy(max(ended for _, ended in pool.spans)),
        "busy_whole": pool.busy(pool.last_given),
        "sweeper_share": 1 - clock.wall["waiting"] / sum(clock.wall.values()),
        "sweeper_ms": sum(per.values()),
        **{f"{part}_ms": spent for part, spent in per.items()},
        "load": os.getloadavg()[0],
    }


def begin(plan: Plan) -> Record:
    """The record that a trial of the study begins with."""
    config = budget.resolve(plan.composer.config({}), describe(plan.composer.config({}).data))
    cost = budget.measure(config.model, describe(config.data))
    return Record.begin(config, cost, hardware(config.trainer), [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 64], help="numbers of workers")
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 5000], help="sizes of the study")
    parser.add_argument("--seconds", type=float, default=5.0, help="mean of a training (default: 5)")
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random"], help="hydra/sweeper/sampler")
    parser.add_argument("--storages", nargs="+", default=["sqlite", "journal"], help="and URLs of databases")
    parser.add_argument("--waves", type=int, default=10, help="trials a worker that are trained (default: 10)")
    parser.add_argument("--profile", action="store_true", help="print where the sweeper spends its CPU time")
    parser.add_argument("--out", type=Path, default=RESULT, help="the CSV to write")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options.begun = tempfile.TemporaryDirectory()
    rows = []
    for storage in options.storages:
        for sampler in options.samplers:
            for size in options.trials:
                for workers in options.workers:
                    rows.append(run(sampler, workers, size, storage, options))
                    print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False, header=len(rows) == 1))
    if options.profile:
        return
    table = pd.DataFrame(rows)
    table["seconds"] = options.seconds
    table["cores"], table["cpu"], table["optuna"] = usable_cores(), cpu_model(), optuna.__version__
    options.out.parent.mkdir(exist_ok=True)
    write_whole(options.out, table.round(3).to_csv(index=False))


if __name__ == "__main__":
    main()
