"""Jobs by Submitit, on SLURM or as processes of this machine: hydra/launcher=submitit."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from tinysweep.errors import ConfigError, StudyError, first_line, require_package
from tinysweep.files import remove_if_empty
from tinysweep.search.workers.job import Outcome, SweepContext, run_packed
from tinysweep.search.workers.pool import Ended
from tinysweep.training.device import usable_cores

POLL_SECONDS = 0.5
STDERR = 2  # its descriptor, which children inherit
CLUSTERS = ("slurm", "local")
RESULT_SECONDS = {
    "slurm": 15.0,
    "local": 1.0,
}  # after a job's end until its result is seen; folders of a network are slow
OF_MACHINE = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")  # SLURM's states of jobs that end through no fault of theirs


class Resubmittable:
    """A job that may be put back into the scheduler's queue: Submitit asks what is to be run then."""

    def __call__(self, packed: bytes, number: int, overrides: list[str]) -> Outcome:
        return run_packed(packed, number, overrides)

    def checkpoint(self, *arguments: Any) -> Any:
        """The same job once more: it takes over what this attempt has left."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 of an extra

        return DelayedSubmission(self, *arguments)


class SubmititPool:
    """A job of the scheduler for each trial."""

    def __init__(self, node: DictConfig) -> None:
        require_package("hydra/launcher=submitit", "submitit", "clusters")
        if node.cluster not in CLUSTERS:
            raise ConfigError(f"hydra.launcher.cluster={node.cluster} must be one of {', '.join(CLUSTERS)}")
        cores = node.parameters.get("cpus_per_task", 1)
        for key, number in (("jobs", node.jobs), ("parameters.cpus_per_task", cores)):
            if not isinstance(number, int) or number < 1:
                raise ConfigError(f"hydra.launcher.{key}={number} must be a whole number, 1 or more")
        self.node = node
        self.threads: int | None = cores
        # A scheduler has a queue of its own; here jobs would share the cores.
        self.capacity = node.jobs if node.cluster == "slurm" else max(1, usable_cores() // cores)
        self.out: dict[int, Any] = {}
        self.gone: dict[int, float] = {}

    def begin(self, context: SweepContext) -> None:
        import submitit  # noqa: PLC0415 of an extra

        settings = cast(dict[str, Any], OmegaConf.to_container(self.node, resolve=True))
        folder, cluster = Path(settings["folder"]).absolute(), settings["cluster"]
        # A job is pickled there, with the storage's password.
        submitit.core.utils.JobPaths.get_first_id_independent_folder(folder).mkdir(
            mode=0o700, parents=True, exist_ok=True
        )
        try:
            self.executor = submitit.AutoExecutor(
                folder=folder, cluster=cluster, **{f"{cluster}_max_num_timeout": settings["max_num_timeout"]}
            )
            self.executor.update_parameters(**settings["parameters"])
        except Exception as error:  # of many kinds, by what is missing or unknown
            raise StudyError(f"hydra/launcher=submitit: {first_line(error)}") from error
        self.submitit, self.packed = submitit, context.pack()

    def submit(self, number: int, overrides: list[str]) -> None:
        with quiet_children():
            self.out[number] = self.executor.submit(Resubmittable(), self.packed, number, overrides)

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:  # noqa: ARG002 every end is known at once
        ended = [end for number, job in list(self.out.items()) if job.done() and (end := self._end(number, job))]
        if not ended:
            time.sleep(POLL_SECONDS)
        return ended

    def _end(self, number: int, job: Any) -> Ended | None:
        """How a job that is done has ended; None where its result may still be on its way."""
        waited = time.monotonic() - self.gone.setdefault(number, time.monotonic())
        if not job.paths.result_pickle.exists() and waited < RESULT_SECONDS[self.node.cluster]:
            return None
        del self.out[number], self.gone[number]
        job.paths.submitted_pickle.unlink(missing_ok=True)
        if not job.paths.result_pickle.exists():
            return _death(number, job)
        try:
            return Ended(number, job.result())
        except self.submitit.core.utils.FailedJobError as error:
            return Ended(number, Outcome.of_error(error))
        except self.submitit.core.utils.UncompletedJobError:
            return _death(number, job)

    def stop(self) -> None:
        for job in self.out.values():
            job.cancel(check=False)
            job.paths.submitted_pickle.unlink(missing_ok=True)
        self.out.clear()
        if hasattr(self, "executor"):
            remove_if_empty(self.executor.folder)  # of a name such as %j, which is to be that of each job


def _death(number: int, job: Any) -> Ended:
    """The end of a job that left no result."""
    state = str(job.state).partition(" ")[0]
    machine = state in OF_MACHINE
    died = f"its {'machine' if machine else 'worker'} died (job {job.job_id}, {state}, left no result)"
    return Ended(number, died=died, machine=machine)


@contextmanager
def quiet_children() -> Iterator[None]:
    """Let processes that are started meanwhile say nothing here. Submitit's own, which wait for a local job whose
    output goes to files, end with a traceback whenever the job is cancelled or Ctrl-C is pressed."""
    shown = os.dup(STDERR)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), STDERR)
        yield
    finally:
        os.dup2(shown, STDERR)
        os.close(shown)
