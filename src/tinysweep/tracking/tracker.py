"""What a tracker is told of a run, and the guard that lets none stop a training or hold it up for long."""

import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import first_line, require_package
from tinysweep.settings.schema import TrackerConfig, TrackerName

PATIENCE = 30.0  # seconds that a tracker may take for one thing; the first includes the import of its package
# What pip and Python call the package of each; the extra has the name of the choice.
PACKAGES = {
    TrackerName.tensorboard: ("tensorboard", "tensorboard"),
    TrackerName.mlflow: ("mlflow-skinny", "mlflow"),
    TrackerName.wandb: ("wandb", "wandb"),
}
USER = re.compile(r"(://)[^/@\s]*@")

Found = TypeVar("Found")


@dataclass(frozen=True)
class Beginning:
    """What a tracker is told as a run begins: `settings` by dotted key, `about` the program and machine by name,
    `metrics` the names of the figures to compare runs by, `done` the points that the run has already."""

    name: str
    settings: dict[str, Any]
    cost: dict[str, int]
    about: dict[str, str]
    metrics: list[str]
    done: int


@dataclass(frozen=True)
class Ending:
    """How a run ended, as its record says; `step` is that of its last point."""

    state: str
    reason: str | None
    figures: dict[str, float]
    step: int
    curves: Path | None = None


class Tracker:
    """One package's way of keeping a run. Each method may raise anything."""

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config

    def begin(self, run: Beginning, known: str | None) -> str:
        """Begin a run, or go on with one that is `known`; by what it is known then."""
        raise NotImplementedError

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep a point of each figure."""
        raise NotImplementedError

    def end(self, ending: Ending) -> None:
        """Keep how the run ended, and close it."""
        raise NotImplementedError

    # Only where a study is something of its own, or a run stays open when its process is gone:

    def open_group(self, about: dict[str, str]) -> None:
        """Begin a study, or go on with it."""

    def close_group(self, figures: Mapping[str, float], others: bool) -> None:
        """Keep what a study has found so far; `others` may be at work on it still."""

    def close_left(self, known: str, ending: Ending) -> None:
        """Close a run whose process is gone."""


class Tracking:
    """A tracker that does no harm: if it raises anything, or takes too long, a line says so, and from then on it
    isn't asked any more."""

    def __init__(self, config: TrackerConfig) -> None:
        self.config, self.last = config, dict[str, float]()
        self.works = config.name != TrackerName.none

    def begin(self, run: Beginning, known: str | None = None) -> str | None:
        """By what the tracker knows the run; None where there is no tracker, or no more."""
        return self._ask(lambda: self._tracker.begin(run, known))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """A point of each figure; steps must increase."""
        self.last = dict(figures)
        self._ask(lambda: self._tracker.log(step, figures))

    def end(self, ending: Ending) -> None:
        """How the run ended, and those of its figures that its last point doesn't have."""
        new = {name: value for name, value in ending.figures.items() if self.last.get(name) != value}
        ended = Ending(ending.state, ending.reason, new, ending.step, ending.curves)
        self._ask(lambda: self._tracker.end(ended))

    def open_group(self, about: dict[str, str]) -> None:
        self._ask(lambda: self._tracker.open_group(about))

    def close_group(self, figures: Mapping[str, float], others: bool) -> None:
        self._ask(lambda: self._tracker.close_group(figures, others))

    def close_left(self, known: str, ending: Ending) -> None:
        self._ask(lambda: self._tracker.close_left(known, ending))

    def _ask(self, act: Callable[[], Found]) -> Found | None:
        if not self.works:
            return None
        try:
            return _within(PATIENCE, lambda: self._do(act))
        except Exception as error:
            self.works = False
            said = USER.sub(r"\1***@", first_line(error))[:300]
            print(
                f"warning: tracker={self.config.name} failed ({type(error).__name__}: {said}); "
                "it is left out from here on, and the record has everything",
                file=sys.stderr,
                flush=True,
            )
            return None

    def _do(self, act: Callable[[], Found]) -> Found:
        if not hasattr(self, "_tracker"):
            self._tracker = _make(self.config)
        return act()


def require(config: TrackerConfig) -> None:
    """Refuse a tracker whose package isn't installed."""
    if config.name != TrackerName.none:
        package, module = PACKAGES[config.name]
        require_package(f"tracker={config.name}", package, config.name, module)


def read_tracker(composed: DictConfig) -> TrackerConfig:
    """The tracker that a sweep's trials share, found from any folder.

    Raises:
        ConfigError: its values break a rule, or its package isn't installed.
    """
    config = cast(TrackerConfig, OmegaConf.to_object(composed.tracker))
    require(config)
    return config.seen_from(Path.cwd())


def places(config: TrackerConfig) -> dict[str, str]:
    """What another machine, or a job in another folder, must be told to log in the same place."""
    found = {} if config.name == TrackerName.none else {"folder": config.folder, "uri": config.uri}
    return {f"{config.KEY}.{key}": place for key, place in found.items() if place is not None}


def _make(config: TrackerConfig) -> Tracker:
    """The tracker of a choice; its package is imported now, as no run without it should wait for that."""
    if config.name == TrackerName.tensorboard:
        from tinysweep.tracking.tensorboard import TensorBoard  # noqa: PLC0415

        return TensorBoard(config)
    if config.name == TrackerName.mlflow:
        from tinysweep.tracking.mlflow import MLflow  # noqa: PLC0415

        return MLflow(config)
    from tinysweep.tracking.wandb import WeightsAndBiases  # noqa: PLC0415

    return WeightsAndBiases(config)


def _within(seconds: float, act: Callable[[], Found]) -> Found:
    """What an act returns or raises; a TimeoutError if that takes longer, as packages have timeouts of their own
    only for some of what they wait for."""
    came: list[Found] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            came.append(act())
        except BaseException as error:  # also a SystemExit, which would end this thread without a word
            failed.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    if failed:
        raise failed[0] if isinstance(failed[0], Exception) else RuntimeError(repr(failed[0]))
    if worker.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return came[0]
