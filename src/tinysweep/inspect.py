"""The command `tinysweep-inspect`: the layer table of a model, for people who learn by counting."""

from tinysweep.cli import command
from tinysweep.config import Config


def inspect(config: Config) -> None:
    """Print the layers with output shapes, parameters, MACs and live activation bytes; train nothing."""
    from tinysweep import budget  # noqa: PLC0415 torch is imported only once the settings are known to be good
    from tinysweep.data import describe  # noqa: PLC0415

    shape = describe(config.data)
    config = budget.resolve(config, shape)
    cost = budget.measure(config.model, shape)
    size = f"{shape.channels}x{shape.size}x{shape.size}"
    print(f"{config.model.family} model of width {config.model.width} for {size} images, {shape.classes} classes")
    print(budget.table(cost))
    excess = budget.excesses(cost, config.budget)
    verdict = "over budget: " + "; ".join(excess) if excess else "within budget"
    print(f"{verdict} (trainable parameters must be fewer than {config.budget.params:,})")


def main() -> None:
    """Entry point of the console script."""
    command(inspect)


if __name__ == "__main__":
    main()
