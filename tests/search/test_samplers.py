"""Which trial comes next: the points of a grid, each once and in order, or the draws of an Optuna sampler."""

import functools
import importlib.util
import random
from typing import Any

import hydra
import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from tinysweep.errors import ConfigError
from tinysweep.search.plan import NEEDS, build_sampler, is_grid
from tinysweep.search.space import GridOrder, Points, Value
from tinysweep.search.study import Status
from tinysweep.settings.compose import CONFIG_FOLDER, register_schema

Point = dict[str, Value]

WIDTHS: list[Point] = [{"width": width, "lr": lr} for width in (4, 8, 16) for lr in (0.1, 0.2)]
# gamma exists only beside step.
CONDITIONAL: list[Point] = [
    {"scheduler": "step", "gamma": 0.5},
    {"scheduler": "step", "gamma": 0.75},
    {"scheduler": "cosine"},
    {"scheduler": "cosine"},
]


pytestmark = pytest.mark.usefixtures("quiet_optuna")


def choices(points: list[Point]) -> dict[str, CategoricalDistribution]:
    names = list(dict.fromkeys(name for point in points for name in point))
    return {
        name: CategoricalDistribution(list(dict.fromkeys(point[name] for point in points if name in point)))
        for name in names
    }


def draw(trial: Trial, points: list[Point]) -> Point:
    """A value for each parameter, those aside that the point has not."""
    values: Point = {}
    for name, distribution in choices(points).items():
        if name != "gamma" or values["scheduler"] == "step":
            values[name] = trial.suggest_categorical(name, distribution.choices)  # type: ignore[assignment]
    return values


def tell(study: optuna.Study, trial: Trial, became: Status = Status.complete) -> None:
    trial.set_user_attr("standing", became.value)
    if became == Status.complete:
        study.tell(trial, 1.0)
    else:
        study.tell(trial, state=TrialState.FAIL)


def walk(study: optuna.Study, points: list[Point], most: int = 100) -> list[Point]:
    """The points of as many trials as there are left, each of them completed."""
    left = Points(points)
    study.sampler = GridOrder(left)
    walked: list[Point] = []
    while left.upcoming(study.get_trials(deepcopy=False)) is not None and len(walked) < most:
        trial = study.ask()
        walked.append(draw(trial, points))
        tell(study, trial)
    return walked


# ---- the grid


def test_a_grid_gives_every_point_once_in_order() -> None:
    assert walk(optuna.create_study(), WIDTHS) == WIDTHS


def test_a_grid_gives_the_points_of_conditional_parameters_once() -> None:
    assert Points(CONDITIONAL).total == 3
    assert walk(optuna.create_study(), CONDITIONAL) == CONDITIONAL[:3]


def test_a_grid_of_nothing_is_one_point() -> None:
    study = optuna.create_study()
    left = Points([{}])
    assert left.total == 1
    assert left.upcoming(study.get_trials()) == {}
    tell(study, study.ask())
    assert left.upcoming(study.get_trials()) is None


@pytest.mark.parametrize("points", [WIDTHS, CONDITIONAL[:3]], ids=["plain", "conditional"])
@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_grid_goes_on_where_an_earlier_call_stopped(points: list[Point], done: int) -> None:
    study = optuna.create_study()
    assert walk(study, points, most=done) + walk(study, points) == points
    assert walk(study, points) == [], "there is nothing left"


def test_points_being_trained_are_not_given_again() -> None:
    study = optuna.create_study()
    left = Points(WIDTHS)
    study.sampler = GridOrder(left)
    running = [study.ask() for _ in range(4)]
    assert [draw(trial, WIDTHS) for trial in running] == WIDTHS[:4]
    assert Points(WIDTHS).upcoming(study.get_trials()) == WIDTHS[4], "neither by another sweeper"


def test_a_trial_that_has_drawn_nothing_yet_takes_no_point() -> None:
    study = optuna.create_study()
    study.ask()
    assert Points(WIDTHS).upcoming(study.get_trials()) == WIDTHS[0]


@pytest.mark.parametrize("became", [status for status in Status if status != Status.running])
def test_of_all_finished_points_only_the_interrupted_are_given_again(became: Status) -> None:
    study = optuna.create_study(sampler=GridOrder(Points(WIDTHS)))
    for status in (Status.complete, became):
        trial = study.ask()
        draw(trial, WIDTHS)
        tell(study, trial, status)
    assert walk(study, WIDTHS) == WIDTHS[1 if became == Status.interrupted else 2 :]


def test_trials_at_points_that_the_grid_has_not_take_none_of_its_points() -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    tell(study, study.ask({"seed": IntDistribution(100, 200), "lr": choices(WIDTHS)["lr"]}))
    tell(study, study.ask({"width": choices(WIDTHS)["width"]}))
    tell(study, study.ask())
    assert walk(study, WIDTHS) == WIDTHS


def test_any_sampler_uses_up_a_finite_space() -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    left = Points(CONDITIONAL)
    seen = []
    while left.upcoming(study.get_trials(deepcopy=False)) is not None:
        trial = study.ask()
        seen.append(draw(trial, CONDITIONAL))
        tell(study, trial)
        assert len(seen) < 1000
    assert {frozenset(point.items()) for point in seen} == {frozenset(point.items()) for point in CONDITIONAL}
    assert seen.count(seen[-1]) == 1, "the last trial brought the last point"


def test_every_point_is_given_once_whatever_becomes_of_the_trials() -> None:
    generator = random.Random(0)
    study = optuna.create_study()
    seen: list[Point] = []
    for _ in range(100):
        left = Points(WIDTHS)  # as a new call would
        if left.upcoming(study.get_trials()) is None:
            break
        study.sampler = GridOrder(left)
        trial = study.ask()
        point = draw(trial, WIDTHS)
        became = generator.choice([Status.complete, Status.failed, Status.interrupted, Status.over_budget])
        tell(study, trial, became)
        seen += [point] if became != Status.interrupted else []
    assert seen == WIDTHS


# ---- Optuna's samplers


@functools.cache
def node(name: str, *settings: str) -> DictConfig:
    """hydra/sweeper/sampler=NAME as a sweep composes it."""
    register_schema()
    overrides = [f"hydra/sweeper/sampler={name}", *settings]
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", overrides=overrides, run_mode=RunMode.MULTIRUN)
    sampler = master.hydra.sweeper.sampler
    assert isinstance(sampler, DictConfig)
    return sampler


def draws(sampler: BaseSampler, count: int = 4) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=sampler)
    space = {"width": IntDistribution(1, 10**6), "lr": FloatDistribution(1e-5, 1, log=True)}
    found = []
    for _ in range(count):
        trial = study.ask(space)
        study.tell(trial, trial.params["lr"])
        found.append(trial.params)
    return found


def seeded(name: str) -> DictConfig:
    composed = node(name).copy()
    OmegaConf.update(composed, "seed", 5)
    return composed


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tpe", TPESampler), ("random", RandomSampler), ("nsgaii", NSGAIISampler), ("nsgaiii", NSGAIIISampler)],
)
@pytest.mark.parametrize("joined", [0, 1])
def test_a_shipped_sampler_is_the_one_that_its_name_says_and_draws(
    name: str, kind: type[BaseSampler], joined: int
) -> None:
    sampler = build_sampler(node(name), joined)
    assert isinstance(sampler, kind)
    for params in draws(sampler, 12):
        assert 1 <= params["width"] <= 10**6
        assert 1e-5 <= params["lr"] <= 1


@pytest.mark.parametrize("name", ["gp", "qmc"])
def test_model_based_and_quasi_random_samplers_draw(name: str) -> None:
    assert len(draws(build_sampler(node(name), 0))) == 4


def test_a_sampler_that_needs_a_package_draws_where_it_is_installed() -> None:
    pytest.importorskip("cmaes")
    assert len(draws(build_sampler(node("cmaes"), 0))) == 4


@pytest.mark.parametrize(("name", "package"), [("cmaes", "cmaes")])
def test_a_sampler_whose_package_is_missing_is_refused_by_its_name_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    def found(wanted: str) -> object:
        return None if wanted == package else object()

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(ConfigError) as caught:
        build_sampler(node(name), 0)
    message = str(caught.value)
    assert f"needs the package {package}" in message
    assert "pip install 'tinysweep[samplers]'" in message
    assert "\n" not in message
    build_sampler(node("random"), 0)


def test_only_the_grid_is_a_grid() -> None:
    assert is_grid(node("grid"))
    assert not any(is_grid(node(name)) for name in ("tpe", "random", "nsgaii", "qmc"))


@pytest.mark.parametrize("name", ["tpe", "random", "nsgaii", "nsgaiii"])
def test_sweepers_that_join_later_draw_from_seeds_of_their_own(name: str) -> None:
    by_joined = [draws(build_sampler(seeded(name), joined)) for joined in (0, 1, 2, 3)]
    assert len({tuple(found[0].values()) for found in by_joined}) == 4
    assert draws(build_sampler(seeded(name), 2)) == by_joined[2], "and the same ones when all is done again"


def test_the_first_sweeper_draws_from_the_seed_as_it_is_written() -> None:
    assert draws(build_sampler(seeded("random"), 0)) == draws(RandomSampler(seed=5))


def test_without_a_seed_no_two_sweepers_draw_the_same() -> None:
    sampler = node("random")
    assert sampler.seed is None
    assert draws(build_sampler(sampler, 1)) != draws(build_sampler(sampler, 1))


def test_a_quasi_random_sequence_keeps_its_seed_as_it_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    seeds = {build_sampler(seeded("qmc"), joined)._seed for joined in (0, 1, 2)}  # type: ignore[attr-defined]
    assert seeds == {5}
    assert len({build_sampler(seeded("gp"), joined)._rng.rng.random() for joined in (0, 1)}) == 2  # type: ignore[attr-defined]
    assert isinstance(build_sampler(seeded("gp"), 0), GPSampler)


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("random", "hydra.sweeper.sampler._target_=os.system", ["os.system"]),
        ("random", "hydra.sweeper.sampler._target_=optuna.samplers.NoSuchSampler", ["NoSuchSampler"]),
    ],
)  # fmt: skip
def test_a_sampler_that_refuses_its_settings_is_one_line(name: str, setting: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_sampler(node(name, setting), 0)
    message = str(caught.value)
    assert message.startswith("hydra.sweeper.sampler (")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_every_package_that_is_needed_is_one_that_the_project_offers() -> None:
    assert set(NEEDS.values()) == {"cmaes"}
