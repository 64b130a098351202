"""Optuna's journal file, kept readable: a process that is killed while it writes leaves half a record, onto which
Optuna writes the next one, and can read neither."""

import io
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from tinysweep.errors import StudyError
from tinysweep.search.storage_location import JOURNAL_BEGINS


class Journal(JournalFileBackend):
    """A journal in which half a record is blanked: the file keeps its length, so that whoever is reading it just
    then goes on. What was blanked is kept beside it, in <name>.fragments."""

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
        if self._ends_in_half_a_record():
            self._mend()
        super().append_logs(logs)

    def _ends_in_half_a_record(self) -> bool:
        with self.file.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) == 0:
                return False
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"

    def _mend(self) -> None:
        self.lock.acquire()
        try:
            with self.file.open("r+b") as stream:
                content = io.BytesIO(stream.read())
                start = 0
                for number, line in enumerate(content, start=1):
                    length = self._half(line, number)
                    if half := line[:length].strip():
                        with self.file.with_name(f"{self.file.name}.fragments").open("ab") as kept:
                            kept.write(half + b"\n")
                        stream.seek(start)
                        stream.write(b" " * length)
                    start += len(line)
        finally:
            self.lock.release()

    def _half(self, line: bytes, number: int) -> int:
        """How many bytes of a line come before the whole record in it; all, if it was never ended."""
        if not line.endswith(b"\n"):
            return len(line)
        starts = [match.start() for match in JOURNAL_BEGINS.finditer(line)]
        for start in (0, *starts):
            try:
                json.loads(line[start:])
            except ValueError:
                continue
            return start
        raise StudyError(
            f"line {number} of the journal {self.file} is no record of Optuna's; remove that line, if it is known "
            "how it came there, or begin another study"
        )
