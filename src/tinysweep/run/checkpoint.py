"""What a run that is cut short goes on from: the training of its last finished epoch, kept in its model.pt."""

import dataclasses
import json
import time
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError, DataError, first_line
from tinysweep.run import saved
from tinysweep.run.record import RunFolder
from tinysweep.settings.schema import Config
from tinysweep.settings.stored import read_config
from tinysweep.training.loop import Epoch, TrainingState

LARGEST_SHARE = 0.01  # of the time of training that may be spent on writing


class Checkpoint:
    """Keeps the state of the last finished epoch and writes it to model.pt; where epochs are short, not after each
    of them, but so seldom that it takes no more than a hundredth of the time."""

    def __init__(
        self, folder: RunFolder, config: Config, shape: DataShape, state: TrainingState | None = None
    ) -> None:
        self.folder, self.config, self.shape = folder, config, shape
        self.state, self.is_written = state, True
        self.last_written, self.cost = time.perf_counter(), 0.0  # seconds

    def keep(self, state: TrainingState) -> None:
        """Keep a state instead of the one before."""
        self.state, self.is_written = state, False
        if time.perf_counter() - self.last_written >= self.cost / LARGEST_SHARE:
            self.write()

    def write(self) -> None:
        """Write the state that is kept, if it isn't."""
        if self.state is None or self.is_written:
            return
        began = time.perf_counter()
        state = {key: _portable(value) for key, value in self.state.items()}
        saved.write(
            self.folder.model,
            state["average"] or state["model"],
            self.config,
            self.shape,
            training={"config": json.dumps(dataclasses.asdict(self.config)), "state": state},
        )
        self.is_written, self.last_written = True, time.perf_counter()
        self.cost = self.last_written - began

    @property
    def history(self) -> list[Epoch]:
        return [Epoch(**epoch) for epoch in self.state["history"]] if self.state else []


def read(folder: RunFolder, config: Config) -> TrainingState:
    """The state that a run has kept.

    Raises:
        ConfigError: it was trained with another configuration.
        DataError: there is none, or it is damaged.
    """
    content = saved.content_of(folder.model)
    if "training" not in content:
        raise DataError(f"{folder.model} holds a model, but nothing to go on from; begin the run anew")
    try:
        training = content["training"]
        state: TrainingState = {**training["state"]}
        trained = read_config(json.loads(training["config"]))
    except (KeyError, TypeError, ValueError, ConfigError, OmegaConfBaseException) as error:
        raise DataError(f"{folder.model} is damaged ({type(error).__name__}: {first_line(error)})") from error
    if trained != config:
        raise ConfigError(f"{folder.record} doesn't hold the configuration that {folder.model} was trained with")
    return state


def _portable(value: Any) -> Any:
    """A part of a state as any machine can read it."""
    if isinstance(value, Tensor):
        return value.cpu().contiguous()
    if isinstance(value, dict):
        return {name: _portable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_portable(one) for one in value]
    return value
