"""What a study leaves for others to use: its best as YAML, and the winner as a recipe that runs as it is."""

import dataclasses
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from tinysweep.data.load import describe, pinned
from tinysweep.files import write_whole
from tinysweep.network.budget import resolve
from tinysweep.search.compose_trial import DIGEST, INCIDENTAL, Composer
from tinysweep.search.space import unquoted
from tinysweep.search.study import Study
from tinysweep.search.table import metric, pareto_front, ranked
from tinysweep.settings.command_line import line, shown_folder
from tinysweep.settings.compose import typed
from tinysweep.settings.schema import Config, DataName

WINNER = "winner"


def write_results(study: Study, objectives: list[str]) -> FrozenTrial | None:
    """Write optimization_results.yaml and return the best trial, if any has completed."""
    trials = study.trials()
    best = next(iter(ranked(trials, objectives)), None)
    if best is None:
        return None
    content: dict[str, Any] = {"name": "optuna", "study": study.optuna.study_name}
    if len(objectives) == 1:
        content |= {
            "best_trial": best.number,
            "best_params": _params(best),
            "best_value": metric(best, objectives[0]),
        }
    else:
        content["solutions"] = [
            {
                "trial": trial.number,
                "params": _params(trial),
                "values": [metric(trial, name) for name in objectives],
            }
            for trial in pareto_front(trials, objectives)
        ]
    write_whole(study.folder / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))
    return best


def _params(trial: FrozenTrial) -> dict[str, Any]:
    return {name: unquoted(value) for name, value in trial.params.items()}


def write_winner(study: Study, best: FrozenTrial, composer: Composer, retrain: list[str]) -> str:
    """Write the best trial's configuration, changed by `retrain`, as an experiment in the study's folder, and
    return the command that runs it."""
    overrides = composer.overrides(best.params, composer.config(best.params, best.number))
    with composer.compose(*overrides, *retrain).as_job() as settings:
        config = typed(settings)
    changes = f", with {' '.join(retrain)}" if retrain else ""
    origin = f"Trial {best.number} of the study {study.optuna.study_name}{changes}."
    config = dataclasses.replace(
        resolve(config, describe(config.data)),
        name=f"{study.optuna.study_name}-{WINNER}",
        data=pinned(config.data, composer.digests),
    )
    return write_experiment(study.folder, WINNER, config, origin)


def write_experiment(folder: Path, choice: str, config: Config, origin: str) -> str:
    """Write a configuration as experiment/<choice>.yaml in a folder, and return the command that runs it.

    `origin` says in a line where it comes from.
    """
    content = dataclasses.asdict(config)
    # Where data lies and what it runs on is for whoever runs it to say; but one's own images lie in one place.
    own = config.data.name == DataName.image_folder
    left_out = set(INCIDENTAL) - {"data.root"} if own else {*INCIDENTAL, DIGEST}
    for key in left_out:
        section, _, leaf = key.rpartition(".")
        (content[section] if section else content).pop(leaf)
    content = {"name": config.name, **content}
    file = folder / "experiment" / f"{choice}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f"# @package _global_\n# {origin}\n{OmegaConf.to_yaml(OmegaConf.create(content))}")
    return line(["tinysweep", "--config-dir", shown_folder(folder), f"experiment={choice}"])
