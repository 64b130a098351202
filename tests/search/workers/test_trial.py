"""The training of a trial by its job, once or again where the first attempt's worker died, and what it reports."""

import functools
import itertools
import json
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial

from conftest import entered
from made_jobs import Bench, ObedientPool, made_record
from tinysweep.data.catalogue import DataShape
from tinysweep.errors import AbandonedError, ConfigError, OutageError, PrunedError
from tinysweep.metrics import METRICS
from tinysweep.network.budget import measure
from tinysweep.run import record as record_module
from tinysweep.run.record import Record, RunFolder, State, read_record
from tinysweep.run.run import run
from tinysweep.search.compose_trial import digest, identity
from tinysweep.search.storage import patient
from tinysweep.search.storage.database import Database
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import Status, Study, reopen_trial
from tinysweep.search.workers import trial as trial_module
from tinysweep.search.workers.trial import Reporter, finished_rungs, run_trial
from tinysweep.settings.schema import Config, DataConfig, ModelConfig, TrainerConfig
from tinysweep.training.device import hardware
from tinysweep.training.loop import Epoch

pytestmark = pytest.mark.usefixtures("quiet_optuna")


@pytest.mark.parametrize("number", [1, 2, len(METRICS)])
def test_every_metric_can_be_aimed_for_alone_and_with_any_others(tmp_path: Path, number: int) -> None:
    for objectives in map(list, itertools.combinations(METRICS, number)):
        bench = Bench(tmp_path / "-".join(objectives), objectives)
        bench.run(1, ObedientPool(functools.partial(_train_an_epoch, bench)))
        assert bench.statuses == ["complete"], bench.reason(0)
        notes = bench.study.trial(0).user_attrs
        assert bench.study.trial(0).values == [notes[name] for name in objectives]


def _train_an_epoch(bench: Bench, number: int, _: int) -> None:
    """As a trial's job: report an epoch to the study, then leave the record."""
    trial = reopen_trial(bench.study.optuna, number)
    Reporter(trial, bench.objectives[0], epochs=4)(epoch(1, 0.25))
    bench.leave(number, made_record())


def epoch(number: int, loss: float) -> Epoch:
    return Epoch(number, 0.1, loss, 0.9, lr=0.1, seconds=1.0)


def test_a_job_that_composes_another_configuration_than_was_costed_trains_nothing(tmp_path: Path) -> None:
    study = Study(optuna.create_study(), tmp_path)
    costed = Config(model=ModelConfig(width=4))
    number = entered(study, key=digest(identity(costed)))
    reporter = Reporter(reopen_trial(study.optuna, number), "validation_loss", epochs=4)
    reporter.require_costed(costed)
    reporter.require_costed(replace(costed, trial=number, trainer=TrainerConfig(threads=3, test=False)))
    with pytest.raises(ConfigError, match=r"^the job composes another configuration than its sweep did"):
        reporter.require_costed(replace(costed, model=ModelConfig(width=5)))


# ---- a job that was started once more


class KilledError(BaseException):
    """Raised in the middle of a training, whose folder it leaves as a kill does: nothing handles it."""


class Job:
    """Trial 0 of a study, and its job, which may be started several times."""

    EPOCHS, RUNGS = 4, (1, 2)

    def __init__(self, place: Path, mnist_root: Path) -> None:
        self.place = place
        place.mkdir(parents=True)
        storage = open_storage(None, place)
        self.study = Study(optuna.create_study(study_name="s", storage=storage, direction="minimize"), place)
        self.number = entered(self.study)
        self.folder = self.study.trial_folder(self.number)
        self.config = Config(
            trial=self.number,
            data=DataConfig(root=str(mnist_root), validation=100, limit=64),
            model=ModelConfig(width=2),
            trainer=TrainerConfig(epochs=self.EPOCHS, clean_epochs=0, threads=1, test=False),
        )

    def start(self, rungs: bool = True) -> Record:
        sweeper = OmegaConf.create({
            "study_name": "s", "storage": None, "storage_patience": 1.0, "objective": "validation_loss",
            "rungs": self.RUNGS if rungs else [], "pruner": {"_target_": "optuna.pruners.NopPruner"},
        })  # fmt: skip
        assert isinstance(sweeper, DictConfig)
        return run_trial(self.config, sweeper, self.place, self.folder, [])

    def kill(self, monkeypatch: pytest.MonkeyPatch, steps: int, rungs: bool = True) -> None:
        """Start it, and kill it once so many epochs were written."""
        with monkeypatch.context() as patch:
            write = RunFolder.write

            def write_and_die(folder: RunFolder, record: Record, history: Sequence[Epoch]) -> None:
                write(folder, record, history)
                if len(history) == steps:
                    raise KilledError

            patch.setattr(RunFolder, "write", write_and_die)
            with pytest.raises(KilledError):
                self.start(rungs)
        assert (read_record(self.folder) or {})["state"] == "running"

    @property
    def steps(self) -> list[tuple[int | None, int]]:
        """The epochs of its history, of which rung each."""
        return [(each.epochs, each.epoch) for each in RunFolder(self.folder).read_history()]

    @property
    def reported(self) -> dict[int, float]:
        return self.study.trial(self.number).intermediate_values

    def require_alone(self) -> None:
        assert [path.name for path in self.folder.parent.iterdir()] == ["0"]


@pytest.fixture
def job(tmp_path: Path, mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(record_module, "POLL_SECONDS", 0.01)
    return Job(tmp_path / "s", mnist_root)


@pytest.mark.parametrize("rungs", [True, False])
def test_the_folder_of_an_attempt_that_was_killed_is_taken_over_and_the_new_figures_count(
    job: Job, rungs: bool, mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Job(job.place.with_name("undisturbed"), mnist_root)
    expected = undisturbed.start(rungs)
    job.kill(monkeypatch, steps=2, rungs=rungs)
    record = job.start(rungs)
    job.require_alone()
    assert record.state == State.complete
    assert Record.read(RunFolder(job.folder).record).metrics == record.metrics == expected.metrics
    assert job.steps == undisturbed.steps, "no epoch twice, and none missing"
    assert job.reported == undisturbed.reported
    assert (job.folder / "model.pt").exists()


def test_rungs_that_the_attempt_had_finished_are_not_trained_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.kill(monkeypatch, steps=5)  # 1 + 2 of the rungs, and 2 of the last
    before = RunFolder(job.folder).read_history()
    assert job.start().state == State.complete
    assert RunFolder(job.folder).read_history()[:3] == before[:3], "nor were their seconds measured again"
    assert job.steps == [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4)]


@pytest.mark.parametrize("steps", [0, 1])
def test_an_attempt_that_was_killed_in_its_first_epochs_is_taken_over_several_times(
    job: Job, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        job.kill(monkeypatch, steps)
    assert job.start().state == State.complete
    job.require_alone()


def test_a_folder_that_an_attempt_had_only_just_taken_is_taken_over(job: Job) -> None:
    RunFolder.claim(job.folder)
    assert job.start().state == State.complete
    job.require_alone()


@pytest.mark.parametrize("state", [State.complete, State.pruned, State.failed])
def test_the_result_of_an_attempt_that_had_finished_is_returned_without_training(
    job: Job, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.start()
    file = RunFolder(job.folder).record
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": state, "reason": "the first"}))
    before = file.read_bytes()
    monkeypatch.setattr(trial_module, "run", lambda *_: pytest.fail("it was trained again"))
    record = job.start()
    assert (record.state, record.reason) == (state, "the first")
    assert file.read_bytes() == before
    job.require_alone()


@pytest.mark.parametrize("finishes", [True, False])
def test_an_attempt_that_is_still_at_work_is_waited_for(
    job: Job, finishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a node that was thought to be dead comes back."""
    job.kill(monkeypatch, steps=2)
    folder, held = RunFolder(job.folder), threading.Event()
    left = json.loads(folder.record.read_text())
    seen: list[tuple[int | None, int]] = []

    def live() -> None:
        with folder.hold():
            held.set()
            time.sleep(0.3)
            seen.extend(job.steps)
            if finishes:
                folder.record.write_text(json.dumps(left | {"state": "complete", "train_seconds": 77.0}))

    thread = threading.Thread(target=live)
    thread.start()
    assert held.wait(20)
    record = job.start()
    thread.join()
    assert seen == [(1, 1), (2, 1)], "nobody else had written into it"
    assert record.state == State.complete
    assert (record.train_seconds == 77.0) == finishes
    job.require_alone()


def test_a_job_of_a_trial_that_another_sweeper_has_closed_trains_nothing_and_leaves_its_folder(job: Job) -> None:
    RunFolder.claim(job.folder)
    job.study.close(job.number, Status.interrupted, "its sweeper died")
    with pytest.raises(AbandonedError, match=r"^trial 0 was closed by another sweeper$"):
        job.start()
    assert [path.name for path in job.folder.iterdir()] == ["config.yaml"]


def test_of_attempts_that_start_in_the_same_moment_one_trains_and_all_tell_its_result(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a queue runs a job that its sweep had given up, and handed out again."""
    job.kill(monkeypatch, steps=1)
    trained, told = list[int](), list[Record]()

    def counted(*arguments: Any) -> Record:
        trained.append(1)
        return run(*arguments)

    monkeypatch.setattr(trial_module, "run", counted)
    ready = threading.Barrier(4)

    def attempt() -> None:
        ready.wait(20)
        told.append(job.start())

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
    assert [record.metrics for record in told] == [told[0].metrics] * 4
    assert job.steps == [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4)]
    job.require_alone()


def test_an_attempt_whose_trial_is_closed_while_it_waits_trains_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.kill(monkeypatch, steps=2)
    ended: list[BaseException] = []

    def attempt() -> None:
        try:
            job.start()
        except AbandonedError as error:
            ended.append(error)

    waiting = threading.Thread(target=attempt)
    with RunFolder(job.folder).hold():
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
        job.study.close(job.number, Status.interrupted, "the sweep was interrupted")
    waiting.join()
    assert len(ended) == 1
    assert job.steps == [(1, 1), (2, 1)]


def test_a_job_that_comes_too_late_leaves_no_folder(job: Job) -> None:
    job.study.close(job.number, Status.interrupted, "its sweeper died")
    job.folder.mkdir(parents=True)  # as Hydra does, before a job can know
    with pytest.raises(AbandonedError):
        job.start()
    assert not job.folder.exists()


def test_a_job_leaves_it_to_the_sweep_to_say_that_the_storage_is_away(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patient, "SHORT", 0.0)
    real, faults = Database.get_trial, itertools.count(-3)

    def failing(self: Database, trial_id: int) -> FrozenTrial:
        if next(faults) < 0:
            raise OutageError("refused")
        return real(self, trial_id)

    monkeypatch.setattr(Database, "get_trial", failing)
    with caplog.at_level(logging.DEBUG):
        assert job.start().state == State.complete
    assert next(faults) > 0
    assert "is away" not in caplog.text


# ---- the pruner, and the reports of an earlier attempt


class Attempts:
    """Attempts at a trial that is pruned as soon as its last reported loss exceeds 1."""

    def __init__(self, folder: Path) -> None:
        pruner = optuna.pruners.ThresholdPruner(upper=1.0)
        self.study = Study(optuna.create_study(direction="minimize", pruner=pruner), folder)
        self.number = entered(self.study)

    def report(self, *losses: float) -> str | None:
        """Report these losses from a new attempt; with which words it is pruned."""
        reporter = Reporter(reopen_trial(self.study.optuna, self.number), "validation_loss", epochs=9)
        for number, loss in enumerate(losses, 1):
            try:
                reporter(epoch(number, loss))
            except PrunedError as stop:
                return str(stop)
        return None

    @property
    def reported(self) -> list[float]:
        values = self.study.trial(self.number).intermediate_values
        assert sorted(values) == list(range(1, len(values) + 1))
        return [values[step] for step in sorted(values)]


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path)


def test_what_a_dead_attempt_reported_is_overwritten_and_decides_nothing(attempts: Attempts) -> None:
    assert attempts.report(0.5, 0.5, 5.0) is not None  # killed before it could say so
    assert attempts.report(0.4, 0.3) is None
    assert attempts.reported == [0.4, 0.3, 5.0]
    assert attempts.report(0.4, 0.3, 0.2, 0.1) is None
    assert attempts.reported == [0.4, 0.3, 0.2, 0.1]


@pytest.mark.parametrize(
    ("losses", "step"), [((0.4, 0.3, 2.0), 3), ((0.4, 0.3, 0.2, 2.0), 4), ((3.0, 3.0, 2.0), 3)]
)
def test_the_pruner_is_asked_from_the_last_step_on_that_a_dead_attempt_reported(
    attempts: Attempts, losses: tuple[float, ...], step: int
) -> None:
    attempts.report(0.5, 0.5, 0.5)
    words = f"stopped by ThresholdPruner after epoch {step} of 9"
    assert attempts.report(*losses, 0.1) == words
    assert attempts.reported == list(losses)


def test_a_first_attempt_is_judged_from_its_first_step(attempts: Attempts) -> None:
    assert attempts.report(2.0, 0.1) == "stopped by ThresholdPruner after epoch 1 of 9"


# ---- rungs


def rung(epochs: int, loss: float, trained: int | None = None) -> list[Epoch]:
    """The epochs of a rung, of which `trained` have ended, and the loss of the last."""
    found = [
        Epoch(number, 1.0, loss if number == epochs else 99.0, 0.5, 0.1, 1.0, epochs=epochs)
        for number in range(1, epochs + 1)
    ]
    return found[:trained]


class Rungs:
    """A study of trials with rungs at 1, 3 and 9 epochs, pruned by successive halving as it is shipped."""

    def __init__(self, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        self.study = Study(optuna.create_study(direction="minimize", pruner=pruner), folder)

    def begin(self, key: str = "a") -> Reporter:
        number = entered(self.study, key=key)
        return Reporter(reopen_trial(self.study.optuna, number), "validation_loss", epochs=9)

    def train(self, reporter: Reporter, *losses: float) -> None:
        """Report rungs with these losses, and leave their history."""
        history = []
        for epochs, loss in zip((1, 3, 9), losses, strict=False):
            history += rung(epochs, loss)
            self.leave(reporter, history)
            for epoch in history[-epochs:]:
                reporter(epoch)

    def leave(self, reporter: Reporter, history: list[Epoch]) -> None:
        config = Config(model=ModelConfig(width=4))
        cost = measure(config.model, DataShape(1, 28, 10))
        folder = RunFolder(self.study.trial_folder(reporter.trial.number))
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write(Record.begin(config, cost, hardware(config.trainer), []), history)

    def reported(self, reporter: Reporter) -> dict[int, float]:
        return self.study.trial(reporter.trial.number).intermediate_values

    def left(self, reporter: Reporter, rungs: Sequence[int] = (1, 3)) -> list[Epoch]:
        return finished_rungs(reporter.trial, self.study.folder, rungs)


@pytest.fixture
def rungs(tmp_path: Path) -> Rungs:
    return Rungs(tmp_path)


def test_a_trial_reports_its_rungs_alone_and_is_stopped_after_one(rungs: Rungs) -> None:
    for number in range(18):  # every third is the best yet after the first rung, every ninth after the second too
        last = 9 if number % 9 == 0 else 3 if number % 3 == 0 else 1
        losses = [number % 3 - 0.01 * number, number % 9 - 0.01 * number, 0.5]
        reporter = rungs.begin(str(number))
        words = f"stopped by SuccessiveHalvingPruner after the rung of {last} of 9 epochs"
        with nullcontext() if last == 9 else pytest.raises(PrunedError, match=f"^{words}$"):
            rungs.train(reporter, *losses)
        reached = [epochs for epochs in (1, 3, 9) if epochs <= last]
        assert rungs.reported(reporter) == dict(zip(reached, losses, strict=False))


def test_what_was_finished_before_a_trial_was_cut_short_is_taken_over(rungs: Rungs) -> None:
    first = rungs.begin()
    rungs.train(first, 0.5, 0.25)
    rungs.leave(first, [*rung(1, 0.5), *rung(3, 0.25), *rung(9, 0.1, trained=4)])
    rungs.study.close(first.trial.number, Status.interrupted, "its sweeper died")
    again = rungs.begin()
    assert rungs.left(again) == [*rung(1, 0.5), *rung(3, 0.25)]
    assert rungs.left(again, [1]) == rung(1, 0.5)
    assert rungs.left(again, []) == []
    assert rungs.left(rungs.begin("another configuration")) == []


def test_only_whole_rungs_count_that_the_pruner_let_pass_and_the_furthest_trial(rungs: Rungs) -> None:
    first, second, third = rungs.begin(), rungs.begin(), rungs.begin()
    rungs.leave(first, [*rung(1, 0.5), *rung(3, 0.25)])  # killed before it had reported any
    rungs.train(second, 0.5)
    rungs.leave(second, [*rung(1, 0.5), *rung(3, 0.25, trained=2)])
    assert rungs.left(third) == rung(1, 0.5)
    rungs.train(third, 0.5, 0.25)
    assert rungs.left(rungs.begin()) == [*rung(1, 0.5), *rung(3, 0.25)]
    assert rungs.left(third) == [*rung(1, 0.5), *rung(3, 0.25)], "from an earlier attempt of the same trial too"
    assert rungs.left(second) == rung(1, 0.5), "nothing from a later trial"
    (rungs.study.trial_folder(third.trial.number) / "history.csv").write_text("cut")
    assert rungs.left(rungs.begin()) == rung(1, 0.5)


def test_a_trial_that_takes_rungs_over_is_judged_at_the_next_and_not_at_those(rungs: Rungs) -> None:
    first = rungs.begin()
    rungs.train(first, 0.5, 0.25)
    rungs.study.close(first.trial.number, Status.interrupted, "its sweeper died")
    for number in range(6):  # that would stop it at the first rung now
        rungs.train(rungs.begin(str(number)), 0.4 - 0.01 * number)
    again = rungs.begin()
    again.take_over(rungs.left(again))
    assert rungs.reported(again) == rungs.reported(first) == {1: 0.5, 3: 0.25}
    rungs.train(rungs.begin("7"), 0.1, 0.1, 0.1)
    marks = ("completed_rung_0", "completed_rung_1")
    notes = [rungs.study.trial(each.trial.number).system_attrs for each in (first, again)]
    assert [[note[mark] for mark in marks] for note in notes] == [[0.5, 0.25]] * 2
