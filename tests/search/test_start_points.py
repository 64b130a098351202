"""Points that a study starts with: read into what Optuna holds, or refused in words that say what is searched."""

from typing import Any

import pytest

from tinysweep.errors import ConfigError
from tinysweep.search.space import Value, read_space
from tinysweep.search.start_points import read_start

SPACE = read_space(
    {
        "model": "choice(plain,residual)",
        "model.depth": "choice([1,1],[2,3,2])",
        "model.width": "range(4,17)",
        "optimizer.lr": "tag(log,interval(0.01,1))",
    },
    [],
)


def test_values_become_those_that_optuna_holds() -> None:
    point = {"model": "plain", "model.depth": [2, 3, 2], "model.width": 16, "optimizer.lr": 0.1}
    expected: list[dict[str, Value]] = [
        {"model": "plain", "model.depth": "[2,3,2]", "model.width": 16, "optimizer.lr": 0.1}
    ]
    assert read_start([point], SPACE) == expected
    assert read_start([{}], SPACE) == [{}]


@pytest.mark.parametrize("value", ["step", "'step'"])
def test_a_choice_is_found_by_its_value_however_it_is_written(value: str) -> None:
    space = read_space({"scheduler.name": "'step','constant'"}, [])
    assert read_start([{"scheduler.name": value}], space) == [{"scheduler.name": "'step'"}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.width", 17),
        ("model.width", 8.5),
        ("model.width", "8"),
        ("model.width", True),
        ("model", "separable"),
        ("model.depth", [2, 2]),
        ("optimizer.lr", 2),
        ("optimizer.lr", float("nan")),
        ("optimizer.lr", None),
    ],
)
def test_a_value_outside_the_space_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.start_with: .* isn't in what is searched, "):
        read_start([{name: value}], SPACE)


def test_what_is_not_searched_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"model.widht isn't searched; give values of model, model.depth"):
        read_start([{"model.widht": 8}], SPACE)
