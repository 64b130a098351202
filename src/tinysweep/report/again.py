"""How to do it again: the commands that make a study and its winner, and what they were run with."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from tinysweep.errors import DataError, TinysweepError
from tinysweep.report.sections import PageTable
from tinysweep.results.view import StudyView
from tinysweep.search.compose_trial import DIGEST
from tinysweep.search.space import as_sweep, in_words, read_space
from tinysweep.search.study import TRAINED
from tinysweep.settings.command_line import as_value, line, shown_folder
from tinysweep.settings.compose import COMPOSITION_ERRORS, compose
from tinysweep.settings.schema import Config
from tinysweep.settings.searchpath import SWEEPS_FOLDER
from tinysweep.settings.stored import flatten

# What a sweep adds to each trial's overrides.
OF_A_TRIAL = ("trial", "trainer.threads", "trainer.test", "tracker.folder", "tracker.uri", DIGEST)
NOT_TYPED = ("trial", "tracker.group", "tracker.key")  # but set by the sweep
PARAMS = "params."  # what a searched parameter begins with in a study's definition
RECIPES = (("final/experiment", "best"), ("experiment", "best"), ("experiment", "winner"))


@dataclass(frozen=True)
class Instructions:
    """What a study, and its winner, can be made again with: commands by what they do, what is searched, the
    settings that all trials share, and what the winner was run with."""

    commands: list[tuple[str, str]]
    searched: PageTable
    shared: PageTable
    environment: dict[str, object]
    problem: str | None  # that makes the commands incomplete
    has_guesses: bool  # the study doesn't say by which command it was begun


def instructions(view: StudyView, number: int | None) -> Instructions:
    """How to do a study again, and trial `number`, its winner, alone."""
    record: dict[str, Any] = {}
    config = problem = None
    try:
        if number is not None:
            record, config = view.record(number), view.config(number)
    except DataError as error:
        problem = str(error)
    overrides = [str(text) for text in record.get("overrides") or []]
    place, commands = view.typed["place"] if view.typed else None, []
    if view.typed or overrides:
        words = view.typed["words"] if view.typed else ["-m", *words_of_study(view, overrides)]
        commands.append(("The study", line(["tinysweep", *words], place)))
    if config and overrides:
        alone = line(["tinysweep", *words_of_trial(overrides, config)], place)
        commands.append((f"Trial {number} alone", alone))
    shared = {name: value for name, value in view.definition.items() if not name.startswith(PARAMS)}
    searched = {name.removeprefix(PARAMS): kind for name, kind in view.definition.items() if name not in shared}
    searched = searched or {name: in_words(kind) for name, kind in view.searched.items()}
    return Instructions(
        [*commands, *later_commands(view)],
        PageTable("search space", ["parameter", "values"], [[*pair] for pair in searched.items()]),
        PageTable("settings that all trials share", ["setting", "value"], [[*pair] for pair in shared.items()]),
        _environment(record) if record else {},
        problem,
        has_guesses=view.typed is None and bool(overrides),
    )


def later_commands(view: StudyView) -> list[tuple[str, str]]:
    """What each command does that a study is followed by, and the command."""
    found, folder = [], shown_folder(view.folder)
    for below, name in RECIPES:
        if (view.folder / below / f"{name}.yaml").exists():
            where = shown_folder((view.folder / below).parent)
            command = line(["tinysweep", "--config-dir", where, f"experiment={name}"])
            found.append(("The winner, trained anew", command))
            break
    if final := final_command(view):
        found.append(("The best over several seeds, and the winner's test", final))
    asked = {"--storage": view.storage, "--study": view.chosen}
    words = [word for option, given in asked.items() if given for word in (option, given)]
    return [*found, ("This page", line(["tinysweep-report", folder, *words]))]


def final_command(view: StudyView) -> str | None:
    """The command that holds the final of a study; None where there is no trial with a record to train again."""
    try:
        view.config(view.completed[0].number)
    except (DataError, IndexError):
        return None
    asked = {"storage": view.storage, "study": view.chosen}
    words = [f"{key}={given}" for key, given in asked.items() if given]
    return line(["tinysweep-final", shown_folder(view.folder), *words])


def words_of_trial(overrides: Sequence[str], config: Config) -> list[str]:
    """The words of a single run that trains what a trial's job trained. A study's file needs -m, so what it set is
    said setting by setting; and so is all, where the words no longer compose."""
    said = {_key(word): word for word in _without(overrides, "trial")}  # of two, the last counts
    words = _without(said.values(), "sweeps")
    wanted = flatten(asdict(config))
    try:
        known = flatten(asdict(compose(*words)))
        if "sweeps" not in said:
            return words
    except TinysweepError:
        words, known = [], flatten(asdict(compose()))
    other = {key: held for key, held in wanted.items() if held != known[key] and key not in NOT_TYPED}
    return [*_without(words, *other), *(f"{key}={as_value(held)}" for key, held in other.items())]


def words_of_study(view: StudyView, overrides: Sequence[str]) -> list[str]:
    """The words that make a study, after -m, from what its trials and its file tell."""
    shared = _without(overrides, *OF_A_TRIAL, *view.searched)
    named = next((text.partition("=")[2] for text in shared if _key(text) == "sweeps"), None)
    known, has_sampler = _study_file(named)
    own, name = [], view.name
    if known is None:
        shared = _without(shared, "sweeps")
        own.append(f"hydra.sweeper.objective=[{','.join(view.objectives)}]")
    if not has_sampler and any(_is_continuous(kind) for kind in view.searched.values()):  # which no grid is
        own += ["hydra/sweeper/sampler=tpe", f"hydra.sweeper.n_trials={len(view.of(*TRAINED))}"]
    if view.from_table:
        name += "-again"  # a folder whose storage is gone takes no more trials
    if known is None or named != name:
        own.insert(0, f"hydra.sweeper.study_name={as_value(name)}")
    for key, kind in view.searched.items():
        # A table tells only which values were drawn, so its study's file knows better.
        if known is None or key not in known or (known[key] != kind and not view.from_table):
            shared.append(f"{key}={as_sweep(kind)}")
    return [*shared, *own]


def _is_continuous(kind: BaseDistribution) -> bool:
    return isinstance(kind, FloatDistribution | IntDistribution) and (kind.log or kind.step is None)


def _study_file(named: str | None) -> tuple[dict[str, BaseDistribution] | None, bool]:
    """What a study's file searches, None if there is no such file, and whether it chooses a sampler."""
    for folder in (Path("sweeps"), SWEEPS_FOLDER):
        if named and (file := folder / f"{named}.yaml").is_file():
            with contextlib.suppress(*COMPOSITION_ERRORS, TinysweepError):  # if damaged since, all is written out
                content = OmegaConf.load(file)
                params = OmegaConf.select(content, "hydra.sweeper.params") or {}
                defaults = OmegaConf.select(content, "defaults") or []
                return read_space(dict(params), []).searched, "hydra/sweeper/sampler" in str(defaults)
    return None, False


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _without(overrides: Iterable[str], *names: str) -> list[str]:
    left_out = {name.lstrip("+") for name in names}
    return [text for text in overrides if _key(text) not in left_out]


def _environment(record: dict[str, Any]) -> dict[str, object]:
    versions = record.get("versions") or {}
    machine = [
        f"{name} {record[name]}" for name in ("device", "threads", "precision") if record.get(name) is not None
    ]
    return {
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Python": record.get("python", "–"),
        "Commit": record.get("git_commit") or "none: the package was installed",
        "Machine": ", ".join(machine),
        "Seed": record.get("seed", "–"),
    }
