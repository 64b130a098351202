"""A small model really trained on MNIST for a few seconds, which the tests of export and predict share."""

from pathlib import Path

import pytest

from tinysweep.run.run import run
from tinysweep.settings.schema import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    SchedulerConfig,
    SchedulerName,
    TrainerConfig,
)


def trained_run(factory: pytest.TempPathFactory, mnist_root: Path) -> Path:
    """The folder of a finished run: 2 epochs of 8,000 images, trained once a session."""
    folder = factory.getbasetemp() / "small_model"
    if not folder.exists():
        config = Config(
            name="small",
            data=DataConfig(root=str(mnist_root), validation=0, limit=8000),
            model=ModelConfig(width=8, depth=[1, 2], stem_kernel=5),
            optimizer=OptimizerConfig(lr=0.05, nesterov=True),
            scheduler=SchedulerConfig(SchedulerName.onecycle),
            trainer=TrainerConfig(epochs=2, batch_size=64, threads=1, precision=Precision.fp32, test=False),
        )
        run(config, folder, [], report=lambda _: None)
    return folder
