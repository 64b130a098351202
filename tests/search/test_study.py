"""A study: what became of each trial, who may close it, and storages whose failures are one line."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import optuna
import pytest
import sqlalchemy.exc
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from conftest import entered, loaded
from tinysweep.errors import StudyError
from tinysweep.search.compose_trial import Composer, identity
from tinysweep.search.lease import EXPIRED_SECONDS, LEASE_PREFIX, Lease
from tinysweep.search.ledger import Ledger
from tinysweep.search.propose import Proposal, Proposer, Refusal, suggest
from tinysweep.search.space import Points, Space, Value
from tinysweep.search.storage import open_storage, storage_errors
from tinysweep.search.study import (
    STATES,
    TRAINED,
    Status,
    Study,
    count,
    status,
)
from tinysweep.settings.compose import CONFIG_FOLDER, register_schema

pytestmark = pytest.mark.usefixtures("quiet_optuna")


Join = Callable[..., Study]


@pytest.fixture
def storage() -> BaseStorage:
    return InMemoryStorage()


@pytest.fixture
def join(tmp_path: Path, storage: BaseStorage) -> Iterator[Join]:
    """Makes a sweeper of the same study, alive until the end of the test."""
    leases: list[Lease] = []

    def one_more(maximize: Sequence[bool] = (True,)) -> Study:
        directions = [StudyDirection.MAXIMIZE if more else StudyDirection.MINIMIZE for more in maximize]
        joined = optuna.create_study(study_name="s", storage=storage, directions=directions, load_if_exists=True)
        study = Study(joined, tmp_path, Lease(tmp_path))
        study.lease.begin(study.optuna.set_user_attr)
        leases.append(study.lease)
        return study

    yield one_more
    for lease in leases:
        lease.end()


@pytest.fixture
def study(join: Join) -> Study:
    return join()


def attributes(study: Study, number: int) -> dict[str, Any]:
    return study.trial(number).user_attrs


# ---- what became of a trial


@pytest.mark.parametrize(
    ("state", "note", "expected"),
    [
        (TrialState.RUNNING, None, Status.running),
        (TrialState.WAITING, None, Status.running),
        (TrialState.RUNNING, "complete", Status.running),
        (TrialState.COMPLETE, None, Status.complete),
        (TrialState.COMPLETE, "duplicate", Status.duplicate),
        (TrialState.PRUNED, None, Status.pruned),
        (TrialState.PRUNED, "over_budget", Status.over_budget),
        (TrialState.FAIL, None, Status.failed),
        (TrialState.FAIL, "interrupted", Status.interrupted),
        (TrialState.FAIL, "invalid", Status.invalid),
        (TrialState.FAIL, "duplicate", Status.duplicate),
        (TrialState.FAIL, "withdrawn", Status.withdrawn),
    ],
)
def test_a_trial_stands_as_its_note_says_and_by_its_state_where_that_says_all(
    state: TrialState, note: str | None, expected: Status
) -> None:
    value = 1.0 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, user_attrs={"standing": note} if note else {})
    assert status(trial) == expected


@pytest.mark.parametrize("became", [status for status in Status if status != Status.running])
def test_a_trial_closed_by_a_sweeper_stands_as_it_was_closed(study: Study, became: Status) -> None:
    number = entered(study)
    assert status(study.trial(number)) == Status.running
    assert study.close(number, became, "why", [0.5] if became == Status.complete else None, params=7)
    assert status(study.trial(number)) == became
    assert attributes(study, number)["reason"] == "why"
    assert attributes(study, number)["params"] == 7
    assert study.trial(number).datetime_complete is not None


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
    assert count(study.trials(), *TRAINED) == 3
    assert count(study.trials(), Status.running) == 1
    assert count(study.trials(), *Status) == len(Status)
    assert count(study.trials()) == 0


# ---- closing


@pytest.mark.parametrize("database", [False, True], ids=["memory", "database"])
def test_a_trial_is_closed_once_and_keeps_what_it_was_closed_with(tmp_path: Path, database: bool) -> None:
    storage = open_storage(None, tmp_path) if database else InMemoryStorage()
    study = Study(optuna.create_study(storage=storage, direction="maximize"), tmp_path, Lease(tmp_path))
    number = entered(study)
    assert study.close(number, Status.complete, values=[0.5], params=7)
    before = study.trial(number)
    for became, values in [(Status.failed, None), (Status.complete, [0.75]), (Status.interrupted, None)]:
        assert not study.close(number, became, "later", values, params=8)
    assert study.trial(number) == before
    assert len(study.trials()) == 1


def test_of_sweepers_that_close_a_trial_one_after_the_other_the_first_wins(join: Join) -> None:
    one, other = join(), join()
    number = entered(one)
    assert other.close(number, Status.interrupted, "its sweeper died")
    assert not one.close(number, Status.complete, values=[1.0])
    assert status(one.trial(number)) == status(other.trial(number)) == Status.interrupted


def test_a_trial_with_several_objectives_keeps_all_of_its_values(join: Join) -> None:
    study = join(maximize=(True, False))
    number = entered(study)
    study.close(number, Status.complete, values=[0.5, 100.0])
    assert study.trial(number).values == [0.5, 100.0]
    for became in (Status.pruned, Status.over_budget, Status.failed):
        number = entered(study)
        assert study.close(number, became, "why")
        assert status(study.trial(number)) == became


# ---- whose trial it is


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def test_the_trials_of_a_living_sweeper_are_attended_and_those_of_a_dead_one_abandoned(join: Join) -> None:
    one, other = join(), join()
    mine, others = entered(one), entered(other)
    assert [numbers(sweeper.abandoned()) for sweeper in (one, other)] == [[], []]
    other.lease.end()
    assert numbers(one.abandoned()) == [others]
    assert one.is_attended(one.trial(mine))


def test_a_killed_sweepers_trial_is_abandoned_at_once(tmp_path: Path) -> None:
    program = (
        "import optuna, sys; from pathlib import Path; from tinysweep.search.lease import Lease; "
        "from tinysweep.search.storage import open_storage; from tinysweep.search.study import Study; "
        "folder = Path(sys.argv[1]); "
        "joined = optuna.create_study(study_name='s', storage=open_storage(None, folder)); "
        "study = Study(joined, folder, Lease(folder)); study.lease.begin(joined.set_user_attr); "
        "study.draft([]); print(study.enter().number, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "0\n"
        joined = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
        study = Study(joined, tmp_path, Lease(tmp_path))
        assert study.abandoned() == []
        process.kill()
        process.wait()
        assert numbers(study.abandoned()) == [0]
        assert study.abandoned() != [], "to look changes nothing"


def test_finished_and_waiting_trials_are_never_abandoned(join: Join) -> None:
    one, other = join(), join()
    for became in (Status.complete, Status.pruned, Status.failed, Status.interrupted):
        other.close(entered(other), became, values=[1.0] if became == Status.complete else None)
    other.optuna.enqueue_trial({})
    other.lease.end()
    assert one.abandoned() == []


def test_a_sweeper_on_another_machine_attends_its_trials_while_its_heart_beats(study: Study) -> None:
    trial = study.optuna.ask()
    trial.set_user_attr("sweeper", "elsewhere")
    study.optuna.set_user_attr(f"{LEASE_PREFIX}elsewhere", time.time() - EXPIRED_SECONDS / 2)
    assert study.abandoned() == []
    study.optuna.set_user_attr(f"{LEASE_PREFIX}elsewhere", time.time() - 2 * EXPIRED_SECONDS)
    assert numbers(study.abandoned()) == [trial.number]


def test_a_trial_that_no_sweeper_has_signed_is_nobodys(study: Study) -> None:
    trial = study.optuna.ask()
    assert numbers(study.abandoned()) == [trial.number]


# ---- the same configuration at once


def composer() -> Composer:
    register_schema()
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        loader = GlobalHydra.instance().config_loader()
        made = Composer(
            loader, loader.load_configuration("config", overrides=[], run_mode=RunMode.MULTIRUN), ["model.width=4"]
        )
    made.base({})  # composed once, as Hydra isn't made for threads
    return made


@pytest.fixture(scope="module")
def composed() -> Composer:
    return composer()


def test_of_sweepers_that_come_to_the_same_configuration_at_once_exactly_one_trains_it(
    tmp_path: Path, composed: Composer
) -> None:
    sweepers = 4
    optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    barrier = threading.Barrier(sweepers)

    def propose(_: int) -> Proposal | Refusal:
        joined = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
        study = Study(joined, tmp_path, Lease(tmp_path))
        study.lease.begin(joined.set_user_attr)
        barrier.wait(timeout=30)
        answer = Proposer(study, Space(), composed, Ledger(), None).propose()
        barrier.wait(timeout=30)  # the others must not take this sweeper for dead
        study.lease.end()
        return answer

    with ThreadPoolExecutor(sweepers) as pool:
        answers = list(pool.map(propose, range(sweepers)))
    trained = [answer for answer in answers if isinstance(answer, Proposal)]
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert [answer.number for answer in trained] == [0], "the lowest number wins"
    assert {(answer.became, answer.reason) for answer in refused} == {
        (Status.duplicate, "same configuration as trial 0, running")
    }
    trials = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path)).trials
    assert count(trials, Status.running) == 1
    assert count(trials, Status.duplicate) == sweepers - 1


@pytest.mark.parametrize(
    ("became", "values"),
    [(Status.complete, [0.5]), (Status.pruned, None), (Status.failed, None), (Status.interrupted, None)],
)
def test_a_configuration_that_was_trained_is_not_trained_again_and_its_result_is_reused(
    study: Study, composed: Composer, became: Status, values: list[float] | None
) -> None:
    proposer = Proposer(study, Space(), composed, Ledger(), None)
    first = proposer.propose()
    assert isinstance(first, Proposal)
    study.close(first.number, became, "why", values)
    proposer.refresh()
    second = proposer.propose()
    if became == Status.interrupted:
        assert isinstance(second, Proposal), "it has no result"
    else:
        assert isinstance(second, Refusal)
        assert second.reason == f"same configuration as trial 0, {became.value}"
        assert status(study.trial(second.number)) == Status.duplicate
        assert study.trial(second.number).values == values


def test_sweepers_together_take_no_more_trials_than_are_asked_for(join: Join, composed: Composer) -> None:
    one, other = join(), join()
    space = Space({"trainer.seed": IntDistribution(0, 10**6)})
    answers = [
        Proposer(sweeper, space, composed, Ledger(), 3).propose() for sweeper in (one, other, one, other, one)
    ]
    assert [type(answer) for answer in answers] == [Proposal, Proposal, Proposal, Refusal, Refusal]
    assert {answer.became for answer in answers if isinstance(answer, Refusal)} == {Status.withdrawn}
    other.close(1, Status.interrupted, "stopped")
    assert isinstance(Proposer(other, space, composed, Ledger(), 3).propose(), Proposal), "the place is free again"


def test_what_has_no_images_to_be_judged_by_is_not_proposed(study: Study) -> None:
    unjudged = Composer(*loaded(), ["data.validation=${trainer.clean_epochs}"])
    space = Space({"trainer.clean_epochs": CategoricalDistribution([0])})
    answer = Proposer(study, space, unjudged, Ledger(), None).propose()
    assert isinstance(answer, Refusal)
    assert (answer.became, answer.reason[:17]) == (Status.invalid, "data.validation=0")


# ---- what was cut short


@pytest.fixture
def drawn() -> Space:
    return Space({"trainer.seed": IntDistribution(0, 10**6), "optimizer.lr": FloatDistribution(0.01, 1)})


def propose(proposer: Proposer) -> Proposal:
    proposer.refresh()
    answer = proposer.propose()
    assert isinstance(answer, Proposal)
    return answer


@pytest.mark.parametrize("same", [True, False], ids=["same sweeper", "another"])
def test_an_interrupted_trial_is_proposed_again_once(
    join: Join, composed: Composer, drawn: Space, same: bool
) -> None:
    one, other = join(), join()
    proposer = Proposer(one, drawn, composed, Ledger(), None)
    first = propose(proposer)
    one.close(first.number, Status.interrupted, "stopped", epochs=2)
    if not same:
        proposer = Proposer(other, drawn, composed, Ledger(), None)
    again, next_one = propose(proposer), propose(proposer)
    assert again.number != first.number
    assert again.overrides == first.overrides
    assert identity(again.config) == identity(first.config)
    assert next_one.overrides != first.overrides
    assert attributes(one, first.number)["epochs"] == 2, "what it had found is kept"


def test_what_is_interrupted_twice_is_proposed_a_third_time(join: Join, composed: Composer, drawn: Space) -> None:
    studies = [join(), join(), join()]
    proposers = [Proposer(study, drawn, composed, Ledger(), None) for study in studies]
    answers = []
    for study, proposer in zip(studies, proposers, strict=True):
        answers.append(propose(proposer))
        study.close(answers[-1].number, Status.interrupted, "stopped")
    assert answers[0].overrides == answers[1].overrides == answers[2].overrides


def test_what_another_sweeper_has_taken_up_again_is_left_to_it(
    join: Join, composed: Composer, drawn: Space
) -> None:
    one, other = (Proposer(join(), drawn, composed, Ledger(), None) for _ in range(2))
    first = propose(one)
    one.study.close(first.number, Status.interrupted, "stopped")
    again = propose(other)
    assert again.overrides == first.overrides
    assert propose(one).overrides != first.overrides
    other.study.close(again.number, Status.complete, values=[0.5])
    assert propose(one).overrides != first.overrides


def test_what_had_not_passed_the_gate_is_not_proposed_again(
    study: Study, composed: Composer, drawn: Space
) -> None:
    trial = study.draft(study.trials(), {"trainer.seed": 1, "optimizer.lr": 0.5})
    for name, distribution in drawn.searched.items():
        suggest(trial, name, distribution)
    study.enter(Status.interrupted, "stopped")
    assert propose(Proposer(study, drawn, composed, Ledger(), None)).config.trainer.seed != 1


def test_start_points_come_first_once_in_a_study_with_the_rest_drawn(
    join: Join, composed: Composer, drawn: Space
) -> None:
    start: list[dict[str, Value]] = [{"trainer.seed": 3, "optimizer.lr": 0.5}, {"trainer.seed": 4}]
    one, other = (Proposer(join(), drawn, composed, Ledger(), None, start=start) for _ in range(2))
    first, second = propose(one), propose(other)
    assert first.overrides == ["trainer.seed=3", "optimizer.lr=0.5"]
    assert second.config.trainer.seed == 4
    assert 0.01 <= second.config.optimizer.lr <= 1
    drawn_later = {propose(proposer).config.trainer.seed for proposer in (one, other)}
    assert not drawn_later & {3, 4}


def test_an_interrupted_start_point_is_taken_up_again_and_not_started_again(
    join: Join, composed: Composer, drawn: Space
) -> None:
    start: list[dict[str, Value]] = [{"trainer.seed": 3, "optimizer.lr": 0.5}]
    one, other = (Proposer(join(), drawn, composed, Ledger(), None, start=start) for _ in range(2))
    first = propose(one)
    one.study.close(first.number, Status.interrupted, "stopped")
    assert propose(other).overrides == first.overrides
    assert propose(other).overrides != first.overrides


def test_the_points_of_a_grid_are_given_in_their_order_and_an_interrupted_one_again(
    study: Study, composed: Composer, drawn: Space
) -> None:
    points: list[dict[str, Value]] = [{"trainer.seed": seed, "optimizer.lr": 0.5} for seed in (7, 3)]
    proposer = Proposer(study, drawn, composed, Ledger(), None, grid=Points(points))
    first = propose(proposer)
    assert first.config.trainer.seed == 7
    study.close(first.number, Status.interrupted, "stopped")
    assert [propose(proposer).config.trainer.seed for _ in points] == [7, 3]


# ---- storages


def set_and_get(storage: BaseStorage) -> object:
    study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    study.set_user_attr("key", {"text": "é", "number": 1.5})
    return optuna.load_study(study_name="s", storage=storage).user_attrs["key"]


def test_without_a_storage_a_study_lies_in_its_folder_and_readers_do_not_block_writers(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    assert isinstance(storage, RDBStorage)
    assert set_and_get(storage) == {"text": "é", "number": 1.5}
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with storage.engine.connect() as ours:
        assert ours.exec_driver_sql("PRAGMA synchronous").scalar() == 1, "NORMAL"


@pytest.mark.parametrize("name", ["a b,c", "ü=#'"])
def test_a_study_lies_in_its_folder_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    set_and_get(open_storage(None, tmp_path / name))
    assert (tmp_path / name / "study.db").stat().st_size > 0


def test_a_database_may_be_given_by_its_url(tmp_path: Path) -> None:
    set_and_get(open_storage(f"sqlite:///{tmp_path / 'elsewhere.db'}", tmp_path))
    assert (tmp_path / "elsewhere.db").exists()
    assert not (tmp_path / "study.db").exists()


def test_a_path_is_an_optuna_journal_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    storage = open_storage("folder/journal.log", tmp_path / "unused")
    assert isinstance(storage, JournalStorage)
    assert set_and_get(storage) == {"text": "é", "number": 1.5}
    monkeypatch.chdir("/")
    assert set_and_get(storage), "as a job does, which may run in another folder"
    assert (tmp_path / "folder" / "journal.log").read_text().count("\n") >= 2


def test_a_storage_that_fails_when_it_is_opened_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\0" + b"and then nothing that is one " * 500)
    with pytest.raises(StudyError) as caught, storage_errors("here"):
        set_and_get(open_storage(None, tmp_path))
    message = str(caught.value)
    assert message.startswith("the study's storage here failed: ")
    assert "the same command goes on" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        sqlalchemy.exc.OperationalError("SELECT 1", None, Exception("database is locked\nby another")),
        optuna.exceptions.StorageInternalError("deadlock\nagain"),
        OSError(28, "No space left on device"),
    ],
)
def test_whatever_a_storage_raises_is_one_line(error: Exception) -> None:
    with pytest.raises(StudyError) as caught, storage_errors("here"):
        raise error
    message = str(caught.value)
    assert any(words in message for words in ("database is locked", "deadlock", "No space left on device"))
    assert "\n" not in message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("x"), StudyError("x"), KeyboardInterrupt()])
def test_what_is_not_the_storages_fault_passes_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, storage_errors("here"):
        raise error
    assert caught.value is error


def test_a_trial_is_signed(study: Study) -> None:
    number = entered(study)
    assert attributes(study, number)["sweeper"] == study.lease.token
    assert study.trial_folder(number) == study.folder / "trials" / "0"
