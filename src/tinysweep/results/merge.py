"""Studies and single runs, wherever they lie, as one table."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tinysweep.console import clean, first_names
from tinysweep.errors import DataError, first_line
from tinysweep.results.where import written
from tinysweep.search.compose_trial import identity
from tinysweep.search.space import without_quotes
from tinysweep.search.study import trial_path
from tinysweep.search.table import COLUMNS, separated_otherwise

TABLE, RECORD = "trials.csv", "record.json"
BEGUN = {"study.db", ".sweepers"}  # what a study's folder holds before its first table
WANTED = "give the folder of a study, a trials.csv, the folder of a run, or any folder above them"


@dataclass
class Found:
    """Each is there once, however often and by whatever path it was given."""

    tables: list[Path] = field(default_factory=list)  # files laid out like a study's trials.csv
    begun: list[Path] = field(default_factory=list)  # folders of studies that have no table yet
    runs: dict[Path, list[Path]] = field(default_factory=dict)  # folders of runs by the path that led to them


def find(paths: Sequence[Path]) -> Found:
    """All that lies at or below `paths`; a study's trials and its final runs belong to it, and are not searched.

    Raises:
        DataError: a path doesn't exist, or holds neither studies nor runs, or can't be read.
    """
    found, seen = Found(), set[Path]()
    for path in paths:
        kinds = _at(path)
        if not any(kinds):
            raise DataError(f"{clean(path)} holds neither {TABLE} nor {RECORD}; {WANTED}")
        tables, begun, runs = ([each for each in kind if not _was_seen(each, seen)] for kind in kinds)
        found.tables += tables
        found.begun += begun
        if runs:
            found.runs.setdefault(path, []).extend(runs)
    return found


def _at(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Tables, studies without one, and runs at a path."""
    try:
        if path.is_dir():
            return _below(path)
        if path.exists():  # a file, or a pipe such as of <(ssh elsewhere cat trials.csv)
            return ([], [], [path.parent]) if path.name == RECORD else ([path], [], [])
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{clean(path)} can't be read: {error.strerror}") from error
    raise DataError(f"{clean(path)} doesn't exist; {WANTED}")


def _below(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Those in a folder and below it, in the order of their names."""
    tables: list[Path] = []
    begun: list[Path] = []
    runs: list[Path] = []
    for name, folders, files in os.walk(path, onerror=_raise):
        folder = Path(name)
        if TABLE in files:
            tables.append(folder / TABLE)
        elif RECORD in files:
            runs.append(folder)
        elif BEGUN & {*files, *folders}:
            begun.append(folder)
        else:
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            continue
        folders.clear()
    return tables, begun, runs


def _was_seen(path: Path, seen: set[Path]) -> bool:
    resolved = path.resolve()
    if resolved in seen:
        return True
    seen.add(resolved)
    return False


def _raise(error: OSError) -> None:
    raise DataError(f"{clean(error.filename)} can't be read: {error.strerror}") from error


RUNS = "runs"  # what stands for the study in the rows of single runs
TESTED = "test_accuracy"
CHOSEN = {"data": "name", "model": "family", "optimizer": "name", "scheduler": "name"}  # what stands for a choice
FIGURES = COLUMNS | {TESTED: "Float64"}


@dataclass(frozen=True)
class Merged:
    """`frame` has the columns of every study, then test_accuracy if a single run has one, then the searched
    parameters, as text, so that each stands as its study wrote it. `labels` holds the name by which people tell
    the study of each row from the others, `places` where each comes from; `repeated` rows were there twice, and
    `damaged` says why records can't be read."""

    frame: pd.DataFrame
    labels: list[str]
    places: dict[str, str]
    repeated: int
    damaged: list[str]

    @property
    def parameters(self) -> list[str]:
        return [name for name in self.frame.columns if name not in FIGURES]

    def states(self) -> dict[str, Counter[str]]:
        """How many rows of each study are in each state, by label."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for label, state in zip(self.labels, self.frame.state, strict=True):
            counts[label][str(state)] += 1
        return counts


def merge(found: Found) -> Merged:
    """Read all that was found; what is there twice, such as in a study and in a copy of its table, counts once.

    Raises:
        DataError: a table is none of trials, or of all runs no record can be read.
    """
    places = [clean(table.parent if table.name == TABLE else table) for table in found.tables]
    parts = [read_table(table) for table in found.tables]
    searched = list(dict.fromkeys(name for part in parts for name in part.columns if name not in FIGURES))
    runs, damaged = _read_runs(found)
    if damaged and not runs and not parts:
        raise DataError(f"{damaged[0]}; {WANTED}")
    parts.append(_run_frame(list(runs.values()), searched))
    places.append(first_names(list(map(clean, found.runs))))
    whole = pd.concat(parts, keys=range(len(parts)))
    tested = [TESTED] if TESTED in whole and whole[TESTED].notna().any() else []
    whole = whole[[*COLUMNS, *tested, *(name for name in whole.columns if name not in FIGURES)]]
    repeated = _repeated(whole)
    frame = whole[~repeated]
    labels, named = _labels(frame, places)
    named |= {place: place for place, part in zip(places, parts[:-1], strict=False) if part.empty}
    return Merged(frame.reset_index(drop=True), labels, named, int(repeated.sum()), damaged)


def read_table(path: Path) -> pd.DataFrame:
    """A table of trials with the types of `read_trials`, but the parameters as text: no 16 becomes a 16.0 because
    another trial lacks it. Folders are made to be found from where the command is typed.

    Raises:
        DataError: the file can't be read, or is no such table.
    """
    types = defaultdict(lambda: "string", FIGURES)
    try:
        if advice := separated_otherwise(path):
            raise DataError(f"{clean(path)} can't be read as a table of trials: {advice}")
        frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{clean(path)} can't be read as a table of trials: {clean(first_line(error))}") from error
    if lacking := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(f"{clean(path)} is not a table of trials: it lacks {', '.join(lacking)}; {WANTED}")
    places = zip(frame.folder, frame.number, strict=True)
    folders = [_resolvable(folder, number, path.parent) for folder, number in places]
    frame["folder"] = pd.array(folders, dtype="string")
    for name in set(frame.columns) - set(FIGURES):  # earlier versions wrote the quotes of quoted text
        frame[name] = frame[name].map(without_quotes, na_action="ignore").astype("string")
    return frame


def _resolvable(folder: Any, number: Any, study: Path) -> Any:
    """A trial's folder from the one that its study's table names: relative to the study, or absolute, as older
    versions wrote it, and perhaps of another machine."""
    if folder is pd.NA or number is pd.NA:
        return folder
    # Joined by text, as "./trials/1" is told from a study's own "trials/1" when a merged table is read again.
    own = os.path.join(study, trial_path(number))  # noqa: PTH118
    return own if folder == trial_path(number) or (Path(folder).is_absolute() and Path(own).is_dir()) else folder


def _read_runs(found: Found) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """The records of single runs by their folders, and why some can't be read."""
    records, damaged = {}, []
    for folder in (folder for folders in found.runs.values() for folder in folders):
        try:
            records[folder] = run_row(folder)
        except DataError as error:
            damaged.append(str(error))
    return records, damaged


def run_row(folder: Path) -> dict[str, Any]:
    """The row of a single run, with all that its configuration says under "settings".

    Raises:
        DataError: there is no record in the folder, or something else.
    """
    record = read_record(folder)
    try:
        metrics, cost = record["metrics"], record["cost"]
        return {
            "study": RUNS,
            "state": str(record["state"]),
            "reason": " / ".join(str(record["reason"] or "").splitlines()) or None,
            **{name: _float(metrics[name]) for name in ("validation_accuracy", "validation_loss", TESTED)},
            **{name: int(cost[name]) for name in ("params", "macs", "activation_bytes")},
            **{name: int(record[name]) for name in ("epochs", "seed")},
            "seconds": float(record["train_seconds"]),
            "started": record["started"],
            "finished": record["finished"],
            "folder": str(folder),
            "settings": {
                **{group: record["config"][group][key] for group, key in CHOSEN.items()},
                **_overridden(record["overrides"]),
                **identity(record["config"]),
            },
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"{clean(folder / RECORD)} is not the record of a run ({clean(what)})") from error


def read_record(folder: Path) -> Any:
    """
    Raises:
        DataError: there is no record in the folder, or it can't be read.
    """
    try:
        return json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{clean(folder / RECORD)} can't be read: {clean(first_line(error))}") from error


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _overridden(overrides: list[str]) -> dict[str, str]:
    """Choices of groups, such as model=plain, of which a configuration holds at most the kind."""
    pairs = (override.partition("=") for override in overrides)
    return {name: without_quotes(value) for name, _, value in pairs if "." not in name}


def _run_frame(rows: list[dict[str, Any]], searched: list[str]) -> pd.DataFrame:
    """Single runs as rows, with the parameters that studies searched and the settings in which they differ."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name, value in row["settings"].items():
            values[name].add(written(value))
    differing = [name for name, found in values.items() if len(found) > 1 and "." in name]
    parameters = list(dict.fromkeys([*searched, *differing]))
    for row in rows:
        settings = row.pop("settings")
        row |= {name: written(settings[name]) for name in parameters if name in settings}
    types = FIGURES | dict.fromkeys(parameters, "string")
    return pd.DataFrame(rows, columns=list(types), dtype=object).astype(types)


def _repeated(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are there before: trials with everything but the place the same, and runs in the same folder."""
    runs = frame.number.isna()
    folders = frame.folder.map(os.path.abspath, na_action="ignore")
    trials = frame.duplicated([name for name in frame.columns if name != "folder"])
    return (trials & ~runs) | (runs & folders.notna() & folders.duplicated())


def _labels(frame: pd.DataFrame, places: list[str]) -> tuple[list[str], dict[str, str]]:
    """What to call the study of each row, its place being added where two studies have one name, and the places
    by these names."""
    pairs = list(zip(frame.index.get_level_values(0), frame.study.fillna("").map(clean), strict=True))
    kinds = list(dict.fromkeys(pairs))
    times = Counter(study for _, study in kinds if study != RUNS)
    names = {kind: f"{kind[1]} ({places[kind[0]]})" if times[kind[1]] > 1 else kind[1] for kind in kinds}
    named: dict[str, str] = {}
    for (part, _), name in names.items():
        named.setdefault(name, places[part])
    return [names[pair] for pair in pairs], named
