"""How to do it again: the commands that make a study and its winner, and what they were run with."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from tinysweep.errors import DataError, TinysweepError
from tinysweep.report.markup import Html, definitions, join, table, tag
from tinysweep.results.view import StudyView
from tinysweep.search.compose_trial import DIGEST, flatten
from tinysweep.search.space import as_sweep, contains, in_words, read_space
from tinysweep.search.study import TRAINED
from tinysweep.settings.command_line import as_value, line, shown_folder
from tinysweep.settings.compose import COMPOSITION_ERRORS, SWEEPS_FOLDER, compose
from tinysweep.settings.schema import Config

OF_A_TRIAL = ("trial", "trainer.threads", "trainer.test", DIGEST)  # what a sweep adds to each trial's overrides
RECIPES = (("final/experiment", "best"), ("experiment", "best"), ("experiment", "winner"))


def again(view: StudyView, number: int | None) -> Html:
    """The commands, the searched parameters, the settings that all trials share, and the versions."""
    parts: list[object] = []
    record: dict[str, Any] = {}
    config = None
    try:
        if number is not None:
            record, config = view.record(number), view.config(number)
    except DataError as error:
        parts.append(tag("p", f"The commands are incomplete, as {error}.", class_="note"))
    overrides = [str(text) for text in record.get("overrides") or []]
    found = _study(view, overrides)
    if config and overrides:
        found.append((f"Trial {number} alone", line(["tinysweep", *alone(overrides, config)], _place(view))))
    found += _afterwards(view)
    parts += [join([tag("h3", title), tag("pre", command, tabindex=0)]) for title, command in found]
    if any("***@" in command for _, command in found):
        parts.append(tag("p", "The password of the database, ***, is left out.", class_="note"))
    if view.typed is None and overrides:
        note = (
            "The study doesn't say how it was begun: settings of hydra.sweeper and hydra.launcher may be missing."
        )
        parts.append(tag("p", note, class_="note"))
    searched = [(name.removeprefix("params."), kind) for name, kind in view.definition.items()
                if name.startswith("params.")]  # fmt: skip
    searched = searched or [(name, in_words(kind)) for name, kind in view.searched.items()]
    if searched:
        parts += [tag("h3", "What was searched"), table(("parameter", "values"), searched, label="search space")]
    shared = [(name, value) for name, value in view.definition.items() if not name.startswith("params.")]
    inner = table(("setting", "value"), shared, label="settings that all trials share")
    parts.append(tag("details", tag("summary", "Settings that all trials share"), inner))
    if record:
        parts += [tag("h3", "Run with"), definitions(_environment(record))]
    return join(parts)


def _place(view: StudyView) -> str | None:
    return view.typed["place"] if view.typed else None


def _study(view: StudyView, overrides: Sequence[str]) -> list[tuple[str, str]]:
    """What makes the study: as its sweep noted it, or else as its trials tell; none if they don't."""
    if view.typed:
        return [("The study", line(["tinysweep", *view.typed["words"]], _place(view)))]
    return [("The study", line(["tinysweep", "-m", *retold(view, overrides)]))] if overrides else []


def _afterwards(view: StudyView) -> list[tuple[str, str]]:
    """What each command does that a study is followed by, and the command."""
    found, folder = [], shown_folder(view.folder)
    for below, name in RECIPES:
        if (view.folder / below / f"{name}.yaml").exists():
            where = shown_folder((view.folder / below).parent)
            found.append(
                ("The winner, trained anew", line(["tinysweep", "--config-dir", where, f"experiment={name}"]))
            )
            break
    if final := final_command(view):
        found.append(("The best over several seeds, and the winner's test", final))
    asked = {"--storage": view.storage, "--study": view.chosen}
    words = [word for option, given in asked.items() if given for word in (option, given)]
    found.append(("This page", line(["tinysweep-report", folder, *words])))
    return found


def final_command(view: StudyView) -> str | None:
    """The command that holds the final of a study; None where there is no trial with a record to train again."""
    try:
        view.config(view.completed[0].number)
    except (DataError, IndexError):
        return None
    asked = {"storage": view.storage, "study": view.chosen}
    words = [f"{key}={given}" for key, given in asked.items() if given]
    return line(["tinysweep-final", shown_folder(view.folder), *words])


def alone(overrides: Sequence[str], config: Config) -> list[str]:
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
    other = {key: held for key, held in wanted.items() if held != known[key] and key != "trial"}
    return [*_without(words, *other), *(f"{key}={as_value(held)}" for key, held in other.items())]


def retold(view: StudyView, overrides: Sequence[str]) -> list[str]:
    """The words that make a study, after -m, from what its trials and its file tell."""
    shared = _without(overrides, *OF_A_TRIAL, *view.searched)
    named = next((text.partition("=")[2] for text in shared if _key(text) == "sweeps"), None)
    known, has_sampler = _in_file(named)
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
        if known is None or key not in known or not _is_searched_by(known[key], view, key):
            shared.append(f"{key}={as_sweep(kind)}")
    return [*shared, *own]


def _is_continuous(kind: BaseDistribution) -> bool:
    return isinstance(kind, FloatDistribution | IntDistribution) and (kind.log or kind.step is None)


def _is_searched_by(kind: BaseDistribution, view: StudyView, key: str) -> bool:
    """Whether a parameter was searched by a distribution: a table tells only which values were drawn."""
    if not view.from_table:
        return view.searched[key] == kind
    drawn = [trial.params[key] for trial in view.trials if key in trial.params]
    return all(contains(kind, each) for each in drawn)


def _in_file(named: str | None) -> tuple[dict[str, BaseDistribution] | None, bool]:
    """What a study's file searches, None if there is no such file, and whether it chooses a sampler."""
    for folder in (Path("sweeps"), SWEEPS_FOLDER):
        if named and (file := folder / f"{named}.yaml").is_file():
            with contextlib.suppress(
                *COMPOSITION_ERRORS, TinysweepError
            ):  # damaged since; then all is written out
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


def _environment(record: dict[str, Any]) -> list[tuple[object, object]]:
    versions = record.get("versions") or {}
    machine = ", ".join(
        f"{name} {record[name]}" for name in ("device", "threads", "precision") if record.get(name) is not None
    )
    return [
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Python", record.get("python", "–")),
        ("Commit", record.get("git_commit") or "none: the package was installed"),
        ("Machine", machine),
        ("Seed", record.get("seed", "–")),
    ]
