"""How the sweepers of a study know of each other: each holds a lease while it lives."""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

HEARTBEAT_SECONDS = 20.0
EXPIRED_SECONDS = 180.0
LEASE_PREFIX = "sweeper:"


class Lease:
    """A sweeper's proof of life: a lock in the study's folder, which the operating system frees when the process
    ends however it ends, and, for sweepers on other machines, a time in the study that is renewed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ".sweepers"
        self.token = uuid.uuid4().hex
        self.lock = FileLock(self._path(self.token))
        self.stopped = threading.Event()
        self.beating: threading.Thread | None = None

    def begin(self, renew: Callable[[str, float], None]) -> None:
        """Take the lease and renew it by `renew(key, time)` until `end`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock.acquire(blocking=False)
        renew(_key(self.token), time.time())

        def beat() -> None:
            while not self.stopped.wait(HEARTBEAT_SECONDS):
                # A storage that is away for a while costs a beat; one that stays away stops the sweep elsewhere.
                with contextlib.suppress(Exception):
                    renew(_key(self.token), time.time())

        self.beating = threading.Thread(target=beat, daemon=True)
        self.beating.start()

    def end(self) -> None:
        """Give the lease back. The lock's file stays: that it isn't held shows at once that this sweeper is
        gone."""
        self.stopped.set()
        if self.beating:
            self.beating.join()
        self.lock.release()

    def is_alive(self, token: str, seen: dict[str, Any]) -> bool:
        """Whether the sweeper `token` lives; `seen` are the times that sweepers renewed, by key."""
        if token == self.token:
            return True
        path = self._path(token)
        if path.exists():
            try:
                with FileLock(path).acquire(blocking=False):
                    return False
            except Timeout:
                return True
        return time.time() - float(seen.get(_key(token), 0.0)) < EXPIRED_SECONDS

    def _path(self, token: str) -> Path:
        return self.folder / f"{token}.lock"


def _key(token: str) -> str:
    return f"{LEASE_PREFIX}{token}"
