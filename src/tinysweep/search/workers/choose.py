"""Which pool runs the jobs of a sweep: what hydra/launcher names."""

from omegaconf import DictConfig

from tinysweep.search.workers.hydra import HydraPool
from tinysweep.search.workers.local import LocalPool
from tinysweep.search.workers.pool import Pool
from tinysweep.search.workers.ray_cluster import RayPool
from tinysweep.search.workers.submitit_jobs import SubmititPool
from tinysweep.training.device import usable_cores

OWN = {f"{kind.__module__}.{kind.__name__}": kind for kind in (LocalPool, RayPool, SubmititPool)}
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
OTHERWISE = 4  # jobs that a launcher is given at a time of which nothing is known


def choose_pool(node: DictConfig, batch_size: int | None) -> Pool:
    """The pool for `hydra.launcher`.

    Raises:
        ConfigError: a package is missing, or a setting is wrong.
    """
    name = str(node.get("_target_"))
    if name in OWN:
        return OWN[name](node)
    return HydraPool(1, usable_cores()) if name == BASIC else HydraPool(batch_size or OTHERWISE)
