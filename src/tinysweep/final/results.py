"""What a final has found: candidates by their means, final models by their tests, and the comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinysweep.errors import DataError
from tinysweep.final.candidates import Entrant
from tinysweep.final.plan import Plan, Stage
from tinysweep.final.runs import Failure, Run, tested_otherwise
from tinysweep.final.settings import seeds_in_words
from tinysweep.metrics import METRICS
from tinysweep.results import verdict
from tinysweep.results.verdict import Comparison, Summary
from tinysweep.search.study import TRAINED


@dataclass(frozen=True)
class Trained:
    """One who takes part, with a finished run for each seed."""

    role: str
    entrant: Entrant
    runs: list[Run]

    def figures(self, metric: str) -> list[float]:
        """A figure of every seed."""
        return [run.metric(metric) for run in self.runs]


@dataclass(frozen=True)
class Candidate(Trained):
    """One of the study's best, on the validation images."""

    def rank(self, judge: str) -> tuple[float, float]:
        """What candidates are sorted by, the best having the lowest: the mean over seeds, ties by validation
        loss."""
        mean = float(np.mean(self.figures(judge)))
        return METRICS[judge].loss(mean), float(np.mean(self.figures("validation_loss")))


@dataclass(frozen=True)
class Tested(Trained):
    """A final model, on the test images, and what each seed said of each of them."""

    @cached_property
    def _tables(self) -> list[pd.DataFrame]:
        return [pd.read_csv(run.folder.predictions) for run in self.runs]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true classes, int64 (images,)."""
        return self._tables[0]["label"].to_numpy(np.int64)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted classes, int64 (seeds, images)."""
        return np.stack([table["predicted"].to_numpy(np.int64) for table in self._tables])

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which images each seed gets right, bool (seeds, images)."""
        return np.asarray(self.predicted == self.labels)

    def require_images_of(self, other: "Tested") -> None:
        """Refuse to compare models that were tested on different images.

        Raises:
            DataError: the labels differ, between this model's runs or from the other's.
        """
        for run, table in zip(self.runs, self._tables, strict=True):
            if not np.array_equal(table["label"], other.labels):
                raise DataError(
                    f"{run.folder.path} was tested on other images than {other.runs[0].folder.path}, so the data "
                    f"was changed meanwhile; move {run.folder.path.parent} away and run the same command again"
                )


@dataclass(frozen=True)
class Results:
    """All that a final has found. Candidates are sorted, best first; there are none if there was nothing to choose
    from. The winner is the first of the final models. `dropped` tells what made others drop out."""

    plan: Plan
    candidates: Sequence[Candidate]
    tested: Sequence[Tested]
    dropped: Sequence[Failure] = ()

    @property
    def winner(self) -> Tested:
        return self.tested[0]

    @property
    def trained(self) -> list[Trained]:
        """Everyone, in the order of the tables."""
        return [*self.candidates, *self.tested]

    @cached_property
    def comparisons(self) -> list[tuple[Tested, Comparison]]:
        """The winner against each of the others.

        Raises:
            DataError: they were not tested on the same images.
        """
        confidence = self.plan.settings.confidence
        for each in self.tested:
            each.require_images_of(self.winner)
        return [
            (other, verdict.compare(self.winner.correct, other.correct, confidence)) for other in self.tested[1:]
        ]

    def summary(self, trained: Trained, metric: str) -> Summary:
        return verdict.summarise(trained.figures(metric), self.plan.settings.confidence)

    def verdict(self, other: Tested, found: Comparison) -> str:
        """What may be said of the winner and another."""
        return verdict.verdict(self.winner.entrant.name, other.entrant.name, found, self.plan.settings.confidence)

    @property
    def images(self) -> str:
        """What final models are trained on, in words."""
        limit = self.winner.entrant.recipe.data.limit
        return "all training images" if limit is None else f"{limit:,} training images"

    @property
    def choice(self) -> str:
        """How the winner was chosen and tested, in words."""
        return " ".join([self._selection(), *self._drops(), self._test(), *self._earlier()])

    def _selection(self) -> str:
        plan, winner, view = self.plan, self.winner.entrant.name, self.plan.view
        trained, completed = len(view.of(*TRAINED)), len(view.completed)
        trials = f"Of {trained} trials trained in the study {view.name}, {completed} of them to their end,"
        if not self.candidates:
            return f"{trials} {winner} was taken for the best by the single run of the search."
        changes = f" with {' '.join(plan.retrain)}" if plan.retrain else ""
        judge, seeds = plan.judge.replace("_", " "), seeds_in_words(plan.selection_seeds)
        replaced = any(failure.job.stage == Stage.test for failure in self.dropped)
        chosen = "best of those that are left; their order was fixed" if replaced else "best; it was chosen"
        return (
            f"{trials} the best {len(plan.candidates)} were trained again{changes} on {seeds} each, with the "
            "study's validation images held out. The mean over the seeds takes the place of the search's figure, "
            f"which is that of one run and, being the best of many, partly luck. By mean {judge} {winner} is the "
            f"{chosen} before any test image was read."
        )

    def _drops(self) -> list[str]:
        """Who dropped out and why, if anybody did."""
        if not self.dropped:
            return []
        failures = "; ".join(str(failure) for failure in self.dropped)
        return [f"No verdict is given of what failed by its own configuration: {failures}."]

    def _test(self) -> str:
        others = [f"the {tested.role} {tested.entrant.name}" for tested in self.tested[1:]]
        named = f"{', '.join(['The winner', *others[:-1]])} and {others[-1]} were" if others else "The winner was"
        models = sum(len(tested.runs) for tested in self.tested)
        seeds = f"{seeds_in_words(self.plan.settings.seeds)}{' each' if others else ''}"
        count = f"each of these {models} models, after its" if models > 1 else "this model, after the"
        return (
            f"{named} then trained on {self.images} on {seeds}. The test set was read once for {count} last epoch."
        )

    def _earlier(self) -> list[str]:
        """That this wasn't the first look at the test set, if it wasn't."""
        count = tested_otherwise([run for tested in self.tested for run in tested.runs])
        return [f"Beside these, finals of this study have had {count} models tested."] if count else []
