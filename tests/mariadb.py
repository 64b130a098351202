"""A MariaDB server of one's own on this machine, which may be stopped, killed and started again."""

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from postgres import PASSWORD, USER, free_port

START_SECONDS = 60.0


def is_installed() -> bool:
    return shutil.which("mariadbd") is not None


class MariaServer:
    """A server on 127.0.0.1, or another address of this machine; run by the user `mysql` where root starts it."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.folder, self.address, self.port = folder, address, free_port()
        self.databases = 0
        self.log = folder / "log"
        self.options = ["--no-defaults", f"--datadir={folder / 'data'}"]
        if os.getuid() == 0:
            account = pwd.getpwnam("mysql")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self.options.append("--user=mysql")
        # The test database brings a nameless user, who stands in for any that comes from this machine.
        install = [
            "mariadb-install-db",
            *self.options,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        done = subprocess.run(install, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        self.start()
        host = "%"  # as a node of a network of its own calls from another address
        self.query(f"CREATE USER '{USER}'@'{host}' IDENTIFIED BY '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
        self.query(f"GRANT ALL ON *.* TO '{USER}'@'{host}'")

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    def start(self) -> None:
        listen = [f"--bind-address={self.address}", f"--port={self.port}", f"--socket={self.socket}"]
        command = ["mariadbd", *self.options, *listen, f"--pid-file={self.folder / 'pid'}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        ends = time.monotonic() + START_SECONDS
        while not self.is_up():
            assert time.monotonic() < ends, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def is_up(self) -> bool:
        ping = ["mariadb-admin", "--no-defaults", f"--socket={self.socket}", "--user=root", "ping"]
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def kill(self) -> None:
        """End it as a loss of power does."""
        self.process.kill()
        self.process.wait()

    def url(self, database: str) -> str:
        return f"mysql+pymysql://{USER}:{quote(PASSWORD, safe='')}@{self.address}:{self.port}/{database}"

    def query(self, statement: str) -> None:
        words = ["mariadb", "--no-defaults", f"--socket={self.socket}", "--user=root", "-e", statement]
        subprocess.run(words, capture_output=True, text=True, check=True)

    def new_database(self) -> str:
        """The name of an empty database."""
        self.databases += 1
        name = f"db{self.databases}"
        self.query(f"CREATE DATABASE {name}")
        return name
