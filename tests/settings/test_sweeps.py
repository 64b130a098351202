"""Every study in sweeps/: it composes, holds models that fit, and searches only what the code reads."""

import re
from pathlib import Path

import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import tinysweep
from tinysweep.errors import TinysweepError
from tinysweep.network import budget
from tinysweep.search.compose_trial import Composer
from tinysweep.search.plan import build_pruner, build_sampler, is_grid, require_comparable
from tinysweep.search.propose import suggest
from tinysweep.search.space import Space, Value, is_setting, read_space
from tinysweep.settings.compose import register_schema
from tinysweep.settings.explain import settings
from tinysweep.settings.schema import Config
from tinysweep.settings.searchpath import CONFIG_FOLDER, SWEEPS_FOLDER
from tinysweep.settings.sweeper import SweeperConfig

STUDIES = sorted(file.stem for file in SWEEPS_FOLDER.glob("*.yaml"))
DRAWS = 50


class Composed:
    """A study as the command line would compose it."""

    def __init__(self, name: str) -> None:
        register_schema()
        with initialize_config_dir(str(CONFIG_FOLDER)):
            loader = GlobalHydra.instance().config_loader()
            self.master: DictConfig = loader.load_configuration("config", [f"sweeps={name}"], RunMode.MULTIRUN)
            self.node = self.master.hydra.sweeper
            plain = OmegaConf.to_container(self.node, resolve=True)
            assert isinstance(plain, dict)
            self.config = SweeperConfig(**{str(key): value for key, value in plain.items() if key != "_target_"})
            self.space: Space = read_space(self.config.params, [f"sweeps={name}"])
            self.composer = Composer(loader, self.master, self.space.fixed)
            self.base = self.composer.base({}).settings
            self.retrained = self.composer.compose(*self.config.retrain).settings
            self.draws = [self._draw(seed) for seed in range(DRAWS)]

    def _draw(self, seed: int) -> Config | str:
        """A uniform draw, or why it is refused."""
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        values: dict[str, Value] = {}
        for name, distribution in self.space.ordered.items():
            if self.composer.reads(name, values):
                values[name] = suggest(trial, name, distribution)
        try:
            config = self.composer.config(values)
            return budget.resolve(config, tinysweep.describe(config.data))
        except TinysweepError as error:
            return str(error)


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest) -> Composed:
    return Composed(request.param)


def test_the_studies_that_the_readme_names_are_there() -> None:
    assert {"quick", "budget20k", "pareto", "grid"} <= set(STUDIES)


def test_it_is_named_after_its_file_and_can_be_searched(study: Composed) -> None:
    assert study.config.study_name in STUDIES
    pruner = build_pruner(study.node.pruner)
    prunes = not isinstance(pruner, optuna.pruners.NopPruner)
    require_comparable(study.config.objectives, study.base, study.space, prunes)
    assert is_grid(study.node.sampler) or build_sampler(study.node.sampler, 0)


def test_it_searches_something_and_nothing_over_and_over(study: Composed) -> None:
    assert study.space.searched
    accepted = [draw for draw in study.draws if isinstance(draw, Config)]
    assert len({str(draw) for draw in accepted}) >= min(10, len(accepted))


def test_some_draws_fit_the_budget_and_none_breaks_a_rule(study: Composed) -> None:
    accepted = [draw for draw in study.draws if isinstance(draw, Config)]
    refusals = {draw for draw in study.draws if isinstance(draw, str)}
    assert all(refusal.startswith("over budget") for refusal in refusals), refusals
    fitting = [draw for draw in accepted if budget.fits(draw.model, tinysweep.describe(draw.data), draw.budget)]
    assert fitting


def test_every_parameter_exists_and_is_read_by_the_code(study: Composed) -> None:
    modules = [file for file in Path(tinysweep.__file__).parent.rglob("*.py") if file.stem != "schema"]
    code = "".join(file.read_text() for file in modules)
    for name in study.space.searched:
        if is_setting(name):
            assert name in settings()
            assert re.search(rf"\.{name.rpartition('.')[2]}\b", code), f"nothing reads {name}"
        else:
            assert (CONFIG_FOLDER / name).is_dir(), f"{name} is neither a setting nor a group"


def test_its_winner_can_be_retrained(study: Composed) -> None:
    assert study.retrained.trainer.epochs >= study.base.trainer.epochs
