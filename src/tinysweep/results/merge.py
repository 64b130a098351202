"""Studies and single runs, wherever they lie, as one table."""

import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import filterfalse
from pathlib import Path
from typing import Any

import pandas as pd

from tinysweep.console import clean, first_names
from tinysweep.errors import DataError, first_line
from tinysweep.metrics import ALL_METRICS
from tinysweep.results.where import read_value
from tinysweep.search.compose_trial import identity
from tinysweep.search.space import without_quotes
from tinysweep.search.study import trial_path
from tinysweep.search.table import COLUMNS, LATER, SEED, is_figure, separated_otherwise, with_later_columns
from tinysweep.settings.stored import flatten, rename_old_settings

TABLE, RECORD = "trials.csv", "record.json"
BEGUN = {"study.db", ".sweepers"}  # what a study's folder holds before its first table
WANTED = "give the folder of a study, a trials.csv, the folder of a run, or any folder above them"
RUNS = "runs"  # what stands for the study in the rows of single runs
TESTED = "test_accuracy"
VARYING = ("validation_accuracy", "validation_loss", *LATER, TESTED, "seconds")  # what a seed changes
SPREAD = "_sd"  # what ends the name of a column that holds standard deviations over seeds
SEEDS = "seeds"  # how many a row is the mean of; one alone has none
DEVIATIONS = {name: f"{name}{SPREAD}" for name in VARYING}
FIGURES = COLUMNS | {TESTED: "Float64", SEEDS: "Int64", **dict.fromkeys(DEVIATIONS.values(), "Float64")}
# What stands for the choice of a group.
CHOSEN = {"data": "name", "model": "family", "dropout": "name", "optimizer": "name", "scheduler": "name"}


def is_known(column: str) -> bool:
    """Whether a column is no searched parameter: it holds what is known of every row, or how far seeds spread."""
    return column in FIGURES or is_figure(column.removesuffix(SPREAD))


def in_order(columns: Iterable[str]) -> list[str]:
    """Known columns as tables have them, those of a user's own metrics last."""
    places = {name: place for place, name in enumerate(FIGURES)}
    return sorted(columns, key=lambda name: places.get(name, len(places)))


@dataclass
class Found:
    """What lies where a command is pointed at, each once, however often and by whatever path it was given."""

    tables: list[Path] = field(default_factory=list)  # files laid out like a study's trials.csv
    begun: list[Path] = field(default_factory=list)  # folders of studies that have no table yet
    runs: dict[Path, Path] = field(default_factory=dict)  # folders of single runs, and the paths that led to them


def find(paths: Sequence[Path]) -> Found:
    """All that lies at or below `paths`; a study's trials and its final runs belong to it, and are not searched.

    Raises:
        DataError: a path doesn't exist, or holds neither studies nor runs, or can't be read.
    """
    found, seen = Found(), set[Path]()
    for path in paths:
        try:
            places = list(_places(path))
        except OSError as error:  # such as a name that is too long
            raise DataError(f"{clean(error.filename)} can't be read: {error.strerror}") from error
        if not places:
            raise DataError(f"{clean(path)} holds neither {TABLE} nor {RECORD}; {WANTED}")
        for kind, place in places:
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            if kind == "run":
                found.runs[place] = path
            else:
                (found.tables if kind == "table" else found.begun).append(place)
    return found


def _places(path: Path) -> Iterator[tuple[str, Path]]:
    """What lies at a path or below it, in the order of names: a "table", or the folder of a "run" or of a study
    that has "begun" and has no table yet."""
    if not path.exists():
        raise DataError(f"{clean(path)} doesn't exist; {WANTED}")
    if not path.is_dir():  # a file, or a pipe such as of <(ssh elsewhere cat trials.csv)
        yield ("run", path.parent) if path.name == RECORD else ("table", path)
        return
    for name, folders, files in os.walk(path, onerror=_raise):
        folder = Path(name)
        if TABLE in files:
            yield "table", folder / TABLE
        elif RECORD in files:
            yield "run", folder
        elif BEGUN & {*files, *folders}:
            yield "begun", folder
        else:
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            continue
        folders.clear()


def _raise(error: OSError) -> None:
    raise error


@dataclass(frozen=True)
class Merged:
    """`frame` has the columns of every study, then those of FIGURES that any row has, then the searched
    parameters, as text, so that each stands as its study wrote it. By row, `labels` holds the name by which people
    tell its study from the others, `names` that of the trial or run, and `alike` what those share that differ by
    their seed alone, missing where no seed was chosen; `places` says where each study lies; `repeated` rows were
    there twice, and `damaged` says why records can't be read."""

    frame: pd.DataFrame
    labels: "pd.Series[str]"
    names: "pd.Series[str]"
    alike: "pd.Series[str]"
    places: dict[str, str]
    repeated: int
    damaged: list[str]

    @property
    def parameters(self) -> list[str]:
        return [name for name in self.frame.columns if not is_known(name)]


def merge(found: Found) -> Merged:
    """Read all that was found; what is there twice, such as in a study and in a copy of its table, counts once.

    Raises:
        DataError: a table is none of trials, or of all runs no record can be read.
    """
    parts = [read_table(table) for table in found.tables]
    places = [clean(table.parent if table.name == TABLE else table) for table in found.tables]
    runs, damaged = [], []
    for folder in found.runs:
        try:
            runs.append(run_row(folder))
        except DataError as error:
            damaged.append(str(error))
    if damaged and not runs and not parts:
        raise DataError(f"{damaged[0]}; {WANTED}")
    searched = list(dict.fromkeys(name for part in parts for name in part.columns if not is_known(name)))
    single, alike = _run_frame(runs, searched)
    keys = [*map(_alike, parts), alike]
    parts.append(single)
    places.append(first_names([clean(path) for path in dict.fromkeys(found.runs.values())]))

    whole = pd.concat(parts, keys=range(len(parts)))
    known = [name for name in whole.columns if name not in COLUMNS and is_known(name)]
    more = [name for name in in_order(known) if whole[name].notna().any()]
    whole = whole[[*COLUMNS, *more, *(name for name in whole.columns if not is_known(name))]]
    repeated = find_repeated(whole)
    frame = whole[~repeated].reset_index(level=0, names="part").reset_index(drop=True)
    labels = _labels(frame.part, frame.study.fillna("").map(clean), places)
    first = labels.drop_duplicates()
    named = {label: places[part] for label, part in zip(first, frame.part[first.index], strict=True)}
    named |= {place: place for place, part in zip(places, parts[:-1], strict=False) if part.empty}
    frame = frame.drop(columns="part")
    alike = pd.concat(keys, ignore_index=True)[~repeated.to_numpy()].reset_index(drop=True)
    return Merged(frame, labels, _names(frame, labels), alike, named, int(repeated.sum()), damaged)


def compare(*paths: str | Path) -> pd.DataFrame:
    """The trials of studies and the single runs at or below `paths` as one table, a row each: the one that
    `tinysweep-compare --each-seed` writes, with the searched parameters as numbers where they are.

    Raises:
        DataError: as `find` and `merge`.
    """
    merged = merge(find([Path(path) for path in paths]))
    for line in merged.damaged:
        warnings.warn(f"left out: {line}", stacklevel=2)
    searched = merged.frame[merged.parameters].map(read_value, na_action="ignore")
    return merged.frame.assign(**searched.convert_dtypes())


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
        own = [name for name in frame.columns if is_known(name) and name not in FIGURES]
        frame = frame.astype(dict.fromkeys(own, "Float64"))
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{clean(path)} can't be read as a table of trials: {clean(first_line(error))}") from error
    frame = with_later_columns(frame)
    if lacking := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(f"{clean(path)} is not a table of trials: it lacks {', '.join(lacking)}; {WANTED}")
    places = zip(frame.folder, frame.number, strict=True)
    folders = [_resolve_folder(folder, number, path.parent) for folder, number in places]
    frame["folder"] = pd.array(folders, dtype="string")
    for name in filterfalse(is_known, frame.columns):  # earlier versions wrote the quotes of quoted text
        frame[name] = frame[name].map(without_quotes, na_action="ignore").astype("string")
    return frame


def _resolve_folder(folder: Any, number: Any, study: Path) -> Any:
    """A trial's folder from the one that its study's table names: relative to the study, or absolute, as older
    versions wrote it, and perhaps of another machine."""
    if folder is pd.NA or number is pd.NA:
        return folder
    # Joined by text, as "./trials/1" is told from a study's own "trials/1" when a merged table is read again.
    own = os.path.join(study, trial_path(number))  # noqa: PTH118
    return own if folder == trial_path(number) or (Path(folder).is_absolute() and Path(own).is_dir()) else folder


def run_row(folder: Path) -> dict[str, Any]:
    """The row of a single run, with all that its configuration says under "settings", as text.

    Raises:
        DataError: there is no record in the folder, or something else.
    """
    record = load_record(folder)
    try:
        metrics, cost = record["metrics"], record["cost"]
        config = {"dropout.name": "none"} | rename_old_settings(flatten(record["config"]))
        # Choices of groups, such as model=plain, of which a configuration holds at most the kind.
        overrides = (override.partition("=") for override in record["overrides"])
        return {
            "study": RUNS,
            "state": str(record["state"]),
            "reason": " / ".join(str(record["reason"] or "").splitlines()) or None,
            **{
                name: float(value)
                for name, value in metrics.items()
                if value is not None and ALL_METRICS.find(name)
            },
            **{name: int(cost[name]) for name in ("params", "macs", "activation_bytes")},
            **{name: int(record[name]) for name in ("epochs", "seed")},
            "seconds": float(record["train_seconds"]),
            "started": record["started"],
            "finished": record["finished"],
            "folder": str(folder),
            "settings": {
                **{group: str(config[f"{group}.{key}"]) for group, key in CHOSEN.items()},
                **{name: without_quotes(value) for name, _, value in overrides if "." not in name},
                **{name: setting_text(value) for name, value in identity(record["config"]).items()},
            },
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"{clean(folder / RECORD)} is not the record of a run ({clean(what)})") from error


def load_record(folder: Path) -> Any:
    """The record of a run, read without the module that writes it, for which comparisons would wait for torch.

    Raises:
        DataError: there is no record in the folder, or it can't be read.
    """
    try:
        return json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{clean(folder / RECORD)} can't be read: {clean(first_line(error))}") from error


def _run_frame(rows: list[dict[str, Any]], searched: list[str]) -> tuple[pd.DataFrame, "pd.Series[str]"]:
    """Single runs as rows, with the parameters that studies searched and the settings in which they differ; and
    what those share that differ by their seed alone."""
    settings = pd.DataFrame([row.pop("settings") for row in rows])
    decisive = [name for name in map(str, settings) if "." in name]
    differing = [name for name in decisive if settings[name].nunique() > 1]
    parameters = list(dict.fromkeys([*searched, *differing]))
    own = {name: "Float64" for row in rows for name in row if is_figure(name) and name not in FIGURES}
    figures = pd.DataFrame(rows, columns=[*FIGURES, *own], dtype=object).astype(FIGURES | own)
    frame = pd.concat([figures, settings.reindex(columns=parameters).astype("string")], axis=1)
    return frame, _as_text(settings[[name for name in decisive if name != SEED]])


def _alike(frame: pd.DataFrame) -> "pd.Series[str]":
    """What rows of a table share that differ by their seed alone: their study and all that it searched."""
    if SEED not in frame:
        return pd.Series(pd.NA, frame.index, dtype="string")
    names = [name for name in map(str, frame) if not is_known(name) and name != SEED]
    return _as_text(frame[["study", *names]]).where(frame[SEED].notna())


def _as_text(frame: pd.DataFrame) -> "pd.Series[str]":
    return frame.fillna("–").agg(tuple, axis=1).astype("string")


def setting_text(value: Any) -> str:
    """A setting as tables of trials hold it: lists without blanks, as the command line takes them."""
    if isinstance(value, list):
        return f"[{','.join(map(setting_text, value))}]"
    return "null" if value is None else str(value)


def find_repeated(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are there before: trials with everything but the place the same, and runs in the same folder, or
    means of as many seeds of which the first lies there."""
    runs = frame.number.isna()
    folders = frame.folder.map(os.path.abspath, na_action="ignore")
    trials = frame.duplicated([name for name in frame.columns if name != "folder"])
    means = frame[SEEDS] if SEEDS in frame else pd.Series(pd.NA, frame.index)
    return (trials & ~runs) | (runs & folders.notna() & pd.DataFrame({0: folders, 1: means}).duplicated())


def _labels(parts: "pd.Series[int]", studies: "pd.Series[str]", places: list[str]) -> "pd.Series[str]":
    """What to call the study of each row, its place being added where two studies have one name."""
    pairs = list(zip(parts, studies, strict=True))
    times = Counter(study for _, study in set(pairs) if study != RUNS)
    names = [f"{study} ({places[part]})" if times[study] > 1 else study for part, study in pairs]
    return pd.Series(names, dtype=object)


def _names(frame: pd.DataFrame, labels: "pd.Series[str]") -> "pd.Series[str]":
    """Trials by study and number, single runs by as much of the end of their folders as tells them apart."""
    runs = frame.folder[frame.number.isna()].fillna("-").map(lambda folder: Path(folder).parts)
    length = 1
    while runs.map(lambda parts: parts[-length:]).nunique() < runs.nunique():  # noqa: B023 called at once
        length += 1
    names = runs.map(lambda parts: clean("/".join(parts[-length:])))
    return (labels + " " + frame.number.astype("string")).astype(object).where(frame.number.notna(), names)
