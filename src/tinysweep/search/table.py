"""The table of a study's trials, trials.csv, and how trials are ranked."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from tinysweep.errors import DataError
from tinysweep.files import write_whole
from tinysweep.metrics import METRICS
from tinysweep.search.space import unquoted
from tinysweep.search.study import Status, status

# The columns that every study has, in this order, with their types; one for each searched parameter follows.
COLUMNS = {
    "study": "string",
    "number": "Int64",
    "state": "string",
    "reason": "string",
    "objective": "string",
    "validation_accuracy": "Float64",
    "validation_loss": "Float64",
    "params": "Int64",
    "macs": "Int64",
    "activation_bytes": "Int64",
    "epochs": "Int64",
    "seconds": "Float64",
    "seed": "Int64",
    "started": "string",
    "finished": "string",
    "folder": "string",
}
NOTES = (
    "validation_accuracy",
    "validation_loss",
    "params",
    "macs",
    "activation_bytes",
    "epochs",
    "seconds",
    "seed",
)


class Table:
    """The table of a study. What is finished is put into text once, so that a table of thousands stays cheap."""

    def __init__(self, study: str, objectives: list[str], searched: list[str]) -> None:
        self.study, self.objectives, self.names = study, objectives, [*COLUMNS, *searched]
        self.text = _csv(pd.DataFrame(columns=self.names), header=True)
        self.read = 0  # the trials before this number are finished, and in the text

    def frame(self, trials: list[FrozenTrial]) -> pd.DataFrame:
        """A row for each trial that has begun, in the order of their numbers."""
        rows = [self._row(trial) for trial in trials if trial.datetime_start is not None]
        # Parameters as objects: a whole number stays one where a trial without the parameter stands beside it.
        return pd.DataFrame(rows, columns=self.names, dtype=object).astype(COLUMNS)

    def write(self, trials: list[FrozenTrial], path: Path) -> None:
        """Write every trial; `trials` are all of the study, in order."""
        finished = self.read
        while finished < len(trials) and trials[finished].state.is_finished():
            finished += 1
        self.text += _csv(self.frame(trials[self.read : finished]))
        self.read = finished
        write_whole(path, self.text + _csv(self.frame(trials[finished:])))

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        notes = trial.user_attrs
        return {
            "study": self.study,
            "number": trial.number,
            "state": status(trial).value,
            "reason": " / ".join(str(notes.get("reason") or "").splitlines()) or None,
            "objective": ";".join(self.objectives),
            **{name: notes.get(name) for name in NOTES},
            "started": notes.get("started") or _iso(trial.datetime_start),
            "finished": notes.get("finished") or _iso(trial.datetime_complete),
            "folder": notes.get("folder"),
            **{name: unquoted(value) for name, value in trial.params.items()},
        }


def _csv(frame: pd.DataFrame, header: bool = False) -> str:
    return frame.to_csv(index=False, header=header, lineterminator="\n")


def _iso(moment: datetime | None) -> str | None:
    """Optuna's local time as what records hold: UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else None


def separated_otherwise(path: Path) -> str | None:
    """What to do about a table without commas between its columns, as some spreadsheets write it; None for any
    other file."""
    if not path.is_file():
        return None
    with path.open(errors="replace") as stream:
        header = stream.readline(10_000)
    found = next((sign for sign in (";", "\t") if sign in header and "," not in header), None)
    return f"its columns are separated by {found!r}; save it with commas, and points in numbers" if found else None


def read_trials(path: str | Path) -> pd.DataFrame:
    """A trials.csv, or the one in a study's folder, with the types that it was written with; those of two studies
    can be concatenated.

    Raises:
        DataError: there is none, or its columns aren't separated by commas.
    """
    path = Path(path)
    path = path / "trials.csv" if path.is_dir() else path
    if not path.exists():
        raise DataError(f"{path}: no such file; give a study's folder, such as outputs/sweeps/quick")
    if advice := separated_otherwise(path):
        raise DataError(f"{path} can't be read as a table of trials: {advice}")
    return pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values=[""])


def ranked(trials: list[FrozenTrial], objectives: list[str]) -> list[FrozenTrial]:
    """The completed trials, best first: by the first objective, ties by validation loss, then by parameters."""
    first = objectives[0]

    def rank(trial: FrozenTrial) -> tuple[float, float, float, int]:
        value = metric(trial, first)
        return (
            METRICS[first].loss(value),
            metric(trial, "validation_loss"),
            metric(trial, "params"),
            trial.number,
        )

    return sorted((trial for trial in trials if status(trial) == Status.complete), key=rank)


def metric(trial: FrozenTrial, name: str) -> float:
    """A figure of a completed trial."""
    return float(trial.user_attrs[name])


def pareto_front(trials: list[FrozenTrial], objectives: list[str]) -> list[FrozenTrial]:
    """The completed trials that no other equals or beats in every objective, best by the first one last; a single
    objective is set against the number of parameters."""
    names = objectives if len(objectives) > 1 else [*objectives, "params"]
    front: list[tuple[float, ...]] = []
    kept: list[FrozenTrial] = []
    # In this order no trial is beaten by a later one.
    order = {trial.number: position for position, trial in enumerate(ranked(trials, objectives))}
    scores = {trial.number: _score(trial, names) for trial in ranked(trials, objectives)}
    for trial in sorted(ranked(trials, objectives), key=lambda each: (scores[each.number], order[each.number])):
        score = scores[trial.number]
        if not any(all(a <= b for a, b in zip(better, score, strict=True)) for better in front):
            front.append(score)
            kept.append(trial)
    return kept[::-1]


def _score(trial: FrozenTrial, names: list[str]) -> tuple[float, ...]:
    """Figures of which less is better."""
    return tuple(METRICS[name].loss(metric(trial, name)) for name in names)
