"""One's own images as a part of the study that searches on them: what they are decides, not where they lie."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from PIL import Image

from conftest import Command, Ended, made_images
from tinysweep.data.folder import content_digest
from tinysweep.errors import DataError
from tinysweep.final.candidates import FinalPlan
from tinysweep.final.settings import FinalConfig
from tinysweep.search.table import read_trials
from tinysweep.settings.schema import DataConfig, DataName

TINY = [
    "data=image_folder",
    "data.image_size=12",
    "data.validation=8",
    "model.depth=[1]",
    "model.stem_kernel=3",
    "model.width=2",
    "augmentation=none",
    "trainer.epochs=1",
    "trainer.clean_epochs=0",
    "trainer.threads=1",
]
GRID = ["trainer.seed=0,1", "hydra.sweeper.study_name=s"]
STUDY = Path("outputs/sweeps/s")

Search = Callable[..., Ended]


def write_images(folder: Path, seed: int = 0) -> Path:
    """30 images of 2 classes."""
    images = made_images(30, 2, 12, seed=seed)
    for number, (image, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        path = folder / ("ant", "bee")[int(label)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return folder


def digest_of(folder: Path) -> str:
    return content_digest(DataConfig(name=DataName.image_folder, root=str(folder)))


def data_of(folder: Path) -> dict[str, Any]:
    """The data in the record of a run."""
    return json.loads((folder / "record.json").read_text())["config"]["data"]  # type: ignore[no-any-return]


@pytest.fixture
def search(command: Command) -> Search:
    """Searches in this process, job after job."""
    return lambda *words: command("-m", "hydra/launcher=basic", *TINY, *words)


@pytest.fixture
def study(place: Path, search: Search) -> Path:
    """A study of two trials on the folder photos."""
    write_images(place / "photos")
    assert search(*GRID, "data.root=photos").status == 0
    return STUDY


def test_a_study_is_of_the_images_that_it_began_with(study: Path, place: Path, search: Search) -> None:
    first = digest_of(place / "photos")
    records = [data_of(study / f"trials/{number}") for number in (0, 1)]
    assert [(data["root"], data["digest"]) for data in records] == [(str(place / "photos"), first)] * 2
    table = (study / "trials.csv").read_bytes()

    shutil.copytree("photos", "moved/photos", copy_function=shutil.copy)  # with new times
    ended = search("data.root=moved/photos", *GRID)
    assert (ended.status, ended.err) == (0, "")
    assert (study / "trials.csv").read_bytes() == table, "nothing was trained again"
    assert OmegaConf.load(study / "experiment/winner.yaml").data.root == str(place / "moved/photos")

    other = digest_of(write_images(place / "others", seed=9))
    Image.new("L", (12, 12)).save("photos/ant/000.png")
    for root, found in {"others": other, "photos": digest_of(place / "photos")}.items():
        ended = search(f"data.root={root}", *GRID)
        assert ended.status == 1
        assert f"\n  data.digest: {first} -> {found}\n" in ended.err
    assert (study / "trials.csv").read_bytes() == table


@pytest.mark.slow
def test_each_folder_of_a_sweep_is_a_configuration_of_its_own(place: Path, search: Search) -> None:
    expected = []
    for seed, name in enumerate(("mine", "yours")):
        write_images(place / name, seed)
        group = place / "conf/data"
        group.mkdir(parents=True, exist_ok=True)
        (group / f"{name}.yaml").write_text(f"name: image_folder\nroot: {name}\nvalidation: 8\n")
        expected.append((str(place / name), digest_of(place / name)))
    sweep = ["hydra.sweeper.study_name=s", "data.root=mine,yours"]
    assert search(*sweep).status == 0
    by_group = ["--config-dir", "conf", "data=mine,yours", "hydra.sweeper.study_name=by-group"]
    assert search(*by_group).status == 0
    for study in (STUDY, STUDY.with_name("by-group")):
        assert list(read_trials(study / "trials.csv").state) == ["complete"] * 2
        found = [data_of(study / f"trials/{number}") for number in (0, 1)]
        assert [(data["root"], data["digest"]) for data in found] == expected
    Image.new("L", (12, 12)).save("yours/bee/001.png")
    ended = search(*sweep)
    assert ended.status == 1
    assert "  data.digest: " in ended.err, "of a grid that has every point a changed folder is noticed too"


@pytest.mark.slow
def test_the_winner_is_trained_on_its_images_from_any_folder_and_on_no_others(
    study: Path, place: Path, command: Command
) -> None:
    recipe = OmegaConf.load(study / "experiment/winner.yaml")
    wanted = (str(place / "photos"), digest_of(place / "photos"))
    assert (recipe.data.root, recipe.data.digest) == wanted
    words = ["--config-dir", str(study), "experiment=winner"]
    ended = command(*words)
    assert ended.status == 0, ended.err
    (run,) = (path.parent for path in place.glob("outputs/runs/*/*/record.json"))
    assert (data_of(run)["root"], data_of(run)["digest"]) == wanted

    shutil.copytree("photos", "fewer")
    Path("fewer/ant/000.png").unlink()
    words.append("data.root=fewer")
    ended = command(*words)
    assert ended.status == 1
    assert ended.err.startswith("error: data.root=fewer holds images-")
    assert f"not the images of data.digest={wanted[1]}: " in ended.err
    assert "a run from its first epoch, not by resume=, with data.digest=null" in ended.err
    assert ended.err.count("\n") == 1
    assert command(*words, "data.digest=null").status == 0


@pytest.mark.slow
def test_a_final_is_held_on_the_images_of_its_study_wherever_they_are_now(study: Path, place: Path) -> None:
    settings = FinalConfig(baseline=None)
    with pytest.raises(
        DataError, match=r"there is no such folder; data\.root=FOLDER says where the images are now"
    ):
        FinalPlan(study, settings, ["data.root=nowhere"])
    data = FinalPlan(study, settings, ["data.root=photos"]).candidates[0].recipe.data
    assert (data.root, data.digest) == (str(place / "photos"), digest_of(place / "photos"))
    Path("photos/ant/000.png").rename("photos/ant/first.png")
    with pytest.raises(
        DataError, match=r"^data\.root=/.*/photos holds images-\w+, not the images of data\.digest="
    ):
        FinalPlan(study, settings, ["data.root=photos"])


@pytest.mark.slow
def test_a_study_of_an_earlier_version_takes_a_final_but_no_more_trials(study: Path, search: Search) -> None:
    stored = optuna.load_study(study_name="s", storage=f"sqlite:///{study}/study.db")
    definition = {key: text for key, text in stored.user_attrs["definition"].items() if key != "data.digest"}
    stored.set_user_attr("definition", definition)
    for record in study.glob("trials/*/record.json"):
        content = json.loads(record.read_text())
        del content["config"]["data"]["digest"]
        record.write_text(json.dumps(content))
    ended = search("data.root=photos", *GRID)
    assert ended.status == 1
    assert ended.err.startswith(
        "error: study s was begun by an earlier version, which didn't note what data.root "
    )
    assert ended.err.count("\n") == 1
    plan = FinalPlan(study, FinalConfig(baseline=None), [])
    assert any("earlier version, which didn't note what" in note for note in plan.notes)
