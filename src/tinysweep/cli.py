"""What the commands share: where their configuration lies, and errors that are one clear line."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tinysweep.config import Config, from_dictconfig
from tinysweep.errors import TinysweepError
from tinysweep.explain import explain, require_schema

_INSTALLED = Path(__file__).parent / "conf"
CONFIG_FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "conf"

INTERRUPTED = 130  # the exit status by which shells know a command that Ctrl-C stopped


def command(task: Callable[[Config], None]) -> None:
    """Run `task` on the configuration that Hydra composes from the command line.

    Exits with status 1 and one line on an error that the user can mend, with 130 when interrupted or
    terminated. HYDRA_FULL_ERROR=1 shows tracebacks instead.
    """
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra prints composition errors over many lines and exits, unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    ConfigStore.instance().store(name="schema", node=Config)
    signal.signal(signal.SIGTERM, _interrupt)

    def checked(composed: DictConfig) -> None:
        try:
            require_schema(composed)
            task(from_dictconfig(composed))
        except TinysweepError as error:
            if traceback_wanted:
                raise
            _fail(str(error))  # here, because Hydra would put a line of its own before an error it sees
        finally:
            _drop_if_empty(Path(HydraConfig.get().runtime.output_dir))

    try:
        hydra.main(config_path=str(CONFIG_FOLDER), config_name="config")(checked)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if traceback_wanted or (isinstance(error, ValueError) and not _is_composition(error)):
            raise
        _fail(explain(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _is_composition(error: ValueError) -> bool:
    """Whether a ValueError was raised while Hydra read the command line, rather than by a running task."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_name == "checked":
            return False
        frame = frame.tb_next
    return True


def _drop_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra makes for every task, and that of its date, if nothing came of it."""
    for path in (folder, folder.parent):
        if path != Path.cwd() and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
