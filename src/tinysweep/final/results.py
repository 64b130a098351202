"""What a final finds, and the files that it leaves: final.json, written from these classes and read back into
them, final.csv, predictions.csv and experiment/best.yaml."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinysweep.errors import DataError, first_line
from tinysweep.files import write_whole
from tinysweep.final.candidates import Candidate, Plan, Stage
from tinysweep.final.runs import Failure, Run, tested_otherwise
from tinysweep.final.settings import seeds_in_words
from tinysweep.metrics import METRICS
from tinysweep.results.verdict import Comparison, Summary, compare, method_in_words, summarise, verdict
from tinysweep.search.study import TRAINED
from tinysweep.search.table import write_experiment

BEST = "best"
VALIDATION, TEST = ("validation_loss", "validation_accuracy"), ("test_loss", "test_accuracy")


@dataclass(frozen=True, kw_only=True)
class ValidationRun:
    """A run that judges a candidate; `folder` is relative to the study's."""

    seed: int
    folder: str
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """A run on all training images, and the indices of the test images that it errs on."""

    seed: int
    folder: str
    test_loss: float
    test_accuracy: float
    seconds: float
    errors: list[int]


@dataclass(frozen=True, kw_only=True)
class RankedCandidate:
    """A candidate by its means on the validation images; `changed` are its searched parameters."""

    name: str
    trial: int | None
    params: int
    macs: int
    changed: dict[str, Any]
    validation_loss: Summary
    validation_accuracy: Summary
    chosen: bool
    runs: list[ValidationRun]


@dataclass(frozen=True, kw_only=True)
class FinalModel:
    """The winner, the runner-up or the baseline, which is no trial, by its means on the test images."""

    role: str
    name: str
    trial: int | None
    params: int
    macs: int
    test_loss: Summary
    test_accuracy: Summary
    runs: list[FinalRun]
    errors_in_every_seed: list[int]
    errors_in_any_seed: list[int]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The winner against another model: a `Comparison`, its method, and what may be said."""

    winner: str
    against: str
    role: str
    difference: float
    low: float | None
    high: float | None
    p_value: float
    p_value_seeds: float | None = None
    test: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Final:
    """final.json. Candidates are sorted, the best first; there are none if there was nothing to choose from. The
    first of the final models is the winner."""

    study: str
    choice: str
    confidence: float
    dropped: list[Failure]
    candidates: list[RankedCandidate]
    tested: list[FinalModel]
    comparisons: list[Verdict]
    started: str
    finished: str
    versions: dict[str, str]

    @property
    def winner(self) -> FinalModel:
        return self.tested[0]


def read_final(folder: Path) -> Final | None:
    """The final of the study in `folder`; None if there was none.

    Raises:
        DataError: final.json isn't what tinysweep-final writes.
    """
    try:
        content = json.loads((folder / "final" / "final.json").read_text(encoding="utf-8"))
        final: Final = _from_json(Final, {"dropped": [], **content})  # which earlier versions didn't write
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(damaged("final/final.json", error)) from error
    return final


def damaged(file: str, error: Exception) -> str:
    """What to say of a file that tinysweep-final has left, and that can't be read."""
    missing = "it lacks " if isinstance(error, KeyError) else ""
    return f"{file} isn't as tinysweep-final writes it ({missing}{first_line(error)}); run tinysweep-final again"


def _from_json(kind: Any, content: Any) -> Any:
    """A value of a type, from the JSON that `asdict` made of it."""
    inner = get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind).items()  # a field that has a default was not written by earlier versions
        needed = [(name, hint) for name, hint in hints if name in content or not hasattr(kind, name)]
        return kind(**{name: _from_json(hint, content[name]) for name, hint in needed})
    if get_origin(kind) is UnionType:
        return None if content is None else _from_json(inner[0], content)
    if get_origin(kind) is list:
        return [_from_json(inner[0], each) for each in content]
    return (get_origin(kind) or kind)(content)


@dataclass(frozen=True)
class Trained:
    """A candidate or the baseline, in its role, with a finished run for each seed."""

    role: str
    candidate: Candidate
    runs: list[Run]

    def mean(self, metric: str) -> float:
        return float(np.mean([run.metric(metric) for run in self.runs]))

    def rank(self, judge: str) -> tuple[float, float]:
        """What candidates are sorted by, the best having the lowest: the mean over seeds, ties by validation
        loss."""
        return METRICS[judge].loss(self.mean(judge)), self.mean("validation_loss")

    def summary(self, metrics: Sequence[str], confidence: float) -> dict[str, Any]:
        """What `RankedCandidate` and `FinalModel` have in common."""
        means = {name: summarise([run.metric(name) for run in self.runs], confidence) for name in metrics}
        one, cost = self.candidate, self.candidate.cost
        return {"name": one.name, "trial": one.trial, "params": cost.params, "macs": cost.macs, **means}


@dataclass(frozen=True)
class Outcome:
    """What the runs of a final came to: the candidates, best first, none if there was nothing to choose from; the
    final models, the winner first; and what made others drop out."""

    plan: Plan
    ranked: Sequence[Trained]
    tested: Sequence[Trained]
    failures: Sequence[Failure] = ()

    def final(self, predictions: pd.DataFrame) -> Final:
        """The means of all, and the winner compared with the others by their predictions."""
        confidence = self.plan.settings.confidence
        records = [run.record for each in (*self.ranked, *self.tested) for run in each.runs]
        correct = [_correct(predictions, each) for each in self.tested]
        return Final(
            study=self.plan.view.name,
            choice=" ".join([self._selection(), *self._drops(), self._test(), *self._earlier()]),
            confidence=confidence,
            dropped=list(self.failures),
            candidates=[self._candidate(each) for each in self.ranked],
            tested=[self._model(each, ~right) for each, right in zip(self.tested, correct, strict=True)],
            comparisons=[
                self._verdict(other, compare(correct[0], right, confidence), len(predictions))
                for other, right in zip(self.tested[1:], correct[1:], strict=True)
            ],
            started=min(record["started"] for record in records),
            finished=max(record["finished"] for record in records),
            versions={"python": records[-1]["python"], **records[-1]["versions"]},
        )

    def _candidate(self, each: Trained) -> RankedCandidate:
        return RankedCandidate(
            **each.summary(VALIDATION, self.plan.settings.confidence),
            changed=each.candidate.changed,
            chosen=each.candidate is self.tested[0].candidate,
            runs=[ValidationRun(**self._run(run, VALIDATION)) for run in each.runs],
        )

    def _model(self, each: Trained, wrong: NDArray[np.bool_]) -> FinalModel:
        return FinalModel(
            **each.summary(TEST, self.plan.settings.confidence),
            role=each.role,
            runs=[
                FinalRun(**self._run(run, TEST), errors=np.flatnonzero(missed).tolist())
                for run, missed in zip(each.runs, wrong, strict=True)
            ],
            errors_in_every_seed=np.flatnonzero(wrong.all(axis=0)).tolist(),
            errors_in_any_seed=np.flatnonzero(wrong.any(axis=0)).tolist(),
        )

    def _run(self, run: Run, metrics: Sequence[str]) -> dict[str, Any]:
        return {
            "seed": run.job.seed,
            "folder": run.folder.path.relative_to(self.plan.view.folder).as_posix(),
            **{name: run.metric(name) for name in metrics},
            "seconds": run.record["train_seconds"],
        }

    def _verdict(self, other: Trained, found: Comparison, images: int) -> Verdict:
        winner, against = self.tested[0].candidate.name, other.candidate.name
        return Verdict(
            winner=winner,
            against=against,
            role=other.role,
            **dataclasses.asdict(found),
            test=method_in_words(images),
            verdict=verdict(winner, against, found, self.plan.settings.confidence),
        )

    # ---- the choice, in words

    @property
    def images(self) -> str:
        """What final models are trained on."""
        limit = self.tested[0].candidate.recipe.data.limit
        return "all training images" if limit is None else f"{limit:,} training images"

    def _selection(self) -> str:
        plan, winner, view = self.plan, self.tested[0].candidate.name, self.plan.view
        trained, completed = len(view.of(*TRAINED)), len(view.completed)
        trials = f"Of {trained} trials trained in the study {view.name}, {completed} of them to their end,"
        if not self.ranked:
            return f"{trials} {winner} was taken for the best by the single run of the search."
        changes = f" with {' '.join(plan.retrain)}" if plan.retrain else ""
        replaced = any(failure.stage == Stage.test for failure in self.failures)
        chosen = "best of those that are left; their order was fixed" if replaced else "best; it was chosen"
        return (
            f"{trials} the best {len(plan.candidates)} were trained again{changes} on "
            f"{seeds_in_words(plan.selection_seeds)} each, with the study's validation images held out. The mean "
            "over the seeds takes the place of the search's figure, which is that of one run and, being the best "
            f"of many, partly luck. By mean {METRICS[plan.judge].label} {winner} is the {chosen} before any test "
            "image was read."
        )

    def _drops(self) -> list[str]:
        failures = "; ".join(map(str, self.failures))
        return [f"No verdict is given of what failed by its own configuration: {failures}."] if failures else []

    def _test(self) -> str:
        others = [f"the {each.role} {each.candidate.name}" for each in self.tested[1:]]
        named = f"{', '.join(['The winner', *others[:-1]])} and {others[-1]} were" if others else "The winner was"
        models = sum(len(each.runs) for each in self.tested)
        seeds = f"{seeds_in_words(self.plan.settings.seeds)}{' each' if others else ''}"
        count = f"each of these {models} models, after its" if models > 1 else "this model, after the"
        return (
            f"{named} then trained on {self.images} on {seeds}. The test set was read once for {count} last epoch."
        )

    def _earlier(self) -> list[str]:
        """That this wasn't the first look at the test set, if it wasn't."""
        count = tested_otherwise([run for each in self.tested for run in each.runs])
        return [f"Beside these, finals of this study have had {count} models tested."] if count else []


def write_files(outcome: Outcome, final: Final, predictions: pd.DataFrame) -> str:
    """Write every file, each whole, final.json last, and return the command that trains the winner's recipe."""
    plan, winner = outcome.plan, outcome.tested[0].candidate
    write_whole(plan.folder / "predictions.csv", _csv(predictions))
    write_whole(plan.folder / "final.csv", _csv(table(final)))
    changes = f", with {' '.join(plan.retrain)}" if plan.retrain else ""
    origin = f"The winner of the final of the study {final.study}: {winner.name}{changes}, on {outcome.images}."
    recipe = dataclasses.replace(winner.recipe, name=f"{final.study}-{BEST}")
    command = write_experiment(plan.folder, BEST, recipe, origin)
    content = json.dumps(dataclasses.asdict(final), indent=2, allow_nan=False)
    write_whole(plan.folder / "final.json", content + "\n")
    return command


def gather_predictions(tested: Sequence[Trained]) -> pd.DataFrame:
    """predictions.csv: a row for each test image, a column of predicted classes for each final model.

    Raises:
        DataError: the models were not tested on the same images.
    """
    first = tested[0].runs[0].folder
    gathered = pd.read_csv(first.predictions)[["index", "label"]]
    for each in tested:
        for run in each.runs:
            own, path = pd.read_csv(run.folder.predictions), run.folder.path
            if not own["label"].equals(gathered["label"]):
                raise DataError(
                    f"{path} was tested on other images than {first.path}, so the data was changed meanwhile; "
                    f"move {path.parent} away and run the same command again"
                )
            gathered[f"{each.role}-seed-{run.job.seed}"] = own["predicted"]
    return gathered


def _correct(predictions: pd.DataFrame, each: Trained) -> NDArray[np.bool_]:
    """Which images each seed of a model gets right, bool (seeds, images)."""
    columns = predictions[[f"{each.role}-seed-{run.job.seed}" for run in each.runs]]
    return columns.eq(predictions["label"], axis=0).to_numpy().T


def table(final: Final) -> pd.DataFrame:
    """final.csv: a row for each run."""
    rows = [
        {"stage": stage.value, "role": "candidate", **vars(model), **vars(run)}
        for stage, models in ((Stage.validation, final.candidates), (Stage.test, final.tested))
        for model in models
        for run in model.runs
    ]
    columns = ["stage", "role", "name", "trial", "seed", "params", "macs", *VALIDATION, *TEST, "seconds", "folder"]
    return pd.DataFrame(rows, columns=columns).astype({"trial": "Int64"})


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")
