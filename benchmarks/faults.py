"""What faults cost a study: at random moments workers, the sweeper, a node or the database are killed, or a node
is lost for a while; and the same command goes on until the study is whole.

    python benchmarks/faults.py --engine joblib --storage sqlite --faults worker sweeper --kills 100
    python benchmarks/faults.py --engine ray --storage postgresql --faults worker node sweeper database --kills 50
    python benchmarks/faults.py --engine ray --storage mariadb --faults cut --kills 5 --epochs 200

Trials train for about a second on 64 images. After every command the folders of all trials are looked at: a trial
whose record once said that it had finished must be in the study as it was then, and no configuration may have
finished twice. PostgreSQL and MariaDB are started in a temporary folder (Debian's packages postgresql and
mariadb-server); --storage may also be a URL, of which the database isn't killed. A row a call is added to --table.

A node of Ray may also be cut off from the network, the database included (which needs root), or frozen: until Ray
has given it up. Another takes its place, then it comes back with whatever it was at. A node of a network apart
can't reach 127.0.0.1, so with "cut" the storage is MariaDB, which listens to that network, or a file.
"""

import argparse
import contextlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for the servers of the tests

from mariadb import MariaServer, is_installed
from postgres import PostgresServer, binaries
from ray_nodes import Network, RayCluster
from tinysweep.files import write_whole
from tinysweep.run.record import RunFolder
from tinysweep.search.storage.opening import open_storage
from tinysweep.search.study import status

RESULT = Path(__file__).parents[1] / "results" / "faults.csv"
TINY = ["data.limit=64", "data.validation=100", "trainer.clean_epochs=0", "trainer.threads=1"]
SPACE = ["model.width=range(2,30)", "optimizer.lr=tag(log,interval(0.01,0.3))", "hydra/sweeper/sampler=random"]
ENGINES = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "ray": ["hydra/launcher=ray"],
    "submitit": ["hydra/launcher=submitit", "hydra.launcher.cluster=local"],
}
WORKER = re.compile(r"LokyProcess|^ray::run_packed|submitit\.core\._submit")
FAULTS = ("worker", "sweeper", "node", "database", "cut", "frozen")
GIVEN_UP_SECONDS = 15.0  # a node that is cut off or frozen; Ray gives it up after nine
BACK_SECONDS = 30.0  # after another has taken its place: by then that has begun with the same trials


@dataclass
class Bench:
    """A study, and what is killed."""

    place: Path
    engine: str
    storage: str | None
    words: list[str]
    chance: random.Random
    cluster: RayCluster | None = None
    server: PostgresServer | MariaServer | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    finished: dict[int, tuple[str, str]] = field(default_factory=dict)  # when each began, and what became of it
    changed: set[int] = field(default_factory=set)  # whose finished records were written anew
    kills: Counter[str] = field(default_factory=Counter)
    patience: float = 300.0  # seconds of a command, after which it hangs
    hangs: int = 0
    commands: int = 0

    @property
    def folder(self) -> Path:
        return self.place / "outputs/sweeps/s"

    def start(self, trials: int) -> "subprocess.Popen[bytes]":
        self.commands += 1
        words = [*SPACE, *TINY, *ENGINES[self.engine], *self.words, f"hydra.sweeper.n_trials={trials}"]
        if self.storage:
            words.append(f"hydra.sweeper.storage='{self.storage}'")
        with (self.place / "output.txt").open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tinysweep.commands.train", "-m", "hydra.sweeper.study_name=s", *words],
                cwd=self.place, env=self.environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def strike(self, fault: str, sweeper: "subprocess.Popen[bytes]") -> None:
        """Let a fault happen; if there is nothing to kill just now, none has."""
        if fault == "sweeper":
            sweeper.send_signal(signal.SIGKILL)
            sweeper.wait()
        elif fault == "worker":
            if not (workers := self.workers()):
                return
            with contextlib.suppress(psutil.NoSuchProcess):
                self.chance.choice(workers).kill()
        elif fault == "node":
            assert self.cluster
            self.cluster.kill_node()
        elif fault in ("cut", "frozen"):
            if not self.in_training():
                return
            assert self.cluster
            give_back = self.cluster.lose_node(fault)
            self.watch(GIVEN_UP_SECONDS)
            self.cluster.start_node()
            self.watch(BACK_SECONDS)
            give_back()
        else:
            assert self.server
            self.server.kill()
            time.sleep(2)
            self.server.start()
        self.kills[fault] += 1

    def workers(self) -> list[psutil.Process]:
        """The processes that train this study's trials, or wait for one."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                named = WORKER.search(" ".join(process.cmdline())) or WORKER.search(process.name())
                if named and Path(process.cwd()) == self.place:
                    found.append(process)
        return found

    def in_training(self) -> bool:
        """Whether an attempt is past its first epoch, so that a node that comes back brings it back."""
        for path in self.folder.glob("trials/*/record.json"):
            with contextlib.suppress(OSError, ValueError):
                record = json.loads(path.read_text())
                if record["state"] == "running" and record["epochs"] and RunFolder(path.parent).is_held:
                    return True
        return False

    def watch(self, seconds: float) -> None:
        """Wait, and look all the while."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.look()
            time.sleep(0.2)

    def look(self) -> None:
        """Note what has finished by now."""
        for path in self.folder.glob("trials/*/record.json"):
            with contextlib.suppress(OSError, ValueError):
                record = json.loads(path.read_text())
                if record["state"] in ("complete", "pruned"):
                    now = (record["started"], record["finished"])
                    number = int(path.parent.name.partition("-")[0])
                    if self.finished.setdefault(number, now) != now:
                        self.changed.add(number)

    def run(self, trials: int, faults: list[str], kills: int, pause: float) -> bool:
        """Search until the study has its trials, striking so often; whether the command after the last one ended
        well."""
        most = self.kills.total() + kills
        while True:
            began = time.time()
            sweeper = self.start(trials)
            ends = time.monotonic() + self.patience
            strikes = math.inf  # until it has a worker of its own: a sweep takes seconds to start
            while sweeper.poll() is None and time.monotonic() < ends:
                time.sleep(0.05)
                if strikes == math.inf and any(worker.create_time() > began for worker in self.workers()):
                    strikes = time.monotonic() + self.chance.expovariate(1 / pause)
                if self.kills.total() < most and time.monotonic() > strikes:
                    self.strike(self.chance.choice(faults), sweeper)
                    self.look()
                    strikes = time.monotonic() + self.chance.expovariate(1 / pause)
            if sweeper.poll() is None:
                self.hangs += 1
                sweeper.kill()
            self.look()
            if sweeper.wait() != -signal.SIGKILL:
                return sweeper.returncode == 0

    def judge(self, trials: int) -> dict[str, Any]:
        """The row of the table."""
        study = optuna.load_study(study_name="s", storage=open_storage(self.storage, self.folder))
        found = study.get_trials()
        states = Counter(status(trial).value for trial in found)
        kept = {trial.number for trial in found if status(trial) in ("complete", "pruned")}
        keys = Counter(trial.user_attrs["key"] for trial in found if trial.number in kept)
        return {
            "kills": self.kills.total(),
            **{f"of {fault}": self.kills[fault] for fault in FAULTS},
            "commands": self.commands,
            "trials": trials,
            "trained": states["complete"] + states["pruned"],
            "failed": states["failed"],
            "interrupted": states["interrupted"],
            "finished and lost": len(self.finished.keys() - kept),
            "trained twice": len(self.changed) + sum(count - 1 for count in keys.values()),
            "hangs": self.hangs,
        }


@contextlib.contextmanager
def bench(
    engine: str, storage: str, words: list[str], seed: int, place: Path, faults: Sequence[str] = ()
) -> Iterator[Bench]:
    """A study in a folder, with the cluster and the database that it and its faults need."""
    with ExitStack() as stack:
        made, network = Bench(place, engine, None, words, random.Random(seed)), None
        if engine == "ray":
            elsewhere = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            if "cut" in faults:
                network = Network()
                stack.callback(network.remove)
            made.cluster = RayCluster(elsewhere, network, hasty=not {"cut", "frozen"}.isdisjoint(faults))
            stack.callback(made.cluster.stop)
            made.environment = made.cluster.environment
        if storage == "mariadb":
            assert is_installed(), "no MariaDB server here: apt-get install --no-install-recommends mariadb-server"
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            made.server = MariaServer(folder, network.address if network else "127.0.0.1")
            made.storage = made.server.url(made.server.new_database())
            stack.callback(made.server.stop)
        elif storage == "postgresql":
            programs = binaries()
            assert programs, "no PostgreSQL server here: apt-get install postgresql"
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            made.server = PostgresServer(folder, programs)
            made.storage = made.server.url(made.server.new_database())
            stack.callback(made.server.stop)
        elif storage != "sqlite":
            made.storage = str(place / "study.log") if storage == "journal" else storage
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, default="joblib")
    parser.add_argument(
        "--storage", default="sqlite", help="sqlite, journal, postgresql, mariadb, or the URL of a server"
    )
    parser.add_argument("--faults", choices=FAULTS, nargs="+", default=["worker", "sweeper"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=30, help="of a study, of which there are enough")
    parser.add_argument("--pause", type=float, default=4.0, help="mean seconds between two kills")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--patience", type=float, default=Bench.patience, help="seconds of a command, after which it hangs"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=RESULT, help="gets the row")
    given = parser.parse_args()
    rows: Counter[str] = Counter()
    seed, ended = given.seed, True
    while rows["kills"] < given.kills:
        with tempfile.TemporaryDirectory() as folder:
            words = [f"trainer.epochs={given.epochs}"]
            with bench(given.engine, given.storage, words, seed, Path(folder), given.faults) as study:
                study.patience = given.patience
                ended &= study.run(given.trials, given.faults, given.kills - rows["kills"], given.pause)
                if study.judge(given.trials)["failed"]:  # as of three deaths: the same command tries it again
                    ended &= study.run(given.trials, given.faults, 0, given.pause)
                row = study.judge(given.trials)
        rows.update({name: int(value) for name, value in row.items()})
        seed += 1
        print(f"{rows['kills']} kills: {dict(rows)}", flush=True)
    table = pd.read_csv(given.table) if given.table.exists() else pd.DataFrame()
    line = {"engine": given.engine, "storage": given.storage.partition("://")[0], **rows}
    write_whole(given.table, pd.concat([table, pd.DataFrame([line])]).to_csv(index=False))
    if not ended:
        sys.exit("a sweep that nobody had killed didn't end well")


if __name__ == "__main__":
    main()
