"""The typed schema of a run: each setting, its meaning and the rule its value must obey, in one place.

Hydra composes YAML and overrides against these classes; `from_dictconfig` turns the result into plain
dataclasses once, and everything past that point is typed Python. A `Config` made or changed in Python is held to
the same rules: those of a value when it is set, those between values when a section is built and by `fit`.
"""

import copy
import dataclasses
import difflib
import math
import os
import re
from dataclasses import Field, dataclass, field
from enum import EnumType, StrEnum
from numbers import Number
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import ConfigError
from tinysweep.metrics import METRICS
from tinysweep.targets import is_target

AUTO = "auto"
DEFAULT_ROOT = os.environ.get("TINYSWEEP_DATA") or "~/.cache/tinysweep"  # a variable that is empty counts as unset


class DataName(StrEnum):
    mnist = "mnist"
    fashion_mnist = "fashion_mnist"
    kmnist = "kmnist"
    image_folder = "image_folder"
    npz = "npz"
    csv = "csv"
    idx = "idx"
    custom = "custom"


_OWN_IMAGES = (DataName.image_folder, DataName.npz, DataName.csv, DataName.idx, DataName.custom)


class Family(StrEnum):
    plain = "plain"
    residual = "residual"
    separable = "separable"
    custom = "custom"


class GrowthBy(StrEnum):
    stage = "stage"
    conv = "conv"


class Head(StrEnum):
    linear = "linear"
    gap = "gap"
    spatial = "spatial"


class Activation(StrEnum):
    relu = "relu"
    silu = "silu"


class DropoutName(StrEnum):
    none = "none"
    head = "head"
    stage = "stage"
    block = "block"


class Interpolation(StrEnum):
    bilinear = "bilinear"
    nearest = "nearest"


class OptimizerName(StrEnum):
    sgd = "sgd"
    adamw = "adamw"


class SchedulerName(StrEnum):
    constant = "constant"
    step = "step"
    cosine = "cosine"
    linear = "linear"
    onecycle = "onecycle"


class ClassWeights(StrEnum):
    none = "none"
    balanced = "balanced"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class TrackerName(StrEnum):
    none = "none"
    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"


_OF_BLOCKS = tuple(family for family in Family if family != Family.custom)


def setting(
    default: Any, meaning: str, within: str | None = None, only: tuple[str, ...] = (), *, added: bool = False
) -> Any:
    """A field with its meaning, the interval its value (or each of its values) must lie in, such as
    "[0, 1)", and, where not every choice of the section reads it, the ones that do. `added`: there are
    studies and records without it, which are as if it had its default."""
    metadata = {"meaning": meaning, "within": within, "only": only, "added": added}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def block_setting(default: Any, meaning: str, within: str | None = None, *, added: bool = False) -> Any:
    """A setting of networks that are built of blocks, which one's own network doesn't read."""
    return setting(default, meaning, within, _OF_BLOCKS, added=added)


def default_of(spec: Field[Any]) -> Any:
    """The default of a setting."""
    return spec.default_factory() if callable(spec.default_factory) else spec.default


def lies_within(value: float, interval: str) -> bool:
    """Whether a number lies in an interval in the usual notation, square brackets including the end."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return math.isfinite(value) and above and below


def is_folder_name(text: str) -> bool:
    """Whether a text can name a folder on every system."""
    return text != "" and text[0] != "." and text.isprintable() and not set(text) & set("/\\:")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def type_in_words(annotation: Any) -> str:
    """A type in words: "a whole number or null"."""
    if get_origin(annotation) is UnionType:
        parts = get_args(annotation)
        # The one text that a number may be replaced by.
        special = {NoneType: "null"} | ({str: AUTO} if int in parts else {})
        return " or ".join(special.get(part) or type_in_words(part) for part in parts)
    if get_origin(annotation) is dict:
        return "settings by name, such as {NAME: VALUE}"
    if get_origin(annotation) is list:
        return f"a list such as [1,2,1], each {type_in_words(get_args(annotation)[0])}"
    if isinstance(annotation, EnumType):
        return "one of " + ", ".join(annotation.__members__)
    return _KINDS.get(annotation, "a section with keys of its own")


def conforms(value: Any, annotation: Any) -> bool:
    """Whether a value has a setting's type; every whole number is a number, and no truth value is one."""
    if type(value) is annotation:
        return True
    if get_origin(annotation) is UnionType:
        return any(conforms(value, part) for part in get_args(annotation))
    if get_origin(annotation) is list:
        return isinstance(value, list) and all(conforms(part, get_args(annotation)[0]) for part in value)
    if get_origin(annotation) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if annotation is Any:
        return True
    accepted = (int, float) if annotation is float else annotation
    return isinstance(value, accepted) and (annotation is bool or not isinstance(value, bool))


@dataclass
class Section:
    """What the sections of a configuration share: they hold their own settings only, and check their rules."""

    KEY = ""
    CHOICE = "name"  # the setting that holds which choice of the group it is

    def __setattr__(self, key: str, value: Any) -> None:
        """Set a value. Text that names a choice becomes that choice, NumPy's numbers become Python's."""
        known = self.__dataclass_fields__
        spec = known.get(key)
        if spec is None:
            near = difflib.get_close_matches(key, known, n=1)
            advice = f"did you mean {self._dotted_key(near[0])}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{self._dotted_key(key)} is not a setting; {advice}")
        if isinstance(spec.type, type) and issubclass(spec.type, StrEnum) and value in list(spec.type):
            value = spec.type(value)
        elif isinstance(value, Number) and hasattr(value, "item"):
            value = value.item()
        self._check_value(spec, value)
        super().__setattr__(key, value)

    def __post_init__(self) -> None:
        """Check the rules between settings."""
        for spec in self.__dataclass_fields__.values():
            only = spec.metadata.get("only")
            if only and getattr(self, spec.name) != default_of(spec) and self.choice not in only:
                chosen = f"{self.KEY}={self.choice}"
                rule = (
                    f"is read only by {self.KEY}={' or '.join(only)}, not by {chosen}, which reads {self._read()}"
                )
                self.refuse(spec.name, f"{rule}; leave it out or, if you didn't set it, choose the group {chosen}")

    def _read(self) -> str:
        """The settings that the choice reads, besides the one that says which it is."""
        specs = [spec for spec in self.__dataclass_fields__.values() if spec.name != self.CHOICE]
        named = [spec.name for spec in specs if self.choice in (spec.metadata.get("only") or (self.choice,))]
        return f"{self.KEY}.{', '.join(named)}" if named else "none"

    def check(self) -> None:
        """Check all rules again, for settings that were changed since the section was built."""
        for spec in self.__dataclass_fields__.values():
            value = getattr(self, spec.name)
            self._check_value(spec, value)  # a list may have been changed in place
            if isinstance(value, Section):
                value.check()
        self.__post_init__()

    @property
    def choice(self) -> str:
        """The group choice that this section stands for; those without choices have none."""
        return str(getattr(self, self.CHOICE, ""))

    def refuse(self, key: str, rule: str) -> None:
        """Raise the ConfigError that names key, value, rule and meaning."""
        raise ConfigError(self._refusal(self.__dataclass_fields__[key], getattr(self, key), rule))

    def _dotted_key(self, key: str) -> str:
        return f"{self.KEY}.{key}" if self.KEY else key

    def _refusal(self, spec: Field[Any], value: Any, rule: str) -> str:
        shown = str(value).lower() if isinstance(value, bool) else "null" if value is None else value
        meaning = spec.metadata.get("meaning")
        return f"{self._dotted_key(spec.name)}={shown} {rule}" + (f" ({meaning})" if meaning else "")

    def _check_value(self, spec: Field[Any], value: Any) -> None:
        """Check the rule of one setting: its type and the interval it must lie in."""
        if not conforms(value, spec.type):
            raise ConfigError(self._refusal(spec, value, f"must be {type_in_words(spec.type)}"))
        if not (interval := spec.metadata.get("within")):
            return
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, str) and number != AUTO:
                words = "must be a number" + (" or auto" if spec.name == "width" else "")
                raise ConfigError(self._refusal(spec, value, words))
            if isinstance(number, int | float) and not lies_within(number, interval):
                raise ConfigError(self._refusal(spec, value, f"must lie in {interval}"))


@dataclass
class DataConfig(Section):
    KEY = "data"
    name: DataName = setting(DataName.mnist, "which data set")
    root: str = setting(DEFAULT_ROOT, "folder that holds the data; fetched into it if missing")
    validation: float = setting(
        5000,
        "images held out for validation: a count, a fraction below 1, or 0 for none; or a folder's own val/",
        "[0, 1e9]",
    )
    split_seed: int = setting(0, "which validation split; kept apart from trainer.seed", "[0, 4294967295]")
    fold: int = setting(
        0, "which of the folds of that split is held out; no two share an image", "[0, 1e9]", added=True
    )
    limit: int | None = setting(None, "train on this many images only, drawn by split_seed", "[1, 1e9]")
    download: bool = setting(True, "fetch missing files; false refuses instead")
    image_size: int = setting(
        28, "pixels a side that images are resized to", "[1, 1024]", only=(DataName.image_folder,)
    )
    colour: bool = setting(False, "three channels instead of grey", only=(DataName.image_folder,))
    test_fraction: float = setting(0.2, "part held out as test set if there is none", "(0, 1)", only=_OWN_IMAGES)
    digest: str | None = setting(
        None, "what images must be there; a run and a sweep note it", only=_OWN_IMAGES, added=True
    )
    target: str | None = setting(
        None,
        "MODULE:NAME of a function of your own that loads the images",
        only=(DataName.custom,),
        added=True,
    )
    options: dict[str, Any] = setting(
        {}, "arguments of the target, each of any name", only=(DataName.custom,), added=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.root:
            self.refuse("root", "must name a folder or, for npz and csv, a file")
        if self.name == DataName.custom and not is_target(self.target):
            self.refuse("target", "must be MODULE:NAME, such as mydata:load for the function load of mydata.py")
        if self.validation >= 1 and self.validation != int(self.validation):
            self.refuse("validation", "must be a whole number of images or a fraction below 1")


@dataclass
class ModelConfig(Section):
    KEY = "model"
    CHOICE = "family"
    family: Family = setting(Family.residual, "kind of block, or custom, a network of your own")
    width: int | str = setting(
        AUTO, "channels of the first stage; auto is the widest within the budget", "[1, 100000]"
    )
    depth: list[int] = block_setting([1, 2, 1], "blocks in each stage; stages are split by pooling", "[1, 100]")
    growth: float = block_setting(1.5, "factor on the channels", "[0.1, 10]")
    stem_fraction: float = block_setting(
        1.0, "channels of the first convolution, a fraction of model.width", "(0, 1]", added=True
    )
    bottleneck: float = block_setting(
        0.0,
        "part of its channels that a 1x1 convolution at the end of each stage but the last keeps; 0: none",
        "[0, 1]",
        added=True,
    )
    growth_by: GrowthBy = block_setting(GrowthBy.stage, "whether channels grow with each stage or each block")
    channel_multiple: int = block_setting(
        1, "channels are rounded to a multiple of this, at least one", "[1, 1000]"
    )
    deskew: bool = setting(False, "shear each image upright, by its moments, before all else", added=True)
    crop: int = block_setting(0, "pixels cut off each side of the image before the first convolution", "[0, 500]")
    stem_kernel: int = block_setting(5, "kernel size of the first convolution", "[1, 15]")
    stem_padding: bool = block_setting(False, "pad the first convolution so that it keeps the image size")
    kernel: int = block_setting(3, "kernel size of the other convolutions", "[1, 15]")
    padding: bool = block_setting(True, "pad the other convolutions so that they keep the image size")
    pool_before_norm: bool = block_setting(
        False, "pool right after a stage's last convolution, unless a shortcut ends there: norms see fewer pixels"
    )
    bias: bool = block_setting(False, "biases in convolutions, which batch norm makes redundant")
    activation: Activation = block_setting(Activation.relu, "nonlinearity after each norm and in the head")
    head: Head = block_setting(Head.spatial, "how features become classes")
    hidden: int = block_setting(0, "units of a hidden linear layer in the head; 0 leaves it out", "[0, 100000]")
    target: str | None = setting(
        None,
        "MODULE:NAME of a function or class of your own that makes the network",
        only=(Family.custom,),
        added=True,
    )
    options: dict[str, Any] = setting(
        {}, "arguments of the target, each of any name", only=(Family.custom,), added=True
    )
    digest: str | None = setting(
        None, "what the source of the target must be; a run and a sweep note it", only=(Family.custom,), added=True
    )
    views: int = setting(
        1,
        "shifted views of an image that a prediction is the mean of: 1, 5 or 9; training has one",
        "[1, 9]",
        added=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.family == Family.custom and not is_target(self.target):
            self.refuse("target", "must be MODULE:NAME, such as mynets:make for the function make of mynets.py")
        if not self.depth:
            self.refuse("depth", "must name at least one stage, such as [1,2,1]")
        if self.family == Family.residual and not self.padding:
            self.refuse("padding", "must be true for model.family=residual, whose blocks add their input")
        if self.views not in (1, 5, 9):
            self.refuse("views", "must be 1, 5 (a pixel along each axis, either way) or 9 (along both as well)")
        for key, padded in (("stem_kernel", self.stem_padding), ("kernel", self.padding)):
            if padded and getattr(self, key) % 2 == 0:
                self.refuse(key, "must be odd where padding keeps the image size")

    @property
    def kind(self) -> str:
        """The family, or the name of one's own network."""
        return self.target or str(self.family)


@dataclass
class DropoutConfig(Section):
    KEY = "dropout"
    name: DropoutName = setting(
        DropoutName.none, "before the last layer (head), after each stage, or after each block", added=True
    )
    rate: float = setting(
        0.1,
        "probability of dropping a feature",
        "[0, 1)",
        only=(DropoutName.head, DropoutName.stage, DropoutName.block),
        added=True,
    )


@dataclass
class AugmentationConfig(Section):
    KEY = "augmentation"
    rotation_degrees: float = setting(0.0, "largest rotation, degrees either way", "[0, 180]")
    shift_fraction: float = setting(0.0, "largest shift, fraction of the image size either way", "[0, 1]")
    scale_fraction: float = setting(0.0, "largest change of size, fraction either way", "[0, 1)")
    shear_degrees: float = setting(0.0, "largest horizontal shear, degrees either way", "[0, 60]")
    elastic_pixels: float = setting(
        0.0, "largest root mean square elastic displacement along an axis, pixels", "[0, 20]"
    )
    elastic_sigma_pixels: float = setting(4.0, "smoothness of the elastic field, pixels", "[0.5, 100]")
    flip_probability: float = setting(0.0, "probability of a left-right flip", "[0, 1]")
    interpolation: Interpolation = setting(
        Interpolation.bilinear,
        "how a moved pixel gets its value: bilinear softens strokes, nearest keeps them hard",
    )
    erase_probability: float = setting(0.0, "probability of erasing a square", "[0, 1]")
    erase_fraction: float = setting(0.1, "largest erased area, fraction of the image", "(0, 1]")


@dataclass
class OptimizerConfig(Section):
    KEY = "optimizer"
    name: OptimizerName = setting(OptimizerName.sgd, "which optimizer")
    lr: float = setting(0.1, "peak learning rate", "(0, 1000]")
    weight_decay: float = setting(1e-4, "decay of weights; biases and norms are spared", "[0, 10]")
    momentum: float = setting(0.9, "momentum (AdamW: beta1)", "[0, 1)")
    nesterov: bool = setting(False, "Nesterov momentum", only=(OptimizerName.sgd,))
    beta2: float = setting(0.999, "decay of squared gradients", "[0, 1)", only=(OptimizerName.adamw,))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            self.refuse("nesterov", "needs optimizer.momentum above 0")


_WARMS_UP = (SchedulerName.cosine, SchedulerName.linear, SchedulerName.onecycle)


@dataclass
class SchedulerConfig(Section):
    KEY = "scheduler"
    name: SchedulerName = setting(SchedulerName.cosine, "how the learning rate moves")
    warmup_fraction: float = setting(0.1, "part of all steps spent rising to the peak", "[0, 1)", only=_WARMS_UP)
    start_fraction: float = setting(0.04, "first learning rate, fraction of the peak", "[0, 1]", only=_WARMS_UP)
    end_fraction: float = setting(0.0, "last learning rate, fraction of the peak", "[0, 1]", only=_WARMS_UP)
    step_epochs: int = setting(5, "epochs between two decays", "[1, 100000]", only=(SchedulerName.step,))
    gamma: float = setting(0.5, "factor of a decay", "(0, 1]", only=(SchedulerName.step,))


@dataclass
class TrainerConfig(Section):
    KEY = "trainer"
    epochs: int = setting(14, "passes over the training images", "[1, 100000]")
    batch_size: int = setting(64, "images a step", "[2, 1000000]")
    label_smoothing: float = setting(0.0, "weight moved from the true class to all", "[0, 1)")
    class_weights: ClassWeights = setting(
        ClassWeights.none,
        "weights of classes in the training loss: balanced makes rare ones count as much as frequent ones",
        added=True,
    )
    ema_decay: float = setting(0.0, "decay a step of the averaged weights; 0 keeps no average", "[0, 1)")
    clean_epochs: int = setting(0, "last epochs without augmentation", "[0, 100000]")
    precision: Precision = setting(Precision.auto, "auto is bf16 where the hardware has it")
    threads: int = setting(0, "CPU threads; 0 uses every core", "[0, 1024]")
    device: Device = setting(Device.auto, "auto prefers cuda, then mps, then cpu")
    cuda_graphs: bool = setting(True, "on cuda, launch a step's kernels together, not one by one")
    seed: int = setting(0, "seed of weights, order, augmentation and dropout", "[0, 4294967295]")
    test: bool = setting(True, "read the test set once, after the last epoch")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clean_epochs > self.epochs:
            self.refuse("clean_epochs", f"must not exceed trainer.epochs={self.epochs}")


@dataclass
class BudgetConfig(Section):
    KEY = "budget"
    params: int = setting(20000, "trainable parameters must be fewer than this", "[1, 1e12]")
    macs: int | None = setting(None, "multiply-accumulates an image, at most", "[1, 1e15]")
    activation_bytes: int | None = setting(None, "peak int8 activation bytes, at most", "[1, 1e15]")


_TRACKS = tuple(name for name in TrackerName if name != TrackerName.none)
_TRACKING_URI = re.compile(r"https?://[^/]|sqlite:///.|(postgresql|mysql|mssql)(\+\w+)?://.|databricks(://|$)")
_USER = re.compile(r"://[^/@]*@")


@dataclass
class TrackerConfig(Section):
    """Where else a run is logged, which decides nothing that it finds."""

    KEY = "tracker"
    name: TrackerName = setting(TrackerName.none, "where else runs are logged, beside their folder", added=True)
    folder: str = setting("outputs", "folder for what lies on this machine", only=_TRACKS, added=True)
    uri: str | None = setting(
        None,
        "http(s)://HOST, sqlite:///FILE or a database; null is MLFLOW_TRACKING_URI or a file in tracker.folder",
        only=(TrackerName.mlflow,),
        added=True,
    )
    experiment: str = setting("tinysweep", "MLflow's experiment", only=(TrackerName.mlflow,), added=True)
    project: str = setting("tinysweep", "W&B's project", only=(TrackerName.wandb,), added=True)
    online: bool = setting(
        False, "send to W&B at once; false writes files for wandb sync", only=(TrackerName.wandb,), added=True
    )
    group: str | None = setting(
        None,
        "what runs are grouped under; a sweep and a final set it to their study",
        only=_TRACKS,
        added=True,
    )
    key: str | None = setting(
        None, "what tells a study from others of its name; set by a sweep", only=_TRACKS, added=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folder:
            self.refuse("folder", "must name a folder")
        if self.group is not None and not is_folder_name(self.group):
            self.refuse("group", "must be usable as a folder name: no / \\ : and no leading dot")
        if self.uri is None:
            return
        if _USER.search(self.uri) or "password=" in self.uri:
            raise ConfigError(
                "tracker.uri must hold no user and no password, as every record keeps it; leave it out and set "
                "MLFLOW_TRACKING_URI, or for a server MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if not _TRACKING_URI.match(self.uri):
            self.refuse("uri", "must be http(s)://HOST, sqlite:///FILE, or postgresql://, mysql:// or mssql://…")

    def seen_from(self, start: Path) -> "TrackerConfig":
        """The same, found from any folder: what is relative is below `start`."""
        if self.name == TrackerName.none:
            return self
        uri, file = self.uri, (self.uri or "").removeprefix("sqlite:///")
        if file != (self.uri or ""):
            uri = f"sqlite:///{start / Path(file).expanduser()}"
        return dataclasses.replace(self, folder=str(start / Path(self.folder).expanduser()), uri=uri)

    def of_study(self, study: str, key: str | None) -> "TrackerConfig":
        """The same, with what it logs grouped under a study, which `key` tells from others of its name."""
        return self if self.name == TrackerName.none else dataclasses.replace(self, group=study, key=key)


@dataclass
class Config(Section):
    """Everything that decides a run, and where it is logged."""

    name: str = "default"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    metrics: dict[str, str] = setting(
        {},
        "metrics of your own, metrics.NAME=MODULE:FUNCTION of logits (N, classes) and labels (N,); more is better",
        added=True,
    )
    trial: int | None = setting(None, "number of the trial that this run is; set by a sweep")
    resume: str | None = setting(None, "folder of a run that was cut short, to go on with; given alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.family == Family.custom and self.dropout.name != DropoutName.none:
            self.dropout.refuse("name", "must be none for model=custom, whose layers are its own")
        for name, target in self.metrics.items():
            if f"validation_{name}" in METRICS or not METRICS.find(f"validation_{name}"):
                rule = "must have a name of letters and digits, no built-in metric's and none that ends with _sd"
                raise ConfigError(f"metrics.{name}={target} {rule}, such as metrics.top3={target}")
            if not is_target(str(target)):
                rule = "must be MODULE:FUNCTION, such as mymetrics:top3 for the function top3 of mymetrics.py"
                raise ConfigError(f"metrics.{name}={target} {rule}")
        if not is_folder_name(self.name):
            raise ConfigError(f"name={self.name!r} must be usable as a folder name: no / \\ : and no leading dot")


def from_dictconfig(composed: DictConfig) -> Config:
    """The composed configuration as plain dataclasses."""
    return cast(Config, OmegaConf.to_object(composed))
