"""tinysweep finds the best image classifier that fits under a hard parameter budget.

Use from Python, without Hydra:

    import tinysweep

    config = tinysweep.Config()
    config = tinysweep.resolve(config, tinysweep.describe(config.data))
    result = tinysweep.fit(config, tinysweep.load_data(config.data))
    print(result.history[-1].validation_accuracy)

`tinysweep.load(folder)` gives the trained model of a run.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinysweep.budget import gate, measure, resolve
    from tinysweep.config import Config
    from tinysweep.data import describe, load_test
    from tinysweep.data import load as load_data
    from tinysweep.fit import fit
    from tinysweep.saved import load

__all__ = ["Config", "describe", "fit", "gate", "load", "load_data", "load_test", "measure", "resolve"]

_HOMES = {
    "Config": ("config", "Config"),
    "describe": ("data", "describe"),
    "fit": ("fit", "fit"),
    "gate": ("budget", "gate"),
    "load": ("saved", "load"),
    "load_data": ("data", "load"),
    "load_test": ("data", "load_test"),
    "measure": ("budget", "measure"),
    "resolve": ("budget", "resolve"),
}


def __getattr__(name: str) -> Any:
    # Commands that only print help or refuse a value must not wait for torch to be imported.
    if name not in _HOMES:
        raise AttributeError(f"module 'tinysweep' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"tinysweep.{module}"), attribute)


class _Package(ModuleType):
    """Importing the module tinysweep.fit would otherwise hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
