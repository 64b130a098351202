"""Which studies and single runs lie where a command is pointed at; nothing is read yet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinysweep.console import clean
from tinysweep.errors import DataError

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
