"""How far chance alone moves the accuracy of a trial, and which trials it may have put behind the best."""

import math
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from tinysweep.console import first_names
from tinysweep.errors import DataError
from tinysweep.report.style import SMALLEST_ERROR
from tinysweep.results.fair import image_count
from tinysweep.results.view import StudyView
from tinysweep.search.table import deviation, metric

JUDGED = "validation_accuracy"


def images_judged(view: StudyView) -> int | None:
    """On how many images the trials were judged; None where that was searched, or no record tells."""
    if not view.completed or any(f"params.data.{name}" in view.definition for name in ("name", "validation")):
        return None
    try:
        return image_count(view.record(view.completed[0].number)["config"], JUDGED) or None
    except (DataError, KeyError, TypeError, ValueError):
        return None


def standard_error(trial: FrozenTrial, images: int) -> float:
    """The standard error of an accuracy: over other images, a share p of n having the variance p(1 - p)/n, and
    over other seeds, where it is the mean of several."""
    share = min(1.0, max(0.0, metric(trial, JUDGED)))
    spread = (deviation(trial, JUDGED) or 0.0) / math.sqrt(trial.user_attrs.get("seeds", 1))
    return math.hypot(math.sqrt(share * (1 - share) / images), spread)


def error_bars(trials: Sequence[FrozenTrial], images: int) -> dict[str, Any]:
    """A standard error either way, in per cent; one that would reach a perfect accuracy ends before it."""
    errors = [100 * standard_error(trial, images) for trial in trials]
    rooms = [100 * (1 - metric(trial, JUDGED)) - SMALLEST_ERROR for trial in trials]
    upwards = [max(0.0, min(pair)) for pair in zip(errors, rooms, strict=True)]
    return {"array": errors, "arrayminus": upwards, "thickness": 1, "width": 3, "color": "#8a8a8a"}


def in_words(view: StudyView) -> str:
    """Which trials are within noise of the most accurate; empty where nobody knows."""
    images = images_judged(view)
    if images is None or len(view.completed) < 2:
        return ""
    best, *others = sorted(view.completed, key=lambda trial: -metric(trial, JUDGED))
    near = [
        str(trial.number)
        for trial in others
        if metric(best, JUDGED) - metric(trial, JUDGED)
        <= math.hypot(standard_error(best, images), standard_error(trial, images))
    ]
    seeds = " and seeds" if any("seeds" in trial.user_attrs for trial in view.completed) else ""
    bars = f"Bars are one standard error over {images:,} images{seeds}."
    if not near:
        return f"{bars} No other trial is within noise of trial {best.number}, the most accurate."
    which = f"trial {near[0]} is" if len(near) == 1 else f"trials {first_names(near)} are"
    return (
        f"{bars} By accuracy {which} within noise of trial {best.number}, the most accurate: it is ahead by no "
        "more than one standard error of the difference."
    )
