"""How long the console's pages take over an audit of many decisions. Needs the extras ``gateway`` and ``postgres``.

    python -m benchmarks.console [--rows 1000000] [--url postgresql://…]

Fills an audit database (SQLite in a temporary folder; with ``--url`` an empty PostgreSQL too), then asks the console for its list
as a browser does, from the request to the last byte of the page, with filters that fit many, few and no decisions. The same pages
over a thousandth of the decisions stand beside, from the same run: the ratio is what the table's size costs. Aim: the first page
within 200 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.gateway.entries import entry
from vlmguard.gateway import config
from vlmguard.gateway.app import Gateway, Secrets
from vlmguard.gateway.audit import row_of
from vlmguard.gateway.audit_store import DECISIONS, Store, stamp
from vlmguard.gateway.console.app import Console

SECRET = b"the secret of the benchmark, long enough"
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [column.name for column in DECISIONS.c]


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Decisions as busy traffic leaves them: most forwarded, some rewritten, few blocked; one key and one category are rare."""
    chance = random.Random(1)
    form = dict(row_of(entry(), SECRET))
    step = timedelta(days=100) / count
    for number in range(count):
        at = chance.random()
        outcome = (
            "forward"
            if at < 0.95
            else "rewrite"
            if at < 0.985
            else "degraded"
            if at < 0.995
            else "block"
            if at < 0.999
            else "unguarded"
        )
        found = outcome in ("rewrite", "block")
        category = "elections" if chance.random() < 0.002 else chance.choice(("hate", "privacy", "violent_crimes"))
        form |= {
            "id": f"{chance.getrandbits(128):032x}",
            "time": stamp(START + step * number),
            "owner": "rare" if chance.random() < 0.00003 else f"key{number % 20}",
            "route": "/v1/responses" if chance.random() < 0.00003 else "/v1/chat/completions",
            "outcome": outcome,
            "intended_outcome": outcome,
            "level": ("high" if outcome == "block" else "medium") if found else "none",
            "categories": json.dumps([category] if found else []),
            "raw": json.dumps({"messages": [{"role": "user", "content": f"question {number}"}]})
            if number % 10 == 0
            else None,
        }
        yield tuple(form[name] for name in NAMES)


async def fill(url: str, count: int) -> None:
    """Writes the decisions, and marks 20 of them."""
    await write(url, count)
    store = Store(url)
    for row in await store.fetch(sa.select(DECISIONS.c.id).limit(20)):
        await store.mark({"id": row["id"], "time": stamp(START), "author": "", "mark": "missed", "note": ""})
    await store.close()


async def write(url: str, count: int) -> None:
    store = Store(url)
    await store.prepare()
    await store.close()
    if url.startswith("sqlite:"):
        connection = sqlite3.connect(url.removeprefix("sqlite:"))
        connection.executemany(f"INSERT INTO vlmguard_decisions VALUES ({','.join('?' * len(NAMES))})", rows(count))
        connection.commit()
        connection.close()
        return
    import asyncpg

    plain = await asyncpg.connect(url)
    await plain.execute("TRUNCATE vlmguard_decisions, vlmguard_marks")
    await plain.copy_records_to_table("vlmguard_decisions", records=rows(count), columns=NAMES)
    await plain.execute("ANALYZE vlmguard_decisions")
    await plain.close()


PAGES = {
    "no filter": "",
    "outcome: block (0.4 %)": "outcome=block",
    "outcome: forward (95 %)": "outcome=forward",
    "level: high (0.4 %)": "level=high",
    "category: hate (1.3 %)": "category=hate",
    "category: elections (0.008 %)": "category=elections",
    "key: a twentieth": "owner=key7",
    "key: rare (0.003 %)": "owner=rare",
    "route: rare (0.003 %)": "route=/v1/responses",
    "rewritten, one key, one category": "outcome=rewrite&owner=key7&category=privacy",
    "marked (20 decisions)": "marked=1",
    "the middle of the time": "until=2026-02-20",
    "a word that is nowhere": "text=nowhere",
}


async def ask(console: Console, query: str) -> float:
    """Seconds from the request to the last byte of its page."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/console/decisions",
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1")],
    }
    started = time.perf_counter()
    await console(scope, receive, send)
    spent = time.perf_counter() - started
    assert sent[0]["status"] == 200, sent
    return spent


async def measure(url: str, rounds: int) -> dict[str, list[float]]:
    settings = config.load(None, {}, {"upstream": "http://127.0.0.1:1/v1", "console": True, "audit.url": url})
    console = Console(Gateway(settings, Secrets(SECRET, SECRET)))
    found = {name: [] for name in PAGES}  # type: dict[str, list[float]]
    try:
        for number in range(rounds + 1):
            for name, query in PAGES.items():
                spent = await ask(console, query)
                if number:  # the first connects and fills caches
                    found[name].append(spent)
    finally:
        await console.close()
    return found


def told(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle * 1000:7.1f} [{low * 1000:.1f}, {high * 1000:.1f}] max {max(values) * 1000:.1f}"


async def compare(kind: str, url: str, small: str, count: int, rounds: int) -> None:
    for name, place, some in (("small", small, max(1000, count // 1000)), ("large", url, count)):
        started = time.perf_counter()
        await fill(place, some)
        print(f"{kind}, {name}: {some:,} decisions written in {time.perf_counter() - started:.0f} s", flush=True)
        if name == "small":
            before = await measure(place, rounds)
    after = await measure(url, rounds)
    print(
        f"{kind}: milliseconds a page, median [quartiles] max, n = {rounds}; × = beside {max(1000, count // 1000):,} decisions"
    )
    for name, values in after.items():
        ratio = statistics.median(values) / statistics.median(before[name])
        print(f"  {name:34} {told(values)}  ×{ratio:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--url", help="an empty PostgreSQL database beside SQLite; what is in it is removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        small, large = (f"sqlite:{Path(name) / f'{size}.db'}" for size in ("small", "large"))
        asyncio.run(compare("sqlite", large, small, arguments.rows, arguments.rounds))
    if arguments.url:
        asyncio.run(compare("postgresql", arguments.url, arguments.url, arguments.rows, arguments.rounds))


if __name__ == "__main__":
    main()
