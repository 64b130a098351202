"""Where a run that was cut short can go on from: its record, its checkpoint, and all that must be as it was."""

import importlib.metadata
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from tinysweep.data.load import describe
from tinysweep.errors import ConfigError, DataError, first_line
from tinysweep.network import budget
from tinysweep.run import checkpoint
from tinysweep.run.record import Record, RunFolder, State
from tinysweep.settings.command_line import as_value, line
from tinysweep.settings.schema import Config
from tinysweep.settings.stored import read_config
from tinysweep.training.device import Hardware, hardware
from tinysweep.training.loop import TrainingState

SAME_BITS = ("tinysweep", "torch")  # packages that must be of the same version


def command(folder: Path) -> str:
    """The words that go on with the run in a folder, as a shell takes them."""
    return line(["tinysweep", f"resume={as_value(str(folder))}"])


def run_folder(path: Path) -> RunFolder:
    """The folder of a run.

    Raises:
        ConfigError: it isn't there, or no run has left its record in it.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise ConfigError(
            f"resume={path}: no such folder; give that of a run, such as outputs/runs/DATE/TIME-NAME"
        )
    if not folder.record.is_file():
        raise ConfigError(f"resume={path} is not the folder of a run: it holds no record.json")
    return folder


def reopen(folder: RunFolder) -> Record:
    """The record of a run as it was begun, without its epochs, to go on with on this machine.

    Raises:
        TinysweepError: the run is complete, or a trial's; its record is damaged; the packages or the hardware
            are others than those it was begun with.
    """
    try:
        held: dict[str, Any] = json.loads(folder.record.read_text())
        config = read_config(held["config"])
        state, overrides = State(held["state"]), [str(word) for word in held["overrides"]]
        commit, started = held["git_commit"], datetime.fromisoformat(held["started"])
        versions, machine = held["versions"], (held["device"], int(held["threads"]), held["precision"])
    except Exception as error:
        raise DataError(f"{folder.record} is damaged ({type(error).__name__}: {first_line(error)})") from error
    if config.trial is not None:
        raise ConfigError(f"{folder.path} is a trial of a study, with which the command of its sweep goes on")
    if state == State.complete:
        raise ConfigError(f"{folder.path}: this run is complete; a longer one is another run")
    for package in SAME_BITS:
        if versions.get(package) != (here := importlib.metadata.version(package)):
            raise ConfigError(
                f"{folder.path} was begun with {package} {versions.get(package)}, and this is {here}, which may "
                "lead to other bits; install that version, or begin the run anew"
            )
    cost = budget.gate(config, describe(config.data))
    return Record(folder, config, cost, _same_hardware(folder, config, machine), overrides, commit, started)


def kept(record: Record) -> TrainingState | None:
    """The state that a run goes on from, None if no epoch of it had ended.

    Raises:
        TinysweepError: the checkpoint is missing or damaged.
    """
    if record.folder.model.exists():
        return checkpoint.read(record.folder, record.config)
    if json.loads(record.folder.record.read_text())["epochs"]:
        raise DataError(
            f"{record.folder.path} has no model.pt to go on from; a run of a final keeps none before its end, nor "
            "did one of an earlier version: begin it anew"
        )
    return None


def _same_hardware(folder: RunFolder, config: Config, begun: tuple[str, int, str]) -> Hardware:
    """This machine, with as many threads as the run was begun with, as they decide how sums are rounded."""
    here, (device, threads, arithmetic) = hardware(config.trainer), begun
    if (here.device.type, here.precision) != (device, arithmetic):
        raise ConfigError(
            f"{folder.path} was begun on {device} in {arithmetic}, and this is {here.device.type} in "
            f"{here.precision}, which leads to other bits; go on where it was begun, or begin it anew"
        )
    return Hardware(here.device, here.bf16, threads, here.graphs)
