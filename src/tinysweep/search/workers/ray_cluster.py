"""Jobs as tasks of Ray, on this machine or a cluster: hydra/launcher=ray."""

import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import ConfigError, StudyError, first_line, require_package
from tinysweep.search.workers.job import Outcome, SweepContext, run_packed
from tinysweep.search.workers.pool import Ended, with_queue

POLL_SECONDS = 1.0
COUNT_SECONDS = 5.0  # nodes come and go
ANSWER_SECONDS = 10.0
# How soon a machine that is cut off is lost to the sweep; by Ray's own settings after seven minutes.
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "30000", "RAY_grpc_client_keepalive_timeout_ms": "10000"}


class RayPool:
    """Tasks that Ray spreads over its nodes, each asking for hydra.launcher.ray.remote's resources."""

    def __init__(self, node: DictConfig) -> None:
        require_package("hydra/launcher=ray", "ray", "clusters")
        settings = cast(dict[str, Any], OmegaConf.to_container(node.ray, resolve=True))
        self.init, self.remote = settings.get("init") or {}, settings.get("remote") or {}
        self.asked = {"CPU": self.remote.get("num_cpus", 1), "GPU": self.remote.get("num_gpus") or 0}
        self.asked |= self.remote.get("resources") or {}
        for name, amount in self.asked.items():
            if not isinstance(amount, int | float) or amount < 0:
                key = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, f"resources.{name}")
                raise ConfigError(f"hydra.launcher.ray.remote.{key}={amount} must be a number, 0 or more")
        self.threads: int | None = max(1, math.floor(self.asked["CPU"]))
        self.out: dict[Any, int] = {}
        self.counted, self.workers = -math.inf, 1

    def begin(self, context: SweepContext) -> None:
        """Start or reach Ray.

        Raises:
            StudyError: it can't be, or none of its machines has what a trial asks for.
            ConfigError: ray.remote doesn't take what it is given.
        """
        for name, milliseconds in KEEPALIVE.items():
            os.environ.setdefault(name, milliseconds)  # which Ray reads as it is imported
        import ray  # noqa: PLC0415 of an extra

        if not ray.is_initialized():
            try:
                require_answer(str(self.init.get("address") or os.environ.get("RAY_ADDRESS", "")))
                ray.init(**self.init)
            except Exception as error:  # of many kinds, by what is wrong with the address
                raise StudyError(
                    f"Ray can't be reached or started: {first_line(error)}; hydra.launcher.ray.init.address=null "
                    "starts it here, auto takes the cluster that this machine is part of"
                ) from error
        self.ray: Any = ray
        try:
            self.task = ray.remote(**self.remote)(run_packed)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"hydra.launcher.ray.remote: {first_line(error)}") from error
        if not self._carried():
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in self.asked.items() if amount)
            raise StudyError(f"no machine of the Ray cluster has {wanted}; hydra.launcher.ray.remote asks for it")
        self.packed = ray.put(context.pack())

    def _carried(self) -> int:
        """How many trials the machines that are there carry at a time."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        asked = [(name, amount) for name, amount in self.asked.items() if amount]
        return sum(min((int(node.get(name, 0) / amount) for name, amount in asked), default=1) for node in nodes)

    @property
    def capacity(self) -> int:
        if time.monotonic() - self.counted > COUNT_SECONDS:
            self.workers, self.counted = max(1, self._carried()), time.monotonic()
        return with_queue(self.workers)

    def submit(self, number: int, overrides: list[str]) -> None:
        self.out[self.task.remote(self.packed, number, overrides)] = number

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:  # noqa: ARG002 every end is known at once
        if not self.out:
            time.sleep(POLL_SECONDS)
            return []
        ready, _ = self.ray.wait(list(self.out), num_returns=1, timeout=POLL_SECONDS)
        return [self._end(reference) for reference in ready]

    def _end(self, reference: Any) -> Ended:
        number, errors = self.out.pop(reference), self.ray.exceptions
        # The last is what has become of a result that lay on a machine which died before it was fetched.
        of_machine = (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError)
        try:
            return Ended(number, self.ray.get(reference))
        except errors.RayTaskError as error:  # such as where tinysweep isn't installed
            return Ended(number, Outcome.of_error(error))
        except errors.RayError as error:
            machine = isinstance(error, of_machine)
            died = f"its {'machine' if machine else 'worker'} died ({type(error).__name__})"
            return Ended(number, died=died, machine=machine)

    def stop(self) -> None:
        if not hasattr(self, "ray"):
            return
        for reference in self.out:
            self.ray.cancel(reference, force=True)
        self.out.clear()
        self.ray.shutdown()


def require_answer(address: str) -> None:
    """Fail at once where nobody answers at HOST:PORT: Ray itself tries for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
