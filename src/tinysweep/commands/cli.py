"""What the commands share: composition by Hydra, and errors that are one clear line."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tinysweep import drop_new_folders, new_folders
from tinysweep.errors import ConfigError, message_of
from tinysweep.search.plugin import OWN_SWEEPER
from tinysweep.settings.compose import COMPOSITION_ERRORS, CONFIG_FOLDER, LIBRARY_ERRORS, register_schema, typed
from tinysweep.settings.explain import ONE_CHOICE, explain, require_groups, require_words
from tinysweep.settings.schema import Config
from tinysweep.terminal import INTERRUPTED, outlets, version_line


def command(task: Callable[[Config], object], sweeps: bool = True, usage: str | None = None) -> None:
    """Run `task` on the configuration that Hydra composes from the command line, or on many if it `sweeps`.
    `usage` is printed for --help instead of what conf/hydra/help says of the command tinysweep.

    Exits with status 1 and one line on an error that the user can mend, with 130 when interrupted or
    terminated. HYDRA_FULL_ERROR=1 shows tracebacks instead.
    """
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra prints composition errors over many lines and exits, unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def checked(composed: DictConfig) -> object:
        hydra_config = HydraConfig.get()
        try:
            if hydra_config.mode == RunMode.MULTIRUN:
                _require_sweep(hydra_config, sweeps)
            require_groups(hydra_config)
            return task(_as_typed(typed(composed), Path(hydra_config.runtime.cwd)))
        except Exception as error:
            line = message_of(error)
            if line is None or traceback_wanted or hydra_config.mode == RunMode.MULTIRUN:
                raise  # a job's error is its sweeper's to judge
            _fail(line)  # here, because Hydra would put a line of its own before an error it sees
        finally:
            if hydra_config.mode == RunMode.MULTIRUN:
                new_folders[:] = [hydra_config.runtime.output_dir]  # in a study's folder
            drop_new_folders()

    with outlets():
        if "--version" in sys.argv[1:]:
            print(version_line())
            return
        if usage and {"-h", "--help"} & set(sys.argv[1:]):
            print(usage, end="")
            return
        try:
            require_words(sys.argv[1:])
            register_schema()
            _check_sweepers(sweeps)
            HydraConfig.instance().set_config = _set_config  # type: ignore[method-assign, assignment]
            hydra.main(config_path=str(CONFIG_FOLDER), config_name="config")(checked)()
        except Exception as error:
            line = _line(error)
            if line is None or traceback_wanted:
                raise
            _fail(line)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None


def _check_sweepers(sweeps: bool) -> None:
    """Refuse a multirun before its sweeper is made, whatever its configuration is composed of.

    An error raised in a Hydra callback would become a warning, and so wouldn't stop it.
    """
    plugins = Plugins.instance()

    def instantiate_sweeper(*, config: DictConfig, **others: Any) -> Sweeper:
        _require_sweep(config.hydra, sweeps)
        return Plugins.instantiate_sweeper(plugins, config=config, **others)

    plugins.instantiate_sweeper = instantiate_sweeper  # type: ignore[method-assign]


def _require_sweep(hydra_config: HydraConf, sweeps: bool) -> None:
    """Refuse a multirun of a command that doesn't sweep, or by another sweeper than tinysweep's own.

    Raises:
        ConfigError: it is one.
    """
    if not sweeps:
        raise ConfigError("tinysweep-inspect shows one model; leave out -m, and give one value to each setting")
    if not OmegaConf.is_dict(hydra_config.sweeper):
        return  # no sweeper at all, which Hydra refuses
    target = hydra_config.sweeper.get("_target_")
    if target == OWN_SWEEPER:
        return
    chosen = hydra_config.runtime.choices.get("hydra/sweeper")
    given = f"hydra.sweeper._target_={target}" if chosen == "budget" else f"hydra/sweeper={chosen}"
    raise ConfigError(
        f"{given} must be left out: only tinysweep's own sweeper holds to the budget and leaves the test set "
        "unread; how it searches is chosen by hydra/sweeper/sampler=tpe, random, grid, …"
    )


def _as_typed(config: Config, start: Path) -> Config:
    """The configuration with its data where it was when the command was typed in `start`, should
    hydra.job.chdir have taken the task elsewhere."""
    if not config.data.root.startswith("~") and Path.cwd() != start:
        config.data.root = str(start / config.data.root)
    return config


def _line(error: Exception) -> str | None:
    """The one line for an error that isn't the program's own; None for one that is."""
    if line := message_of(error):
        return line
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_code.co_name == "checked" for frame in frames):
        return None  # raised by a task
    modules = [str(frame.f_globals["__name__"]) for frame in frames]
    ours = any(name.startswith("tinysweep.") and name != __name__ for name in modules)
    if isinstance(error, LIBRARY_ERRORS if ours else COMPOSITION_ERRORS):
        return explain(error)
    return ONE_CHOICE if isinstance(error, TypeError) and modules[-1].startswith("hydra.") else None


def _set_config(config: DictConfig) -> None:
    """As Hydra calls it before it makes the folder of a run: note what of that isn't there yet."""
    HydraConfig.set_config(HydraConfig.instance(), config)
    if config.hydra.mode != RunMode.MULTIRUN:
        folder = Path(config.hydra.run.dir).absolute()
        with contextlib.suppress(OSError):  # which Hydra raises again when it makes the folder
            new_folders[:] = [str(path) for path in (folder, *folder.parents) if not path.exists()]


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)
