"""A trial's configuration: the one that its job composes, at a fraction of the time, and its fingerprint."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path

import hydra
import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

import tinysweep
from conftest import loaded
from tinysweep.errors import ConfigError
from tinysweep.search.compose_trial import INCIDENTAL, Composer, apply_overrides, digest, identity
from tinysweep.search.space import Value, override
from tinysweep.settings.compose import COMPOSITION_ERRORS, compose, register_schema, to_config
from tinysweep.settings.explain import settings
from tinysweep.settings.schema import (
    ClassWeights,
    Config,
    DataConfig,
    DataName,
    DropoutConfig,
    DropoutName,
    Family,
    ModelConfig,
    SchedulerName,
    TrainerConfig,
)
from tinysweep.settings.searchpath import CONFIG_FOLDER


class Spy:
    """A loader that notes what it composes."""

    def __init__(self) -> None:
        self.composed: list[list[str]] = []

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        self.composed.append(overrides)
        return loaded()[0].load_sweep_config(master, overrides)


def composer(*fixed: str) -> Composer:
    return Composer(*loaded(), list(fixed))


def spied(*fixed: str) -> tuple[Composer, Spy]:
    spy = Spy()
    return Composer(spy, loaded()[1], list(fixed)), spy  # type: ignore[arg-type]


SHARED = composer()


# ---- the configuration


CHOICES: dict[str, Sequence[Value]] = {
    "model": ["plain", "residual", "separable", "era_seed"],
    "optimizer": ["sgd", "adamw"],
    "scheduler": ["cosine", "step", "constant", "onecycle"],
    "experiment": ["era_seed"],
    "augmentation": ["none", "elastic", "light"],
    "model.width": [4, 17, "auto"],
    "model.depth": ["[1,1]", "[2]", "[1,2,1]", "[1, 3]"],
    "model.growth": [1, 1.25, 2.0],
    "model.bias": [True, False],
    "model.head": ["linear", "gap", "spatial"],
    "dropout": ["none", "head", "block"],
    "optimizer.lr": [0.1, 1e-05, 1e-300, 0.30000000000000004, 1, 1e2],
    "optimizer.weight_decay": [0, 3.3e-07],
    "data.validation": [100, 0.25, 2500.0],
    "data.limit": ["null", 100],
    "budget.macs": ["null", 1_000_000],
    "trainer.seed": [0, 4294967295],
    "trainer.precision": ["fp32", "'bf16'"],
    "trainer.epochs": [7, 20],
}


def drawn(seed: int) -> dict[str, Value]:
    """Values for some of the parameters."""
    generator = random.Random(seed)
    names = generator.sample(list(CHOICES), generator.randint(4, len(CHOICES)))
    return {name: generator.choice(CHOICES[name]) for name in names}


@pytest.mark.parametrize("seed", range(4))
def test_a_trials_configuration_is_what_its_overrides_compose(seed: int) -> None:
    values = drawn(seed)
    overrides = [override(name, value) for name, value in values.items()]
    assert SHARED.config(values) == tinysweep.compose(*overrides), overrides


def test_every_trial_has_the_fixed_overrides() -> None:
    shared = composer("experiment=era_seed", "trainer.epochs=3", "++model.width=5", "data.limit=null")
    values: dict[str, Value] = {"optimizer.lr": 2e-05, "model": "plain"}
    words = [override(name, value) for name, value in values.items()]
    assert shared.config(values) == tinysweep.compose(*shared.fixed, *words)
    assert shared.config({}) == tinysweep.compose(*shared.fixed)
    assert shared.config(values).model.width == 5, "a fixed setting wins over the choice of its group"


def test_trials_share_nothing_that_one_could_change_for_another() -> None:
    first = SHARED.config({"model.depth": "[1,1]"})
    first.model.depth.append(9)
    SHARED.config({"model.width": 3, "trainer.epochs": 9})
    assert SHARED.config({"model.depth": "[1,1]"}).model.depth == [1, 1]
    assert SHARED.config({}) == tinysweep.compose()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trainer.epochs": 2, "trainer.clean_epochs": 3}, ["trainer.clean_epochs=3", "trainer.epochs=2"]),
        ({"model.depth": "[]"}, ["model.depth=[]", "at least one stage"]),
        ({"model.width": "wide"}, ["model.width=wide"]),
        ({"trainer.epochs": 1.5}, ["trainer.epochs=1.5", "whole number"]),
        ({"optimizer": "adamw", "optimizer.nesterov": True}, ["optimizer.nesterov=true", "only by optimizer=sgd"]),
        ({"model": "nonsense"}, ["model=nonsense", "plain", "residual"]),
        ({"model": "plain", "+model.nonsense": 3}, ["model.nonsense", "not a setting"]),
    ],
)
def test_values_that_break_a_rule_alone_or_together_are_refused_in_one_line(
    values: dict[str, Value], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        SHARED.config(values)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_fixed_override_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^model.widht is not a setting; did you mean model.width\?$"):
        composer("model.widht=3").config({})


# ---- how often Hydra composes


def test_hydra_composes_once_for_each_combination_of_group_choices() -> None:
    shared, spy = spied("trainer.epochs=3")
    for width in range(4, 7):
        for model in ("plain", "residual"):
            shared.reads("scheduler.gamma", {"model": model})
            shared.config({"model": model, "model.width": width, "model.depth": "[1,1]"})
    assert sorted(spy.composed) == [["trainer.epochs=3", "model=plain"], ["trainer.epochs=3", "model=residual"]]


def test_hydra_composes_anew_only_where_a_value_may_depend_on_another() -> None:
    shared, spy = spied()
    shared.config({"model.width": 3, "trainer.batch_size": 8}, 1)
    before = len(spy.composed)
    config = shared.config({"model.width": 3, "model.hidden": "${trainer.batch_size}", "trainer.batch_size": 8}, 2)
    assert (config.model.hidden, config.trial) == (8, 2)
    assert len(spy.composed) == before + 1
    shared.config({"model.width": 4, "trainer.batch_size": 9}, 3)
    assert len(spy.composed) == before + 1


def test_a_jobs_overrides_say_what_each_interpolation_came_to() -> None:
    shared = composer(
        "model.hidden=${trainer.batch_size}", "data.root=${oc.env:HOME}", "data.limit=${.split_seed}"
    )
    values: dict[str, Value] = {
        "trainer.batch_size": 8,
        "data.split_seed": 5,
        "model.depth": "[1,${trainer.epochs}]",
    }
    found = shared.overrides(values, shared.config(values))
    assert found[:3] == [override(name, value) for name, value in values.items()]
    assert sorted(found[3:]) == ["data.limit=5", "model.depth=[1,14]", "model.hidden=8"], "a place isn't said"
    plain: dict[str, Value] = {"trainer.batch_size": 8}
    assert composer().overrides(plain, composer().config(plain)) == ["trainer.batch_size=8"]


def test_what_no_job_could_resolve_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^model.hidden: .*TINYSWEEP_NOWHERE"):
        composer("model.hidden=${oc.env:TINYSWEEP_NOWHERE}").config({})
    with pytest.raises(ConfigError, match=r"^scheduler.name: .*TINYSWEEP_NOWHERE"):
        composer("scheduler.name=${oc.env:TINYSWEEP_NOWHERE}").reads("scheduler.gamma", {})


# ---- parameters that play no role


@pytest.mark.parametrize(
    ("name", "choice", "reads"),
    [
        ("scheduler.gamma", "step", True),
        ("scheduler.gamma", "cosine", False),
        ("scheduler.step_epochs", "constant", False),
        ("scheduler.warmup_fraction", "onecycle", True),
        ("scheduler.warmup_fraction", "linear", True),
        ("scheduler.warmup_fraction", "step", False),
        ("optimizer.nesterov", "sgd", True),
        ("optimizer.nesterov", "adamw", False),
        ("optimizer.beta2", "adamw", True),
        ("optimizer.beta2", "sgd", False),
        ("optimizer.momentum", "adamw", True),
        ("data.image_size", "mnist", False),
        ("data.colour", "image_folder", True),
        ("dropout.rate", "none", False),
        ("dropout.rate", "block", True),
    ],
)
def test_a_setting_plays_a_role_only_beside_the_choices_that_read_it(name: str, choice: str, reads: bool) -> None:
    section = name.partition(".")[0]
    assert SHARED.reads(name, {section: choice}) is reads
    assert SHARED.reads(name, {f"{section}.name": choice}) is reads


@pytest.mark.parametrize("chosen", ["'step'", '"step"', "${oc.env:TINYSWEEP_SCHEDULE}"])
def test_a_choice_counts_by_its_value_however_it_is_written(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYSWEEP_SCHEDULE", "step")
    assert SHARED.reads("scheduler.gamma", {"scheduler.name": chosen})
    assert not SHARED.reads("scheduler.warmup_fraction", {"scheduler.name": chosen})
    shared = composer(f"scheduler.name={chosen}")
    assert shared.reads("scheduler.gamma", {})
    assert not shared.reads("scheduler.warmup_fraction", {})


@pytest.mark.parametrize(
    "values",
    [{"scheduler": "cosine", "scheduler.name": "step"}, {"experiment": "era_seed"}, {"scheduler.name": "'step'"}],
)
def test_a_recipe_or_a_name_may_choose_too_and_the_name_wins(values: dict[str, Value]) -> None:
    assert SHARED.reads("scheduler.gamma", values)
    assert not SHARED.reads("scheduler.warmup_fraction", values)
    assert not SHARED.reads("scheduler.gamma", {})
    assert SHARED.relevant({**values, "scheduler.warmup_fraction": 0.5, "scheduler.gamma": 0.5}) == {
        **values,
        "scheduler.gamma": 0.5,
    }


@pytest.mark.parametrize(
    "name", ["model", "model.width", "trainer.epochs", "scheduler.name", "+experiment", "name"]
)
def test_what_every_choice_reads_always_plays_a_role(name: str) -> None:
    assert all(SHARED.reads(name, {"scheduler": choice, "optimizer": "adamw"}) for choice in ("step", "constant"))


@pytest.mark.parametrize("key", ["dropout", "dropout.name"])
@pytest.mark.parametrize(("choice", "rate"), [("none", DropoutConfig().rate), ("head", 0.2)])
def test_what_is_typed_for_all_trials_counts_for_those_that_read_it(key: str, choice: str, rate: float) -> None:
    typed, values = "dropout.rate=0.2", {key: choice}
    every = composer(typed)
    config = every.config(values)
    assert config.dropout == DropoutConfig(name=DropoutName(choice), rate=rate)
    assert compose(typed, *every.overrides(values, config)).dropout == config.dropout, "as the job composes it"


def test_what_is_typed_for_all_is_refused_where_no_trial_reads_it() -> None:
    with pytest.raises(ConfigError, match=r"dropout\.rate=0\.2 is read only by dropout=head"):
        composer("dropout=none", "dropout.rate=0.2").config({"model.width": 4})


def test_whatever_is_drawn_under_the_rule_of_roles_is_allowed() -> None:
    conditional = {name: spec for name, spec in settings().items() if spec.metadata.get("only")}
    assert len(conditional) >= 8
    for choice in (SchedulerName.step, SchedulerName.cosine):
        for name, spec in conditional.items():
            if name.startswith("scheduler."):
                other: Value = 3 if spec.type is int else 0.75
                values: dict[str, Value] = {"scheduler": choice.value, name: other}
                if SHARED.reads(name, {"scheduler": choice.value}):
                    assert getattr(SHARED.config(values).scheduler, name.partition(".")[2]) == other
                else:
                    with pytest.raises(ConfigError):
                        SHARED.config(values)


# ---- identity


LEAVES = {name for name, spec in settings().items() if not is_dataclass(spec.type)}


def test_the_identity_is_every_setting_but_where_and_on_what_a_run_runs() -> None:
    assert set(INCIDENTAL) <= LEAVES
    assert {"name", "trial", "data.root", "trainer.device", "trainer.threads"} <= set(INCIDENTAL)
    assert not {"trainer.seed", "trainer.precision", "budget.params"} & set(INCIDENTAL)
    added = Config(
        data=DataConfig(name=DataName.image_folder, digest="images-0", fold=1),
        model=ModelConfig(stem_fraction=0.5, bottleneck=0.5, views=5, deskew=True),
        dropout=DropoutConfig(DropoutName.stage, 0.2),
        trainer=TrainerConfig(class_weights=ClassWeights.balanced),
    )
    own = {"model.target", "model.options", "model.digest", "data.target", "data.options", "metrics"}
    assert set(identity(added)) == LEAVES - set(INCIDENTAL) - own
    net = ModelConfig(family=Family.custom, target="mynets:make", options={"kernel": 5}, digest="source-0")
    assert set(identity(Config(model=net))) >= {"model.target", "model.options.kernel", "model.digest"}
    assert identity(added)["model.bottleneck"] == 0.5
    newer = {"data.digest", "model.stem_fraction", "model.bottleneck", "dropout.name", "dropout.rate"}
    newer |= {"data.fold", "model.views", "model.deskew", "trainer.class_weights"}
    assert set(identity(added)) - set(identity(Config())) == newer, "left out at their default, as they once were"


def test_a_composed_configuration_and_its_typed_one_are_the_same() -> None:
    container = OmegaConf.to_container(SHARED.base({"model": "plain"}).settings, enum_to_str=True)
    assert isinstance(container, dict)
    plain = {str(key): value for key, value in container.items()}
    assert digest(identity(plain)) == digest(identity(SHARED.config({"model": "plain"})))


def test_different_words_for_the_same_configuration_have_the_same_identity() -> None:
    ways: list[dict[str, Value]] = [
        {"model": "plain", "model.depth": "[1,1]", "optimizer.lr": 0.05},
        {"model": "plain", "model.depth": "[1, 1]", "optimizer.lr": 5e-2},
        {"model.depth": "[1,1]", "model.family": "plain", "optimizer.lr": 0.05},
        {"trainer.threads": 2, "optimizer.lr": 0.05, "model.depth": "[1,1]", "model": "plain"},
    ]
    assert len({digest(identity(SHARED.config(values))) for values in ways}) == 1


def test_a_fingerprint_is_the_one_that_earlier_versions_noted() -> None:
    content = {"b": [1, 2.5, None, True], "a": {"text": "é"}}
    assert digest(content) == digest(dict(reversed(content.items()))) == "faac88a99d71a0b6"
    assert digest(content) != digest({**content, "b": [1, 2.5, None, False]})


# ---- what is costed is what is trained


CLOSING = ["trainer.threads=3", "trainer.test=false"]
GROUP_FILES = {  # of a user's own, in a folder given by --config-dir
    "model/mine": "defaults: [residual]\nwidth: ${trainer.batch_size}\nhidden: ${.width}\n",
    "model/data": "family: plain\nwidth: 4\nhidden: ${data.split_seed}\ndepth: [1, '${trainer.epochs}']\n",
    "optimizer/mine": "name: sgd\nlr: 0.05\nmomentum: ${model.bottleneck}\n",
    "experiment/crossing": "# @package _global_\n"
    "defaults:\n  - override /model: mine\n  - override /scheduler: step\n"
    "budget:\n  params: ${oc.env:TINYSWEEP_TRY_LIMIT}\nscheduler:\n  gamma: ${optimizer.momentum}\n",
    "experiment/chained": "# @package _global_\ndefaults:\n  - override /optimizer: mine\n"
    "model:\n  hidden: ${data.split_seed}\ndata:\n  split_seed: ${trainer.seed}\n"
    "trainer:\n  seed: ${oc.decode:${oc.env:TINYSWEEP_TRY_SEED}}\n",
}

FIXED = [
    "model.hidden=${trainer.batch_size}",
    "data.limit=${trainer.batch_size}",
    "budget.params=${oc.env:TINYSWEEP_TRY_LIMIT}",
    "trainer.epochs=${scheduler.step_epochs}",
    "scheduler.step_epochs=${model.stem_kernel}",
    "trainer.clean_epochs=${trainer.threads}",
    "trainer.seed=${trial}",
    "trainer.seed=${hydra:job.num}",
    "+hydra.job.env_set.TINYSWEEP_TRY_SEED=5",
    "experiment=crossing",
    "experiment=chained",
    "model.width=auto",
    "augmentation=none",
]
SEARCHED: dict[str, Sequence[Value]] = {
    "model": ["plain", "residual", "mine", "data", "'era_seed'"],
    "optimizer": ["adamw", "mine"],
    "trainer.batch_size": [2, 8, "'16'", "${model.stem_kernel}"],
    "trainer.epochs": [3, 4],
    "trainer.seed": [1, "${oc.env:TINYSWEEP_TRY_SEED}"],
    "model.stem_kernel": [3, 5],
    "model.width": [4, "auto", "${model.kernel}"],
    "model.hidden": [0, "${trainer.batch_size}", "${hydra:job.num}", "${data.split_seed}"],
    "model.depth": ["[1,1]", "[1,${model.kernel}]"],
    "scheduler.name": ["'step'", "constant", "${oc.env:TINYSWEEP_TRY_SCHEDULE}"],
    "data.split_seed": [0, 7],
    "budget.params": [9000, "${trainer.seed}000"],
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HydraContext, DictConfig]]:
    """What Hydra hands to a sweeper whose user has groups of their own."""
    folder = tmp_path_factory.mktemp("conf")
    for name, content in GROUP_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(content)
    register_schema()
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        running = GlobalHydra.instance().hydra
        assert running is not None
        words = [f"hydra.searchpath=[file://{folder}]", f"hydra.sweep.dir={folder}/sweep",
                 "hydra/launcher=basic"]  # fmt: skip
        master = running.compose_config("config", words, RunMode.MULTIRUN)
        yield HydraContext(config_loader=running.config_loader, callbacks=Callbacks()), master


Job = Callable[[list[str], int], Config | ConfigError]


@pytest.fixture
def job(context: tuple[HydraContext, DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """What a job, launched by Hydra's own launcher, has as its configuration; or why it refuses it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYSWEEP_TRY_LIMIT", "12345")
    monkeypatch.setenv("TINYSWEEP_TRY_SEED", "9")
    monkeypatch.setenv("TINYSWEEP_TRY_SCHEDULE", "step")

    def run(overrides: list[str], number: int) -> Config | ConfigError:
        launcher = BasicLauncher()
        launcher.setup(hydra_context=context[0], task_function=to_config, config=context[1])
        try:
            (returned,) = launcher.launch([overrides], number)
            config: Config = returned.return_value
        except COMPOSITION_ERRORS as error:
            return ConfigError(str(error))
        except ConfigError as error:
            return error
        return config

    return run


def require_same(composer: Composer, values: dict[str, Value], job: Job, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a trial may be trained. If so, its job has the configuration that was costed, as it is typed and as
    it is launched, in another environment; else the job would refuse it too."""
    words, end = [override(name, value) for name, value in values.items()], [*composer.closing, "trial=6"]
    found = job([*composer.fixed, *words, *end], 6)
    if isinstance(found, ConfigError):
        with pytest.raises(ConfigError):
            composer.config(values, 6)
        return False
    costed = composer.config(values, 6)
    assert found == costed, values
    launched = composer.overrides(values, costed)
    for name in ("LIMIT", "SEED", "SCHEDULE"):
        monkeypatch.setenv(f"TINYSWEEP_TRY_{name}", "77" if name != "SCHEDULE" else "linear")
    again = job([*composer.fixed, *launched, *end], 41)
    assert again == costed, values
    return True


@pytest.mark.parametrize(("seed", "allowed"), [(5, True), (12, False), (27, True), (30, True), (37, True)])
def test_a_job_composes_what_was_costed(
    seed: int,
    allowed: bool,
    context: tuple[HydraContext, DictConfig],
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = random.Random(seed)
    fixed = generator.sample(FIXED, 3)
    composer = Composer(context[0].config_loader, context[1], fixed, CLOSING)
    names = sorted(generator.sample(sorted(SEARCHED), 4), key=lambda name: "." in name)
    values = {name: generator.choice(SEARCHED[name]) for name in names}
    assert require_same(composer, values, job, monkeypatch) is allowed


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["model=plain", "trainer.epochs=3"], ["trainer.epochs=9", "model.depth=[1,2]", "data.limit=null"]),
        (["augmentation.rotation_degrees=33", "model=plain"], ["augmentation=light"]),
        (["scheduler=cosine"], ["scheduler.gamma=0.25", "scheduler=step"]),  # the group comes first all the same
        (["experiment=era_seed"], []),
    ],
)
def test_a_configuration_is_changed_as_the_command_line_would(words: list[str], changes: list[str]) -> None:
    assert apply_overrides(compose(*words), changes, words) == compose(*words, *changes)


@pytest.mark.parametrize(
    "word", ["+a.b=1", "~trainer.epochs", "experiment=era_seed", "trainer={epochs:3}", "model.widht=3"]
)
def test_what_is_no_change_of_a_setting_is_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        apply_overrides(Config(), [word], [])
