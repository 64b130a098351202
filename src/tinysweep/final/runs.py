"""The runs of a final: those that are there are found, the others trained; nothing that has finished is lost."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tinysweep.console import Progress
from tinysweep.data.catalogue import is_own
from tinysweep.errors import AbandonedError, StudyError, TinysweepError, is_from_outside
from tinysweep.final.candidates import Job, Stage
from tinysweep.final.race import IMAGE_MEANS
from tinysweep.metrics import ALL_METRICS, METRICS
from tinysweep.processes import Processes
from tinysweep.run.record import RunFolder, State, close_left_record, read_record
from tinysweep.run.run import run
from tinysweep.search.compose_trial import identity
from tinysweep.settings.schema import Config
from tinysweep.training.device import usable_cores
from tinysweep.training.loop import Epoch

METRICS_OF = {stage: (f"{stage}_loss", f"{stage}_accuracy") for stage in Stage}  # that a run of a stage has
DIED = "its worker died, killed or out of memory"


@dataclass(frozen=True)
class Run:
    """A finished run of the final."""

    job: Job
    folder: RunFolder
    record: dict[str, Any]

    def metric(self, name: str) -> float:
        return float(self.record["metrics"][name])

    @cached_property
    def validation(self) -> pd.DataFrame:
        """The validation images with their labels, in the order of their fold, and what was found of each."""
        return pd.read_csv(self.folder.validation)

    def figures(self, judge: str) -> NDArray[np.float64]:
        """The loss of each validation image, (N,), or, where accuracy is the judge, 1 if it was mistaken. Of a
        metric that is no mean over images, one figure of all of them, (1,), of which less is better."""
        if judge not in IMAGE_MEANS:
            return np.array([METRICS[judge].loss(self.metric(judge))])
        found = self.validation
        errors = found["predicted"] != found["label"]
        return np.asarray(found["loss"] if judge == "validation_loss" else errors, dtype=np.float64)

    @property
    def further(self) -> dict[str, float]:
        """The other figures of the images that it was judged by."""
        known, part = METRICS_OF[self.job.stage], f"{self.job.stage}_"
        return {
            name: float(value)
            for name, value in self.record["metrics"].items()
            if name.startswith(part) and name not in known and value is not None
        }


@dataclass(frozen=True)
class Failure:
    """A run that failed."""

    name: str
    stage: Stage
    seed: int
    reason: str

    @classmethod
    def of(cls, job: Job, reason: str) -> "Failure":
        return cls(job.name, job.stage, job.seed, reason)

    def __str__(self) -> str:
        where = " on all training images" if self.stage == Stage.test else ""
        return f"{self.name} with seed {self.seed}{where}: {self.reason}"


class RunProgress(Progress):
    """A line for each run, and how many are done."""

    def __init__(self, total: int) -> None:
        super().__init__(total, "runs")
        self.total, self.done, self.ended, self.found = total, 0, 0, 0

    def expect(self, count: int) -> None:
        """So many more are to come, at most."""
        self.leave_out(self.total - self.ended - count)
        self.total = self.ended + count

    def note_found(self, count: int) -> None:
        """So many runs need not be trained: they count as done, but not for the pace."""
        self.done += count
        self.ended += count
        self.found += count
        self.leave_out(count)

    def tell_found(self) -> None:
        """Say how many were found since this was last said."""
        if count := self.found:
            self.print(f"{count} run{'s are' if count > 1 else ' is'} there already")
        self.found = 0

    def note_ended(self, outcome: Run | Failure) -> None:
        self.tell_found()
        self.ended += 1
        if isinstance(outcome, Run):
            of: Job | Failure = outcome.job
            loss, accuracy = (ALL_METRICS[name].text(outcome.metric(name)) for name in METRICS_OF[of.stage])
            said = f"loss {loss}  {accuracy:>7}  {outcome.record['train_seconds']:6.1f} s"
            self.done += 1
        else:
            of, said = outcome, f"failed: {outcome.reason}"
        self.print(f"{of.stage:<10}  {of.name:<10}  seed {of.seed:<2}  {said}")
        self.advance()


def complete(
    jobs: Sequence[Job], workers: int, progress: RunProgress
) -> tuple[dict[str, list[Run]], dict[str, Failure]]:
    """The runs of all jobs, by name, in the order of the jobs; those that aren't there are trained. A name of
    which a run fails by its own configuration, such as one that diverges, and would fail again, has none, but its
    first failure.

    Raises:
        StudyError: some failed for another reason; all that finished are kept.
    """
    outcomes = {job.folder: look_up(job) for job in jobs}
    todo = [job for job in jobs if not outcomes[job.folder]]
    progress.note_found(sum(isinstance(outcome, Run) for outcome in outcomes.values()))
    for outcome in outcomes.values():
        if isinstance(outcome, Failure):
            progress.note_ended(outcome)
    lost: list[Failure] = []

    def ended(job: Job, reason: str | None) -> None:
        outcomes[job.folder] = outcome = look_up(job)
        if not outcome:
            outcome = Failure.of(job, reason or "it left no finished record")
            lost.append(outcome)
        progress.note_ended(outcome)

    train_all(todo, workers, ended, progress.print)
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise StudyError(
            f"no verdict, because {len(lost)} of {len(jobs)} runs failed: {lost[0]}{more}; what has finished is "
            "kept: run the same command again, or leave a trial out by exclude=[NUMBER]"
        )
    failures: dict[str, Failure] = {}
    runs: dict[str, list[Run]] = {}
    for outcome in outcomes.values():
        if isinstance(outcome, Failure):
            failures.setdefault(outcome.name, outcome)
        elif outcome:
            runs.setdefault(outcome.job.name, []).append(outcome)
    return {name: those for name, those in runs.items() if name not in failures}, failures


# ---- what lies in the folders


def look_up(job: Job) -> Run | Failure | None:
    """What became of a job: its finished run, with the very configuration and with predictions; or that such a run
    has failed by its configuration."""
    failure = None
    for folder in _folders(job):
        record = read_record(folder.path)
        if record is None or not _is_of(record, job):
            continue
        whole = (folder.predictions if job.config.trainer.test else folder.validation).exists()
        if record["state"] == State.complete and whole:
            return Run(job, folder, record)
        if record["state"] == State.failed and not is_from_outside(record.get("error"), record["reason"] or ""):
            failure = Failure.of(job, record["reason"])
    return failure


def tested_otherwise(runs: Sequence[Run]) -> int:
    """How many models beside these, which lie in one folder, have been tested there: by finals with other
    settings."""
    used = {run.folder.path for run in runs}
    return sum(path not in used and _is_complete(path) for path in runs[0].job.folder.parent.iterdir())


def _folders(job: Job) -> Iterator[RunFolder]:
    """The folders in which runs of a job may lie: its own, and those that `RunFolder.claim` made when that was
    taken."""
    wanted = job.folder
    for path in sorted(wanted.parent.glob(f"{wanted.name}*")):
        if re.fullmatch(r"(-\d+)?", path.name.removeprefix(wanted.name)):
            yield RunFolder(path)


def _is_complete(folder: Path) -> bool:
    record = read_record(folder)
    return record is not None and record["state"] == State.complete


def _is_of(record: dict[str, Any], job: Job) -> bool:
    held, data = record["config"], job.config.data
    if identity(held) != identity(json.loads(json.dumps(asdict(job.config)))):
        return False
    # Of images without a digest, as those of earlier versions are, their place is all that is known.
    known = not is_own(data.name) or data.digest is not None
    return known or Path(held["data"]["root"]).absolute() == Path(data.root).absolute()


def _clear(job: Job) -> None:
    """Remove what runs of a job have left that didn't finish; those that did, with other settings, stay."""
    for folder in list(_folders(job)):
        if not _is_complete(folder.path):
            shutil.rmtree(folder.path)


def _close(job: Job) -> None:
    """Say in the record of a run whose worker was ended that it was interrupted."""
    for folder in _folders(job):
        if record := read_record(folder.path):
            reason = f"interrupted after epoch {record['epochs']} of {job.config.trainer.epochs}"
            close_left_record(folder.path, State.interrupted, reason)


# ---- training


def train_all(
    jobs: Sequence[Job], workers: int, ended: Callable[[Job, str | None], None], say: Callable[[str], None]
) -> None:
    """Train jobs side by side in processes of their own, or with one worker in this one; `ended` is called with
    each as soon as it is done, and with the reason if it failed. A run whose worker is killed, as for want of
    memory, begins anew; the second time it has failed."""
    threads = max(1, usable_cores() // max(1, min(workers, len(jobs))))
    if workers > 1:
        _train_apart(jobs, workers, threads, ended, say)
        return
    for job in jobs:
        _clear(job)
        ended(job, train(job.config, job.folder, threads, os.getpid()))


def _train_apart(
    jobs: Sequence[Job],
    workers: int,
    threads: int,
    ended: Callable[[Job, str | None], None],
    say: Callable[[str], None],
) -> None:
    left = {job.folder: job for job in jobs}
    processes: Processes[Path] = Processes(workers)
    deaths: set[Path] = set()

    def submit(job: Job) -> None:
        _clear(job)
        processes.submit(job.folder, train, job.config, job.folder, threads, os.getpid())

    try:
        for job in jobs:
            submit(job)
        while left:
            for done in processes.wait():
                job = left[done.key]
                if done.died and job.folder not in deaths and look_up(job) is None:
                    deaths.add(job.folder)
                    say(f"{job.folder.name}: its worker died, killed or out of memory; the run begins anew")
                    submit(job)
                    continue
                del left[done.key]
                ended(job, DIED if done.died else done.result())
    except KeyboardInterrupt:
        processes.stop()  # before their records are closed
        for job in left.values():
            _close(job)
        raise
    finally:
        processes.stop()


def train(config: Config, folder: Path, threads: int, parent: int) -> str | None:
    """Train quietly; the reason if it failed, which its record tells too. `parent` is the process
    that asked for it."""

    def require_parent(_epoch: Epoch | None = None) -> None:
        # A run whose command was killed must not go on writing where another may begin.
        if parent not in (os.getpid(), os.getppid()):
            raise AbandonedError("the command that had started this run is gone")

    try:
        require_parent()
        trainer = replace(config.trainer, threads=threads)
        run(replace(config, trainer=trainer), folder, [], require_parent, keep_validation=True)
    except TinysweepError as error:
        return str(error)
    except Exception as error:  # whatever stops one run, the others go on
        return f"{type(error).__name__}: {error}"
    return None
