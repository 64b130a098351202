"""A race of candidates: seed after seed they are judged, and those that are clearly behind the best get no more.

Races of models are those of Maron and Moore (1994). As in BRACE (Moore and Lee, 1994) candidates are compared pair
by pair on the same images ("blocking"), as what makes an image easy or hard is common to them; here a block is a
seed with the fold that it holds out. Who is worse than the best by a one-sided t-test is out. There is a look
after each seed from the second to the last but one, and each test has an equal share of 1 - confidence, all looks
and rivals taken together (Bonferroni): so that is at most the probability that the truly best of them drops out
in the whole race, if seeds matter about as much to one candidate as to another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # the quantiles of Student's t

from tinysweep.final.settings import seeds_in_words
from tinysweep.metrics import METRICS, PER_CENT

IMAGE_MEANS = ("validation_loss", "validation_accuracy")  # metrics that each image has a part of its own in
POWER = 0.8  # the probability with which a difference that counts as tellable is told

# Figures of one candidate, of which less is better: for each seed, in order, those of the images held out, (N,).
Figures = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class Gap:
    """How far a candidate is behind the best after so many seeds of both: the mean difference of figures, its
    standard error with the degrees of freedom, and the smallest true difference that a one-sided t-test at the
    confidence of the final tells with the probability POWER (the minimum detectable effect of Bloom, 1995)."""

    best: str
    seeds: int
    difference: float
    standard_error: float
    degrees: int
    tellable: float


@dataclass(frozen=True)
class Race:
    """How a race stands after a look: who is left, best first; how many seeds each of them had by the look that
    ended it, or must have for the next one; and how far behind the others are, or were when they dropped out."""

    left: list[str]
    seeds: int
    gaps: dict[str, Gap] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """All by name, the best first, then who stayed longest."""
        out = [name for name in self.gaps if name not in self.left]
        return [*self.left, *sorted(out, key=lambda name: (-self.gaps[name].seeds, self.gaps[name].difference))]


def run_race(
    candidates: Mapping[str, Figures], seeds: int, folds: int, confidence: float, *, drop: bool = True
) -> Race:
    """The race up to the first look for which there are too few figures. It ends after `seeds` seeds, or when one
    candidate is left. It hangs on these figures alone, and not on those of further seeds than the last look's.
    Ties are broken by the order of the candidates. Without `drop`, all stay to the end."""
    left, found = list(candidates), dict[str, Gap]()
    share = (1 - confidence) / max(1, (seeds - 2) * (len(candidates) - 1))
    for seen in [*range(2, seeds), seeds] if drop else [seeds]:
        if not left or any(len(candidates[name]) < seen for name in left):
            break
        figures = {name: np.stack(candidates[name][:seen]) for name in left}
        left.sort(key=lambda name: float(figures[name].mean()))
        behind = gaps(figures, left[0], folds, confidence)
        found |= behind
        found.pop(left[0], None)
        if seen < seeds:
            left = [name for name in left if name not in behind or not _is_clear(behind[name], share)]
        if len(left) == 1 and drop:
            break
    return Race(left, seen, found)


def _is_clear(gap: Gap, share: float) -> bool:
    """Whether a one-sided t-test at the level `share` says that a candidate is worse than the best."""
    return bool(gap.difference > stdtrit(gap.degrees, 1 - share) * gap.standard_error)


def gaps(figures: Mapping[str, NDArray[np.float64]], best: str, folds: int, confidence: float) -> dict[str, Gap]:
    """How far others are behind the best, by their figures (seeds, images), seed after seed of the next of so many
    folds.

    The standard error is the largest of three. Over images: the models that were trained are held fixed. Over
    seeds: the difference of the two from seed to seed, in which both seeds and images vary, as each has a fold of
    its own; the larger of these two is what a one-way analysis of variance with random seeds finds. A few seeds
    may agree by chance, so the third is pooled over all candidates: the residuals of candidates and blocks
    (Fisher, 1935), whose degrees of freedom count. For the training images that folds share nothing is added, as
    no unbiased estimate exists (Bengio and Grandvalet, 2004).
    """
    order = [best, *(name for name in figures if name != best)]
    differences = np.stack([figures[name] for name in order]) - figures[best]  # (candidates, seeds, images)
    (candidates, seeds, images), means = differences.shape, differences.mean(axis=2)
    degrees = (candidates - 1) * (seeds - 1) or max(1, images - 1)
    variances = np.zeros((3, candidates))  # of the mean difference of each, by the three
    for fold in range(min(folds, seeds)):
        shared = differences[:, fold::folds]  # seeds that hold out the same images
        weight = (shared.shape[1] / seeds) ** 2 / max(1, images - 1)
        variances[0] += weight * shared.mean(axis=1).var(axis=1)
    if seeds > 1:
        residuals = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
        variances[1] = means.var(axis=1, ddof=1) / seeds
        variances[2] = 2 * (residuals**2).sum() / degrees / seeds
    errors = np.sqrt(variances.max(axis=0))
    told = errors * (stdtrit(degrees, confidence) + stdtrit(degrees, POWER))
    columns = zip(order, means.mean(axis=1), errors, told, strict=True)
    return {
        name: Gap(best, seeds, float(difference), float(error), degrees, float(least))
        for name, difference, error, least in columns
        if name != best
    }


# ---- in words


def amount(judge: str, *figures: float) -> str:
    """A difference of a metric, and its standard error if that is given, without a sign."""
    if METRICS[judge].format == PER_CENT:
        return f"{' ± '.join(f'{100 * figure:.2f}' for figure in figures)} points"
    return " ± ".join(f"{figure:.5f}" for figure in figures)


def gap_text(judge: str, gap: Gap | None) -> str:
    """How far a candidate is behind; the best isn't."""
    return amount(judge, gap.difference, gap.standard_error) if gap else "–"


def gap_in_words(judge: str, gap: Gap) -> str:
    return f"{gap_text(judge, gap)} in {METRICS[judge].label} behind {gap.best} after {seeds_in_words(gap.seeds)}"


def race_in_words(judge: str, confidence: float, *, drop: bool) -> str:
    """What the standard error of a gap is, and what is dropped."""
    seeds = "over the seeds of the two, and over those of all, pooled"
    said = (
        "differences are means over the same held-out images, ± the largest of the standard errors over images, "
        + seeds
    )
    if judge not in IMAGE_MEANS:
        said = (
            f"differences are of figures of the same held-out images, ± the larger of the standard errors {seeds}"
        )
    race = (
        "; race (Maron and Moore, 1994), paired as BRACE (Moore and Lee, 1994): after each seed from the second, "
        f"a one-sided t-test of each against the best, {100 * (1 - confidence):.3g}% being shared out among all "
        "tests (Bonferroni)"
    )
    return said + race if drop else said
