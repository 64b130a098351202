"""What makes two calls one study, what no sweep can do, and which sampler draws."""

import copy
import functools
import importlib.util
import itertools
from dataclasses import asdict
from typing import Any

import hydra
import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from conftest import loaded
from tinysweep.errors import ConfigError, StudyError
from tinysweep.metrics import METRICS
from tinysweep.search.compose_trial import Composer, digest, identity
from tinysweep.search.plan import (
    build_sampler,
    default_name,
    define,
    is_grid,
    require_comparable,
    require_rungs,
    require_same,
)
from tinysweep.search.space import Space, in_words, read_space
from tinysweep.search.table import LATER
from tinysweep.settings.compose import register_schema
from tinysweep.settings.schema import Config
from tinysweep.settings.searchpath import CONFIG_FOLDER

SEARCHED = ["model.width=4,8", "optimizer.lr=tag(log,interval(0.01,1))"]


@functools.cache
def _base(fixed: tuple[str, ...]) -> DictConfig:
    return Composer(*loaded(), list(fixed)).base({}).settings


def defined(*arguments: str, objectives: tuple[str, ...] = ("validation_accuracy",)) -> dict[str, str]:
    """The definition of the study that a command begins."""
    space = read_space(None, list(arguments))
    return define(space, list(objectives), _base(tuple(space.fixed)))


def test_what_the_environment_decides_is_a_part_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for width in ("4", "8"):
        monkeypatch.setenv("TINYSWEEP_TRY", width)
        texts.append(defined("model.width=${oc.env:TINYSWEEP_TRY}", "trainer.seed=1,2")["model.width"])
        _base.cache_clear()
    assert texts == ["${oc.env:TINYSWEEP_TRY} = 4", "${oc.env:TINYSWEEP_TRY} = 8"]
    other = defined("model.hidden=${trainer.seed}", "trainer.seed=1,2")
    assert other["model.hidden"] == "${trainer.seed}", "it differs from trial to trial"


def name_of(*arguments: str) -> str:
    return default_name(read_space(None, list(arguments)), defined(*arguments))


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name="mine", direction="maximize")


# ---- the same study, or another


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["model.width=4,8,16", SEARCHED[1]], ["params.model.width: choice(4,8) -> choice(4,8,16)"]),
        (
            [SEARCHED[0], "optimizer.lr=interval(0.01,1)"],
            ["params.optimizer.lr: real from 0.01 to 1 log -> real from 0.01 to 1"],
        ),
        (
            [*SEARCHED, "model.growth=1,2"],
            ["model.growth: 1.5 -> (none)", "params.model.growth: (none) -> choice(1,2)"],
        ),
        ([*SEARCHED, "budget.macs=1000000"], ["budget.macs: None -> 1000000"]),
        ([*SEARCHED, "data=kmnist"], ["data.name: mnist -> kmnist"]),
        ([*SEARCHED, "data.validation=1000"], ["data.validation: 5000.0 -> 1000.0"]),
        ([*SEARCHED, "model.depth=[2,2]"], ["model.depth: [1, 2, 1] -> [2, 2]"]),
        ([*SEARCHED, "trainer.epochs=3", "trainer.seed=1"], ["trainer.epochs: 14 -> 3", "trainer.seed: 0 -> 1"]),
    ],
)
def test_what_would_make_trials_incomparable_is_refused_with_the_differences_and_nothing_else(
    study: optuna.Study, arguments: list[str], changes: list[str]
) -> None:
    require_same(study, defined(*SEARCHED))
    before = dict(study.user_attrs)
    with pytest.raises(StudyError) as caught:
        require_same(study, defined(*arguments))
    first, *shown, last = str(caught.value).splitlines()
    assert first.startswith("study mine was begun with other settings")
    assert sorted(shown) == [f"  {change}" for change in changes]
    assert "hydra.sweeper.study_name" in last
    assert study.user_attrs == before, "the study keeps its own"


def test_another_objective_makes_another_study(study: optuna.Study) -> None:
    require_same(study, defined(*SEARCHED))
    with pytest.raises(StudyError, match=r"\n  objective: validation_accuracy -> validation_accuracy, params\n"):
        require_same(study, defined(*SEARCHED, objectives=("validation_accuracy", "params")))


@pytest.mark.parametrize(
    "arguments",
    [
        SEARCHED[::-1],
        [
            *SEARCHED,
            "data.root=elsewhere",
            "data.download=false",
            "trainer.device=cpu",
            "trainer.threads=7",
            "name=x",
        ],
        [SEARCHED[1], "trainer.epochs=14", "model.width=choice(4,8)"],
    ],
    ids=" ".join,
)
def test_where_and_on_what_it_runs_and_in_which_words_is_free(study: optuna.Study, arguments: list[str]) -> None:
    require_same(study, defined(*SEARCHED))
    require_same(study, defined(*arguments))
    assert name_of(*arguments).rpartition("-")[2] == name_of(*SEARCHED).rpartition("-")[2]


def test_a_study_from_before_a_setting_is_one_with_its_default(study: optuna.Study) -> None:
    earlier = ("model.bottleneck", "model.stem_fraction")
    now = defined(*SEARCHED)
    require_same(study, {key: value for key, value in now.items() if key not in earlier})
    require_same(study, now)
    with pytest.raises(StudyError, match=r"model\.bottleneck: \(none\) -> 0\.5"):
        require_same(study, defined(*SEARCHED, "model.bottleneck=0.5"))
    config = asdict(Config())
    before = copy.deepcopy(config)
    for name in earlier:
        del before["model"][name.partition(".")[2]]
    assert digest(identity(config)) == digest(identity(before))


@pytest.mark.parametrize(("rate", "now"), [("0.0", []), ("0.3", ["dropout=head", "dropout.rate=0.3"])])
def test_a_study_from_before_dropout_was_a_group_goes_on(study: optuna.Study, rate: str, now: list[str]) -> None:
    earlier = {key: value for key, value in defined(*SEARCHED).items() if not key.startswith("dropout.")}
    require_same(study, earlier | {"model.dropout": rate, "model.dropout_at": "head"})
    require_same(study, defined(*SEARCHED, *now))
    with pytest.raises(StudyError, match=r"dropout\.rate: .* -> 0\.2"):
        require_same(study, defined(*SEARCHED, "dropout=head", "dropout.rate=0.2"))


def test_a_study_that_others_made_is_refused(study: optuna.Study) -> None:
    study.tell(study.ask(), 1.0)
    with pytest.raises(StudyError, match=r"^study mine was not made by tinysweep; choose another study_name$"):
        require_same(study, defined(*SEARCHED))
    assert "definition" not in study.user_attrs


@pytest.mark.parametrize(
    ("distribution", "said"),
    [
        (CategoricalDistribution(("plain", 4, 0.5, True)), "choice(plain,4,0.5,True)"),
        (IntDistribution(4, 9), "whole from 4 to 9"),
        (IntDistribution(4, 8, step=2), "whole from 4 to 8 in steps of 2"),
        (IntDistribution(4, 64, log=True), "whole from 4 to 64 log"),
        (FloatDistribution(0.5, 2), "real from 0.5 to 2"),
        (FloatDistribution(0.5, 2, step=0.5), "real from 0.5 to 2 in steps of 0.5"),
        (FloatDistribution(0.001, 1, log=True), "real from 0.001 to 1 log"),
    ],
)
def test_distributions_that_differ_read_differently(distribution: Any, said: str) -> None:
    assert in_words(distribution) == said


# ---- the name that is made


def test_commands_that_search_otherwise_make_other_names() -> None:
    commands = [
        SEARCHED,
        ["model.width=4,8,16", SEARCHED[1]],
        [SEARCHED[0], "optimizer.lr=interval(0.01,1)"],
        [*SEARCHED, "trainer.epochs=3"],
        ["model=plain,residual"],
        [],
    ]
    names = [name_of(*command) for command in commands]
    assert len(set(names)) == len(commands)
    assert not any(set(name) & set("/\\:\0") or name.startswith(".") or not name for name in names)


def test_a_long_space_makes_a_name_that_a_folder_can_have() -> None:
    keys = ["rotation_degrees", "shift_fraction", "scale_fraction", "shear_degrees", "flip_probability"]
    assert len(name_of(*(f"augmentation.{key}=0.1,0.2" for key in keys))) < 150


# ---- what no sweep can do


@pytest.mark.parametrize(
    ("arguments", "objectives", "prunes", "words"),
    [
        (["model.width=4,8", "data.validation=0"], ["validation_accuracy"], False, ["data.validation=0", "5000"]),
        (["model.width=4,8", "experiment=era_seed"], ["params"], False, ["data.validation=0"]),
        (["model.width=4,8", "++trainer.test='yes'"], ["params"], False, ["trainer.test", "test set"]),
        (["model.width=4,8", "trainer.test=True"], ["validation_accuracy"], False, ["trainer.test", "test set"]),
        (["trainer.test=true,false"], ["validation_accuracy"], False, ["trainer.test", "test set"]),
        (
            ["model.width=4,8"],
            ["validation_accuracy", "params"],
            True,
            ["hydra.sweeper.objective=validation_accuracy,params", "hydra/sweeper/pruner=none"],
        ),
        (["model.width=4,8"], ["params"], True, ["hydra.sweeper.objective=params", "hydra/sweeper/pruner=none"]),
    ],
)
def test_what_no_sweep_can_do_is_refused_in_one_line(
    arguments: list[str], objectives: list[str], prunes: bool, words: list[str]
) -> None:
    space = read_space(None, arguments)
    with pytest.raises(ConfigError) as caught:
        require_comparable(objectives, _base(tuple(space.fixed)), space, prunes)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [1, 2, len(METRICS)])
def test_only_what_every_epoch_shows_can_be_pruned_by_and_only_alone(number: int) -> None:
    for objectives in map(list, itertools.combinations(METRICS, number)):
        require_comparable(objectives, _base(()), Space(), prunes=False)
        if objectives in [["validation_accuracy"], ["validation_loss"], *([name] for name in LATER)]:
            require_comparable(objectives, _base(()), Space(), prunes=True)
            continue
        with pytest.raises(ConfigError, match=f"objective={','.join(objectives)} can't be pruned, .*pruner=none"):
            require_comparable(objectives, _base(()), Space(), prunes=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["model.width=4,8", "trainer.test=false"],
        ["model.width=4,8", "data.validation=0.1"],
        ["model.width=4,8", "experiment=era_seed", "data.validation=5000"],
    ],
)
def test_what_a_sweep_can_do_is_let_through(arguments: list[str]) -> None:
    space = read_space(None, arguments)
    require_comparable(["validation_loss"], _base(tuple(space.fixed)), space, prunes=True)


# ---- rungs


HALVING = {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1, "reduction_factor": 3}
NONE = {"_target_": "optuna.pruners.NopPruner"}
MEDIAN = {"_target_": "optuna.pruners.MedianPruner"}


def hold_rungs(rungs: list[int], pruner: dict[str, Any], *arguments: str, aim: str = "validation_loss") -> None:
    space = read_space(None, ["model.width=4,8", *arguments])
    require_rungs(rungs, aim.split(","), DictConfig(pruner), _base(tuple(space.fixed)), space)


@pytest.mark.parametrize(("rungs", "pruner", "arguments", "said"), [
    ([1, 3], NONE, [], r"rungs=\[1,3\] needs a pruner, .* add hydra/sweeper/pruner"),
    ([1, 14], MEDIAN, [], r"rungs=\[1,14\] must lie below trainer\.epochs=14"),
    ([3, 9], MEDIAN, ["trainer.epochs=range(3,10)"], r"rungs=\[3,9\] must lie below trainer\.epochs=9"),
    ([3], HALVING, [], r"rungs=\[3\]: SuccessiveHalvingPruner judges at 1, 3 … epochs"),
    ([1, 2], HALVING, [], r"rungs=\[1,2\]: SuccessiveHalvingPruner judges at 1, 3, 9 … epochs"),
    ([1, 9], HALVING, [], r"rungs=\[1,9\]: .* set hydra\.sweeper\.pruner\.min_resource"),
])  # fmt: skip
def test_rungs_that_only_cost_time_or_that_the_pruner_misses_are_refused_in_one_line(
    rungs: list[int], pruner: dict[str, Any], arguments: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        hold_rungs(rungs, pruner, *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("aim", ["validation_loss,params", "params", "seconds"])
def test_rungs_can_be_judged_only_by_what_a_training_shows_alone(aim: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"can't be pruned by hydra\.sweeper\.objective={aim}, .*leave the rungs out"
    ):
        hold_rungs([1, 3], HALVING, aim=aim)


@pytest.mark.parametrize(("rungs", "pruner", "arguments"), [
    ([1, 3], HALVING, []), ([2, 6], HALVING, []), ([1], HALVING, []), ([1, 2, 13], MEDIAN, []),
    ([3], HALVING | {"min_resource": 3}, []), ([1, 2, 4], HALVING | {"reduction_factor": 2}, []),
    ([3, 9], HALVING | {"min_resource": "auto"}, []), ([3, 9], MEDIAN, ["trainer.epochs=choice(3,20)"]),
])  # fmt: skip
def test_rungs_that_a_pruner_finds_are_let_through(
    rungs: list[int], pruner: dict[str, Any], arguments: list[str]
) -> None:
    hold_rungs(rungs, pruner, *arguments)


def test_the_rungs_that_are_let_through_are_those_that_successive_halving_judges_once_each() -> None:
    for rungs in itertools.combinations((1, 2, 3, 8, 9, 10), 2):
        study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(1, 3))
        trial, judged = study.ask(), []
        for epochs in rungs:
            trial.report(0.5, epochs)
            assert not trial.should_prune()
            judged.append(sum(name.startswith("completed_rung") for name in study.trials[0].system_attrs))
        try:
            hold_rungs(list(rungs), HALVING)
        except ConfigError:
            assert judged != [1, 2], rungs
        else:
            assert judged == [1, 2], rungs


def test_other_rungs_make_another_study_and_none_the_one_from_before_there_were_any() -> None:
    space = read_space(None, SEARCHED)
    definitions = [define(space, ["params"], _base(()), rungs) for rungs in ([1, 3], [1, 2], [])]
    assert [each.get("rungs") for each in definitions] == ["1, 3", "1, 2", None]
    assert definitions[2] == define(space, ["params"], _base(()))
    assert len({default_name(space, each) for each in definitions}) == 3


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
    composed.seed = 5
    return composed


KINDS = {"tpe": TPESampler, "random": RandomSampler, "nsgaii": NSGAIISampler, "nsgaiii": NSGAIIISampler,
         "gp": GPSampler, "qmc": QMCSampler, "cmaes": CmaEsSampler}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_shipped_sampler_is_the_one_that_its_name_says_and_draws(name: str) -> None:
    if name == "cmaes":
        pytest.importorskip("cmaes")
    for joined in (0, 1):
        sampler = build_sampler(node(name), joined)
        assert isinstance(sampler, KINDS[name])
    assert not is_grid(node(name))
    assert len(draws(sampler)) == 4


def test_a_sampler_whose_package_is_missing_is_refused_by_its_name_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cmaes" else object())
    with pytest.raises(ConfigError, match=r"^CmaEsSampler needs the package cmaes; .*'tinysweep\[samplers\]'$"):
        build_sampler(node("cmaes"), 0)
    build_sampler(node("random"), 0)


def test_the_grid_is_no_sampler_of_optunas() -> None:
    assert is_grid(node("grid"))


@pytest.mark.parametrize("name", ["tpe", "random", "nsgaii", "nsgaiii"])
def test_sweepers_that_join_later_draw_from_seeds_of_their_own(name: str) -> None:
    by_joined = [draws(build_sampler(seeded(name), joined)) for joined in (0, 1, 2, 3)]
    assert len({tuple(found[0].values()) for found in by_joined}) == 4
    assert draws(build_sampler(seeded(name), 2)) == by_joined[2], "and the same ones when all is done again"
    if name == "random":
        assert by_joined[0] == draws(RandomSampler(seed=5)), "the first from the seed as it is written"
        assert draws(build_sampler(node(name), 1)) != draws(build_sampler(node(name), 1)), "without a seed, never"


def test_a_quasi_random_sequence_keeps_its_seed_as_it_goes_on_by_itself() -> None:
    first, second = (draws(build_sampler(seeded("qmc"), joined)) for joined in (0, 1))
    assert first[1:] == second[1:]  # before the first there is no space that the sequence could know


@pytest.mark.parametrize("target", ["os.system", "optuna.samplers.NoSuchSampler"])
def test_a_sampler_that_refuses_its_settings_is_one_line(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_sampler(node("random", f"hydra.sweeper.sampler._target_={target}"), 0)
    assert str(caught.value).startswith("hydra.sweeper.sampler (")
    assert target in str(caught.value)
    assert "\n" not in str(caught.value)
