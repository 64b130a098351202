"""All of a final, read and checked before anything is trained."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from tinysweep.data.load import check
from tinysweep.errors import StudyError
from tinysweep.final.candidates import Entrant, baseline, best
from tinysweep.final.settings import FinalConfig, seeds_in_words
from tinysweep.metrics import METRICS
from tinysweep.results.view import open_view
from tinysweep.settings.schema import Config, DataName
from tinysweep.training.device import hardware, usable_cores

RUN_BYTES = 2**20  # what a run leaves, its model aside, rounded up
WEIGHT_BYTES = 4


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


class Plan:
    """One call of the command; `notes` say what of that which was asked for is done otherwise.

    Raises:
        ConfigError: a wrong setting or override; no such baseline.
        StudyError: no study, or none of its trials can enter; no room for the runs.
        BudgetError: a recipe costs more than its budget allows.
        DataError: the data, or the record of a trial, is missing or damaged.
    """

    def __init__(self, study_folder: Path, settings: FinalConfig, overrides: list[str]) -> None:
        self.settings = settings
        self.view = open_view(study_folder, settings.storage, settings.study)
        self.folder = study_folder / "final"
        self.notes: list[str] = []
        if self.view.retrain is None:
            self.notes.append(
                "the study doesn't say what its best are retrained with, which its sweep, run once more, notes; "
                f"they are trained as they were searched{', with ' if overrides else ''}{' '.join(overrides)}"
            )
        words = [*(self.view.retrain or []), *overrides]
        self.retrain = list({word.partition("=")[0]: word for word in words}.values())  # of two, the last counts
        aim = self.view.objectives[0]
        self.judge = aim if METRICS[aim].each_epoch else "validation_loss"
        self.candidates = best(self.view, settings.top, settings.exclude, self.retrain)
        self.selects = len(self.candidates) > 1
        self._note_few()
        self.baseline = self._baseline()
        self._require_same_images()
        self._note_unknown_images()
        check(
            [data for each in self.candidates for data in (each.held_out or each.recipe.data, each.recipe.data)],
            images=False,
        )
        hardware(self.candidates[0].recipe.trainer)
        self._require_room()

    @property
    def selection_seeds(self) -> int:
        """Seeds of each candidate."""
        return self.settings.selection_seeds or self.settings.seeds

    @property
    def workers(self) -> int:
        """Runs at a time."""
        return self.settings.jobs or usable_cores()

    @property
    def total(self) -> int:
        """How many runs the final has."""
        finalists = len(self.roles(self.candidates))
        return self.selects * len(self.candidates) * self.selection_seeds + finalists * self.settings.seeds

    def selection_jobs(self) -> list[Job]:
        """Every candidate on every seed, with the validation images held out and the test set left alone."""
        return self._jobs(Stage.validation, self.candidates, self.selection_seeds)

    def roles(self, ordered: Sequence[Entrant]) -> dict[str, Entrant]:
        """Who is tested, by role, given the candidates in their order, best first."""
        roles = {"winner": ordered[0]}
        if self.settings.runner_up and len(ordered) > 1:
            roles["runner-up"] = ordered[1]
        if self.baseline:
            roles["baseline"] = self.baseline
        return roles

    def test_jobs(self, roles: dict[str, Entrant]) -> list[Job]:
        """Every finalist on every seed and on all training images, each tested once."""
        return self._jobs(Stage.test, roles.values(), self.settings.seeds)

    def _jobs(self, stage: Stage, entrants: Iterable[Entrant], seeds: int) -> list[Job]:
        return [self._job(stage, entrant, seed) for entrant in entrants for seed in range(seeds)]

    def _job(self, stage: Stage, entrant: Entrant, seed: int) -> Job:
        recipe, tested = entrant.recipe, stage == Stage.test
        trainer = replace(recipe.trainer, seed=seed, test=tested)
        data = recipe.data if tested or entrant.held_out is None else entrant.held_out
        config = replace(recipe, name=entrant.slug, data=data, trainer=trainer)
        return Job(stage, entrant.name, seed, config, self.folder / "runs" / stage / f"{entrant.slug}-seed-{seed}")

    def heading(self) -> list[str]:
        """What is about to be done."""
        roles = self.roles(self.candidates)
        names = [entrant.name if role == "baseline" else f"the {role}" for role, entrant in roles.items()]
        tested = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
        trials = f"the best {len(self.candidates)} of {len(self.view.completed)} completed trials"
        chosen = f"{trials} on {seeds_in_words(self.selection_seeds)}, then " if self.selects else ""
        seeds = seeds_in_words(self.settings.seeds)
        return [f"final of the study {self.view.name}: {chosen}{tested} on {seeds} and the test set", *self.notes]

    def _note_few(self) -> None:
        entrants, top = self.candidates, self.settings.top
        if len(entrants) < top:
            self.notes.append(
                f"top={top}, but the study has {len(entrants)} completed trials of different recipes"
            )
        if not self.selects:
            self.notes.append(
                f"nothing to choose from: {entrants[0].name} goes to the test as the best single run of the search"
            )

    def _baseline(self) -> Entrant | None:
        name, rival = self.settings.baseline, self.candidates[0]
        found = baseline(name, rival) if name else None
        if name and not found:
            self.notes.append(f"baseline={name} is left out: it isn't a recipe for {rival.recipe.data.name}")
        return found

    def _require_same_images(self) -> None:
        """Refuse candidates whose figures are of different images, as in a study that searches its data."""
        splits: dict[tuple[object, ...], str] = {}
        for entrant in self.candidates:
            data, held_out = entrant.recipe.data, entrant.held_out or entrant.recipe.data
            images = (data.digest or data.root) if data.name == DataName.image_folder else data.name
            split = images, data.test_fraction, held_out.validation, held_out.split_seed
            splits.setdefault(split, entrant.name)
        if len(splits) > 1:
            one, other = list(splits.values())[:2]
            raise StudyError(
                f"{one} and {other} have different data or validation images, so their figures can't be compared; "
                "leave trials out by exclude=[NUMBER]"
            )

    def _note_unknown_images(self) -> None:
        data = self.candidates[0].recipe.data
        if data.name == DataName.image_folder and data.digest is None:
            self.notes.append(
                f"the study is of an earlier version, which didn't note what {data.root} held; it is taken as "
                "it is now"
            )

    def _require_room(self) -> None:
        largest = max(entrant.cost.params for entrant in self.roles(self.candidates).values())
        needed = self.total * (RUN_BYTES + WEIGHT_BYTES * largest)
        free = shutil.disk_usage(self.view.folder).free
        if free < needed:
            raise StudyError(
                f"{self.view.folder} has {free // 2**20:,} MiB free, but {self.total} runs may need "
                f"{needed // 2**20:,} MiB; make room, or ask for fewer seeds"
            )
