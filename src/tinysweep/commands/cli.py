"""What the commands that Hydra composes share: composition, and errors that are one clear line."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinysweep import drop_new_folders, new_folders
from tinysweep.errors import ConfigError, message_of
from tinysweep.search.plugin import OWN_SWEEPER
from tinysweep.settings.compose import COMPOSITION_ERRORS, LIBRARY_ERRORS, register_schema, to_config
from tinysweep.settings.explain import ONE_CHOICE, explain, require_groups, require_words
from tinysweep.settings.schema import Config
from tinysweep.settings.searchpath import CONFIG_FOLDER
from tinysweep.targets import look_in
from tinysweep.terminal import FULL_ERROR, errors_in_a_line, version_line

WHITELIST = (f"{__name__}.Hooks",)


def command(task: Callable[[Config], object], sweeps: bool = True, usage: str | None = None) -> None:
    """Run `task` on the configuration that Hydra composes from the command line, or on many if it `sweeps`.
    `usage` is printed for --help instead of what conf/hydra/help says of the command tinysweep.

    Exits as `errors_in_a_line` says.
    """
    Hooks.stage, Hooks.sweeps = "composing", sweeps

    def job(composed: DictConfig) -> object:
        own = HydraConfig.get()
        one_run = own.mode != RunMode.MULTIRUN
        try:
            if not one_run:
                require_own_sweeper(own, sweeps)
            require_groups(own)
            look_in(Path(own.runtime.cwd))
            config = with_places_from(Path(own.runtime.cwd), to_config(composed))
            Hooks.stage = "working"
            return task(config)
        except Exception as error:
            if one_run:
                raise PastHydra(error) from error
            raise  # that of a job is its sweeper's to judge
        finally:
            look_in(None)
            if not one_run:
                new_folders[:] = [own.runtime.output_dir]  # in a study's folder
            drop_new_folders()

    with errors_in_a_line(_line):
        if "--version" in sys.argv[1:]:
            print(version_line())
        elif usage and {"-h", "--help"} & set(sys.argv[1:]):
            print(usage, end="")
        else:
            require_words(sys.argv[1:])
            register_schema()
            try:
                with _errors_let_through():
                    hydra.main(str(CONFIG_FOLDER), "config", execution_whitelist=WHITELIST)(job)()
            except PastHydra as carrier:
                raise carrier.error from None


@contextlib.contextmanager
def _errors_let_through() -> Iterator[None]:
    """Keep Hydra from printing an error of composition over many lines and ending the process."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        os.environ.pop(FULL_ERROR)
        if before is not None:
            os.environ[FULL_ERROR] = before


class PastHydra(BaseException):
    """Carries an error past Hydra, which would print a line of its own before that of a run, and make a warning of
    one in a callback."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Hooks(Callback):
    """What Hydra calls when it has composed a configuration, before it makes a folder or a sweeper; named in
    conf/config.yaml."""

    stage = "composing"  # then "composed", and "working" once the task has begun
    sweeps = True

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Note the folders that aren't there yet."""
        Hooks.stage = "composed"
        with contextlib.suppress(OSError, OmegaConfBaseException):  # which Hydra meets again when it makes them
            folder = Path(config.hydra.run.dir).absolute()
            new_folders[:] = [str(path) for path in (folder, *folder.parents) if not path.exists()]

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a sweep that isn't ours, whatever its configuration is composed of."""
        Hooks.stage = "composed"
        try:
            require_own_sweeper(config.hydra, Hooks.sweeps)
        except ConfigError as error:
            raise PastHydra(error) from error


def require_own_sweeper(own: HydraConf, sweeps: bool) -> None:
    """Refuse a multirun of a command that doesn't sweep, or by another sweeper than tinysweep's own."""
    if not sweeps:
        raise ConfigError("tinysweep-inspect shows one model; leave out -m, and give one value to each setting")
    if not OmegaConf.is_dict(own.sweeper):
        return  # no sweeper at all, which Hydra refuses
    target = own.sweeper.get("_target_")
    if target == OWN_SWEEPER:
        return
    chosen = own.runtime.choices.get("hydra/sweeper")
    given = f"hydra.sweeper._target_={target}" if chosen == "budget" else f"hydra/sweeper={chosen}"
    raise ConfigError(
        f"{given} must be left out: only tinysweep's own sweeper holds to the budget and leaves the test set "
        "unread; how it searches is chosen by hydra/sweeper/sampler=tpe, random, grid, …"
    )


def with_places_from(start: Path, config: Config) -> Config:
    """The configuration with its data, and what it is logged in, where they were when the command was typed in
    `start`, should hydra.job.chdir have taken the task elsewhere."""
    config.tracker = config.tracker.seen_from(start)
    if not config.data.root.startswith("~") and Path.cwd() != start:
        config.data.root = str(start / config.data.root)
    return config


def _line(error: Exception) -> str | None:
    """The one line for an error that isn't the program's own; None for one that is."""
    if line := message_of(error):
        return line
    composing = Hooks.stage == "composing"
    if composing and isinstance(error, TypeError):
        return ONE_CHOICE
    expected = {"composing": COMPOSITION_ERRORS, "composed": LIBRARY_ERRORS}.get(Hooks.stage, ())
    return explain(error) if isinstance(error, expected) else None
