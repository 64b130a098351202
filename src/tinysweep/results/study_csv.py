"""A study's trials out of trials.csv alone, for when its database is gone or out of reach."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.errors import DataError, first_line
from tinysweep.metrics import METRICS
from tinysweep.search.space import unquoted
from tinysweep.search.study import STATES, Status
from tinysweep.search.table import COLUMNS, NOTES, read_trials

WIDE = 10  # positive reals whose ends are further apart than this factor were most likely drawn by their logarithm


def from_table(path: Path) -> tuple[str | None, list[str], list[FrozenTrial]]:
    """The study's name (None if it has no trials), its objectives and its trials as Optuna holds them.

    What was searched is taken from the values that were drawn, so a range is only as wide as those.

    Raises:
        DataError: the file isn't a table of trials.
    """
    try:
        frame = read_trials(path)
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise DataError(f"{path} is not a table of trials: it has no column {missing[0]}")
        for name in frame.select_dtypes(["object", "string"]).columns.difference(list(COLUMNS)):
            frame[name] = frame[name].map(unquoted)  # earlier versions wrote the quotes of quoted text
        searched = {name: _distribution(frame[name]) for name in frame.columns if name not in COLUMNS}
        objectives = ["validation_accuracy"] if frame.empty else str(frame.objective[0]).split(";")
        if unknown := [name for name in objectives if name not in METRICS]:
            raise DataError(f"{path} has an objective {unknown[0]!r}; known are {', '.join(METRICS)}")
        rows = [
            {str(key): value for key, value in row.items() if not pd.isna(value)}
            for row in frame.to_dict("records")
        ]
        trials = [_trial(row, objectives, searched) for row in rows]
    except (ValueError, KeyError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a table of trials: {first_line(error)}") from error
    return (None if frame.empty else str(frame.study[0])), objectives, trials


def _distribution(column: "pd.Series[Any]") -> BaseDistribution | None:
    """The narrowest distribution that has all of a column's values; None if it has none."""
    values = column.dropna()
    if values.empty:
        return None
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return CategoricalDistribution(sorted(set(values.tolist()), key=str))
    low, high = values.min(), values.max()
    if (values == values.round()).all():
        return IntDistribution(int(low), int(high))
    return FloatDistribution(float(low), float(high), log=bool(low > 0 and high > WIDE * low))


def _trial(
    row: dict[str, Any], objectives: list[str], searched: dict[str, BaseDistribution | None]
) -> FrozenTrial:
    became = Status(row["state"])
    state = TrialState.RUNNING if became == Status.running else STATES.get(became, TrialState.FAIL)
    notes = {name: row[name] for name in (*NOTES, "reason", "folder", "started", "finished") if name in row}
    params = {
        name: int(row[name]) if isinstance(kind, IntDistribution) else row[name]
        for name, kind in searched.items()
        if name in row
    }
    made = create_trial(
        state=state,
        values=[float(row[name]) for name in objectives] if became == Status.complete else None,
        params=params,
        distributions={name: kind for name, kind in searched.items() if kind and name in params},
        user_attrs=notes | ({} if became == Status.running else {"standing": became.value}),
    )
    made.number = int(row["number"])
    made.datetime_start, made.datetime_complete = _moment(row.get("started")), _moment(row.get("finished"))
    return made


def _moment(written: str | None) -> datetime | None:
    """As Optuna holds it: the local time, without a zone."""
    return datetime.fromisoformat(written).astimezone().replace(tzinfo=None) if written else None
