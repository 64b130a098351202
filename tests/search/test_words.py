"""What a person reads of a sweep: a line a trial, how far it is, and the result as tables."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from conftest import entered
from tinysweep.search.propose import Refusal
from tinysweep.search.study import STATES, Status, Study
from tinysweep.search.words import SHOWN, how_far, nothing_fits, refusals_line, result, table, trial_line

ACCURACY, LOSS = "validation_accuracy", "validation_loss"


def trial(
    number: int, became: Status = Status.complete, chosen: dict[str, Any] | None = None, **notes: Any
) -> FrozenTrial:
    """A trial as a study holds it, with figures of its own unless they are given."""
    state = STATES.get(became, TrialState.FAIL)
    figures = {ACCURACY: 0.9, LOSS: 0.25, "params": 17_626, "macs": 1_234_567, "seconds": 12.34}
    chosen = chosen or {}
    made = create_trial(
        state=TrialState.RUNNING if became == Status.running else state,
        value=1.0 if state == TrialState.COMPLETE else None,
        params=chosen,
        distributions={name: CategoricalDistribution([value]) for name, value in chosen.items()},
        user_attrs={"standing": became.value, **figures, **notes},
    )
    made.number = number
    return made


# ---- a line for each trial


def test_a_line_says_what_a_trial_cost_and_found_and_which_is_the_best() -> None:
    best = trial(7, validation_accuracy=0.9953)
    line = "trial 7    complete     17,626 params   99.53%    12.3 s  best 99.53% (trial 7)"
    assert trial_line(best, best, ACCURACY) == line
    line = "trial 12   pruned       17,626 params   50.00%    12.3 s  best 0.2500 (trial 7)"
    assert trial_line(trial(12, Status.pruned, validation_accuracy=0.5), best, LOSS) == line


def test_a_line_of_a_study_with_rungs_says_after_which_a_trial_ended() -> None:
    pruned = trial(12, Status.pruned, validation_accuracy=0.5, epochs=3)
    line = "trial 12   pruned       rung   3  17,626 params   50.00%    12.3 s"
    assert trial_line(pruned, None, LOSS, rungs=True) == line
    assert "rung   -  17,626" in trial_line(trial(12, Status.failed, epochs=0), None, LOSS, rungs=True)


@pytest.mark.parametrize("became", [Status.failed, Status.interrupted])
def test_a_trial_that_brought_no_result_shows_the_first_line_of_its_reason(became: Status) -> None:
    nothing = {ACCURACY: None, "seconds": None}
    failed = trial(3, became, reason="the loss is nan\n  a trace", **nothing)
    expected = f"trial 3    {became.value:<11}  17,626 params        –     0.0 s  the loss is nan"
    assert trial_line(failed, None, ACCURACY) == expected


def test_a_trial_that_is_known_by_its_reason_alone_is_a_line_too() -> None:
    bare = create_trial(state=TrialState.FAIL, user_attrs={"standing": "failed", "reason": "out of memory"})
    bare.number = 4
    words = "trial 4 failed – params – 0.0 s out of memory"
    assert " ".join(trial_line(bare, None, ACCURACY).split()) == words


# ---- the result


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_table_has_a_line_a_trial_in_columns_that_line_up() -> None:
    trials = [
        trial(3, chosen={"model": "plain", "optimizer.lr": 0.012345678, "model.width": 4}),
        trial(1234, params=5, macs=7, seconds=1234.5, chosen={"model": "'separable'", "model.width": 16}),
    ]
    text = table(trials, ["model", "model.width", "optimizer.lr"])
    assert cells(text) == [
        ["model.", "optimizer."],
        ["trial", "accuracy", "loss", "params", "MACs", "seconds", "model", "width", "lr"],
        ["3", "90.00%", "0.2500", "17,626", "1,234,567", "12.3", "s", "plain", "4", "0.0123"],
        ["1234", "90.00%", "0.2500", "5", "7", "1,234.5", "s", "separable", "16", "-"],
    ]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_result_shows_the_ten_best_in_order_and_the_front() -> None:
    trials = [trial(number, validation_accuracy=number / 100, params=1000 + number) for number in range(25)]
    best, front = result([*trials, trial(99, Status.failed)], [ACCURACY], []).split("\n\n")
    assert best.startswith("the best 10 of 25 completed trials by validation accuracy (higher is better):")
    assert [row[0] for row in cells(best)[2:]] == [str(number) for number in range(24, 24 - SHOWN, -1)]
    assert front.startswith(
        "Pareto front: validation accuracy (higher is better) against parameters (lower is better)\n"
    )
    assert [row[0] for row in cells(front)[2:]] == [str(number) for number in range(25)]


def test_the_result_of_few_trials_is_ranked_by_the_objectives() -> None:
    best, front = result([trial(0), trial(1, validation_loss=0.125)], [LOSS, "macs"], []).split("\n\n")
    assert best.startswith("the best 2 of 2 completed trials by validation loss (lower is better):")
    assert [row[0] for row in cells(best)[2:]] == ["1", "0"]
    assert front.startswith("Pareto front: validation loss (lower is better) against MACs (lower is better)\n")


@pytest.mark.parametrize("trials", [[], [trial(0, Status.failed), trial(1, Status.over_budget)]])
def test_without_a_completed_trial_the_result_says_so(trials: list[FrozenTrial]) -> None:
    assert result(trials, [ACCURACY], ["model.width"]) == "no trial has completed"


def test_the_result_says_what_another_sweep_is_still_at_work_on() -> None:
    running = [trial(8, Status.running), trial(9, Status.running)]
    assert result(running[:1], [ACCURACY], []) == (
        "no trial has completed yet; another sweep is at work on 1 more trial"
    )
    assert result([trial(0), *running], [ACCURACY], []).startswith(
        "so far, as another sweep is at work on 2 more trials:"
    )


# ---- sentences


def test_how_far_a_study_is_stands_in_one_line_with_every_kind_of_trial(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = Study(optuna.create_study(study_name="mine", direction="maximize"), tmp_path)
    assert how_far(study, 20) == "study mine: 0 of 20 trials trained (none begun)"
    for became in (Status.complete, Status.complete, Status.pruned, Status.failed, Status.over_budget):
        study.close(entered(study), became, "why", [0.5] if became == Status.complete else None)
    entered(study)
    kinds = "1 running, 2 complete, 1 pruned, 1 failed, 1 over budget"
    assert how_far(study, 20) == f"study mine: 4 of 20 trials trained ({kinds})"
    assert how_far(study, None) == f"study mine: 4 trials trained ({kinds})"
    assert how_far(study, 3) == f"study mine: 4 trials trained, more than hydra.sweeper.n_trials=3 ({kinds})"


def refusal(number: int, became: Status = Status.over_budget, params: int | None = None) -> Refusal:
    return Refusal(number, became, f"reason {number}", params)


def test_what_was_not_trained_is_summed_up_in_one_line() -> None:
    text = refusals_line([refusal(4), refusal(5, Status.duplicate), refusal(6), refusal(9, Status.invalid)])
    assert text == "not trained: 2 over budget, 1 duplicate, 1 invalid (the last, trial 9: reason 9)"


def test_a_study_in_which_nothing_fits_names_the_smallest_model_and_the_last_reason() -> None:
    refusals = [refusal(number, params=size) for number, size in enumerate((50_000, 21_000, 30_000))]
    trials = [trial(each.number, Status.over_budget, params=each.params, reason=each.reason) for each in refusals]
    assert nothing_fits(refusals, trials) == (
        "no model fits: 3 proposals in a row were refused; the smallest model had 21,000 trainable parameters; "
        "the last: reason 2; search smaller models or raise the budget"
    )


def test_a_study_in_which_nothing_can_be_trained_may_know_no_size_or_no_refusal() -> None:
    bare = create_trial(state=TrialState.FAIL, user_attrs={"standing": "invalid", "reason": "odd"})
    words = "nothing that is searched can be trained: "
    assert nothing_fits([], [bare]) == f"{words}the last: odd"
    assert nothing_fits([refusal(0, Status.invalid)], [bare]) == (
        f"{words}1 proposals in a row were refused; the last: odd"
    )
