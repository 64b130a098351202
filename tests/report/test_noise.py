"""What the report says of noise: bars as long as chance reaches, and the trials that it may have put behind."""

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, IntDistribution

import made_study as made
from tinysweep.report.figures import accuracy_parameters
from tinysweep.report.noise import images_judged, in_words, standard_error
from tinysweep.results.view import StudyView

SEEDED: dict[str, BaseDistribution] = {"trainer.seed": IntDistribution(0, 9)}


def study(folder: Path, *accuracies: float, **data: Any) -> StudyView:
    trials = [made.completed(number, accuracy, 900 + number) for number, accuracy in enumerate(accuracies)]
    for number in range(len(trials)):
        made.leave(folder, number, [0.1], **{"validation": 5000, **data})
    return made.view(folder, trials)


def test_the_trials_within_noise_of_the_best_are_named_and_no_others(tmp_path: Path) -> None:
    error = 100 * math.hypot(math.sqrt(0.01 * 0.99 / 5000), math.sqrt(0.011 * 0.989 / 5000))
    assert 0.1 < error < 0.21
    said = in_words(study(tmp_path, 0.99, 0.989, 0.985))
    assert "trial 1 is within noise of trial 0" in said
    assert "5,000 images" in said
    assert "No other trial is within noise" in in_words(study(tmp_path, 0.99, 0.9))


def test_nothing_is_said_where_nobody_knows_the_images(tmp_path: Path) -> None:
    view = made.view(tmp_path, [made.completed(number, 0.9, 5) for number in (0, 1)])
    assert images_judged(view) is None
    assert in_words(view) == ""
    assert accuracy_parameters(view, None).data[0].error_y.array is None  # type: ignore[union-attr]


def test_an_accuracy_over_several_seeds_errs_by_images_and_by_seeds(tmp_path: Path) -> None:
    trials = [
        made.completed(seed, 0.9 + seed / 100, 900, chosen={"trainer.seed": seed}, kinds=SEEDED)
        for seed in (0, 1, 2)
    ]
    (mean,) = made.view(tmp_path, trials).completed
    expected = math.hypot(math.sqrt(0.91 * 0.09 / 1000), 0.01 / math.sqrt(3))
    assert standard_error(mean, 1000) == pytest.approx(expected)


def test_every_bar_lies_on_the_axis_and_below_a_perfect_accuracy(tmp_path: Path) -> None:
    view = study(tmp_path, 0.99, 0.985, 0.9999, validation=100)
    figure = accuracy_parameters(view, 0)
    assert not isinstance(figure, str)
    high, low = (10**end for end in figure.layout.yaxis.range)
    drawn = [trace for trace in figure.data if trace.error_y.array]
    assert drawn
    for trace in drawn:
        for place, longer, shorter in zip(trace.y, trace.error_y.array, trace.error_y.arrayminus, strict=True):
            assert place - shorter > 0
            assert low < place < place + longer <= high
