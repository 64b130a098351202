"""Who takes part in a final, the best trials of a study, each with its whole recipe, and the baseline; and the
plan of their runs, checked before anything is trained."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from tinysweep.data.catalogue import is_own
from tinysweep.data.load import check, describe, fold_count, with_absolute_root
from tinysweep.errors import ConfigError, DataError, StudyError, TinysweepError
from tinysweep.final.settings import TRACKER, FinalConfig, seeds_in_words
from tinysweep.metrics import METRICS
from tinysweep.network import budget
from tinysweep.network.budget import Cost
from tinysweep.results.view import StudyView, open_view
from tinysweep.run.record import RunFolder
from tinysweep.search.compose_trial import apply_overrides, digest, identity
from tinysweep.search.space import plain_params
from tinysweep.search.study import trial_path
from tinysweep.settings.compose import compose
from tinysweep.settings.schema import Config, DataConfig, DataName, TrackerConfig
from tinysweep.targets import Target
from tinysweep.tracking.tracker import require
from tinysweep.training.device import hardware, usable_cores


@dataclass(frozen=True)
class Candidate:
    """A trial, or the baseline. `recipe` trains on all training images; `held_out` is its data with the first
    of the study's folds held out; `changed` are the searched parameters."""

    name: str
    recipe: Config
    cost: Cost
    held_out: DataConfig
    trial: int | None = None
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> tuple[object, ...]:
        """What decides which images it is judged by."""
        data = self.held_out
        content = (data.digest or data.root) if is_own(data.name) else data.name
        return content, data.test_fraction, data.validation, data.split_seed


def time_in_words(seconds: float) -> str:
    """Such as "40 s", "25 min" or "3.5 h"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{round(minutes)} min" if minutes < 100 else f"{minutes / 60:.1f} h"


class Stage(StrEnum):
    """What a run is for: to judge a candidate by validation images, or to test a final model."""

    validation = "validation"
    test = "test"


@dataclass(frozen=True)
class Job:
    """A run that the final needs, and the folder where it is to lie."""

    stage: Stage
    name: str
    seed: int
    config: Config
    folder: Path


class FinalPlan:
    """One call of the command, refused where it can't be carried out; `notes` say what of that which was asked for
    is done otherwise."""

    def __init__(self, study_folder: Path, settings: FinalConfig, overrides: list[str]) -> None:
        self.settings = settings
        self.view = open_view(study_folder, settings.storage, settings.study)
        self.folder = study_folder / "final"
        words = [*(self.view.retrain or []), *overrides]
        counted = {word.partition("=")[0]: word for word in words}  # of two, the last counts
        self.retrain = [word for key, word in counted.items() if not _is_of_tracker(key)]
        aim = self.view.objectives[0]
        self.judge = aim if METRICS[aim].each_epoch else "validation_loss"
        self.selection_seeds = settings.selection_seeds or settings.seeds
        self.workers = settings.jobs or usable_cores()
        self.candidates = best_trials(self.view, settings.top, settings.exclude, self.retrain)
        self.tracker = self._tracker([word for key, word in counted.items() if _is_of_tracker(key)])
        self.baseline = find_baseline(settings.baseline, self.candidates[0]) if settings.baseline else None
        self.notes = list(self._find_notes(overrides))
        self._require_same_images()
        self._require_same_metrics()
        check([data for each in self.candidates for data in (each.held_out, each.recipe.data)], images=False)
        hardware(self.candidates[0].recipe.trainer)
        self.folds = fold_count(self.candidates[0].held_out) if self.selects else 1

    def _require_same_metrics(self) -> None:
        """Refuse a metric of a user's own that has changed, as its figures of before and of now are different."""
        for name, target in self.candidates[0].recipe.metrics.items():
            of = Target(f"metrics.{name}", target)
            if self.view.definition.get(f"{of.setting}.source") not in (None, of.digest()):
                raise ConfigError(
                    f"the source of {of.shown} has changed since the study {self.view.name} was begun, so its "
                    "figures can't be compared; go back to that version, or begin another study with the new one"
                )

    @property
    def selects(self) -> bool:
        """Whether there is a choice to make."""
        return len(self.candidates) > 1

    @property
    def held_out(self) -> str:
        """What each run of a candidate holds out, in words."""
        apart = min(self.folds, self.selection_seeds) > 1
        return f"another of {self.folds} folds" if apart else "the study's validation images"

    @property
    def total(self) -> int:
        """How many runs the final has."""
        return len(self.selection_jobs()) + len(self.test_jobs(self.roles(self.candidates).values()))

    def selection_jobs(self) -> list[Job]:
        """Every candidate on every seed, which holds out the next fold and leaves the test set alone."""
        return self._jobs(Stage.validation, self.candidates, self.selection_seeds) if self.selects else []

    def roles(self, ordered: Sequence[Candidate]) -> dict[str, Candidate]:
        """Who is tested, by role, given the candidates in their order, best first."""
        roles = {"winner": ordered[0]}
        if self.settings.runner_up and len(ordered) > 1:
            roles["runner-up"] = ordered[1]
        if self.baseline:
            roles["baseline"] = self.baseline
        return roles

    def test_jobs(self, models: Iterable[Candidate]) -> list[Job]:
        """Each of these on every seed and on all training images, tested once."""
        return self._jobs(Stage.test, models, self.settings.seeds)

    def _jobs(self, stage: Stage, candidates: Iterable[Candidate], seeds: int) -> list[Job]:
        models = list(candidates)
        return [self._job(stage, candidate, seed) for seed in range(seeds) for candidate in models]

    def _job(self, stage: Stage, candidate: Candidate, seed: int) -> Job:
        recipe, tested = candidate.recipe, stage == Stage.test
        slug = candidate.name.replace(" ", "-").replace("/", "-")
        trainer = replace(recipe.trainer, seed=seed, test=tested)
        data = recipe.data if tested else replace(candidate.held_out, fold=seed % self.folds)
        config = replace(recipe, name=slug, data=data, trainer=trainer, tracker=self.tracker)
        return Job(stage, candidate.name, seed, config, self.folder / "runs" / stage / f"{slug}-seed-{seed}")

    def _tracker(self, words: list[str]) -> TrackerConfig:
        """Where the runs are logged: where those of the study were, unless the command says otherwise."""
        tracker = compose(*words).tracker if words else self.candidates[0].recipe.tracker
        require(tracker)
        return tracker.seen_from(Path.cwd()).of_study(self.view.name, self.view.tracked)

    def heading(self) -> list[str]:
        """What is about to be done."""
        roles = self.roles(self.candidates)
        names = [each.name if role == "baseline" else f"the {role}" for role, each in roles.items()]
        tested = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
        trials = f"the best {len(self.candidates)} of {len(self.view.completed)} completed trials"
        judged = f"{seeds_in_words(self.selection_seeds)} with {self.held_out} held out"
        chosen = f"{trials} on {judged}, then " if self.selects else ""
        seeds = seeds_in_words(self.settings.seeds)
        lines = [f"final of the study {self.view.name}: {chosen}{tested} on {seeds} and the test set"]
        if (seconds := self.estimate()) is not None:
            lines.append(
                f"up to {self.total} runs, about {time_in_words(seconds)} at the pace of the study's trials"
            )
        return [*lines, *self.notes]

    def estimate(self) -> float | None:
        """Seconds that all runs may take, by those of an epoch of each candidate's trial; None where no trial has
        left them. The baseline is taken to be as fast as the others are on average."""
        paces = {each.name: pace for each in self.candidates if (pace := self._pace(each.trial)) is not None}
        if not paces:
            return None
        average = statistics.fmean(paces.values())
        jobs = [*self.selection_jobs(), *self.test_jobs(self.roles(self.candidates).values())]
        work = (job.config.trainer.epochs * paces.get(job.name, average) for job in jobs)
        return sum(work) / min(self.workers, len(jobs))

    def _pace(self, trial: int | None) -> float | None:
        """Seconds of an epoch of a trial."""
        if trial is None:
            return None
        history = RunFolder(self.view.folder / trial_path(trial)).read_history()
        return statistics.fmean(epoch.seconds for epoch in history) if history else None

    def _find_notes(self, overrides: Sequence[str]) -> Iterator[str]:
        found, top, first = len(self.candidates), self.settings.top, self.candidates[0]
        data = first.recipe.data
        if self.view.retrain is None:
            yield (
                "the study doesn't say what its best are retrained with, which its sweep, run once more, notes; "
                f"they are trained as they were searched{', with ' if overrides else ''}{' '.join(overrides)}"
            )
        if found < top:
            yield f"top={top}, but the study has {found} completed trials of different recipes"
        if not self.selects:
            yield f"nothing to choose from: {first.name} goes to the test as the best single run of the search"
        if self.settings.baseline and not self.baseline:
            yield f"baseline={self.settings.baseline} is left out: it isn't a recipe for {data.name}"
        if data.name == DataName.image_folder and data.digest is None:
            yield (
                f"the study is of an earlier version, which didn't note what {data.root} held; it is taken as "
                "it is now"
            )

    def _require_same_images(self) -> None:
        """Refuse candidates whose figures are of different images, as in a study that searches its data."""
        first = self.candidates[0]
        if others := [each for each in self.candidates if each.images != first.images]:
            raise StudyError(
                f"{first.name} and {others[0].name} have different data or validation images, so their figures "
                "can't be compared; leave trials out by exclude=[NUMBER]"
            )


def _is_of_tracker(key: str) -> bool:
    return key.partition(".")[0] == TRACKER


def best_trials(view: StudyView, wanted: int, excluded: Sequence[int], retrain: Sequence[str]) -> list[Candidate]:
    """The best completed trials whose recipes differ, at most as many as are wanted."""
    known = {trial.number for trial in view.trials}
    if strangers := [number for number in excluded if number not in known]:
        raise ConfigError(f"exclude names trial {strangers[0]}, which the study {view.name} doesn't have")
    found: dict[str, Candidate] = {}
    for trial in view.completed:
        if trial.number in excluded:
            continue
        try:
            candidate = _candidate(view, trial, retrain)
        except TinysweepError as error:
            numbers = ",".join(map(str, [*excluded, trial.number]))
            advice = "" if isinstance(error, ConfigError) else f"; exclude=[{numbers}] leaves it out"
            raise type(error)(f"trial {trial.number}: {error}{advice}") from error
        found.setdefault(digest(identity(candidate.recipe)), candidate)
        if len(found) == wanted:
            break
    if not found:
        left = " that isn't excluded" if excluded else ""
        raise StudyError(f"the study {view.name} has no completed trial{left}; go on with its sweep first")
    return list(found.values())


def _candidate(view: StudyView, trial: FrozenTrial, retrain: Sequence[str]) -> Candidate:
    own = view.config(trial.number)
    recipe = apply_overrides(own, retrain, view.record(trial.number)["overrides"])
    held_out = with_absolute_root(
        replace(recipe.data, validation=own.data.validation, split_seed=own.data.split_seed, fold=0)
    )
    trainer = replace(recipe.trainer, seed=0, threads=0, test=True)
    recipe = replace(recipe, data=replace(held_out, validation=0.0), trainer=trainer, trial=None)
    return Candidate(f"trial {trial.number}", *_within_budget(recipe), held_out, trial.number, plain_params(trial))


def find_baseline(name: str, rival: Candidate) -> Candidate | None:
    """The experiment of this name as it stands, but on the images and with the metrics of its rival; None if it is
    a recipe for another data set."""
    try:
        config, data = compose(f"experiment={name}"), rival.recipe.data
    except ConfigError as error:
        raise ConfigError(f"baseline={name}: {error}; baseline=null goes without one") from error
    if config.data.name != data.name:
        return None
    trainer = replace(config.trainer, seed=0, threads=0, test=True, device=rival.recipe.trainer.device)
    config = replace(config, data=data, trainer=trainer, metrics=rival.recipe.metrics)
    return Candidate(name, *_within_budget(config), data)


def _within_budget(config: Config) -> tuple[Config, Cost]:
    """A configuration with a number for its width, and its cost, which is within the budget."""
    try:
        shape = describe(config.data)
    except DataError as error:
        raise DataError(f"{error}; data.root=FOLDER says where the images are now") from error
    config = budget.resolve(config, shape)
    return config, budget.gate(config, shape)
