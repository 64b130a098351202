"""Settings of launchers that can't be are refused in a line, before a study is made."""

import importlib.util
from typing import Any

import pytest
from omegaconf import OmegaConf

from tinysweep.errors import ConfigError
from tinysweep.search.workers.choose import choose_pool
from tinysweep.search.workers.hydra import HydraPool
from tinysweep.search.workers.ray_cluster import require_answer
from tinysweep.settings.schema import Device
from tinysweep.training.device import usable_cores

HERE = "tinysweep.search.workers"


def pool(kind: str, batch_size: int | None = None, **settings: Any) -> Any:
    return choose_pool(OmegaConf.create({"_target_": kind, **settings}), Device.cpu, batch_size)


@pytest.fixture
def with_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ray and Submitit were installed, which aren't imported before a sweep begins."""
    real = importlib.util.find_spec
    there = importlib.util.find_spec("tinysweep")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: there if name in ("ray", "submitit") else real(name)
    )


@pytest.mark.usefixtures("with_extras")
@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("local.LocalPool", {"n_jobs": 0}, "hydra.launcher.n_jobs=0 must be a number of workers"),
        ("local.LocalPool", {"n_jobs": "two"}, "hydra.launcher.n_jobs=two must be a number of workers"),
        (
            "ray_cluster.RayPool",
            {"ray": {"remote": {"num_cpus": "two"}}},
            "hydra.launcher.ray.remote.num_cpus=two must be a number",
        ),
        (
            "ray_cluster.RayPool",
            {"ray": {"remote": {"num_gpus": -1}}},
            "hydra.launcher.ray.remote.num_gpus=-1 must be a number",
        ),
        (
            "submitit_jobs.SubmititPool",
            {"cluster": "pbs", "jobs": 4, "parameters": {}},
            "hydra.launcher.cluster=pbs must be one of slurm, local",
        ),
        (
            "submitit_jobs.SubmititPool",
            {"cluster": "slurm", "jobs": 0, "parameters": {}},
            "hydra.launcher.jobs=0 must be a whole number",
        ),
        (
            "submitit_jobs.SubmititPool",
            {"cluster": "slurm", "jobs": 4, "parameters": {"cpus_per_task": "two"}},
            "hydra.launcher.parameters.cpus_per_task=two must be a whole number",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key_and_value(kind: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        pool(f"{HERE}.{kind}", **settings)
    assert str(refused.value).startswith(said)


@pytest.mark.usefixtures("with_extras")
def test_the_threads_of_a_trial_are_the_cores_that_its_launcher_gives_it() -> None:
    assert pool(f"{HERE}.ray_cluster.RayPool", ray={"remote": {"num_cpus": 2}}).threads == 2
    assert pool(f"{HERE}.ray_cluster.RayPool", ray={"remote": {"num_cpus": 0.5}}).threads == 1
    slurm = pool(f"{HERE}.submitit_jobs.SubmititPool", cluster="slurm", jobs=64, parameters={"cpus_per_task": 4})
    assert (slurm.threads, slurm.capacity) == (4, 64)
    local = pool(f"{HERE}.local.LocalPool", n_jobs="auto")
    assert (local.workers, local.threads) == (usable_cores(), 1)


def test_a_launcher_of_which_nothing_is_known_takes_a_batch_and_the_basic_one_a_trial_at_a_time() -> None:
    assert isinstance(pool("some.OtherLauncher"), HydraPool)
    assert pool("some.OtherLauncher", batch_size=9).capacity == 9
    assert pool("hydra._internal.core_plugins.basic_launcher.BasicLauncher", batch_size=9).capacity == 1


def test_an_address_at_which_nobody_answers_is_found_out_at_once() -> None:
    require_answer("auto")
    require_answer("")
    with pytest.raises(OSError, match="refused"):
        require_answer("127.0.0.1:1")
