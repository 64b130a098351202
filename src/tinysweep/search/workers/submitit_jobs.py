"""Jobs by Submitit, on SLURM or as processes of this machine: hydra/launcher=submitit or submitit_local."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import StudyError, first_line, require_package
from tinysweep.search.workers.job import Outcome, SweepContext, run_packed
from tinysweep.search.workers.pool import Ended, with_queue
from tinysweep.training.device import usable_cores

POLL_SECONDS = 0.5
OF_ALL = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
          "stderr_to_stdout")  # fmt: skip  # what Submitit's executors have in common, by their own names
AT_START = ("max_num_timeout", "python")  # asked for before the first job


class Resubmittable:
    """A job that SLURM may put back into its queue: Submitit asks what is to be run then."""

    def __call__(self, packed: bytes, number: int, overrides: list[str]) -> Outcome:
        return run_packed(packed, number, overrides)

    def checkpoint(self, *arguments: Any) -> Any:
        """The same job: it takes over what this attempt has left."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 of an extra

        return DelayedSubmission(self, *arguments)


class SubmititPool:
    """A job of the scheduler for each trial."""

    def __init__(self, node: DictConfig, cluster: str) -> None:
        require_package(f"hydra/launcher=submitit ({cluster})", "submitit", "clusters")
        self.settings = cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))
        self.node, self.cluster = node, cluster
        cores = self.settings.get("cpus_per_task") or 1
        local = max(1, usable_cores() // cores)
        self.workers = local if cluster == "local" else self.settings.get("array_parallelism", 256)
        self.threads: int | None = cores
        self.out: dict[int, Any] = {}

    def begin(self, context: SweepContext) -> None:
        import submitit  # noqa: PLC0415 of an extra

        given = cast(dict[str, Any], OmegaConf.to_container(self.node, resolve=True))
        folder = Path(given.pop("submitit_folder")).absolute()
        for below in (folder.parent, *folder.parent.parents):  # pickled jobs hold the storage's password
            if below == context.study:
                break
            below.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = {key: value for key, value in given.items() if value is not None and not key.startswith("_")}
        starting = {f"{self.cluster}_{key}": known.pop(key) for key in AT_START if key in known}
        known.pop("array_parallelism", None)  # one job each, as workers become free
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster, **starting)
            self.executor.update_parameters(
                **{key if key in OF_ALL else f"{self.cluster}_{key}": value for key, value in known.items()}
            )
        except Exception as error:  # of many kinds, by what is missing
            raise StudyError(f"hydra/launcher=submitit: {first_line(error)}") from error
        self.submitit, self.packed = submitit, context.pack()

    @property
    def capacity(self) -> int:
        return with_queue(self.workers)

    def submit(self, number: int, overrides: list[str]) -> None:
        self.out[number] = self.executor.submit(Resubmittable(), self.packed, number, overrides)

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:  # noqa: ARG002 every end is known at once
        ended = [self._end(number, job) for number, job in list(self.out.items()) if job.done()]
        if not ended:
            time.sleep(POLL_SECONDS)
        return ended

    def _end(self, number: int, job: Any) -> Ended:
        del self.out[number]
        try:
            return Ended(number, job.result())
        except self.submitit.core.utils.FailedJobError as error:
            return Ended(number, Outcome.of_error(error))
        except self.submitit.core.utils.UncompletedJobError as error:
            return Ended(number, died=f"its worker died ({first_line(error)})")

    def stop(self) -> None:
        for job in self.out.values():
            job.cancel(check=False)
        self.out.clear()
