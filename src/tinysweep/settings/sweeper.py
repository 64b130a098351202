"""The settings of a search, `hydra.sweeper`: how trials are drawn, what they aim for, and when it ends."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tinysweep.metrics import METRICS
from tinysweep.settings.section import Section, is_folder_name, setting


def _metric_meant(name: str, own: Iterable[str]) -> str:
    """What to write for a wrong metric; `own` are those of a user's own."""
    every = [*METRICS, *(f"validation_{each}" for each in own)]
    if name.startswith("test"):
        return ", as no search reads the test set"
    if f"validation_{name}" in every:
        return f"; did you mean validation_{name}?"
    part = re.split(r"[^a-z]+", name.lower())[-1]
    likely = [metric for metric in every if part and part in metric]
    close = likely or difflib.get_close_matches(name, every, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def chosen_with_slash(key: str, value: object) -> str:
    """The refusal of a value for a key, such as hydra.launcher, that names a group."""
    return (
        f"{key}={'null' if value is None else value} must be a choice of a group, which a slash tells: "
        f"{key.replace('.', '/')}={value or 'NAME'}"
    )


@dataclass
class SweeperConfig(Section):
    """How a study searches; what it searches stands in `params` and on the command line."""

    KEY = "hydra.sweeper"
    sampler: Any = setting(None, "Optuna sampler: hydra/sweeper/sampler=tpe, random, grid, …")
    pruner: Any = setting(None, "Optuna pruner: hydra/sweeper/pruner=none, median, hyperband, …")
    objective: Any = setting(
        "validation_accuracy",
        f"a metric or a list of them: {', '.join(METRICS)}, or validation_NAME for one of your own, metrics.NAME",
    )
    params: Any = setting(None, "what is searched: a sweep such as range(4,16) for each override")
    start_with: Any = setting(
        None, "points to try first: a list of mappings of searched overrides to values; the rest is drawn"
    )
    n_trials: int | None = setting(
        None,
        "trials to train in total, over every call; null is the whole grid, or 20 with another sampler",
        "[1, 1e7]",
    )
    batch_size: int | None = setting(
        None, "trials out at a time; null is one for each worker and half as many that wait, 8 at most", "[1, 1e5]"
    )
    rungs: list[int] = setting(
        [],
        "epochs of shorter whole trainings that come before that of trainer.epochs, such as [1,3]; a trial begins "
        "each anew, and may be pruned after each, and only there",
        "[1, 100000]",
    )
    max_seconds: float | None = setting(None, "launch nothing more after this many seconds", "(0, 1e9]")
    max_rejections: int = setting(1000, "proposals refused in a row that end the study", "[1, 1e9]")
    max_failure_rate: float = setting(0.25, "part of the study's finished trials that may have failed", "[0, 1]")
    study_name: str | None = setting(None, "name of the study and its folder; null is made of what is searched")
    storage: str | None = setting(
        None,
        "null is study.db in the study's folder; else postgresql://, mysql:// or grpc://HOST:PORT, or a file: "
        "SQLite or an Optuna journal as it is, or as the ending of a new one says (.db, .sqlite; .log, .jsonl, "
        ".journal)",
    )
    storage_patience: float = setting(
        60.0, "seconds for which the sweep and its trials wait for a storage that is away or full", "[0, 1e6]"
    )
    retrain: list[str] = setting([], "overrides with which the winner's recipe is written, such as more epochs")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.objectives
        if self.objective is None or not names or len(set(names)) < len(names):
            self.refuse("objective", "must be one of the metrics, or a list of different ones")
        if self.rungs != sorted(set(self.rungs)):
            self.refuse("rungs", "must increase")
        if self.study_name is not None and not is_folder_name(self.study_name):
            self.refuse("study_name", "must be usable as a folder name: no / \\ : and no leading dot")
        if not isinstance(self.params or {}, dict):
            self.refuse("params", "must be a mapping of overrides to sweeps")
        start = self.start_with or []
        if not isinstance(start, list) or not all(isinstance(point, dict) for point in start):
            self.refuse("start_with", "must be a list of mappings, such as [{model.width:8}]")

    def require_metrics(self, own: Iterable[str]) -> None:
        """Refuse an objective that is neither built in nor one of a user's own, which `metrics.NAME` computes."""
        known = {*METRICS, *(f"validation_{name}" for name in own)}
        for name in self.objectives:
            if name not in known:
                self.refuse("objective", f"names no metric {name}{_metric_meant(name, own)}")

    @property
    def objectives(self) -> list[str]:
        """The metrics aimed for, the first being the one that ranks trials."""
        return (
            [str(name) for name in self.objective] if isinstance(self.objective, list) else [str(self.objective)]
        )
