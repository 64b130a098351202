"""Optuna's journal file, kept readable: a process that is killed while it writes leaves half a record, onto which
Optuna writes the next one, and can read neither."""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from tinysweep.errors import StudyError
from tinysweep.search.storage.location import JOURNAL_BEGINS


class Journal(JournalFileBackend):
    """A journal in which half a record is blanked: the file keeps its length, so that whoever is reading it just
    then goes on."""

    def __init__(self, file: Path) -> None:
        self.file, self.lock = file, JournalFileSymlinkLock(str(file))
        super().__init__(str(file), self.lock)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Records from a number on.

        Raises:
            StudyError: a line is no record, and holds none.
        """
        read = log_number_from
        try:
            for record in super().read_logs(read):
                read += 1
                yield record
        except ValueError:
            self._mend()
            yield from super().read_logs(read)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records behind the last whole one."""
        with self.file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - 1, 0))
            is_whole = stream.read() in (b"", b"\n")
        if not is_whole:
            self._mend()
        super().append_logs(logs)

    def _mend(self) -> None:
        self.lock.acquire()
        try:
            lines = self.file.read_bytes().splitlines(keepends=True)
            with self.file.open("r+b") as stream:
                start = 0
                for number, line in enumerate(lines, start=1):
                    stream.seek(start)
                    stream.write(b" " * self._length_of_half(line, number))
                    start += len(line)
        finally:
            self.lock.release()

    def _length_of_half(self, line: bytes, number: int) -> int:
        """How many bytes of a line come before the whole record in it; all, if it was never ended."""
        if not line.endswith(b"\n"):
            return len(line)
        for start in (0, *(match.start() for match in JOURNAL_BEGINS.finditer(line))):
            try:
                json.loads(line[start:])
            except ValueError:
                continue
            return start
        raise StudyError(
            f"line {number} of the journal {self.file} is no record of Optuna's; remove that line, if it is known "
            "how it came there, or begin another study"
        )
