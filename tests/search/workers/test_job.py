"""What a job tells of its end."""

from pathlib import Path
from typing import Any, cast

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from tinysweep.errors import DivergedError, OutageError
from tinysweep.search.workers.job import Outcome, SweepContext, run_packed


@pytest.mark.parametrize(("error", "outcome"), [
    (DivergedError("the loss is nan"), Outcome("the loss is nan", "DivergedError")),
    (ValueError("first line\nsecond line"), Outcome("ValueError: first line", "ValueError")),
    (OSError(28, "No space left on device"),
     Outcome("OSError: [Errno 28] No space left on device", "OSError", outage=True)),
    (OutageError("the server is shutting down"),
     Outcome("the server is shutting down", "OutageError", outage=True)),
    (FileNotFoundError(2, "No such file", "x.yaml"),
     Outcome("FileNotFoundError: [Errno 2] No such file: 'x.yaml'", "FileNotFoundError")),
])  # fmt: skip
def test_a_job_that_raised_tells_why_in_a_line_and_whether_it_was_an_outage(
    error: Exception, outcome: Outcome
) -> None:
    assert Outcome.of(JobReturn(status=JobStatus.FAILED, _return_value=error)) == outcome


def test_a_job_that_returned_tells_nothing() -> None:
    assert Outcome.of(JobReturn(status=JobStatus.COMPLETED, _return_value=None)) == Outcome()


def test_a_machine_that_cannot_see_the_folder_says_so_in_a_line_and_makes_none(tmp_path: Path) -> None:
    study = tmp_path / "elsewhere/s"
    nothing = cast(Any, None)
    context = SweepContext(nothing, nothing, OmegaConf.create(), study, study / ".sweepers/token.lock")
    told = run_packed(context.pack(), 0, [])
    assert told.reason is not None
    assert f"can't see the study's folder, {study}; give one that all machines share" in told.reason
    assert "\n" not in told.reason
    assert not told.outage
    assert not study.exists()
