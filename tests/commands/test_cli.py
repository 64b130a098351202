"""The commands tinysweep and tinysweep-inspect: what they print, leave behind and exit with, in every case."""

import csv
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import tinysweep
from conftest import Command
from tinysweep.commands import cli, inspect, train
from tinysweep.errors import DataError
from tinysweep.settings.explain import require_schema
from tinysweep.settings.schema import Config, from_dictconfig
from tinysweep.settings.searchpath import CONFIG_FOLDER

SMALL = ["model.width=2", "data.validation=100", "trainer.epochs=1", "trainer.clean_epochs=0", "trainer.threads=1"]


def start(*arguments: str, module: str = "tinysweep.commands.train", **options: Any) -> "subprocess.Popen[str]":
    """A command as a process of its own, in the current folder."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, **options,
    )  # fmt: skip


def only_folder(place: Path, pattern: str) -> Path:
    folders = list(place.glob(pattern))
    assert len(folders) == 1, folders
    return folders[0]


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return record


# ---- refusals

TWO = ["trainer.seed=0,1"]
WRONG = [
    (["model.widht=3"], ["model.widht is not a setting", "did you mean model.width?"]),
    (["+model.foo=1"], ["model.foo is not a setting"]),
    (["~trainer.seed"], ["trainer.seed can't be removed", "leave out ~trainer.seed"]),
    (["~optimizer=sgd"], ["optimizer can't be removed"]),
    (["model=null"], ["a group takes one of its choices by name"]),
    (["+model=[plain]"], ["+model=[plain]: a group takes one of its choices by name"]),
    (["hydra/launcher=[basic]"], ["a group takes one of its choices by name"]),
    (["hydra.job_logging=none"], ["hydra.job_logging=none must be a choice of a group", "hydra/job_logging=none"]),
    (["trainer.epochs=1.5"], ["trainer.epochs=1.5 must be a whole number"]),
    (["name=${foo}"], ["'foo' not found"]),
    (["data.root=[mysql://me:secret@host/name"], ["'data.root=[mysql://me:***@host/name' can't be read"]),
    (["model.width=1,2"], ["model.width=1,2", "-m for a multirun"]),
    (["optimizer.lr=nan"], ["optimizer.lr=nan must lie in (0, 1000]", "peak learning rate"]),
    # options
    (["--epochs", "5"], ["--epochs is not an option", "did you mean trainer.epochs=5?"]),
    (["--batch-size=64"], ["--batch-size is not an option", "did you mean trainer.batch_size=64?"]),
    (["--model.width", "--multirun"], ["--model.width is not an option", "did you mean model.width=VALUE?"]),
    (["--frobnicate"], ["--frobnicate is not an option; settings are given as KEY=VALUE\n"]),
    (["--storage=mysql://me:secret@host/name"], ["hydra.sweeper.storage=mysql://me:***@host/name"]),
    # of a search
    (["-m"], ["nothing to search", "model.width=4,8", "needs no -m"]),
    (["-m", "model.width=4"], ["nothing to search", "needs no -m"]),
    (["-m", *TWO, "~trainer.test"], ["trainer.test can't be removed"]),
    (["-m", "optimizer=sgd,adamw", "~schema"], ["schema can't be removed"]),
    (["-m", "model=plain,residual", "~model"], ["model can't be removed"]),
    (["-m", *TWO, "trainer=[1]"], ["trainer=[1]: a group takes one of its choices by name"]),
    (["-m", "sweeps=[quick]"], ["a group takes one of its choices by name"]),
    (["-m", *TWO, "+new.key=1,2"], ["new is not a setting"]),
    (["-m", *TWO, "hydra.sweeper.direction=maximize"], ["direction is not a setting; leave it out"]),
    (["-m", *TWO, "+hydra.sweeper.n_jobs=2"], ["n_jobs is not a setting; did you mean hydra.launcher.n_jobs?"]),
    (["-m", "hydra.sweeper.params.model.width=range(2,9)"], ["by its own name: model.width=A,B"]),
    (["-m", "hydra.sweeper.params={model.width:[4,8]}"], ["must be a sweep; write model.width: "]),
    (["-m", *TWO, "hydra.sweeper.objective=accuracy"], ["did you mean validation_accuracy?", "macs, "]),
    (["-m", *TWO, "hydra.sweeper.objective=test_accuracy"], ["no search reads the test set"]),
    (["-m", *TWO, "hydra.sweeper.sampler=random"], ["hydra/sweeper/sampler=random"]),
    (["-m", *TWO, "hydra.sweeper.pruner=null"], ["hydra.sweeper.pruner=null", "hydra/sweeper/pruner=NAME"]),
    (["-m", *TWO, "hydra.launcher=basic"], ["hydra.launcher=basic", "hydra/launcher=basic"]),
    (["-m", *TWO, "hydra.sweeper=budget"], ["hydra.sweeper=budget", "hydra/sweeper=budget"]),
    (["-m", "model.depth=[[1,2],[1]],[1]"], ["model.depth=[[1, 2], [1]] must be a list such as [1,2,1]"]),
    # against the data
    (["model.depth=[1,1,1,1,1,1,1]"], ["model.depth", "no pixels left", "fewer stages"]),
    (["data.root=nowhere", "data.download=false"], ["nowhere", "download is off", "data.root"]),
    (["data=image_folder", "data.root=nowhere"], ["data.root=nowhere", "there is no such folder"]),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    command: Command, place: Path, arguments: list[str], words: list[str]
) -> None:
    ended = command(*arguments)
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    assert all(word in ended.err for word in words), ended.err
    assert not list(place.iterdir())


@pytest.mark.parametrize("choice", ["null", "[sgd,adamw]"])
def test_a_group_that_a_defaults_list_gives_no_one_choice_is_a_mistake(
    command: Command, place: Path, choice: str
) -> None:
    recipe = place / "mine" / "experiment" / "bare.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# @package _global_\ndefaults:\n  - override /optimizer: " + choice + "\n")
    for many in ([], ["-m", "trainer.seed=0,1"]):
        ended = command("--config-dir", "mine", "experiment=bare", *many)
        assert ended.status == 1
        assert ended.err.startswith("error: optimizer must be one choice, "), ended.err
    assert list(place.iterdir()) == [place / "mine"]


@pytest.mark.parametrize("main", [train.main, inspect.main])
def test_what_a_run_would_write_into_is_left_as_it_was(
    command: Command, place: Path, main: Callable[[], None]
) -> None:
    Path("mine/run").mkdir(parents=True)
    for folder in ("mine/run", "mine/run/new/of/it", "mine/other"):
        assert command(f"hydra.run.dir={folder}", "model.width=400", main=main).status == 1
        assert [str(path.relative_to(place)) for path in sorted(place.rglob("*"))] == ["mine", "mine/run"]


@pytest.mark.parametrize("fault", [ValueError("ours"), TypeError("ours"), OSError("ours")])
def test_a_fault_of_the_sweeper_itself_keeps_its_traceback(
    command: Command, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def stumble(*_: object) -> NoReturn:
        raise fault

    monkeypatch.setattr("tinysweep.search.plan.read_space", stumble)
    with pytest.raises(type(fault), match="ours"):
        command("-m", *TWO)


def test_a_group_without_a_choice_may_be_removed(command: Command) -> None:
    assert command("~experiment", "~sweeps", main=inspect.main).status == 0


def test_more_validation_images_than_there_are_is_a_mistake(
    command: Command, place: Path, mnist_root: Path
) -> None:
    ended = command("data.validation=60000", f"data.root={mnist_root}", *SMALL[:1], *SMALL[2:])
    assert ended.status == 1
    assert re.fullmatch(r"error: data\.validation=60000 must .*\n", ended.err), ended.err
    assert not list(place.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_a_mistake(command: Command, place: Path) -> None:
    ended = command("trainer.device=cuda")
    assert ended.status == 1
    assert re.fullmatch(r"error: trainer\.device=cuda is not available .*\bcpu\b.*\n", ended.err), ended.err
    assert not list(place.iterdir())


def test_a_refusal_over_budget_names_the_costliest_layers_and_the_widest_width(
    command: Command, place: Path
) -> None:
    ended = command("model.width=100")
    assert ended.status == 1
    first, *layers, advice = ended.err.splitlines()
    cost = re.match(
        r"error: over budget at model\.width=100: ([\d,]+) trainable parameters, .*params=20000$", first
    )
    assert cost
    costs = [int(re.match(r" *([\d,]+) params ", line)[1].replace(",", "")) for line in layers]  # type: ignore[index]
    assert len(costs) == 3
    assert costs == sorted(costs, reverse=True)
    assert sum(costs) > int(cost[1].replace(",", "")) / 2, "the costliest, not just any"
    widest = int(re.search(r"widest that fits is model\.width=(\d+)", advice)[1])  # type: ignore[index]
    assert "within budget" in command(f"model.width={widest}", main=inspect.main).out
    assert "over budget" in command(f"model.width={widest + 1}", main=inspect.main).out
    assert not list(place.iterdir())


def test_a_budget_that_no_width_fits_is_refused_with_what_else_to_change(command: Command, place: Path) -> None:
    ended = command("budget.params=10")
    assert ended.status == 1
    assert re.match(r"error: over budget at model\.width=1: .*fewer than budget\.params=10\n", ended.err)
    assert "no width fits" in ended.err.splitlines()[-1]
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    "override", ["dropout.rate=1.5", "model.widht=3", "trainer.epochs=${foo}", "model.width=100"]
)
def test_a_traceback_is_shown_to_those_who_ask(
    place: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["tinysweep", override])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception):  # noqa: B017, PT011 SystemExit is no Exception
        train.main()
    assert not list(place.iterdir())


def test_an_error_in_the_program_is_not_taken_for_a_mistake_of_the_user(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("tinysweep.run.run.run", broken)
    with pytest.raises(ValueError, match="a bug"):
        command()


def test_folders_that_were_there_before_stay(command: Command, place: Path) -> None:
    kept = place / "outputs" / "runs" / "kept"
    kept.mkdir(parents=True)
    assert command("dropout.rate=1.5").status == 1
    assert list(place.rglob("*")) == [place / "outputs", place / "outputs" / "runs", kept]
    assert command("dropout.rate=1.5", "hydra.run.dir=.").status == 1
    assert place.is_dir()


@pytest.mark.filterwarnings("error:ConfigStore")
def test_a_process_may_run_commands_one_after_another(command: Command) -> None:
    first, second = command("--cfg", "job"), command("--cfg", "job", "model.width=3")
    assert first.status == second.status == 0
    assert first.out != second.out


# ---- help and settings


def lines_of_help(text: str, start: str) -> list[str]:
    """What the help gives to type: the lines that start so, without their explanation."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(start)]
    return [re.split(r"\s{2,}", line)[0] for line in lines]


def test_help_shows_groups_their_choices_and_examples_that_compose(command: Command, place: Path) -> None:
    ended = command("--help")
    assert ended.status == 0
    choices: dict[str, str] = dict(re.findall(r"^(\w+): (.+)$", ended.out, re.MULTILINE))
    for file in CONFIG_FOLDER.glob("*/*.yaml"):
        if file.parent.name != "hydra":
            assert file.stem in choices[file.parent.name].split(", "), file
    examples = [
        example.split()[1:]
        for example in lines_of_help(ended.out, "tinysweep ")
        if not re.search(r"finds|STUDY", example)
    ]
    examples += [example.split()[1:] for example in lines_of_help(ended.out, "tinysweep-inspect ")]
    overrides = [
        line.split() for line in lines_of_help(ended.out, "trainer.") + lines_of_help(ended.out, "model.")
    ]
    assert len(examples) > 4
    assert len(overrides) > 4
    ConfigStore.instance().store(name="schema", node=Config, replace=True)
    with initialize_config_dir(str(CONFIG_FOLDER)):
        for given in examples + overrides:
            words = [word for word in given if word not in ("--cfg", "job", "-m")]
            parsed = OverridesParser.create().parse_overrides(words)
            single = [word for word, each in zip(words, parsed, strict=True) if not each.is_sweep_override()]
            composed = compose("config", overrides=single)
            require_schema(composed)
            assert from_dictconfig(composed)
    assert not list(place.iterdir())


def test_the_settings_are_printed_whole_and_can_be_read_back(command: Command, place: Path) -> None:
    ended = command("--cfg", "job", "model.width=7", "experiment=era_seed")
    assert ended.status == 0
    shown = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(ended.out))
    settings = OmegaConf.to_object(shown)
    assert isinstance(settings, Config)
    assert settings.model.width == 7
    assert settings.name == "era_seed"
    assert OmegaConf.create(ended.out).keys() == asdict(settings).keys()
    assert not list(place.iterdir())


TORCH_PROBE = """
import sys
from tinysweep.commands.{module} import main
try:
    main()
finally:
    print("torch imported:", "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("module", "arguments", "status"),
    [("train", ["--help"], 0), ("train", ["model.widht=3"], 1), ("inspect", ["dropout.rate=1.5"], 1)],
)
def test_neither_help_nor_a_refusal_waits_for_torch(
    place: Path, module: str, arguments: list[str], status: int
) -> None:
    program = [sys.executable, "-c", TORCH_PROBE.format(module=module), *arguments]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == status, ended.stderr
    assert ended.stdout.endswith("torch imported: False\n")
    assert not list(place.iterdir())


def test_the_package_runs_as_a_module(place: Path) -> None:
    with start("model.widht=3", module="tinysweep") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: model.widht is not a setting")
    assert not list(place.iterdir())


@pytest.mark.parametrize(("name", "main"), [("tinysweep", train.main), ("tinysweep-inspect", inspect.main)])
def test_the_installed_commands_are_these(name: str, main: Callable[[], None]) -> None:
    assert importlib.metadata.entry_points(group="console_scripts")[name].load() is main


# ---- inspect


def test_inspect_counts_the_baseline_and_leaves_no_files(command: Command, place: Path) -> None:
    ended = command("model=era_seed", main=inspect.main)
    assert ended.status == 0
    total = ended.out.splitlines()[-2]
    assert total.split()[:2] == ["total", "19,349"]
    assert "within budget" in ended.out.splitlines()[-1]
    assert not list(place.iterdir())


def test_inspect_shows_a_model_over_budget_all_the_same(command: Command, place: Path) -> None:
    ended = command("model=era_seed", "budget.params=19349", main=inspect.main)
    assert ended.status == 1
    assert "19,349" in ended.out.splitlines()[-2]
    assert "over budget: 19,349 trainable parameters" in ended.out.splitlines()[-1]
    assert not list(place.iterdir())


def test_inspect_has_a_help_of_its_own_whose_examples_compose(command: Command, place: Path) -> None:
    for word in ("--help", "-h"):
        ended = command(word, main=inspect.main)
        assert ended.status == 0
        assert ended.out.startswith("usage: tinysweep-inspect ")
    examples = [line.split()[1:] for line in lines_of_help(ended.out, "tinysweep-inspect ")]
    assert len(examples) > 3
    for example in examples:
        assert command(*example, main=inspect.main).status == 0
    assert not list(place.iterdir())


@pytest.mark.parametrize("words", [["-m", "model.width=2,4"], ["--multirun"], ["hydra.mode=MULTIRUN"]])
def test_inspect_shows_one_model_alone(command: Command, place: Path, words: list[str]) -> None:
    ended = command(*words, main=inspect.main)
    assert (ended.status, ended.out) == (1, "")
    assert re.fullmatch("error: tinysweep-inspect shows one model; leave out -m.*\n", ended.err), ended.err
    assert not list(place.iterdir())


# ---- sweepers that aren't ours

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-m", "hydra/sweeper=optuna"], "hydra/sweeper=optuna"),
        (["-m", "hydra/sweeper=basic"], "hydra/sweeper=basic"),
        (["hydra.mode=MULTIRUN", "hydra/sweeper=basic"], "hydra/sweeper=basic"),
        (["-m", f"hydra.sweeper._target_={BASIC}"], f"hydra.sweeper._target_={BASIC}"),
        (["-m", "hydra.sweeper._target_=no.such.Sweeper"], "hydra.sweeper._target_=no.such.Sweeper"),
    ],
)
def test_a_sweep_by_another_sweeper_is_refused_before_it_begins(
    command: Command, place: Path, words: list[str], named: str
) -> None:
    ended = command(*words, "trainer.seed=0", "hydra/launcher=basic", "hydra.sweep.dir=swept")
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith(f"error: {named} must be left out: only tinysweep's own sweeper"), ended.err
    assert not list(place.iterdir())


def test_a_job_of_another_sweeper_trains_nothing(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinysweep.run.run.run", lambda *_: pytest.fail("it was trained"))
    words = ["hydra/launcher=basic", "hydra.sweep.dir=swept", "trainer.seed=0,1", "~hydra.callbacks.tinysweep"]
    ended = command("-m", "hydra/sweeper=basic", *words)
    assert ended.status == 1
    assert "error: hydra/sweeper=basic must be left out" in ended.err
    assert not list(place.rglob("record.json"))


def test_hydra_calls_back_before_it_makes_a_folder_or_a_sweeper(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []
    monkeypatch.setattr("tinysweep.run.run.run", lambda *_: pytest.fail("it was trained"))
    monkeypatch.setattr(cli, "require_groups", lambda _: stages.append(cli.Hooks.stage))
    monkeypatch.setattr(cli, "to_config", lambda _: pytest.fail(f"stopped, {tinysweep.new_folders}"))
    with pytest.raises(BaseException, match=r"stopped, \['.*default', .*outputs/runs.*"):
        command()
    assert stages == ["composed"]


def test_hydra_full_error_is_as_it_was_once_a_command_has_ended(command: Command) -> None:
    assert command("model.widht=3").status == 1
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert command("--cfg", "job").status == 0
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_another_sweeper_is_of_no_account_to_a_single_run(command: Command) -> None:
    assert command("hydra/sweeper=basic", main=inspect.main).status == 0


# ---- whole runs


@pytest.mark.slow
def test_a_run_prints_its_result_and_leaves_its_record(place: Path, mnist_root: Path) -> None:
    overrides = [
        "data.limit=512", "data.validation=256", "trainer.epochs=1", "trainer.threads=1", "name=first",
        f"data.root={mnist_root}", "data.download=false",
    ]  # fmt: skip
    with start(*overrides) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    folder = only_folder(place, "outputs/runs/*/*-first")
    files = {"config.yaml", "curves.png", "history.csv", "model.pt", "record.json", "test_predictions.csv"}
    assert {file.name for file in folder.iterdir()} == files

    record = record_of(folder)
    metrics = record["metrics"]
    assert record["state"] == "complete"
    assert record["overrides"] == overrides
    assert record["cost"]["params"] < 20000
    rows = dict(re.findall(r"^([a-z]+(?: [a-z]+)?) {2,}(.+)$", out, re.MULTILINE))
    assert rows["parameters"].startswith(f"{record['cost']['params']:,} ")
    assert rows["validation accuracy"] == f"{100 * metrics['validation_accuracy']:.2f}%"
    assert rows["test accuracy"].startswith(f"{100 * metrics['test_accuracy']:.2f}% ")
    assert Path(rows["record"]) == folder
    assert len(re.findall(r"^epoch 1/1 ", out, re.MULTILINE)) == 1

    saved = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(folder / "config.yaml"))
    assert isinstance(saved, DictConfig)
    assert asdict(from_dictconfig(saved)) == record["config"]
    assert record["config"]["data"]["limit"] == 512
    assert tinysweep.load(folder)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.slow
def test_a_multirun_leaves_a_record_for_each_value(command: Command, place: Path, mnist_root: Path) -> None:
    ended = command(
        "-m", "hydra/launcher=basic", "trainer.seed=0,1", f"data.root={mnist_root}", "data.limit=64", *SMALL
    )
    assert ended.status == 0, ended.err
    records = [record_of(file.parent) for file in place.glob("outputs/sweeps/trainer.seed-*/trials/*/record.json")]
    assert sorted(record["seed"] for record in records) == [0, 1]
    assert {record["state"] for record in records} == {"complete"}
    assert records[0]["metrics"] != records[1]["metrics"]
    assert {record["metrics"]["test_accuracy"] for record in records} == {None}
    assert ended.out.count("the best 1 of 1 configurations, each with the mean ± standard deviation") == 1
    assert "test accuracy" not in ended.out


@pytest.mark.slow
def test_a_folder_of_ones_own_holds_one_run_and_data_is_found_from_it(
    command: Command, place: Path, mnist_root: Path
) -> None:
    (place / "digits").symlink_to(mnist_root)
    words = ["data.root=digits", "data.download=false", "data.limit=64", "trainer.test=false", *SMALL]
    (place / "mine").mkdir()
    ended = command(*words, "hydra.run.dir=mine", "hydra.job.chdir=true")
    assert ended.status == 0, ended.err
    before = (place / "mine/record.json").read_bytes()
    for folder in ("mine", "./mine/../mine"):
        again = command(*words, f"hydra.run.dir={folder}")
        assert again.status == 1
        assert again.err.startswith("error: hydra.run.dir: ")
        assert "mine holds a run already; give another folder" in again.err
    assert (place / "mine/record.json").read_bytes() == before
    assert sorted(path.name for path in place.iterdir()) == ["digits", "mine"]
    assert command("hydra.run.dir=mine", main=inspect.main).status == 0, "it writes nothing"


@pytest.mark.slow
def test_ctrl_c_ends_a_run_and_keeps_its_epochs(place: Path, mnist_root: Path) -> None:
    many = ["data.limit=64", f"data.root={mnist_root}", *SMALL, "trainer.epochs=100000"]
    with start(*many) as process:
        assert process.stdout is not None
        try:
            printed = next((line for line in process.stdout if line.startswith("epoch")), "")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert printed
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    folder = only_folder(place, "outputs/runs/*/*-default")
    record = record_of(folder)
    assert record["state"] == "interrupted"
    assert record["epochs"] >= 1
    assert f"after epoch {record['epochs']} of 100000" in record["reason"]
    assert str(folder) in err
    with (folder / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == record["epochs"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_told_to_terminate_or_whose_terminal_closes_ends_like_one_interrupted(
    command: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr("tinysweep.run.run.run", lambda *_: signal.raise_signal(number))
    ended = command()
    assert ended.status == 130
    assert ended.err == "interrupted\n"


def test_a_signal_that_is_ignored_stays_ignored(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does

    def run_on(*_: object) -> NoReturn:
        signal.raise_signal(signal.SIGHUP)
        raise DataError("the run has gone on")

    monkeypatch.setattr("tinysweep.run.run.run", run_on)
    assert "the run has gone on" in command().err


def test_a_study_file_that_cannot_be_read_harms_only_who_asks_for_it(command: Command, place: Path) -> None:
    studies = {
        "broken": (b"trainer:\n  epochs: [1\nname: x\n", "sweeps/broken.yaml, line 3: "),
        "list": (b"- 1\n", "sweeps/list.yaml: must hold settings by name"),
        "number": (b"1\n", "sweeps/number.yaml: must hold settings by name"),
        "latin": (b"# caf\xe9\n", "sweeps/latin.yaml: byte 0xe9 is not UTF-8"),
        "folder": (None, "sweeps=folder must be one of"),
    }
    (place / "sweeps").mkdir()
    (place / "sweeps/mine.yaml").write_text("trainer: {epochs: 3}\n")
    for name, (content, _) in studies.items():
        file = place / "sweeps" / f"{name}.yaml"
        if content is None:
            file.mkdir()
        else:
            file.write_bytes(content)
    ended = command("--help")
    assert (ended.status, ended.err) == (0, "")
    assert re.search(r"sweeps: .*\bmine\b.*\bquick\b", ended.out)
    assert "epochs: 3" in command("sweeps=mine", "--cfg", "job").out
    for name, (_, said) in studies.items():
        ended = command("-m", f"sweeps={name}", "trainer.seed=0,1")
        assert ended.status == 1
        assert ended.err.startswith(f"error: {said}")
        assert ended.err.count("\n") == 1
    (place / "sweeps/mine.yaml").write_text("trainer: {epochs: [\n")
    assert command("sweeps=mine", "--cfg", "job").err.startswith("error: sweeps/mine.yaml, line "), "not as it was"
    (place / "sweeps/quick.yaml").write_text("- 1\n")
    assert "sweeps/quick.yaml" in command("sweeps=quick", "--cfg", "job").err, "one's own, not the project's"
