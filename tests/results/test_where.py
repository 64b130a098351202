"""Conditions on the rows of a table: what they mean, and that they can do nothing else."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tinysweep.errors import ConfigError
from tinysweep.results.where import read_value, rows_where
from tinysweep.search.table import COLUMNS

# A row that holds everything, and one that holds little, as tables hold them: parameters as text.
ROWS: list[dict[str, Any]] = [
    {"params": 9000, "validation_accuracy": 0.99, "macs": None, "state": "complete", "number": 7, "model": "plain",
     "model.width": "8", "model.depth": "[1,2,2]", "optimizer.nesterov": "True", "data.limit": "null",
     "+odd name": "3", "lambda.class": "1"},
    {"params": 5000, "number": 8, "state": "complete", "data.limit": "64"},
]  # fmt: skip
FRAME = pd.DataFrame(ROWS).astype({name: COLUMNS.get(name, "string") for name in ROWS[0]})


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ("params < 10000", [7, 8]),
        ("params<9_000", [8]),
        ("10000 > params >= 9e3", [7]),
        ("params > -1 and not params == 9000", [8]),
        ("accuracy > 0.98 and trial == 7", [7]),
        ("model.width > 8 or model == 'plain'", [7]),
        ("`model.width` == 8 and not model == 'residual'", [7]),
        ('model in ["plain", "residual"]', [7]),
        ("model not in ('plain',)", [8]),
        ("params in [1, 5000]", [8]),
        ("model.depth == '[1,2,2]'", [7]),
        ("optimizer.nesterov == true and optimizer.nesterov == True", [7]),
        ("optimizer.nesterov == false", []),
        ("`+odd name` == 3 and `lambda.class` == 1", [7]),
        ("state == 'complete' and model == '`params`'", []),
        ("model == 'it\\'s' or model in [\"a`b\", '@params', '# no comment', 'a\\nb']", []),
        ("data.limit == 64", [8]),  # of a column that holds text as well
        # A missing number differs from all and is in no order; missing text is empty.
        ("macs < 5 or macs >= 5", []),
        ("macs != 5", [7, 8]),
        ("macs < 5 or params > 5000", [7]),
        ("model != 'plain' and model == ''", [8]),
    ],
)
def test_a_condition_chooses_rows(condition: str, numbers: list[int]) -> None:
    assert rows_where(condition, FRAME).number.tolist() == numbers


CODE = [
    "__import__('os').system('touch harmed')",
    "@__builtins__",
    "@params < 3",
    "params < (lambda: 3)()",
    "params.__class__ == 3",
    "params .real == 3",
    "params.abs() == 3",
    "params .abs() == 3",
    "'a'.upper() == model",
    "params < open('harmed', 'w')",
    "params(3) == 3",
    "[x for x in (1, 2)] == 3",
    "model.width[0] == 1",
    "f'{params}' == '1'",
    "(params := 3) == 3",
    "params < 9**9**9",
    "import os",
    "params < 3; params",
]
NONSENSE = [
    "",
    "params",
    "params <",
    "params = 3",
    "not params",
    "params and macs < 3",
    "params + 1 < 3",
    "params < 5 & macs > 3",
    "params < 10,000",
    "params < 'a'",
    "model < 3",
    "data.limit < 100",
    "1 == 1",
    "model in 'plain'",
    "model in model",
    "model == plain",
    "model.depth == [1, 2, 2]",
    "model.depth in [[1, 2, 2]]",
    "[1] < [2]",
    "params == None",
    "params == b'x'",
    "params < 3j",
    "params == {1: 2}",
    "params == ...",
    "`params < 3",
    "`` < 3",
    "params < 3\0",
    "not " * 5000 + "params < 3",
    "(" * 300 + "params" + ")" * 300 + " < 3",
]


@pytest.mark.parametrize("condition", CODE + NONSENSE)
def test_what_is_no_condition_is_refused_in_a_line_and_runs_nothing(place: Path, condition: str) -> None:
    with pytest.raises(ConfigError, match="--where") as refused:
        rows_where(condition, FRAME)
    message = str(refused.value)
    assert message.isprintable()
    assert "the columns are params, validation_accuracy, macs, state, number, model, " in message
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("given", "meant"), [("parms", "params"), ("model.widht", "model.width"), ("width", "model.width")]
)
def test_an_unknown_name_is_answered_by_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rows_where(f"{given} < 3", FRAME)
    assert str(refused.value).startswith(f"--where: '{given}' is not a column; did you mean {meant}?; ")


@pytest.mark.parametrize(
    "condition", ["accuracy > 99", "params < 9 and 98.5 <= validation_accuracy", "not accuracy in [0.9, 99]"]
)
def test_a_percentage_of_what_is_a_part_of_one_is_refused(condition: str) -> None:
    with pytest.raises(ConfigError, match=r"accuracy is a part of one, from 0 to 1; write 0\.\d+ for [\d.]+%"):
        rows_where(condition, FRAME)
    assert len(rows_where("accuracy > 0.98 and accuracy <= 1 and params > 99", FRAME)) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-8", -8),
        ("1e-05", 1e-05),
        ("8.0", 8.0),
        ("True", True),
        ("false", False),
        ("plain", "plain"),
        ("[1,2]", "[1,2]"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_parameter_is_read_as_what_it_was(text: str, value: Any) -> None:
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)
