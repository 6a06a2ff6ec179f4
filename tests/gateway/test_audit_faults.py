"""The audit log when its database is locked, full, gone, silent, or its process is killed: nothing accepted is lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateway.entries import entry
from tests.gateway.postgres import Postgres
from tests.gateway.test_audit import files, ids, until
from vlmguard.errors import AuditError
from vlmguard.gateway import audit_store
from vlmguard.gateway.audit import AuditLog
from vlmguard.gateway.audit_store import Store

ROOT = Path(__file__).parent.parent.parent


async def stored(url: str) -> list[str]:
    store = Store(url, create=False)
    found = await ids(store)
    await store.close()
    return found


async def record(log: AuditLog, count: int) -> list[str]:
    made = [entry() for _ in range(count)]
    for one in made:
        await log.record(one)
    return [one.receipt.id for one in made]


async def fails(log: AuditLog) -> str:
    """Waits until the log says that it cannot keep decisions, and returns how."""
    for _ in range(6_000):
        try:
            await log.ready()
        except AuditError as error:
            return str(error)
        await asyncio.sleep(0.005)
    raise AssertionError("the log did not notice")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_store, "_BUSY_SECONDS", 0.05)
    monkeypatch.setattr(audit_store, "_ANSWER_SECONDS", 0.5)


async def test_a_locked_file_makes_decisions_wait(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:{tmp_path / 'audit.db'}"
    log = await AuditLog.open(url, flush_seconds=0.02)
    other = sqlite3.connect(tmp_path / "audit.db")
    other.execute("BEGIN IMMEDIATE")
    made = await record(log, 300)
    assert "locked" in await fails(log)
    assert (await log.receipt(made[0], "alice") or {})["id"] == made[0]
    other.rollback()
    other.close()
    await until(lambda: log.depth == 0)
    await log.ready()
    await log.close()
    assert sorted(await stored(url)) == sorted(made)
    told = [record.message for record in caplog.records]
    assert len(told) == 2, "said once when it begins and once when it is over"
    assert "cannot be written" in told[0]
    assert "can be written again" in told[1]


async def test_a_log_that_cannot_be_written_at_its_end_says_how_many_are_lost(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmguard.gateway.audit._CLOSE_SECONDS", 0.3)
    log = await AuditLog.open(f"sqlite:{tmp_path / 'audit.db'}", flush_seconds=0.02)
    other = sqlite3.connect(tmp_path / "audit.db")
    other.execute("BEGIN IMMEDIATE")
    await record(log, 7)
    with pytest.raises(AuditError, match=r"7 decisions were NOT written .*locked"):
        await log.close()
    other.close()


async def test_a_decision_that_the_database_refuses_does_not_hold_up_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:{tmp_path / 'audit.db'}"
    log = await AuditLog.open(url, flush_seconds=0.02)
    with contextlib.closing(sqlite3.connect(tmp_path / "audit.db")) as other:
        other.execute(
            "CREATE TRIGGER odd BEFORE INSERT ON vlmguard_decisions WHEN NEW.model = 'odd' "
            "BEGIN SELECT RAISE(ABORT, 'too odd'); END"
        )
    odd = entry(model="odd", raw="words")
    made = await record(log, 3)
    await log.record(odd)
    made += [odd.receipt.id, *await record(log, 3)]
    await until(lambda: log.depth == 0)
    await log.ready()
    kept = await log.receipt(odd.receipt.id, "alice") or {}
    await log.close()
    assert sorted(await stored(url)) == sorted(made)
    assert (kept["outcome"], kept["failure"]) == ("forward", "audit: the database refused the details")
    assert [odd.receipt.id in one.message for one in caplog.records] == [True]


async def test_a_folder_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """As a volume that is unmounted for a while."""
    folder = tmp_path / "volume"
    folder.mkdir()
    url = f"sqlite:{folder / 'audit.db'}"
    log = await AuditLog.open(url, flush_seconds=0.02)
    made = await record(log, 50)
    await until(lambda: log.depth == 0)
    folder.rename(tmp_path / "away")
    made += await record(log, 50)
    assert "does not exist" in await fails(log)
    (tmp_path / "away").rename(folder)
    made += await record(log, 50)
    await log.close()
    assert sorted(await stored(url)) == sorted(made)


async def test_a_file_that_is_removed_under_the_log_is_made_anew(tmp_path: Path) -> None:
    """What is written to a file without a name would be lost without anybody noticing."""
    url = f"sqlite:{tmp_path / 'audit.db'}"
    log = await AuditLog.open(url, flush_seconds=0.02)
    await record(log, 50)
    await until(lambda: log.depth == 0)
    for file in files(tmp_path):
        file.unlink()
    made = await record(log, 50)
    await log.close()
    assert sorted(await stored(url)) == sorted(made)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmguard.gateway.audit._OPEN_SECONDS", 0.1)
    (tmp_path / "audit.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(AuditError, match="not a database"):
        await AuditLog.open(f"sqlite:{tmp_path / 'audit.db'}")
    assert (tmp_path / "audit.db").read_bytes() == b"something else entirely" * 100


@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_postgresql_restarts(mode: str, postgres: Postgres) -> None:
    url = postgres.create()
    log = await AuditLog.open(url, flush_seconds=0.02)
    made = await record(log, 50)
    await until(lambda: log.depth == 0)
    await asyncio.to_thread(postgres.stop, mode)
    try:
        made += await record(log, 50)
        assert await fails(log)
        with pytest.raises(AuditError):
            await log.receipt("0" * 32, "alice")
    finally:
        await asyncio.to_thread(postgres.start)
    made += await record(log, 50)
    await until(lambda: log.depth == 0)
    await log.ready()
    assert (await log.receipt(made[0], "alice") or {})["id"] == made[0]
    await log.close()
    assert sorted(await stored(url)) == sorted(made)


async def test_postgresql_restarts_in_the_middle_of_writing(postgres: Postgres) -> None:
    url = postgres.create()
    log = await AuditLog.open(url, flush_seconds=0.02)
    made: list[str] = []
    stopping = asyncio.create_task(asyncio.to_thread(postgres.stop, "immediate"))
    while not stopping.done():
        made += await record(log, 100)
        await asyncio.sleep(0.001)
    await stopping
    await asyncio.to_thread(postgres.start)
    await log.close()
    assert sorted(await stored(url)) == sorted(made)


async def test_connections_that_the_server_ends(postgres: Postgres) -> None:
    url = postgres.create()
    log = await AuditLog.open(url, flush_seconds=0.02)
    made = await record(log, 50)
    await until(lambda: log.depth == 0)
    await asyncio.to_thread(
        postgres.psql,
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vlmguard'",
    )
    assert (await log.receipt(made[0], "alice") or {})["id"] == made[0]
    made += await record(log, 50)
    await log.close()
    assert sorted(await stored(url)) == sorted(made)


async def test_postgresql_falls_silent(postgres: Postgres, quick: None) -> None:
    url = postgres.create()
    log = await AuditLog.open(url, flush_seconds=0.02)
    made = await record(log, 50)
    await until(lambda: log.depth == 0)
    postgres.freeze()
    try:
        made += await record(log, 50)
        assert await fails(log)
    finally:
        postgres.thaw()
    await log.close()
    if closing := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(closing)  # the driver says goodbye to connections that it gave up
    assert sorted(await stored(url)) == sorted(made)


# ---------------------------------------------------------------------------------------------------------------------
# Other processes


class Recorder:
    """``tests.gateway.recorder`` under way, and what it said."""

    def __init__(self, url: str, flush_seconds: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.recorder", url, str(flush_seconds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.accepted: dict[str, float] = {}
        """Receipt id → when it was accepted, in monotonic seconds, the same clock for all processes."""

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def read(self, until: str = "") -> str:
        """Reads what was accepted, up to a line that begins with ``until``, or to the end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if until and line.startswith(until):
                return line
            if line.endswith("\n"):
                id, moment = line.split()
                self.accepted[id] = float(moment)
        return ""

    def read_some(self, count: int) -> None:
        assert self.process.stdout is not None
        for _ in range(count):
            id, moment = self.process.stdout.readline().split()
            self.accepted[id] = float(moment)


@contextmanager
def recorder(url: str, flush_seconds: float) -> Iterator[Recorder]:
    running = Recorder(url, flush_seconds)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


async def test_a_full_disk_makes_decisions_wait_until_there_is_space(tmp_path: Path) -> None:
    """Files of the recorder may not grow past a limit: writing to them fails as it does on a full disk."""
    url = f"sqlite:{tmp_path / 'audit.db'}"
    with recorder(url, 0.02) as running:
        running.read_some(40)
        running.say("full")
        assert "disk" in running.read(until="failing")
        running.say("space")
        running.read_some(200)
        running.say("stop")
        assert running.read(until="closed")
        assert running.process.wait(30) == 0
    assert sorted(await stored(url)) == sorted(running.accepted)
    assert sqlite3.connect(tmp_path / "audit.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_several_processes_write_one_database(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:{tmp_path / 'audit.db'}" if kind == "sqlite" else request.getfixturevalue("postgres").create()
    with recorder(url, 0.01) as one, recorder(url, 0.01) as two, recorder(url, 0.01) as three:
        for running in (one, two, three):
            running.read_some(400)
            running.say("stop")
        for running in (one, two, three):
            assert running.read(until="closed")
        accepted = one.accepted | two.accepted | three.accepted
    assert sorted(await stored(url)) == sorted(accepted)


async def _lost_after_a_kill(url: str, flush_seconds: float, after: float) -> float:
    """Kills a recorder; returns the age in seconds, at that moment, of the oldest decision that is not in the database."""
    with recorder(url, flush_seconds) as running:
        running.read_some(20)
        reading = asyncio.create_task(asyncio.to_thread(running.read))
        await asyncio.sleep(after)
        killed = time.monotonic()
        running.process.send_signal(signal.SIGKILL)
        await reading
    found = set(await stored(url))
    lost = [moment for id, moment in running.accepted.items() if id not in found]
    return killed - min(lost, default=killed)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_killed_process_loses_at_most_one_interval(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:{tmp_path / 'audit.db'}" if kind == "sqlite" else request.getfixturevalue("postgres").create()
    for after in (1.2, 1.7, 2.1):
        assert await _lost_after_a_kill(url, 1.0, after) <= 1.0


@pytest.mark.soak
async def test_a_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    """``benchmarks/audit.py`` measures the default interval; this one leaves room for a machine that does other things."""
    ages = []
    chance = random.Random(4)
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        ages.append(await _lost_after_a_kill(f"sqlite:{folder / 'audit.db'}", 0.5, chance.uniform(0.0, 1.5)))
        assert sqlite3.connect(folder / "audit.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
        shutil.rmtree(folder)
    print(f"oldest decision lost: {max(ages):.3f} s, median {sorted(ages)[50]:.3f} s, interval 0.5 s, n = 100")
    assert max(ages) <= 0.5
