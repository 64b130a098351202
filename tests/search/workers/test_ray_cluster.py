"""What Ray tells of jobs that have ended. Its errors are made here as it makes them; clusters that die are in
test_faults."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from tinysweep.search.workers.job import Outcome
from tinysweep.search.workers.pool import Ended
from tinysweep.search.workers.ray_cluster import RayPool

ray = pytest.importorskip("ray", reason="pip install 'tinysweep[clusters]' brings ray")
ERRORS = ray.exceptions


class FakeRay:
    """Tells of every job what the job's reference is."""

    exceptions = ERRORS

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        if isinstance(reference, Exception):
            raise reference
        return reference


@pytest.mark.parametrize(("error", "machine"), [
    (ERRORS.WorkerCrashedError(), False), (ERRORS.OutOfMemoryError("used up"), False),
    (ERRORS.NodeDiedError("gone"), True), (ERRORS.LocalRayletDiedError(), True),
    (ERRORS.OwnerDiedError("0" * 56, None, ""), True), (ERRORS.ObjectLostError("0" * 56, None, ""), True),
])  # fmt: skip
def test_the_death_of_a_machine_is_told_from_that_of_a_worker(error: Exception, machine: bool) -> None:
    pool = RayPool(OmegaConf.create({"ray": {"remote": {"num_cpus": 1}}}))
    pool.ray, pool.out = FakeRay(), {error: 7, Outcome("because"): 8}
    died = f"its {'machine' if machine else 'worker'} died ({type(error).__name__})"
    assert pool.wait(lambda: {7, 8}) == [Ended(7, died=died, machine=machine)]
    assert pool.wait(lambda: {8}) == [Ended(8, Outcome("because"))]
    assert pool.out == {}
