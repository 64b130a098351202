"""Which pool runs the jobs of a sweep: what hydra/launcher names."""

from omegaconf import DictConfig

from tinysweep.search.workers.hydra import HydraPool
from tinysweep.search.workers.local import LocalPool
from tinysweep.search.workers.pool import Pool
from tinysweep.search.workers.ray_cluster import RayPool
from tinysweep.search.workers.submitit_jobs import SubmititPool
from tinysweep.settings.schema import Device
from tinysweep.training.device import usable_cores

OTHERWISE = 4  # jobs that a launcher is given at a time of which nothing is known


def choose_pool(node: DictConfig, device: Device, batch_size: int | None) -> Pool:
    """The pool for `hydra.launcher`, whose jobs train on `device`.

    Raises:
        ConfigError: a package is missing, or a setting is wrong.
    """
    match str(node.get("_target_")).rpartition(".")[2]:
        case "LocalPool":
            return LocalPool(node, device)
        case "RayPool":
            return RayPool(node)
        case "SubmititPool":
            return SubmititPool(node)
        case "BasicLauncher":
            return HydraPool(1, usable_cores())
    return HydraPool(batch_size or OTHERWISE)
