"""The command `tinysweep-inspect`: the layer table of a model, for people who learn by counting."""

import argparse
from typing import TYPE_CHECKING

from tinysweep.commands.cli import command
from tinysweep.console import fitting_table, wrap
from tinysweep.errors import ConfigError
from tinysweep.settings.schema import Config

if TYPE_CHECKING:
    import pandas as pd

    from tinysweep.data.catalogue import DataShape
    from tinysweep.network.budget import Cost


EXAMPLES = """examples:
  tinysweep-inspect                              the model that tinysweep trains
  tinysweep-inspect model=era_seed               another of the groups' choices; tinysweep --help lists them
  tinysweep-inspect model.width=12 model.hidden=16
  tinysweep-inspect budget.params=5000           model.width=auto, the default, follows the budget

The exit status is 1 if the model is over its budget."""


def build_parser() -> argparse.ArgumentParser:
    """For its help alone: the overrides are Hydra's to read."""
    parser = argparse.ArgumentParser(
        "tinysweep-inspect",
        description="Show the layers of a model with output shapes, parameters, multiply-accumulates\n(MACs) and "
        "live activation bytes, and whether it is within its budget; train nothing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="GROUP=CHOICE or KEY=VALUE", help="as for tinysweep, without -m"
    )
    parser.add_argument("--cfg", metavar="job", help="print every setting with its value instead")
    parser.add_argument("--version", action="store_true", help="tell tinysweep's version and exit")
    return parser


def show(config: Config) -> None:
    """Print the layers with output shapes, parameters, MACs and live activation bytes; train nothing."""
    from tinysweep.network import budget  # noqa: PLC0415 torch is imported only once the settings are known to be good

    config, shape, cost = _measured(config)
    size = f"{shape.channels}x{shape.size}x{shape.size}"
    kind = f"{config.model.kind} model of width {config.model.width}"
    print(wrap(f"{kind} for {size} images, {shape.classes} classes"))
    print(layer_table(cost))
    if cost.frozen or config.model.target:
        print(f"not counted: {cost.frozen:,} frozen parameters, {cost.buffers:,} values in buffers")
    excess = budget.excesses(cost, config.budget)
    within = f"within budget (trainable parameters must be fewer than {config.budget.params:,})"
    print(wrap("over budget: " + "; ".join(excess) if excess else within))
    if excess:
        raise SystemExit(1)


def inspect(config: Config) -> "pd.DataFrame":
    """The layers with output shapes, parameters, MACs and live activation bytes, as `tinysweep-inspect` prints
    them, within the budget or not; the row "total" has their sums, and the peak of the bytes."""
    import pandas as pd  # noqa: PLC0415 few need it

    header, *rows = layer_rows(_measured(config)[2])
    return pd.DataFrame(rows, columns=list(header)).set_index("layer")


def _measured(config: Config) -> "tuple[Config, DataShape, Cost]":
    """A configuration with its width, the shape of its data, and what its model costs."""
    from tinysweep.data.load import describe  # noqa: PLC0415
    from tinysweep.network import budget  # noqa: PLC0415

    if config.resume is not None:
        raise ConfigError("resume=FOLDER goes on with a run: tinysweep resume=FOLDER; here it has no meaning")
    shape = describe(config.data)
    config = budget.resolve(config, shape)
    return config, shape, budget.measure(config.model, shape, config.dropout)


def layer_rows(cost: "Cost") -> list[tuple[str | int, ...]]:
    """A header, the layers and the totals."""
    return [
        ("layer", "kind", "output", "params", "MACs", "live bytes"),
        *(
            (each.name, each.kind, "x".join(map(str, each.output)), each.params, each.macs, each.activation_bytes)
            for each in cost.layers
        ),
        ("total", "", "", cost.params, cost.macs, cost.activation_bytes),
    ]


def layer_table(cost: "Cost") -> str:
    """The layers as a text table with totals."""
    rows = [tuple(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) for row in layer_rows(cost)]
    rows[-1] = (*rows[-1][:-1], f"{rows[-1][-1]} peak")
    return fitting_table(rows, "lllrrr", "a wider terminal has it", least=4, rules=(0, len(rows) - 2))


def main() -> None:
    """Entry point of the console script."""
    command(show, sweeps=False, usage=build_parser().format_help())


if __name__ == "__main__":
    main()
