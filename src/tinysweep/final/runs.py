"""The runs of a final: those that are there are found, the others trained; nothing that has finished is lost."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tinysweep.errors import StudyError, is_from_outside
from tinysweep.final.plan import Job, Stage
from tinysweep.final.workers import Pool, Task
from tinysweep.run.record import RunFolder, State
from tinysweep.search.compose_trial import identity
from tinysweep.search.launch import read_record
from tinysweep.settings.schema import DataName
from tinysweep.training.device import usable_cores


@dataclass(frozen=True)
class Run:
    """A finished run of the final."""

    job: Job
    folder: RunFolder
    record: dict[str, Any]

    def metric(self, name: str) -> float:
        return float(self.record["metrics"][name])


@dataclass(frozen=True)
class Failure:
    """A run that failed by its own configuration, such as one that diverged, and would fail again."""

    job: Job
    reason: str

    def __str__(self) -> str:
        where = " on all training images" if self.job.stage == Stage.test else ""
        return f"{self.job.name} with seed {self.job.seed}{where}: {self.reason}"


class Screen(Protocol):
    """Who is told of what happens to runs."""

    def begin(self, there: int) -> None:
        """Some runs need not be trained."""

    def finished(self, run: Run) -> None: ...

    def failed(self, job: Job, reason: str) -> None: ...


def complete(jobs: Sequence[Job], pool: Pool, screen: Screen) -> tuple[dict[str, list[Run]], dict[str, Failure]]:
    """The runs of all jobs, by name, in the order of the jobs; those that aren't there are trained. A name of
    which a run fails by its own configuration has none, but its first failure.

    Raises:
        StudyError: some failed for another reason; all that finished are kept.
        KeyboardInterrupt: passed on, once what was being trained is stopped.
    """
    found: list[Run | Failure | None] = [find(job) or find_failure(job) for job in jobs]
    todo = [position for position, run in enumerate(found) if run is None]
    screen.begin(sum(isinstance(run, Run) for run in found))
    for failure in found:
        if isinstance(failure, Failure):
            screen.failed(failure.job, failure.reason)
    for position in todo:
        clear(jobs[position])
    threads = max(1, usable_cores() // max(1, min(pool.size, len(todo))))
    tasks = [_task(jobs[position], threads) for position in todo]
    failures: list[str] = []

    def finished(done: int, reason: str | None) -> None:
        position = todo[done]
        job = jobs[position]
        found[position] = outcome = find(job) or find_failure(job)
        if isinstance(outcome, Run):
            screen.finished(outcome)
            return
        reason = reason or "it left no finished record"
        if outcome is None:
            failures.append(f"{job.name} with seed {job.seed}: {reason}")
        screen.failed(job, reason)

    pool.run(tasks, finished)
    if failures:
        raise StudyError(_no_verdict(failures, len(jobs)))
    runs: dict[str, list[Run]] = {}
    dropped: dict[str, Failure] = {}
    for run in found:
        if isinstance(run, Failure):
            dropped.setdefault(run.job.name, run)
        elif run is not None:
            runs.setdefault(run.job.name, []).append(run)
    return {name: those for name, those in runs.items() if name not in dropped}, dropped


def find(job: Job) -> Run | None:
    """The run of a job, if it has finished: with the very configuration, and if it was tested, with
    predictions."""
    for folder in _folders(job.folder):
        record = _finished(folder)
        if record is None or not _is_of(record, job):
            continue
        if job.stage == Stage.validation or folder.predictions.exists():
            return Run(job, folder, record)
    return None


def find_failure(job: Job) -> Failure | None:
    """That a run with the very configuration of a job has failed by it."""
    for folder in _folders(job.folder):
        record = read_record(folder.path)
        if record is None or record["state"] != State.failed or not _is_of(record, job):
            continue
        if not is_from_outside(record.get("error"), record["reason"] or ""):
            return Failure(job, record["reason"])
    return None


def clear(job: Job) -> None:
    """Remove what runs of a job have left that didn't finish; those that did, with other settings, stay."""
    for folder in list(_folders(job.folder)):
        if _finished(folder) is None:
            shutil.rmtree(folder.path)


def tested_otherwise(runs: Sequence[Run]) -> int:
    """How many models beside these, which lie in one folder, have been tested there: by finals with other
    settings."""
    used = {run.folder.path for run in runs}
    return sum(
        path not in used and _finished(RunFolder(path)) is not None for path in runs[0].job.folder.parent.iterdir()
    )


def _folders(wanted: Path) -> Iterator[RunFolder]:
    """The folders in which runs that wanted this one lie: it, and those that `RunFolder.claim` made when it was
    taken."""
    for path in sorted(wanted.parent.glob(f"{wanted.name}*")):
        if re.fullmatch(r"(-\d+)?", path.name.removeprefix(wanted.name)):
            yield RunFolder(path)


def _finished(folder: RunFolder) -> dict[str, Any] | None:
    record = read_record(folder.path)
    return record if record is not None and record["state"] == State.complete else None


def _is_of(record: dict[str, Any], job: Job) -> bool:
    held = record["config"]
    data = job.config.data
    wanted = json.loads(json.dumps(dataclasses.asdict(job.config)))
    if identity(held) != identity(wanted):
        return False
    # Of images without a digest, as those of earlier versions are, their place is all that is known.
    known = data.name != DataName.image_folder or data.digest is not None
    return known or Path(held["data"]["root"]).absolute() == Path(data.root).absolute()


def _task(job: Job, threads: int) -> Task:
    return Task(
        dataclasses.replace(job.config, trainer=dataclasses.replace(job.config.trainer, threads=threads)),
        job.folder,
    )


def _no_verdict(failures: list[str], wanted: int) -> str:
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return (
        f"no verdict, because {len(failures)} of {wanted} runs failed: {failures[0]}{more}; what has finished is "
        "kept: run the same command again, or leave a trial out by exclude=[NUMBER]"
    )
