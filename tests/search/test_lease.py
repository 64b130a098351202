"""Proof of life: a sweeper is alive while its process, or its heartbeat, says so, and dead at once when killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinysweep.search import lease
from tinysweep.search.lease import EXPIRED_SECONDS, HEARTBEAT_SECONDS, LEASE_PREFIX, Lease

# Holds a lease until it is killed or its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from tinysweep.search.lease import Lease

held = Lease(Path(sys.argv[1]))
held.begin(lambda key, moment: None)
print(held.token, flush=True)
sys.stdin.read()
held.end()
"""


@pytest.fixture
def mine(tmp_path: Path) -> Lease:
    """The lease of a sweeper that asks about others."""
    return Lease(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds a lease in the same folder, and prints its token first."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def token_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def fresh(token: str) -> dict[str, float]:
    """What a study says of a sweeper whose heart beat just now."""
    return {f"{LEASE_PREFIX}{token}": time.time()}


# ---- in the same folder


def test_a_sweeper_is_alive_while_its_process_holds_its_lease(mine: Lease, other: "subprocess.Popen[str]") -> None:
    token = token_of(other)
    assert mine.is_alive(token, {})
    assert mine.is_alive(token, {f"{LEASE_PREFIX}{token}": 0.0}), "whatever a late heartbeat says"


def test_a_killed_sweeper_is_dead_at_once_and_stays_dead(mine: Lease, other: "subprocess.Popen[str]") -> None:
    token = token_of(other)
    assert mine.is_alive(token, fresh(token))
    other.send_signal(signal.SIGKILL)
    other.wait()
    for _ in range(3):  # to ask must not change the answer
        assert not mine.is_alive(token, fresh(token))


def test_a_sweeper_that_ends_its_lease_is_dead_at_once_and_stays_dead(
    mine: Lease, other: "subprocess.Popen[str]"
) -> None:
    token = token_of(other)
    other.communicate()
    assert other.returncode == 0
    for _ in range(3):
        assert not mine.is_alive(token, fresh(token))


def test_two_sweepers_of_one_process_know_of_each_other(tmp_path: Path, mine: Lease) -> None:
    second = Lease(tmp_path)
    second.begin(lambda _key, _moment: None)
    assert mine.is_alive(second.token, {})
    second.end()
    assert not mine.is_alive(second.token, fresh(second.token))


def test_asking_about_the_dead_does_not_disturb_the_living(mine: Lease, other: "subprocess.Popen[str]") -> None:
    token = token_of(other)
    dead = Lease(mine.folder.parent)
    dead.begin(lambda _key, _moment: None)
    dead.end()
    for _ in range(20):
        assert mine.is_alive(token, {})
        assert not mine.is_alive(dead.token, fresh(dead.token))


def test_a_sweeper_knows_itself_alive(mine: Lease) -> None:
    assert mine.is_alive(mine.token, {})


def test_every_lease_has_a_token_of_its_own(tmp_path: Path) -> None:
    assert len({Lease(tmp_path).token for _ in range(100)}) == 100


# ---- on another machine


@pytest.mark.parametrize(
    ("age", "alive"),
    [(0.0, True), (EXPIRED_SECONDS - 5, True), (EXPIRED_SECONDS + 5, False), (10 * EXPIRED_SECONDS, False)],
)
def test_a_sweeper_elsewhere_is_alive_by_its_heartbeat_until_that_expires(
    mine: Lease, age: float, alive: bool
) -> None:
    assert mine.is_alive("elsewhere", {f"{LEASE_PREFIX}elsewhere": time.time() - age}) is alive


def test_a_sweeper_of_which_nothing_is_known_is_dead(mine: Lease) -> None:
    assert not mine.is_alive("unknown", {})
    assert not mine.is_alive("unknown", fresh("another"))


def test_a_heartbeat_or_two_may_fail_before_a_sweeper_counts_as_dead() -> None:
    assert 3 * HEARTBEAT_SECONDS < EXPIRED_SECONDS


# ---- the heartbeat


def test_a_lease_is_renewed_from_the_start_until_its_end(mine: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    beats: list[tuple[str, float]] = []
    began = time.time()
    mine.begin(lambda key, moment: beats.append((key, moment)))
    assert len(beats) >= 1, "it must be seen before anything else is done"
    while len(beats) < 4:
        assert time.time() - began < 20
        time.sleep(0.01)
    mine.end()
    seen = len(beats)
    time.sleep(0.1)
    assert len(beats) == seen
    assert {key for key, _ in beats} == {f"{LEASE_PREFIX}{mine.token}"}
    times = [moment for _, moment in beats]
    assert times == sorted(times)
    assert began <= times[0]


def test_a_storage_that_is_away_for_a_while_does_not_stop_the_heart(
    mine: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    beats: list[float] = []

    def renew(_key: str, moment: float) -> None:
        beats.append(moment)
        if 2 <= len(beats) <= 4:
            raise OSError("the storage is away")

    mine.begin(renew)
    deadline = time.monotonic() + 20
    while len(beats) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    mine.end()
    assert len(beats) >= 6
