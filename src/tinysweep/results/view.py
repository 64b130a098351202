"""What a report is about: a study as it stood when it was read, from its storage or from trials.csv alone."""

import math
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from tinysweep.errors import DataError, StudyError, TinysweepError, first_line
from tinysweep.metrics import METRICS
from tinysweep.run.record import RunFolder, read_record
from tinysweep.search.space import without_quotes
from tinysweep.search.storage.location import Kind, Location, locate
from tinysweep.search.storage.opening import look_into, storage_errors
from tinysweep.search.study import STATES, TRACKED, Status, status, trial_path
from tinysweep.search.table import COLUMNS, NOTES, is_figure, metric, pareto_front, rank_trials, read_trials
from tinysweep.settings.compose import COMPOSITION_ERRORS
from tinysweep.settings.schema import Config
from tinysweep.settings.stored import read_config

LEADERS = 300
NOTED = {*NOTES, "reason", "folder", "started", "finished"}
TABLE_ALONE = "trials.csv alone"
WIDE = 10  # positive reals whose ends are further apart than this factor were most likely drawn by their logarithm


@dataclass(frozen=True)
class StudyView:
    """A study; nothing of it is changed. `trials` are those that have begun, in the order of their numbers;
    `storage`, without its password, and `chosen`, a name, were given beside the folder, if they were; `typed` is
    the command, `retrain` what the winner's recipe is changed by, `tracked` what a tracker knows the study by, as
    the sweep noted them, if it did."""

    name: str
    folder: Path
    trials: list[FrozenTrial]
    objectives: list[str]
    definition: dict[str, str]
    origin: str
    storage: str | None = None
    chosen: str | None = None
    typed: dict[str, Any] | None = None
    retrain: list[str] | None = None
    tracked: str | None = None

    @property
    def from_table(self) -> bool:
        """Whether there was no storage, so that more is known of what was drawn than of what was searched."""
        return self.origin == TABLE_ALONE

    @cached_property
    def completed(self) -> list[FrozenTrial]:
        """The completed trials, best first."""
        return rank_trials(self.trials, self.objectives)

    @cached_property
    def leaders(self) -> frozenset[int]:
        """The numbers of the best completed trials, of which a figure tells all."""
        return frozenset(trial.number for trial in self.completed[:LEADERS])

    @cached_property
    def searched(self) -> dict[str, BaseDistribution]:
        """The searched parameters that any trial has drawn, by name."""
        found = {name: trial.distributions[name] for trial in self.trials for name in trial.params}
        return dict(sorted(found.items()))

    def of(self, *statuses: Status) -> list[FrozenTrial]:
        return [trial for trial in self.trials if status(trial) in statuses]

    def measured(self, objective: str) -> list[FrozenTrial]:
        """The trials that have a figure to show: completed ones, and those stopped after an epoch or more."""
        found = ((trial, trial.user_attrs.get(objective)) for trial in self.of(Status.complete, Status.pruned))
        return [trial for trial, value in found if value is not None and math.isfinite(value)]

    def best_so_far(self, objective: str) -> list[tuple[int, float]]:
        """The number and figure of each completed trial that was better than all before it."""
        steps: list[tuple[int, float]] = []
        loss = METRICS[objective].loss
        for trial in self.of(Status.complete):
            value = metric(trial, objective)
            if not steps or loss(value) < loss(steps[-1][1]):
                steps.append((trial.number, value))
        return steps

    def front(self) -> list[FrozenTrial]:
        """The Pareto front of validation accuracy against parameters, the smallest model first."""
        front = pareto_front(self.trials, ["validation_accuracy", "params"])
        return sorted(front, key=lambda trial: metric(trial, "params"))

    def limit(self, kind: str) -> int | None:
        """The bound that all trials share on params, macs or activation_bytes, if there is one."""
        bound = self.definition.get(f"budget.{kind}", "None")
        return None if bound == "None" or f"params.budget.{kind}" in self.definition else int(bound)

    def record(self, number: int) -> dict[str, Any]:
        """The record of a trial.

        Raises:
            DataError: its folder holds none.
        """
        record = read_record(self.folder / trial_path(number))
        if not isinstance(record, dict):
            raise DataError(f"{trial_path(number)}/record.json is missing or damaged")
        return record

    def config(self, number: int) -> Config:
        """The configuration that a trial was trained with.

        Raises:
            DataError: there is no record of it, or it isn't one that this version reads.
        """
        held = self.record(number).get("config")
        try:
            return read_config(held)
        except (*COMPOSITION_ERRORS, TinysweepError, TypeError) as error:
            raise DataError(f"{trial_path(number)}/record.json: {first_line(error)}") from error

    def curve(self, number: int) -> list[tuple[int, float]]:
        """Validation loss by epoch, as far as a trial came, or of each of its rungs by the epochs that it had;
        empty where its history.csv is missing or damaged."""
        history = RunFolder(self.folder / trial_path(number)).read_history()
        known = ((epoch.epoch, epoch.validation_loss) for epoch in history if epoch.is_comparable)
        return [(epoch, loss) for epoch, loss in known if loss is not None]


def open_view(folder: Path, storage: str | None = None, study: str | None = None) -> StudyView:
    """The study in a folder, of the name `study` where that isn't the folder's; by trials.csv where `storage`
    isn't given and study.db is missing, or doesn't hold the trials, which a warning says.

    Raises:
        StudyError: no study there, or one that tinysweep hasn't made.
        DataError: trials.csv can't be read.
    """
    if not folder.is_dir():
        near = sorted(path.parent.name for path in Path("outputs/sweeps").glob("*/trials.csv"))
        known = f"; outputs/sweeps has {', '.join(near)}" if near else ""
        raise StudyError(f"{folder}: no such folder; give a study's, such as outputs/sweeps/NAME{known}")
    has_table = storage is None and study is None and (folder / "trials.csv").exists()
    if storage is None and not (folder / "study.db").exists():
        if not has_table:
            raise StudyError(
                f"{folder} holds neither study.db nor trials.csv; give the folder of a study, and --storage if "
                "its database lies elsewhere"
            )
        return _from_csv(folder)
    try:
        location = locate(storage, folder, there=True)
        with storage_errors(location.shown), look_into(location) as opened:
            view = _from_storage(folder, location, opened, study)
            view = replace(view, storage=None if storage is None else location.shown, chosen=study)
    except StudyError as error:
        if not has_table:
            raise
        said = str(error)
    else:
        if view.trials or not has_table:
            return view
        said = f"{location.shown} holds no trials"
    table = _from_csv(folder)
    if table.trials:
        print(f"warning: {said}; {folder / 'trials.csv'} is read instead", file=sys.stderr)
    return table


def _from_storage(folder: Path, location: Location, opened: BaseStorage | None, wanted: str | None) -> StudyView:
    names = optuna.get_all_study_names(opened) if opened else []
    own = folder.resolve().name
    # A folder that was renamed still holds its one study.
    name = wanted or (names[0] if location.file.parent == folder.resolve() and len(names) == 1 else own)
    if opened is None or name not in names:
        asked = "" if wanted else ", which the folder's name asks for"
        others = ", ".join(names)
        advice = (
            f"; it has: {others}; choose one by --study NAME, in tinysweep-final by study=NAME" if names else ""
        )
        raise StudyError(f"{location.shown} holds no study {name}{asked}{advice}")
    study = optuna.load_study(study_name=name, storage=opened, sampler=optuna.samplers.RandomSampler())
    notes = study.user_attrs
    if "definition" not in notes:
        raise StudyError(f"study {name} in {location.shown} was not made by tinysweep, or has not begun")
    definition: dict[str, str] = notes["definition"]
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_start is not None]
    origin = location.shown.partition(":")[0] if location.kind == Kind.server else location.file.name
    return StudyView(
        name, folder, trials, definition["objective"].split(", "), definition, origin,
        typed=notes.get("typed"), retrain=notes.get("retrain"), tracked=notes.get(TRACKED),
    )  # fmt: skip


def _from_csv(folder: Path) -> StudyView:
    name, objectives, trials = from_table(folder / "trials.csv")
    definition = {"objective": ", ".join(objectives)}
    records = (read_record(folder / trial_path(trial.number)) or {} for trial in trials)
    budgets = (record["config"]["budget"] for record in records if "budget" in record.get("config", {}))
    definition |= {f"budget.{kind}": str(bound) for kind, bound in next(budgets, {}).items()}
    return StudyView(name or folder.resolve().name, folder, trials, objectives, definition, TABLE_ALONE)


def from_table(path: Path) -> tuple[str | None, list[str], list[FrozenTrial]]:
    """The study's name (None if it has no trials), its objectives and its trials as Optuna holds them.

    What was searched is taken from the values that were drawn, so a range is only as wide as those.

    Raises:
        DataError: the file isn't a table of trials.
    """
    try:
        frame = read_trials(path)
        if missing := [name for name in COLUMNS if name not in frame.columns]:
            raise DataError(f"{path} is not a table of trials: it has no column {missing[0]}")
        for name in frame.select_dtypes(["object", "string"]).columns:
            if is_figure(name):
                continue
            frame[name] = frame[name].map(without_quotes)  # earlier versions wrote the quotes of quoted text
        values = {name: frame[name].dropna() for name in frame.columns if not is_figure(name)}
        searched = {name: _distribution(drawn) for name, drawn in values.items() if len(drawn)}
        objectives = ["validation_accuracy"] if frame.empty else str(frame.objective[0]).split(";")
        if unknown := [name for name in objectives if not METRICS.find(name)]:
            raise DataError(f"{path} has an objective {unknown[0]!r}; known are {', '.join(METRICS)}")
        rows = [{str(name): row[name] for name in row if pd.notna(row[name])} for row in frame.to_dict("records")]
        trials = [_trial(row, objectives, searched) for row in rows]
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} is not a table of trials: {first_line(error)}") from error
    return (None if frame.empty else str(frame.study[0])), objectives, trials


def _distribution(values: "pd.Series[Any]") -> BaseDistribution:
    """The narrowest distribution that has all of the values."""
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return CategoricalDistribution(sorted(set(values.tolist()), key=str))
    low, high = float(values.min()), float(values.max())
    if (values == values.round()).all():
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=0 < WIDE * low < high)


def _trial(row: dict[str, Any], objectives: list[str], searched: dict[str, BaseDistribution]) -> FrozenTrial:
    became = Status(row["state"])
    notes = {name: value for name, value in row.items() if name in NOTED or METRICS.find(name)}
    if became != Status.running:
        notes["standing"] = became.value
    drawn = {name: kind for name, kind in searched.items() if name in row}
    made = create_trial(
        state=TrialState.RUNNING if became == Status.running else STATES.get(became, TrialState.FAIL),
        values=[float(row[name]) for name in objectives] if became == Status.complete else None,
        params={
            name: int(row[name]) if isinstance(kind, IntDistribution) else row[name]
            for name, kind in drawn.items()
        },
        distributions=drawn,
        user_attrs=notes,
    )
    made.number = int(row["number"])
    made.datetime_start, made.datetime_complete = _moment(row.get("started")), _moment(row.get("finished"))
    return made


def _moment(written: str | None) -> datetime | None:
    """As Optuna holds it: the local time, without a zone."""
    return datetime.fromisoformat(written).astimezone().replace(tzinfo=None) if written else None
