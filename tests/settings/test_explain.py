"""What Hydra and OmegaConf object to, through real composition: one line with key, value, rule and advice. So a
sentence of Hydra's that reads otherwise fails here first."""

from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.errors import MissingConfigException
from omegaconf import DictConfig

from tinysweep.errors import ConfigError
from tinysweep.settings.compose import compose, register_schema
from tinysweep.settings.explain import GROUPS, explain, nearest, require_words, settings
from tinysweep.settings.launchers import own_launchers, require_launcher
from tinysweep.settings.schema import Device
from tinysweep.settings.searchpath import CONFIG_FOLDER
from tinysweep.settings.section import type_in_words
from tinysweep.settings.stored import flatten


def explained(*overrides: str) -> str:
    """The line for overrides that are refused."""
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---- the nearest key


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("model.widht", "model.width"),
        ("mdoel.width", "model.width"),
        ("modle.widht", "model.width"),
        ("trainer.epoch", "trainer.epochs"),
        ("trainer.batchsize", "trainer.batch_size"),
        ("optimizer.weight_deacy", "optimizer.weight_decay"),
        ("data.validaton", "data.validation"),
        ("modle", "model"),
        ("optimiser", "optimizer"),
        # a bare setting, or one under the wrong section, is found by its own name
        ("epochs", "trainer.epochs"),
        ("lr", "optimizer.lr"),
        ("seed", "trainer.seed"),
        ("dropoutt", "dropout"),
        ("model.rate", "dropout.rate"),
        ("model.lr", "optimizer.lr"),
        ("optimizer.batch_size", "trainer.batch_size"),
        # those of a search without what goes before them
        ("n_trial", "hydra.sweeper.n_trials"),
        ("study_name", "hydra.sweeper.study_name"),
        ("objective", "hydra.sweeper.objective"),
        ("hydra.max_seconds", "hydra.sweeper.max_seconds"),
        ("batch_size", "trainer.batch_size"),
        ("sampler", "hydra/sweeper/sampler=tpe"),
        ("n_jobs", "hydra.launcher.n_jobs"),
        ("sweep", "sweeps"),
        # of several settings of one name, the one in the section that was meant
        ("data.nmae", "data.name"),
        ("schedulr.name", "scheduler.name"),
    ],
)
def test_a_typo_gets_the_key_that_was_meant(wrong: str, right: str) -> None:
    assert nearest(wrong) == f"did you mean {right}?"


@pytest.mark.parametrize("nonsense", ["foo", "model.foo", "zzz.qqq", "x", ""])
def test_nonsense_gets_the_list_of_keys_instead_of_a_guess(nonsense: str) -> None:
    assert nearest(nonsense) == "tinysweep --cfg job shows every key"


def test_every_proposal_is_a_valid_key() -> None:
    for key in settings():
        assert nearest(key) == f"did you mean {key}?"


def test_a_launcher_that_is_not_there_is_refused_with_those_that_are() -> None:
    def refused(choice: str) -> str:
        return explain(
            MissingConfigException("", f"hydra/launcher/{choice}", ("basic", "joblib", "ray", "submitit"))
        )

    assert refused("jobli").endswith(
        "must be one of basic, joblib, ray, submitit; did you mean hydra/launcher=joblib?"
    )
    for choice in ("submitit_local", "submitit_slurm"):
        assert refused(choice).endswith("did you mean hydra/launcher=submitit?")


def test_beginnings_of_hydras_options_are_let_through() -> None:
    require_words(["--cfg", "job", "--multi", "--config-d=x", "model=plain", "-m", "name=--x"])


# ---- types in words


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (int | None, "a whole number or null"),
        (int | str, "a whole number or auto"),
        (list[int], "a list such as [1,2,1], each a whole number"),
        (Device, "one of auto, cpu, cuda, mps"),
    ],
)
def test_types_are_told_in_words(annotation: Any, words: str) -> None:
    assert type_in_words(annotation) == words


# ---- errors of composition

REFUSED = [
    # not a key, and the key that was meant
    ("model.widht=3", ["model.widht is not a setting", "did you mean model.width?"]),
    ("++model.widht=1", ["model.widht is not a setting", "did you mean model.width?"]),
    ("modle=plain", ["modle is not a setting", "did you mean model?"]),
    ("epochs=3", ["epochs is not a setting", "did you mean trainer.epochs?"]),
    ("n_trials=5", ["n_trials is not a setting; did you mean hydra.sweeper.n_trials?"]),
    ("+foo=1", ["foo is not a setting", "tinysweep --cfg job"]),
    ("+foo.bar=1", ["foo is not a setting"]),
    ("+model={foo:3}", ["model.foo is not a setting"]),
    ("model.dropout=0.2", ["model.dropout is not a setting; write dropout=head dropout.rate=VALUE"]),
    ("+model.dropout_at=stage", ["model.dropout_at is not a setting; write dropout=head, stage or block"]),
    # of another launcher than the chosen one, which is joblib
    (
        "hydra.launcher.jobs=4",
        [
            "hydra.launcher.jobs is not a setting of hydra/launcher=joblib",
            "it has n_jobs;",
            "hydra/launcher=submitit has jobs",
        ],
    ),
    (
        "hydra.launcher.ray.init.address=auto",
        ["hydra.launcher.ray.init.address is not", "it has n_jobs;", "hydra/launcher=ray has ray.init.address"],
    ),
    ("metrics.a.b=m:f", ["metrics.a.b=m:f: a metric's name has no dots; write metrics.a=m:f"]),
    # removed
    ("~trainer.seed", ["trainer.seed can't be removed", "leave out ~trainer.seed"]),
    ("~name", ["name can't be removed"]),
    ("~schema", ["schema can't be removed"]),
    ("~optimizer=sgd", ["optimizer can't be removed"]),
    ("~foo", ["'foo' does not exist"]),
    *((f"~{group}", [f"{group} can't be removed", f"leave out ~{group}"]) for group in GROUPS),
    # not a choice
    ("model=plane", ["model=plane must be one of ", "residual, separable", "did you mean model=plain?"]),
    ("optimizer=zzz", ["optimizer=zzz must be one of adamw, sgd"]),
    ("experiment=foo", ["experiment=foo must be one of", "era_seed"]),
    ("+experiment=era_seed", ["experiment=CHOICE", "without a +"]),
    ("dropout=0.2", ["a group takes one of its choices by name"]),
    ("model=null", ["a group takes one of its choices by name", "--help"]),
    ("trainer=1", ["a group takes one of its choices by name"]),
    ("optimizer=[sgd,adamw]", ["optimizer=[sgd,adamw]: a group takes one of its choices by name"]),
    ("experiment=[fast,thorough]", ["a group takes one of its choices by name"]),
    # not of the type
    ("dropout.rate=x", ["dropout.rate=x must be a number", "probability of dropping"]),
    ("trainer.epochs=1e3", ["trainer.epochs=1e3 must be a whole number", "passes over"]),
    ("trainer.epochs=true", ["trainer.epochs=true must be a whole number"]),
    ("trainer.epochs=null", ["trainer.epochs=null must be a whole number"]),
    ("trainer.epochs=", ["trainer.epochs= must be a whole number"]),
    ("++trainer.epochs=ten", ["trainer.epochs=ten must be a whole number"]),
    ("trainer.epochs=???", ["trainer.epochs must be given"]),
    ("trainer.epochs=${foo}", ["trainer.epochs: ", "'foo' not found"]),
    ("trainer.epochs=${name}", ["trainer.epochs", "default"]),
    ("trainer.test=maybe", ["trainer.test=maybe must be true or false"]),
    ("data.limit=2.5", ["data.limit=2.5 must be a whole number or null"]),
    ("data.root=null", ["data.root=null must be text"]),
    ("name=null", ["name=null must be text"]),
    ("model.family=pain", ["model.family=pain must be one of plain, residual, separable", "kind of block"]),
    ("model.width=wide", ["model.width=wide must be a number or auto"]),
    ("model.width=2.5", ["model.width=2.5 must be a whole number or auto"]),
    ("model.depth=3", ["model.depth=3 must be a list such as [1,2,1]"]),
    ("model.depth=[1,x]", ["model.depth=[1,x] must be a list such as [1,2,1], each a whole number"]),
    ("model.depth=[null]", ["model.depth=[null]", "each a whole number"]),
    ("model.depth={a:1}", ["model.depth={a:1}", "must be a list"]),
    ("model.depth=[[1,2],[1]]", ["model.depth=[[1, 2], [1]] must be a list such as [1,2,1]"]),
    # not an override
    ("model.width=[1", ["'model.width=[1'", "can't be read", "KEY=VALUE"]),
    ("model.width", ["'model.width'", "can't be read", "KEY=VALUE"]),
    ("model.width=1,2", ["model.width=1,2", "-m for a multirun", "brackets for a list"]),
    # outside the range, or against another setting
    ("dropout.rate=1.5", ["dropout.rate=1.5 must lie in [0, 1)", "probability of dropping"]),
    ("dropout.rate=0.2", ["dropout.rate=0.2 is read only by dropout=head or stage or block, not by dropout=none"]),
    (
        "data.image_size=20",
        [
            "data.image_size=20 is read only by data=image_folder, not by data=mnist, which reads data.root, ",
            " limit, download; leave it out",
        ],
    ),
    ("model.width=-3", ["model.width=-3 must lie in [1, 100000]", "auto is the widest"]),
    ("model.depth=[1,0]", ["model.depth=[1, 0] must lie in [1, 100]"]),
    ("optimizer.lr=inf", ["optimizer.lr=inf", "(0, 1000]"]),
    ("optimizer.momentum=0", ["optimizer.nesterov=true", "optimizer.momentum"]),
    ("trainer.clean_epochs=15", ["trainer.clean_epochs=15 must not exceed trainer.epochs=14"]),
    ("model.padding=false", ["model.padding=false must be true", "residual"]),
    ("name=a/b", ["name='a/b' must be usable as a folder name"]),
    ("data=image_folder", ["data.root= must name a folder"]),
]


@pytest.mark.parametrize(("override", "words"), REFUSED)
def test_an_override_that_is_refused_is_explained(override: str, words: list[str]) -> None:
    line = explained(override)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("launcher", [*own_launchers(), "basic"])
def test_a_setting_of_no_launcher_is_refused_with_those_of_the_chosen_one(launcher: str) -> None:
    line = explained(f"hydra/launcher={launcher}", "hydra.launcher.workers=2")
    composed = composed_launcher(launcher)
    settings = [key for key in flatten(composed) if not key.startswith("_")]
    assert all(key in line for key in settings), line
    if launcher != "basic":
        assert f"hydra.launcher.workers is not a setting of hydra/launcher={launcher}" in line


@pytest.mark.parametrize(
    ("launcher", "overrides", "said"),
    [
        ("joblib", ["+hydra.launcher.workers=2"], "workers is not a setting of hydra/launcher=joblib; "),
        ("ray", ["+hydra.launcher.n_jobs=2"], "hydra/launcher=joblib has n_jobs"),
        ("ray", ["+hydra.launcher.ray.num_gpus=1"], "hydra.launcher.ray.num_gpus is not a setting"),
        (
            "ray",
            ["hydra.launcher.ray.remote=2"],
            "ray.remote=2 must be a section with keys of its own: num_cpus, ",
        ),
        ("joblib", ["~hydra.launcher.n_jobs"], "hydra.launcher.n_jobs can't be removed"),
        ("ray", ["+hydra.launcher.ray.remote.num_gpus=0.5", "hydra.launcher.ray.remote.num_cpus=2"], None),
        ("ray", ["hydra.launcher.ray.init=null"], None),
        ("submitit", ["+hydra.launcher.parameters.slurm_partition=cpu"], None),
        ("basic", ["+hydra.launcher.workers=2"], None),  # Hydra's own, of which no file of ours tells
    ],
)
def test_a_launcher_has_its_own_settings_and_what_it_passes_on(
    launcher: str, overrides: list[str], said: str | None
) -> None:
    node = composed_launcher(launcher, *overrides)
    if said is None:
        require_launcher(node)
        return
    with pytest.raises(ConfigError) as caught:
        require_launcher(node)
    assert said in str(caught.value)


def test_what_a_launcher_passes_on_may_be_added_with_a_plus() -> None:
    line = explained("hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0.5")
    assert line.endswith("is added with a +: +hydra.launcher.ray.remote.num_gpus=VALUE")


def composed_launcher(name: str, *overrides: str) -> DictConfig:
    register_schema()
    words = ["hydra.sweeper.study_name=s", f"hydra/launcher={name}", *overrides]
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        node: DictConfig = hydra.compose("config", overrides=words, return_hydra_config=True).hydra.launcher
    return node


@pytest.mark.parametrize("override", ["optimizer=zzz", "experiment=zzz"])
def test_a_choice_like_no_other_gets_no_guess(override: str) -> None:
    assert "did you mean" not in explained(override)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model:\n  widht: 3", ["experiment/mine.yaml: model.widht is not a setting", "mean model.width?"]),
        ("trainer:\n  epochs: ten", ["experiment/mine.yaml: trainer.epochs=ten must be a whole number"]),
        ("model:\n  depth: [1, x]", ["experiment/mine.yaml: model.depth[1]=x must be", "each a whole number"]),
        ("model: 3", ["experiment/mine.yaml: ", "3"]),
        ("defaults:\n  - override /model: plane", ["model=plane must be one of", "did you mean model=plain?"]),
        ("model: [", ["mine.yaml, line 3: "]),
        ("- model", ["experiment/mine.yaml: must hold settings by name"]),
        ("3", ["mine.yaml: must hold settings by name"]),
    ],
)
def test_a_mistake_in_a_file_is_explained_with_the_name_of_the_file(
    tmp_path: Path, content: str, words: list[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    line = explained(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# @package _global_\nname: \xe9t\xe9\n", "mine.yaml: byte 0xe9 is not UTF-8; save the file"),
        (b"name: mine\n", "experiment/mine.yaml: its first line must be # @package _global_"),
    ],
)
def test_a_file_that_hydra_cannot_read_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    assert said in explained(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")


@pytest.mark.parametrize("overrides", [[], ["experiment=era_seed"], ["~experiment"], ["model={width:3}"]])
def test_what_the_schema_holds_is_let_through(overrides: list[str]) -> None:
    assert compose(*overrides)
