"""tinysweep finds the best image classifier that fits under a hard parameter budget.

Use from Python, without Hydra:

    import tinysweep

    config = tinysweep.Config()
    config = tinysweep.resolve(config, tinysweep.describe(config.data))
    result = tinysweep.fit(config, tinysweep.load_data(config.data))
    print(result.history[-1].validation_accuracy)

`tinysweep.compose("experiment=era_seed", "trainer.epochs=2")` gives the configuration that the same words give on
the command line, and `tinysweep.load(folder)` the trained model of a run. `tinysweep.inspect(config)` and
`tinysweep.compare(folder)` give the layers of a model, and the trials of a study, as pandas tables.
"""

import os
import signal
import sys

new_folders: list[str] = []  # made for a run, the innermost first; removed again unless something comes of it


def drop_new_folders() -> None:
    """Remove the folders that were made for a run, as far as they are empty."""
    try:
        for folder in new_folders:
            os.rmdir(folder)  # noqa: PTH106 pathlib takes a while to be imported
    except OSError:
        return  # it isn't empty


def end_at_once(*_: object) -> None:
    """A signal handler for the time in which a command imports and composes, and no work has begun yet: there,
    libraries turn a KeyboardInterrupt into other errors."""
    drop_new_folders()
    os.write(2, b"interrupted\n")
    os._exit(130)


def _is_command() -> bool:
    """Whether this process is a command of tinysweep's, rather than a program of the user's, or a worker."""
    words = [word for word in sys.orig_argv[1:] if not word.startswith("-")]  # the script, or module, comes first
    return (
        "-c" not in sys.orig_argv[:2]
        and words[:1] != []
        and words[0].rpartition(os.sep)[2].startswith("tinysweep")
    )


# First of all, as what follows takes a while to be imported; `terminal` takes over when work begins. A signal that
# is ignored, as nohup has it, stays ignored.
for _name in ("SIGINT", "SIGTERM", "SIGHUP") if _is_command() else ():  # the last is unknown to Windows
    _number = getattr(signal, _name, None)
    if _number and signal.getsignal(_number) in (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(_number, end_at_once)

import importlib  # noqa: E402
import warnings  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from tinysweep.commands.inspect import inspect
    from tinysweep.data.load import describe, load_test
    from tinysweep.data.load import load as load_data
    from tinysweep.network.budget import gate, measure, resolve
    from tinysweep.results.merge import compare
    from tinysweep.run.checkpoint import load
    from tinysweep.run.curves import LiveCurves
    from tinysweep.settings.compose import compose
    from tinysweep.settings.schema import Config
    from tinysweep.training.loop import fit

    __version__: str

_HOMES = {
    "Config": ("settings.schema", "Config"),
    "LiveCurves": ("run.curves", "LiveCurves"),
    "compare": ("results.merge", "compare"),
    "compose": ("settings.compose", "compose"),
    "describe": ("data.load", "describe"),
    "fit": ("training.loop", "fit"),
    "gate": ("network.budget", "gate"),
    "inspect": ("commands.inspect", "inspect"),
    "load": ("run.checkpoint", "load"),
    "load_data": ("data.load", "load"),
    "load_test": ("data.load", "load_test"),
    "measure": ("network.budget", "measure"),
    "resolve": ("network.budget", "resolve"),
}

__all__ = [
    "Config",
    "LiveCurves",
    "compare",
    "compose",
    "describe",
    "fit",
    "gate",
    "inspect",
    "load",
    "load_data",
    "load_test",
    "measure",
    "resolve",
]


if not TYPE_CHECKING:  # to which every name that isn't above is a mistake

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 few need it

            return version("tinysweep")
        # Commands that only print help or refuse a value must not wait for torch to be imported.
        if name not in _HOMES:
            raise AttributeError(f"module 'tinysweep' has no attribute {name!r}")
        module, attribute = _HOMES[name]
        with warnings.catch_warnings():
            # Of tqdm, which Optuna imports, in a notebook: that a bar which isn't used lacks a package.
            warnings.filterwarnings("ignore", message="IProgress not found")
            return getattr(importlib.import_module(f"tinysweep.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
