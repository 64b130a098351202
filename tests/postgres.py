"""A PostgreSQL server of the tests' own, which they may stop, kill and start again."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

USER = "tester"
PASSWORD = "p@:/s?s w#rd%{x}&=$'"  # whatever has a meaning in a URL, a shell, Hydra's grammar or a format


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, the newest of Debian's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    anywhere = shutil.which("initdb")
    return found[-1].parent if found else Path(anywhere).parent if anywhere else None


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class PostgresServer:
    """A server on 127.0.0.1, run by the user `postgres` where the tests are run by root, whom it refuses."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs, self.port = folder, programs, free_port()
        self.databases = 0
        self.account = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        if self.account:
            os.chown(folder, self.account.pw_uid, self.account.pw_gid)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._call(
            "initdb", "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-D", str(folder / "data"), "-N"
        )

    def _command(self, program: str, *words: str) -> list[str]:
        drop = []
        if self.account:
            ids = f"--reuid={self.account.pw_uid}", f"--regid={self.account.pw_gid}"
            drop = ["setpriv", *ids, "--clear-groups", "--"]
        return [*drop, str(self.programs / program), *words]

    def _call(self, program: str, *words: str) -> None:
        done = subprocess.run(
            self._command(program, *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def _control(self, *words: str) -> None:
        """pg_ctl, which waits until it is done."""
        self._call("pg_ctl", "-D", str(self.folder / "data"), "-s", "-w", *words)

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=on"
        log = str(self.folder / "log")
        self._control("-l", log, "-o", options, "start")

    def stop(self) -> None:
        """End it at once, breaking off whatever is connected, as an operator's restart does."""
        self._control("-m", "fast", "stop")

    def kill(self) -> None:
        """End it and all of its processes as a loss of power does."""
        main = psutil.Process(int((self.folder / "data/postmaster.pid").read_text().splitlines()[0]))
        main.suspend()  # so that it starts no more of them meanwhile
        family = [main, *main.children()]
        for process in family:
            process.kill()
        psutil.wait_procs(family)  # what still holds the shared memory keeps a server from starting

    def restart_after(self, seconds: float) -> None:
        self.stop()
        time.sleep(seconds)
        self.start()

    def is_up(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql+psycopg2://{USER}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def query(self, database: str, statement: str) -> str:
        """What psql answers."""
        words = "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-At", "-c", statement
        done = subprocess.run(
            [str(self.programs / "psql"), *words],
            env={**os.environ, "PGPASSWORD": PASSWORD}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def dump(self, database: str) -> str:
        """All that a database holds."""
        words = "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database
        done = subprocess.run(
            [str(self.programs / "pg_dump"), *words],
            env={**os.environ, "PGPASSWORD": PASSWORD}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def new_database(self) -> str:
        """The name of an empty database; the server is up then."""
        if not self.is_up():
            self.start()
        self.databases += 1
        name = f"db{self.databases}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server with a password that is hard to write; stopped at the end, should a test have left it up."""
    programs = binaries()
    if programs is None or (os.getuid() == 0 and not shutil.which("setpriv")):
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    pytest.importorskip("psycopg2")
    with tempfile.TemporaryDirectory(prefix="tinysweep-postgres-", ignore_cleanup_errors=True) as made:
        server = PostgresServer(Path(made), programs)
        try:
            yield server
        finally:
            if server.is_up():
                server.stop()


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresServer:
    """The server, up and running."""
    if not postgres_server.is_up():
        postgres_server.start()
    return postgres_server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The name of an empty database on it."""
    return postgres.new_database()
