"""Jobs that Submitit runs as processes of this machine: what they leave, and how they end."""

import stat
import time
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from tinysweep.search.workers.job import SweepContext
from tinysweep.search.workers.submitit_jobs import SubmititPool
from tinysweep.settings.searchpath import CONFIG_FOLDER

pytestmark = pytest.mark.slow
pytest.importorskip("submitit", reason="pip install 'tinysweep[clusters]' brings submitit")


def begun(study: Path, **more: Any) -> SubmititPool:
    """As it is shipped, with the places that Hydra fills in, for a study whose jobs do nothing: the sweep's mark
    isn't there."""
    shipped = OmegaConf.load(CONFIG_FOLDER / "hydra/launcher/submitit.yaml")
    node = OmegaConf.merge(shipped, {"cluster": "local", "parameters": {"name": "s"}}, more)
    hydra = {"hydra": {"sweep": {"dir": str(study)}, "launcher": node}}
    pool, nothing = SubmititPool(OmegaConf.create(hydra).hydra.launcher), cast(Any, None)
    pool.begin(SweepContext(nothing, nothing, OmegaConf.create(), study, study / "mark"))
    return pool


@pytest.mark.parametrize("more", [{}, {"folder": "${hydra.sweep.dir}/.submitit/%j"}], ids=["shipped", "each"])
def test_what_a_job_leaves_lies_in_a_folder_that_others_cannot_read(tmp_path: Path, more: dict[str, str]) -> None:
    pool = begun(tmp_path, **more)
    pool.submit(0, [])
    while not (ended := pool.wait(lambda: {0})):
        pass
    assert ended[0].outcome.unfit
    pool.stop()
    left = tmp_path / ".submitit"
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    assert list(left.rglob("*_log.out"))
    assert not list(left.rglob("*submitted.pkl"))
    assert [path for path in left.rglob("*") if "%" in path.name] == []
    assert len([path for path in left.iterdir() if path.is_dir()]) == bool(more)


def test_jobs_that_are_cancelled_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pool = begun(tmp_path)
    for number in range(2):
        pool.submit(number, [])
    processes = [job._process for job in pool.out.values()]
    time.sleep(1.0)  # until they would have a traceback to show
    pool.stop()
    for process in processes:
        process.wait(60)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.rglob("*submitted.pkl"))


@pytest.mark.parametrize(("state", "machine"), [("NODE_FAIL", True), ("PREEMPTED", True), ("FAILED", False)])
def test_no_trial_is_the_cause_of_what_the_scheduler_says_of_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, machine: bool
) -> None:
    pool = begun(tmp_path)
    pool.submit(0, [])
    job = pool.out[0]
    job._process.kill()
    job._process.wait(60)
    monkeypatch.setattr(type(job), "state", state)
    while not (ended := pool.wait(lambda: {0})):
        pass
    assert (ended[0].machine, state in str(ended[0].died)) == (machine, True)
    pool.stop()
