"""Jobs in processes of this machine: hydra/launcher=joblib."""

from collections.abc import Callable

from joblib import effective_n_jobs
from omegaconf import DictConfig

from tinysweep.errors import ConfigError
from tinysweep.processes import Processes
from tinysweep.search.workers.job import Outcome, SweepContext, run_packed
from tinysweep.search.workers.pool import Ended, with_queue
from tinysweep.settings.schema import Device
from tinysweep.training.device import parallel_trainings, usable_cores

POLL_SECONDS = 1.0
DIED = "its worker died, killed or out of memory"


class LocalPool:
    """Worker processes that stay warm from one trial to the next."""

    def __init__(self, node: DictConfig, device: Device) -> None:
        self.workers = workers(node.n_jobs, device)
        self.threads: int | None = max(1, usable_cores() // self.workers)
        self.processes: Processes[int] = Processes(self.workers)
        self.packed = b""

    def begin(self, context: SweepContext) -> None:
        self.packed = context.pack()

    @property
    def capacity(self) -> int:
        return with_queue(self.workers)

    def submit(self, number: int, overrides: list[str]) -> None:
        self.processes.submit(number, run_packed, self.packed, number, overrides)

    def wait(self, look: Callable[[], set[int]]) -> list[Ended]:  # noqa: ARG002 every end is known at once
        ended = []
        for done in self.processes.wait(POLL_SECONDS):
            if done.died:
                ended.append(Ended(done.key, died=f"{DIED} ({done.died})"))
            elif done.error:
                ended.append(Ended(done.key, Outcome.of_error(done.error)))
            else:
                ended.append(Ended(done.key, done.returned))
        return ended

    def stop(self) -> None:
        self.processes.stop()


def workers(n_jobs: int | str, device: Device) -> int:
    """How many processes hydra.launcher.n_jobs asks for: `auto` as many as the machine carries; a number by
    joblib's rule, of which -1 is one for each core.

    Raises:
        ConfigError: it is neither.
    """
    if n_jobs == "auto":
        return parallel_trainings(device)
    if not isinstance(n_jobs, int) or n_jobs == 0:
        raise ConfigError(
            f"hydra.launcher.n_jobs={n_jobs} must be a number of workers, -1 for one a core, or auto"
        )
    return int(effective_n_jobs(n_jobs))
