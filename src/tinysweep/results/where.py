"""Conditions on the rows of a table, such as `params < 10000 and model in ["plain", "residual"]`.

They are Python's expressions, read by its own parser and then interpreted here, node by node: comparisons of
columns and constants, joined by and, or, not. Nothing else has a meaning, so no condition can run code.
"""

import ast
import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinysweep.console import clean
from tinysweep.errors import ConfigError

GRAMMAR = (
    "compare columns by <, <=, ==, !=, >=, > or in [a, b]; join by and, or, not; text needs quotes, and odd names "
    "`backticks`"
)
ALIASES = {
    "accuracy": "validation_accuracy",
    "loss": "validation_loss",
    "MACs": "macs",
    "trial": "number",
}
WORDS = {"true": True, "false": False, "null": None}  # as YAML writes them
ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
EQUALITIES = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)
QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`([^`]*)`""")


def named(column: str, columns: Sequence[str]) -> str | None:
    """The column that is meant by its name or by the header that the tables show, if there is one."""
    return next((each for each in (column, ALIASES.get(column)) if each in columns), None)


def unknown(column: str, columns: Sequence[str]) -> str:
    """That a name is no column, and what may be meant."""
    leaves = {each.rpartition(".")[2]: each for each in reversed(columns)}
    close = difflib.get_close_matches(column, [*columns, *ALIASES, *leaves], n=1)
    nearest = leaves.get(close[0], ALIASES.get(close[0], close[0])) if close else None
    return f"{clean(column)!r} is not a column{f'; did you mean {clean(nearest)}?' if nearest else ''}"


def every(columns: Sequence[str]) -> str:
    return f"the columns are {', '.join(map(clean, columns))}"


class Condition:
    """A condition that a row meets or doesn't. What is missing in a row meets no comparison, nor its opposite, but
    `== None`."""

    def __init__(self, text: str, columns: Sequence[str]) -> None:
        """
        Raises:
            ConfigError: the text is no condition, or names a column that isn't there.
        """
        self.text, self.columns = text, columns
        self.quoted: dict[str, str] = {}  # names in backticks, which Python's grammar doesn't know, by stand-ins
        try:
            tree = ast.parse(QUOTED.sub(self._hold, text.strip()), mode="eval")
            self.test = self._condition(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._refusal("it can't be read") from error

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return self.test(row) is True

    def _hold(self, match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        stand_in = f"__quoted_{len(self.quoted)}"
        self.quoted[stand_in] = match[2]
        return stand_in

    def _refusal(self, why: str) -> ConfigError:
        return ConfigError(f"--where {clean(self.text)!r}: {why}; {GRAMMAR}; {every(self.columns)}")

    def _condition(self, node: ast.expr) -> Callable[[Mapping[str, Any]], bool | None]:
        """A function of a row that gives true, false, or None for what can't be known."""
        if isinstance(node, ast.BoolOp):
            parts, decides = [self._condition(part) for part in node.values], isinstance(node.op, ast.Or)
            return lambda row: _joined([part(row) for part in parts], decides)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._condition(node.operand)
            return lambda row: None if (met := inner(row)) is None else not met
        if isinstance(node, ast.Compare):
            terms = [self._term(term) for term in (node.left, *node.comparators)]
            self._require_parts([node.left, *node.comparators])
            for kind, right in zip(node.ops, node.comparators, strict=True):
                if isinstance(kind, ast.In | ast.NotIn) and not isinstance(right, ast.List | ast.Tuple | ast.Set):
                    raise self._refusal("what follows in must be a list")
            return lambda row: _joined(
                [
                    _compared(kind, left(row), right(row))
                    for kind, left, right in zip(node.ops, terms, terms[1:], strict=False)
                ],
                False,
            )
        raise self._refusal(f"{clean(ast.unparse(node))!r} is no comparison")

    def _require_parts(self, terms: Sequence[ast.expr]) -> None:
        """Refuse a percentage where a column holds parts of one: no row would meet it, or every row."""
        names = [self._name(term) for term in terms if isinstance(term, ast.Name | ast.Attribute)]
        column = next((name for name in names if (named(name, self.columns) or "").endswith("_accuracy")), None)
        found = (each.value for term in terms for each in ast.walk(term) if isinstance(each, ast.Constant))
        percent = next((number for number in found if isinstance(number, int | float) and number > 1), None)
        if column and percent is not None:
            raise ConfigError(
                f"--where {clean(self.text)!r}: {column} is a part of one, from 0 to 1; write {percent / 100:g} "
                f"for {percent:g}%"
            )

    def _term(self, node: ast.expr) -> Callable[[Mapping[str, Any]], Any]:
        """A function of a row that gives one side of a comparison."""
        if isinstance(node, ast.Name | ast.Attribute):
            name = self._name(node)
            column = named(name, self.columns)
            if column is None and name not in WORDS:
                raise ConfigError(
                    f"--where: {unknown(name, self.columns)}; text needs quotes; {every(self.columns)}"
                )
            return lambda row: WORDS[name] if column is None else row[column]
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):
            value = ...
        if not _is_plain(value):
            raise self._refusal(f"{clean(ast.unparse(node))!r} is neither a column nor a constant")
        return lambda _row: value

    def _name(self, node: ast.expr) -> str:
        """The dotted name that Python reads as attributes of attributes."""
        if isinstance(node, ast.Attribute):
            return f"{self._name(node.value)}.{node.attr}"
        if isinstance(node, ast.Name):
            return self.quoted.get(node.id, node.id)
        raise self._refusal(f"{clean(ast.unparse(node))!r} is neither a column nor a constant")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _joined(parts: list[bool | None], decides: bool) -> bool | None:
    """Kleene's and (`decides` false) or or (true): one part that decides is enough, else all must be known."""
    return decides if decides in parts else None if None in parts else not decides


def _compared(kind: ast.cmpop, left: Any, right: Any) -> bool | None:
    if isinstance(kind, EQUALITIES) and right is None:
        return (left is None) == isinstance(kind, ast.Eq | ast.Is)
    if left is None or right is None:
        return None
    if isinstance(kind, EQUALITIES):
        return _equal(left, right) == isinstance(kind, ast.Eq | ast.Is)
    if isinstance(kind, ast.In | ast.NotIn):
        return any(_equal(left, each) for each in right) == isinstance(kind, ast.In)
    comparable = _kind(left) == _kind(right) and not isinstance(left, list | tuple | set)
    return ORDERS[type(kind)](left, right) if comparable else None


def _equal(left: Any, right: Any) -> bool:
    left, right = (written(list(each)) if isinstance(each, list | tuple) else each for each in (left, right))
    return _kind(left) == _kind(right) and bool(left == right)


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def written(value: Any) -> str:
    """A setting as tables of trials hold it: lists without blanks, as the command line takes them."""
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value)
