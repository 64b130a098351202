"""What the commands share: composition by Hydra, and errors that are one clear line."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tinysweep.composition import COMPOSITION_ERRORS, CONFIG_FOLDER, register_schema, typed
from tinysweep.config import Config
from tinysweep.errors import TinysweepError, machine_fault
from tinysweep.explain import ONE_CHOICE, explain, require_groups, require_words
from tinysweep.terminal import INTERRUPTED, end_as_interrupted, outlets


def command(task: Callable[[Config], object]) -> None:
    """Run `task` on the configuration that Hydra composes from the command line.

    Exits with status 1 and one line on an error that the user can mend, with 130 when interrupted or
    terminated. HYDRA_FULL_ERROR=1 shows tracebacks instead.
    """
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra prints composition errors over many lines and exits, unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    end_as_interrupted()

    def checked(composed: DictConfig) -> object:
        hydra_config = HydraConfig.get()
        try:
            require_groups(hydra_config)
            return task(_as_typed(typed(composed), Path(hydra_config.runtime.cwd)))
        except Exception as error:
            line = str(error) if isinstance(error, TinysweepError) else machine_fault(error)
            if line is None or traceback_wanted or hydra_config.mode == RunMode.MULTIRUN:
                raise  # a job's error is its sweeper's to judge
            _fail(line)  # here, because Hydra would put a line of its own before an error it sees
        finally:
            runtime = hydra_config.runtime
            _drop_if_empty(Path(runtime.output_dir), Path(runtime.cwd))

    with outlets():
        try:
            require_words(sys.argv[1:])
            register_schema()
            hydra.main(config_path=str(CONFIG_FOLDER), config_name="config")(checked)()
        except Exception as error:
            line = _line(error)
            if line is None or traceback_wanted:
                raise
            _fail(line)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None


def _as_typed(config: Config, start: Path) -> Config:
    """The configuration with its data where it was when the command was typed in `start`, should
    hydra.job.chdir have taken the task elsewhere."""
    if not config.data.root.startswith("~") and Path.cwd() != start:
        config.data.root = str(start / config.data.root)
    return config


def _line(error: Exception) -> str | None:
    """The one line for an error that isn't the program's own; None for one that is."""
    if line := str(error) if isinstance(error, TinysweepError) else machine_fault(error):
        return line
    if isinstance(error, COMPOSITION_ERRORS) and _is_composition(error):
        return explain(error)
    return ONE_CHOICE if _is_hydras_type_error(error) else None


def _is_composition(error: Exception) -> bool:
    """Whether an error was raised while Hydra read the command line, rather than by a running task."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_name == "checked":
            return False
        frame = frame.tb_next
    return True


def _is_hydras_type_error(error: Exception) -> bool:
    """Whether Hydra itself, rather than what it called, stumbled on a type: so it does on a list for a group."""
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, TypeError) and modules[-1].startswith("hydra.")


def _drop_if_empty(folder: Path, start: Path) -> None:
    """Remove the folder that Hydra makes for every task, and those above it that lie below `start`, if nothing
    came of them."""
    above = [path for path in folder.parents if start in path.parents]
    with contextlib.suppress(OSError):  # a folder that isn't empty refuses to be removed
        for path in [folder, *above] if folder != start else []:
            path.rmdir()


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)
