"""Arrays of the user's own: every form of them gives the same images, and what is none is refused in one line."""

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Command, made_images
from tinysweep import targets
from tinysweep.data import arrays
from tinysweep.data.catalogue import DataShape
from tinysweep.data.download import to_idx
from tinysweep.data.load import Images, describe, load, load_test, pin
from tinysweep.errors import ConfigError, DataError
from tinysweep.settings.schema import DataConfig, DataName

TRAIN, TEST = made_images(60, classes=3, size=12), made_images(30, classes=3, size=12, seed=1)
X, Y = TRAIN.pixels[:, 0].numpy(), TRAIN.labels.numpy()
X_TEST, Y_TEST = TEST.pixels[:, 0].numpy(), TEST.labels.numpy()


def write_npz(folder: Path, **changes: Any) -> DataConfig:
    held = {"x_train": X, "y_train": Y, "x_test": X_TEST, "y_test": Y_TEST} | changes
    np.savez(folder / "own.npz", **{name: array for name, array in held.items() if array is not None})
    return DataConfig(DataName.npz, root="own.npz", validation=0)


def write_csv(folder: Path) -> DataConfig:
    (folder / "tables").mkdir()
    for name, images, labels in (("train", X, Y), ("test", X_TEST, Y_TEST)):
        with (folder / f"tables/mnist_{name}.csv").open("w") as file:
            rows = csv.writer(file)
            rows.writerow(["label", *(f"pixel{number}" for number in range(images[0].size))])
            rows.writerows([label, *image.ravel()] for image, label in zip(images, labels, strict=True))
    return DataConfig(DataName.csv, root="tables", validation=0)


def write_idx(folder: Path) -> DataConfig:
    (folder / "idx").mkdir()
    for name, images, labels in (("train", X, Y), ("t10k", X_TEST, Y_TEST)):
        (folder / f"idx/{name}-images-idx3-ubyte").write_bytes(to_idx(images))
        (folder / f"idx/{name}-labels.idx1-ubyte").write_bytes(to_idx(labels.astype(np.uint8)))
    return DataConfig(DataName.idx, root="idx", validation=0)


def write_custom(folder: Path) -> DataConfig:
    write_npz(folder)
    (folder / "owndata.py").write_text(
        "import numpy as np\n\n\ndef load(root, file):\n"
        "    with np.load(f'{root}/{file}') as held:\n        return dict(held)\n"
    )
    options = {"file": "own.npz"}
    return DataConfig(DataName.custom, root=str(folder), validation=0, target="owndata:load", options=options)


def labelled(images: Images) -> list[tuple[bytes, int]]:
    """Images with their labels, in an order of their own."""
    return sorted(
        (bytes(pixels), int(label)) for pixels, label in zip(images.pixels.numpy(), images.labels, strict=True)
    )


@pytest.fixture(autouse=True)
def _own(place: Path) -> Iterator[None]:
    """A folder of one's own, and nothing of it kept."""
    yield
    for name in ("owndata", "ownragged"):
        sys.modules.pop(name, None)
    targets.forget()
    arrays._last.clear()
    sys.path[:] = [entry for entry in sys.path if entry != str(place)]


@pytest.mark.parametrize("write", [write_npz, write_csv, write_idx, write_custom])
def test_every_kind_of_file_gives_the_same_images(place: Path, write: Callable[[Path], DataConfig]) -> None:
    config = write(place)
    assert describe(config) == DataShape(1, 12, 3)
    data, test = load(config), load_test(config)
    assert labelled(data.train) == labelled(TRAIN)
    assert torch.equal(test.pixels, TEST.pixels)
    assert torch.equal(test.labels, TEST.labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.reshape(len(images), -1),
        lambda images: images[..., None],
        lambda images: images[:, None],
        lambda images: images.astype(np.int64),
        lambda images: images.astype(np.float64),
        lambda images: (images / 255).astype(np.float32),
    ],
)
def test_every_form_of_an_array_gives_the_same_images(place: Path, change: Callable[[Any], Any]) -> None:
    same = load_test(write_npz(place))
    assert torch.equal(load_test(write_npz(place, x_train=change(X), x_test=change(X_TEST))).pixels, same.pixels)


def test_colour_may_come_first_or_last(place: Path) -> None:
    colours = np.stack([X, X // 2, X // 3], 1)
    first = load_test(write_npz(place, x_train=colours, x_test=colours[:30])).pixels
    last = load_test(write_npz(place, x_train=colours.transpose(0, 2, 3, 1), x_test=colours[:30])).pixels
    assert first.shape == (30, 3, 12, 12)
    assert torch.equal(first, last)


def test_classes_may_have_names_or_any_numbers(place: Path) -> None:
    for names in (np.array(["ant", "bee", "cat"]), np.array([7, 30, 90]), np.array([1.0, 2.0, 5.0])):
        config = write_npz(place, y_train=names[Y][:, None], y_test=names[Y_TEST])
        assert arrays.read(config).classes == tuple(map(str, names.astype(int) if names[0] == 1.0 else names))
        assert torch.equal(load_test(config).labels, TEST.labels)


def test_without_a_test_part_a_fraction_of_each_class_is_one_whatever_the_seed(place: Path) -> None:
    config = replace(write_npz(place, x_test=None, y_test=None), test_fraction=0.3)
    test, train = load_test(config), load(config).train
    assert torch.bincount(test.labels).tolist() == [6, 6, 6]
    assert len(train) == 42
    assert torch.equal(load_test(replace(config, split_seed=3, validation=0.1)).pixels, test.pixels)
    assert not {*map(bytes, test.pixels.numpy())} & {*map(bytes, train.pixels.numpy())}


def test_a_file_that_changes_is_read_anew_and_refused_where_it_was_pinned(place: Path) -> None:
    pinned = pin(write_npz(place))
    load(pinned)
    again = write_npz(place, x_train=X[::-1], y_train=Y[::-1])
    assert pin(again).digest != pinned.digest
    with pytest.raises(DataError, match=r"not the images of data\.digest"):
        load(pinned)


def test_data_read_otherwise_from_one_place_has_a_digest_of_its_own(place: Path) -> None:
    digests: dict[str, str] = {}
    config = write_npz(place, x_test=None, y_test=None)
    found = [pin(replace(config, test_fraction=part), digests) for part in (0.2, 0.4, 0.2)]
    assert found[0].digest == found[2].digest != found[1].digest
    for each in found:
        load(each)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_test": None}, "holds x_train, y_train, y_test; it must hold x_train and y_train"),
        ({"x_train": X[:50]}, "train: 50 images, but 60 labels"),
        ({"x_train": X[:, :10]}, "train: images must be square, not 1x10x12"),
        ({"x_train": X.reshape(60, -1)[:, :140]}, "140 pixels an image make no square"),
        ({"x_train": np.stack([X] * 4, -1)}, r"one channel or three.*uint8 of shape \(60, 12, 12, 4\)"),
        ({"x_train": X.astype(float) - 200}, "pixels must lie in 0 to 255, or in 0 to 1, not in -200 to"),
        ({"x_train": np.full(X.shape, np.nan)}, "not in nan to nan"),
        ({"x_train": X.astype(str)}, "images must be numbers"),
        ({"y_train": np.eye(3)[Y]}, r"labels have shape \(60, 3\).*argmax"),
        ({"y_train": Y + 0.5}, "labels must be whole numbers or names, not 0.5"),
        ({"y_train": Y.astype(complex)}, "labels must be whole numbers or names, one for each image"),
        ({"y_train": np.zeros(60)}, "at least two classes, but there is 1"),
        ({"y_test": np.full(30, 8)}, "test images have the class 8, which no training image has"),
        ({"x_test": X_TEST[:, :10, :10]}, "test images are 1x10x10, but training images 1x12x12"),
        ({"x_test": None, "y_test": None, "y_train": np.minimum(np.arange(60), 1)}, "class 0 has 1 image"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_refused_in_one_line(place: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as refusal:
        load(write_npz(place, **changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "root", "said"),
    [
        ("npz", "none.npz", "must be a .npz file, but there is no such file"),
        ("npz", "text", "can't be read as a .npz file of arrays: it is none"),
        ("csv", "text", "column called label.*begins with words"),
        ("csv", "empty", "must hold a .csv file with train in its name"),
        ("csv", "names.csv", "column name holds text"),
        ("idx", "text", "must be a folder of IDX files"),
        ("idx", "empty", "lacks train-images-idx3-ubyte"),
    ],
)
def test_what_is_no_such_file_is_refused(place: Path, name: str, root: str, said: str) -> None:
    (place / "empty").mkdir()
    (place / "text").write_text("words\nand more\n")
    (place / "names.csv").write_text("label,name\n1,a\n2,b\n")
    with pytest.raises(DataError, match=said):
        load(DataConfig(DataName(name), root=root))


def test_a_function_that_returns_something_else_is_refused(place: Path) -> None:
    config = write_custom(place)
    (place / "owndata.py").write_text("def load(): return 5\n\n\ndef fails(): raise ValueError('no')\n")
    with pytest.raises(DataError, match=r"data.target=owndata:load must return \(x_train, y_train\)"):
        load(replace(config, options={}))
    (place / "ownragged.py").write_text("def load(): return {'x_train': [[1], [1, 2]], 'y_train': [0, 1]}\n")
    with pytest.raises(DataError, match="what it returns makes no arrays"):
        load(replace(config, target="ownragged:load", options={}))
    with pytest.raises(ConfigError, match=r"data.options.file=own.npz: owndata:load has no argument file"):
        load(config)
    with pytest.raises(ConfigError, match=r"owndata:fails raises ValueError: no \(owndata.py, line 4\)"):
        load(replace(config, target="owndata:fails", options={}))
    with pytest.raises(ConfigError, match=r"data\.target=null must be MODULE:NAME"):
        DataConfig(DataName.custom)


def test_a_run_tells_how_many_test_images_it_trains_on(place: Path, command: Command) -> None:
    images, labels = np.concatenate([X_TEST, X[:4]]), np.concatenate([Y_TEST, Y[:4]])
    write_npz(place, x_test=images, y_test=labels)
    words = ("data=npz", "data.root=own.npz", "model.width=2", "model.depth=[1,1]", "trainer.epochs=1")
    ended = command(*words, "model.stem_kernel=3", "trainer.batch_size=20")
    assert ended.status == 0, ended.err
    assert "note: 4 of the 34 test images are training images too" in ended.out
    assert "test accuracy" in ended.out


def test_torchvisions_sets_are_a_function_away_as_the_page_has_it(place: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    source = page.partition("```python\n")[2].partition("```")[0]
    (place / "owndata.py").write_text(source.replace("download=True", "download=False"))
    raw = place / "cache/EMNIST/raw"
    raw.mkdir(parents=True)
    for part, images, labels in (("train", X, Y), ("test", X_TEST, Y_TEST)):
        (raw / f"emnist-balanced-{part}-images-idx3-ubyte").write_bytes(to_idx(images.transpose(0, 2, 1).copy()))
        (raw / f"emnist-balanced-{part}-labels-idx1-ubyte").write_bytes(to_idx(labels.astype(np.uint8)))
    config = DataConfig(DataName.custom, root="cache", target="owndata:emnist")
    assert torch.equal(load_test(config).pixels, TEST.pixels)
