"""The columns of a comparison: their headers, and their values as people read them."""

from tinysweep.console import clean

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
