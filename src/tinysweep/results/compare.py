"""From what was found to the merged table, and all that is said of it on the terminal."""

import argparse
import csv
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinysweep.console import clean, first_names
from tinysweep.errors import ConfigError, DataError
from tinysweep.files import write_whole
from tinysweep.metrics import METRICS
from tinysweep.results import screen
from tinysweep.results.contrast import held_out
from tinysweep.results.found import Found
from tinysweep.results.merged import RUNS, Merged, merge
from tinysweep.results.ranking import Trial, judged, ranked, rows
from tinysweep.results.where import Condition, every, named, unknown

PROBED = 100  # trials of a study in which a record is looked for; on another machine none has one


@dataclass(frozen=True)
class By:
    """A column to rank by, and which way."""

    column: str
    descending: bool

    def __str__(self) -> str:
        return f"{clean(self.column)}, {'highest' if self.descending else 'lowest'} first"

    @property
    def word(self) -> str:
        """What the first trials are: the best only where the order is one of merit."""
        has_merit = self.column in METRICS or self.column.startswith("test_")
        return "best" if has_merit and self.descending == is_better_high(self.column) else "first"


def is_better_high(column: str) -> bool:
    return column.endswith("_accuracy")


def present(found: Found, options: argparse.Namespace) -> None:
    """Write the merged table and print what there is to say of it, as the command's `options` ask for.

    Raises:
        ConfigError: an option names no column, or is no condition.
        DataError: a table can't be read, or the merged one can't be written.
    """
    merged = merge(found)
    columns = list(merged.frame.columns)
    sort = _column("--sort", options.sort, columns)
    chosen = [_column("--columns", name, columns) for name in _split(options.columns)]
    condition = Condition(options.where, columns) if options.where is not None else None
    _write(merged, options.csv)

    met = [trial for trial in rows(merged) if condition is None or condition(trial.values)]
    completed = [trial for trial in met if trial.complete]
    by = By(sort, options.descending or (is_better_high(sort) and not options.ascending))
    order = ranked(met if options.all else completed, sort, by.descending)
    blocks = [screen.summary(found, merged), _title(order, by, options)]
    if order:
        blocks[-1] += "\n" + screen.ranking(order[: options.top], sort, chosen, merged.parameters)
    if completed:
        blocks += _findings(judged(order, sort), merged, by)
    blocks.append(f"merged table: {clean(options.csv)} (rows: {len(merged.frame):,}, columns: {len(columns)})")
    print("\n\n".join(blocks), flush=True)
    for line in _cautions(merged, completed, sort):
        print(f"warning: {line}", file=sys.stderr)


def _column(option: str, name: str, columns: Sequence[str]) -> str:
    column = named(name, columns)
    if column is None:
        raise ConfigError(f"{option}: {unknown(name, columns)}; {every(columns)}")
    return column


def _split(names: str | None) -> list[str]:
    """Names between commas; one with a comma in it stands in double quotes, as in a CSV."""
    return next(csv.reader([names], skipinitialspace=True), []) if names is not None else []


def _write(merged: Merged, path: Path) -> None:
    text = merged.frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # which is quoted only where lines end with it
        text = merged.frame.to_csv(index=False, lineterminator="\r\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode(errors="backslashreplace"))  # names of files may be no Unicode
    except OSError as error:
        raise DataError(f"--csv={clean(path)} can't be written: {error.strerror}") from error


def _title(order: Sequence[Trial], by: By, options: argparse.Namespace) -> str:
    kind = "trials" if options.all else "completed trials"
    if options.where is not None:
        kind += f" with {clean(options.where)}"
    if not order:
        return f"there are no {kind}"
    return f"the {by.word} {min(options.top, len(order)):,} of {len(order):,} {kind} by {by}:"


def _findings(best: Sequence[Trial], merged: Merged, by: By) -> list[str]:
    """What follows from ranked trials that all have a value to be ranked by."""
    if not best:
        return [f"no completed trial has a value of {clean(by.column)} to rank it by; --sort takes other columns"]
    under = f"the {by.word} with fewer parameters than:\n{screen.budgets(best, by.column)}"
    if len(best) == 1:
        return [under, f"{best[0].called} is the only one, so there is no runner-up to set it against"]
    title = f"what sets the {by.word} two apart:"
    return [under, f"{title}\n{screen.contrast(best[0], best[1], merged.parameters)}"]


def _cautions(merged: Merged, completed: Sequence[Trial], sort: str) -> Iterator[str]:
    """What makes a ranking unfair or worth less than it seems, a line each."""
    if merged.damaged:
        more = f" (and {len(merged.damaged) - 1} more)" if len(merged.damaged) > 1 else ""
        yield f"left out: {merged.damaged[0]}{more}"
    judges = ((str(judge), name) for name, trial in _probes(completed) if (judge := held_out(trial)))
    if len(groups := _grouped(judges)) > 1:
        yield f"validation figures of different images can't be ranked fairly: {_listed(groups)}"
    aims = ((clean(trial.values["objective"]), trial.study) for trial in completed if trial.values["objective"])
    if len(groups := _grouped(aims)) > 1:
        yield f"the studies aimed at different objectives, and one ranking favours some: {_listed(groups)}"
    if sort.startswith("test_"):
        yield "what is chosen by the test set has no fair test left: its figures here flatter it"


def _probes(completed: Sequence[Trial]) -> Iterator[tuple[str, Trial]]:
    """Every single run, and of each study, whose trials share their data, one with a record, if there is one."""
    by_study: dict[str, list[Trial]] = defaultdict(list)
    for trial in completed:
        by_study[trial.study].append(trial)
    for study, trials in by_study.items():
        if study == RUNS:
            yield from ((trial.called, trial) for trial in trials)
        else:
            probes = itertools.islice(trials, PROBED)
            yield from itertools.islice(((study, trial) for trial in probes if held_out(trial)), 1)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in dict.fromkeys(pairs):
        groups[key].append(name)
    return groups


def _listed(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key} ({first_names(names)})" for key, names in groups.items())
