"""What a final finds, and the files that it leaves: final.json, written from these classes and read back into
them, final.csv, predictions.csv and experiment/best.yaml."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from itertools import zip_longest
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinysweep.errors import DataError, first_line
from tinysweep.files import write_whole
from tinysweep.final.candidates import Candidate, FinalPlan, Stage
from tinysweep.final.race import POWER, Figures, Gap, Race, amount, gap_in_words, race_in_words
from tinysweep.final.runs import METRICS_OF, Failure, Run, tested_otherwise
from tinysweep.final.settings import seeds_in_words
from tinysweep.metrics import METRICS
from tinysweep.results.verdict import Summary, compare, method_in_words, summarise, verdict
from tinysweep.search.study import TRAINED, Status
from tinysweep.search.table import write_experiment

BEST = "best"


@dataclass(frozen=True, kw_only=True)
class ValidationRun:
    """A run that judges a candidate by the images of a fold; `folder` is relative to the study's."""

    seed: int
    fold: int = 0
    folder: str
    validation_loss: float
    validation_accuracy: float
    seconds: float
    further: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """A run on all training images, and the indices of the test images that it errs on."""

    seed: int
    folder: str
    test_loss: float
    test_accuracy: float
    seconds: float
    errors: list[int]
    further: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RankedCandidate:
    """A candidate by its means on the validation images; `changed` are its searched parameters, `gap` is how far
    it is behind the best, or was when it dropped out of the race."""

    name: str
    trial: int | None
    params: int
    macs: int
    changed: dict[str, Any]
    validation_loss: Summary
    validation_accuracy: Summary
    chosen: bool
    gap: Gap | None = None
    out_of_race: bool = False
    runs: list[ValidationRun]
    further: dict[str, Summary] = field(default_factory=dict)

    @property
    def role(self) -> str:
        return "chosen" if self.chosen else "out of the race" if self.out_of_race else "candidate"


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
    further: dict[str, Summary] = field(default_factory=dict)


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
    first of the final models is the winner. `method` is how candidates were compared."""

    study: str
    choice: str
    method: str | None = None
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


def figure_of(each: RankedCandidate | FinalModel | ValidationRun | FinalRun, metric: str) -> Any:
    """A figure of a run, or of a model its mean over the seeds."""
    return each.further[metric] if metric in each.further else getattr(each, metric)


def tested_metrics(tested: Sequence[FinalModel], judge: str) -> list[str]:
    """What final models are shown by: accuracy, loss, and on these images too what candidates were chosen by."""
    judged = f"test_{judge.removeprefix('validation_')}"
    known = all(judged in each.further for each in tested)  # runs of earlier versions have no further figures
    return ["test_accuracy", "test_loss", *([judged] if known else [])]


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
        raise DataError(damage_message("final/final.json", error)) from error
    return final


def damage_message(file: str, error: Exception) -> str:
    """What to say of a file that tinysweep-final has left, and that can't be read."""
    missing = "it lacks " if isinstance(error, KeyError) else ""
    return f"{file} isn't as tinysweep-final writes it ({missing}{first_line(error)}); run tinysweep-final again"


def _from_json(kind: Any, content: Any) -> Any:
    """A value of a type, from the JSON that `asdict` made of it."""
    inner = get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind).items()  # a field that has a default was not written by earlier versions
        optional = {spec.name for spec in fields(kind) if {spec.default, spec.default_factory} != {MISSING}}
        needed = [(name, hint) for name, hint in hints if name in content or name not in optional]
        return kind(**{name: _from_json(hint, content[name]) for name, hint in needed})
    if get_origin(kind) is UnionType:
        return None if content is None else _from_json(inner[0], content)
    if get_origin(kind) is list:
        return [_from_json(inner[0], each) for each in content]
    if get_origin(kind) is dict:
        return {name: _from_json(inner[1], each) for name, each in content.items()}
    if kind is Any:
        return content
    return (get_origin(kind) or kind)(content)


# ---- from the runs


def validation_figures(runs: dict[str, list[Run]], judge: str) -> dict[str, Figures]:
    """The figures that candidates race by; ties go to the one with the lower validation loss.

    Raises:
        DataError: two of them were not judged by the same images.
    """
    for those in zip_longest(*runs.values()):
        first, *others = [run for run in those if run]
        for run in others:
            if not run.validation["label"].equals(first.validation["label"]):
                raise _other_images(run, first, "judged by")
    names = sorted(
        runs, key=lambda name: float(np.mean([run.metric("validation_loss") for run in runs[name]] or 0))
    )
    return {name: [run.figures(judge) for run in runs[name]] for name in names}


def rank(plan: FinalPlan, race: Race, runs: dict[str, list[Run]]) -> list[RankedCandidate]:
    """The candidates that have runs, in the order in which they end the race, with those runs that decided it."""
    named, found = {each.name: each for each in plan.candidates}, []
    for name in race.order:
        each, gap = named[name], race.gaps.get(name)
        decisive = runs[name][: gap.seeds if gap else race.seeds]
        judged = [ValidationRun(fold=run.job.config.data.fold, **_figures(plan, run)) for run in decisive]
        found.append(
            RankedCandidate(
                **_means(plan, each, decisive),
                changed=each.changed,
                chosen=False,
                gap=gap,
                out_of_race=name not in race.left,
                runs=judged,
            )
        )
    return found


def _means(plan: FinalPlan, each: Candidate, runs: Sequence[Run]) -> dict[str, Any]:
    names, confidence = METRICS_OF[runs[0].job.stage], plan.settings.confidence
    means = {name: summarise([run.metric(name) for run in runs], confidence) for name in names}
    known = [name for name in runs[0].further if all(name in run.further for run in runs)]
    further = {name: summarise([run.further[name] for run in runs], confidence) for name in known}
    costs = {"params": each.cost.params, "macs": each.cost.macs}
    return {"name": each.name, "trial": each.trial, **costs, **means, "further": further}


def _figures(plan: FinalPlan, run: Run) -> dict[str, Any]:
    figures = {name: run.metric(name) for name in METRICS_OF[run.job.stage]}
    folder = run.folder.path.relative_to(plan.view.folder).as_posix()
    seconds = run.record["train_seconds"]
    return {"seed": run.job.seed, "folder": folder, **figures, "seconds": seconds, "further": run.further}


def gather_predictions(roles: dict[str, Candidate], runs: dict[str, list[Run]]) -> pd.DataFrame:
    """predictions.csv: a row for each test image, a column of predicted classes for each final model.

    Raises:
        DataError: the models were not tested on the same images.
    """
    first = runs[roles["winner"].name][0].folder
    gathered = pd.read_csv(first.predictions)[["index", "label"]]
    for role, each in roles.items():
        for run in runs[each.name]:
            own = pd.read_csv(run.folder.predictions)
            if not own["label"].equals(gathered["label"]):
                raise _other_images(run, runs[roles["winner"].name][0], "tested on")
            gathered[f"{role}-seed-{run.job.seed}"] = own["predicted"]
    return gathered


def _other_images(run: Run, first: Run, what: str) -> DataError:
    path = run.folder.path
    return DataError(
        f"{path} was {what} other images than {first.folder.path}, so the data was changed meanwhile; move "
        f"{path.parent} away and run the same command again"
    )


@dataclass(frozen=True)
class Outcome:
    """What the runs of a final came to: the candidates, best first, none if there was nothing to choose from; who
    was tested, by role, the winner first, with the runs by name; and what made others drop out."""

    plan: FinalPlan
    ranked: list[RankedCandidate]
    roles: dict[str, Candidate]
    runs: dict[str, list[Run]]
    failures: list[Failure]

    @property
    def winner(self) -> Candidate:
        return self.roles["winner"]

    @property
    def images(self) -> str:
        """What final models are trained on, in words."""
        limit = self.winner.recipe.data.limit
        return "all training images" if limit is None else f"{limit:,} training images"

    def final(self, predictions: pd.DataFrame, judged: Sequence[Run]) -> Final:
        """The means of all, and the winner compared with the others by their predictions; `judged` are the runs of
        candidates."""
        records = [run.record for run in (*judged, *self._test_runs())]
        settings = self.plan.settings
        return Final(
            study=self.plan.view.name,
            choice=f"{self._selection()} {self._test()}",
            method=self._method() if self.ranked else None,
            confidence=settings.confidence,
            dropped=self.failures,
            candidates=[replace(each, chosen=each.name == self.winner.name) for each in self.ranked],
            tested=[self._model(role, predictions) for role in self.roles],
            comparisons=[self._verdict(role, predictions) for role in self.roles if role != "winner"],
            started=min(record["started"] for record in records),
            finished=max(record["finished"] for record in records),
            versions={"python": records[-1]["python"], **records[-1]["versions"]},
        )

    def _method(self) -> str:
        return race_in_words(self.plan.judge, self.plan.settings.confidence, drop=self.plan.settings.race)

    def _model(self, role: str, predictions: pd.DataFrame) -> FinalModel:
        candidate, wrong = self.roles[role], ~_right(predictions, role)
        runs = self.runs[candidate.name]
        return FinalModel(
            **_means(self.plan, candidate, runs),
            role=role,
            runs=[
                FinalRun(**_figures(self.plan, run), errors=np.flatnonzero(missed).tolist())
                for run, missed in zip(runs, wrong, strict=True)
            ],
            errors_in_every_seed=np.flatnonzero(wrong.all(axis=0)).tolist(),
            errors_in_any_seed=np.flatnonzero(wrong.any(axis=0)).tolist(),
        )

    def _verdict(self, role: str, predictions: pd.DataFrame) -> Verdict:
        names, confidence = (self.winner.name, self.roles[role].name), self.plan.settings.confidence
        found = compare(_right(predictions, "winner"), _right(predictions, role), confidence)
        method, said = method_in_words(len(predictions)), verdict(*names, found, confidence)
        return Verdict(winner=names[0], against=names[1], role=role, **asdict(found), test=method, verdict=said)

    def _test_runs(self) -> list[Run]:
        return [run for each in self.roles.values() for run in self.runs[each.name]]

    def _selection(self) -> str:
        """How the winner was chosen, in words, and who dropped out."""
        plan, winner, view = self.plan, self.winner.name, self.plan.view
        trained, completed = len(view.of(*TRAINED)), len(view.of(Status.complete))
        said = f"Of {trained} trials trained in the study {view.name}, {completed} of them to their end, "
        if self.ranked:
            changes = f" with {' '.join(plan.retrain)}" if plan.retrain else ""
            replaced = any(failure.stage == Stage.test for failure in self.failures)
            chosen = "best of those that are left; their order was fixed" if replaced else "best; it was chosen"
            upto = "up to " if any(each.out_of_race for each in self.ranked) else ""
            said += (
                f"the best {len(plan.candidates)} were trained again{changes} on "
                f"{upto}{seeds_in_words(plan.selection_seeds)} each, with {plan.held_out} held out. The "
                "mean over the seeds takes the place of the search's figure, which is that of one run and, being "
                f"the best of many, partly luck. By mean {METRICS[plan.judge].label} {winner} is the {chosen} "
                f"before any test image was read. {self._gaps()}"
            ).rstrip()
        else:
            said += f"{winner} was taken for the best by the single run of the search."
        if self.failures:
            failures = "; ".join(map(str, self.failures))
            said += f" No verdict is given of what failed by its own configuration: {failures}."
        return said

    def _gaps(self) -> str:
        """Who dropped out of the race, and how far behind the second is, if it didn't."""
        judge, ranked = self.plan.judge, self.ranked
        out = [
            f"{each.name} ({gap_in_words(judge, each.gap)})" for each in ranked if each.out_of_race and each.gap
        ]
        said = [f"Out of the race, being clearly worse: {', '.join(out)}."] if out else []
        if len(ranked) > 1 and (gap := ranked[1].gap) and not ranked[1].out_of_race:
            said.append(
                f"{ranked[1].name} is {gap_in_words(judge, gap)}; a true difference of "
                f"{amount(judge, gap.tellable)} would have been told with a probability of {100 * POWER:g}%."
            )
        return " ".join(said)

    def _test(self) -> str:
        """How the final models were tested, in words, and whether that was the first look at the test set."""
        others = [f"the {role} {each.name}" for role, each in self.roles.items() if role != "winner"]
        named = f"{', '.join(['The winner', *others[:-1]])} and {others[-1]} were" if others else "The winner was"
        runs = self._test_runs()
        seeds = f"{seeds_in_words(self.plan.settings.seeds)}{' each' if others else ''}"
        count = f"each of these {len(runs)} models, after its" if len(runs) > 1 else "this model, after the"
        before = tested_otherwise(runs)
        earlier = f" Beside these, finals of this study have had {before} models tested." if before else ""
        return (
            f"{named} then trained on {self.images} on {seeds}. The test set was read once for {count} last "
            f"epoch.{earlier}"
        )


def _right(predictions: pd.DataFrame, role: str) -> NDArray[np.bool_]:
    """Which images each seed of a model gets right, bool (seeds, images)."""
    columns = predictions.filter(regex=rf"^{role}-seed-\d+$")
    return columns.eq(predictions["label"], axis=0).to_numpy().T


# ---- the files


def write_files(outcome: Outcome, final: Final, predictions: pd.DataFrame) -> str:
    """Write every file, each whole, final.json last, and return the command that trains the winner's recipe."""
    plan, winner = outcome.plan, outcome.winner
    write_whole(plan.folder / "predictions.csv", _csv(predictions))
    write_whole(plan.folder / "final.csv", _csv(table(final)))
    changes = f", with {' '.join(plan.retrain)}" if plan.retrain else ""
    origin = f"The winner of the final of the study {final.study}: {winner.name}{changes}, on {outcome.images}."
    recipe = replace(winner.recipe, name=f"{final.study}-{BEST}")
    command = write_experiment(plan.folder, BEST, recipe, origin)
    write_whole(plan.folder / "final.json", json.dumps(asdict(final), indent=2, allow_nan=False) + "\n")
    return command


def table(final: Final) -> pd.DataFrame:
    """final.csv: a row for each run."""
    rows = [
        {"stage": stage.value, "role": "candidate", **vars(model), **vars(run), **run.further}
        for stage, models in ((Stage.validation, final.candidates), (Stage.test, final.tested))
        for model in models
        for run in model.runs
    ]
    further = dict.fromkeys(name for row in rows for name in row["further"])
    metrics = [*(name for names in METRICS_OF.values() for name in names), *further]
    columns = ["stage", "role", "name", "trial", "seed", "fold", "params", "macs", *metrics, "seconds", "folder"]
    return pd.DataFrame(rows, columns=columns).astype({"trial": "Int64", "fold": "Int64"})


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")
