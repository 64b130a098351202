"""The command `tinysweep`: one run, composed by Hydra. `python -m tinysweep.train` is the same."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from tinysweep.cli import command
from tinysweep.config import Config


def train(config: Config) -> None:
    """Train in the folder that Hydra chose."""
    from tinysweep.run import run  # noqa: PLC0415 torch is imported only once the settings are known to be good

    composed = HydraConfig.get()
    run(config, Path(composed.runtime.output_dir), list(composed.overrides.task))


def main() -> None:
    """Entry point of the console script."""
    command(train)


if __name__ == "__main__":
    main()
