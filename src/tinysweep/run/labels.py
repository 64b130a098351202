"""Label names: what each label of a data set, or each logit of a model, is called."""

import json
from dataclasses import asdict, dataclass

from tinysweep.errors import ConfigError, DataError
from tinysweep.settings.schema import DataConfig, DataName


@dataclass(frozen=True)
class LabelNames:
    """What each logit of a model stands for, and what it was trained on: the data set, and images of (channels,
    size, size)."""

    data: DataName
    channels: int
    size: int
    classes: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "LabelNames":
        """What `to_json` wrote; a ValueError, KeyError or TypeError if it didn't."""
        content = json.loads(text)
        names = tuple(str(name) for name in content["classes"])
        return cls(DataName(content["data"]), int(content["channels"]), int(content["size"]), names)


def class_names_if_there(config: DataConfig, classes: int) -> tuple[str, ...]:
    """The names of so many classes, or their numbers where data of the user's own is gone or has others by now."""
    from tinysweep.data.load import class_names  # noqa: PLC0415 what runs an exported model needs no torch

    try:
        names = class_names(config)
    except (ConfigError, DataError):
        names = ()
    return names if len(names) == classes else tuple(map(str, range(classes)))
