"""Proposals: what is tried next, what is refused, and whose a configuration is that several come to at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from conftest import loaded
from tinysweep.search.compose_trial import Composer, identity
from tinysweep.search.propose import Proposal, Proposer, Refusal
from tinysweep.search.space import Points, Space, Value
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import Status, Study, count, status

pytestmark = pytest.mark.usefixtures("quiet_optuna")

Join = Callable[[], Study]
ONE = Space()
DRAWN = Space({"trainer.seed": IntDistribution(0, 10**6), "optimizer.lr": FloatDistribution(0.01, 1)})


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """Makes a sweeper of the same study, alive until the end of the test."""
    storage, sweepers = InMemoryStorage(), list[Study]()

    def one_more() -> Study:
        joined = optuna.create_study(study_name="s", storage=storage, direction="maximize", load_if_exists=True)
        sweepers.append(Study(joined, tmp_path))
        sweepers[-1].presence.begin()
        return sweepers[-1]

    yield one_more
    for sweeper in sweepers:
        sweeper.presence.end()


@pytest.fixture
def study(join: Join) -> Study:
    return join()


@pytest.fixture(scope="module")
def composer() -> Composer:
    made = Composer(*loaded(), ["model.width=4"])
    made.base({})  # composed once, as Hydra isn't made for threads
    return made


def propose(proposer: Proposer) -> Proposal:
    answer = proposer.propose()
    assert isinstance(answer, Proposal)
    return answer


# ---- the gate


def test_what_is_over_the_budget_is_closed_with_its_cost_and_a_constraint_that_the_sampler_learns_from(
    study: Study,
) -> None:
    composer = Composer(*loaded(), ["budget.macs=100000000"])
    space = Space({"model.width": CategoricalDistribution([60])})
    refusal = Proposer(study, space, composer, None).propose()
    assert isinstance(refusal, Refusal)
    trial = study.trial(refusal.number)
    assert refusal.became == status(trial) == Status.over_budget
    cost = trial.user_attrs["params"]
    assert refusal.params == cost > 20_000
    assert trial.state == TrialState.PRUNED
    assert trial.params == {"model.width": 60}
    assert trial.constraints["params"] == (cost - 19_999) / 19_999
    assert trial.constraints["macs"] < 0
    assert "key" not in trial.user_attrs, "so it is never taken for one that is being trained"


def test_other_bounds_and_rules_between_settings_are_gates_too(study: Study) -> None:
    composer = Composer(*loaded(), ["budget.macs=100000", "model=residual"])
    space = Space({"model.padding": CategoricalDistribution([True, False]), "model.width": IntDistribution(4, 5)})
    proposer = Proposer(study, space, composer, None)
    over = proposer.propose({"model.padding": True, "model.width": 4})
    broken = proposer.propose({"model.padding": False, "model.width": 5})
    assert isinstance(over, Refusal)
    assert isinstance(broken, Refusal)
    assert (over.became, broken.became) == (Status.over_budget, Status.invalid)
    assert "budget.macs=100000" in over.reason
    assert "model.padding" in broken.reason
    assert study.trial(over.number).constraints["macs"] > 0 > study.trial(over.number).constraints["params"]


def test_what_may_be_trained_is_running_with_its_key_cost_and_seed(study: Study, composer: Composer) -> None:
    proposal = propose(Proposer(study, DRAWN, composer, None))
    trial = study.trial(proposal.number)
    assert status(trial) == Status.running
    assert trial.user_attrs.keys() == {"sweeper", "key", "params", "macs", "activation_bytes", "seed"}
    assert trial.user_attrs["seed"] == proposal.config.trainer.seed
    assert trial.constraints["params"] <= 0


def test_what_has_no_images_to_be_judged_by_is_not_proposed(study: Study) -> None:
    unjudged = Composer(*loaded(), ["data.validation=${trainer.clean_epochs}"])
    space = Space({"trainer.clean_epochs": CategoricalDistribution([0])})
    answer = Proposer(study, space, unjudged, None).propose()
    assert isinstance(answer, Refusal)
    assert (answer.became, answer.reason[:17]) == (Status.invalid, "data.validation=0")


# ---- a configuration is trained once


@pytest.mark.parametrize("kind", ["study.db", "journal.log"])
def test_of_sweepers_that_come_to_the_same_configuration_at_once_exactly_one_trains_it(
    tmp_path: Path, composer: Composer, kind: str
) -> None:
    sweepers, storage = 4, str(tmp_path / kind)
    optuna.create_study(study_name="s", storage=open_storage(storage, tmp_path))
    barrier = threading.Barrier(sweepers)

    def one(_: int) -> Proposal | Refusal:
        study = Study(optuna.load_study(study_name="s", storage=open_storage(storage, tmp_path)), tmp_path)
        study.presence.begin()
        barrier.wait(timeout=30)
        answer = Proposer(study, ONE, composer, None).propose()
        barrier.wait(timeout=30)  # the others must not take this sweeper for dead
        study.presence.end()
        return answer

    with ThreadPoolExecutor(sweepers) as pool:
        answers = list(pool.map(one, range(sweepers)))
    refused = {(answer.became, answer.reason) for answer in answers if isinstance(answer, Refusal)}
    assert [answer.number for answer in answers if isinstance(answer, Proposal)] == [0], "the lowest number wins"
    assert refused == {(Status.duplicate, "same configuration as trial 0, running")}
    trials = optuna.load_study(study_name="s", storage=open_storage(storage, tmp_path)).trials
    assert (count(trials, Status.running), count(trials, Status.duplicate)) == (1, sweepers - 1)


def test_a_proposal_waits_for_an_earlier_one_whose_sweeper_lives_and_for_no_other(
    join: Join, composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, later = join(), join()
    earlier.optuna.ask()  # by nobody
    undecided = earlier.ask()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        earlier.close(undecided.number, Status.over_budget, "too large")

    monkeypatch.setattr("tinysweep.search.propose.time.sleep", sleep)
    assert isinstance(Proposer(later, ONE, composer, 1).propose(), Proposal)
    assert len(waited) == 1


@pytest.mark.parametrize(
    ("became", "values"),
    [(Status.complete, [0.5]), (Status.pruned, None), (Status.failed, None), (Status.interrupted, None)],
)
def test_a_configuration_that_was_trained_is_not_trained_again_and_its_result_is_reused(
    study: Study, composer: Composer, became: Status, values: list[float] | None
) -> None:
    proposer = Proposer(study, ONE, composer, None)
    study.close(propose(proposer).number, became, "why", values)
    second = proposer.propose()
    if became == Status.interrupted:
        assert isinstance(second, Proposal), "it has no result"
    else:
        assert isinstance(second, Refusal)
        assert second.reason == f"same configuration as trial 0, {became.value}"
        assert status(study.trial(second.number)) == Status.duplicate
        assert study.trial(second.number).values == values


def test_sweepers_together_take_no_more_trials_than_are_asked_for(join: Join, composer: Composer) -> None:
    one, other = join(), join()
    answers = [Proposer(sweeper, DRAWN, composer, 3).propose() for sweeper in (one, other, one, other, one)]
    assert [type(answer) for answer in answers] == [Proposal, Proposal, Proposal, Refusal, Refusal]
    assert {answer.became for answer in answers if isinstance(answer, Refusal)} == {Status.withdrawn}
    other.close(1, Status.interrupted, "stopped")
    assert isinstance(Proposer(other, DRAWN, composer, 3).propose(), Proposal), "the place is free again"


# ---- what was cut short


@pytest.mark.parametrize("same", [True, False], ids=["same sweeper", "another"])
def test_an_interrupted_trial_is_proposed_again_once(join: Join, composer: Composer, same: bool) -> None:
    one, other = join(), join()
    proposer = Proposer(one, DRAWN, composer, None)
    first = propose(proposer)
    one.close(first.number, Status.interrupted, "stopped", epochs=2)
    if not same:
        proposer = Proposer(other, DRAWN, composer, None)
    again, next_one = propose(proposer), propose(proposer)
    assert again.number != first.number
    assert again.overrides == first.overrides
    assert identity(again.config) == identity(first.config)
    assert next_one.overrides != first.overrides
    assert one.trial(first.number).user_attrs["epochs"] == 2, "what it had found is kept"


def test_what_is_interrupted_twice_is_proposed_a_third_time(join: Join, composer: Composer) -> None:
    answers = []
    for study in (join(), join(), join()):
        answers.append(propose(Proposer(study, DRAWN, composer, None)))
        study.close(answers[-1].number, Status.interrupted, "stopped")
    assert answers[0].overrides == answers[1].overrides == answers[2].overrides


def test_what_another_sweeper_has_taken_up_again_is_left_to_it(join: Join, composer: Composer) -> None:
    one, other = (Proposer(join(), DRAWN, composer, None) for _ in range(2))
    first = propose(one)
    one.study.close(first.number, Status.interrupted, "stopped")
    again = propose(other)
    assert again.overrides == first.overrides
    assert propose(one).overrides != first.overrides
    other.study.close(again.number, Status.complete, values=[0.5])
    assert propose(one).overrides != first.overrides


def test_what_had_not_passed_the_gate_is_not_proposed_again(study: Study, composer: Composer) -> None:
    trial = study.ask({"trainer.seed": 1})
    trial.suggest_int("trainer.seed", 0, 10**6)
    study.close(trial.number, Status.interrupted, "its sweeper died")
    assert propose(Proposer(study, DRAWN, composer, None)).config.trainer.seed != 1


# ---- points that are given


def test_start_points_come_first_once_in_a_study_with_the_rest_drawn(join: Join, composer: Composer) -> None:
    start: list[dict[str, Value]] = [{"trainer.seed": 3, "optimizer.lr": 0.5}, {"trainer.seed": 4}]
    one, other = (Proposer(join(), DRAWN, composer, None, start=start) for _ in range(2))
    first, second = propose(one), propose(other)
    assert first.overrides == ["trainer.seed=3", "optimizer.lr=0.5"]
    assert second.config.trainer.seed == 4
    assert 0.01 <= second.config.optimizer.lr <= 1
    assert not {propose(proposer).config.trainer.seed for proposer in (one, other)} & {3, 4}


def test_an_interrupted_start_point_is_taken_up_again_and_not_started_again(
    join: Join, composer: Composer
) -> None:
    start: list[dict[str, Value]] = [{"trainer.seed": 3, "optimizer.lr": 0.5}]
    one, other = (Proposer(join(), DRAWN, composer, None, start=start) for _ in range(2))
    first = propose(one)
    one.study.close(first.number, Status.interrupted, "stopped")
    assert propose(other).overrides == first.overrides
    assert propose(other).overrides != first.overrides


def test_sweepers_of_a_grid_take_its_points_in_their_order_and_those_cut_short_again(
    join: Join, composer: Composer
) -> None:
    points: list[dict[str, Value]] = [{"trainer.seed": seed, "optimizer.lr": 0.5} for seed in (5, 2, 9, 7)]
    one, other = (Proposer(join(), DRAWN, composer, None, grid=Points(points)) for _ in range(2))
    assert [propose(each).config.trainer.seed for each in (one, other, one)] == [5, 2, 9]
    one.study.close(0, Status.interrupted, "stopped")
    assert [propose(each).config.trainer.seed for each in (other, one)] == [5, 7]
    assert Points(points).upcoming(one.study.trials()) is None
