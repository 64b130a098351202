"""An exported model as ONNX Runtime runs it; without torch, which takes seconds to import."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinysweep.errors import ConfigError, DataError, first_line
from tinysweep.run.labels import LabelNames

METADATA = "tinysweep"  # the key under which an exported file tells its label names
ERRORS_ONLY = 3  # of ONNX Runtime's levels of severity


def require_packages(what: str, *packages: str) -> None:
    """Refuse to go on without packages of the extra `onnx`.

    Raises:
        ConfigError: one isn't installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ConfigError(f"{what} needs the package {package}; pip install 'tinysweep[onnx]'")


class OnnxModel:
    """A file that tinysweep-export wrote, on the CPU with so many threads, or a thread a core for 0."""

    def __init__(self, content: bytes, file: Path, threads: int = 0) -> None:
        """
        Raises:
            ConfigError: ONNX Runtime isn't installed.
            DataError: the content is no ONNX model, or was not exported by tinysweep.
        """
        require_packages("an .onnx file", "onnxruntime")
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
