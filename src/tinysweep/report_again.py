"""How to do it again: the commands that make a study and its winner, and what they were run with."""

import contextlib
import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tinysweep.composition import COMPOSITION_ERRORS, SWEEPS_FOLDER
from tinysweep.definition import words
from tinysweep.errors import DataError
from tinysweep.report_markup import Html, definitions, join, table, tag
from tinysweep.study_view import StudyView

OF_A_TRIAL = ("trial", "trainer.threads", "trainer.test")  # what a sweep adds to each trial's overrides
RECIPES = (("final/experiment", "best"), ("experiment", "best"), ("experiment", "winner"))


def again(view: StudyView, number: int | None) -> Html:
    """The commands, the searched parameters, the settings that all trials share, and the versions."""
    parts: list[object] = []
    record: dict[str, Any] = {}
    try:
        record = view.record(number) if number is not None else {}
    except DataError as error:
        parts.append(tag("p", f"The commands are incomplete, as {error}.", class_="note"))
    parts += [
        join([tag("h3", title), tag("pre", shlex.join(command), tabindex=0)])
        for title, command in commands(view, record, number)
    ]
    if record:
        note = "What a record does not hold: settings of hydra.sweeper and hydra.launcher that were typed."
        parts.append(tag("p", note, class_="note"))
    searched = [(name.removeprefix("params."), kind) for name, kind in view.definition.items()
                if name.startswith("params.")]  # fmt: skip
    searched = searched or [(name, words(kind)) for name, kind in view.searched.items()]
    if searched:
        parts += [tag("h3", "What was searched"), table(("parameter", "values"), searched, label="search space")]
    shared = [(name, value) for name, value in view.definition.items() if not name.startswith("params.")]
    inner = table(("setting", "value"), shared, label="settings that all trials share")
    parts.append(tag("details", tag("summary", "Settings that all trials share"), inner))
    if record:
        parts += [tag("h3", "Run with"), definitions(_environment(record))]
    return join(parts)


def commands(view: StudyView, record: dict[str, Any], number: int | None) -> list[tuple[str, list[str]]]:
    """What each command does, and its words."""
    overrides = [str(text) for text in record.get("overrides") or []]
    found = []
    if overrides:
        found.append(("The study", _study_command(view, overrides)))
        found.append((f"Trial {number} alone", ["tinysweep", *_without(overrides, "trial")]))
    folder = shown_folder(view.folder)
    for below, name in RECIPES:
        if (view.folder / below / f"{name}.yaml").exists():
            where = (folder / below).parent
            found.append(
                ("The winner, trained anew", ["tinysweep", "--config-dir", str(where), f"experiment={name}"])
            )
            break
    found.append(("The best over several seeds, and the winner's test", ["tinysweep-final", str(folder)]))
    found.append(("This page", ["tinysweep-report", str(folder)]))
    return found


def _study_command(view: StudyView, overrides: list[str]) -> list[str]:
    """The study by the name of its file, and what it searched beyond that file, or all of it if there is none."""
    shared = _without(overrides, *OF_A_TRIAL, *view.searched)
    named = next((text.partition("=")[2] for text in shared if _key(text) == "sweeps"), None)
    known = _in_file(named)
    space = [f"{name}={sweep(kind)}" for name, kind in view.searched.items() if name not in (known or set())]
    name = [] if known is not None and named == view.name else [f"hydra.sweeper.study_name={view.name}"]
    if known is None:
        shared = _without(shared, "sweeps")
        name.append(f"hydra.sweeper.objective=[{','.join(view.objectives)}]")
    return ["tinysweep", "-m", *shared, *space, *name]


def _in_file(named: str | None) -> set[str] | None:
    """The parameters that a study's file searches; None if there is no such file."""
    for folder in (Path("sweeps"), SWEEPS_FOLDER):
        if named and (file := folder / f"{named}.yaml").is_file():
            with contextlib.suppress(*COMPOSITION_ERRORS):  # damaged since; then all is written out
                return set(OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params") or {})
    return None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _without(overrides: list[str], *names: str) -> list[str]:
    left_out = {name.lstrip("+") for name in names}
    return [text for text in overrides if _key(text) not in left_out]


def sweep(kind: BaseDistribution) -> str:
    """A distribution in the grammar of Hydra's sweeps."""
    if isinstance(kind, CategoricalDistribution):
        return f"choice({','.join(map(str, kind.choices))})"
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if isinstance(kind, IntDistribution):
        step = f",{kind.step}" if kind.step != 1 else ""
        text = f"range({kind.low},{kind.high + 1}{step})"
    else:
        text = f"interval({kind.low!r},{kind.high!r})"
    return f"tag(log,{text})" if kind.log else text


def shown_folder(folder: Path) -> Path:
    """A folder as it is typed: below the current one where it can be."""
    full = folder.resolve()
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else folder


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
