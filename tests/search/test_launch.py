"""Jobs of trials under launchers that do what they are told, fail, die or are interrupted."""

import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.utils import JobReturn, JobStatus
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from conftest import entered
from tinysweep.data.catalogue import DataShape
from tinysweep.errors import AbandonedError, ConfigError, DivergedError, PrunedError, StudyError
from tinysweep.metrics import METRICS
from tinysweep.network.budget import measure
from tinysweep.run.record import Record, RunFolder
from tinysweep.search import launch as launch_module
from tinysweep.search.compose_trial import digest, identity
from tinysweep.search.launch import DIED, Jobs, Reporter, figures, finished_rungs, settle
from tinysweep.search.propose import Proposal, Refusal
from tinysweep.search.study import Status, Study, failed_from_outside, reopen_trial, status
from tinysweep.search.table import LATER
from tinysweep.settings.schema import Config, ModelConfig, TrainerConfig
from tinysweep.training.device import hardware
from tinysweep.training.loop import Epoch

ACCURACY = ["validation_accuracy"]


class AnyTime(str):
    """Equal to every time."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    __hash__ = None  # type: ignore[assignment]


SHARES = dict.fromkeys(LATER, 0.5)


def record(
    state: str = "complete",
    reason: str | None = None,
    error: str | None = None,
    closed: bool = False,
    **metrics: float | None,
) -> dict[str, Any]:
    """What a run leaves as its record; if `closed`, another process wrote when it ended."""
    return {
        "state": state,
        "reason": reason,
        "error": error,
        "metrics": {"train_loss": 0.1, "validation_loss": 0.25, "validation_accuracy": 0.9} | SHARES | metrics,
        "cost": {"params": 100, "macs": 1000, "activation_bytes": 50},
        "epochs": 4,
        "seed": 3,
        "train_seconds": 1.5,
        "started": "2026-01-02T03:04:05+00:00",
        "finished": AnyTime() if closed else None if state == "running" else "2026-01-02T03:04:15+00:00",
    }


class Bench:
    """A study whose trials are launched, and what becomes of them as jobs. A trial that is proposed again has the
    same `job` among its parameters."""

    def __init__(self, folder: Path, objectives: list[str]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [StudyDirection[METRICS[aim].direction.upper()] for aim in objectives]
        self.study = Study(optuna.create_study(directions=directions), folder)
        self.objectives = objectives
        self.launched: list[list[int]] = []  # the jobs of each launch
        self.finished: list[int] = []

    def leave(self, number: int, content: dict[str, Any]) -> None:
        """Leave a record as a job would."""
        folder = self.study.trial_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(content))

    def run(self, count: int, job: Callable[[int, int], object], die: bool = False) -> None:
        """Train `count` proposals, each by `job(number of its trial, job)`, which may raise. A launcher lets that
        pass to its caller if `die`, as one does whose worker is gone, and else returns it."""

        def launch(numbers: list[int]) -> list[JobReturn]:
            returns = []
            for number in numbers:
                returned = JobReturn(overrides=[], status=JobStatus.COMPLETED, _return_value=None)
                try:
                    job(number, self.job(number))
                except Exception as error:
                    if die:
                        raise
                    returned.status, returned._return_value = JobStatus.FAILED, error
                returns.append(returned)
            return returns

        self.run_with(launch, count)

    def run_with(self, launch: Callable[[list[int]], Sequence[JobReturn]], count: int) -> None:
        def launch_words(jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
            numbers = [int(job[0].partition("=")[2]) for job in jobs]
            assert first == numbers[0]
            self.launched.append([self.job(number) for number in numbers])
            return launch(numbers)

        def finished(trial: FrozenTrial) -> None:
            assert trial.state.is_finished()
            self.finished.append(trial.number)

        jobs = Jobs(self.study, self.objectives, launch_words, self.propose, finished)
        jobs.run(
            [self.propose({"job": job}) for job in range(count)], lambda proposal: [f"trial={proposal.number}"]
        )

    def propose(self, params: dict[str, Any]) -> Proposal:
        trial = self.study.ask(params)
        trial.suggest_int("job", 0, 99)
        trial.set_user_attr("seed", 3)
        return Proposal(trial.number, [], Config())

    def job(self, number: int) -> int:
        return int(self.study.trial(number).params["job"])

    @property
    def statuses(self) -> list[str]:
        return [status(trial).value for trial in self.study.trials()]

    @property
    def outcomes(self) -> dict[int, list[str]]:
        """What became of the trials of each job."""
        found: dict[int, list[str]] = {}
        for trial in self.study.trials():
            found.setdefault(trial.params["job"], []).append(status(trial).value)
        return found

    def reason(self, number: int) -> str:
        return str(self.study.trial(number).user_attrs.get("reason"))

    def record(self, number: int) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.study.trial_folder(number) / "record.json").read_text())
        return content


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, ACCURACY)


# ---- what a record says


def test_a_completed_trial_has_the_value_and_the_figures_of_its_record(bench: Bench) -> None:
    bench.run(2, lambda number, _: bench.leave(number, record(validation_accuracy=0.5 + number / 4)))
    assert bench.statuses == ["complete", "complete"]
    assert [trial.values for trial in bench.study.trials()] == [[0.5], [0.75]]
    notes = bench.study.trial(1).user_attrs
    assert {name: notes[name] for name in METRICS} == {
        "validation_accuracy": 0.75,
        "validation_loss": 0.25,
        **SHARES,
        "params": 100,
        "macs": 1000,
        "activation_bytes": 50,
        "seconds": 1.5,
    }
    assert (notes["epochs"], notes["seed"]) == (4, 3)
    assert (notes["started"], notes["finished"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:15+00:00")
    assert notes["folder"] == "trials/1"


@pytest.mark.parametrize("state", ["pruned", "failed"])
def test_a_trial_ends_as_its_record_says_with_its_reason_and_figures(bench: Bench, state: str) -> None:
    bench.run(1, lambda number, _: bench.leave(number, record(state, "because of this")))
    assert bench.statuses == [state]
    assert bench.reason(0) == "because of this"
    assert bench.study.trial(0).user_attrs["validation_accuracy"] == 0.9


@pytest.mark.parametrize("number", [1, 2, len(METRICS)])
def test_every_metric_can_be_aimed_for_alone_and_with_any_others(tmp_path: Path, number: int) -> None:
    for objectives in map(list, itertools.combinations(METRICS, number)):
        bench = Bench(tmp_path / "-".join(objectives), objectives)
        report_and_leave = functools.partial(_train_an_epoch, bench)
        bench.run(1, report_and_leave)
        assert bench.statuses == ["complete"], bench.reason(0)
        notes = bench.study.trial(0).user_attrs
        assert bench.study.trial(0).values == [notes[name] for name in objectives]


def _train_an_epoch(bench: Bench, number: int, _: int) -> None:
    """As a trial's job: report an epoch to the study, then leave the record."""
    trial = reopen_trial(bench.study.optuna, number)
    Reporter(trial, bench.objectives[0], epochs=4)(Epoch(1, 0.1, 0.25, 0.9, lr=0.1, seconds=1.0))
    bench.leave(number, record())


@pytest.mark.parametrize(("error", "outside"), [
    ("DataError", True), ("OSError", True), ("OutOfMemoryError", True), ("AttributeError", True),
    ("DivergedError", False), ("ConfigError", False), ("BudgetError", False),
])  # fmt: skip
def test_what_made_a_run_fail_tells_whether_it_is_worth_another_try(
    bench: Bench, error: str, outside: bool
) -> None:
    bench.run(1, lambda number, _: bench.leave(number, record("failed", "why") | {"error": error}))
    assert failed_from_outside(bench.study.trial(0)) == outside
    again = Study(bench.study.optuna, bench.study.folder)
    assert again.status(again.trial(0)) == (Status.interrupted if outside else Status.failed)


@pytest.mark.parametrize(("reason", "outside"), [
    ("OSError: [Errno 28] No space left on device", True), (f"{DIED} (TerminatedWorkerError: gone)", True),
    ("training diverged: the loss of epoch 1 is nan", False), ("data.limit=9 must not exceed the 5 images", False),
    ("", False),
])  # fmt: skip
def test_trials_of_earlier_versions_tell_it_by_their_reason(bench: Bench, reason: str, outside: bool) -> None:
    bench.study.close(entered(bench.study), Status.failed, reason)
    assert failed_from_outside(bench.study.trial(0)) == outside


def test_a_job_that_composes_another_configuration_than_was_costed_trains_nothing(bench: Bench) -> None:
    costed = Config(model=ModelConfig(width=4))
    number = entered(bench.study, key=digest(identity(costed)))
    trial = reopen_trial(bench.study.optuna, number)
    reporter = Reporter(trial, "validation_loss", epochs=4)
    reporter.require_costed(costed)
    reporter.require_costed(replace(costed, trial=number, trainer=TrainerConfig(threads=3, test=False)))
    with pytest.raises(ConfigError, match=r"^the job composes another configuration than its sweep did"):
        reporter.require_costed(replace(costed, model=ModelConfig(width=5)))


def test_several_objectives_are_told_in_their_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["validation_loss", "params", "validation_accuracy", "seconds"])
    bench.run(1, lambda number, _: bench.leave(number, record()))
    assert bench.study.trial(0).values == [0.25, 100, 0.9, 1.5]


@pytest.mark.parametrize("objectives", [ACCURACY, ["params", "validation_accuracy"]])
def test_a_trial_whose_record_lacks_an_objective_has_failed(tmp_path: Path, objectives: list[str]) -> None:
    bench = Bench(tmp_path, objectives)
    bench.run(1, lambda number, _: bench.leave(number, record(validation_accuracy=None)))
    assert bench.statuses == ["failed"]
    assert bench.reason(0) == "its record has validation_accuracy=None"
    assert not failed_from_outside(bench.study.trial(0))


def test_a_record_that_is_not_finished_settles_nothing(bench: Bench) -> None:
    number = entered(bench.study)
    assert not settle(bench.study, number, record("running"), ACCURACY)
    assert bench.statuses == ["running"]
    assert settle(bench.study, number, record(), ACCURACY)
    assert not settle(bench.study, number, record("failed", "later"), ACCURACY), "it is closed already"
    assert bench.statuses == ["complete"]


def test_a_study_notes_every_figure_of_a_record() -> None:
    assert set(METRICS) | {"epochs", "seed", "started", "finished"} == set(figures(record()))


# ---- what a launcher returns


def test_a_job_that_raised_before_it_left_a_record_has_failed_with_its_reason(bench: Bench) -> None:
    def job(number: int, _: int) -> None:
        if number == 0:
            raise DivergedError("the loss is nan")
        if number == 1:
            raise ValueError("first line\nsecond line")
        bench.leave(number, record())

    bench.run(3, job)
    assert bench.statuses == ["failed", "failed", "complete"]
    assert bench.reason(0) == "the loss is nan"
    assert bench.reason(1) == "ValueError: first line"
    assert [failed_from_outside(bench.study.trial(number)) for number in (0, 1)] == [False, True]


def test_a_record_counts_for_more_than_what_the_job_raised_afterwards(bench: Bench) -> None:
    def job(number: int, _: int) -> None:
        bench.leave(number, record("failed", "as the record says") if number else record())
        raise RuntimeError("at the very end")

    bench.run(2, job)
    assert bench.statuses == ["complete", "failed"]
    assert bench.reason(1) == "as the record says"


def test_a_job_that_returns_without_a_record_has_failed(bench: Bench) -> None:
    bench.run(1, lambda *_: None)
    assert bench.statuses == ["failed"]
    assert "without a record" in bench.reason(0)
    assert failed_from_outside(bench.study.trial(0))


def test_a_job_that_stopped_in_the_middle_has_failed(bench: Bench) -> None:
    bench.run(1, lambda number, _: bench.leave(number, record("running")))
    assert bench.statuses == ["failed"]


def test_every_trial_is_told_once_when_it_has_finished(bench: Bench) -> None:
    def job(number: int, _: int) -> None:
        if number % 3:
            bench.leave(number, record("pruned" if number % 3 == 1 else "complete", "why"))

    bench.run(9, job)
    assert sorted(bench.finished) == list(range(9))
    assert bench.launched == [list(range(9))]


def test_a_trial_that_another_sweeper_closed_stays_as_it_is(bench: Bench) -> None:
    def job(number: int, _: int) -> None:
        bench.study.close(number, Status.interrupted, "its sweeper died")
        bench.leave(number, record())

    bench.run(2, job)
    assert bench.statuses == ["interrupted", "interrupted"]
    assert sorted(bench.finished) == [0, 1]


# ---- while the launcher blocks


def test_a_trial_counts_while_others_of_its_batch_are_still_running(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "POLL_SECONDS", 0.01)
    seen: list[list[str]] = []

    def job(number: int, _: int) -> None:
        bench.leave(number, record())
        deadline = time.monotonic() + 20
        while status(bench.study.trial(number)) == Status.running and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(bench.statuses)

    bench.run(2, job)
    assert seen == [["complete", "running"], ["complete", "complete"]]


def test_a_storage_that_fails_while_the_launcher_blocks_stops_the_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "POLL_SECONDS", 0.01)
    failed = threading.Event()

    def close(*_: object, **__: object) -> bool:
        failed.set()
        raise StudyError("the study's storage failed")

    monkeypatch.setattr(bench.study, "close", close)

    def job(number: int, _: int) -> None:
        bench.leave(number, record())
        assert failed.wait(20)

    with pytest.raises(StudyError, match="storage failed"):
        bench.run(2, job)


# ---- a launcher that breaks down


class WorkerGoneError(Exception):
    """What a launcher raises whose worker was killed."""


@pytest.mark.parametrize("culprit", [0, 2, 4])
@pytest.mark.parametrize("begins", [True, False], ids=["dies in training", "dies before its record"])
def test_of_trials_whose_worker_dies_only_the_culprit_fails(bench: Bench, culprit: int, begins: bool) -> None:
    def train(number: int, job: int) -> None:
        if job == culprit:
            if begins:
                bench.leave(number, record("running"))
            raise WorkerGoneError("killed\nby the system")
        bench.leave(number, record())

    bench.run(5, train, die=True)
    last = {job: statuses[-1] for job, statuses in bench.outcomes.items()}
    assert last == {job: "failed" if job == culprit else "complete" for job in range(5)}
    assert all(set(statuses[:-1]) <= {"interrupted"} for statuses in bench.outcomes.values())
    assert [culprit] in bench.launched, "it was alone when it was found guilty"
    (failed,) = (trial.number for trial in bench.study.trials() if status(trial) == Status.failed)
    assert bench.reason(failed) == f"{DIED} (WorkerGoneError: killed)"
    assert failed_from_outside(bench.study.trial(failed))
    assert sorted(bench.finished) == list(range(len(bench.statuses))), "each is told once"
    if begins:
        assert bench.record(failed) == record("failed", bench.reason(failed), error="WorkerGoneError", closed=True)


def test_what_had_finished_before_a_worker_died_is_not_trained_again(bench: Bench) -> None:
    def train(number: int, job: int) -> None:
        if job == 2:
            bench.leave(number, record("running"))
            raise WorkerGoneError
        bench.leave(number, record())

    bench.run(4, train, die=True)
    assert bench.outcomes == {
        0: ["complete"], 1: ["complete"], 2: ["interrupted", "failed"], 3: ["interrupted", "complete"]
    }  # fmt: skip


def test_what_had_begun_is_launched_again_alone_and_what_had_not_together(bench: Bench) -> None:
    def launch(numbers: list[int]) -> list[JobReturn]:
        if len(bench.launched) == 1:
            for number in (1, 3):
                bench.leave(number, record("running", validation_accuracy=0.25))
            raise WorkerGoneError("no memory")
        for number in numbers:
            bench.leave(number, record())
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in numbers]

    bench.run_with(launch, 5)
    assert bench.launched == [[0, 1, 2, 3, 4], [0, 2, 4], [1], [3]]
    assert bench.statuses == ["interrupted"] * 5 + ["complete"] * 5
    reason = f"{DIED} (WorkerGoneError: no memory)"
    assert {bench.reason(number) for number in range(5)} == {reason}
    assert bench.record(3) == record("interrupted", reason, validation_accuracy=0.25, closed=True), "and it stays"
    assert bench.study.trial(3).user_attrs["validation_accuracy"] == 0.25


def test_jobs_that_live_on_when_a_launcher_raises_are_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a cluster do, whose launcher raises at the first that died."""
    monkeypatch.setattr(launch_module, "POLL_SECONDS", 0.01)
    living: list[threading.Thread] = []

    def live(number: int) -> None:
        folder = RunFolder(bench.study.trial_folder(number))
        with folder.hold():
            for _ in range(20):
                time.sleep(0.01)
                assert bench.record(number)["state"] == "running", "nobody else writes into it"
                assert status(bench.study.trial(number)) == Status.running
            bench.leave(number, record())

    def launch(numbers: list[int]) -> list[JobReturn]:
        if len(bench.launched) > 1:
            for number in numbers:
                bench.leave(number, record())
            return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in numbers]
        for number in (0, 1, 3):
            bench.leave(number, record("running"))
        for number in (1, 3):
            living.append(threading.Thread(target=live, args=(number,)))
            living[-1].start()
        while not all(RunFolder(bench.study.trial_folder(number)).is_held for number in (1, 3)):
            time.sleep(0.01)
        raise WorkerGoneError("job 0 ran out of memory")

    bench.run_with(launch, 5)
    for thread in living:
        thread.join()
    assert bench.launched == [[0, 1, 2, 3, 4], [2, 4], [0]], "none that lives is started a second time"
    assert {job: bench.outcomes[job] for job in (1, 3)} == {1: ["complete"], 3: ["complete"]}
    assert {job: bench.outcomes[job] for job in (0, 2, 4)} == {
        job: ["interrupted", "complete"] for job in (0, 2, 4)
    }


def test_a_queued_job_that_starts_after_its_launcher_raised_trains_nothing(bench: Bench) -> None:
    def train(number: int, _: int) -> None:
        if len(bench.launched) == 1:
            raise WorkerGoneError("job 0 ran out of memory")
        bench.leave(number, record())

    bench.run(2, train, die=True)
    assert bench.outcomes == {0: ["interrupted", "complete"], 1: ["interrupted", "complete"]}
    with pytest.raises(AbandonedError):
        Reporter(reopen_trial(bench.study.optuna, 1), "validation_loss", epochs=4).require_open()


def test_a_launcher_that_never_works_fails_every_trial_and_ends(bench: Bench) -> None:
    def train(_number: int, _job: int) -> None:
        raise WorkerGoneError("no such queue")

    bench.run(3, train, die=True)
    assert bench.outcomes == {job: ["interrupted", "failed"] for job in range(3)}
    assert "WorkerGoneError: no such queue" in bench.reason(5)
    assert len(bench.launched) == 1 + 3


def test_several_culprits_are_all_found(bench: Bench) -> None:
    def train(number: int, job: int) -> None:
        bench.leave(number, record("running"))
        if job in (1, 3):
            raise WorkerGoneError
        bench.leave(number, record())

    bench.run(6, train, die=True)
    assert [statuses[-1] for statuses in bench.outcomes.values()] == [
        "complete", "failed", "complete", "failed", "complete", "complete"
    ]  # fmt: skip


def test_what_another_sweeper_has_taken_up_meanwhile_is_left_to_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench.propose

    def propose(params: dict[str, Any]) -> Proposal | Refusal:
        return real(params) if len(bench.launched) == 0 else Refusal(9, Status.duplicate, "same as trial 8")

    monkeypatch.setattr(bench, "propose", propose)

    def train(_number: int, _job: int) -> None:
        raise WorkerGoneError

    bench.run(2, train, die=True)
    assert bench.launched == [[0, 1]]


# ---- interruption


def test_an_interruption_keeps_what_had_finished_and_closes_the_rest_with_their_records(bench: Bench) -> None:
    def train(number: int, job: int) -> None:
        if job == 2:
            bench.leave(number, record("running", validation_accuracy=0.25))
            raise KeyboardInterrupt
        bench.leave(number, record())

    with pytest.raises(KeyboardInterrupt):
        bench.run(4, train)
    assert bench.statuses == ["complete", "complete", "interrupted", "interrupted"]
    reason = "the sweep was interrupted"
    assert bench.reason(2) == bench.reason(3) == reason
    assert bench.study.trial(2).user_attrs["validation_accuracy"] == 0.25, "what it had found by then is noted"
    assert bench.record(2) == record("interrupted", reason, validation_accuracy=0.25, closed=True)
    assert sorted(bench.finished) == [0, 1, 2, 3]


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
    assert rungs.left(third) == rung(1, 0.5), "nothing from a later trial"
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
