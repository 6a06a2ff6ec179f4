from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from tests.gateway.entries import entry
from tests.gateway.postgres import Postgres
from tests.test_receipts import SECRET
from vlmguard.errors import AuditError
from vlmguard.gateway import audit_store
from vlmguard.gateway.audit import AuditEntry, AuditLog, row_of
from vlmguard.gateway.audit_store import DECISIONS, ERASURES, MARKS, MIGRATIONS, Filter, Store
from vlmguard.json_form import receipt_form
from vlmguard.receipts import sign, verify
from vlmguard.types import Outcome


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'audit.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = Store(url)
    await opened.prepare()
    yield opened
    await opened.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen in half a minute")


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def ids(store: Store, wanted: Filter | None = None) -> list[str]:
    return [row["id"] async for row in store.rows(wanted or Filter())]


# ---------------------------------------------------------------------------------------------------------------------
# The log


async def test_a_receipt_is_readable_at_once_signed_and_by_its_owner_only(url: str) -> None:
    log = await AuditLog.open(url, signing_key=SECRET, flush_seconds=1)
    made = entry()
    await log.record(made)
    assert log.depth == 1
    waiting = await log.receipt(made.receipt.id, "alice")
    assert await log.receipt(made.receipt.id, "mallory") is None
    await until(lambda: log.depth == 0)
    stored = await log.receipt(made.receipt.id, "alice")
    assert await log.receipt(made.receipt.id, "mallory") is None
    await log.close()
    assert waiting == stored == sign(receipt_form(made.receipt), SECRET)
    assert verify(stored, [SECRET])


@pytest.mark.parametrize("id", ["", "x", "0" * 32, "A" * 32, "../../etc/passwd", "' OR 1=1 --", "0" * 31 + "\n"])
async def test_an_unknown_id_has_no_receipt(id: str, tmp_path: Path) -> None:
    log = await AuditLog.open(f"sqlite:{tmp_path / 'a.db'}", flush_seconds=0.01)
    assert await log.receipt(id, "") is None
    await log.close()


async def test_without_a_key_receipts_are_not_signed(url: str) -> None:
    log = await AuditLog.open(url)
    made = entry()
    await log.record(made)
    assert await log.receipt(made.receipt.id, "alice") == receipt_form(made.receipt)
    await log.close()


async def test_closing_writes_everything_in_order_of_time(url: str, store: Store) -> None:
    log = await AuditLog.open(url, flush_seconds=60)
    start = datetime.now(UTC)
    made = [entry(time=start + timedelta(milliseconds=number)) for number in range(505)]
    for one in reversed(made):
        await log.record(one)
    await log.close()
    await log.close()
    assert await ids(store) == [one.receipt.id for one in made]
    with pytest.raises(AuditError, match="closed"):
        await log.record(entry())
    with pytest.raises(AuditError, match="closed"):
        await log.ready()


async def test_a_row_says_what_the_gateway_knew(url: str, store: Store) -> None:
    log = await AuditLog.open(url)
    made = entry(outcome=Outcome.BLOCK, raw='{"messages": []}')
    await log.record(made)
    await log.close()
    row = await store.one(made.receipt.id)
    assert row is not None
    assert {name: row[name] for name in row if name not in {"id", "time", "receipt"}} == {
        "owner": "alice",
        "route": "/v1/chat/completions",
        "dialect": "openai_chat",
        "model": "llava",
        "mode": "enforce",
        "outcome": "block",
        "intended_outcome": "block",
        "categories": '["hate"]',
        "level": "medium",
        "status": 200,
        "stages_ms": '{"read": 0.25, "guard": 3.5}',
        "raw": '{"messages": []}',
    }
    assert json.loads(row["receipt"]) == receipt_form(made.receipt)


async def test_the_same_receipt_is_not_recorded_twice(tmp_path: Path) -> None:
    log = await AuditLog.open(f"sqlite:{tmp_path / 'a.db'}", flush_seconds=60)
    made = entry()
    await log.record(made)
    with pytest.raises(AuditError, match="recorded already"):
        await log.record(made)
    await log.close()


async def test_a_full_queue_refuses_where_the_configuration_says_fail(tmp_path: Path) -> None:
    log = await AuditLog.open(f"sqlite:{tmp_path / 'a.db'}", queue=3, flush_seconds=60, when_full="fail")
    for _ in range(3):
        await log.record(entry())
    with pytest.raises(AuditError, match="3 decisions wait"):
        await log.record(entry())
    await log.close()
    store = Store(f"sqlite:{tmp_path / 'a.db'}")
    assert len(await ids(store)) == 3
    await store.close()


async def test_a_full_queue_makes_requests_wait_and_keeps_them_all(url: str, store: Store) -> None:
    depths: list[int] = []
    log = await AuditLog.open(url, queue=10, flush_seconds=60, on_depth=depths.append)
    made = [entry() for _ in range(200)]
    await asyncio.gather(*(log.record(one) for one in made))
    await log.close()
    assert max(depths) == 10
    assert depths[-1] == 0
    assert sorted(await ids(store)) == sorted(one.receipt.id for one in made)


async def test_raw_requests_that_wait_are_bounded_by_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmguard.gateway.audit._MOST_RAW", 1_000)
    log = await AuditLog.open(f"sqlite:{tmp_path / 'a.db'}", flush_seconds=60, when_full="fail")
    await log.record(entry(raw="x" * 5_000))  # alone it may come, else it never could
    with pytest.raises(AuditError, match="wait to be written"):
        await log.record(entry(raw="x"))
    await log.record(entry())
    await log.close()


async def test_a_request_that_waited_learns_that_the_log_was_closed(tmp_path: Path) -> None:
    log = await AuditLog.open(f"sqlite:{tmp_path / 'a.db'}", queue=1, flush_seconds=60)
    made = entry()
    await log.record(made)
    locked = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with locked.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(log.record(entry()))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        closing = asyncio.create_task(log.close())
        with pytest.raises(AuditError, match="closed"):
            await waiting
        connection.rollback()
    locked.dispose()
    await closing


async def test_a_broken_writer_is_told_to_everybody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An entry that is none can only be a fault of our own: then nothing is accepted any more."""
    log = await AuditLog.open(f"sqlite:{tmp_path / 'a.db'}", queue=2, flush_seconds=0.5)
    await log.record(entry(level=3))
    await log.record(entry())
    with pytest.raises(AuditError, match="writer is broken"):
        await log.record(entry())  # it waited for space
    with pytest.raises(AuditError, match="writer is broken"):
        await log.ready()
    with pytest.raises(AuditError, match="2 decisions were NOT written"):
        await log.close()
    assert "2 decisions were not stored" in caplog.text


async def test_old_decisions_are_removed_by_themselves(url: str, store: Store) -> None:
    now = datetime.now(UTC)
    old, new = entry(time=now - timedelta(days=31)), entry(time=now - timedelta(days=29))
    await store.add([row_of(old, None), row_of(new, None)])
    log = await AuditLog.open(url, keep=timedelta(days=30))
    for _ in range(600):
        if await ids(store) == [new.receipt.id]:
            break
        await asyncio.sleep(0.05)
    await log.close()
    assert await ids(store) == [new.receipt.id]


_wild = st.text(max_size=40) | st.sampled_from(
    ["\0", "a\ud800b", "\udfff" * 300, "x" * 5_000, "'; DROP TABLE x; --", "日本\U0001f600"]
)


def _wild_entry(words: list[str], stages: dict[str, float]) -> AuditEntry:
    made = entry(
        owner=words[0],
        route=words[1],
        dialect=words[2],
        model=words[3],
        level=words[4],
        categories=tuple(words),
        stages_ms=stages,
        raw=words[5],
    )
    return replace(made, receipt=replace(made.receipt, failure=words[6], weights=words[7]))


@given(st.lists(_wild, min_size=8, max_size=8), st.dictionaries(_wild, st.floats(0, 1e6), max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_a_client_sends_can_stop_the_log(url: str, words: list[str], stages: dict[str, float]) -> None:
    async def store_and_read() -> None:
        made = _wild_entry(words, stages)
        store = Store(url)
        await store.add([row_of(made, SECRET)])
        row = await store.one(made.receipt.id)
        await store.close()
        assert row is not None
        assert verify(json.loads(row["receipt"]), [SECRET])
        assert len(row["model"]) <= 256 * 6

    asyncio.run(store_and_read())


async def test_another_process_reads_a_receipt_that_was_just_accepted(url: str) -> None:
    """Two workers on one database: the one that did not make the receipt is asked for it."""
    ours = await AuditLog.open(url, flush_seconds=0.2)
    script = """
        import asyncio, sys
        from vlmguard.gateway.audit import AuditLog
        async def main():
            log = await AuditLog.open(sys.argv[1], flush_seconds=0.2)
            print("open", flush=True)
            print((await log.receipt(sys.stdin.readline().strip(), "alice"))["id"], flush=True)
            await log.close()
        asyncio.run(main())
    """
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert await other.stdout.readline() == b"open\n"
    made = entry()
    await ours.record(made)
    other.stdin.write(made.receipt.id.encode() + b"\n")
    assert (await other.stdout.readline()).decode().strip() == made.receipt.id
    assert await other.wait() == 0
    await ours.close()


# ---------------------------------------------------------------------------------------------------------------------
# The store


async def test_what_is_exported_is_what_was_asked_for(store: Store) -> None:
    day = datetime(2026, 11, 24, tzinfo=UTC)
    made = [
        entry(time=day),
        entry(time=day + timedelta(milliseconds=1), outcome=Outcome.BLOCK),
        entry(time=day + timedelta(days=1), owner="bob"),
    ]
    await store.add([row_of(one, None) for one in made])
    first, second, third = (one.receipt for one in made)
    assert await ids(store, Filter(since=second.time)) == [second.id, third.id]
    assert await ids(store, Filter(until=second.time)) == [first.id]
    assert await ids(store, Filter(outcome="block")) == [second.id]
    assert await ids(store, Filter(owner="bob", since=first.time)) == [third.id]


async def test_a_decision_that_is_there_already_stays_as_it_is(store: Store) -> None:
    made = entry()
    await store.add([row_of(made, None)])
    await store.add([row_of(entry(id=made.receipt.id, owner="mallory"), None)])
    row = await store.one(made.receipt.id)
    assert row is not None
    assert row["owner"] == "alice"


async def test_erasure_takes_out_a_decision_and_says_when(store: Store) -> None:
    kept, gone = entry(), entry()
    await store.add([row_of(kept, None), row_of(gone, None)])
    assert await store.erase([gone.receipt.id, "unknown"]) == {gone.receipt.id}
    assert await ids(store) == [kept.receipt.id]
    assert await store.erased(gone.receipt.id) is not None
    assert await store.erased(kept.receipt.id) is None
    assert await store.erased("unknown") is None
    assert await store.erase([gone.receipt.id]) == set()


async def test_a_write_that_is_tried_again_does_not_undo_an_erasure(store: Store) -> None:
    gone, other = entry(), entry()
    await store.add([row_of(gone, None)])
    await store.erase([gone.receipt.id])
    await store.add([row_of(gone, None), row_of(other, None)], again=True)
    assert await ids(store) == [other.receipt.id]


@pytest.mark.parametrize("erase", [True, False])
async def test_what_was_removed_is_in_no_file_any_more(erase: bool, tmp_path: Path) -> None:
    log = await AuditLog.open(f"sqlite:{tmp_path / 'audit.db'}")
    made = entry(raw="a very private matter " * 500, time=datetime(2020, 1, 1, tzinfo=UTC))
    await log.record(made)
    await until(lambda: log.depth == 0)

    def holding() -> list[str]:
        return [file.name for file in tmp_path.iterdir() if b"private matter" in file.read_bytes()]

    assert holding()
    other = Store(f"sqlite:{tmp_path / 'audit.db'}")
    if erase:
        await other.erase([made.receipt.id])
    else:
        assert await other.prune("2026-01-01") == 1
    assert holding() == []
    await other.close()
    await log.close()


async def test_many_old_decisions_are_removed_piece_by_piece(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_store, "_CHUNK", 10)
    day = datetime(2026, 1, 1, tzinfo=UTC)
    made = [entry(time=day + timedelta(minutes=number)) for number in range(35)]
    await store.add([row_of(one, None) for one in made])
    assert await store.prune(made[30].receipt.time) == 30
    assert await ids(store) == [one.receipt.id for one in made[30:]]
    assert await store.prune(made[30].receipt.time) == 0


async def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    log = await AuditLog.open(f"sqlite:{tmp_path / 'audit.db'}")
    await log.record(entry())
    await until(lambda: log.depth == 0)
    assert {file.name for file in files(tmp_path)} == {"audit.db", "audit.db-wal", "audit.db-shm"}
    assert {file.stat().st_mode & 0o777 for file in files(tmp_path)} == {0o600}
    await log.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:", "name a file"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("mysql://root@localhost/x", "not to mysql"),
        ("://", "no URL"),
        ("sqlite:///missing/audit.db", "folder missing"),
        ("postgresql://vlmguard:secret@127.0.0.1:1/x", "127.0.0.1"),
    ],
)
async def test_a_database_that_cannot_be_used_is_said_and_passwords_are_not(
    url: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmguard.gateway.audit._OPEN_SECONDS", 0.1)
    with pytest.raises(AuditError, match=says) as raised:
        await AuditLog.open(url)
    assert "secret" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------------------------
# The schema


async def _described(url: str) -> dict[str, dict[str, tuple[str, bool]]]:
    """Table → column → type and whether it may be empty, as the database tells."""
    engine = create_async_engine(audit_store._read_url(url))
    async with engine.connect() as connection:

        def look(plain: sa.Connection) -> dict[str, dict[str, tuple[str, bool]]]:
            inspector = sa.inspect(plain)
            return {
                table: {
                    column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)
                }
                for table in sorted(inspector.get_table_names())
            }

        found = await connection.run_sync(look)
    await engine.dispose()
    return found


async def test_the_migrations_make_the_tables_that_the_queries_use(url: str, store: Store) -> None:
    found = await _described(url)
    assert set(found) == {"vlmguard_decisions", "vlmguard_erasures", "vlmguard_marks", "vlmguard_schema"}
    for table in (DECISIONS, ERASURES, MARKS):
        assert {name: kind for name, (kind, _) in found[table.name].items()} == {
            column.name: str(column.type) for column in table.columns
        }
    assert [name for name, (_, empty) in found["vlmguard_decisions"].items() if empty and name != "id"] == ["raw"]


async def test_whoever_only_reads_needs_no_right_to_write(postgres: Postgres) -> None:
    url = postgres.create()
    log = await AuditLog.open(url)
    made = entry()
    await log.record(made)
    await log.close()
    postgres.psql(url, "CREATE ROLE auditor LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor")
    reader = Store(url.replace("vlmguard@", "auditor@"), create=False)
    assert await ids(reader) == [made.receipt.id]
    with pytest.raises(AuditError, match="permission denied"):
        await reader.erase([made.receipt.id])
    await reader.close()


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
async def test_a_database_of_any_older_version_is_brought_up_to_date(
    version: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(audit_store, "MIGRATIONS", MIGRATIONS[:version])
        older = Store(url)
        await older.prepare()
        made = entry()
        if version:
            await older.add([row_of(made, None)])
        await older.close()
    before = await _described(url)
    store = Store(url)
    await store.prepare()
    assert await _described(url) != before
    if version:
        assert await ids(store) == [made.receipt.id]
        assert await store.erase([made.receipt.id]) == {made.receipt.id}
    await store.close()


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(audit_store, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE vlmguard_news (id TEXT)",)))
        newer = Store(url)
        await newer.prepare()
        await newer.close()
    before = await _described(url)
    with pytest.raises(AuditError, match=r"newer vlmguard.*upgrade vlmguard"):
        await AuditLog.open(url)
    assert await _described(url) == before


async def test_a_step_that_fails_leaves_the_schema_as_it_was(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await _described(url)
    with monkeypatch.context() as then:
        then.setattr(
            audit_store, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE vlmguard_news (id TEXT)", "CREATE NONSENSE"))
        )
        broken = Store(url)
        with pytest.raises(AuditError, match="NONSENSE"):
            await broken.prepare()
        await broken.close()
    assert await _described(url) == before
    await store.add([row_of(entry(), None)])


async def test_several_workers_make_the_database_at_the_same_moment(url: str) -> None:
    logs = await asyncio.gather(*(AuditLog.open(url) for _ in range(5)))
    await asyncio.gather(*(log.record(entry()) for log in logs for _ in range(20)))
    await asyncio.gather(*(log.close() for log in logs))
    store = Store(url, create=False)
    assert len(await ids(store)) == 100
    await store.close()


async def test_a_reader_makes_no_database(url: str, tmp_path: Path) -> None:
    reader = Store(url, create=False)
    with pytest.raises(AuditError, match=r"does not exist|no audit database"):
        await reader.prepare()
    await reader.close()
    assert files(tmp_path) == []
