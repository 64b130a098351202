"""Worker processes that work, fail, are killed or stopped, or lose the process that had started them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator

import psutil
import pytest

from tinysweep.processes import Done, Processes

pytestmark = pytest.mark.slow

LONG = 600.0  # seconds of a job that doesn't end by itself
PROMPTLY = 3.0  # seconds within which workers are to go


@pytest.fixture
def two() -> Iterator[Processes[str]]:
    processes: Processes[str] = Processes(2)
    yield processes
    processes.stop()


def take(processes: Processes[str], count: int) -> dict[str, Done[str]]:
    """The next jobs that end, by their keys in the order of their ends."""
    done: dict[str, Done[str]] = {}
    until = time.monotonic() + 120
    while len(done) < count and time.monotonic() < until:
        done |= {each.key: each for each in processes.wait(1)}
    assert len(done) == count
    return done


def worker_pids() -> set[int]:
    """Those of this process; joblib has a process of its own besides, which cleans up after them."""
    children = psutil.Process().children()
    return {child.pid for child in children if any("LokyProcess" in word for word in child.cmdline())}


def all_gone(pids: Collection[int], seconds: float = PROMPTLY) -> bool:
    until = time.monotonic() + seconds
    while any(map(_is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(_is_alive, pids))


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_job_tells_what_its_function_returned_or_raised_and_its_worker_stays(two: Processes[str]) -> None:
    two.submit("returns", os.getpid)
    two.submit("raises", int, "no number")
    done = take(two, 2)
    assert isinstance(done["raises"].error, ValueError)
    assert done["raises"].died is None
    assert done["returns"].error is None
    assert done["returns"].died is None
    assert done["returns"].returned != os.getpid()
    known = worker_pids()
    assert len(known) == 2
    for _ in range(4):
        two.submit("again", os.getpid)
        assert take(two, 1)["again"].returned in known
    assert worker_pids() == known


def test_jobs_are_begun_in_the_order_in_which_they_came() -> None:
    processes: Processes[str] = Processes(1)
    try:
        for key in "abcdef":
            processes.submit(key, time.monotonic)
        done = take(processes, 6)
    finally:
        processes.stop()
    assert list(done) == list("abcdef")
    began = [each.returned for each in done.values()]
    assert began == sorted(began)


def test_a_worker_that_is_killed_loses_its_own_job_alone(two: Processes[str]) -> None:
    two.submit("other", time.sleep, 3)
    two.submit("victim", signal.raise_signal, signal.SIGKILL)
    two.submit("next", os.getpid)
    done = take(two, 3)
    assert done["victim"].died
    assert done["victim"].returned is None
    assert [(done[key].died, done[key].error) for key in ("other", "next")] == [(None, None)] * 2


def test_a_worker_that_was_killed_while_it_was_idle_is_not_used(two: Processes[str]) -> None:
    two.submit("first", os.getpid)
    first = take(two, 1)["first"].returned
    os.kill(first, signal.SIGKILL)
    assert all_gone([first])
    time.sleep(0.5)  # until its executor has seen it
    for number in range(4):
        two.submit(str(number), os.getpid)
    done = take(two, 4)
    assert [each.died for each in done.values()] == [None] * 4
    assert first not in {each.returned for each in done.values()}


def test_waiting_for_nothing_takes_its_time_and_no_core(two: Processes[str]) -> None:
    wall, cpu = time.monotonic(), time.process_time()
    assert two.wait(0.5) == []
    assert time.monotonic() - wall >= 0.5
    assert time.process_time() - cpu < 0.25
    assert two.wait() == [], "with no limit it would wait for ever"


def test_stop_ends_every_worker_at_once_at_work_or_not() -> None:
    processes: Processes[str] = Processes(8)
    for number in range(8):
        processes.submit(f"short {number}", time.sleep, 0)
    take(processes, 8)
    pids = worker_pids()
    assert len(pids) == 8
    for number in range(6):
        processes.submit(f"long {number}", time.sleep, LONG)
    began = time.monotonic()
    processes.stop()
    assert time.monotonic() - began < PROMPTLY
    assert all_gone(pids, seconds=0)
    assert processes.wait(0) == []
    processes.stop()  # a second time does no harm


PARENT = f"""
import os, time
from tinysweep.processes import Processes
processes = Processes(3)
for number in range(3):
    processes.submit(number, os.getpid)
found = []
while len(found) < 3:
    found += [done.returned for done in processes.wait(1)]
for number in range(2):
    processes.submit(number, time.sleep, {LONG})
print(*found, flush=True)
time.sleep({LONG})
"""


def test_workers_go_with_the_process_that_had_started_them_however_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout
            pids = [int(word) for word in parent.stdout.readline().split()]
            assert pids
            assert all(map(_is_alive, pids))
        finally:
            parent.kill()
    assert all_gone(pids)
