"""What several test modules share: the real MNIST, small made data that can be learned, and commands in
process."""

import functools
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import optuna
import pytest
import torch
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tinysweep.commands import train
from tinysweep.data.catalogue import DataShape
from tinysweep.data.download import obtain
from tinysweep.data.load import Data, Images
from tinysweep.search.study import Study
from tinysweep.settings.compose import register_schema
from tinysweep.settings.schema import DEFAULT_ROOT
from tinysweep.settings.searchpath import CONFIG_FOLDER

pytest_plugins = ["postgres", "small_model"]
# Lines are as long as where no terminal cuts them; the workers of pytest-xdist say that one does.
os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small work is fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder of real MNIST, fetched if this machine hasn't got it."""
    root = Path(DEFAULT_ROOT).expanduser()
    obtain("mnist", root)
    return root


def made_images(count: int, classes: int = 10, size: int = 28, channels: int = 1, seed: int = 0) -> Images:
    """Noise with a bright bar whose row tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 60, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        row = label * size // classes
        pixels[index, :, row : row + max(1, size // classes)] = 255
    return Images(pixels, labels)


@pytest.fixture
def made_data() -> Data:
    """200 training and 50 validation images of 10 classes."""
    return Data(DataShape(1, 28, 10), made_images(200), made_images(50, seed=1), (0.2,), (0.3,))


@dataclass
class Ended:
    """How a command ended: exit status, and all that it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and afterwards none of what a command changes in its process."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # so that it is restored, as the commands set it
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # A test run that was started in the background ignores Ctrl-C, and so would the processes it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = logging.getLogger()
    logged = list(root.handlers), root.level
    # Those that Hydra has left in another test write to that test's stream, which is closed.
    root.handlers[:] = [handler for handler in root.handlers if type(handler) is not logging.StreamHandler]
    yield folder
    root.handlers[:], root.level = logged
    for number, handler in handlers.items():
        signal.signal(number, handler)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process, in the folder `place`."""

    def call(*arguments: str, main: Callable[[], None] = train.main) -> Ended:
        assert Path.cwd() == place
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["tinysweep", *arguments])
        capsys.readouterr()
        status: Any = 0
        try:
            main()
        except SystemExit as ending:
            status = ending.code or 0
        printed = capsys.readouterr()
        return Ended(status, printed.out, printed.err)

    return call


def entered(study: Study, **notes: Any) -> int:
    """The number of a new running trial that has drawn nothing."""
    trial = study.ask()
    for name, value in notes.items():
        trial.set_user_attr(name, value)
    return trial.number


@functools.cache
def loaded() -> tuple[ConfigLoader, DictConfig]:
    """Hydra's loader and the configuration that it hands to a sweeper."""
    register_schema()
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        loader = GlobalHydra.instance().config_loader()
        return loader, loader.load_configuration("config", overrides=[], run_mode=RunMode.MULTIRUN)


@pytest.fixture
def quiet_optuna() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    optuna.logging.set_verbosity(verbosity)
