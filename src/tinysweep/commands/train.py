"""The command `tinysweep`: one run, composed by Hydra, or a sweep of them."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from tinysweep.commands.cli import command
from tinysweep.errors import ConfigError
from tinysweep.settings.command_line import line
from tinysweep.settings.schema import Config
from tinysweep.terminal import outlasting_readers


def train(config: Config) -> float | None:
    """Train in the folder that Hydra chose; the validation accuracy is for whatever sweeper asked."""
    composed = HydraConfig.get()
    folder, overrides = Path(composed.runtime.output_dir), list(composed.overrides.task)
    if config.resume is not None and composed.mode == RunMode.RUN:
        if others := [word for word in (*overrides, *composed.overrides.hydra) if not _is_of_resume(word)]:
            raise ConfigError(
                f"{others[0]}: resume takes every setting from the run's own record; give resume=FOLDER alone"
            )
        from tinysweep.run.run import go_on  # noqa: PLC0415

        with outlasting_readers():
            record = go_on(Path(composed.runtime.cwd) / config.resume)
    elif config.trial is None:
        if composed.mode == RunMode.RUN and (study := composed.runtime.choices.get("sweeps")):
            meant = line(["tinysweep", "-m", *sys.argv[1:]])
            raise ConfigError(f"sweeps={study} is a study, which needs -m: {meant}")
        _require_free(folder, list(composed.overrides.hydra))
        from tinysweep.run.run import run  # noqa: PLC0415 torch is imported only once the settings are known to be good

        with outlasting_readers():
            record = run(config, folder, overrides)
    else:
        if composed.mode == RunMode.RUN:
            raise ConfigError(f"trial={config.trial} is set by a sweep itself; leave it out")
        from tinysweep.search.workers.trial import run_trial  # noqa: PLC0415

        record = run_trial(config, composed.sweeper, Path(composed.sweep.dir), folder, overrides)
    return record.metrics["validation_accuracy"]


def _require_free(folder: Path, overrides: list[str]) -> None:
    """Refuse a folder that was asked for and holds a run: the next free name, which a run that is begun in the
    second of another takes, would lie beside what was asked for."""
    if (folder / "config.yaml").exists() and any(word.startswith("hydra.run.dir=") for word in overrides):
        raise ConfigError(
            f"hydra.run.dir: {folder} holds a run already; give another folder, or move the run away"
        )


def _is_of_resume(word: str) -> bool:
    return word.startswith(("resume=", "hydra.mode="))  # the latter is Hydra's own


def main() -> None:
    """Entry point of the console script."""
    command(train)


if __name__ == "__main__":
    main()
