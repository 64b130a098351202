"""What a study leaves for others: the table of its trials, the best of them, and the winner as a recipe."""

import copy
import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from tinysweep.data.catalogue import is_own
from tinysweep.errors import DataError
from tinysweep.files import write_whole
from tinysweep.metrics import ALL_METRICS, FURTHER, METRICS
from tinysweep.search.compose_trial import DIGEST, INCIDENTAL, Composer
from tinysweep.search.space import plain_params
from tinysweep.search.study import Status, status
from tinysweep.settings.command_line import line, shown_folder
from tinysweep.settings.compose import to_config
from tinysweep.settings.schema import Config

WINNER = "winner"
SEED = "trainer.seed"
# What a trial notes of its run, by the names and types of its columns.
NOTES = {
    **{name: metric.dtype for name, metric in METRICS.items() if name != "seconds"},
    "epochs": "Int64",
    "seconds": METRICS["seconds"].dtype,
    "seed": "Int64",
}
# The columns that every study has, in this order, with their types; one for each searched parameter follows.
COLUMNS = {
    "study": "string",
    "number": "Int64",
    "state": "string",
    "reason": "string",
    "objective": "string",
    **NOTES,
    "started": "string",
    "finished": "string",
    "folder": "string",
}


LATER = tuple(f"validation_{name}" for name in FURTHER)  # columns that tables of earlier versions lack


def is_figure(column: str) -> bool:
    """Whether a column of a table holds what is known of every trial, and not a searched parameter."""
    return column in COLUMNS or ALL_METRICS.find(column) is not None


def own_metrics(trials: Iterable[FrozenTrial]) -> list[str]:
    """The metrics of a user's own that trials have figures of."""
    names = (name for trial in trials for name in trial.user_attrs if name not in COLUMNS)
    return list(dict.fromkeys(name for name in names if METRICS.find(name)))


@dataclass(frozen=True)
class Table:
    """The table of a study: its name, what it aims for, and the parameters that it searches."""

    study: str
    objectives: list[str]
    searched: list[str]

    def frame(self, trials: list[FrozenTrial]) -> pd.DataFrame:
        """A row for each trial that has begun, in the order of their numbers."""
        rows = [self._row(trial) for trial in trials if trial.datetime_start is not None]
        own = dict.fromkeys(own_metrics(trials), "Float64")
        # Parameters as objects: a whole number stays one where a trial without the parameter stands beside it.
        return pd.DataFrame(rows, columns=[*COLUMNS, *own, *self.searched], dtype=object).astype(COLUMNS | own)

    def write(self, trials: list[FrozenTrial], path: Path) -> None:
        """Write every trial of the study."""
        write_whole(path, self.frame(trials).to_csv(index=False, lineterminator="\n"))

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        notes = trial.user_attrs
        return {
            "study": self.study,
            "number": trial.number,
            "state": status(trial).value,
            "reason": " / ".join(str(notes.get("reason") or "").splitlines()) or None,
            "objective": ";".join(self.objectives),
            **{name: notes.get(name) for name in (*NOTES, *own_metrics([trial]))},
            "started": notes.get("started") or _iso(trial.datetime_start),
            "finished": notes.get("finished") or _iso(trial.datetime_complete),
            "folder": notes.get("folder"),
            **plain_params(trial),
        }


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
    return with_later_columns(pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values=[""]))


def with_later_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """A table, perhaps of an earlier version, with the columns, empty, that this one has more."""
    lacking = {name: pd.Series(pd.NA, frame.index, "Float64") for name in LATER if name not in frame}
    return frame.assign(**lacking)


# ---- the best


def metric(trial: FrozenTrial, name: str) -> float:
    """A figure of a completed trial."""
    return float(trial.user_attrs[name])


def deviation(trial: FrozenTrial, name: str) -> float | None:
    """The standard deviation of a figure of `merge_seeds` over the seeds; None of a single trial."""
    found = trial.user_attrs.get("deviations")
    return None if found is None else found.get(name)


def merge_seeds(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The completed trials; of those that differ by nothing but their seed only the first, its figures being the
    means of all of them: a configuration is to be compared with others, not the luckiest of its seeds. It notes
    how many they are as `seeds`, and their standard deviations as `deviations`."""
    completed = [trial for trial in trials if status(trial) == Status.complete]
    alike: dict[str, list[FrozenTrial]] = {}
    for trial in completed:
        others = {name: value for name, value in sorted(trial.params.items()) if name != SEED}
        alike.setdefault(repr(others) if SEED in trial.params else f"trial {trial.number}", []).append(trial)
    return [group[0] if len(group) == 1 else _mean(group) for group in alike.values()]


def _mean(group: list[FrozenTrial]) -> FrozenTrial:
    mean = copy.copy(group[0])
    known = [
        name
        for name in (*METRICS, *own_metrics(group))
        if all(trial.user_attrs.get(name) is not None for trial in group)
    ]
    columns = {name: [metric(trial, name) for trial in group] for name in known}
    figures: dict[str, Any] = {name: statistics.fmean(values) for name, values in columns.items()}
    deviations = {name: statistics.stdev(values) for name, values in columns.items()}
    mean.user_attrs = {**mean.user_attrs, **figures, "seeds": len(group), "deviations": deviations}
    return mean


def _losses(trial: FrozenTrial, names: Sequence[str]) -> tuple[float, ...]:
    """Figures of a completed trial, turned so that less is better."""
    return tuple(METRICS[name].loss(metric(trial, name)) for name in names)


def rank_trials(trials: list[FrozenTrial], objectives: list[str]) -> list[FrozenTrial]:
    """The completed trials, best first: by the first objective, ties by validation loss, then by parameters. Those
    that differ by their seed alone count as one."""
    return rank_runs(merge_seeds(trials), objectives)


def rank_runs(trials: Sequence[FrozenTrial], objectives: list[str]) -> list[FrozenTrial]:
    """The completed trials in the same order, each by its own figures."""
    completed = [trial for trial in trials if status(trial) == Status.complete]
    names = [objectives[0], "validation_loss", "params"]
    return sorted(completed, key=lambda trial: (_losses(trial, names), trial.number))


def pareto_front(trials: list[FrozenTrial], objectives: list[str]) -> list[FrozenTrial]:
    """The completed trials that no other equals or beats in every objective, best by the first one last; a single
    objective is set against the number of parameters."""
    names = objectives if len(objectives) > 1 else [*objectives, "params"]
    front: dict[tuple[float, ...], FrozenTrial] = {}
    # In this order no trial is beaten by a later one; of equals the one that ranks first stays.
    for trial in sorted(rank_trials(trials, objectives), key=lambda trial: _losses(trial, names)):
        losses = _losses(trial, names)
        if not any(all(a <= b for a, b in zip(better, losses, strict=True)) for better in front):
            front[losses] = trial
    return list(front.values())[::-1]


# ---- the best and the winner as files


def write_results(
    folder: Path, study: str, trials: list[FrozenTrial], objectives: list[str]
) -> FrozenTrial | None:
    """Write optimization_results.yaml, as Hydra's own sweeper does, into a study's folder, and return the best
    trial, if any has completed."""
    best = next(iter(rank_trials(trials, objectives)), None)
    if best is None:
        return None
    content: dict[str, Any] = {"name": "optuna", "study": study}
    if len(objectives) == 1:
        content |= {
            "best_trial": best.number,
            "best_params": plain_params(best),
            "best_value": metric(best, objectives[0]),
        }
    else:
        content["solutions"] = [
            {
                "trial": trial.number,
                "params": plain_params(trial),
                "values": [metric(trial, name) for name in objectives],
            }
            for trial in pareto_front(trials, objectives)
        ]
    write_whole(folder / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))
    return best


def write_winner(folder: Path, study: str, best: FrozenTrial, composer: Composer, retrain: list[str]) -> str:
    """Write the best trial's configuration, changed by `retrain`, as an experiment in the study's folder, and
    return the command that runs it."""
    # Only here, as reading a table must not wait for torch.
    from tinysweep.data.load import describe, pin  # noqa: PLC0415
    from tinysweep.network.budget import resolve  # noqa: PLC0415

    overrides = composer.overrides(best.params, composer.config(best.params, best.number))
    with composer.compose(*overrides, *retrain).as_job() as settings:
        config = to_config(settings)
    changes = f", with {' '.join(retrain)}" if retrain else ""
    seeds = f", the best by the mean of {best.user_attrs['seeds']} seeds" if "seeds" in best.user_attrs else ""
    origin = f"Trial {best.number} of the study {study}{seeds}{changes}."
    config = dataclasses.replace(
        resolve(config, describe(config.data)),
        name=f"{study}-{WINNER}",
        data=pin(config.data, composer.digests),
    )
    return write_experiment(folder, WINNER, config, origin)


def write_experiment(folder: Path, choice: str, config: Config, origin: str) -> str:
    """Write a configuration as experiment/<choice>.yaml in a folder, and return the command that runs it.

    `origin` says in a line where it comes from.
    """
    content = dataclasses.asdict(config)
    # Where data lies and what it runs on is for whoever runs it to say; but one's own images lie in one place.
    own = is_own(config.data.name)
    left_out = set(INCIDENTAL) - {"data.root"} if own else {*INCIDENTAL, DIGEST}
    for key in left_out:
        section, _, leaf = key.rpartition(".")
        (content[section] if section else content).pop(leaf)
    content = {"name": config.name, **{key: held for key, held in content.items() if held != {}}}
    file = folder / "experiment" / f"{choice}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f"# @package _global_\n# {origin}\n{OmegaConf.to_yaml(OmegaConf.create(content))}")
    return line(["tinysweep", "--config-dir", shown_folder(folder), f"experiment={choice}"])
