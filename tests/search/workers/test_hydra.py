"""Jobs by a launcher of Hydra's that does what it is told, breaks down, or leaves jobs that live on."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from made_jobs import Bench, made_record, wait_for_all
from tinysweep.errors import DivergedError, StudyError
from tinysweep.run.record import RunFolder
from tinysweep.search.study import Status, failed_from_outside, status
from tinysweep.search.workers import hydra as pool_module
from tinysweep.search.workers.dispatch import MOST_DEATHS
from tinysweep.search.workers.hydra import HydraPool
from tinysweep.search.workers.job import SweepContext
from tinysweep.search.workers.local import DIED
from tinysweep.search.workers.trial import alone, take_over

ENDED_WELL = JobReturn(overrides=[], status=JobStatus.COMPLETED, _return_value=None)
Launch = Callable[[list[int]], Sequence[JobReturn]]


class WorkerGoneError(Exception):
    """What a launcher raises whose worker was killed."""


class FakeLauncher:
    """A launcher that starts jobs by a function of their numbers."""

    def __init__(self, function: Launch) -> None:
        self.function = function
        self.launched: list[list[int]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        numbers = [int(job[0].partition("=")[2]) for job in job_overrides]
        assert initial_job_idx == numbers[0]
        self.launched.append(numbers)
        return self.function(numbers)


class LaunchBench(Bench):
    """A study whose trials go to a launcher."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, ["validation_accuracy"])
        self.monkeypatch = monkeypatch

    def launch(self, count: int, function: Launch) -> list[list[int]]:
        """Hand out so many trials, wait for all, and the numbers of each launch."""
        launcher = FakeLauncher(function)
        self.monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: launcher)
        pool, nothing = HydraPool(capacity=count), cast(Any, None)
        pool.begin(SweepContext(nothing, nothing, OmegaConf.create(), self.study.folder, self.study.folder))
        self.hand_out(count, jobs := self.jobs(pool))
        try:
            wait_for_all(jobs)
        except KeyboardInterrupt:
            jobs.interrupt("the sweep was interrupted")
            raise
        return launcher.launched

    def train(self, count: int, job: Callable[[int], object], dies: bool = False) -> list[list[int]]:
        """By a launcher that runs one job after another. What a job raises passes to its caller if it `dies`, as
        where its worker is gone, and else is returned."""

        def function(numbers: list[int]) -> list[JobReturn]:
            returns = []
            for number in numbers:
                try:
                    job(number)
                    returns.append(ENDED_WELL)
                except Exception as error:
                    if dies:
                        raise
                    returns.append(JobReturn(status=JobStatus.FAILED, _return_value=error))
            return returns

        return self.launch(count, function)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaunchBench]:
    monkeypatch.setattr(pool_module, "POLL_SECONDS", 0.01)
    before = threading.active_count()
    yield LaunchBench(tmp_path, monkeypatch)
    assert threading.active_count() == before, "nothing watches any longer"


def test_all_that_waits_is_launched_together_and_each_trial_told_once(bench: LaunchBench) -> None:
    assert bench.train(5, lambda number: bench.leave(number, made_record())) == [[0, 1, 2, 3, 4]]
    assert bench.statuses == ["complete"] * 5
    assert sorted(bench.finished) == [0, 1, 2, 3, 4]


def test_what_a_job_raised_is_told_in_the_order_of_the_jobs(bench: LaunchBench) -> None:
    def job(number: int) -> None:
        if number == 1:
            raise DivergedError("the loss is nan")
        bench.leave(number, made_record())

    bench.train(3, job)
    assert bench.statuses == ["complete", "failed", "complete"]
    assert bench.reason(1) == "the loss is nan"


def test_a_trial_counts_while_others_of_its_batch_are_still_running(bench: LaunchBench) -> None:
    seen: list[list[str]] = []

    def job(number: int) -> None:
        bench.leave(number, made_record())
        deadline = time.monotonic() + 20
        while status(bench.study.trial(number)) == Status.running and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(bench.statuses)

    bench.train(2, job)
    assert seen == [["complete", "running"], ["complete", "complete"]]


def test_a_storage_that_fails_while_the_launcher_blocks_is_said_once_it_returns(
    bench: LaunchBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def close(*_: object, **__: object) -> bool:
        failed.set()
        raise StudyError("the study's storage failed")

    monkeypatch.setattr(bench.study, "close", close)

    def job(number: int) -> None:
        bench.leave(number, made_record())
        assert failed.wait(20)

    with pytest.raises(StudyError, match="storage failed"):
        bench.train(2, job)


# ---- a launcher that breaks down


@pytest.mark.parametrize("culprit", [0, 2, 4])
@pytest.mark.parametrize("begins", [True, False], ids=["dies in training", "dies before its record"])
def test_of_trials_whose_worker_dies_only_the_culprit_fails(
    bench: LaunchBench, culprit: int, begins: bool
) -> None:
    def job(number: int) -> None:
        if number == culprit:
            if begins:
                bench.leave(number, made_record("running"))
            raise WorkerGoneError("killed\nby the system")
        assert not (bench.study.trial_folder(number) / "record.json").exists(), "it had finished"
        bench.leave(number, made_record())

    launched = bench.train(5, job, dies=True)
    assert bench.statuses == ["failed" if number == culprit else "complete" for number in range(5)]
    assert launched[1 - MOST_DEATHS :] == [[culprit]] * (MOST_DEATHS - 1), "it was alone when it was found guilty"
    reason = f"{DIED} (WorkerGoneError: killed), {MOST_DEATHS} times"
    assert bench.reason(culprit) == reason
    assert failed_from_outside(bench.study.trial(culprit))
    assert sorted(bench.finished) == list(range(5)), "each is told once"
    if begins:
        assert bench.record(culprit) == made_record("failed", reason, "worker died", closed=True)


def test_what_had_not_finished_is_launched_alone_and_what_had_is_not_again(bench: LaunchBench) -> None:
    launches: list[int] = []

    def function(numbers: list[int]) -> list[JobReturn]:
        launches.append(len(numbers))
        if len(launches) == 1:
            bench.leave(0, made_record())
            for number in (1, 3):
                bench.leave(number, made_record("running"))
            raise WorkerGoneError("no memory")
        for number in numbers:
            bench.leave(number, made_record())
        return [ENDED_WELL] * len(numbers)

    assert bench.launch(5, function) == [[0, 1, 2, 3, 4], [1], [2], [3], [4]]
    assert bench.statuses == ["complete"] * 5


def test_jobs_that_live_on_when_a_launcher_raises_are_waited_for(bench: LaunchBench) -> None:
    """As those of a cluster do, whose launcher raises at the first that died."""
    living: list[threading.Thread] = []

    def live(number: int, held: threading.Event) -> None:
        with RunFolder(bench.study.trial_folder(number)).hold():
            held.set()
            for _ in range(20):
                time.sleep(0.01)
                assert bench.record(number)["state"] == "running", "nobody else writes into it"
                assert status(bench.study.trial(number)) == Status.running
            bench.leave(number, made_record(validation_accuracy=0.75))

    def function(numbers: list[int]) -> list[JobReturn]:
        if living:
            for number in numbers:
                bench.leave(number, made_record())
            return [ENDED_WELL] * len(numbers)
        for number in (0, 1, 3):
            bench.leave(number, made_record("running"))
        for number in (1, 3):
            held = threading.Event()
            living.append(threading.Thread(target=live, args=(number, held)))
            living[-1].start()
            assert held.wait(20)
        raise WorkerGoneError("job 0 ran out of memory")

    launched = bench.launch(5, function)
    for thread in living:
        thread.join()
    assert launched == [[0, 1, 2, 3, 4], [0], [2], [4]], "none that lives is started a second time"
    assert bench.statuses == ["complete"] * 5
    assert [trial.values for trial in bench.study.trials()] == [[0.9], [0.75], [0.9], [0.75], [0.9]]


def test_what_a_queue_runs_after_its_launcher_had_raised_is_not_trained_twice(bench: LaunchBench) -> None:
    trained: list[int] = []
    queued: list[threading.Thread] = []

    def job(number: int) -> None:
        with alone(folder := bench.study.trial_folder(number)):
            if take_over(folder) is None:
                trained.append(number)
                bench.leave(number, made_record("running"))
                time.sleep(0.05)
                bench.leave(number, made_record(validation_accuracy=0.5 + trained.count(number) / 4))

    def function(numbers: list[int]) -> list[JobReturn]:
        if not queued:
            queued.extend(threading.Timer(0.03 * number, job, [number]) for number in numbers)
            for timer in queued:
                timer.start()
            raise WorkerGoneError("job 0 ran out of memory")
        for number in numbers:
            job(number)
        return [ENDED_WELL] * len(numbers)

    bench.launch(5, function)
    for thread in queued:
        thread.join()
    assert sorted(trained) == [0, 1, 2, 3, 4]
    assert [trial.values for trial in bench.study.trials()] == [[0.75]] * 5


def test_a_launcher_that_never_works_fails_every_trial_and_ends(bench: LaunchBench) -> None:
    def job(_: int) -> None:
        raise WorkerGoneError("no such queue")

    launched = bench.train(3, job, dies=True)
    assert bench.statuses == ["failed"] * 3
    assert "WorkerGoneError: no such queue" in bench.reason(2)
    assert [launched.count([number]) for number in range(3)] == [MOST_DEATHS] * 3


def test_several_culprits_are_all_found(bench: LaunchBench) -> None:
    def job(number: int) -> None:
        bench.leave(number, made_record("running"))
        if number in (1, 3):
            raise WorkerGoneError
        bench.leave(number, made_record())

    bench.train(6, job, dies=True)
    assert bench.statuses == ["complete", "failed", "complete", "failed", "complete", "complete"]


def test_an_interruption_keeps_what_had_finished_and_closes_the_rest(bench: LaunchBench) -> None:
    def job(number: int) -> None:
        if number == 2:
            bench.leave(number, made_record("running", validation_accuracy=0.25))
            raise KeyboardInterrupt
        bench.leave(number, made_record())

    with pytest.raises(KeyboardInterrupt):
        bench.train(4, job)
    assert bench.statuses == ["complete", "complete", "interrupted", "interrupted"]
    assert bench.record(2)["state"] == "interrupted"
    assert sorted(bench.finished) == [0, 1, 2, 3]
