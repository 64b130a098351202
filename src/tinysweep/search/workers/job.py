"""A job as it is sent to a worker: it composes its trial's configuration and trains, as with Hydra's launchers."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tinysweep.errors import TinysweepError, first_line, is_outage


@dataclass(frozen=True)
class Outcome:
    """What a job tells of its end besides the record that it leaves: what made it fail, if it did; whether that
    was an outage, of the storage or a disk; and whether its machine can train nothing of this study. In words, as
    an exception can't always be sent to another process."""

    reason: str | None = None
    error: str | None = None
    outage: bool = False
    unfit: bool = False

    @classmethod
    def of_error(cls, error: BaseException) -> "Outcome":
        kind = type(error).__name__
        said = str(error) if isinstance(error, TinysweepError) else f"{kind}: {first_line(error)}"
        return cls(said, kind, is_outage(error))

    @classmethod
    def of(cls, returned: JobReturn) -> "Outcome":
        """The outcome that Hydra's own words tell."""
        if returned.status != JobStatus.FAILED:
            return cls()
        return cls.of_error(returned._return_value)


@dataclass(frozen=True)
class SweepContext:
    """What every job of a sweep has in common."""

    hydra: HydraContext
    task: TaskFunction
    master: DictConfig
    study: Path
    mark: Path  # a file in the study's folder that is there as long as the sweep is

    def pack(self) -> bytes:
        """All of it, and what Hydra keeps in globals, for `run_packed`."""
        packed: bytes = cloudpickle.dumps((self, Singleton.get_state(), Path.cwd()))
        return packed

    def run(self, number: int, overrides: list[str]) -> JobReturn:
        composed = self.hydra.config_loader.load_sweep_config(self.master, overrides)
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = str(number), number
        HydraConfig.instance().set_config(composed)
        return run_job(
            hydra_context=self.hydra,
            task_function=self.task,
            config=composed,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def run_packed(packed: bytes, number: int, overrides: list[str]) -> Outcome:
    """Train a trial in this process, from the folder that the sweep was started in if it is there: an engine may
    have been started in another, in which the user's own modules and relative paths aren't found."""
    context, state, folder = cloudpickle.loads(packed)
    if not context.mark.exists():
        return Outcome(
            f"the machine {platform.node()} can't see the study's folder, {context.study}; give one that all "
            "machines share: hydra.sweep.dir=FOLDER",
            unfit=True,
        )
    if folder.is_dir():
        os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    try:
        return Outcome.of(context.run(number, overrides))
    except Exception as error:  # a YAML file that can't be composed any more
        return Outcome.of_error(error)
