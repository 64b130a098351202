"""What people see: tables as plain text, and the progress of long work with a bar where somebody is watching.

rich is imported where it is used, so that no command waits for it to start.
"""

import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Collection, Sequence
from itertools import accumulate, zip_longest
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich import progress

GAP = "  "
NAMED = 4  # how many names a line lists
UNLIMITED = 1_000_000  # characters a line, where no terminal cuts it
SELDOM = 0.5  # seconds at least between two drawings of a bar that moves all the time


def clean(text: object) -> str:
    """Text without control characters, so that no name moves the cursor, changes colours or breaks the line."""
    return "".join(letter for letter in str(text) if letter.isprintable())


def first_names(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def width(text: str) -> int:
    """The cells of a terminal that the widest line takes; Chinese letters take two each."""
    from rich.cells import cell_len  # noqa: PLC0415 no command waits for rich to start

    return max(map(cell_len, text.split("\n")))


def room() -> int:
    """The cells of a line of the terminal; without one lines are as long as they like."""
    return shutil.get_terminal_size((UNLIMITED, 24)).columns


def wrap(words: str, indent: str = "", more: str | None = None) -> str:
    """Words as lines that the terminal has room for, `more` being the indent of all but the first."""
    return textwrap.fill(
        words, room(), initial_indent=indent, subsequent_indent=indent if more is None else more,
        break_on_hyphens=False,
    )  # fmt: skip


def setting_head(name: str) -> str:
    """What stands above the column of a setting: `model.width` takes two lines, its values being narrow."""
    section, dot, leaf = clean(name).rpartition(".")
    return f"{section}{dot}\n{leaf}" if section else leaf


def table(rows: Sequence[Sequence[str]], align: str, rules: Collection[int] = ()) -> str:
    """Rows of cells as aligned text that is never cut, however wide.

    `align` holds an l (left) or r (right) for each column; below the rows numbered in `rules` stands a line. A
    cell may have several lines: its last stands beside the others of its row, as in a header over two lines.

    rich's own table isn't used, as it takes 5 s to lay out 1,000 rows of 20 columns.
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        stacked = zip_longest(*(cell.split("\n")[::-1] for cell in row), fillvalue="")
        lines += [_line(cells, widths, align) for cells in reversed(list(stacked))]
        if number in rules:
            lines.append("-" * (sum(widths) + len(GAP) * (len(widths) - 1)))
    return "\n".join(lines)


def fitting_table(
    rows: Sequence[Sequence[str]],
    align: str,
    advice: str,
    *,
    least: int = 2,
    rules: Collection[int] = (),
    names: Sequence[str] | None = None,
    indent: str = "",
) -> str:
    """A `table` of as many columns as the terminal has room for, but of the first `least` at any rate. Below it is
    said which are left out, by their `names` if not by the heads in the first row, and by the `advice` where they
    are to be had."""
    ends = accumulate(max(map(width, column)) + len(GAP) for column in zip(*rows, strict=True))
    kept = max(least, sum(end - len(GAP) <= room() - len(indent) for end in ends))
    text = textwrap.indent(table([row[:kept] for row in rows], align[:kept], rules), indent)
    hidden = first_names([" ".join(name.split()) for name in (names or rows[0])[kept:]])
    return f"{text}\n{wrap(f'no room for {hidden}; {advice}', GAP)}" if hidden else text


def _line(cells: Sequence[str], widths: Sequence[int], align: str) -> str:
    padded = []
    for cell, room, side in zip(cells, widths, align, strict=True):
        blanks = " " * (room - width(cell))
        padded.append(cell + blanks if side == "l" else blanks + cell)
    return GAP.join(padded).rstrip()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, in whose cells what was shown can be replaced."""
    ipython = sys.modules.get("IPython")  # which every kernel has imported
    return hasattr(ipython.get_ipython(), "kernel") if ipython else False


def _at_terminal() -> bool:
    """Whether somebody watches standard error. A notebook gives its shell commands a terminal too, but one that
    moves no cursor and keeps all that was ever drawn."""
    return sys.stderr.isatty() and "JPY_PARENT_PID" not in os.environ


class Progress:
    """Lines on standard output, and a bar with the time left where somebody is watching: below the lines, where
    standard error is a terminal, or in the output of a notebook's cell."""

    def __init__(self, total: int | None, unit: str, initial: int = 0, watched: bool = True) -> None:
        """`unit` is what is counted, such as "trials"; the `initial` ones don't count for the pace. `watched` is
        false where nobody is meant to see a bar."""
        self._in_cell, self._drawn = in_notebook(), -math.inf
        seen = watched and (self._in_cell or _at_terminal())
        self._bar = _bar(unit, live=not self._in_cell) if seen else None
        if self._bar:
            self._task = self._bar.add_task("", total=total, completed=initial)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._bar.advance(self._task, 0)  # the pace is measured from here on
            if self._in_cell:
                from IPython.display import display  # noqa: PLC0415 it is there in a notebook

                self._cell = display(self._bar.make_tasks_table(self._bar.tasks), display_id=True)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def print(self, line: str) -> None:
        """A line above the bar."""
        if self._bar and sys.stdout.isatty():
            # Of the same terminal, so that rich has to move its bar out of the way.
            self._bar.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def advance(self) -> None:
        """One more is done."""
        self._update(by=1)

    def reach(self, done: float) -> None:
        """So much is done in all. May be called as often as one likes: until all is done the bar moves seldom, as
        training needs the processor more."""
        if self._bar:
            is_due = time.monotonic() - self._drawn >= SELDOM
            if is_due or done == self._bar.tasks[self._task].total:
                self._update(to=done)

    def leave_out(self, count: int) -> None:
        """So many need not be done, so they don't count for the pace."""
        if self._bar and (total := self._bar.tasks[self._task].total) is not None:
            self._bar.update(self._task, total=total - count)

    def describe(self, text: str) -> None:
        """What stands beside the bar, such as the best so far."""
        if self._bar:
            self._bar.update(self._task, description=text)

    def _update(self, to: float | None = None, by: float | None = None) -> None:
        if self._bar:
            self._bar.update(self._task, completed=to, advance=by, refresh=True)
            self._drawn = time.monotonic()
            if self._in_cell:
                self._cell.update(self._bar.make_tasks_table(self._bar.tasks))


def _bar(unit: str, live: bool) -> "progress.Progress":
    """A bar of rich's, which draws itself if it is `live`."""
    from rich import progress  # noqa: PLC0415 no command waits for rich to start
    from rich.console import Console  # noqa: PLC0415

    return progress.Progress(
        progress.BarColumn(bar_width=None),
        progress.MofNCompleteColumn(),
        unit,
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.TimeRemainingColumn(),
        "left",
        console=Console(stderr=True),
        disable=not live,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else it leads to a file
        refresh_per_second=1,  # training needs the processor more
        speed_estimate_period=math.inf,  # a trial may take longer than any period
    )
