"""Trials of several studies and single runs, ranked and set apart, and what is said of them on the terminal."""

import argparse
import csv
import functools
import itertools
import math
import shutil
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from tinysweep.console import GAP, clean, first_names, table, width
from tinysweep.data.catalogue import DATA_SETS
from tinysweep.errors import ConfigError, DataError
from tinysweep.files import write_whole
from tinysweep.metrics import METRICS
from tinysweep.results.merge import FIGURES, RUNS, TABLE, TESTED, Found, Merged, merge, read_record
from tinysweep.results.where import Condition, every, named, unknown, written
from tinysweep.search.compose_trial import identity
from tinysweep.search.study import Status

Value = str | int | float | bool

# Short headers of columns with long names; a line break stands where a header goes over two lines.
HEADERS = {
    "validation_accuracy": "accuracy",
    "validation_loss": "loss",
    "test_accuracy": "test\naccuracy",
    "macs": "MACs",
    "activation_bytes": "activation\nbytes",
}
LEFT = {"trial", "study", "state", "reason", "objective", "folder"}  # words, which are read from the left
COUNTS = {"params", "macs", "activation_bytes"}


def header(column: str) -> str:
    """What stands above a column: `model.width` takes two lines, as its values are seldom as wide."""
    section, dot, leaf = clean(column).rpartition(".")
    return HEADERS.get(column, f"{section}{dot}\n{leaf}" if section else leaf)


def shown(column: str, value: Value | None, digits: int = 3) -> str:
    """A value of a column; `digits` are the significant ones of a parameter."""
    if value is None:
        return "-"
    if isinstance(value, float) and column.endswith("_accuracy"):
        return f"{100 * value:.2f}%"
    if isinstance(value, float) and column.endswith("_loss"):
        return f"{value:.4f}"
    if isinstance(value, float) and column == "seconds":
        return f"{value:.1f}"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 10**6
        return f"{value:.0f}" if whole else f"{value:.{digits}g}"
    return f"{value:,}" if column in COUNTS else clean(value)


BUDGETS = (1_000, 2_000, 5_000, 10_000, 20_000)  # trainable parameters, of which a model has fewer


@dataclass(frozen=True)
class Trial:
    """A row of the merged table: its study and itself as people call them, and its values by column."""

    study: str
    name: str
    values: Mapping[str, Value | None]

    @property
    def called(self) -> str:
        return self.name if self.values["number"] is None else f"{self.study} {self.name}"

    @property
    def complete(self) -> bool:
        return self.values["state"] == Status.complete

    def figure(self, column: str) -> float:
        """A number, or infinity where there is none."""
        value = self.values.get(column)
        return float(value) if isinstance(value, int | float) else math.inf


def rows(merged: Merged) -> list[Trial]:
    """Every row of the merged table."""
    columns = {name: _values(merged, name) for name in merged.frame.columns}
    names = _names(columns["number"], columns["folder"])
    values = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [Trial(*row) for row in zip(merged.labels, names, values, strict=True)]


def _values(merged: Merged, name: str) -> list[Value | None]:
    found = merged.frame[name].astype(object)
    return [
        None if missing else value if name in FIGURES else read_value(value)
        for value, missing in zip(found, found.isna(), strict=True)
    ]


@functools.lru_cache(maxsize=65536)
def read_value(text: str) -> Value:
    """A parameter as a table holds it: a number, a truth value, or else text."""
    if text in ("True", "true", "False", "false"):
        return text in ("True", "true")
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if "_" not in text and math.isfinite(value):
            return value
    return text


def _names(numbers: Sequence[Value | None], folders: Sequence[Value | None]) -> list[str]:
    """The numbers of trials, and for single runs as much of the end of their folders as tells them apart."""
    rows = list(zip(numbers, folders, strict=True))
    paths = [Path(str(folder or "-")).parts if number is None else () for number, folder in rows]
    different, length = len(set(paths)), 1
    while len({parts[-length:] for parts in paths}) < different:
        length += 1
    return [
        clean("/".join(parts[-length:])) if number is None else str(number)
        for number, parts in zip(numbers, paths, strict=True)
    ]


def ranked(trials: Sequence[Trial], column: str, descending: bool) -> list[Trial]:
    """Trials in the order of a column, numbers before text and what lacks it last; ties by validation loss, then
    parameters, both from the lowest, then study and number."""

    def tie(trial: Trial) -> tuple[float, float, str, float, str]:
        loss, params = trial.figure("validation_loss"), trial.figure("params")
        return loss, params, trial.study, trial.figure("number"), trial.name

    def key(trial: Trial) -> tuple[bool, Value]:
        value = trial.values[column]
        assert value is not None
        return isinstance(value, str) != descending, value

    settled = sorted(trials, key=tie)
    having = [trial for trial in settled if trial.values[column] is not None]
    lacking = [trial for trial in settled if trial.values[column] is None]
    # Python's sort keeps the order of equals, reversed or not.
    return sorted(having, key=key, reverse=descending) + lacking


def judged(order: Sequence[Trial], column: str) -> list[Trial]:
    """Those of ranked trials that can be the best: completed, and with a value in the column."""
    return [trial for trial in order if trial.complete and trial.values[column] is not None]


def best_under(order: Sequence[Trial]) -> list[tuple[int, Trial | None]]:
    """For each of BUDGETS the first of ranked trials that has fewer parameters."""
    return [
        (budget, next((trial for trial in order if trial.figure("params") < budget), None)) for budget in BUDGETS
    ]


JUDGED = ("validation_accuracy", TESTED)  # what chance changes from image to image
Difference = tuple[str, Value | None, Value | None]


def config(trial: Trial) -> dict[str, Any]:
    """The configuration in a trial's record; empty where the record isn't on this machine."""
    folder = trial.values["folder"]
    if folder is None:
        return {}
    try:
        found = read_record(Path(str(folder)))["config"]
    except (DataError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def differences(one: Trial, other: Trial, parameters: Sequence[str]) -> list[Difference]:
    """The settings in which two trials differ, with their values: all of them where both records are there, with
    the searched `parameters` first, or else these alone."""
    settings = [identity(config(trial)) for trial in (one, other)]
    if all(settings):
        names = [name for name in parameters if any(name in found for found in settings)]
        names = list(dict.fromkeys([*names, *settings[0], *settings[1]]))
        pairs = [(name, _setting(settings[0], name), _setting(settings[1], name)) for name in names]
    else:
        pairs = [(name, one.values[name], other.values[name]) for name in parameters]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _setting(settings: Mapping[str, Any], name: str) -> Value | None:
    return read_value(written(settings[name])) if name in settings else None


@dataclass(frozen=True)
class HeldOut:
    """The images that validation figures are judged on, as data.validation says it: a number of them, or below 1 a
    part of the data set, drawn by a seed. `folder` tells apart image folders alone: by what they hold or, in old
    records, by where they lie."""

    data: str
    folder: str
    share: float
    seed: int

    def __str__(self) -> str:
        size = f"{self.share:,.0f} images" if self.share >= 1 else f"{100 * self.share:g}% of the images"
        return f"{size} of {clean(self.folder or self.data)}, data.split_seed={self.seed}"


def held_out(trial: Trial) -> HeldOut | None:
    """What a trial was judged on, if its record is there and it held anything out."""
    data: Any = config(trial).get("data")
    try:
        name, share, seed = str(data["name"]), float(data["validation"]), int(data["split_seed"])
        held = data.get("digest")
        folder = "" if name in DATA_SETS else f"data.digest={held}" if held else str(data["root"])
    except (KeyError, TypeError, ValueError):
        return None
    return HeldOut(name, folder, share, seed) if share > 0 else None


def images(trial: Trial, column: str) -> int | None:
    """On how many images an accuracy was measured, as far as its record and what is known of data sets tell."""
    data = config(trial).get("data")
    known = DATA_SETS.get(str(data.get("name"))) if isinstance(data, dict) else None
    if column == TESTED:
        return known.test_count if known else None
    judge = held_out(trial)
    if judge is None or not known:  # an image folder may have a val/ of any size
        return None
    return int(judge.share) if judge.share >= 1 else max(1, round(judge.share * known.train_count))


@dataclass(frozen=True)
class Chance:
    """Two accuracies, each with the number of images that it was measured on."""

    accuracies: tuple[float, float]
    images: tuple[int, int]

    @property
    def difference(self) -> float:
        return self.accuracies[0] - self.accuracies[1]

    @property
    def standard_error(self) -> float:
        """The binomial standard error of the difference: the root of the sum of p(1 - p)/n. It takes the images to
        be different ones; models that fail on the same images differ by chance less than this."""
        pairs = zip(self.accuracies, self.images, strict=True)
        return math.sqrt(sum(accuracy * (1 - accuracy) / count for accuracy, count in pairs))

    @property
    def is_noise(self) -> bool:
        return abs(self.difference) <= self.standard_error


def chance(one: Trial, other: Trial, column: str) -> Chance | None:
    """What may lie behind the difference of two accuracies, if it is known how they were measured."""
    accuracies = one.figure(column), other.figure(column)
    counts = images(one, column), images(other, column)
    if counts[0] is None or counts[1] is None or not all(0 <= accuracy <= 1 for accuracy in accuracies):
        return None
    return Chance(accuracies, (counts[0], counts[1]))


SHOWN = ["validation_accuracy", "validation_loss", "params", TESTED, "macs", "seconds"]
UNLIMITED = 1_000_000  # characters a line, where no terminal cuts it


def summary(found: Found, merged: Merged) -> str:
    """A line for each study and for the single runs: how many there are in what state, and where they lie."""
    states = merged.states()
    lines = []
    for label, place in merged.places.items():
        counts = states.get(label, Counter())
        words = ", ".join(f"{counts[state]:,} {state.replace('_', ' ')}" for state in _in_order(counts))
        total = sum(counts.values())
        noun = ("run" if label == RUNS else "trial") + ("" if total == 1 else "s")
        lines.append([label, f"{total:,} {noun}", words, place])
    lines += [
        [folder.name, "", f"no batch has finished yet, so there is no {TABLE}", str(folder)]
        for folder in found.begun
    ]
    if merged.repeated:
        lines.append(["", f"{merged.repeated:,} more", "that are there twice, counted once", ""])
    return table([list(map(clean, line)) for line in lines], "llll")


def _in_order(states: Iterable[str]) -> list[str]:
    known = [state.value for state in Status]
    return sorted(states, key=lambda state: known.index(state) if state in known else len(known))


def ranking(trials: Sequence[Trial], sort: str, chosen: Sequence[str], parameters: Sequence[str]) -> str:
    """Ranked trials, a line each: the columns that were chosen, or those that tell something and fit."""
    names = list(chosen) or _telling(trials, sort, parameters)
    columns = [["", *(f"{place:,}" for place in range(1, len(trials) + 1))], _called(trials)]
    columns += [_cells(name, trials) for name in names]
    room = _room()
    fitting = len(columns) if chosen else max(3, _that_fit(columns, room))
    hidden = first_names([clean(name) for name in names[fitting - 2 :]])
    text = _beside(columns[:fitting], "rl" + _sides(names[: fitting - 2]))
    return text + "\n" + _wrapped(f"no room for {hidden}; --columns A,B chooses", room) if hidden else text


def _beside(columns: Sequence[Sequence[str]], align: str) -> str:
    return table(list(zip(*columns, strict=True)), align)


def _sides(names: Sequence[str]) -> str:
    return "".join("l" if name in LEFT else "r" for name in names)


def _that_fit(columns: Sequence[Sequence[str]], room: int) -> int:
    """How many of the columns, from the left, fit beside each other in `room` characters."""
    ends = accumulate(max(map(width, column)) + len(GAP) for column in columns)
    return sum(end - len(GAP) <= room for end in ends)


def _room() -> int:
    return shutil.get_terminal_size((UNLIMITED, 24)).columns


def _wrapped(words: str, room: int) -> str:
    return textwrap.fill(words, room, initial_indent=GAP, subsequent_indent=GAP, break_on_hyphens=False)


def _telling(trials: Sequence[Trial], sort: str, parameters: Sequence[str]) -> list[str]:
    """The columns that say something of these trials: what they are ranked by and the figures first, then those
    parameters that differ, then the others."""
    values = {name: [trial.values[name] for trial in trials] for name in trials[0].values}
    there = [name for name, found in values.items() if any(value is not None for value in found)]
    differ = [name for name in there if len(set(values[name])) > 1]
    figures = [name for name in SHOWN if name in there] + [name for name in ("epochs", "state") if name in differ]
    first = [] if sort in figures else [sort]
    rest = sorted((name for name in parameters if name in there and name != sort), key=lambda n: n not in differ)
    return [*first, *figures, *rest]


def _called(trials: Sequence[Trial | None]) -> list[str]:
    return ["trial", *(trial.called if trial else "none" for trial in trials)]


def _cells(name: str, trials: Sequence[Trial | None]) -> list[str]:
    return [header(name), *(shown(name, trial.values[name]) if trial else "" for trial in trials)]


def budgets(order: Sequence[Trial], sort: str) -> str:
    """The best of ranked trials under each number of parameters."""
    found = best_under(order)
    trials = [trial for _, trial in found]
    figures = ["validation_accuracy", "validation_loss", "params", "macs"]
    names = [*([] if sort in figures else [sort]), *figures]
    columns = [["under", *(f"{budget:,}" for budget, _ in found)], _called(trials)]
    columns += [_cells(name, trials) for name in names]
    return _beside([[""] * len(columns[0]), *columns], "rrl" + _sides(names))


def contrast(one: Trial, other: Trial, parameters: Sequence[str]) -> str:
    """What sets two trials apart: settings, figures, and whether their accuracies differ by more than noise."""
    lines = [["", one.called, other.called, ""]]
    for name, left, right in differences(one, other, parameters):
        lines.append([clean(name), *_apart(name, left, right), ""])
    if len(lines) == 1:
        lines.append(["no setting differs", "", "", ""])
    for name in SHOWN:
        left, right = one.values.get(name), other.values.get(name)
        if left is not None or right is not None:
            lines.append([name, shown(name, left), shown(name, right), _difference(name, left, right)])
    chances = ((name, chance(one, other, name)) for name in JUDGED)
    noise = [_wrapped(_noise(found, name), _room()) for name, found in chances if found]
    return "\n".join([table([["", *line] for line in lines], "llrrr"), *noise])


def _apart(name: str, one: Value | None, other: Value | None) -> list[str]:
    """Two different values with as many digits as it takes to see that they are."""
    pairs = ([shown(name, value, digits) for value in (one, other)] for digits in range(3, 18))
    return next((pair for pair in pairs if pair[0] != pair[1]), [repr(one), repr(other)])


def _difference(name: str, one: Value | None, other: Value | None) -> str:
    """A figure less another, signed."""
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return ""
    if one == other:
        return "same"
    if name in JUDGED:
        return f"{100 * (one - other):+.2f} points"
    if name in COUNTS:
        return f"{one - other:+,}"
    return f"{one - other:+.1f}" if name == "seconds" else f"{one - other:+.2g}"


def _noise(found: Chance, name: str) -> str:
    """Whether chance explains the difference between two accuracies."""
    side = "within" if found.is_noise else "beyond"
    size = " and ".join(f"{count:,}" for count in dict.fromkeys(found.images))
    return (
        f"{name}: {100 * abs(found.difference):.2f} points are {side} noise, one binomial standard error of the "
        f"difference being {100 * found.standard_error:.2f} points on {size} images"
    )


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
    blocks = [summary(found, merged), _title(order, by, options)]
    if order:
        blocks[-1] += "\n" + ranking(order[: options.top], sort, chosen, merged.parameters)
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
    under = f"the {by.word} with fewer parameters than:\n{budgets(best, by.column)}"
    if len(best) == 1:
        return [under, f"{best[0].called} is the only one, so there is no runner-up to set it against"]
    title = f"what sets the {by.word} two apart:"
    return [under, f"{title}\n{contrast(best[0], best[1], merged.parameters)}"]


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
