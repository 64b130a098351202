"""Who takes part in a final: the best trials of a study, each with its whole recipe, and the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import FrozenTrial

from tinysweep.data.load import describe, with_absolute_root
from tinysweep.errors import ConfigError, DataError, StudyError, TinysweepError
from tinysweep.network import budget
from tinysweep.network.budget import Cost
from tinysweep.results.view import StudyView
from tinysweep.search.compose_trial import apply_overrides, digest, identity
from tinysweep.search.space import plain_params
from tinysweep.settings.compose import compose
from tinysweep.settings.schema import Config, DataConfig


@dataclass(frozen=True)
class Entrant:
    """One who takes part: a trial or the baseline. `recipe` trains on all training images; `held_out` is its data
    with the study's validation images held out; `changed` are the searched parameters."""

    name: str
    recipe: Config
    cost: Cost
    trial: int | None = None
    held_out: DataConfig | None = None
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as a part of a folder's name."""
        return self.name.replace(" ", "-").replace("/", "-")


def best(view: StudyView, wanted: int, excluded: Sequence[int], retrain: Sequence[str]) -> list[Entrant]:
    """The best completed trials whose recipes differ, at most as many as are wanted.

    Raises:
        ConfigError: a trial to exclude isn't there, or `retrain` can't be applied.
        StudyError: no completed trial is left.
        BudgetError: a recipe costs more than its budget allows.
        DataError: the record of a trial is missing or damaged.
    """
    known = {trial.number for trial in view.trials}
    if strangers := [number for number in excluded if number not in known]:
        raise ConfigError(f"exclude names trial {strangers[0]}, which the study {view.name} doesn't have")
    found: dict[str, Entrant] = {}
    for trial in view.completed:
        if trial.number in excluded:
            continue
        try:
            entrant = _entrant(view, trial, retrain)
        except TinysweepError as error:
            numbers = ",".join(map(str, [*excluded, trial.number]))
            advice = "" if isinstance(error, ConfigError) else f"; exclude=[{numbers}] leaves it out"
            raise type(error)(f"trial {trial.number}: {error}{advice}") from error
        found.setdefault(digest(identity(entrant.recipe)), entrant)
        if len(found) == wanted:
            break
    if not found:
        left = " that isn't excluded" if excluded else ""
        raise StudyError(f"the study {view.name} has no completed trial{left}; go on with its sweep first")
    return list(found.values())


def _entrant(view: StudyView, trial: FrozenTrial, retrain: Sequence[str]) -> Entrant:
    own = view.config(trial.number)
    recipe = apply_overrides(own, retrain, view.record(trial.number)["overrides"])
    held_out = with_absolute_root(
        replace(recipe.data, validation=own.data.validation, split_seed=own.data.split_seed)
    )
    trainer = replace(recipe.trainer, seed=0, threads=0, test=True)
    changed = plain_params(trial)
    recipe = replace(recipe, data=replace(held_out, validation=0.0), trainer=trainer, trial=None)
    return Entrant(f"trial {trial.number}", *_gated(recipe), trial.number, held_out, changed)


def baseline(name: str, rival: Entrant) -> Entrant | None:
    """The experiment of this name as it stands, but on the images that its rival has; None if it is a recipe for
    another data set.

    Raises:
        ConfigError: there is no such experiment.
        BudgetError: it costs more than its own budget allows.
    """
    try:
        config, data = compose(f"experiment={name}"), rival.recipe.data
    except ConfigError as error:
        raise ConfigError(f"baseline={name}: {error}; baseline=null goes without one") from error
    if config.data.name != data.name:
        return None
    trainer = replace(config.trainer, seed=0, threads=0, test=True, device=rival.recipe.trainer.device)
    return Entrant(name, *_gated(replace(config, data=data, trainer=trainer)))


def _gated(config: Config) -> tuple[Config, Cost]:
    """A configuration with a number for its width, and its cost, which is within the budget."""
    try:
        shape = describe(config.data)
    except DataError as error:
        raise DataError(f"{error}; data.root=FOLDER says where the images are now") from error
    config = budget.resolve(config, shape)
    return config, budget.gate(config, shape)
