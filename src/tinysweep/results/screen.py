"""What a person sees of a comparison, a block of text for each question."""

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from tinysweep.console import GAP, clean, first_names, table, width
from tinysweep.results.contrast import JUDGED, Chance, chance, differences
from tinysweep.results.found import TABLE, Found
from tinysweep.results.layout import COUNTS, LEFT, Value, header, shown
from tinysweep.results.merged import RUNS, TESTED, Merged
from tinysweep.results.ranking import Trial, best_under
from tinysweep.search.study import Status

FIGURES = ["validation_accuracy", "validation_loss", "params", TESTED, "macs", "seconds"]
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
    figures = [name for name in FIGURES if name in there] + [
        name for name in ("epochs", "state") if name in differ
    ]
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
    for name in FIGURES:
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
