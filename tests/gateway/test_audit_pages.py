from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.gateway.entries import entry
from tests.gateway.postgres import Postgres
from vlmguard.gateway import audit_pages
from vlmguard.gateway.audit import row_of
from vlmguard.gateway.audit_pages import Cursor, Wanted, count_newer, marked, newest, page
from vlmguard.gateway.audit_store import Filter, Row, Store
from vlmguard.types import Outcome

DAY = datetime(2026, 5, 4, tzinfo=UTC)
OUTCOMES = (Outcome.FORWARD, Outcome.FORWARD, Outcome.BLOCK, Outcome.REWRITE)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        url = f"sqlite:{tmp_path / 'audit.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create()
    opened = Store(url)
    await opened.prepare()
    yield opened
    await opened.close()


async def fill(store: Store, count: int) -> list[Row]:
    """Decisions of which three at a time have one moment; returned newest first."""
    rows: list[Row] = []
    for number in range(count):
        outcome = OUTCOMES[number % 4]
        found = outcome in (Outcome.BLOCK, Outcome.REWRITE)
        made = entry(
            outcome=outcome,
            time=DAY + timedelta(seconds=number // 3),
            id=f"{(number * 7919) % 100_000:032x}",
            level="high" if outcome is Outcome.BLOCK else "medium" if found else "none",
            categories=(("hate", "privacy")[number % 2],) if found else (),
            owner=("alice", "bob")[number % 5 == 0],
            raw=json.dumps({"said": f"100% of number {number:03}"}) if number % 3 else None,
        )
        rows.append(row_of(made, None))
    await store.add(rows)
    return sorted(rows, key=lambda row: (row["time"], row["id"]), reverse=True)


async def walk(store: Store, wanted: Wanted, size: int) -> list[str]:
    """The ids of all pages, one after the other."""
    found: list[str] = []
    before: Cursor | None = None
    while True:
        got = await page(store, wanted, before, size=size)
        assert len(got.rows) <= size
        found += [row["id"] for row in got.rows]
        if got.older is None:
            return found
        before = Cursor.read(str(got.older))


CASES: list[tuple[Wanted, object]] = [
    (Wanted(), lambda row: True),
    (Wanted(outcome="block"), lambda row: row["outcome"] == "block"),
    (Wanted(outcome="forward"), lambda row: row["outcome"] == "forward"),
    (Wanted(level="medium"), lambda row: row["level"] == "medium"),
    (Wanted(level="none", owner="bob"), lambda row: row["level"] == "none" and row["owner"] == "bob"),
    (Wanted(category="hate"), lambda row: '"hate"' in row["categories"]),
    (Wanted(category="hat"), lambda row: False),
    (Wanted(outcome="rewrite", owner="alice", level="medium", category="privacy"),
     lambda row: row["outcome"] == "rewrite" and row["owner"] == "alice" and "privacy" in row["categories"]),
    (Wanted(route="/v1/chat/completions", owner="bob"), lambda row: row["owner"] == "bob"),
    (Wanted(text="NUMBER 01"), lambda row: "number 01" in (row["raw"] or "")),
    (Wanted(text="100%"), lambda row: row["raw"] is not None),
    (Wanted(text="1_0%"), lambda row: False),
    (Wanted(since="2026-05-04T00:00:05.000+00:00", until="2026-05-04T00:00:09.000+00:00"),
     lambda row: "00:00:05" <= row["time"][11:19] < "00:00:09"),
]  # fmt: skip


@pytest.mark.parametrize("budget", [20_000, 7])
async def test_pages_hold_every_decision_that_fits_once_newest_first(
    store: Store, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(audit_pages, "_SCANNED", budget)
    monkeypatch.setattr(audit_pages, "_SCANNED_WORDS", budget)
    rows = await fill(store, 60)
    for wanted, fits in CASES:
        assert callable(fits)
        expected = [row["id"] for row in rows if fits(row)]
        assert await walk(store, wanted, 4) == expected, wanted
        got = [row["id"] async for row in newest(store, wanted, 5)]
        assert got == expected[:5], wanted
        assert await count_newer(store, wanted, Cursor("0", "0")) <= len(expected)


async def test_a_search_that_stopped_says_how_far_it_came(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_pages, "_SCANNED", 10)
    rows = await fill(store, 60)
    got = await page(store, Wanted(route="/v1/nowhere"))
    assert (got.rows, got.searched_to) == ([], rows[9]["time"])


async def test_newer_decisions_are_counted_from_where_a_page_begins(store: Store) -> None:
    rows = await fill(store, 30)
    assert await count_newer(store, Wanted(), Cursor.of(rows[0])) == 0
    assert await count_newer(store, Wanted(), Cursor.of(rows[7])) == 7
    blocked = [row for row in rows[:7] if row["outcome"] == "block"]
    assert await count_newer(store, Wanted(outcome="block"), Cursor.of(rows[7])) == len(blocked)


async def test_marks_stand_beside_decisions_and_go_with_them(store: Store) -> None:
    rows = await fill(store, 9)
    one, two = rows[2]["id"], rows[5]["id"]
    for id, mark in ((one, "missed"), (two, "missed"), (one, "false_alarm")):
        await store.mark({"id": id, "time": "t", "author": "ops", "mark": mark, "note": "n"})
    assert [(row["id"], row["mark"]) for row in (await page(store, Wanted(marked=True))).rows] == [
        (one, "false_alarm"),
        (two, "missed"),
    ]
    assert [row["id"] async for row in marked(store, Filter())] == [two, one]
    await store.unmark(two)
    await store.erase([one])
    assert [row async for row in marked(store, Filter())] == []
    await store.mark({"id": two, "time": "t", "author": "ops", "mark": "missed", "note": "n"})
    await store.prune("2027")
    assert await audit_pages.mark_of(store, two) is None
