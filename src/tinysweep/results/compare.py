"""Trials of several studies and single runs: ranked, set apart, and what is said of them on the terminal."""

import argparse
import csv
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tinysweep import console
from tinysweep.console import GAP, clean, fitting_table, room, setting_head, table, wrap
from tinysweep.errors import DataError
from tinysweep.files import write_whole
from tinysweep.metrics import ALL_METRICS
from tinysweep.results.fair import SOURCES, cautions, config_in, noise
from tinysweep.results.merge import (
    RUNS,
    SEEDS,
    SPREAD,
    TABLE,
    TESTED,
    Found,
    Merged,
    find,
    merge,
    setting_text,
)
from tinysweep.results.seeds import merge_seeds
from tinysweep.results.where import find_column, read_value, rows_where
from tinysweep.search.compose_trial import identity
from tinysweep.search.study import Status
from tinysweep.search.table import COLUMNS, SEED

NARROW = 60  # characters of a line that may have room for no more than what rows are ranked by
SHOWN = ["validation_accuracy", "validation_loss", "params", TESTED, "macs", "seconds"]
JUDGED = ("validation_accuracy", TESTED)  # what chance changes from image to image
WORDS = {"trial", "study", "state", "reason", "objective", "folder"}  # columns of text, read from the left
BUDGETS = (1_000, 2_000, 5_000, 10_000, 20_000)  # trainable parameters, of which a model has fewer
LONGEST, NARROWEST = 14, 8  # cells of a name that isn't broken, and of a column of figures, where there is no room


@dataclass(frozen=True)
class Order:
    """A column to rank by, and which way."""

    column: str
    descending: bool

    def __str__(self) -> str:
        return f"{clean(self.column)}, {'highest' if self.descending else 'lowest'} first"

    @property
    def word(self) -> str:
        """What the first trials are: the best only where the order is one of merit."""
        metric = ALL_METRICS.find(self.column)
        return "best" if metric and metric.higher_is_better == self.descending else "first"


def present(paths: Sequence[Path], options: argparse.Namespace) -> None:
    """Write the merged table and print what there is to say of it, as the command's `options` ask for.

    Raises:
        ConfigError: an option names no column, or is no condition.
        DataError: a table can't be read, or the merged one can't be written.
    """
    found = find(paths)
    every = merge(found)
    merged = every if options.each_seed else merge_seeds(every)
    columns = list(merged.frame.columns)
    sort = find_column(_aim(merged.frame) if options.sort is None else options.sort, columns, "--sort")
    # A name with a comma in it stands in double quotes, as in a CSV.
    names = next(csv.reader([options.columns or ""], skipinitialspace=True), [])
    chosen = [find_column(name, columns, "--columns") for name in names]
    rows = merged.frame if options.where is None else _met(options.where, merged.frame)
    _write(merged.frame, options.csv)

    completed = rows[rows.state == Status.complete]
    sorted_by = ALL_METRICS.find(sort)
    is_high = sorted_by is not None and sorted_by.higher_is_better
    order = Order(sort, options.descending or (is_high and not options.ascending))
    ranking = rank(rows if options.all else completed, merged, order)
    blocks = [_summary(found, every, merged), _title(len(ranking), order, options)]
    if len(ranking):
        blocks[-1] += "\n" + _ranking(ranking[: options.top], merged, sort, chosen)
    if len(completed):
        blocks += _findings(ranking[(ranking.state == Status.complete) & ranking[sort].notna()], merged, order)
    size = f"(rows: {len(merged.frame):,}, columns: {len(columns)})"
    blocks.append(wrap(f"merged table: {clean(options.csv)} {size}"))
    print("\n\n".join(blocks), flush=True)
    for line in cautions(merged, completed, sort):
        print(f"warning: {line}", file=sys.stderr)


def _aim(frame: pd.DataFrame) -> str:
    """What rows are ranked by unless a person says otherwise: the loss, which tells more than accuracy does, or
    else another figure of validation images that all of the studies aim for."""
    aims = {str(text).partition(";")[0] for text in frame.objective.dropna()}
    aim = aims.pop() if len(aims) == 1 else "validation_accuracy"
    metric = ALL_METRICS.find(aim)
    other = aim in frame and aim != "validation_accuracy" and metric and metric.each_epoch
    return aim if other else "validation_loss"


def _met(condition: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that meet a condition, a single trial having one seed, though that is written of means only."""
    counted = frame.copy()
    counted[SEEDS] = frame[SEEDS].fillna(1) if SEEDS in frame else 1
    return frame.loc[rows_where(condition, counted).index]


def _write(frame: pd.DataFrame, path: Path) -> None:
    text = frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # which is quoted only where lines end with it
        text = frame.to_csv(index=False, lineterminator="\r\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode(errors="backslashreplace"))  # names of files may be no Unicode
    except OSError as error:
        raise DataError(f"--csv={clean(path)} can't be written: {error.strerror}") from error


def rank(rows: pd.DataFrame, merged: Merged, order: Order) -> pd.DataFrame:
    """Rows in an order, numbers before text and what lacks the column last; ties by validation loss, then
    parameters, both from the lowest, then study and number."""
    values = rows[order.column]
    numbers = pd.to_numeric(values, errors="coerce")
    keys = {
        "lacking": values.isna(),
        "text": numbers.isna(),
        "number": numbers,
        "words": values.astype("string"),
        "loss": rows.validation_loss,
        "params": rows.params,
        "study": merged.labels[rows.index],
        "trial": rows.number,
        "name": merged.names[rows.index],
    }
    up = [True, True, not order.descending, not order.descending, *[True] * 5]
    return rows.loc[pd.DataFrame(keys).sort_values(list(keys), ascending=up).index]


# ---- what is printed


def _summary(found: Found, every: Merged, merged: Merged) -> str:
    """A line for each study and for the single runs: how many there are in what state, and where they lie; and
    whether those that differ by their seed alone are one row."""
    known = [status.value for status in Status]
    lines = []
    for label, place in every.places.items():
        counts = every.frame.state[every.labels == label].astype(object).value_counts(sort=False)
        states = sorted(counts.index, key=lambda state: known.index(state) if state in known else len(known))
        words = ", ".join(f"{counts[state]:,} {str(state).replace('_', ' ')}" for state in states)
        total = int(counts.sum())
        noun = ("run" if label == RUNS else "trial") + ("" if total == 1 else "s")
        lines.append([label, f"{total:,} {noun}", words, place])
    lines += [
        [folder.name, "", f"no batch has finished yet, so there is no {TABLE}", str(folder)]
        for folder in found.begun
    ]
    if merged.repeated:
        lines.append(["", f"{merged.repeated:,} more", "that are there twice, counted once", ""])
    lines = [list(map(clean, line)) for line in lines]
    text = table(lines, "llll")
    if console.width(text) > console.room():
        text = "\n".join(wrap("  ".join(filter(None, line)), more=GAP) for line in lines)
    alone = "those that differ by their seed alone are one row, mean ± sd; --each-seed shows each"
    return f"{text}\n{wrap(alone)}" if len(merged.frame) < len(every.frame) else text


def _title(count: int, order: Order, options: argparse.Namespace) -> str:
    kind = "trials" if options.all else "completed trials"
    if options.where is not None:
        kind += f" with {clean(options.where)}"
    if not count:
        return wrap(f"there are no {kind}")
    return wrap(f"the {order.word} {min(options.top, count):,} of {count:,} {kind} by {order}:")


def _ranking(rows: pd.DataFrame, merged: Merged, sort: str, chosen: Sequence[str]) -> str:
    """Ranked rows, a line each: the columns that were chosen, or those that tell something and fit."""
    names = list(chosen) or _telling(rows, sort, merged.parameters)
    columns = [["", *(f"{place:,}" for place in range(1, len(rows) + 1))], ["trial", *merged.names[rows.index]]]
    columns += [[_header(name), *_figures(name, rows)] for name in names]
    lines, sides = list(zip(*columns, strict=True)), "rl" + _sides(names)
    if chosen:
        return table(lines, sides)
    known = ["", "trial", *map(clean, names)]
    return fitting_table(lines, sides, "--columns A,B chooses", least=3, names=known)


def _telling(rows: pd.DataFrame, sort: str, parameters: Sequence[str]) -> list[str]:
    """The columns that say something of these rows: what they are ranked by and the figures first, then those
    parameters that differ, data before all, then the others."""
    there = [name for name in rows if rows[name].notna().any()]
    differ = [name for name in there if rows[name].nunique(dropna=False) > 1]
    figures = [name for name in SHOWN if name in there]
    figures[2:2] = [name for name in (SEEDS,) if name in there]
    figures += [name for name in ("epochs", "state") if name in differ]
    if sort not in figures or room() < NARROW:
        figures = [sort, *(name for name in figures if name != sort)]
    rest = [name for name in parameters if name in there and name != sort]
    return [*figures, *sorted(rest, key=lambda name: (name not in differ, name not in SOURCES))]


def _sides(names: Sequence[str]) -> str:
    return "".join("l" if name in WORDS else "r" for name in names)


def _header(column: str) -> str:
    """What stands above a column."""
    metric = ALL_METRICS.find(column)
    return metric.header if metric else setting_head(column)


def _figures(column: str, rows: pd.DataFrame) -> list[str]:
    """The values of a column, with their deviations where they are means."""
    if (deviation := f"{column}{SPREAD}") not in rows:
        return [value_text(column, value) for value in rows[column]]
    pairs = zip(rows[column], rows[deviation], strict=True)
    return [
        value_text(column, value) if pd.isna(sd) or pd.isna(value) else ALL_METRICS[column].text(value, sd)
        for value, sd in pairs
    ]


def value_text(column: str, value: Any, digits: int = 3) -> str:
    """A value of a column; `digits` are the significant ones of a parameter."""
    if pd.isna(value):
        return "1" if column == SEEDS else "–"
    if metric := ALL_METRICS.find(column):
        return metric.text(value)
    if column not in COLUMNS and isinstance(value, str):
        value = read_value(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 10**6 else f"{value:.{digits}g}"
    return clean(value)


def _findings(best: pd.DataFrame, merged: Merged, order: Order) -> list[str]:
    """What follows from ranked rows that all have a value to be ranked by."""
    if best.empty:
        lacking = f"no completed trial has a value of {clean(order.column)} to rank it by"
        return [wrap(f"{lacking}; --sort takes other columns")]
    under = f"the {order.word} with fewer parameters than:\n{_budgets(best, merged, order.column)}"
    if len(best) == 1:
        only = merged.names[best.index[0]]
        return [under, wrap(f"{only} is the only one, so there is no runner-up to set it against")]
    return [under, f"what sets the {order.word} two apart:\n{_contrast(best[:2], merged)}"]


def _budgets(ranking: pd.DataFrame, merged: Merged, sort: str) -> str:
    """The first of ranked rows under each number of parameters."""
    figures = ["validation_accuracy", "validation_loss", "params", "macs"]
    names = [*([] if sort in figures else [sort]), *figures]
    lines = [["", "under", "trial", *map(_header, names)]]
    for budget in BUDGETS:
        best = ranking[(ranking.params < budget).fillna(False)][:1]
        trial = merged.names[best.index].tolist() or ["none"]
        cells = [_figures(name, best)[0] if len(best) else "" for name in names]
        lines.append(["", f"{budget:,}", *trial, *cells])
    return fitting_table(lines, "rrl" + _sides(names), "the table above and the merged one have it", least=4)


def _contrast(two: pd.DataFrame, merged: Merged) -> str:
    """What sets two rows apart: settings, figures, and whether their accuracies differ by more than noise."""
    one, other = two.iloc[0], two.iloc[1]
    configs = [config_in(folder) for folder in two.folder]
    lines = [["", "", *merged.names[two.index], ""]]
    for name, left, right in differences(one, other, configs, merged.parameters):
        # With as many digits as it takes to see that they differ.
        pairs = [[value_text(name, value, digits) for value in (left, right)] for digits in range(3, 18)]
        lines.append(["", clean(name), *next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1]), ""])
    if len(lines) == 1:
        lines.append(["", "no setting differs", "", "", ""])
    for name in SHOWN:
        left, right = one.get(name, pd.NA), other.get(name, pd.NA)
        there = pd.notna(left), pd.notna(right)
        if any(there):
            apart = ALL_METRICS[name].difference(left - right) if all(there) else ""
            lines.append(["", name, *_figures(name, two), apart])
    if console.width(text := table(lines, "llrrr")) > console.room():
        text = table(_narrowed(lines), "lrr")
    return "\n".join([text, *filter(None, (noise(name, [one, other], configs) for name in JUDGED))])


def _narrowed(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """The lines of a contrast without the difference, which the figures tell as well, cells broken into lines."""
    broken = [[_header(name) if len(name) > LONGEST else name, *pair] for _, name, *pair, _ in lines]
    rows = [[cell.replace(" ± ", "\n± ") for cell in row] for row in broken[1:]]
    heads = []
    for place in (1, 2):
        widest = max(NARROWEST, *(console.width(row[place]) for row in rows))
        heads.append("\n".join(textwrap.wrap(broken[0][place], widest)))
    return [["", *heads], *rows]


def differences(
    one: "pd.Series[Any]", other: "pd.Series[Any]", configs: Sequence[dict[str, Any]], parameters: Sequence[str]
) -> list[tuple[str, Any, Any]]:
    """The settings in which two rows differ, with their values: all settings where both have a configuration, with
    the searched `parameters` first, or else these alone."""
    settings: list[Any] = [one, other]
    names = list(parameters)
    if all(configs):
        settings = [{name: setting_text(value) for name, value in identity(each).items()} for each in configs]
        names = list(dict.fromkeys([*names, *settings[0], *settings[1]]))
    if any(pd.notna(row.get(SEEDS)) for row in (one, other)):  # the mean of several has no seed
        names = [name for name in names if name != SEED]
    texts = [(name, *(each.get(name) for each in settings)) for name in names]
    found = [(name, *(None if pd.isna(text) else read_value(text) for text in pair)) for name, *pair in texts]
    return [(name, left, right) for name, left, right in found if left != right]
