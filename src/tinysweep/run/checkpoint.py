"""model.pt: a trained model, what it was trained on, and, until its run is complete, what that goes on from."""

import dataclasses
import io
import json
import time
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError, DataError, first_line
from tinysweep.files import write_whole
from tinysweep.network.build import build_model
from tinysweep.network.custom import target_of
from tinysweep.run.labels import class_names_if_there
from tinysweep.run.record import RunFolder
from tinysweep.settings.schema import Config, DataConfig, DropoutConfig, ModelConfig
from tinysweep.settings.section import Section
from tinysweep.settings.stored import read_config, sections
from tinysweep.training.loop import Epoch, Normalise, TrainingState

LARGEST_SHARE = 0.01  # of the time of training that may be spent on writing

Checked = TypeVar("Checked", bound=Section)


@dataclass(frozen=True)
class SavedModel:
    """A model as `load` gives it, the file it came from, and what is known of the data it was trained on;
    `classes` are the names that those had then."""

    file: Path
    model: nn.Module
    shape: DataShape
    data: DataConfig | None
    classes: tuple[str, ...] | None


def save(path: Path, weights: dict[str, Tensor], config: Config, shape: DataShape, **more: Any) -> None:
    """Write as one file weights, the model's configuration, the shape of its data, where that came from and the
    names of its classes; and whatever else is given."""
    parts = {"model": config.model, "dropout": config.dropout, "data": config.data}
    content = {
        **{name: OmegaConf.to_yaml(OmegaConf.structured(part)) for name, part in parts.items()},
        "shape": dataclasses.asdict(shape),
        "classes": list(class_names_if_there(config.data, shape.classes)),
        "weights": {name: tensor.cpu().contiguous() for name, tensor in weights.items()},
        **more,
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    write_whole(path, stream.getvalue())


def load(path: str | Path) -> nn.Module:
    """The trained model of a run, given its folder or its model.pt: raw pixels (B, C, H, W) of 0 to 255, of the
    size it was trained on, -> logits (B, classes). In evaluation mode, in float32, on the CPU. Of a network of
    one's own, the function that the file names is imported and called: know where such a file is from.

    Raises:
        DataError: there is no such file, or it is not a model that tinysweep saved, or the source of its network
            isn't there.
    """
    file = _model_file(path)
    return _rebuild(file, _read_content(file))[0]


def read_model(path: str | Path) -> SavedModel:
    """As `load`, with what is known of the data: from the file itself or, as files once held no such thing, from
    the record or configuration beside it.

    Raises:
        DataError: as `load`, or the record is damaged.
    """
    file = _model_file(path)
    content = _read_content(file)
    model, shape = _rebuild(file, content)
    try:
        data = _section(DataConfig, OmegaConf.create(content["data"])) if "data" in content else _data_beside(file)
        classes = tuple(map(str, content["classes"])) if "classes" in content else None
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"{file}: what it was trained on can't be read, in it or beside it ({reason})") from error
    return SavedModel(file, model, shape, data, classes)


class Checkpoint:
    """Keeps the training of the last finished epoch and writes it to model.pt, beside the model; where epochs are
    short, not after each of them, but so seldom that it takes no more than a hundredth of the time."""

    def __init__(self, folder: RunFolder, config: Config, shape: DataShape) -> None:
        self.folder, self.config, self.shape = folder, config, shape
        self.state: TrainingState | None = None
        self.is_written = True
        self.last_written, self.cost = time.perf_counter(), 0.0  # seconds

    def keep(self, state: TrainingState) -> None:
        """Keep a state instead of the one before."""
        self.state, self.is_written = state, False
        if time.perf_counter() - self.last_written >= self.cost / LARGEST_SHARE:
            self.write()

    def write(self) -> None:
        """Write the state that is kept, unless it has been written."""
        if self.state is None or self.is_written:
            return
        began = time.perf_counter()
        training = {"config": json.dumps(dataclasses.asdict(self.config)), "state": self.state}
        weights = self.state["average"] or self.state["model"]
        save(self.folder.model, weights, self.config, self.shape, training=training)
        self.is_written, self.last_written = True, time.perf_counter()
        self.cost = self.last_written - began

    @property
    def history(self) -> list[Epoch]:
        """The epochs that the state comes after."""
        return [Epoch(**epoch) for epoch in self.state["history"]] if self.state else []


def read_state(folder: RunFolder, config: Config) -> TrainingState:
    """The state of training that a run has kept.

    Raises:
        ConfigError: it was trained with another configuration.
        DataError: there is none, or it is damaged.
    """
    content = _read_content(folder.model)
    if "training" not in content:
        raise DataError(f"{folder.model} holds a model, but nothing to go on from; begin the run anew")
    try:
        state: TrainingState = {**content["training"]["state"]}
        trained = read_config(json.loads(content["training"]["config"]))
    except (KeyError, TypeError, ValueError, ConfigError, OmegaConfBaseException) as error:
        raise DataError(f"{folder.model} is damaged ({type(error).__name__}: {first_line(error)})") from error
    if trained != config:
        raise ConfigError(f"{folder.record} doesn't hold the configuration that {folder.model} was trained with")
    return state


def _model_file(path: str | Path) -> Path:
    file = Path(path)
    return file / "model.pt" if file.is_dir() else file


def _read_content(file: Path) -> dict[str, Any]:
    """All that a file of `save` holds, on the CPU."""
    try:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():  # torch reads numbers from a damaged file without a word
                raise ValueError(f"{damaged} is damaged")
        content = torch.load(file, map_location="cpu", weights_only=True)
        return {**content}
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; give the folder of a finished run or its model.pt") from error
    except Exception as error:
        raise _refusal(file, error) from error


def _rebuild(file: Path, content: dict[str, Any]) -> tuple[nn.Module, DataShape]:
    config = ModelConfig()
    try:
        held = sections({key: OmegaConf.create(content[key]) for key in ("model", "dropout") if key in content})
        config, dropout = _section(ModelConfig, held["model"]), _section(DropoutConfig, held.get("dropout", {}))
        shape = DataShape(**content["shape"])
        blank = (0.0,) * shape.channels
        with torch.random.fork_rng():  # the initial weights are drawn and overwritten
            model = nn.Sequential(Normalise(blank, blank), _build_again(file, config, shape, dropout))
        _take_weights(model, content["weights"], config)
    except ConfigError as error:
        if config.target is None:
            raise _refusal(file, error) from error
        raise DataError(f"{file} needs the source of its network: {error}") from error
    except Exception as error:
        raise _refusal(file, error) from error
    return model.eval(), shape


def _take_weights(model: nn.Module, weights: dict[str, Tensor], config: ModelConfig) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        if config.target is None:
            raise
        detail = " ".join(str(error).split("\n\t")[1:2])
        raise ConfigError(
            f"the weights don't fit what model.target={config.target} makes now ({detail})"
        ) from error


def _build_again(file: Path, config: ModelConfig, shape: DataShape, dropout: DropoutConfig) -> nn.Module:
    """The network of a file; one of the user's own as its source makes it now."""
    if config.digest is not None and config.digest != target_of(config).digest():
        warnings.warn(f"{file}: the source of {config.target} has changed since it was trained", stacklevel=2)
    return build_model(dataclasses.replace(config, digest=None), shape, dropout)


def _refusal(file: Path, error: Exception) -> DataError:
    """In one sentence; torch's messages run over many, and may advise to trust the file."""
    reason = f"{type(error).__name__}: {first_line(error)}".partition(". ")[0]
    return DataError(f"{file} is not a model saved by tinysweep ({reason})")


def _section(schema: type[Checked], held: Any) -> Checked:
    """A section of a configuration from its values, checked by its own rules."""
    section = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), held))
    assert isinstance(section, schema)
    return section


def _data_beside(file: Path) -> DataConfig | None:
    """The data section of the run in whose folder a model lies."""
    for name, key in (("record.json", "config.data"), ("config.yaml", "data")):
        if (file.parent / name).is_file():
            found = OmegaConf.select(OmegaConf.load(file.parent / name), key)
            return _section(DataConfig, found) if found else None
    return None
