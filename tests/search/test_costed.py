"""What is costed is what is trained: whatever way a value comes about, a trial's job composes the configuration
that its sweep has counted."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from tinysweep.errors import ConfigError
from tinysweep.search.compose_trial import Composer
from tinysweep.search.space import Value, override
from tinysweep.settings.compose import COMPOSITION_ERRORS, CONFIG_FOLDER, register_schema, typed
from tinysweep.settings.schema import Config

CLOSING = ["trainer.threads=3", "trainer.test=false"]
CHOICES = {  # of a user's own, in a folder given by --config-dir
    "model/mine": "defaults: [residual]\nwidth: ${trainer.batch_size}\nhidden: ${.width}\n",
    "model/data": "family: plain\nwidth: 4\nhidden: ${data.split_seed}\ndepth: [1, '${trainer.epochs}']\n",
    "optimizer/mine": "name: sgd\nlr: 0.05\nmomentum: ${model.dropout}\n",
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
    for name, content in CHOICES.items():
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
        launcher.setup(hydra_context=context[0], task_function=typed, config=context[1])
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
