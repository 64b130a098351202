"""What a person sees of a sweep: a line a trial, nothing that a log file can't hold, and the result as tables."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from conftest import entered
from tinysweep.metrics import METRICS
from tinysweep.search.lease import Lease
from tinysweep.search.progress import SHOWN, Screen, figure, nothing_fits, progress, refused, result, table
from tinysweep.search.propose import Refusal
from tinysweep.search.study import Status, Study

ACCURACY = ["validation_accuracy"]


def trial(
    number: int, became: Status = Status.complete, chosen: dict[str, Any] | None = None, **notes: Any
) -> FrozenTrial:
    """A trial as a study holds it, with figures of its own unless they are given."""
    states = {Status.complete: TrialState.COMPLETE, Status.pruned: TrialState.PRUNED}
    state = states.get(became, TrialState.FAIL)
    figures = {
        "validation_accuracy": 0.9,
        "validation_loss": 0.25,
        "params": 17_626,
        "macs": 1_234_567,
        "activation_bytes": 9_408,
        "seconds": 12.34,
        "epochs": 4,
    }
    chosen = chosen or {}
    made = create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        params=chosen,
        distributions={name: CategoricalDistribution([value]) for name, value in chosen.items()},
        user_attrs={"standing": became.value, **figures, **notes},
    )
    made.number = number
    return made


def shown(
    capsys: pytest.CaptureFixture[str], *trials: FrozenTrial, objectives: list[str] | None = None
) -> list[str]:
    """The lines that a screen prints as trials finish."""
    with Screen(objectives or ACCURACY, 10, []) as screen:
        for each in trials:
            screen.finished(each)
    return capsys.readouterr().out.splitlines()


# ---- a line for each trial


def test_a_completed_trial_is_one_line_with_what_it_cost_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(capsys, trial(7, validation_accuracy=0.9953))
    for word in ("trial 7 ", "complete", "17,626 params", "99.53%", "12.3 s", "best 99.53% (trial 7)"):
        assert word in line


def test_a_pruned_trial_shows_how_far_it_had_come(capsys: pytest.CaptureFixture[str]) -> None:
    _, line = shown(capsys, trial(1, validation_accuracy=0.99), trial(2, Status.pruned, validation_accuracy=0.5))
    for word in ("trial 2 ", "pruned", "17,626 params", "50.00%", "12.3 s", "best 99.00% (trial 1)"):
        assert word in line


@pytest.mark.parametrize("became", [Status.failed, Status.interrupted])
def test_a_trial_that_brought_no_result_shows_the_first_line_of_its_reason(
    capsys: pytest.CaptureFixture[str], became: Status
) -> None:
    unmeasured = {"validation_accuracy": None, "seconds": None}
    (line,) = shown(capsys, trial(3, became, reason="the loss is nan\n  a trace\n  of it", **unmeasured))
    for word in ("trial 3 ", became.value, "17,626 params", "–", "0.0 s", "the loss is nan"):
        assert word in line
    assert "trace" not in line
    assert "best" not in line, "nothing has completed yet"


def test_a_trial_that_is_known_by_its_reason_alone_is_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    bare = create_trial(state=TrialState.FAIL, user_attrs={"standing": "failed", "reason": "out of memory"})
    bare.number = 4
    (line,) = shown(capsys, bare)
    assert line.startswith("trial 4 ")
    assert line.endswith("out of memory")


def test_the_best_so_far_moves_only_to_a_better_trial(capsys: pytest.CaptureFixture[str]) -> None:
    accuracies = [0.5, 0.75, 0.6, 0.75, 0.875]
    lines = shown(capsys, *(trial(number, validation_accuracy=each) for number, each in enumerate(accuracies)))
    assert [re.search(r"best (.*)$", line).group(1) for line in lines] == [  # type: ignore[union-attr]
        "50.00% (trial 0)",
        "75.00% (trial 1)",
        "75.00% (trial 1)",
        "75.00% (trial 1)",
        "87.50% (trial 4)",
    ]


def test_the_best_is_that_of_the_objective(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [
        trial(0, validation_accuracy=0.9, validation_loss=0.5),
        trial(1, validation_accuracy=0.8, validation_loss=0.25),
    ]
    assert shown(capsys, *trials, objectives=["validation_loss"])[-1].endswith("best 0.2500 (trial 1)")
    assert shown(capsys, *trials)[-1].endswith("best 90.00% (trial 0)")


def test_a_sweep_that_goes_on_knows_its_best_from_before(capsys: pytest.CaptureFixture[str]) -> None:
    before = [trial(0, validation_accuracy=0.5), trial(1, validation_accuracy=0.75), trial(2, Status.failed)]
    with Screen(ACCURACY, None, before) as screen:
        screen.finished(trial(3, validation_accuracy=0.6))
    assert capsys.readouterr().out.rstrip().endswith("best 75.00% (trial 1)")


# ---- where nobody watches


def test_without_a_terminal_there_is_no_bar_and_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(ACCURACY, 10, [trial(0)]) as screen:
        screen.say("a line")
        for number, became in enumerate((Status.complete, Status.pruned, Status.failed, Status.interrupted)):
            screen.finished(trial(number, became, reason="why"))
    printed = capsys.readouterr()
    assert printed.err == ""
    assert len(printed.out.splitlines()) == 5
    assert not [character for character in printed.out if not character.isprintable() and character != "\n"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_a_bar_counts_what_has_been_trained_and_what_was_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    before = [
        trial(0),
        trial(1, Status.pruned),
        trial(2, Status.failed),
        trial(3, Status.over_budget),
        trial(4, Status.duplicate),
    ]
    for each in before:
        each.datetime_start = each.datetime_complete
    with Screen(ACCURACY, 10, before) as screen:
        assert "3/10" in terminal.getvalue()
        for each in (trial(5), trial(6, Status.interrupted, reason="stopped"), trial(7, Status.pruned)):
            screen.finished(each)
        screen.bar.refresh()
        assert "5/10" in terminal.getvalue(), "one cut short is not counted"
        assert "6/10" not in terminal.getvalue()
        assert "best 90.00%" in terminal.getvalue()
    assert len(capsys.readouterr().out.splitlines()) == 3


# ---- figures and tables


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("validation_accuracy", "90.00%"),
        ("validation_loss", "0.2500"),
        ("params", "17,626"),
        ("macs", "1,234,567"),
        ("activation_bytes", "9,408"),
        ("seconds", "12.3 s"),
    ],
)
def test_a_figure_is_written_as_people_read_it(name: str, text: str) -> None:
    assert figure(trial(0), name) == text


def test_every_metric_has_a_way_to_be_written() -> None:
    assert all(figure(trial(0), name) for name in METRICS)


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_table_has_a_line_a_trial_in_columns_that_line_up() -> None:
    trials = [
        trial(3, chosen={"model": "plain", "optimizer.lr": 0.012345678, "model.width": 4}),
        trial(1234, params=5, macs=7, seconds=1234.5, chosen={"model": "separable", "model.width": 16}),
    ]
    text = table(trials, ["model", "model.width", "optimizer.lr"])
    assert cells(text) == [
        ["trial", "accuracy", "loss", "params", "MACs", "seconds", "model", "model.width", "optimizer.lr"],
        ["3", "90.00%", "0.2500", "17,626", "1,234,567", "12.3", "plain", "4", "0.0123"],
        ["1234", "90.00%", "0.2500", "5", "7", "1234.5", "separable", "16", "-"],
    ]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_result_shows_the_ten_best_in_order_and_the_front() -> None:
    trials = [trial(number, validation_accuracy=number / 100, params=1000 + number) for number in range(25)]
    text = result([*trials, trial(99, Status.failed)], ACCURACY, [])
    best, front = text.split("\n\n")
    assert best.startswith("the best 10 of 25 completed trials by validation accuracy (higher is better):")
    assert [row[0] for row in cells(best)[2:]] == [str(number) for number in range(24, 24 - SHOWN, -1)]
    assert front.startswith("Pareto front")
    assert [row[0] for row in cells(front)[2:]] == [str(number) for number in range(25)]


def test_the_result_of_few_trials_says_how_many_there_are() -> None:
    text = result([trial(0), trial(1, validation_loss=0.125)], ["validation_loss"], [])
    assert text.startswith("the best 2 of 2 completed trials by validation loss (lower is better):")
    assert [row[0] for row in cells(text.split("\n\n")[0])[2:]] == ["1", "0"]


@pytest.mark.parametrize("trials", [[], [trial(0, Status.failed), trial(1, Status.over_budget)]])
def test_without_a_completed_trial_the_result_says_so(trials: list[FrozenTrial]) -> None:
    assert result(trials, ACCURACY, ["model.width"]) == "no trial has completed"


def test_the_result_says_what_another_sweep_is_still_at_work_on() -> None:
    running = [trial(8, Status.running), trial(9, Status.running)]
    assert result(running[:1], ACCURACY, []) == (
        "no trial has completed yet; another sweep is at work on 1 more trial"
    )
    assert result([trial(0), *running], ACCURACY, []).startswith(
        "so far, as another sweep is at work on 2 more trials:"
    )


# ---- sentences


def test_progress_is_one_line_with_every_kind_that_there_is(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = Study(optuna.create_study(study_name="mine", direction="maximize"), tmp_path, Lease(tmp_path))
    assert progress(study, 20) == "study mine: 0 of 20 trials trained (none begun)"
    for became in (Status.complete, Status.complete, Status.pruned, Status.failed, Status.over_budget):
        study.close(entered(study), became, "why", [0.5] if became == Status.complete else None)
    entered(study)
    text = progress(study, 20)
    assert text.startswith("study mine: 4 of 20 trials trained (")
    for words in ("1 running", "2 complete", "1 pruned", "1 failed", "1 over budget"):
        assert words in text
    assert "interrupted" not in text
    assert progress(study, None).startswith("study mine: 4 trials trained (")
    assert progress(study, 3).startswith("study mine: 4 trials trained, more than hydra.sweeper.n_trials=3 (")


def refusal(number: int, became: Status = Status.over_budget, params: int | None = None) -> Refusal:
    return Refusal(number, became, f"reason {number}", params)


def test_what_was_not_trained_is_summed_up_in_one_line() -> None:
    text = refused([refusal(4), refusal(5, Status.duplicate), refusal(6), refusal(9, Status.invalid)])
    assert text == "not trained: 2 over budget, 1 duplicate, 1 invalid (the last, trial 9: reason 9)"


def test_a_study_in_which_nothing_fits_names_the_smallest_model_and_the_last_reason() -> None:
    refusals = [refusal(number, params=size) for number, size in enumerate((50_000, 21_000, 30_000))]
    trials = [trial(each.number, Status.over_budget, params=each.params, reason=each.reason) for each in refusals]
    text = nothing_fits(refusals, trials)
    for words in (
        "no model fits",
        "3 proposals in a row",
        "21,000 trainable parameters",
        "reason 2",
        "raise the budget",
    ):
        assert words in text
    assert "\n" not in text


def test_a_study_in_which_nothing_fits_may_know_no_size_or_no_refusal() -> None:
    bare = create_trial(state=TrialState.FAIL, user_attrs={"standing": "invalid"})
    for text in (nothing_fits([refusal(0, Status.invalid)], [bare]), nothing_fits([], [bare])):
        assert text.startswith("nothing that is searched can be trained")
        assert "parameters" not in text
        assert "budget" not in text, "which has nothing to do with it"
