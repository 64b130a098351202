"""A trained model from any of the files that it is kept in, ready to name classes. An exported one runs without
torch, which takes seconds to import."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysweep.errors import ConfigError, DataError, first_line, require_package
from tinysweep.run.labels import LabelNames, class_names_if_there
from tinysweep.settings.schema import DataConfig, DataName

METADATA = "tinysweep"  # the key under which an exported file tells the names of its labels
ERRORS_ONLY = 3  # of ONNX Runtime's levels of severity

Model = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # raw pixels (B, C, H, W) -> logits (B, classes)


@dataclass(frozen=True)
class Prediction:
    """A class, and the probability in [0, 1] that a model gives it."""

    label: int
    name: str
    probability: float


def rank_classes(logits: NDArray[np.float32], classes: tuple[str, ...]) -> list[Prediction]:
    """Every class with the probability that the softmax of its logits (classes,) gives it, the likeliest first."""
    weights = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-logits, kind="stable")
    return [Prediction(int(label), classes[label], float(weights[label] / weights.sum())) for label in order]


def open_model(path: Path, data: str | None) -> tuple[LabelNames, Model]:
    """What a model tells apart, and the model; `data` is what it was trained on, where no file says so."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file; give the folder of a finished run, its model.pt or an exported .onnx file"
        )
    exported = path.suffix.lower() == ".onnx" and path.is_file()
    labels, model = _open_exported(path) if exported else _open_saved(path, data)
    if data not in (None, labels.data):
        raise ConfigError(f"--data {data}: {path} was trained on {labels.data}; leave --data out")
    return labels, model


def _open_exported(path: Path) -> tuple[LabelNames, Model]:
    try:
        model = OnnxModel(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    return model.labels, model.logits


def _open_saved(path: Path, data: str | None) -> tuple[LabelNames, Model]:
    import torch  # noqa: PLC0415 not needed by ONNX Runtime

    from tinysweep.run.checkpoint import read_model  # noqa: PLC0415

    saved = read_model(path)
    config = saved.data or (DataConfig(DataName(data)) if data else None)
    if config is None:
        raise ConfigError(
            f"{saved.file} doesn't say what it was trained on, and there is no record beside it; "
            f"give --data NAME ({', '.join(DataName)})"
        )
    shape, classes = saved.shape, saved.classes or class_names_if_there(config, saved.shape.classes)

    def model(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return saved.model(torch.tensor(pixels).float()).numpy()  # type: ignore[no-any-return]

    return LabelNames(config.name, shape.channels, shape.size, classes), model


class OnnxModel:
    """A file that tinysweep-export wrote, on the CPU with so many threads, or a thread a core for 0."""

    def __init__(self, content: bytes, file: Path, threads: int = 0) -> None:
        require_package("an .onnx file", "onnxruntime", "onnx")
        import onnxruntime  # noqa: PLC0415 an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors have no common base
            raise DataError(f"{file} is not an ONNX model that runs here ({first_line(error)})") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.labels = LabelNames.from_json(metadata[METADATA])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{file} doesn't say what images it takes; give a file that tinysweep-export wrote"
            ) from error
        self._input = self._session.get_inputs()[0].name

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw pixels (B, C, H, W) -> logits (B, classes)."""
        (logits,) = self._session.run(None, {self._input: pixels})
        return np.asarray(logits, dtype=np.float32)
