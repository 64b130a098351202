"""What a few seeds and a test set allow to be said: summaries, intervals, and whether one model beats another.

A test accuracy is uncertain in two ways: other test images would have given another one, and so would other seeds.
`compare` asks for each by itself, with the other held fixed, and a verdict needs both.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

SMALLEST = sys.float_info.min  # no p-value is 0, but one of many images may be smaller than a float can be


@dataclass(frozen=True)
class Summary:
    """Figures of `n` seeds: mean, standard deviation (n - 1 degrees of freedom) and Student-t interval of the
    mean; the latter three are None for a single seed, which says nothing of others."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int


def summarise(figures: Sequence[float] | NDArray[np.float64], confidence: float) -> Summary:
    """Mean, spread and interval of figures, such as one over seeds. The interval supposes that they vary like a
    normal variable (Student, 1908)."""
    n, mean = np.size(figures), float(np.mean(figures))
    if n == 1:
        return Summary(mean, None, None, None, n)
    sd = float(np.std(figures, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(mean, sd, mean - half, mean + half, n)


@dataclass(frozen=True)
class Comparison:
    """The accuracy of one model less that of another, its interval over test images (None for a single image), the
    p-value over test images, and that over seeds (None where either has a single seed)."""

    difference: float
    low: float | None
    high: float | None
    p_value: float
    p_value_seeds: float | None


def compare(one: NDArray[np.bool_], other: NDArray[np.bool_], confidence: float) -> Comparison:
    """Compare two models by which test images they get right, bool (seeds, images), of equal shape.

    Over images, paired: each image has the difference of the mean correctness over seeds; their mean has a
    Student-t interval and a sign-flip test. Over seeds: Welch's t-test of the accuracies.
    """
    assert other.shape == one.shape, "the same images, as many seeds"
    votes = one.sum(axis=0, dtype=np.int64) - other.sum(axis=0, dtype=np.int64)  # (images,), whole numbers
    differences = votes / len(one)
    interval = summarise(differences, confidence)
    p_value_seeds = welch_p_value(one.mean(axis=1), other.mean(axis=1))
    return Comparison(interval.mean, interval.low, interval.high, sign_flip_p_value(votes), p_value_seeds)


def sign_flip_p_value(differences: NDArray[np.int64]) -> float:
    """The two-sided p-value of the paired permutation test of whole-numbered differences, exact.

    If the two models were as good as each other, each image's difference would be as likely to have the other
    sign (Fisher, 1935). The p-value is the part of all 2^n ways to choose signs whose sum is as far from 0 as
    the one that was observed. Instead of trying them, the distribution of the sum is built up, one size of
    difference at a time: of c differences of size m, a binomial number have a plus. For differences of 1 alone
    it is the sign test, which for one seed is McNemar's exact test.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    distribution = np.ones(1)  # probability that the differences with a plus sum up to 0, 1, 2, …
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        longer = np.zeros(len(distribution) + size * count)
        for pluses, probability in enumerate(stats.binom.pmf(np.arange(count + 1), count, 0.5)):
            longer[pluses * size : pluses * size + len(distribution)] += probability * distribution
        distribution = longer
    total = len(distribution) - 1
    sums = 2 * np.arange(total + 1) - total
    as_far = np.abs(sums) >= abs(int(differences.sum()))
    return min(1.0, max(SMALLEST, float(distribution[as_far].sum())))


def welch_p_value(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """The two-sided p-value of Welch's t-test (1947), for spreads that may differ; None with a single seed in
    either. Where neither varies at all, equal means have p = 1 and others the smallest there is."""
    if min(len(one), len(other)) < 2:
        return None
    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return 1.0 if one[0] == other[0] else SMALLEST
    # By their moments, as of a sample that doesn't vary SciPy would warn.
    moments = [(sample.mean(), sample.std(ddof=1), len(sample)) for sample in (one, other)]
    return float(stats.ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue)


def method_in_words(images: int) -> str:
    """What the p-value of `compare` is, and what is random in it."""
    return (
        f"paired sign-flip permutation test over the {images:,} test images, each image's mean correctness over "
        "seeds; exact, with the images random and the trained models held fixed"
    )


def verdict(winner: str, against: str, found: Comparison, confidence: float) -> str:
    """What may be said of two models: that one beats the other needs both p-values below 1 - confidence, or the
    first where there is one seed alone."""
    alpha = 1 - confidence
    over_images, over_seeds = p_in_words(found.p_value), found.p_value_seeds
    if found.p_value >= alpha:
        return f"{winner} can't be told from {against} ({over_images})"
    better, worse = (winner, against) if found.difference > 0 else (against, winner)
    if over_seeds is None:
        return f"{better} beats {worse} ({over_images}); with one seed each, nothing is said of other seeds"
    if over_seeds >= alpha:
        return (
            f"the trained models of {better} beat those of {worse} ({over_images}), but the recipes can't be told "
            f"apart, because seeds differ too much (over seeds {p_in_words(over_seeds)})"
        )
    return f"{better} beats {worse} ({over_images}; over seeds {p_in_words(over_seeds)})"


def p_in_words(p_value: float) -> str:
    """Such as "p = 0.031" or "p < 0.0001"."""
    if p_value < 0.0001:
        return "p < 0.0001"
    return f"p = {p_value:.2g}" if p_value < 0.1 else f"p = {p_value:.2f}"
