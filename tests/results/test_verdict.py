"""Summaries, intervals and tests: known answers, exhaustive enumeration, and how often they are right."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tinysweep.results.verdict import (
    Comparison,
    Summary,
    compare,
    method_in_words,
    p_in_words,
    sign_flip_p_value,
    summarise,
    verdict,
    welch_p_value,
)


def whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def right(text: str) -> NDArray[np.bool_]:
    """Such as "1101 1001": two seeds on four images, 1 for right."""
    return np.array([[mark == "1" for mark in seed] for seed in text.split()])


# ---- summaries


def test_a_known_summary() -> None:
    found = summarise([1.0, 2.0, 3.0, 4.0, 5.0], 0.95)
    assert (found.mean, found.n) == (3.0, 5)
    assert found.sd == pytest.approx(math.sqrt(2.5))
    half = 2.776445 * math.sqrt(2.5 / 5)  # the table's t for 4 degrees of freedom
    assert found.low == pytest.approx(3 - half, abs=1e-5)
    assert found.high == pytest.approx(3 + half, abs=1e-5)


def test_a_single_seed_has_a_mean_and_nothing_else() -> None:
    assert summarise([0.99], 0.95) == Summary(0.99, None, None, None, 1)


def test_figures_that_do_not_vary_have_an_interval_without_width() -> None:
    assert summarise([0.5] * 4, 0.95) == Summary(0.5, 0, 0.5, 0.5, 4)


def test_as_many_intervals_as_the_confidence_says_hold_the_true_mean() -> None:
    samples = np.random.default_rng(1).normal(3, 2, (1000, 3))
    intervals = [summarise(sample, 0.9) for sample in samples]
    held = np.mean([(found.low or 0) <= 3 <= (found.high or 0) for found in intervals])
    assert held == pytest.approx(0.9, abs=0.04)


# ---- the paired test over images


def enumerated(differences: NDArray[np.int64]) -> float:
    """The p-value by all 2^n choices of signs."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    return float(np.mean(np.abs(signs @ differences) >= abs(differences.sum())))


def test_the_p_value_is_that_of_all_choices_of_signs() -> None:
    generator = np.random.default_rng(0)
    for _ in range(12):
        largest = int(generator.integers(1, 6))
        differences = generator.integers(-largest, largest + 1, size=int(generator.integers(1, 13)))
        assert sign_flip_p_value(differences) == pytest.approx(enumerated(differences), rel=1e-12)


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        (whole(0, 0, 0), 1.0),
        (whole(5), 1.0),
        (whole(1, 1), 0.5),
        (whole(1, 1, 1, 1, 0, 0), 0.125),
        (whole(3, -1), 1.0),
        (whole(2, 1, 1), 0.25),
    ],
)
def test_known_p_values(differences: NDArray[np.int64], p_value: float) -> None:
    assert sign_flip_p_value(differences) == pytest.approx(p_value, rel=1e-12)


@pytest.mark.parametrize(("plus", "minus"), [(30, 12), (5, 5), (0, 9), (1, 0), (200, 150)])
def test_with_one_seed_it_is_mcnemars_exact_test(plus: int, minus: int) -> None:
    differences = whole(*[1] * plus, *[-1] * minus, *[0] * 1000)
    assert sign_flip_p_value(differences) == pytest.approx(stats.binomtest(plus, plus + minus).pvalue, rel=1e-9)


def test_of_many_images_no_p_value_is_zero_and_none_takes_long() -> None:
    assert 0 < sign_flip_p_value(whole(*[5] * 9000, *[4] * 1000)) < 1e-300


def test_equal_models_are_seldom_told_apart() -> None:
    generator = np.random.default_rng(2)
    chances = generator.uniform(0.5, 1, 200)  # of each image, the same for both
    pairs = [generator.random((2, 3, 200)) < chances for _ in range(200)]
    p_values = [compare(one, other, 0.95).p_value for one, other in pairs]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.09


# ---- comparisons


def test_identical_models_can_not_be_told_apart() -> None:
    one = right("110101 100111")
    assert compare(one, one, 0.95) == Comparison(0.0, 0.0, 0.0, 1.0, 1.0)


def test_a_known_comparison() -> None:
    found = compare(right("1111 1110"), right("1001 0000"), 0.95)
    assert found.difference == pytest.approx(7 / 8 - 2 / 8)
    differences = [0.5, 1.0, 1.0, 0.0]  # each image's mean correctness over the two seeds
    low, high = stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.p_value == pytest.approx(enumerated(whole(1, 2, 2, 0)))
    assert found.p_value_seeds == pytest.approx(stats.ttest_ind([1, 0.75], [0.5, 0], equal_var=False).pvalue)


def test_the_other_way_round_only_the_sign_changes() -> None:
    generator = np.random.default_rng(3)
    one, other = generator.random((3, 200)) < 0.9, generator.random((3, 200)) < 0.8
    there, back = compare(one, other, 0.9), compare(other, one, 0.9)
    assert there.difference == -back.difference
    assert (there.low, there.high) == (-(back.high or 0), -(back.low or 0))
    assert (there.p_value, there.p_value_seeds) == (back.p_value, back.p_value_seeds)


def test_the_order_of_the_images_plays_no_role_but_their_pairing_does() -> None:
    generator = np.random.default_rng(4)
    hard = generator.random(300) < 0.2
    one, other = np.array([~hard] * 2), np.array([~hard] * 2)
    one[:, np.flatnonzero(hard)[:8]] = True
    order = generator.permutation(300)
    paired, shuffled = compare(one, other, 0.95), compare(one[:, order], other[:, order], 0.95)
    assert shuffled.p_value == paired.p_value == pytest.approx(2 * 0.5**8)
    unpaired = compare(one, other[:, order], 0.95)
    assert unpaired.difference == pytest.approx(paired.difference)
    assert unpaired.p_value > 0.1


def test_one_image_and_one_seed_say_nothing() -> None:
    assert compare(right("1"), right("0"), 0.95) == Comparison(1.0, None, None, 1.0, None)


# ---- over seeds


@pytest.mark.parametrize(
    ("one", "other", "p_value"),
    [
        ([0.5], [0.4, 0.3], None),
        ([0.5, 0.5], [0.5, 0.5], 1.0),
        ([0.5, 0.5], [0.25, 0.25], pytest.approx(0, abs=1e-300)),
        ([0.5, 0.5], [0.5, 0.25], pytest.approx(0.5)),
    ],
)
def test_seeds_that_do_not_vary(one: list[float], other: list[float], p_value: float | None) -> None:
    assert welch_p_value(np.array(one), np.array(other)) == p_value


def test_welchs_test_by_its_formula() -> None:
    one, other = np.array([27.5, 21.0, 19.0, 23.6]), np.array([27.1, 22.0, 20.8, 23.4, 29.9])
    parts = one.var(ddof=1) / 4, other.var(ddof=1) / 5
    t = (one.mean() - other.mean()) / math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 4)
    assert welch_p_value(one, other) == pytest.approx(2 * stats.t.sf(abs(t), freedom))


# ---- words


@pytest.mark.parametrize(
    ("difference", "p_value", "over_seeds", "words"),
    [
        (0.01, 0.2, 0.001, "A can't be told from B (p = 0.20)"),
        (0.0, 1.0, None, "A can't be told from B (p = 1.00)"),
        (0.01, 0.003, 0.04, "A beats B (p = 0.003; over seeds p = 0.04)"),
        (-0.01, 0.003, 1e-9, "B beats A (p = 0.003; over seeds p < 0.0001)"),
        (0.01, 0.003, None, "A beats B (p = 0.003); with one seed each, nothing is said of other seeds"),
        (
            -0.01,
            0.05 - 1e-9,
            0.3,
            "the trained models of B beat those of A (p = 0.05), but the recipes can't be told apart, because "
            "seeds differ too much (over seeds p = 0.30)",
        ),
    ],
)
def test_the_verdict_says_no_more_than_both_tests_allow(
    difference: float, p_value: float, over_seeds: float | None, words: str
) -> None:
    found = Comparison(difference, difference - 0.01, difference + 0.01, p_value, over_seeds)
    assert verdict("A", "B", found, 0.95) == words


def test_more_confidence_needs_smaller_p_values() -> None:
    found = Comparison(0.01, 0.0, 0.02, 0.03, 0.03)
    assert verdict("A", "B", found, 0.95).startswith("A beats B")
    assert verdict("A", "B", found, 0.99).startswith("A can't be told from B")


def test_what_is_random_is_said() -> None:
    words = method_in_words(10000)
    assert words.startswith(
        "paired sign-flip permutation test over the 10,000 test images, each image's mean correctness over seeds"
    )
    assert "trained models held fixed" in words


@pytest.mark.parametrize(
    ("p_value", "words"),
    [(0.04999, "p = 0.05"), (0.000123, "p = 0.00012"), (1e-300, "p < 0.0001"), (1, "p = 1.00")],
)
def test_p_values_as_people_read_them(p_value: float, words: str) -> None:
    assert p_in_words(p_value) == words
