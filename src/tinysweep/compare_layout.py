"""Text tables as a terminal shows them: figures as people read them, and nothing that would change the screen."""

from collections.abc import Sequence
from itertools import zip_longest

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
GAP = "  "
NAMED = 4  # how many names a line lists


def clean(text: object) -> str:
    """Text without control characters, so that no name moves the cursor, changes colours or breaks the line."""
    return "".join(letter for letter in str(text) if letter.isprintable())


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


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
