"""Trials of several studies and single runs: ranked, set apart, and what is said of them on the terminal."""

import argparse
import csv
import math
import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from tinysweep.console import GAP, clean, first_names, table, width
from tinysweep.data.catalogue import DATA_SETS
from tinysweep.errors import DataError
from tinysweep.files import write_whole
from tinysweep.metrics import ALL_METRICS, TEST_METRICS
from tinysweep.results.merge import RUNS, TABLE, TESTED, Found, Merged, find, load_record, merge, setting_text
from tinysweep.results.where import find_column, read_value, rows_where
from tinysweep.search.compose_trial import identity
from tinysweep.search.study import Status
from tinysweep.search.table import COLUMNS

SHOWN = ["validation_accuracy", "validation_loss", "params", TESTED, "macs", "seconds"]
JUDGED = ("validation_accuracy", TESTED)  # what chance changes from image to image
WORDS = {"trial", "study", "state", "reason", "objective", "folder"}  # columns of text, read from the left
SOURCES = (
    "data",
    "data.name",
    "data.root",
    "data.validation",
    "data.split_seed",
    "data.fold",
)  # of the images that judge
BUDGETS = (1_000, 2_000, 5_000, 10_000, 20_000)  # trainable parameters, of which a model has fewer
PROBED = 100  # trials of a study in which a record is looked for; on another machine none has one
UNLIMITED = 1_000_000  # characters a line, where no terminal cuts it


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
    merged = merge(found)
    columns = list(merged.frame.columns)
    sort = find_column(options.sort, columns, "--sort")
    # A name with a comma in it stands in double quotes, as in a CSV.
    names = next(csv.reader([options.columns or ""], skipinitialspace=True), [])
    chosen = [find_column(name, columns, "--columns") for name in names]
    rows = merged.frame if options.where is None else rows_where(options.where, merged.frame)
    _write(merged.frame, options.csv)

    completed = rows[rows.state == Status.complete]
    sorted_by = ALL_METRICS.find(sort)
    is_high = sorted_by is not None and sorted_by.higher_is_better
    order = Order(sort, options.descending or (is_high and not options.ascending))
    ranking = rank(rows if options.all else completed, merged, order)
    blocks = [_summary(found, merged), _title(len(ranking), order, options)]
    if len(ranking):
        blocks[-1] += "\n" + _ranking(ranking[: options.top], merged, sort, chosen)
    if len(completed):
        blocks += _findings(ranking[(ranking.state == Status.complete) & ranking[sort].notna()], merged, order)
    blocks.append(f"merged table: {clean(options.csv)} (rows: {len(merged.frame):,}, columns: {len(columns)})")
    print("\n\n".join(blocks), flush=True)
    for line in _cautions(merged, completed, sort):
        print(f"warning: {line}", file=sys.stderr)


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


def _summary(found: Found, merged: Merged) -> str:
    """A line for each study and for the single runs: how many there are in what state, and where they lie."""
    known = [status.value for status in Status]
    lines = []
    for label, place in merged.places.items():
        counts = merged.frame.state[merged.labels == label].astype(object).value_counts(sort=False)
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
    return table([list(map(clean, line)) for line in lines], "llll")


def _title(count: int, order: Order, options: argparse.Namespace) -> str:
    kind = "trials" if options.all else "completed trials"
    if options.where is not None:
        kind += f" with {clean(options.where)}"
    if not count:
        return f"there are no {kind}"
    return f"the {order.word} {min(options.top, count):,} of {count:,} {kind} by {order}:"


def _ranking(rows: pd.DataFrame, merged: Merged, sort: str, chosen: Sequence[str]) -> str:
    """Ranked rows, a line each: the columns that were chosen, or those that tell something and fit."""
    names = list(chosen) or _telling(rows, sort, merged.parameters)
    columns = [["", *(f"{place:,}" for place in range(1, len(rows) + 1))], ["trial", *merged.names[rows.index]]]
    columns += [[_header(name), *(value_text(name, value) for value in rows[name])] for name in names]
    room = shutil.get_terminal_size((UNLIMITED, 24)).columns
    ends = accumulate(max(map(width, column)) + len(GAP) for column in columns)
    fitting = len(columns) if chosen else max(3, sum(end - len(GAP) <= room for end in ends))
    text = table(list(zip(*columns[:fitting], strict=True)), "rl" + _sides(names[: fitting - 2]))
    hidden = first_names([clean(name) for name in names[fitting - 2 :]])
    return text + "\n" + _wrap(f"no room for {hidden}; --columns A,B chooses") if hidden else text


def _telling(rows: pd.DataFrame, sort: str, parameters: Sequence[str]) -> list[str]:
    """The columns that say something of these rows: what they are ranked by and the figures first, then those
    parameters that differ, data before all, then the others."""
    there = [name for name in rows if rows[name].notna().any()]
    differ = [name for name in there if rows[name].nunique(dropna=False) > 1]
    figures = [name for name in SHOWN if name in there] + [name for name in ("epochs", "state") if name in differ]
    first = [] if sort in figures else [sort]
    rest = [name for name in parameters if name in there and name != sort]
    return [*first, *figures, *sorted(rest, key=lambda name: (name not in differ, name not in SOURCES))]


def _sides(names: Sequence[str]) -> str:
    return "".join("l" if name in WORDS else "r" for name in names)


def _header(column: str) -> str:
    """What stands above a column: `model.width` takes two lines, as its values are seldom as wide."""
    section, dot, leaf = clean(column).rpartition(".")
    if metric := ALL_METRICS.find(column):
        return metric.header
    return f"{section}{dot}\n{leaf}" if section else leaf


def value_text(column: str, value: Any, digits: int = 3) -> str:
    """A value of a column; `digits` are the significant ones of a parameter."""
    if pd.isna(value):
        return "–"
    if metric := ALL_METRICS.find(column):
        return metric.text(value)
    if column not in COLUMNS and isinstance(value, str):
        value = read_value(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 10**6 else f"{value:.{digits}g}"
    return clean(value)


def _wrap(words: str) -> str:
    room = shutil.get_terminal_size((UNLIMITED, 24)).columns
    return textwrap.fill(words, room, initial_indent=GAP, subsequent_indent=GAP, break_on_hyphens=False)


def _findings(best: pd.DataFrame, merged: Merged, order: Order) -> list[str]:
    """What follows from ranked rows that all have a value to be ranked by."""
    if best.empty:
        lacking = f"no completed trial has a value of {clean(order.column)} to rank it by"
        return [f"{lacking}; --sort takes other columns"]
    under = f"the {order.word} with fewer parameters than:\n{_budgets(best, merged, order.column)}"
    if len(best) == 1:
        only = merged.names[best.index[0]]
        return [under, f"{only} is the only one, so there is no runner-up to set it against"]
    return [under, f"what sets the {order.word} two apart:\n{_contrast(best[:2], merged)}"]


def _budgets(ranking: pd.DataFrame, merged: Merged, sort: str) -> str:
    """The first of ranked rows under each number of parameters."""
    figures = ["validation_accuracy", "validation_loss", "params", "macs"]
    names = [*([] if sort in figures else [sort]), *figures]
    lines = [["", "under", "trial", *map(_header, names)]]
    for budget in BUDGETS:
        best = ranking[(ranking.params < budget).fillna(False)][:1]
        trial = merged.names[best.index].tolist() or ["none"]
        cells = [value_text(name, best[name].iloc[0]) if len(best) else "" for name in names]
        lines.append(["", f"{budget:,}", *trial, *cells])
    return table(lines, "rrl" + _sides(names))


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
            lines.append(["", name, value_text(name, left), value_text(name, right), apart])
    noise = [_noise(name, (one.get(name), other.get(name)), configs) for name in JUDGED]
    return "\n".join([table(lines, "llrrr"), *filter(None, noise)])


# ---- what sets trials apart, and whether they can be compared


def config_in(folder: Any) -> dict[str, Any]:
    """The configuration in the record of a trial's folder; empty where the record isn't on this machine."""
    try:
        found = load_record(Path(str(folder)))["config"]
    except (DataError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


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
    texts = [(name, *(each.get(name) for each in settings)) for name in names]
    found = [(name, *(None if pd.isna(text) else read_value(text) for text in pair)) for name, *pair in texts]
    return [(name, left, right) for name, left, right in found if left != right]


def validation_images(config: dict[str, Any]) -> str | None:
    """The images that validation figures were judged on, in words; None if none were held out, or nobody knows.
    Image folders are told apart by what they hold or, in old records, by where they lie."""
    try:
        data = config["data"]
        name, share, seed = str(data["name"]), float(data["validation"]), int(data["split_seed"])
        fold, digest = int(data.get("fold", 0)), data.get("digest")
        source = name if name in DATA_SETS else f"data.digest={digest}" if digest else str(data["root"])
    except (KeyError, TypeError, ValueError):
        return None
    size = f"{share:,.0f} images" if share >= 1 else f"{100 * share:g}% of the images"
    split = f"data.split_seed={seed}" + (f", data.fold={fold}" if fold else "")
    return f"{size} of {clean(source)}, {split}" if share > 0 else None


def image_count(config: dict[str, Any], column: str) -> int | None:
    """On how many images an accuracy was measured, as far as a configuration and the catalogue tell."""
    known = DATA_SETS.get(str(config.get("data", {}).get("name")))
    if not known:  # an image folder may have a val/ of any size
        return None
    if column == TESTED:
        return known.test_count
    share = float(config["data"]["validation"]) if validation_images(config) else 0
    return int(share) if share >= 1 or not share else max(1, round(share * known.train_count))


def standard_error(accuracies: Sequence[float], counts: Sequence[int]) -> float:
    """The binomial standard error of the difference of two accuracies, each measured on so many images: the root
    of the sum of p(1 - p)/n. It takes the images to be different ones; models that fail on the same images differ
    by chance less than this."""
    return math.sqrt(sum(each * (1 - each) / count for each, count in zip(accuracies, counts, strict=True)))


def _noise(name: str, accuracies: tuple[Any, Any], configs: Sequence[dict[str, Any]]) -> str:
    """Whether chance explains the difference between two accuracies; empty if nobody knows."""
    counts = [count for found in configs if (count := image_count(found, name))]
    if len(counts) < 2 or not all(pd.notna(each) and 0 <= each <= 1 for each in accuracies):
        return ""
    difference, error = abs(accuracies[0] - accuracies[1]), standard_error(accuracies, counts)
    size = " and ".join(f"{count:,}" for count in dict.fromkeys(counts))
    return _wrap(
        f"{name}: {100 * difference:.2f} points are {'within' if difference <= error else 'beyond'} noise, one "
        f"binomial standard error of the difference being {100 * error:.2f} points on {size} images"
    )


def _cautions(merged: Merged, completed: pd.DataFrame, sort: str) -> Iterator[str]:
    """What makes a ranking unfair or worth less than it seems, a line each."""
    if merged.damaged:
        more = f" (and {len(merged.damaged) - 1} more)" if len(merged.damaged) > 1 else ""
        yield f"left out: {merged.damaged[0]}{more}"
    if len(groups := _group(_judges(merged, completed))) > 1:
        yield f"validation figures of different images can't be ranked fairly: {_list_groups(groups)}"
    aimed = completed[completed.objective.notna()]
    aims = zip(aimed.objective.map(clean), merged.labels[aimed.index], strict=True)
    if len(groups := _group(aims)) > 1:
        yield f"the studies aimed at different objectives, and one ranking favours some: {_list_groups(groups)}"
    if sort in TEST_METRICS:
        yield "what is chosen by the test set has no fair test left: its figures here flatter it"


def _judges(merged: Merged, completed: pd.DataFrame) -> list[tuple[str, str]]:
    """The images that trials were judged on, and whose trials: of every single run, and of each study by one trial
    with a record for each of the data that it searched. Where no record is there, what was searched has to do."""
    data = [name for name in merged.parameters if name in SOURCES]
    names = merged.labels.where(merged.frame.number.notna(), merged.names)
    keys = [names[completed.index], *(completed[each] for each in data)]
    recorded, searched = [], []
    for _, rows in completed.groupby(keys, dropna=False, sort=False):
        first, name = rows.iloc[0], str(names[rows.index[0]])
        judges = (validation_images(config_in(folder)) for folder in rows.folder[:PROBED])
        if judge := next(filter(None, judges), None):
            recorded.append((judge, name))
        if words := [f"{each}={clean(first[each])}" for each in data if pd.notna(first[each])]:
            searched.append((" ".join(words), name))
    return recorded or searched


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in dict.fromkeys(pairs):
        groups[key].append(name)
    return groups


def _list_groups(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key} ({first_names(names)})" for key, names in groups.items())
