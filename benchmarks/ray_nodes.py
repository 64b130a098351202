"""A Ray cluster on this machine whose node may be killed, frozen, or cut off from the network."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for a free port, as the servers of the tests have it

from postgres import free_port

# By which a node is given up after about nine seconds; by Ray's own settings it is a minute.
HASTY_HEAD = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


class Network:
    """A switch on this machine, and for each node a network of its own at the end of a cable. Needs root."""

    def __init__(self) -> None:
        number = os.getpid()
        self.name, self.subnet = f"ts{number}", f"10.{128 + (number >> 8) % 128}.{number % 256}"
        self.address = f"{self.subnet}.1"  # of the head, and of what else all nodes reach
        self.nodes = 0
        _ip("link", "add", self.name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def add_node(self) -> tuple[str, list[str]]:
        """The address of another node, and what comes before a command that is to run on it."""
        self.nodes += 1
        node, address = self._node(self.nodes), f"{self.subnet}.{self.nodes + 1}"
        _ip("netns", "add", node)
        _ip("link", "add", self._cable(self.nodes), "type", "veth", "peer", "name", "eth0", "netns", node)
        _ip("link", "set", self._cable(self.nodes), "master", self.name, "up")
        _ip("-n", node, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", node, "link", "set", device, "up")
        return address, ["ip", "netns", "exec", node]

    def cut(self, number: int) -> Callable[[], None]:
        """Cut the cable of a node; what is called mends it."""
        _ip("link", "set", self._cable(number), "down")
        return lambda: _ip("link", "set", self._cable(number), "up")

    def remove(self) -> None:
        for number in range(1, self.nodes + 1):
            _ip("netns", "delete", self._node(number))
        _ip("link", "delete", self.name)

    def _node(self, number: int) -> str:
        return f"{self.name}n{number}"

    def _cable(self, number: int) -> str:
        return f"{self.name}c{number}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class RayCluster:
    """A head without cores and a node with two, on this machine, started from another folder than any sweep."""

    def __init__(self, folder: Path, network: Network | None = None, hasty: bool = False) -> None:
        """With a `network` its nodes can be cut off; a `hasty` cluster soon gives up one that doesn't answer."""
        self.folder, self.network = folder, network
        port, self.node_pid = free_port(), 0
        self.address = f"{network.address if network else '127.0.0.1'}:{port}"
        self.environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": self.address}  # of sweeps
        self.own_environment = self.environment | (HASTY_HEAD if hasty else {})
        place = [f"--node-ip-address={network.address}"] if network else []
        self._ray([], "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", *place)
        self.start_node()

    def _ray(self, where: list[str], *words: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, f"--temp-dir={self.folder}"]
        done = subprocess.run(
            [*where, *command],
            cwd=self.folder,
            env=self.own_environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def raylets(self) -> set[int]:
        return {each.pid for each in self.processes() if each.name() == "raylet"}

    def processes(self) -> list[psutil.Process]:
        """What runs of this cluster."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self.folder) in word for word in process.cmdline()):
                    found.append(process)
        return found

    def start_node(self) -> None:
        before = self.raylets()
        where: list[str] = []
        place: list[str] = []
        if self.network:
            address, where = self.network.add_node()
            place = [f"--node-ip-address={address}"]
        self._ray(where, f"--address={self.address}", "--num-cpus=2", *place)
        (self.node_pid,) = self.raylets() - before

    def node(self) -> list[psutil.Process]:
        """The processes of the node."""
        raylet = psutil.Process(self.node_pid)
        return [*raylet.children(recursive=True), raylet]

    def kill_node(self) -> None:
        """Kill a node and what it runs, and give it back after a while."""
        _each(self.node(), psutil.Process.kill)
        self.start_node()

    def lose_node(self, fault: str) -> Callable[[], None]:
        """Let the node be "cut" off or "frozen"; what is called gives it back."""
        if fault == "cut":
            assert self.network
            return self.network.cut(self.network.nodes)
        node = self.node()
        _each(node, psutil.Process.suspend)
        return lambda: _each(node, psutil.Process.resume)

    def stop(self) -> None:
        _each(self.processes(), psutil.Process.kill)


def _each(processes: list[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)
