"""Files that are written whole or not at all, and locks that say who is at work."""

import contextlib
import os
import secrets
from pathlib import Path

from filelock import FileLock, Timeout


def write_whole(path: Path, content: bytes | str) -> None:
    """Write beside `path`, then rename over it, so that no reader ever meets half a file.

    Raises:
        OSError: naming `path`.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        # A full disk names no file, and what else goes wrong names the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may have become read-only, which has been said then
            temporary.unlink(missing_ok=True)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder in which there is nothing, if it is there."""
    with contextlib.suppress(OSError):  # by which the operating system says that something lies in it
        folder.rmdir()


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock; the operating system frees that of one that has ended, however it did."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock).acquire(blocking=False):
            return False
    except Timeout:
        return True
