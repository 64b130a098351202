"""A trained model on disk: its weights and what is needed to build it again."""

import dataclasses
import io
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

from tinysweep.config import ModelConfig
from tinysweep.errors import DataError
from tinysweep.files import write_whole
from tinysweep.model import DataShape, build_model
from tinysweep.training import Normalise, Result


def save(path: Path, result: Result, config: ModelConfig, shape: DataShape) -> None:
    """Write weights, model configuration and data shape as one file."""
    content = {
        "model": OmegaConf.to_yaml(OmegaConf.structured(config)),
        "shape": dataclasses.asdict(shape),
        "weights": {name: tensor.cpu().contiguous() for name, tensor in result.model.state_dict().items()},
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    write_whole(path, stream.getvalue())


def load(path: str | Path) -> nn.Module:
    """The trained model of a run, given its folder or its model.pt: raw pixels (B, C, H, W) of 0 to 255, of the
    size it was trained on, -> logits (B, classes). In evaluation mode, in float32, on the CPU.

    Raises:
        DataError: there is no such file, or it is not a model that tinysweep saved.
    """
    file = Path(path)
    file = file / "model.pt" if file.is_dir() else file
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        composed = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.create(content["model"]))
        config, shape = OmegaConf.to_object(composed), DataShape(**content["shape"])
        assert isinstance(config, ModelConfig)
        blank = (0.0,) * shape.channels
        with torch.random.fork_rng():  # the initial weights are drawn and overwritten
            model = nn.Sequential(Normalise(blank, blank), build_model(config, shape))
        model.load_state_dict(content["weights"])
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; give the folder of a finished run or its model.pt") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]  # torch's messages run over many lines
        raise DataError(f"{file} is not a model saved by tinysweep ({reason})") from error
    return model.eval()
