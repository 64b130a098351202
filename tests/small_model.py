"""A small model really trained on MNIST for a few seconds, and its export, made once for all tests of deploy."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from tinysweep.commands.export import build_parser, export
from tinysweep.data.catalogue import DATA_SETS
from tinysweep.data.load import Images, load_test
from tinysweep.deploy.classifier import OnnxModel
from tinysweep.run.checkpoint import read_model
from tinysweep.run.labels import LabelNames
from tinysweep.run.run import run
from tinysweep.settings.schema import (
    Config,
    DataConfig,
    DataName,
    ModelConfig,
    OptimizerConfig,
    Precision,
    SchedulerConfig,
    SchedulerName,
    TrainerConfig,
)

Grey = NDArray[np.uint8]
Ink = NDArray[np.float64]
LABELS = LabelNames(DataName.mnist, 1, 28, DATA_SETS[DataName.mnist].classes)


@dataclass
class Export:
    """What a run's export printed, and where the files lie."""

    folder: Path
    out: str
    err: str

    def session(self, name: str = "model.onnx") -> OnnxModel:
        return OnnxModel((self.folder / name).read_bytes(), self.folder / name)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> Path:
    """The folder of a finished run with a model that knows digits."""
    config = Config(
        name="small",
        data=DataConfig(root=str(mnist_root), validation=0, limit=8000),
        model=ModelConfig(width=8, depth=[1, 2], stem_kernel=5),
        optimizer=OptimizerConfig(lr=0.05, nesterov=True),
        scheduler=SchedulerConfig(SchedulerName.onecycle),
        trainer=TrainerConfig(epochs=2, batch_size=64, threads=1, precision=Precision.fp32, test=False),
    )
    folder = tmp_path_factory.mktemp("small") / "run"
    run(config, folder, [], report=lambda _: None)
    return folder


@pytest.fixture(scope="session")
def model(small: Path) -> nn.Module:
    return read_model(small).model


@pytest.fixture(scope="session")
def exported(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("exported") / "new"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        export(build_parser().parse_args([str(small), "--out", str(folder)]))
    return Export(folder, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def mnist_test(mnist_root: Path) -> Images:
    """MNIST's."""
    return load_test(DataConfig(root=str(mnist_root)))


@pytest.fixture(scope="session")
def digits(mnist_test: Images) -> Grey:
    """Test images (300, 28, 28)."""
    return mnist_test.pixels[:300, 0].numpy()
