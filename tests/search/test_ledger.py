"""The ledger of a study agrees with going through all of its trials, whenever it is asked."""

import random

from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.search.ledger import Ledger
from tinysweep.search.study import STATES, TRAINED, Status, count, status


def finished(number: int, became: Status, key: str | None = None) -> FrozenTrial:
    state = STATES.get(became, TrialState.FAIL)
    trial = create_trial(state=state, value=0.5 if state == TrialState.COMPLETE else None)
    trial.number, trial.user_attrs = number, {"standing": became.value} | ({"key": key} if key else {})
    return trial


def running(number: int, **notes: object) -> FrozenTrial:
    trial = create_trial(state=TrialState.RUNNING)
    trial.number, trial.user_attrs = number, dict(notes)
    return trial


def test_counts_are_those_of_all_trials_however_they_finish() -> None:
    draw = random.Random(0)
    trials: list[FrozenTrial] = []
    ledger = Ledger()
    for number in range(200):
        trials.append(running(number, key=str(number), seed=0))
        if draw.random() < 0.8:
            open_ones = [trial.number for trial in trials if not trial.state.is_finished()]
            chosen = draw.choice(open_ones)
            trials[chosen] = finished(chosen, draw.choice([each for each in Status if each != Status.running]))
        for became in Status:
            assert ledger.count(trials, became) == count(trials, became)
        assert ledger.count(trials, *TRAINED) == sum(status(trial) in TRAINED for trial in trials)
        assert ledger.going(trials) == sum(trial.state == TrialState.RUNNING for trial in trials)


def test_a_twin_is_found_whether_it_has_finished_or_is_being_trained() -> None:
    trials = [
        finished(0, Status.complete, "a"),
        finished(1, Status.interrupted, "b"),
        running(2, key="c"),
        finished(3, Status.failed, "d"),
        finished(4, Status.duplicate, "e"),
    ]
    ledger = Ledger()
    found = {key: ledger.twin(trials, key) for key in "abcdef"}
    assert {key: twin and twin.number for key, twin in found.items()} == {
        "a": 0, "b": None, "c": 2, "d": 3, "e": None, "f": None
    }  # fmt: skip


def test_of_two_that_begin_with_the_same_configuration_at_once_the_later_one_gives_way() -> None:
    trials = [running(0, key="a"), running(1, key="a")]
    later, earlier = Ledger().twin(trials, "a", 1), Ledger().twin(trials, "a", 0)
    assert later is not None
    assert later.number == 0
    assert earlier is None


def test_room_is_asked_for_behind_the_earlier_trials_only() -> None:
    trials = [running(0, key="a"), running(1, key="b"), running(2, key="c")]
    assert [Ledger().going(trials, number) for number in range(3)] == [0, 1, 2]
    assert Ledger().going(trials) == 3


def test_what_was_cut_short_is_told_until_it_is_taken_up_again() -> None:
    trials = [
        finished(0, Status.interrupted, "a"),
        finished(1, Status.interrupted),
        finished(2, Status.interrupted, "b"),
        finished(3, Status.pruned, "b"),
        finished(4, Status.interrupted, "c"),
        running(5, key="c"),
        finished(6, Status.interrupted, "d"),
    ]
    ledger = Ledger()
    assert [trial.number for trial in ledger.cut_short(trials)] == [0, 6]
    trials[5] = finished(5, Status.interrupted, "c")
    assert sorted(trial.user_attrs["key"] for trial in ledger.cut_short(trials)) == ["a", "c", "d"]
    trials.append(finished(7, Status.complete, "a"))
    assert sorted(trial.user_attrs["key"] for trial in ledger.cut_short(trials)) == ["c", "d"]
