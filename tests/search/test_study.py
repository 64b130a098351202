"""A study: what became of each trial, who may close it, and which sweeper is alive."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from conftest import entered
from tinysweep.run.record import RunFolder
from tinysweep.search import study as study_module
from tinysweep.search.storage.database import Database, set_notes
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.storage.patient import PatientStorage
from tinysweep.search.study import (
    EXPIRED_SECONDS,
    HEARTBEAT_SECONDS,
    HEARTBEATS,
    STATES,
    TRAINED,
    Presence,
    Status,
    Study,
    count,
    is_closed,
    kernel,
    reopen_trial,
    status,
)

pytestmark = pytest.mark.usefixtures("quiet_optuna")

Join = Callable[..., Study]


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """Makes a sweeper of the same study, alive until the end of the test."""
    storage, sweepers = InMemoryStorage(), list[Study]()

    def one_more(maximize: Sequence[bool] = (True,), begin: bool = True) -> Study:
        directions = [StudyDirection.MAXIMIZE if more else StudyDirection.MINIMIZE for more in maximize]
        joined = optuna.create_study(study_name="s", storage=storage, directions=directions, load_if_exists=True)
        sweepers.append(Study(joined, tmp_path))
        if begin:
            sweepers[-1].presence.begin()
        return sweepers[-1]

    yield one_more
    for sweeper in sweepers:
        if not sweeper.presence.ended.is_set():
            sweeper.presence.end()


@pytest.fixture
def study(join: Join) -> Study:
    return join()


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


# ---- what became of a trial


@pytest.mark.parametrize(("state", "note", "expected"), [
    (TrialState.RUNNING, None, Status.running), (TrialState.WAITING, None, Status.running),
    (TrialState.RUNNING, "complete", Status.running), (TrialState.COMPLETE, None, Status.complete),
    (TrialState.COMPLETE, "duplicate", Status.duplicate), (TrialState.PRUNED, None, Status.pruned),
    (TrialState.PRUNED, "over_budget", Status.over_budget), (TrialState.FAIL, None, Status.failed),
    (TrialState.FAIL, "interrupted", Status.interrupted), (TrialState.FAIL, "withdrawn", Status.withdrawn),
])  # fmt: skip
def test_a_status_is_what_the_note_says_and_the_state_where_that_says_all(
    state: TrialState, note: str | None, expected: Status
) -> None:
    value = 1.0 if state == TrialState.COMPLETE else None
    assert (
        status(create_trial(state=state, value=value, user_attrs={"standing": note} if note else {})) == expected
    )


@pytest.mark.parametrize("became", [each for each in Status if each != Status.running])
@pytest.mark.parametrize("aims", [1, 2])
def test_a_trial_has_the_status_reason_values_and_notes_that_it_was_closed_with(
    join: Join, became: Status, aims: int
) -> None:
    study = join(maximize=[True, False][:aims])
    number = entered(study)
    assert status(study.trial(number)) == Status.running
    values = [0.5, 100.0][:aims] if became == Status.complete else None
    assert study.close(number, became, "why", values, params=7)
    trial = study.trial(number)
    assert (status(trial), trial.values) == (became, values)
    assert {"reason": "why", "params": 7}.items() <= trial.user_attrs.items()
    assert trial.datetime_complete is not None


def test_the_sampler_learns_from_what_is_over_budget_and_forgets_what_failed() -> None:
    assert STATES[Status.over_budget] == TrialState.PRUNED
    assert not {Status.failed, Status.interrupted, Status.invalid, Status.withdrawn} & set(STATES)


def test_a_repeated_result_counts_for_the_sampler_and_a_repeat_without_one_does_not(study: Study) -> None:
    first, second = entered(study), entered(study)
    study.close(first, Status.duplicate, "as trial 0", [0.25])
    study.close(second, Status.duplicate, "as trial 1, running")
    assert (study.trial(first).state, study.trial(first).values) == (TrialState.COMPLETE, [0.25])
    assert study.trial(second).state == TrialState.FAIL


def test_only_trained_trials_are_counted_as_such_and_no_waiting_one(study: Study) -> None:
    for became in Status:
        number = entered(study)
        if became != Status.running:
            study.close(number, became, values=[1.0] if became == Status.complete else None)
    study.optuna.enqueue_trial({})  # as Optuna's own tools can
    assert count(study.trials(), *TRAINED) == study.count(study.trials(), *TRAINED) == 3
    assert count(study.trials(), Status.running) == 1
    assert count(study.trials(), *Status) == len(Status)


# ---- closing


@pytest.mark.parametrize("database", [False, True], ids=["memory", "database"])
def test_of_those_who_close_a_trial_the_first_wins(tmp_path: Path, database: bool) -> None:
    storage = open_storage(None, tmp_path) if database else InMemoryStorage()
    study = Study(optuna.create_study(storage=storage, direction="maximize"), tmp_path)
    number = entered(study)
    assert study.close(number, Status.complete, values=[0.5], params=7)
    before = study.trial(number)
    for became, values in [(Status.failed, None), (Status.complete, [0.75]), (Status.interrupted, None)]:
        assert not study.close(number, became, "later", values, params=8)
    assert study.trial(number) == before
    assert len(study.trials()) == 1


# ---- asking


STORAGES: dict[str, Callable[[Path], BaseStorage]] = {
    "memory": lambda _: InMemoryStorage(),
    "sqlite": lambda folder: open_storage(None, folder),
    "journal": lambda folder: open_storage(str(folder / "journal.log"), folder),
}
SPACE: dict[str, BaseDistribution] = {
    "width": IntDistribution(1, 64),
    "lr": FloatDistribution(0.01, 1, log=True),
    "depth": CategoricalDistribution(("[1,2]", "[2,2]")),
}


@pytest.mark.parametrize("kind", STORAGES)
def test_a_trial_that_is_asked_for_is_signed_from_the_first_moment(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = STORAGES[kind](tmp_path)
    study = Study(optuna.create_study(storage=storage), tmp_path)
    seen: list[Any] = []
    real = type(storage).create_new_trial

    def create(self: BaseStorage, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        made = real(self, study_id, template_trial)
        seen.append([trial.user_attrs["sweeper"] for trial in study.trials()])
        return made

    monkeypatch.setattr(type(storage), "create_new_trial", create)
    assert [study.ask().number, study.ask({"width": 3}).number] == [0, 1]
    token = study.presence.token
    assert seen == [[token], [token] * 2]
    assert {trial.state for trial in study.trials()} == {TrialState.RUNNING}


def test_a_trial_that_another_has_enqueued_is_signed_by_who_takes_it(study: Study) -> None:
    study.optuna.enqueue_trial({"width": 5}, user_attrs={"sweeper": "other"})
    trial = study.ask()
    assert trial.suggest_int("width", 1, 64) == 5
    assert [each.user_attrs["sweeper"] for each in study.trials()] == [study.presence.token]


def test_what_is_given_is_not_drawn(study: Study) -> None:
    trial = study.ask({"width": 5, "depth": "[2,2]"})
    assert trial.suggest_int("width", 1, 64) == 5
    assert trial.suggest_categorical("depth", ("[1,2]", "[2,2]")) == "[2,2]"
    assert 0.01 <= trial.suggest_float("lr", 0.01, 1) <= 1


@pytest.mark.parametrize("make", [
    lambda: optuna.samplers.RandomSampler(seed=0),
    lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=3, multivariate=True, constant_liar=True),
    lambda: optuna.samplers.NSGAIISampler(seed=0, population_size=4),
], ids=["random", "tpe", "nsgaii"])  # fmt: skip
def test_a_sampler_draws_as_it_draws_for_optunas_own_loop(tmp_path: Path, make: Callable[[], BaseSampler]) -> None:
    draws = []
    for ours in (True, False):
        study = Study(optuna.create_study(storage=InMemoryStorage(), sampler=make()), tmp_path)
        for _ in range(12):
            trial = study.ask() if ours else study.optuna.ask()
            for name, kind in SPACE.items():
                trial._suggest(name, kind)
            study.optuna.tell(trial, trial.params["width"] * trial.params["lr"])
        draws.append([trial.params for trial in study.trials()])
    assert draws[0] == draws[1]


def test_a_trial_of_another_process_can_be_written_to_until_it_is_closed(tmp_path: Path) -> None:
    """By a private interface of Optuna's; if it moves, this fails first."""
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(study_name="s", storage=storage)
    study.ask()
    asked = study.ask()
    again = reopen_trial(optuna.load_study(study_name="s", storage=open_storage(None, tmp_path)), asked.number)
    again.set_user_attr("note", 1)
    again.report(0.5, 1)
    assert not is_closed(again)
    study.tell(asked, 0.5)
    assert is_closed(again)
    (_, trial) = study.get_trials()
    assert (trial.user_attrs, trial.intermediate_values) == ({"note": 1}, {1: 0.5})


# ---- whose trial it is


def test_the_trials_of_a_living_sweeper_are_attended_and_those_of_one_that_ended_abandoned(join: Join) -> None:
    one, other = join(), join()
    mine, others = entered(one), entered(other)
    assert [numbers(sweeper.abandoned_trials()) for sweeper in (one, other)] == [[], []]
    assert one.presence.other_sweepers() == [other.presence.token]
    other.presence.end()
    assert numbers(one.abandoned_trials()) == [others]
    assert one.is_attended(one.trial(mine))
    assert one.presence.other_sweepers() == []


def test_finished_and_waiting_trials_are_never_abandoned(join: Join) -> None:
    one, other = join(), join()
    for became in (Status.complete, Status.pruned, Status.failed, Status.interrupted):
        other.close(entered(other), became, values=[1.0] if became == Status.complete else None)
    other.optuna.enqueue_trial({})
    other.presence.end()
    assert one.abandoned_trials() == []


def test_a_trial_that_no_sweeper_has_signed_is_nobodys(study: Study) -> None:
    assert numbers(study.abandoned_trials()) == [] != [study.optuna.ask().number]
    assert numbers(study.abandoned_trials()) == [0]


def test_what_a_sweeper_releases_is_interrupted_and_what_others_train_goes_on(join: Join) -> None:
    one, other = join(), join()
    mine, others = entered(one), entered(other)
    one.release("stopped")
    assert [status(one.trial(number)) for number in (mine, others)] == [Status.interrupted, Status.running]


# ---- which sweeper is alive


HOLDER = """
import optuna, sys; from pathlib import Path
from tinysweep.search.storage.opening import open_storage; from tinysweep.search.study import Study
folder = Path(sys.argv[1])
study = Study(optuna.load_study(study_name="s", storage=open_storage(None, folder)), folder)
study.presence.begin(); study.ask(); print(study.presence.token, flush=True)
sys.stdin.read(); study.presence.end()
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [True, False])
def test_a_sweeper_of_another_process_is_dead_as_soon_as_it_ends_or_is_killed(
    tmp_path: Path, killed: bool
) -> None:
    joined = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    study = Study(joined, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        token = process.stdout.readline().strip()
        assert study.presence.is_alive(token)
        assert study.abandoned_trials() == []
        if killed:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    for _ in range(3):  # to ask must not change the answer
        assert not study.presence.is_alive(token)
        assert numbers(study.abandoned_trials()) == [0]
    assert joined.user_attrs[HEARTBEATS].keys() == ({token} if killed else set())


def test_a_sweeper_that_sees_no_lock_of_another_goes_by_its_heartbeat(join: Join) -> None:
    one, other = join(), join()
    for folder in (one.presence.folder, Path("nowhere")):  # a killed one's lock file may be there
        one.presence.folder = folder
        for lock in ("elsewhere.1", "elsewhere.2"):
            (other.presence.folder / f"{lock}.lock").touch()
        beats = {
            "elsewhere.1": time.time() - EXPIRED_SECONDS + 5,
            "elsewhere.2": time.time() - EXPIRED_SECONDS - 5,
        }
        one.optuna.set_user_attr(HEARTBEATS, beats)
        assert one.presence.other_sweepers() == ["elsewhere.1"]
    assert not one.presence.is_alive("unknown")


def test_a_lock_counts_only_for_those_who_share_the_kernel_that_holds_it(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = join(), join()
    beats = one.optuna.user_attrs[HEARTBEATS]
    one.optuna.set_user_attr(HEARTBEATS, dict.fromkeys(beats, 0.0))
    assert one.presence.is_alive(other.presence.token), "whatever a late heartbeat says"
    monkeypatch.setattr(study_module, "kernel", lambda: "elsewhere")
    assert not one.presence.is_alive(other.presence.token)
    one.optuna.set_user_attr(HEARTBEATS, beats)
    assert one.presence.is_alive(other.presence.token)


def test_who_begins_removes_what_surely_belongs_to_no_living_sweeper(join: Join) -> None:
    one, late = join(), join(begin=False)
    folder, now, long_ago = one.presence.folder, time.time(), time.time() - EXPIRED_SECONDS - 5
    killed = f"{kernel()}.killed"
    beats = {killed: now, "elsewhere.seen": now, "elsewhere.expired": long_ago}
    one.optuna.set_user_attr(HEARTBEATS, one.optuna.user_attrs[HEARTBEATS] | beats)
    for token, made in [*beats.items(), ("elsewhere.begins", now), ("elsewhere.unknown", long_ago)]:
        (folder / f"{token}.lock").touch()
        os.utime(folder / f"{token}.lock", (made, made))
    os.utime(folder / "elsewhere.seen.lock", (long_ago, long_ago))
    (folder / "asking.lock").touch()
    assert len(list(folder.iterdir())) == 7
    late.presence.begin()
    living = {one.presence.token, late.presence.token, "elsewhere.seen"}
    assert set(one.optuna.user_attrs[HEARTBEATS]) == living
    assert {file.stem for file in folder.iterdir()} == living | {"elsewhere.begins", "asking"}
    assert not late.presence.is_alive(killed)


def test_folders_in_which_nothing_was_begun_go_once_their_trials_are_closed(join: Join) -> None:
    study = join()
    names = ("empty", "locked", "begun", "held", "running", "none")
    folders = {name: study.trial_folder(entered(study)) for name in names}
    for number, (name, folder) in enumerate(folders.items()):
        if name != "none":
            folder.mkdir(parents=True)
        if name != "running":
            study.close(number, Status.interrupted, "its sweeper died")
    (folders["begun"] / "config.yaml").touch()
    for name in ("locked", "begun"):
        (folders[name] / ".running.lock").touch()
    with RunFolder(folders["held"]).hold():
        study.clear()
        assert [name for name, folder in folders.items() if folder.exists()] == ["begun", "held", "running"]
    assert [file.name for file in folders["begun"].iterdir()] == ["config.yaml"]


def test_the_kernel_is_the_same_for_all_processes_of_a_machine() -> None:
    program = "from tinysweep.search.study import kernel; print(kernel())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kernel() != ""


def test_a_heartbeat_or_two_may_fail_before_a_sweeper_counts_as_dead() -> None:
    assert 3 * HEARTBEAT_SECONDS < EXPIRED_SECONDS


def test_a_heart_beats_until_the_end_and_a_storage_that_is_away_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(study_module, "HEARTBEAT_SECONDS", 0.01)
    presence = Presence(optuna.create_study(), tmp_path)
    presence.study.set_user_attr(HEARTBEATS, {"killed long ago": 0.0, "other": time.time()})
    beats: list[float] = []
    real = presence.study.set_user_attr

    def note(key: str, seen: dict[str, float]) -> None:
        beats.append(seen.get(presence.token, -1))
        if 2 <= len(beats) <= 4:
            raise OSError("no route to host\nand more")
        real(key, seen)

    monkeypatch.setattr(presence.study, "set_user_attr", note)
    presence.begin()
    assert len(beats) >= 1, "it must be seen before anything else is done"
    deadline = time.monotonic() + 20
    while len(beats) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert presence.study.user_attrs[HEARTBEATS].keys() == {presence.token, "other"}
    presence.end()
    assert presence.study.user_attrs[HEARTBEATS].keys() == {"other"}, "keys of sweepers that ended are gone"
    assert list(presence.folder.iterdir()) == []
    assert beats[:-1] == sorted(beats[:-1])
    (warning,) = caplog.messages
    assert "can't be told that this sweep is alive (no route to host); after 3 minutes other sweeps" in warning


def test_a_sweeper_that_ends_while_the_storage_fails_is_seen_to_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimized = optuna.create_study()
    ending, other = Presence(optimized, tmp_path), Presence(optimized, tmp_path)
    ending.begin()
    assert other.is_alive(ending.token)

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(optimized, "set_user_attr", fail)
        with pytest.raises(OSError, match="full"):
            ending.end()
    assert not other.is_alive(ending.token), "though its last heartbeat is recent"


# ---- many trials at work


def test_what_another_process_adds_to_an_unfinished_trial_is_seen_and_what_stays_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = open_storage(None, tmp_path), open_storage(None, tmp_path)
    study = optuna.create_study(study_name="s", storage=ours)
    other = optuna.load_study(study_name="s", storage=theirs)
    trials = [study.ask() for _ in range(3)]
    assert isinstance(ours, PatientStorage)
    database = ours.storage
    assert isinstance(database, Database)
    built: list[int] = []
    real = type(database._backend)._build_frozen_trial_from_trial_model

    def build(self: RDBStorage, trial: Any) -> FrozenTrial:
        built.append(trial.number)
        return real(self, trial)

    study.get_trials(deepcopy=False)
    monkeypatch.setattr(RDBStorage, "_build_frozen_trial_from_trial_model", build)
    study.get_trials(deepcopy=False)
    assert built == []
    theirs.set_trial_user_attr(trials[1]._trial_id, "key", "k")
    assert study.get_trials(deepcopy=False)[1].user_attrs == {"key": "k"}
    theirs.set_trial_intermediate_value(trials[1]._trial_id, 1, 0.5)
    assert study.get_trials(deepcopy=False)[1].intermediate_values == {1: 0.5}
    assert set(built) == {1}
    other.tell(2, 1.0)
    other.ask()
    seen = study.get_trials(deepcopy=False)
    assert [trial.state for trial in seen] == [trial.state for trial in other.get_trials()]
    assert seen[2].values == [1.0]
    assert len(seen) == 4


def test_notes_set_at_once_replace_earlier_ones_and_a_closed_trial_takes_none(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()
    set_notes(storage, trial._trial_id, {"a": 1, "b": [2]})
    set_notes(storage, trial._trial_id, {"b": None, "c": "x"})
    assert study.trials[0].user_attrs == {"a": 1, "b": None, "c": "x"}
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        set_notes(storage, trial._trial_id, {"d": 1})


def test_a_ledger_counts_as_a_pass_over_all_trials_does(study: Study) -> None:
    for number, became in enumerate([*Status, *Status]):
        study.ask()
        if became != Status.running:
            values = [0.5] if became == Status.complete else None
            study.close(number, became, None, values, key=f"k{number % len(Status)}")
        trials = study.trials()
        ledger = study.ledger(trials)
        assert ledger.counts == Counter(map(status, trials)) - Counter({Status.running: len(trials)})
        assert ledger.trained == study.count(trials, *TRAINED)
        assert numbers(ledger.open) == [trial.number for trial in trials if status(trial) == Status.running]
        assert numbers(ledger.of_key("k1")) == [t.number for t in trials if t.user_attrs.get("key") == "k1"]
    study.close(0, Status.failed)
    assert study.ledger(study.trials()).counts[Status.failed] == 3
