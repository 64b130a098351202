"""A trained model from any of the files that it is kept in, ready to name classes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysweep.errors import ConfigError, DataError
from tinysweep.run.labels import LabelNames, class_names_if_there
from tinysweep.settings.schema import DataConfig, DataName

Model = Callable[[NDArray[np.uint8]], NDArray[np.float64]]  # raw pixels (B, C, H, W) -> logits (B, classes)


@dataclass(frozen=True)
class Found:
    """A class, and the probability in [0, 1] that a model gives it."""

    label: int
    name: str
    probability: float


def open_model(path: Path, data: str | None) -> tuple[LabelNames, Model]:
    """What a model tells apart, and the model.

    Raises:
        ConfigError: a package is missing; what it was trained on isn't known, or is other than `data`.
        DataError: there is no such file, or it isn't a model.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file; give the folder of a finished run, its model.pt or an exported .onnx file"
        )
    exported = path.suffix.lower() == ".onnx" and path.is_file()
    labels, model = _open_onnx(path) if exported else _open_saved(path, data)
    if data not in (None, labels.data):
        raise ConfigError(f"--data {data}: {path} was trained on {labels.data}; leave --data out")
    return labels, model


def _open_onnx(path: Path) -> tuple[LabelNames, Model]:
    from tinysweep.deploy.onnx_session import OnnxModel  # noqa: PLC0415

    try:
        model = OnnxModel(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    return model.labels, lambda pixels: model.logits(pixels).astype(np.float64)


def _open_saved(path: Path, data: str | None) -> tuple[LabelNames, Model]:
    import torch  # noqa: PLC0415 seconds to import, and not needed by ONNX Runtime

    from tinysweep.run.saved import read  # noqa: PLC0415

    saved = read(path)
    config = saved.data or (DataConfig(DataName(data)) if data else None)
    if config is None:
        raise ConfigError(
            f"{saved.file} doesn't say what it was trained on, and there is no record beside it; "
            f"give --data NAME ({', '.join(DataName)})"
        )
    shape, classes = saved.shape, saved.classes or class_names_if_there(config, saved.shape.classes)

    def model(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.inference_mode():
            return saved.model(torch.tensor(pixels).float()).double().numpy()  # type: ignore[no-any-return]

    return LabelNames(config.name, shape.channels, shape.size, classes), model


def ranked(logits: NDArray[np.float64], classes: tuple[str, ...]) -> list[Found]:
    """Every class with the probability that the softmax of its logits (classes,) gives it, the likeliest first."""
    weights = np.exp(logits - logits.max())
    order = np.argsort(-logits, kind="stable")
    return [Found(int(label), classes[label], float(weights[label] / weights.sum())) for label in order]
