"""The final of a study: the real command on a real tiny study, what it leaves, and what it refuses."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from conftest import Command, Ended, made_images
from tinysweep.commands import final, train
from tinysweep.data.catalogue import DataShape
from tinysweep.data.folder import content_digest
from tinysweep.data.load import Images, load_test
from tinysweep.errors import DivergedError
from tinysweep.final import candidates as final_candidates
from tinysweep.final import runs as final_runs
from tinysweep.final.candidates import Job, Stage, time_in_words
from tinysweep.final.race import run_race
from tinysweep.final.results import read_final, validation_figures
from tinysweep.final.runs import Run
from tinysweep.final.settings import FinalConfig, read_words
from tinysweep.metrics import FURTHER
from tinysweep.results.verdict import compare, summarise
from tinysweep.run import run as run_module
from tinysweep.run.checkpoint import load
from tinysweep.run.record import RunFolder
from tinysweep.search.compose_trial import identity
from tinysweep.search.table import read_trials
from tinysweep.settings.compose import compose, register_schema, to_config
from tinysweep.settings.schema import Config, DataConfig, DataName, ModelConfig, Precision, TrainerConfig
from tinysweep.settings.searchpath import CONFIG_FOLDER
from tinysweep.training import loop as training
from tinysweep.training.score import Score

SHAPE = DataShape(1, 12, 3)
BASELINE_NAME = "era_seed"
STUDY = "outputs/sweeps/s"

Final = Callable[..., Ended]


def write_images(folder: Path) -> None:
    """48 images to train on and 15 to test, of 3 classes, as a data set of image files."""
    for part, images in {"train": made_images(48, 3, 12), "test": made_images(15, 3, 12, seed=1)}.items():
        for number, (image, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            path = folder / part / "abc"[int(label)] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)


def called(patch: pytest.MonkeyPatch, folder: Path, main: Callable[[], None], *words: str) -> None:
    """Run a command in this process and a folder, where no fixture for a single test can be used."""
    patch.chdir(folder)
    patch.setenv("HYDRA_FULL_ERROR", "0")
    patch.setattr(sys, "argv", ["tinysweep", *words])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, handler)
        GlobalHydra.instance().clear()


def swept(folder: Path, *words: str) -> None:
    """Make the study s in a folder, one job after the other."""
    with pytest.MonkeyPatch.context() as patch:
        called(patch, folder, train.main, "-m", "hydra.sweeper.study_name=s", "hydra/launcher=basic", *words)


TINY = [
    "data.validation=12",
    "trainer.epochs=1",
    "trainer.clean_epochs=0",
    "trainer.threads=1",
    "augmentation=none",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a study of 4 trials on them: three widths, one of them with another seed as well;
    its winner is retrained for 2 epochs."""
    folder = tmp_path_factory.mktemp("made")
    write_images(folder / "images")
    swept(
        folder, "data=image_folder", f"data.root={folder / 'images'}", "data.image_size=12", *TINY,
        "trainer.batch_size=12", "model.depth=[1,1]", "model.stem_kernel=3", "trainer.precision=fp32",
        "model.width=2,3,4", "trainer.seed=0", "hydra.sweeper.objective=validation_loss",
        "hydra.sweeper.retrain=['trainer.epochs=2']",
    )  # fmt: skip
    return folder


def baseline_config(root: Path) -> Config:
    """A recipe for the made images, which no experiment of conf/ is."""
    return Config(
        name=BASELINE_NAME,
        data=DataConfig(DataName.image_folder, root=str(root), validation=0, image_size=SHAPE.size),
        model=ModelConfig(width=2, depth=[1], stem_kernel=3),
        trainer=TrainerConfig(epochs=1, batch_size=12, threads=1, precision=Precision.fp32, seed=7),
    )


def composed(made: Path) -> Callable[..., Config]:
    """`compose` as if experiment=era_seed were a recipe for the made images."""

    def call(*words: str) -> Config:
        return baseline_config(made / "images") if words == (f"experiment={BASELINE_NAME}",) else compose(*words)

    return call


@pytest.fixture
def study(made: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the made study, in a place where the baseline has a recipe for its images."""
    shutil.copytree(made / STUDY, place / STUDY)
    monkeypatch.setattr(final_candidates, "compose", composed(made))
    monkeypatch.setattr(final_runs, "usable_cores", lambda: 1)
    return Path(STUDY)


@pytest.fixture
def hold(command: Command, study: Path) -> Final:
    """Holds the final of the study in this process, run after run."""
    return lambda *words: command(str(study), "jobs=1", *words, main=final.main)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were trained, as stage/name, in their order."""
    names: list[str] = []
    real = run_module.run

    def noted(config: Config, folder: Path, *others: Any, **named: Any) -> Any:
        names.append(f"{folder.parent.name}/{folder.name}")
        return real(config, folder, *others, **named)

    monkeypatch.setattr("tinysweep.final.runs.run", noted)
    return names


def content(study: Path) -> dict[str, Any]:
    """final.json, which must be JSON as others read it: without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((study / "final/final.json").read_text(), parse_constant=refuse)  # type: ignore[no-any-return]


def record_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())  # type: ignore[no-any-return]


def names_of(*runs: str, seeds: int = 2) -> list[str]:
    return [f"{run}-seed-{seed}" for run in runs for seed in range(seeds)]


# ---- what it does and leaves


@dataclasses.dataclass
class Held:
    """A final that was held once, for several tests to look at."""

    out: str
    study: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def held(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Held:
    folder, out = tmp_path_factory.mktemp("held"), io.StringIO()
    shutil.copytree(made / STUDY, folder / STUDY)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(final_candidates, "compose", composed(made))
        patch.setattr(final_runs, "usable_cores", lambda: 1)
        called(patch, folder, final.main, STUDY, "jobs=1", "top=2", "seeds=2")
    return Held(out.getvalue(), folder / STUDY, content(folder / STUDY))


def test_the_figures_are_those_of_the_runs(held: Held) -> None:
    study, found = held.study, held.found
    groups = [(*pair, "validation") for pair in [("candidates", 2)]] + [("tested", 3, "test")]
    for key, number, stage in groups:
        assert len(found[key]) == number
        for one in found[key]:
            assert [run["seed"] for run in one["runs"]] == [0, 1]
            for metric in (f"{stage}_loss", f"{stage}_accuracy"):
                figures = [record_in(study / run["folder"])["metrics"][metric] for run in one["runs"]]
                assert [run[metric] for run in one["runs"]] == figures
                assert one[metric] == dataclasses.asdict(summarise(figures, 0.95))
            for run in one["runs"]:
                record = record_in(study / run["folder"])
                assert (record["state"], record["seed"]) == ("complete", run["seed"])
                assert record["cost"]["params"] == one["params"]
                assert record["cost"]["macs"] == one["macs"]
                assert record["train_seconds"] == run["seconds"]


def test_candidates_keep_the_validation_images_and_final_models_train_on_all(held: Held) -> None:
    study, found = held.study, held.found
    for key, validation, test in [("candidates", 12, False), ("tested", 0, True)]:
        for run in [run for one in found[key] for run in one["runs"]]:
            config = record_in(study / run["folder"])["config"]
            assert (config["data"]["validation"], config["trainer"]["test"]) == (validation, test)
            assert config["data"]["split_seed"] == 0
            assert config["data"]["fold"] == run.get("fold", 0) == (run["seed"] if validation else 0)


def test_recipes_are_the_trials_own_retrained_and_the_baselines_own(held: Held, made: Path) -> None:
    study, found = held.study, held.found
    images = baseline_config(made / "images").data
    for one in [*found["candidates"], *found["tested"]]:
        for run in one["runs"]:
            wanted = (
                identity(baseline_config(made / "images")) | {"data.digest": content_digest(images)}
                if one["trial"] is None
                else identity(record_in(study / f"trials/{one['trial']}")["config"]) | {"trainer.epochs": 2}
            )
            config = identity(record_in(study / run["folder"])["config"])
            judged = {key: config[key] for key in ("data.validation", "data.fold") if key in config}
            assert config == wanted | judged | {"trainer.seed": run["seed"]}


def test_the_candidates_are_the_best_of_the_search_and_the_choice_is_by_their_means(held: Held) -> None:
    study, found = held.study, held.found
    table = read_trials(study / "trials.csv").sort_values("validation_loss")
    assert {one["trial"] for one in found["candidates"]} == set(table.number[:2])
    means = [one["validation_loss"]["mean"] for one in found["candidates"]]
    assert means == sorted(means)
    assert [one["chosen"] for one in found["candidates"]] == [True, False]
    assert [one["role"] for one in found["tested"]] == ["winner", "runner-up", "baseline"]
    names = [one["name"] for one in found["candidates"]]
    assert [one["name"] for one in found["tested"]] == [*names, BASELINE_NAME]
    for one in found["candidates"]:
        assert one["changed"] == {"model.width": int(table.set_index("number")["model.width"][one["trial"]])}


def test_what_was_written_is_read_back(held: Held) -> None:
    read = read_final(held.study)
    assert read
    assert dataclasses.asdict(read) == held.found


@pytest.mark.parametrize("name", ["budget20k", "budget20k-random"])
def test_finals_of_earlier_versions_are_read(tmp_path: Path, name: str) -> None:
    file = Path(__file__).parents[2] / "results" / name / "final.json"
    (tmp_path / "final").mkdir()
    shutil.copy(file, tmp_path / "final")
    read = read_final(tmp_path)
    assert read
    content = {"dropped": [], "method": None, **json.loads(file.read_text())}
    for each in content["candidates"] + content["tested"]:
        each |= {"further": {}, "runs": [run | {"further": {}} for run in each["runs"]]}
    for each in content["candidates"]:
        each |= {"gap": None, "out_of_race": False, "runs": [{"fold": 0} | run for run in each["runs"]]}
    assert dataclasses.asdict(read) == content


def test_predictions_are_those_of_the_models(held: Held, made: Path) -> None:
    study, found = held.study, held.found
    images = load_test(baseline_config(made / "images").data)
    table = pd.read_csv(study / "final/predictions.csv")
    assert list(table.columns[:2]) == ["index", "label"]
    assert list(table.columns[2:]) == names_of("winner", "runner-up", "baseline")
    assert table["index"].tolist() == list(range(15))
    assert table["label"].tolist() == images.labels.tolist()
    for one in found["tested"]:
        correct = []
        for run in one["runs"]:
            predicted = load(study / run["folder"])(images.pixels.float()).argmax(1).tolist()
            assert table[f"{one['role']}-seed-{run['seed']}"].tolist() == predicted
            correct.append(np.array(predicted) == images.labels.numpy())
            assert run["errors"] == np.flatnonzero(~correct[-1]).tolist()
            assert run["test_accuracy"] == pytest.approx(correct[-1].mean())
        errors = [set(run["errors"]) for run in one["runs"]]
        assert one["errors_in_every_seed"] == sorted(set.intersection(*errors))
        assert one["errors_in_any_seed"] == sorted(set.union(*errors))


def test_the_winner_is_compared_with_the_others_on_the_same_images(held: Held) -> None:
    study, found = held.study, held.found
    table = pd.read_csv(study / "final/predictions.csv")

    def correct(role: str) -> Any:
        return np.stack([table[f"{role}-seed-{seed}"] == table["label"] for seed in range(2)])

    assert [one["role"] for one in found["comparisons"]] == ["runner-up", "baseline"]
    for one in found["comparisons"]:
        expected = compare(correct("winner"), correct(one["role"]), 0.95)
        assert {name: one[name] for name in dataclasses.asdict(expected)} == dataclasses.asdict(expected)
        assert one["winner"] == found["tested"][0]["name"]
        assert "the 15 test images" in one["test"]
        assert one["verdict"] in held.out


def test_the_csv_has_a_row_for_every_run(held: Held) -> None:
    study, found = held.study, held.found
    table = pd.read_csv(study / "final/final.csv")
    assert list(table.columns) == [
        "stage", "role", "name", "trial", "seed", "fold", "params", "macs", "validation_loss",
        "validation_accuracy", "test_loss", "test_accuracy",
        *(f"{part}_{name}" for part in ("validation", "test") for name in FURTHER), "seconds", "folder",
    ]  # fmt: skip
    assert table.stage.tolist() == ["validation"] * 4 + ["test"] * 6
    assert table.role.tolist() == ["candidate"] * 4 + ["winner"] * 2 + ["runner-up"] * 2 + ["baseline"] * 2
    runs = [run for key in ("candidates", "tested") for one in found[key] for run in one["runs"]]
    assert table.folder.tolist() == [run["folder"] for run in runs]
    assert (
        table.test_loss.notna().tolist()
        == table.validation_loss.isna().tolist()
        == (table.stage == "test").tolist()
    )
    assert table.test_accuracy[4:].tolist() == pytest.approx([run["test_accuracy"] for run in runs[4:]])


def test_the_best_recipe_composes_to_what_was_tested(held: Held) -> None:
    study, found = held.study, held.found
    register_schema()
    search = f"hydra.searchpath=[file://{(study / 'final').absolute()}]"
    with hydra.initialize_config_dir(str(CONFIG_FOLDER)):
        recipe = to_config(hydra.compose("config", overrides=[search, "experiment=best"]))
    first = found["tested"][0]["runs"][0]
    assert identity(recipe) == identity(record_in(study / first["folder"])["config"])
    assert recipe.name == "s-best"
    assert f"tinysweep --config-dir {STUDY}/final experiment=best" in held.out
    line = (study / "final/experiment/best.yaml").read_text().splitlines()[1]
    assert found["tested"][0]["name"] in line


def test_what_is_printed_shows_every_figure_and_the_choice(held: Held) -> None:
    found = held.found
    for one in found["tested"]:
        assert f"{100 * one['test_accuracy']['mean']:.2f}% ± {100 * one['test_accuracy']['sd']:.2f}" in held.out
    for one in found["candidates"]:
        assert f"{one['validation_loss']['mean']:.4f} ± {one['validation_loss']['sd']:.4f}" in held.out
    assert found["choice"] in held.out
    assert re.search(r"^up to 10 runs, about \d+ s at the pace of the study's trials$", held.out, re.MULTILINE)
    assert [time_in_words(seconds) for seconds in (0.2, 99, 100, 6000, 12600)] == [
        "1 s",
        "99 s",
        "2 min",
        "1.7 h",
        "3.5 h",
    ]
    for words in (
        "Of 3 trials trained in the study s, 3 of them to their end, the best 2",
        "with trainer.epochs=2 on 2 seeds each",
        "chosen before any test image was read",
        "The test set was read once for each of these 6 models",
    ):
        assert words in found["choice"]
    assert found["started"] <= found["finished"]
    assert {"python", "torch", "tinysweep"} <= set(found["versions"])


# ---- the test set


def test_the_test_set_is_read_once_a_final_model_and_never_before_the_choice(
    hold: Final, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_for: list[str] = []

    def noted(config: DataConfig) -> Images:
        read_for.append(trained[-1])
        return load_test(config)

    monkeypatch.setattr(run_module, "load_test", noted)
    assert hold("top=2", "seeds=2").status == 0
    stages = [name.partition("/")[0] for name in trained]
    assert stages == ["validation"] * 4 + ["test"] * 6
    assert read_for == trained[4:]


# ---- settings


def test_more_candidates_than_there_are(hold: Final, study: Path, trained: list[str]) -> None:
    ended = hold("top=9", "seeds=1", "baseline=null", "runner_up=false")
    assert ended.status == 0, ended.err
    assert "top=9, but the study has 3 completed trials of different recipes" in ended.out
    found = content(study)
    assert [len(found[key]) for key in ("candidates", "tested", "comparisons")] == [3, 1, 0]
    summary = found["tested"][0]["test_accuracy"]
    assert (summary["sd"], summary["low"], summary["high"], summary["n"]) == (None, None, None, 1)
    assert "The winner was then trained on all training images on one seed." in found["choice"]
    assert "read once for this model" in found["choice"]
    assert len(trained) == 4


def test_a_single_candidate_is_not_trained_for_a_choice(hold: Final, study: Path, trained: list[str]) -> None:
    ended = hold("top=1", "seeds=2")
    assert ended.status == 0, ended.err
    found, best = content(study), read_trials(study / "trials.csv").sort_values("validation_loss").number.iloc[0]
    assert sorted(trained) == sorted(f"test/{name}" for name in names_of(f"trial-{best}", BASELINE_NAME))
    assert found["candidates"] == []
    assert f"trial {best} was taken for the best by the single run of the search" in found["choice"]
    assert (
        f"nothing to choose from: trial {best} goes to the test as the best single run of the search" in ended.out
    )
    assert "candidates by" not in ended.out


@pytest.mark.parametrize(
    ("objective", "judge"),
    [("validation_accuracy;params", "validation_accuracy"), ("params", "validation_loss")],
)
def test_candidates_are_judged_by_the_objective_if_validation_images_show_it(
    hold: Final, study: Path, objective: str, judge: str
) -> None:
    (study / "study.db").unlink()
    table = pd.read_csv(study / "trials.csv")
    table["objective"] = objective
    table.to_csv(study / "trials.csv", index=False)
    ended = hold("top=2", "seeds=2", "baseline=null", "runner_up=false")
    assert ended.status == 0, ended.err
    found = content(study)
    means = [one[judge]["mean"] for one in found["candidates"]]
    assert means == sorted(means, reverse=judge == "validation_accuracy")
    assert f"candidates by mean {judge.replace('_', ' ')} over 2 seeds with another of 4 folds held" in ended.out
    gap = found["candidates"][1]["gap"]
    assert gap["difference"] == pytest.approx(abs(means[1] - means[0]), abs=1e-6)
    assert (gap["best"], gap["seeds"]) == (found["candidates"][0]["name"], 2)
    assert f"{judge.removeprefix('validation_')} of each seed" in ended.out
    if objective == "params":
        assert {one["trial"] for one in found["candidates"]} == set(table.sort_values("params").number[:2])


def test_a_trial_can_be_left_out_and_selection_have_seeds_of_its_own(
    hold: Final, study: Path, trained: list[str]
) -> None:
    order = read_trials(study / "trials.csv").sort_values("validation_loss").number.tolist()
    words = ["selection_seeds=2", f"exclude=[{order[0]}]", "runner_up=false", "baseline=null"]
    assert hold("top=2", "seeds=1", *words).status == 0
    assert Counter(name.partition("/")[0] for name in trained) == {"validation": 4, "test": 1}
    assert {one["trial"] for one in content(study)["candidates"]} == set(order[1:])


def test_runs_take_overrides_on_top_of_the_studys(hold: Final, study: Path) -> None:
    assert (
        hold("top=1", "seeds=1", "baseline=null", "optimizer.lr=0.03", "trainer.epochs=3", "data.limit=30").status
        == 0
    )
    found = content(study)
    config = record_in(study / found["tested"][0]["runs"][0]["folder"])["config"]
    assert (config["optimizer"]["lr"], config["trainer"]["epochs"], config["data"]["limit"]) == (0.03, 3, 30)
    assert "The winner was then trained on 30 training images on one seed." in found["choice"]
    assert "with trainer.epochs=3 optimizer.lr=0.03 data.limit=30, on 30 training" in " ".join(
        (study / "final/experiment/best.yaml").read_text().split()
    )
    assert "optimizer.lr: 0.03" not in (study / "experiment/winner.yaml").read_text()
    assert OmegaConf.load(study / "final/experiment/best.yaml").optimizer.lr == 0.03


@pytest.mark.slow
def test_trials_that_differ_by_what_is_retrained_are_one_recipe(
    command: Command, made: Path, place: Path, trained: list[str]
) -> None:
    words = record_in(made / STUDY / "trials/0")["overrides"]
    fixed = [word for word in words if word.partition("=")[0] not in ("trial", "trainer.seed", "trainer.test")]
    swept(place, *fixed, "trainer.seed=0,1", "trainer.epochs=1,2", "hydra.sweeper.retrain=['trainer.epochs=3']")
    ended = command(STUDY, "jobs=1", "top=4", "seeds=1", "baseline=null", main=final.main)
    assert ended.status == 0, ended.err
    assert "the study has 1 completed trials of different recipes" in ended.out
    assert len(trained) == 1


def test_a_baseline_for_other_data_is_left_out(hold: Final, study: Path) -> None:
    ended = hold("top=1", "seeds=1", "baseline=thorough")
    assert ended.status == 0, ended.err
    assert "baseline=thorough is left out: it isn't a recipe for image_folder" in ended.out
    assert [one["role"] for one in content(study)["tested"]] == ["winner"]


@pytest.mark.parametrize("database", [True, False])
def test_a_study_that_notes_no_retraining_says_so(hold: Final, study: Path, database: bool) -> None:
    if database:
        with sqlite3.connect(study / "study.db") as connection:
            assert connection.execute("DELETE FROM study_user_attributes WHERE key='retrain'").rowcount == 1
    else:
        (study / "study.db").unlink()
    ended = hold("top=1", "seeds=1", "baseline=null")
    assert ended.status == 0, ended.err
    assert "the study doesn't say what its best are retrained with" in ended.out
    assert record_in(study / content(study)["tested"][0]["runs"][0]["folder"])["epochs"] == 1


# ---- going on


def test_a_second_call_trains_nothing_and_finds_the_same(hold: Final, study: Path, trained: list[str]) -> None:
    first = hold("top=2", "seeds=2")
    files = [path for path in (study / "final").rglob("*") if path.is_file() and path.suffix != ".lock"]
    before = {path: path.read_bytes() for path in files}
    touched = {path: path.stat().st_mtime_ns for path in files if "runs" in path.parts}
    trained.clear()
    second = hold("top=2", "seeds=2")
    assert trained == []
    assert {path: path.read_bytes() for path in files} == before
    assert {path: path.stat().st_mtime_ns for path in touched} == touched
    assert first.out.partition("candidates by")[2] == second.out.partition("candidates by")[2]
    assert "10 runs are there already" in second.out
    assert hold("top=2", "seeds=3").status == 0
    assert len(trained) == 5
    assert all(name.endswith("-seed-2") for name in trained)


def test_other_settings_keep_what_had_finished_and_say_that_it_was_tested(
    hold: Final, study: Path, trained: list[str]
) -> None:
    words = ["top=1", "seeds=2", "baseline=null"]
    assert hold(*words).status == 0
    before = {path: path.read_bytes() for path in (study / "final/runs").rglob("*") if path.is_file()}
    assert hold(*words, "trainer.epochs=3").status == 0
    assert [name[-2:] for name in trained] == ["-0", "-1"] * 2
    found = content(study)
    assert [run["folder"][-9:] for run in found["tested"][0]["runs"]] == ["-seed-0-2", "-seed-1-2"]
    assert "Beside these, finals of this study have had 2 models tested." in found["choice"]
    assert {path: path.read_bytes() for path in before} == before
    trained.clear()
    assert hold(*words).status == 0
    assert trained == []
    assert [run["folder"][-7:] for run in content(study)["tested"][0]["runs"]] == ["-seed-0", "-seed-1"]


def unfinished(folder: Path) -> None:
    record = record_in(folder)
    (folder / "record.json").write_text(json.dumps(record | {"state": "running"}))


def failed_from_outside(folder: Path) -> None:
    record = record_in(folder)
    failed = {"state": "failed", "error": "OSError", "reason": "no space left on device"}
    (folder / "record.json").write_text(json.dumps(record | failed))


def broken(folder: Path) -> None:
    (folder / "record.json").write_text("{")


def unpredicted(folder: Path) -> None:
    (folder / "test_predictions.csv").unlink()


@pytest.mark.parametrize("spoil", [unfinished, broken, failed_from_outside])
def test_what_did_not_finish_is_replaced(
    hold: Final, study: Path, trained: list[str], spoil: Callable[[Path], None]
) -> None:
    words = ["top=1", "seeds=2", "baseline=null"]
    assert hold(*words).status == 0
    folder = study / content(study)["tested"][0]["runs"][1]["folder"]
    spoil(folder)
    (folder / "left.txt").write_text("left over")
    trained.clear()
    assert hold(*words).status == 0
    assert trained == [f"test/{folder.name}"]
    assert record_in(folder)["state"] == "complete"
    assert not (folder / "left.txt").exists()


def test_a_model_whose_predictions_are_gone_is_trained_again(hold: Final, study: Path, trained: list[str]) -> None:
    words = ["top=1", "seeds=2", "baseline=null"]
    assert hold(*words).status == 0
    unpredicted(study / content(study)["tested"][0]["runs"][1]["folder"])
    trained.clear()
    assert hold(*words).status == 0
    assert len(trained) == 1


def test_ctrl_c_loses_nothing_that_had_finished(
    hold: Final, study: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = vars(final_runs)["run"]

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if len(trained) == 3:
            raise KeyboardInterrupt
        return counted(*arguments, **named)

    monkeypatch.setattr("tinysweep.final.runs.run", interrupted)
    ended = hold("top=2", "seeds=2", "baseline=null")
    assert (ended.status, ended.err) == (130, "interrupted\n")
    assert ended.out.splitlines()[-1] == "stopped; 3 of 8 runs are done; the same command goes on from here"
    assert not (study / "final/final.json").exists()
    monkeypatch.setattr("tinysweep.final.runs.run", counted)
    assert hold("top=2", "seeds=2", "baseline=null").status == 0
    assert len(trained) == 8
    assert len(set(trained)) == 8


def test_a_run_that_fails_is_named_and_there_is_no_verdict(
    hold: Final, study: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = vars(final_runs)["run"]
    worst = read_trials(study / "trials.csv").sort_values("validation_loss").number.iloc[1]

    def diverges(config: Config, *others: Any, **named: Any) -> Any:
        if config.name == f"trial-{worst}" and config.trainer.seed == 1:
            raise OSError(28, "No space left on device")
        return counted(config, *others, **named)

    monkeypatch.setattr("tinysweep.final.runs.run", diverges)
    ended = hold("top=2", "seeds=2", "baseline=null")
    assert ended.status == 1
    assert ended.err.startswith(
        f"error: no verdict, because 1 of 4 runs failed: trial {worst} with seed 1: OSError: "
    )
    assert "exclude=" in ended.err
    assert ended.err.count("\n") == 1
    assert f"trial {worst}     seed 1   failed: OSError: " in ended.out
    assert len(trained) == 3
    assert not (study / "final/final.json").exists()
    assert hold("top=2", "seeds=2", "baseline=null", f"exclude=[{worst}]").status == 0
    assert worst not in [one["trial"] for one in content(study)["candidates"]]


@pytest.mark.slow
def test_who_diverges_drops_out_and_the_verdict_is_given_without_it(
    hold: Final, study: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging: set[tuple[str, bool]] = set()

    def fitted(config: Config, *others: Any, **named: Any) -> Any:
        if (config.name, config.trainer.test) in diverging and config.trainer.seed == 1:
            raise DivergedError("training diverged: the loss of epoch 1 is nan")
        return training.fit(config, *others, **named)

    monkeypatch.setattr(run_module, "fit", fitted)
    words = ["top=3", "seeds=2"]
    first = read_trials(study / "trials.csv").sort_values("validation_loss").number.iloc[0]
    diverging.add((f"trial-{first}", False))
    ended = hold(*words)
    assert ended.status == 0, ended.err
    found = content(study)
    reason = "training diverged: the loss of epoch 1 is nan"
    assert found["dropped"] == [{"name": f"trial {first}", "stage": "validation", "seed": 1, "reason": reason}]
    assert first not in [one["trial"] for one in [*found["candidates"], *found["tested"]]]
    assert [one["role"] for one in found["tested"]] == ["winner", "runner-up", "baseline"]
    assert f"dropped out  trial {first}" in ended.out
    assert f"what failed by its own configuration: trial {first} with seed 1: {reason}." in found["choice"]

    trained.clear()
    assert hold(*words).status == 0
    assert trained == [], "what failed by its configuration is not tried again"

    winner, heir = (one["trial"] for one in found["candidates"])
    for path in (study / "final/runs/test").glob(f"trial-{winner}-*"):
        shutil.rmtree(path)
    diverging.add((f"trial-{winner}", True))
    ended = hold(*words)
    assert ended.status == 0, ended.err
    found = content(study)
    assert [(one["role"], one["trial"]) for one in found["tested"]] == [("winner", heir), ("baseline", None)]
    assert [(one["name"], one["stage"]) for one in found["dropped"]][1:] == [(f"trial {winner}", "test")]
    assert "best of those that are left; their order was fixed before any test image was read" in found["choice"]

    shutil.rmtree(study / "final/runs/test")
    diverging.add((f"trial-{heir}", True))
    ended = hold(*words)
    assert ended.status == 1
    assert ended.err.startswith(
        f"error: no verdict, because every candidate failed, the last trial {heir} with seed 1 on"
    )
    assert ended.err.count("\n") == 1

    diverging.add((BASELINE_NAME, True))
    shutil.rmtree(study / f"final/runs/test/{BASELINE_NAME}-seed-1")
    ended = hold(*words)
    assert ended.status == 1
    assert ended.err.startswith(
        f"error: no verdict, because the baseline failed, {BASELINE_NAME} with seed 1 on all"
    )
    assert "baseline=null" in ended.err


def test_models_that_were_tested_on_other_images_are_not_compared(hold: Final, study: Path) -> None:
    words = ["top=1", "seeds=1"]
    assert hold(*words).status == 0
    found = content(study)
    file = study / found["tested"][1]["runs"][0]["folder"] / "test_predictions.csv"
    table = pd.read_csv(file)
    table["label"] = (table["label"] + 1) % 3
    table.to_csv(file, index=False)
    ended = hold(*words)
    assert ended.status == 1
    assert ended.err.startswith(
        "error: outputs/sweeps/s/final/runs/test/era_seed-seed-0 was tested on other images"
    )
    assert content(study) == found


# ---- refused before anything is trained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["quux=3"],
            "quux is not a setting of tinysweep-final; there are top, seeds, selection_seeds, race, base",
        ),
        (["top=two"], "top=two must be a whole number (best trials"),
        (["exclude=[a]"], "exclude=[a] must be a list such as [1,2,1], each a whole number (numbers of trials"),
        (["confidence=1"], "confidence=1.0 must lie in [0.5, 1) (of intervals and verdicts)"),
        (["data.fold=1"], "data.fold=1 can't be given: each seed of a candidate holds out a fold of its own"),
        (["data.validation=0"], "data.validation=0 can't be given: candidates are judged on the study's"),
        (
            ["trainer.epoch=3"],
            "trainer.epoch is not a setting that a finished trial can be retrained with; did you",
        ),
        (["trainer.epochs=0"], "trainer.epochs=0 must lie in [1, 100000] (passes over the training images)"),
        (["trainer.epochs=1,2"], "trainer.epochs=1,2 must give one value to one setting"),
        (["model.depth=[1"], "model.depth=[1 can't be read as an override"),
        (["budget.params=30"], "over budget at model.width="),
        (["trainer.device=mps"], "trainer.device=mps is not available on this machine"),
        (["data.root=elsewhere"], "/elsewhere must be a folder of class subfolders, but there is no such folder"),
    ],
)
def test_refused_in_words_and_before_anything_is_trained(
    hold: Final, study: Path, trained: list[str], words: list[str], said: str
) -> None:
    ended = hold(*words)
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert trained == []
    assert not (study / "final").exists()


def test_a_study_without_a_completed_trial_is_refused(hold: Final, study: Path) -> None:
    (study / "study.db").unlink()
    table = pd.read_csv(study / "trials.csv")
    table["state"] = "pruned"
    table.to_csv(study / "trials.csv", index=False)
    ended = hold()
    assert ended.status == 1
    assert "the study s has no completed trial; go on with its sweep first" in ended.err


def test_a_trial_without_its_record_is_refused_with_a_way_out(hold: Final, study: Path) -> None:
    best = read_trials(study / "trials.csv").sort_values("validation_loss").number.iloc[0]
    shutil.rmtree(study / f"trials/{best}")
    ended = hold("top=2")
    assert ended.status == 1
    assert f"trials/{best}/record.json is missing or damaged; exclude=[{best}] leaves it out" in ended.err


def test_trials_on_different_data_are_refused(hold: Final, study: Path) -> None:
    for trial in (0, 1):
        file = study / f"trials/{trial}/record.json"
        record = json.loads(file.read_text())
        record["config"]["data"]["split_seed"] = trial
        file.write_text(json.dumps(record))
    ended = hold("top=3")
    assert ended.status == 1
    assert "have different data or validation images, so their figures can't be compared" in ended.err


def test_two_finals_at_once_do_not_meet(hold: Final, study: Path, trained: list[str]) -> None:
    (study / "final").mkdir()
    with FileLock(study / "final/.lock"):
        ended = hold("top=1", "seeds=1")
    assert ended.status == 1
    assert ended.err.startswith("error: another tinysweep-final is at work in outputs/sweeps/s/final; ")
    assert trained == []
    assert hold("top=1", "seeds=1", "baseline=null").status == 0


def test_a_folder_that_can_not_be_written_is_refused(hold: Final, study: Path) -> None:
    (study / "final").write_text("in the way")
    ended = hold("top=1", "seeds=1")
    assert ended.status == 1
    assert ended.err.startswith("error: outputs/sweeps/s/final can't be written: ")


@pytest.mark.parametrize("words", [["--help"], ["nowhere", "seds=3"]])
def test_neither_help_nor_a_wrong_setting_waits_for_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom tinysweep.commands.final import main\n"
        f"sys.argv = ['tinysweep-final', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as ending:\n"
        "    print(sorted({'torch', 'optuna', 'scipy', 'pandas'} & set(sys.modules)), ending.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"[] {0 if words == ['--help'] else 1}"


def test_words_are_parted_by_their_dots() -> None:
    settings, overrides = read_words(["top=5", "trainer.epochs=3", "baseline=null", "exclude=[1,2]", "top=4"])
    assert settings == FinalConfig(top=4, baseline=None, exclude=[1, 2])
    assert overrides == ["trainer.epochs=3"]


# ---- the choice


def best(folder: Path, judge: str, **figures: list[tuple[float, float]]) -> list[str]:
    """Candidates of these validation losses and accuracies, by seed, in their order; of 10 images each."""
    config, runs = Config(model=ModelConfig(width=2, depth=[1])), dict[str, list[Run]]()
    for name, seeds in figures.items():
        for seed, (loss, accuracy) in enumerate(seeds):
            home = RunFolder(folder / f"{name}-{seed}")
            home.path.mkdir()
            predicted = (torch.arange(10) >= round(10 * accuracy)).long()
            home.write_validation(torch.zeros(10), Score(loss, accuracy, predicted, torch.full((10,), loss)))
            job = Job(Stage.validation, name, seed, config, home.path)
            runs.setdefault(name, []).append(Run(job, home, {"metrics": {"validation_loss": loss}}))
    return run_race(validation_figures(runs, judge), 3, 9, 0.95).left


def test_the_best_mean_wins_and_not_the_luckiest_run(tmp_path: Path) -> None:
    lucky, steady = [(0.01, 0.5), (0.09, 0.5), (0.08, 0.5)], [(0.05, 0.5)] * 3
    assert best(tmp_path, "validation_loss", lucky=lucky, steady=steady) == ["steady", "lucky"]


def test_more_accuracy_is_better_and_less_loss_breaks_ties(tmp_path: Path) -> None:
    figures = {"other": [(0.1, 0.8)] * 3, "one": [(0.2, 0.9)] * 3, "third": [(0.1, 0.9)] * 3}
    assert best(tmp_path, "validation_accuracy", **figures)[:2] == ["third", "one"]


# ---- the race


@pytest.fixture
def hopeless(study: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The best trial of the search, of whose images the final finds such losses that it is clearly behind."""
    name = f"trial {read_trials(study / 'trials.csv').sort_values('validation_loss').number.iloc[0]}"
    real = Run.figures
    monkeypatch.setattr(Run, "figures", lambda run, judge: real(run, judge) + 1000 * (run.job.name == name))
    return name


def test_who_is_clearly_behind_gets_no_further_seeds(hold: Final, hopeless: str, trained: list[str]) -> None:
    ended = hold("top=3", "seeds=4", "baseline=null", "runner_up=false")
    assert ended.status == 0, ended.err
    found = content(Path(STUDY))
    last, slug = found["candidates"][-1], hopeless.replace(" ", "-")
    assert (last["name"], last["out_of_race"], last["chosen"], len(last["runs"])) == (hopeless, True, False, 2)
    assert last["gap"]["difference"] > 999
    assert [len(each["runs"]) for each in found["candidates"][:2]] == [4, 4]
    assert [name for name in trained if slug in name] == [f"validation/{slug}-seed-{seed}" for seed in (0, 1)]
    assert [name[-1] for name in trained if name.startswith("validation")] == list("00011122" + "33")
    assert f"{hopeless} is out of the race, " in ended.out
    assert f"out of the race  {hopeless}" in ended.out
    assert f"Out of the race, being clearly worse: {hopeless} (" in found["choice"]
    assert "were trained again with trainer.epochs=2 on up to 4 seeds each, with another of 4" in found["choice"]
    assert "Maron and Moore" in found["method"]


@pytest.mark.slow
@pytest.mark.usefixtures("hopeless")
def test_a_race_that_was_cut_short_goes_on_as_it_would_have(
    hold: Final, study: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, counted = ["top=3", "seeds=4", "baseline=null", "runner_up=false"], vars(final_runs)["run"]
    assert hold(*words).status == 0
    whole, expected = content(study), trained.copy()
    for cut in (2, 7, 11):
        shutil.rmtree(study / "final")
        trained.clear()

        def interrupted(*arguments: Any, cut: int = cut, **named: Any) -> Any:
            if len(trained) == cut:
                raise KeyboardInterrupt
            return counted(*arguments, **named)

        monkeypatch.setattr("tinysweep.final.runs.run", interrupted)
        assert hold(*words).status == 130
        monkeypatch.setattr("tinysweep.final.runs.run", counted)
        ended = hold(*words)
        assert ended.status == 0
        assert f"{cut} runs are there already" in ended.out
        assert trained == expected
        assert [each["gap"] for each in content(study)["candidates"]] == [
            each["gap"] for each in whole["candidates"]
        ]
        assert content(study)["choice"] == whole["choice"]


@pytest.mark.usefixtures("hopeless")
def test_all_seeds_are_given_without_a_race_and_no_more_if_one_is_left_in_it(
    hold: Final, trained: list[str]
) -> None:
    words = ["top=2", "seeds=3", "baseline=null", "runner_up=false"]
    assert hold(*words).status == 0
    assert len([name for name in trained if name.startswith("validation")]) == 4
    assert hold(*words, "race=false").status == 0
    assert len([name for name in trained if name.startswith("validation")]) == 6
    assert [len(each["runs"]) for each in content(Path(STUDY))["candidates"]] == [3, 3]


def test_no_worker_waits_for_a_look(hold: Final, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them train three candidates on two seeds, which is six runs, then with the third seed one of the
    fourth, so four, and the two that are left."""
    asked, real = list[int](), final_runs.train_all

    def noted(jobs: list[Job], _workers: int, *others: Any) -> None:
        asked.append(len(jobs))
        real(jobs, 1, *others)

    monkeypatch.setattr(final_runs, "train_all", noted)
    assert hold("top=3", "seeds=4", "jobs=2", "baseline=null", "runner_up=false", "trainer.epochs=1").status == 0
    assert asked == [6, 4, 2, 4]
    assert [len(each["runs"]) for each in content(study)["candidates"]] == [4, 4, 4]


def test_candidates_of_an_earlier_version_are_trained_anew_and_its_final_models_are_not(
    hold: Final, study: Path, trained: list[str]
) -> None:
    words = ["top=2", "seeds=2", "baseline=null"]
    assert hold(*words).status == 0
    for folder in (study / "final/runs/validation").iterdir():  # whose runs left no losses, and had all fold 0
        (folder / "validation_predictions.csv").unlink()
        record = record_in(folder)
        del record["config"]["data"]["fold"]
        (folder / "record.json").write_text(json.dumps(record))
    trained.clear()
    assert hold(*words).status == 0
    assert len(trained) == 4
    assert {name.partition("/")[0] for name in trained} == {"validation"}


def test_candidates_that_were_judged_by_other_images_are_not_compared(hold: Final, study: Path) -> None:
    words = ["top=2", "seeds=2", "baseline=null"]
    assert hold(*words).status == 0
    file = study / content(study)["candidates"][1]["runs"][1]["folder"] / "validation_predictions.csv"
    table = pd.read_csv(file)
    table["label"] = (table["label"] + 1) % 3
    table.to_csv(file, index=False)
    ended = hold(*words)
    assert ended.status == 1
    assert "was judged by other images than outputs/sweeps/s/final/runs/validation/" in ended.err


# ---- several processes


@pytest.mark.slow
def test_the_real_command_with_two_workers_on_mnist(command: Command, place: Path, mnist_root: Path) -> None:
    swept(place, f"data.root={mnist_root}", "data.limit=64", *TINY, "model.width=choice(2)")
    ended = command(STUDY, "top=1", "seeds=1", "jobs=2", "trainer.epochs=2", main=final.main)
    assert ended.status == 0, ended.err
    found = content(Path(STUDY))
    assert [one["role"] for one in found["tested"]] == ["winner", "baseline"]
    assert found["tested"][1]["params"] == 19_349
    assert len(pd.read_csv(Path(STUDY) / "final/predictions.csv")) == 10_000
    records = [record_in(Path(STUDY) / run["folder"]) for one in found["tested"] for run in one["runs"]]
    assert [record["epochs"] for record in records] == [2, 20]
    assert {record["config"]["data"]["limit"] for record in records} == {64}
    again = command(STUDY, "top=1", "seeds=1", "jobs=1", "trainer.epochs=2", main=final.main)
    assert content(Path(STUDY)) == found
    assert "2 runs are there already" in again.out
