"""Image folders of all layouts and kinds of image, made here; and the ones that are refused."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tinysweep.data.folder import class_names, content_digest, read
from tinysweep.data.load import check, describe, fold_count, load, load_test, pin
from tinysweep.errors import ConfigError, DataError
from tinysweep.settings.schema import DataConfig, DataName


def settings(root: Path, **others: Any) -> DataConfig:
    return DataConfig(**{"name": DataName.image_folder, "root": str(root), "image_size": 4, **others})


def write_image(path: Path, value: int | NDArray[Any] = 0) -> Path:
    """A grey image of one value, 6 by 5, or the image of an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((5, 6), value, np.uint8) if isinstance(value, int) else value
    Image.fromarray(array).save(path)
    return path


def write_classes(root: Path, **counts: int) -> Path:
    """Class folders with so many images, each of another value."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write_image(root / name / f"{number:03}.png", 100 * label + number)
    return root


def values(pixels: Tensor | NDArray[np.uint8]) -> list[int]:
    """The value of each image of one value."""
    array = np.asarray(pixels)
    assert (array == array[:, :, :1, :1]).all()
    return array[:, 0, 0, 0].tolist()  # type: ignore[no-any-return]


# ---- layouts


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("training", None, "testing"),
        ("Train", None, "Test"),
        ("TRAINING", "VAL", "TEST"),
        ("train", "valid", "test"),
        ("train", "Validation", "testing"),
        ("Train", "dev", None),
        ("train", None, None),
    ],
)
def test_parts_are_known_by_their_usual_names_whatever_the_case(
    tmp_path: Path, train: str, val: str | None, test: str | None
) -> None:
    names = {"train": train, "validation": val, "test": test}
    for start, name in enumerate(names.values()):
        for label in range(2):
            for number in range(5 if name else 0):
                write_image(
                    tmp_path / str(name) / "ab"[label] / f"{number}.png", 20 * start + 100 * label + number
                )
    config = settings(tmp_path, validation=2, test_fraction=0.2)
    loaded = load(config)
    assert loaded.validation is not None
    held_out = set(values(loaded.validation.pixels))
    trained, tested = set(values(loaded.train.pixels)), set(values(load_test(config).pixels))
    expected = {
        part: {20 * start + 100 * label + number for label in range(2) for number in range(5)}
        for start, part in enumerate(names)
    }
    assert held_out == expected["validation"] if val else len(held_out) == 2
    assert tested == expected["test"] if test else len(tested) == 2
    own = expected["train"] - (set() if val else held_out) - (set() if test else tested)
    assert trained == own
    assert not trained & held_out
    assert not trained & tested
    assert describe(config).classes == 2


def test_given_validation_images_are_all_used_and_trained_on_only_if_nothing_is_held_out(tmp_path: Path) -> None:
    for part, count in {"train": 6, "val": 3, "test": 2}.items():
        write_classes(tmp_path / part, cat=count, dog=count)
    for held_out, counts in {0.5: (12, 6), 4: (12, 6), 0: (18, 0)}.items():
        loaded = load(settings(tmp_path, validation=held_out))
        assert (len(loaded.train), len(loaded.validation or ())) == counts
        assert torch.bincount(loaded.train.labels).tolist() == [counts[0] // 2] * 2
    assert len(load(settings(tmp_path, limit=12)).train) == 12
    assert fold_count(settings(tmp_path, validation=0.5)) == 1
    with pytest.raises(
        ConfigError, match=r"data\.fold=1 must be below 1: the folder's own validation images make"
    ):
        check([settings(tmp_path, validation=0.5, fold=1)])
    with pytest.raises(ConfigError, match=r"data\.limit=13 must not exceed the 12 images"):
        load(settings(tmp_path, limit=13))


def test_a_digest_is_of_what_the_images_are_and_not_of_where_they_lie(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write_classes(tmp_path / "one" / part, cat=2, dog=2)

    def copied() -> Path:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(tmp_path / "one", folder, copy_function=shutil.copy))

    def digest(folder: Path) -> str:
        return content_digest(settings(folder))

    original = digest(tmp_path / "one")
    same: list[Callable[[Path], object]] = [
        lambda folder: folder,
        lambda folder: os.utime(folder / "train/cat/000.png", (0, 0)),
        lambda folder: (folder / "train/cat/notes.txt").write_text("about cats"),
        lambda folder: write_image(folder / "train/cat/.thumbnails/0.png"),
        lambda folder: (folder / "val").rename(folder / "Validation"),
    ]
    for change in same:
        folder = copied()
        change(folder)
        assert digest(folder) == original
    other: list[Callable[[Path], object]] = [
        lambda folder: write_image(folder / "train/cat/000.png", 1),  # as many bytes
        lambda folder: write_image(folder / "test/dog/002.png"),
        lambda folder: (folder / "val/dog/001.png").unlink(),
        lambda folder: (folder / "train/cat/000.png").rename(folder / "train/cat/002.png"),
        lambda folder: (folder / "train/cat/000.png").rename(folder / "train/dog/002.png"),
        lambda folder: (folder / "train/cat/000.png").rename(folder / "val/cat/002.png"),
        lambda folder: (folder / "train/cat/000.png").rename(folder / "train/cat/1000.png"),
        lambda folder: [
            (folder / part / "dog").rename(folder / part / "ant") for part in ("train", "val", "test")
        ],
    ]
    digests = {original}
    for change in other:
        folder = copied()
        change(folder)
        digests.add(digest(folder))
    assert len(digests) == len(other) + 1


def test_images_that_are_not_those_of_the_digest_are_refused_in_one_line(tmp_path: Path) -> None:
    config = pin(settings(write_classes(tmp_path, cat=5, dog=5), validation=2))
    assert config.digest == content_digest(config)
    load(config)
    load_test(config)
    write_image(tmp_path / "cat" / "000.png", 9)
    for act in (lambda config: check([config]), load, load_test):
        with pytest.raises(
            DataError, match=rf"^data.root={tmp_path} holds images-\w+, not .*={config.digest}: .*null$"
        ):
            act(config)
    load(dataclasses.replace(config, digest=None))


def test_data_is_pinned_to_its_place_and_a_folder_to_what_it_held_when_it_was_first_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_classes(Path("images"), cat=2, dog=2)
    digests: dict[str, str] = {}
    first = pin(settings(Path("images")), digests)
    assert (first.root, digests) == (str(tmp_path / "images"), {first.root: first.digest})
    write_image(tmp_path / "images" / "cat" / "000.png", 9)
    assert pin(settings(Path("images")), digests) == first
    assert pin(settings(Path("images"))).digest != first.digest
    assert pin(first) == first, "what was noted once stays"
    named = DataConfig(root="files")
    assert pin(named) == dataclasses.replace(named, root=str(tmp_path / "files"))
    assert pin(DataConfig(root="~/files")).root == "~/files"


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_without_them_a_part_of_each_class_is_held_out(tmp_path: Path, fraction: float) -> None:
    config = settings(write_classes(tmp_path, cat=10, dog=30, emu=2), test_fraction=fraction)
    (train, train_labels), (test, test_labels) = read(config, "train"), read(config, "test")
    found = sorted(values(train) + values(test))
    assert found == sorted([*range(10), *range(100, 130), *range(200, 202)])
    assert [value // 100 for value in values(train)] == train_labels.tolist()
    assert [value // 100 for value in values(test)] == test_labels.tolist()
    expected = {0.01: [1, 1, 1], 0.3: [3, 9, 1], 0.99: [9, 29, 1]}[fraction]
    assert np.bincount(test_labels).tolist() == expected
    first = [100 * label + index for label, count in enumerate(expected) for index in range(count)]
    assert values(test) != first, "the first by name would not be drawn"
    assert values(read(dataclasses.replace(config, split_seed=1), "test")[0]) == values(test), "whatever the seed"


def test_only_files_of_the_part_asked_for_are_opened(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", cat=4, dog=4)
    write_classes(tmp_path / "test", cat=1, dog=1)
    damaged = tmp_path / "test" / "dog" / "000.png"
    damaged.write_text("no image")
    config = settings(tmp_path, validation=2)
    loaded = load(config)
    assert loaded.validation is not None
    assert (len(loaded.train), len(loaded.validation)) == (6, 2)
    with pytest.raises(DataError, match=str(damaged)):
        load_test(config)


def test_nested_images_and_linked_folders_count_and_other_files_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_classes(tmp_path / "train", cat=1, dog=1)
    write_classes(tmp_path / "test", cat=1, dog=1)
    cat = tmp_path / "train" / "cat"
    write_image(cat / "deep" / "er" / "x.PNG", 50)
    (cat / "notes.txt").write_text("")
    (cat / "Thumbs.db").write_text("")
    (cat / "._000.png").write_text("written by another system")
    write_image(cat / ".checkpoints" / "000.png", 51)
    (cat / "folder.png").mkdir()
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "read.me").write_text("")
    (tmp_path / "train" / "dog").rename(tmp_path / "far")
    (tmp_path / "train" / "dog").symlink_to(tmp_path / "far")
    pixels, labels = read(settings(Path("~")), "train")
    assert values(pixels) == [0, 50, 100]
    assert labels.tolist() == [0, 0, 1]


def test_a_check_refuses_what_loading_would(tmp_path: Path) -> None:
    for part, count in {"train": 6, "val": 3, "test": 2}.items():
        write_classes(tmp_path / part, cat=count, dog=count)
    config = settings(tmp_path)
    check([config])
    with pytest.raises(ConfigError, match=r"data\.limit=13 must not exceed the 12 images"):
        check([config, dataclasses.replace(config, limit=13)])
    damaged = tmp_path / "test" / "dog" / "000.png"
    damaged.write_text("no image")
    check([config], images=False)
    with pytest.raises(DataError, match=rf"^{damaged} is not a readable image"):
        check([config])


# ---- what is refused


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("")
    with pytest.raises(DataError, match=rf"data\.root={root} must be a folder"):
        describe(settings(root))


BOTH = "train/cat train/dog test/cat test/dog"
REFUSED = {  # class folders of three images each, or of as many as the number after a colon
    "one class": ("cat", r"data\.root=.* must hold at least two .* holds 1$"),
    "one image": ("cat dog:1", "class folder .*/dog has 1 image"),
    "no image": ("cat dog:0", r"class folder .*/dog holds no images of the kinds .*\.png"),
    "no image to train on": ("train/cat train/dog:0 test/cat test/dog", "train/dog holds no images"),
    "no image to test on": ("train/cat train/dog test/cat test/dog:0", "test/dog holds no images"),
    "two for training": ("train/cat train/dog Training/cat", "holds Training/ and train/, but one"),
    "two for validation": ("train/cat train/dog dev/cat val/cat", "holds dev/ and val/, but one .* validation"),
    "test alone": ("test/cat test/dog", "holds test/ but no train/"),
    "validation alone": ("val/cat val/dog", "holds val/ but no train/"),
    "no training": ("val/cat val/dog test/cat test/dog", "holds test/ and val/ but no train/"),
    "train beside classes": ("train/cat train/dog cat dog", "holds train/, which is a part, beside cat/"),
    "test beside classes": ("test/cat test/dog cat dog", "holds test/ but no train/"),
    "test images without classes": ("cat dog test", "holds test/ but no train/"),
    "parts without classes": ("train test", "at least two class subfolders"),
    "other names": ("training_set/cat training_set/dog test_set/cat test_set/dog", "rename it"),
    "a further part": (f"{BOTH} holdout/cat", "holdout looks like a part"),
    "parts within classes": ("cat/train cat/test dog/train dog/test", "parts come before classes"),
    "a class missing from val": (f"{BOTH} val/cat", "but val/ lacks dog"),
    "a class in val alone": (f"{BOTH} val/cat val/dog val/emu", "but train/ lacks emu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cant_be_split_into_parts_and_classes_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    folders, words = REFUSED[case]
    for folder in folders.split():
        name, _, count = folder.partition(":")
        (tmp_path / name).mkdir(parents=True)
        write_classes(tmp_path / name, **{".": int(count or 3)})
    with pytest.raises(DataError, match=words) as caught:
        load(settings(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [("train", "tram"), ("invalid", "valid"), ("dev_board", "test_tube"), ("Train", "car", "training_car")],
)
def test_a_class_may_bear_the_name_of_a_part(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert class_names(settings(write_classes(tmp_path, **dict.fromkeys(names, 3)))) == list(names)


def test_a_class_too_small_for_validation_is_refused(tmp_path: Path) -> None:
    config = settings(write_classes(tmp_path, cat=40, dog=2), validation=0.2)
    with pytest.raises(DataError, match="class dog has 1 image to train on"):
        load(config)
