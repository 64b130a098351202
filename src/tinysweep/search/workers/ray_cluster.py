"""Jobs as tasks of Ray, on this machine or a cluster: hydra/launcher=ray."""

import math
import time
from collections.abc import Callable
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import StudyError, first_line, require_package
from tinysweep.search.workers.job import Outcome, SweepContext, run_packed
from tinysweep.search.workers.pool import Ended, with_queue

POLL_SECONDS = 1.0
COUNT_SECONDS = 5.0  # nodes come and go


class RayPool:
    """Tasks that Ray spreads over its nodes, each asking for hydra.launcher.ray.remote's resources."""

    def __init__(self, node: DictConfig) -> None:
        require_package("hydra/launcher=ray", "ray", "clusters")
        settings = cast(dict[str, Any], OmegaConf.to_container(node.ray, resolve=True))
        self.init, self.remote = settings.get("init") or {}, settings.get("remote") or {}
        self.threads: int | None = max(1, math.floor(self.remote.get("num_cpus", 1)))
        self.out: dict[Any, int] = {}
        self.counted, self.workers = -math.inf, 1

    def begin(self, context: SweepContext) -> None:
        import ray  # noqa: PLC0415 of an extra

        if not ray.is_initialized():
            try:
                ray.init(**self.init)
            except Exception as error:  # of many kinds, by what is wrong with the address
                raise StudyError(
                    f"Ray can't be reached or started: {first_line(error)}; hydra.launcher.ray.init.address=null "
                    "starts it here, auto takes the cluster that this machine is part of"
                ) from error
        self.ray: Any = ray  # much of which has no types
        self.task = ray.remote(**self.remote)(run_packed)
        self.packed = ray.put(context.pack())

    @property
    def capacity(self) -> int:
        if time.monotonic() - self.counted > COUNT_SECONDS:
            there = cast(Any, self.ray).cluster_resources()
            asked = {"CPU": self.remote.get("num_cpus", 1), "GPU": self.remote.get("num_gpus", 0)}
            asked |= self.remote.get("resources") or {}
            self.workers = max(1, min(int(there.get(name, 0) / much) for name, much in asked.items() if much))
            self.counted = time.monotonic()
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
        number = self.out.pop(reference)
        try:
            return Ended(number, self.ray.get(reference))
        except self.ray.exceptions.RayTaskError as error:  # such as where tinysweep isn't installed
            return Ended(number, Outcome.of_error(error))
        except self.ray.exceptions.RayError as error:
            return Ended(number, died=f"its worker died ({type(error).__name__})")

    def stop(self) -> None:
        if not hasattr(self, "ray"):
            return
        for reference in self.out:
            self.ray.cancel(reference, force=True)
        self.out.clear()
        self.ray.shutdown()
