"""Trials that are handed to workers which do what they are told, fail, die, meet an outage or are interrupted."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import entered
from made_jobs import SHARES, Bench, Job, ObedientPool, made_record, wait_for_all
from tinysweep.errors import StudyError
from tinysweep.metrics import METRICS
from tinysweep.run.record import RunFolder
from tinysweep.search.study import Status, Study, failed_from_outside
from tinysweep.search.workers.dispatch import LONGEST_PAUSE, MOST_DEATHS, MOST_MACHINES, figures, settle
from tinysweep.search.workers.job import Outcome
from tinysweep.search.workers.local import DIED
from tinysweep.search.workers.pool import Ended

ACCURACY = ["validation_accuracy"]
OUTAGE = Outcome("OSError: [Errno 28] No space left on device", "OSError", outage=True)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, ACCURACY)


# ---- what a record says


def test_a_completed_trial_has_the_value_and_the_figures_of_its_record(bench: Bench) -> None:
    bench.run(2, ObedientPool(lambda it, _: bench.leave(it, made_record(validation_accuracy=0.5 + it / 4))))
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
    bench.run(1, ObedientPool(lambda it, _: bench.leave(it, made_record(state, "because of this"))))
    assert bench.statuses == [state]
    assert bench.reason(0) == "because of this"
    assert bench.study.trial(0).user_attrs["validation_accuracy"] == 0.9


@pytest.mark.parametrize(("error", "outside"), [
    ("DataError", True), ("OSError", True), ("OutOfMemoryError", True), ("AttributeError", True),
    ("DivergedError", False), ("ConfigError", False), ("BudgetError", False),
])  # fmt: skip
def test_what_made_a_run_fail_tells_whether_it_is_worth_another_try(
    bench: Bench, error: str, outside: bool
) -> None:
    bench.run(1, ObedientPool(lambda it, _: bench.leave(it, made_record("failed", "why", error))))
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


def test_several_objectives_are_told_in_their_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["validation_loss", "params", "validation_accuracy", "seconds"])
    bench.run(1, ObedientPool(lambda it, _: bench.leave(it, made_record())))
    assert bench.study.trial(0).values == [0.25, 100, 0.9, 1.5]


@pytest.mark.parametrize("objectives", [ACCURACY, ["params", "validation_accuracy"]])
def test_a_trial_whose_record_lacks_an_objective_has_failed(tmp_path: Path, objectives: list[str]) -> None:
    bench = Bench(tmp_path, objectives)
    bench.run(1, ObedientPool(lambda it, _: bench.leave(it, made_record(validation_accuracy=None))))
    assert bench.statuses == ["failed"]
    assert bench.reason(0) == "its record has validation_accuracy=None"
    assert not failed_from_outside(bench.study.trial(0))


def test_a_record_that_is_not_finished_settles_nothing(bench: Bench) -> None:
    number = entered(bench.study)
    assert not settle(bench.study, number, made_record("running"), ACCURACY)
    assert bench.statuses == ["running"]
    assert settle(bench.study, number, made_record(), ACCURACY)
    assert not settle(bench.study, number, made_record("failed", "later"), ACCURACY), "it is closed already"
    assert bench.statuses == ["complete"]


def test_a_study_notes_every_figure_of_a_record() -> None:
    assert set(METRICS) | {"epochs", "seed", "started", "finished"} == set(figures(made_record()))


# ---- what a job tells


def test_a_job_that_left_no_record_has_failed_with_the_reason_that_it_tells(bench: Bench) -> None:
    told = [Outcome("the loss is nan", "DivergedError"), Outcome("ValueError: first line", "ValueError")]
    bench.run(2, ObedientPool(lambda it, _: told[it]))
    assert bench.statuses == ["failed", "failed"]
    assert [bench.reason(number) for number in (0, 1)] == [each.reason for each in told]
    assert [failed_from_outside(bench.study.trial(number)) for number in (0, 1)] == [False, True]


@pytest.mark.parametrize("told", [Outcome("RuntimeError: at the end", "RuntimeError"), OUTAGE, "its worker died"])
def test_a_finished_record_counts_for_more_than_how_the_job_ended(bench: Bench, told: Outcome | str) -> None:
    def job(number: int, _: int) -> Outcome | str:
        bench.leave(number, made_record("failed", "as the record says") if number else made_record())
        return told

    bench.run(2, pool := ObedientPool(job))
    assert bench.statuses == ["complete", "failed"]
    assert bench.reason(1) == "as the record says"
    assert pool.ran == [0, 1]


@pytest.mark.parametrize("begins", [True, False])
def test_a_job_that_ends_without_a_finished_record_has_failed(bench: Bench, begins: bool) -> None:
    bench.run(1, ObedientPool(lambda it, _: bench.leave(it, made_record("running")) if begins else None))
    assert bench.statuses == ["failed"]
    assert bench.reason(0) == "its job ended without a record"
    assert failed_from_outside(bench.study.trial(0))


def test_a_job_that_was_interrupted_by_itself_is_to_be_tried_again(bench: Bench) -> None:
    bench.run(1, ObedientPool(lambda it, _: bench.leave(it, made_record("interrupted", "stopped by hand"))))
    assert bench.statuses == ["interrupted"]
    assert bench.reason(0) == "stopped by hand"


def test_every_trial_is_told_once_when_it_has_finished(bench: Bench) -> None:
    def job(number: int, _: int) -> None:
        if number % 3:
            bench.leave(number, made_record("pruned" if number % 3 == 1 else "complete", "why"))

    bench.run(9, ObedientPool(job))
    assert bench.finished == list(range(9))


def test_a_trial_that_another_sweeper_closed_stays_as_it_is(bench: Bench) -> None:
    def job(number: int, _: int) -> None:
        bench.study.close(number, Status.interrupted, "its sweeper died")
        bench.leave(number, made_record())

    bench.run(2, ObedientPool(job))
    assert bench.statuses == ["interrupted", "interrupted"]
    assert bench.finished == [0, 1]


# ---- workers that die


@pytest.mark.parametrize("deaths", range(1, MOST_DEATHS))
@pytest.mark.parametrize("begins", [True, False], ids=["dies in training", "dies before its record"])
def test_a_worker_that_dies_costs_nothing_but_another_try_of_the_same_trial(
    bench: Bench, begins: bool, deaths: int
) -> None:
    def job(number: int, before: int) -> Outcome | str:
        if number == 1 and before < deaths:
            if begins:
                bench.leave(number, made_record("running"))
            return "its worker died (killed)"
        return bench.leave(number, made_record())

    bench.run(4, pool := ObedientPool(job))
    assert bench.statuses == ["complete"] * 4
    assert pool.ran == [0, 1, 2, 3, *[1] * deaths]
    assert sorted(bench.finished) == [0, 1, 2, 3]
    assert bench.said == ["trial 1: its worker died (killed); it goes on with another"] * deaths
    assert "reason" not in bench.study.trial(1).user_attrs


@pytest.mark.parametrize("begins", [True, False], ids=["dies in training", "dies before its record"])
def test_a_trial_that_brings_down_every_worker_has_failed_from_outside(bench: Bench, begins: bool) -> None:
    def job(number: int, _: int) -> Outcome | str:
        if number in (0, 2):
            if begins:
                bench.leave(number, made_record("running", validation_accuracy=0.25))
            return "its worker died (killed)"
        return bench.leave(number, made_record())

    bench.run(4, pool := ObedientPool(job))
    assert bench.statuses == ["failed", "complete", "failed", "complete"]
    assert [pool.ran.count(number) for number in range(4)] == [3, 1, 3, 1]
    reason = "its worker died (killed), 3 times"
    assert bench.reason(0) == reason
    assert failed_from_outside(bench.study.trial(0))
    assert sorted(bench.finished) == [0, 1, 2, 3], "each is told once"
    if begins:
        closed = made_record("failed", reason, "worker died", closed=True, validation_accuracy=0.25)
        assert bench.record(2) == closed


def test_the_death_of_machines_is_not_put_down_to_a_trial_but_not_for_ever(bench: Bench) -> None:
    def job(number: int, before: int) -> Outcome | Ended | str:
        if before in (0, 5) and number != 2:  # a trial is still to blame for what it does besides
            return "its worker died (killed)"
        if number == 2 or before < MOST_DEATHS + 3:
            return Ended(number, died="its machine died (NodeDiedError)", machine=True)
        return bench.leave(number, made_record())

    bench.run(3, pool := ObedientPool(job))
    assert bench.statuses == ["complete", "complete", "failed"]
    assert pool.ran.count(2) == MOST_MACHINES
    assert bench.reason(2) == f"its machine died (NodeDiedError), {MOST_MACHINES} times"
    assert failed_from_outside(bench.study.trial(2)), "the same command tries it again"


# ---- outages


class Clock:
    """Time that passes only where it is waited for."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


class WaitingPool(ObedientPool):
    """Lets a second pass where nothing is to be run, and notes when each job was."""

    def __init__(self, clock: Clock, job: Job) -> None:
        super().__init__(job)
        self.clock, self.when = clock, list[tuple[int, float]]()

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:
        self.clock.now += not self.waiting
        if self.waiting:
            self.when.append((self.waiting[0], self.clock.now - 1000))
        return super().wait(look)


def test_a_trial_that_meets_an_outage_is_tried_again_after_longer_and_longer_pauses(
    bench: Bench, clock: Clock
) -> None:
    def job(number: int, before: int) -> Outcome | None:
        bench.leave(number, made_record("interrupted" if before < 4 else "complete"))
        return OUTAGE if before < 4 else None

    bench.run(1, pool := WaitingPool(clock, job))
    assert bench.statuses == ["complete"]
    assert pool.when == [(0, 0.0), (0, 2.0), (0, 6.0), (0, 14.0), (0, 30.0)]
    assert bench.finished == [0]
    assert bench.said == [f"trial 0: {OUTAGE.reason}; it is tried again for 60 s"], "once, not at every try"


def test_others_go_on_and_each_trial_has_pauses_of_its_own_during_an_outage(bench: Bench, clock: Clock) -> None:
    """A restart of two seconds that all workers notice must not hold back the last for a minute."""

    def job(number: int, before: int) -> Outcome | None:
        if number < 20 and before == 0:
            return OUTAGE
        return bench.leave(number, made_record())

    bench.run(22, pool := WaitingPool(clock, job))
    assert bench.statuses == ["complete"] * 22
    assert [when for _, when in pool.when] == [0.0] * 22 + [2.0] * 20


def test_an_outage_that_outlasts_the_patience_is_one_line_and_loses_nothing(bench: Bench, clock: Clock) -> None:
    def job(number: int, _: int) -> Outcome | None:
        if number != 2:
            return bench.leave(number, made_record())
        bench.leave(number, made_record("interrupted", "cut short"))
        return OUTAGE

    bench.hand_out(3, jobs := bench.jobs(pool := WaitingPool(clock, job), patience=100))
    with pytest.raises(StudyError) as caught:
        wait_for_all(jobs)
    assert str(caught.value) == (
        f"{OUTAGE.reason}; this has lasted for 100 s; what had finished is kept, and the same command goes on "
        "from there"
    )
    tries = [when for number, when in pool.when if number == 2]
    assert tries[-1] == 100
    assert max(after - before for before, after in itertools.pairwise(tries)) == LONGEST_PAUSE
    assert bench.statuses == ["complete", "complete", "running"], "its sweeper closes it as interrupted"
    assert bench.record(2)["state"] == "interrupted", "not failed"


def test_outages_with_results_between_them_are_several(bench: Bench, clock: Clock) -> None:
    def job(number: int, before: int) -> Outcome | None:
        return OUTAGE if before < 3 else bench.leave(number, made_record())

    jobs = bench.jobs(WaitingPool(clock, job), patience=20)
    for _ in range(5):
        bench.hand_out(1, jobs)
        wait_for_all(jobs)
    assert bench.statuses == ["complete"] * 5
    assert len(bench.said) == 5


def test_trials_that_meet_an_outage_hours_apart_share_no_patience(bench: Bench, clock: Clock) -> None:
    """Nothing need have ended between them, where a training takes as long."""

    def job(number: int, before: int) -> Outcome | None:
        if before == 0:
            clock.now += 3600
            return OUTAGE
        return bench.leave(number, made_record())

    bench.run(3, WaitingPool(clock, job))
    assert bench.statuses == ["complete"] * 3


# ---- interruption


def test_an_interruption_keeps_what_had_finished_and_closes_the_rest_with_their_records(bench: Bench) -> None:
    def job(number: int, _: int) -> Outcome | None:
        if number == 1:
            return OUTAGE
        if number == 3:
            bench.leave(3, made_record("running", validation_accuracy=0.25))
            bench.leave(4, made_record())  # by another worker, whose end isn't known yet
            raise KeyboardInterrupt
        return bench.leave(number, made_record())

    bench.hand_out(6, jobs := bench.jobs(pool := ObedientPool(job)))
    with pytest.raises(KeyboardInterrupt):
        wait_for_all(jobs)
    jobs.interrupt("the sweep was interrupted")
    assert pool.stopped
    assert not jobs.out
    assert bench.statuses == ["complete", "interrupted", "complete", "interrupted", "complete", "interrupted"]
    reason = "the sweep was interrupted"
    assert {bench.reason(number) for number in (1, 3, 5)} == {reason}
    assert bench.study.trial(3).user_attrs["validation_accuracy"] == 0.25, "what it had found by then is noted"
    assert bench.record(3) == made_record("interrupted", reason, validation_accuracy=0.25, closed=True)
    assert sorted(bench.finished) == [0, 1, 2, 3, 4, 5]


def test_a_run_that_still_goes_on_is_left_its_record(bench: Bench) -> None:
    """Such as one on a cluster, which ends a while after it was told to."""
    bench.hand_out(1, jobs := bench.jobs(ObedientPool(lambda *_: None)))
    bench.leave(0, made_record("running"))
    with RunFolder(bench.study.trial_folder(0)).hold():
        jobs.interrupt("the sweep was interrupted")
    assert bench.statuses == ["interrupted"]
    assert bench.record(0)["state"] == "running"
