"""A network of one's own: made by what model.target names, and held to what every network gives."""

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from tinysweep.data.catalogue import DataShape
from tinysweep.errors import ConfigError
from tinysweep.settings.schema import ModelConfig
from tinysweep.settings.section import AUTO
from tinysweep.targets import Target, article, failed


class Custom(nn.Module):
    """A network that gets images in the usual layout of memory, so that `view` works as it does elsewhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous())  # type: ignore[no-any-return]


def target_of(config: ModelConfig) -> Target:
    """What makes the network."""
    return Target("model.target", config.target or "")


def build_custom(config: ModelConfig, shape: DataShape) -> Custom:
    """What `model.target` makes of the width, the data's shape and `model.options`. Of the first two it gets those
    that it has an argument of that name for.

    Raises:
        ConfigError: it can't be imported or called so, fails, returns no module, or its source isn't that of
            `model.digest`.
    """
    target = target_of(config)
    if config.digest is not None and config.digest != (found := target.digest()):
        raise ConfigError(
            f"model.digest={config.digest}: the source of {target.shown} has changed since, to {found}; "
            "go back to that version, or begin anew"
        )
    if not target.takes("width") and config.width not in (1, AUTO):
        raise ConfigError(f"model.width={config.width}: {target.shown} has no argument width")
    network = target.call({"width": config.width, "shape": shape}, config.options)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{target.shown} returns {article(network)}; it must return a torch.nn.Module")
    if any(isinstance(weight, UninitializedParameter) for weight in network.parameters()):
        raise ConfigError(f"{target.shown} has lazy layers, whose size isn't known when they are made; give sizes")
    return Custom(network)


def run_forward(network: nn.Module, images: Tensor, classes: int, name: str) -> None:
    """Pass images (B, C, H, W) through a network, called `name`, which must give logits (B, classes).

    Raises:
        ConfigError: it fails, or gives something else.
    """
    try:
        logits = network(images)
    except Exception as error:
        raise ConfigError(f"{name}: on images {tuple(images.shape)} it {failed(error)}") from error
    wanted = (len(images), classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else article(logits)
        raise ConfigError(f"{name} gives {given} for {len(images)} images; it must be logits of shape {wanted}")
