"""What the audit log costs, and what a killed process loses. Needs the extras ``gateway`` and ``postgres``.

    python -m benchmarks.audit [--url postgresql://…] [--kills 100]

Times ``record`` (the request's share: at most tens of microseconds), forming and signing a row (the writer's share), and rows a
second from ``record`` to the database, beside the same rows written by the bare ``sqlite3`` module in one transaction, in the
same run. Then kills a process that records without pause at random moments, and says how old the oldest decision was that is
not in the database (aim: at most the flush interval).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.gateway.entries import entry

from vlmguard.gateway.audit import AuditLog, row_of
from vlmguard.gateway.audit_store import Filter, Store

ROOT = Path(__file__).resolve().parent.parent
SECRET = b"the secret of the benchmark, long enough"
ROWS = 5_000


def quartiles(values: list[float], scale: float, unit: str) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle * scale:,.1f} {unit} [{low * scale:,.1f}, {high * scale:,.1f}]"


async def one_round(url: str) -> tuple[float, float, float]:
    """Seconds: of ``record``, of forming a row, and of a row from ``record`` to the database."""
    entries = [entry() for _ in range(ROWS)]
    started = time.perf_counter()
    for one in entries[:1000]:
        row_of(one, SECRET)
    formed = (time.perf_counter() - started) / 1000
    log = await AuditLog.open(url, signing_key=SECRET, queue=ROWS)
    started = time.perf_counter()
    for one in entries:
        await log.record(one)
    recorded = time.perf_counter() - started
    await log.close()
    return recorded / ROWS, formed, (time.perf_counter() - started) / ROWS


def bare_round(file: Path) -> float:
    """Seconds a row that ``sqlite3`` needs for the same rows, formed before."""
    rows = [tuple(row_of(entry(), SECRET).values()) for _ in range(ROWS)]
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"CREATE TABLE decisions ({','.join(f'c{number}' for number in range(len(rows[0])))})")
    started = time.perf_counter()
    connection.executemany(f"INSERT INTO decisions VALUES ({','.join('?' * len(rows[0]))})", rows)
    connection.commit()
    spent = time.perf_counter() - started
    connection.close()
    return spent / ROWS


async def stored(url: str) -> set[str]:
    store = Store(url, create=False)
    found = {row["id"] async for row in store.rows(Filter())}
    await store.close()
    return found


def kill(url: str, flush_seconds: float, after: float) -> tuple[float, int, int]:
    """The age of the oldest lost decision when the process was killed, how many were lost, and of how many."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.recorder", url, str(flush_seconds)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    accepted = dict([process.stdout.readline().split()])
    time.sleep(after)  # what is said meanwhile fits the pipe
    killed = time.monotonic()
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    accepted |= dict(line.split() for line in said.splitlines(keepends=True) if line.endswith("\n"))
    before = asyncio.run(stored(url))
    lost = [float(moment) for id, moment in accepted.items() if id not in before]
    return killed - min(lost, default=killed), len(lost), len(accepted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a database beside SQLite, empty")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kills", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.kills < 2:
        parser.error("quartiles need at least two rounds and two kills")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        urls = {"sqlite": f"sqlite:{folder / 'audit.db'}"} | ({"postgresql": arguments.url} if arguments.url else {})
        bare: list[float] = []
        timed: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in urls}
        for number in range(arguments.rounds):  # interleaved
            bare.append(bare_round(folder / f"bare{number}.db"))
            for kind, url in urls.items():
                timed[kind].append(asyncio.run(one_round(url)))
        print(f"medians [quartiles] of {arguments.rounds} rounds of {ROWS:,} rows")
        print(f"{'sqlite3 alone, one transaction':34} {quartiles(bare, 1e6, 'µs a row')}")
        for kind, rounds in timed.items():
            recorded, formed, whole = ([one[part] for one in rounds] for part in range(3))
            print(f"{kind + ': record':34} {quartiles(recorded, 1e6, 'µs')}")
            print(f"{kind + ': form and sign':34} {quartiles(formed, 1e6, 'µs')}")
            print(f"{kind + ': record to database':34} {quartiles(whole, 1e6, 'µs a row')}")
        chance = random.Random(4)
        flush_seconds = 0.2
        for kind, url in urls.items():
            ages, losses, totals = [], 0, 0
            for number in range(arguments.kills):
                target = f"sqlite:{folder / f'kill{number}.db'}" if kind == "sqlite" else url
                age, lost, total = kill(target, flush_seconds, chance.uniform(0, 1))
                ages.append(age)
                losses += lost
                totals += total
            print(
                f"{kind}: {arguments.kills} kills: the oldest lost decision was {quartiles(ages, 1000, 'ms')} old, "
                f"at most {max(ages) * 1000:,.0f} ms (interval {flush_seconds * 1000:,.0f} ms, exceeded "
                f"{sum(age > flush_seconds for age in ages)} times); {losses:,} of {totals:,} lost"
            )


if __name__ == "__main__":
    main()
