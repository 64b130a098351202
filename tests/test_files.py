"""Files are written whole or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tinysweep.files import write_whole


@pytest.mark.parametrize("content", ["text: é × \n", b"\x00\xff\r\n", ""])
def test_what_is_written_is_what_was_given(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    path.write_text("something longer that was there before")
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_cut_short_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = tmp_path / "file"
    write_whole(path, "old")
    monkeypatch.setattr({"fsync": os, "replace": Path}[failing], failing, fail)
    with pytest.raises(type(error)):
        write_whole(path, "new, and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_and_writers_at_once_meet_whole_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    contents = [letter * 300_000 for letter in "ab"]
    write_whole(path, contents[0])
    monkeypatch.setattr(os, "fsync", lambda _: None)  # so that there are many writes in a short time

    def keep_writing(first: int) -> None:
        for number in range(100):
            write_whole(path, contents[(first + number) % 2])

    seen: set[str] = set()
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(keep_writing, number) for number in range(3)]
        while not all(writer.done() for writer in writers):
            seen.add(path.read_text())
        assert [writer.result() for writer in writers] == [None] * 3
    assert seen == set(contents)
    assert list(tmp_path.iterdir()) == [path]
