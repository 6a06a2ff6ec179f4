"""A PostgreSQL server of the tests' own: a cluster in a temporary folder, reached over a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

_number = count()


def _find_binaries() -> Path | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("pg_ctl")
    return Path(found).parent if found else None


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    binaries: Path
    folder: Path
    user: str

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@/{database}?host={self.folder}"

    def create(self) -> str:
        """A new, empty database; returns its URL."""
        name = f"test_{next(_number)}"
        self._run("createdb", "-h", str(self.folder), "-U", self.user, name)
        return self.url(name)

    def psql(self, url: str, statement: str) -> str:
        return self._run("psql", "-X", "-A", "-t", "-c", statement, url)

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-o", options, "-l", str(self.folder / "log"), "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def freeze(self) -> None:
        """Stops every process of the server where it stands, as a network that went silent would look."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        main = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for process in (main, *map(int, children)):
            os.kill(process, number)

    def initialise(self) -> None:
        self._run("initdb", "-D", str(self.folder / "data"), "-U", self.user, "-A", "trust", "-E", "UTF8", "--no-sync")

    def _run(self, command: str, *arguments: str) -> str:
        # PostgreSQL refuses to run as root; Debian's package brings a user for it. A daemon must not hold our pipes.
        with tempfile.TemporaryFile() as said:
            code = subprocess.run(
                [self.binaries / command, *arguments],
                user=_server_user(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                check=False,
                timeout=60,
            ).returncode
            said.seek(0)
            text = said.read().decode()
        if code:
            raise AssertionError(f"{command} failed ({code}): {text}")
        return text


def _server_user() -> str | None:
    return "postgres" if os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Without Debian's ``postgresql`` (``apt-get install postgresql``) what needs it is skipped, and fails in CI."""
    binaries = _find_binaries()
    if binaries is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is missing: .ci/run installs it")
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if (user := _server_user()) is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    server = Postgres(binaries, folder, "vlmguard")
    try:
        server.initialise()
        server.start()
        yield server
        server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
