"""tinysweep finds the best image classifier that fits under a hard parameter budget.

Use from Python, without Hydra:

    import tinysweep

    config = tinysweep.Config()
    config = tinysweep.resolve(config, tinysweep.describe(config.data))
    result = tinysweep.fit(config, tinysweep.load_data(config.data))
    print(result.history[-1].validation_accuracy)

`tinysweep.compose("experiment=era_seed", "trainer.epochs=2")` gives the configuration that the same words give on
the command line, and `tinysweep.load(folder)` the trained model of a run.
"""

import importlib
import os
import signal
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinysweep.budget import gate, measure, resolve
    from tinysweep.composition import compose
    from tinysweep.config import Config
    from tinysweep.data import describe, load_test
    from tinysweep.data import load as load_data
    from tinysweep.saved import load
    from tinysweep.training import fit

    __version__: str

__all__ = ["Config", "compose", "describe", "fit", "gate", "load", "load_data", "load_test", "measure", "resolve"]

_HOMES = {
    "Config": ("config", "Config"),
    "compose": ("composition", "compose"),
    "describe": ("data", "describe"),
    "fit": ("training", "fit"),
    "gate": ("budget", "gate"),
    "load": ("saved", "load"),
    "load_data": ("data", "load"),
    "load_test": ("data", "load_test"),
    "measure": ("budget", "measure"),
    "resolve": ("budget", "resolve"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 few need it

        return version("tinysweep")
    # Commands that only print help or refuse a value must not wait for torch to be imported.
    if name not in _HOMES:
        raise AttributeError(f"module 'tinysweep' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"tinysweep.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def end_at_once(*_: object) -> None:
    """A signal handler for the time in which a command imports what it needs and nothing has begun yet."""
    os.write(2, b"interrupted\n")
    os._exit(130)


# An installed command, not a program of the user's, and Ctrl-C isn't ignored; `terminal` takes over later.
if (
    PurePath(sys.argv[0]).name.startswith("tinysweep")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, end_at_once)
