"""Text tables as a terminal shows them, and nothing in them that would change the screen."""

from collections.abc import Sequence
from itertools import zip_longest

GAP = "  "
NAMED = 4  # how many names a line lists


def clean(text: object) -> str:
    """Text without control characters, so that no name moves the cursor, changes colours or breaks the line."""
    return "".join(letter for letter in str(text) if letter.isprintable())


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def widths(columns: Sequence[Sequence[str]]) -> list[int]:
    """The characters that each column takes; a cell may have several lines."""
    return [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]


def table(columns: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """Columns of cells beside each other, the header first in each, which may have several lines."""
    room = widths(columns)
    lines: list[list[str]] = []
    for row in zip(*columns, strict=True):
        # Headers of one line stand on the lower one, beside the values.
        stacked = zip_longest(*(cell.split("\n")[::-1] for cell in row), fillvalue="")
        lines += [list(line) for line in stacked][::-1]
    return "\n".join(
        GAP.join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, room, left, strict=True)
        ).rstrip()
        for line in lines
    )


def that_fit(columns: Sequence[Sequence[str]], room: int) -> int:
    """How many of the columns, from the left, fit beside each other in `room` characters."""
    taken, count = -len(GAP), 0
    for width in widths(columns):
        taken += len(GAP) + width
        if taken > room:
            break
        count += 1
    return count
