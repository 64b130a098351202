"""Which pool runs the jobs of a sweep: by the class that hydra/launcher names."""

from omegaconf import DictConfig

from tinysweep.search.workers.hydra import HydraPool
from tinysweep.search.workers.local import LocalPool
from tinysweep.search.workers.pool import Pool
from tinysweep.search.workers.ray_cluster import RayPool
from tinysweep.search.workers.submitit_jobs import SubmititPool
from tinysweep.training.device import usable_cores

OTHERWISE = 4  # jobs that a launcher is given at a time of which nothing is known


def choose_pool(node: DictConfig, batch_size: int | None) -> Pool:
    """The pool for `hydra.launcher`, whose own class is asked for nothing where there is a better way than to wait
    for the slowest of several jobs.

    Raises:
        ConfigError: a package is missing, or a number of workers is wrong.
    """
    name = str(node.get("_target_")).rpartition(".")[2]
    if name == "JoblibLauncher" and node.get("backend") in (None, "loky"):
        return LocalPool(node)
    if name == "RayLauncher":
        return RayPool(node)
    if name in ("SlurmLauncher", "LocalLauncher"):
        return SubmititPool(node, name.removesuffix("Launcher").lower())
    if name == "BasicLauncher":
        return HydraPool(1, usable_cores())
    return HydraPool(batch_size or OTHERWISE)
