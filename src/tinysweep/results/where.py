"""Conditions on the rows of a table, such as `params < 10000 and model in ["plain", "residual"]`.

pandas evaluates them, as DataFrame.query does. Since that would also call functions and read attributes, Python's
parser reads a condition first, and nothing but comparisons of columns and constants, joined by and, or, not, is
passed on: no condition can run code.
"""

import ast
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tinysweep.console import clean
from tinysweep.errors import ConfigError
from tinysweep.search.table import COLUMNS

ALIASES = {"accuracy": "validation_accuracy", "loss": "validation_loss", "MACs": "macs", "trial": "number"}
GRAMMAR = (
    "compare columns by <, <=, ==, !=, >=, > or in [a, b]; join by and, or, not; text needs quotes, and odd names "
    "`backticks`"
)
KEYWORDS = {"and", "or", "not", "in", "True", "False"}
# Quoted text; a name in backticks; a name, dotted or not.
TOKEN = re.compile(
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`(?P<odd>[^`]*)`|(?<![\w.])(?P<name>[^\W\d]\w*(?:\.\w+)*)"""
)
CONSTANTS = (str, int, float, bool)
NODES = (
    ast.Expression, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.cmpop, ast.Name,
    ast.Load, ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip


def find_column(name: str, columns: Sequence[str], option: str, hint: str = "") -> str:
    """The column that is meant by its name or by the header that the tables show.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    if found := next((each for each in (name, ALIASES.get(name)) if each in columns), None):
        return found
    leaves = {each.rpartition(".")[2]: each for each in reversed(columns)}
    close = difflib.get_close_matches(name, [*columns, *ALIASES, *leaves], n=1)
    meant = f"; did you mean {clean((leaves | ALIASES).get(close[0], close[0]))}?" if close else ""
    raise ConfigError(f"{option}: {clean(name)!r} is not a column{meant}{hint}; {_list_columns(columns)}")


def _list_columns(columns: Sequence[str]) -> str:
    return f"the columns are {', '.join(map(clean, columns))}"


def rows_where(condition: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that meet a condition. A missing number differs from all and is in no order; missing text is empty.

    Raises:
        ConfigError: it is no condition, or names a column that isn't there.
    """
    names = list(frame.columns)
    columns: dict[str, str] = {}  # by stand-ins that Python's grammar takes

    def stand_in(token: re.Match[str]) -> str:
        name = token["odd"] or token["name"]
        if name is None:
            return token[0]
        if token["name"] in ("true", "false"):  # as YAML writes them
            return name.title()
        if token["name"] in KEYWORDS:
            return name
        columns[f"column_{len(columns)}"] = find_column(name, names, "--where", "; text needs quotes")
        return list(columns)[-1]

    def refusal(why: str) -> ConfigError:
        return ConfigError(f"--where {clean(condition)!r}: {why}; {GRAMMAR}; {_list_columns(names)}")

    try:
        tree = ast.parse(TOKEN.sub(stand_in, condition).strip(), mode="eval")
        if why := _why_unfit(tree):
            raise refusal(why)
        if wrong := _why_percentage(tree, columns):
            raise ConfigError(f"--where {clean(condition)!r}: {wrong}")
        values = pd.DataFrame({plain: _values(frame[column]) for plain, column in columns.items()})
        met = values.eval(ast.unparse(tree), engine="python")
    except TypeError as error:
        raise refusal("numbers, text and comparisons can't be compared with each other") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError, NotImplementedError) as error:
        raise refusal("it can't be read") from error
    if not isinstance(met, pd.Series) or met.dtype != bool:
        raise refusal("it is no comparison")
    return frame[met]


def _why_unfit(tree: ast.Expression) -> str:
    """Why an expression isn't one that can do nothing but compare; empty if it is."""
    comparisons = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    pairs = [pair for each in comparisons for pair in zip(each.ops, each.comparators, strict=True)]
    after_in = [right for word, right in pairs if isinstance(word, ast.In | ast.NotIn)]
    for node in ast.walk(tree):
        if not isinstance(node, NODES) or (isinstance(node, ast.Constant) and type(node.value) not in CONSTANTS):
            return "it holds more than columns, numbers and text"
        is_list = isinstance(node, ast.List | ast.Tuple)
        if is_list and node not in after_in:
            return "a list may only follow in; a value that is a list is text, such as '[1,2]'"
        if node in after_in and not is_list:
            return "what follows in must be a list"
    return ""


def _why_percentage(tree: ast.Expression, columns: Mapping[str, str]) -> str:
    """What to write for a percentage, where a column holds parts of one: no row would meet it, or every row."""
    for node in (each for each in ast.walk(tree) if isinstance(each, ast.Compare)):
        names = [columns[each.id] for each in ast.walk(node) if isinstance(each, ast.Name)]
        numbers = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
        column = next((name for name in names if name.endswith("_accuracy")), None)
        percent = next((each for each in numbers if isinstance(each, int | float) and each > 1), None)
        if column and percent:
            return f"{column} is a part of one, from 0 to 1; write {percent / 100:g} for {percent:g}%"
    return ""


def _values(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column as numbers if all its values are; or else as what each is."""
    if COLUMNS.get(str(column.name)) != "string":
        numbers = pd.to_numeric(column, errors="coerce")
        if (numbers.notna() == column.notna()).all():
            return numbers.astype("float64")
        column = column.map(read_value, na_action="ignore")
    return column.astype(object).fillna("")


def read_value(text: str) -> str | int | float | bool:
    """What a parameter, which a table holds as text, is: a number, a truth value, or else text."""
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
