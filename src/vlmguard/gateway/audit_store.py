"""The audit database: its tables, their migrations, and every query. SQLite or PostgreSQL, over SQLAlchemy's asyncio.

One row of ``vlmguard_decisions`` is one request. ``vlmguard_erasures`` names the rows that were erased, so that a gap can be
told from a loss; ``vlmguard_marks`` holds what people said of decisions. The schema grows by adding to ``MIGRATIONS``; a
database with a newer schema than ours is refused. What the console asks is composed in ``audit_pages.py``.
"""

from __future__ import annotations

import operator
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmguard.errors import AuditError, MissingExtraError
from vlmguard.gateway.config import without_password

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, DisconnectionError, IntegrityError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
    from sqlalchemy.pool import ConnectionPoolEntry
except ImportError as error:
    raise MissingExtraError("the audit log", "gateway") from error

Row = Mapping[str, Any]
Operator = Callable[[Any, Any], Any]

_metadata = sa.MetaData()
DECISIONS = sa.Table(
    "vlmguard_decisions",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("time", sa.Text, nullable=False),  # UTC, ISO 8601 with milliseconds: sorts as text
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("dialect", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("intended_outcome", sa.Text, nullable=False),
    sa.Column("categories", sa.Text, nullable=False),  # JSON: a list of words
    sa.Column("level", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("stages_ms", sa.Text, nullable=False),  # JSON: stage → milliseconds
    sa.Column("receipt", sa.Text, nullable=False),  # JSON, canonical, signed when there is a key
    sa.Column("raw", sa.Text),  # the request's own words: only where the configuration asks for them
)
ERASURES = sa.Table(
    "vlmguard_erasures",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("time", sa.Text, nullable=False),
)
MARKS = sa.Table(
    "vlmguard_marks",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),  # of the decision
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),  # the id of the key, "" without keys
    sa.Column("mark", sa.Text, nullable=False),  # false_alarm or missed
    sa.Column("note", sa.Text, nullable=False),
)
_SCHEMA = sa.Table("vlmguard_schema", _metadata, sa.Column("version", sa.Integer, nullable=False))

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE vlmguard_decisions (
            id TEXT PRIMARY KEY, time TEXT NOT NULL, owner TEXT NOT NULL, route TEXT NOT NULL, dialect TEXT NOT NULL,
            model TEXT NOT NULL, mode TEXT NOT NULL, outcome TEXT NOT NULL, intended_outcome TEXT NOT NULL,
            categories TEXT NOT NULL, level TEXT NOT NULL, status INTEGER NOT NULL, stages_ms TEXT NOT NULL,
            receipt TEXT NOT NULL, raw TEXT)""",
        "CREATE INDEX vlmguard_decisions_time ON vlmguard_decisions (time, id)",
    ),
    ("CREATE TABLE vlmguard_erasures (id TEXT PRIMARY KEY, time TEXT NOT NULL)",),
    (
        """CREATE TABLE vlmguard_marks (
            id TEXT PRIMARY KEY, time TEXT NOT NULL, author TEXT NOT NULL, mark TEXT NOT NULL, note TEXT NOT NULL)""",
        # What most decisions are has no entry in these three, so that they cost the writer next to nothing. They hold what the
        # console filters by, so that the rows themselves need not be read.
        """CREATE INDEX vlmguard_decisions_outcome ON vlmguard_decisions
            (outcome, time, id, level, owner, route, categories) WHERE outcome <> 'forward'""",
        """CREATE INDEX vlmguard_decisions_level ON vlmguard_decisions
            (level, time, id, outcome, owner, route, categories) WHERE level <> 'none'""",
        """CREATE INDEX vlmguard_decisions_found ON vlmguard_decisions
            (time, id, level, outcome, owner, route, categories) WHERE level <> 'none'""",
        "CREATE INDEX vlmguard_decisions_owner ON vlmguard_decisions (owner, time, id)",
    ),
)
"""From nothing to the tables above, step by step, in SQL that both databases know. The version of a schema is how many of
them it has seen. Published steps are never edited; a step only adds, so that an older vlmguard beside it goes on working."""

_LOCK = 0x766C6D67
"""Of PostgreSQL's advisory locks the one under which schemas are changed."""
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_CHUNK = 1_000
"""Rows a statement deletes or an export fetches at once: few enough that nobody waits long for a lock."""
_SLICE = 25
"""Rows handed to the driver at once: binding them holds up every other request of the process."""
_BUSY_SECONDS = 5.0
"""How long SQLite waits for another process's lock."""
_ANSWER_SECONDS = 10.0
"""How long PostgreSQL may take for one statement: a server that went silent is noticed."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which decisions: all conditions hold. Times are UTC, ISO 8601 with milliseconds."""

    since: str | None = None
    until: str | None = None
    """The first moment that is no longer wanted."""
    outcome: str | None = None
    owner: str | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        columns = DECISIONS.c
        conditions: tuple[tuple[Operator, sa.Column[Any], str | None], ...] = (
            (operator.ge, columns.time, self.since),
            (operator.lt, columns.time, self.until),
            (operator.eq, columns.outcome, self.outcome),
            (operator.eq, columns.owner, self.owner),
        )
        return [compare(column, value) for compare, column, value in conditions if value is not None]


def stamp(moment: datetime) -> str:
    """A moment as receipts and this database write it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


class RowRefusedError(AuditError):
    """The database is there and does not take what a row holds: trying again would not help."""


class Store:
    """The database behind an audit log. Every method raises ``AuditError``.

    Args:
        url: ``sqlite:FILE`` (or ``sqlite:///FILE``, or just the file's path), ``postgresql://user:password@host/database``.
        create: whether a database that is not there is made. What reads only should not.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = _read_url(url)
        self.name = without_password(self._url.render_as_string(hide_password=True))
        """Of the database, for messages: without its password."""
        self._create = create
        self._file = Path(self._url.database or "") if self._url.get_backend_name() == "sqlite" else None
        self._identity: tuple[int, int] | None = None
        self._engine = _make_engine(self._url, self._file)
        self._writing = self._engine.execution_options(vlmguard_begin="BEGIN IMMEDIATE")
        self._prepared = False

    async def prepare(self) -> None:
        """Connects, and brings the schema up to date."""
        async with self._translating():
            self._find_file()
            async with self._engine.connect() as connection:
                version = await self._version(connection)
            if version < len(MIGRATIONS):  # who only reads needs no right to write
                async with self._writing.begin() as connection:
                    await self._migrate(connection)
        self._prepared = True

    async def add(self, rows: Sequence[Row], *, again: bool = False) -> None:
        """Writes decisions, all or none. One whose id is there already stays as it is.

        ``again``: the same rows were tried before, and may have been written, and since then even erased.
        """
        await self._require_prepared()
        async with self._translating(), self._writing.begin() as connection:
            for start in range(0, len(rows), _SLICE):
                await connection.execute(self._insert(DECISIONS), list(rows[start : start + _SLICE]))
            if again:
                await connection.execute(sa.delete(DECISIONS).where(DECISIONS.c.id.in_(sa.select(ERASURES.c.id))))

    async def one(self, id: str) -> Row | None:
        """The decision with this id."""
        return await self._first(sa.select(DECISIONS).where(DECISIONS.c.id == id))

    async def erased(self, id: str) -> str | None:
        """When the decision with this id was erased; ``None`` when it was not."""
        row = await self._first(sa.select(ERASURES.c.time).where(ERASURES.c.id == id))
        return None if row is None else str(row["time"])

    async def ping(self) -> None:
        """Asks the database for the tables we write to."""
        await self._first(sa.select(_SCHEMA.c.version))

    async def rows(self, wanted: Filter, *, raw: bool = False) -> AsyncGenerator[Row, None]:
        """The decisions that ``wanted`` describes, oldest first, few of them in memory at a time."""
        columns = [column for column in DECISIONS.c if raw or column.name != "raw"]
        query = sa.select(*columns).where(*wanted.conditions()).order_by(DECISIONS.c.time, DECISIONS.c.id)
        async with aclosing(self.stream(query)) as rows:
            async for row in rows:
                yield row

    async def fetch(self, query: sa.Executable) -> list[Row]:
        """The rows of a query that reads few of them."""
        await self._require_prepared()
        async with self._translating(), self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def stream(self, query: sa.Executable) -> AsyncGenerator[Row, None]:
        """The rows of a query that reads many, few of them in memory at a time."""
        await self._require_prepared()
        async with self._translating(), self._engine.connect() as connection:
            async for row in (await connection.stream(query, execution_options={"yield_per": _CHUNK})).mappings():
                yield dict(row)

    async def mark(self, row: Row) -> None:
        """Marks a decision; the mark takes the place of an earlier one."""
        await self._require_prepared()
        async with self._translating(), self._writing.begin() as connection:
            await connection.execute(sa.delete(MARKS).where(MARKS.c.id == row["id"]))
            await connection.execute(sa.insert(MARKS), dict(row))

    async def unmark(self, id: str) -> None:
        """Takes a decision's mark away."""
        await self._require_prepared()
        async with self._translating(), self._writing.begin() as connection:
            await connection.execute(sa.delete(MARKS).where(MARKS.c.id == id))

    async def erase(self, ids: Iterable[str]) -> set[str]:
        """Takes decisions out, leaving only their ids and the moment; returns the ids that were there."""
        wanted = list(ids)
        await self._require_prepared()
        async with self._translating():
            async with self._writing.begin() as connection:
                gone = set(await connection.scalars(sa.select(DECISIONS.c.id).where(DECISIONS.c.id.in_(wanted))))
                if gone:
                    await connection.execute(sa.delete(DECISIONS).where(DECISIONS.c.id.in_(gone)))
                    await connection.execute(sa.delete(MARKS).where(MARKS.c.id.in_(gone)))
                    now = stamp(datetime.now(UTC))
                    await connection.execute(self._insert(ERASURES), [{"id": id, "time": now} for id in sorted(gone)])
            await self._forget_pages()
        return gone

    async def prune(self, before: str) -> int:
        """Takes out the decisions made before a moment, some at a time; returns how many."""
        await self._require_prepared()
        old = sa.select(DECISIONS.c.id).where(DECISIONS.c.time < before).order_by(DECISIONS.c.time).limit(_CHUNK)
        count, removed = 0, _CHUNK
        async with self._translating():
            while removed == _CHUNK:
                async with self._writing.begin() as connection:
                    await connection.execute(sa.delete(MARKS).where(MARKS.c.id.in_(old)))
                    removed = (await connection.execute(sa.delete(DECISIONS).where(DECISIONS.c.id.in_(old)))).rowcount
                count += removed
            if count:
                await self._forget_pages()
        return count

    async def close(self) -> None:
        """Gives the connections back."""
        await self._engine.dispose()

    # -----------------------------------------------------------------------------------------------------------------

    async def _version(self, connection: AsyncConnection) -> int:
        """How many steps the schema has seen; 0 for a database that is to be made."""
        version: int | None = None
        if await connection.run_sync(lambda plain: sa.inspect(plain).has_table(_SCHEMA.name)):
            version = await connection.scalar(sa.select(_SCHEMA.c.version))
        if version is None and not self._create:
            raise AuditError(f"{self.name} is no audit database: it has no schema of vlmguard's")
        if (version or 0) > len(MIGRATIONS):
            raise AuditError(
                f"{self.name} has schema {version}, made by a newer vlmguard; this one knows {len(MIGRATIONS)}: upgrade vlmguard"
            )
        return version or 0

    async def _migrate(self, connection: AsyncConnection) -> None:
        if self._file is None:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        version = await self._version(connection)  # under the lock: another worker may have been quicker
        if version == 0:
            await connection.execute(sa.schema.CreateTable(_SCHEMA))
            await connection.execute(sa.insert(_SCHEMA), {"version": 0})
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                await connection.execute(sa.text(statement))
        await connection.execute(sa.update(_SCHEMA).values(version=len(MIGRATIONS)))

    async def _require_prepared(self) -> None:
        if not self._prepared or (self._file is not None and self._identity != _identity(self._file)):
            await self.prepare()

    def _find_file(self) -> None:
        """The SQLite file is made for its owner's eyes only; its folder must be there, since it may be a mount."""
        if self._file is None:
            return
        if not self._file.parent.is_dir():
            raise AuditError(f"the folder {self._file.parent} of the audit database does not exist: make it")
        if self._create:
            os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
        elif not self._file.is_file():
            raise AuditError(f"{self._file} does not exist: name the audit database of a gateway")
        self._identity = _identity(self._file)

    async def _first(self, query: sa.Select[Any]) -> Row | None:
        await self._require_prepared()
        async with self._translating(), self._engine.connect() as connection:
            row: Row | None = (await connection.execute(query)).mappings().first()
        return row

    def _insert(self, table: sa.Table) -> sa.Insert:
        if self._file is None:
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    async def _forget_pages(self) -> None:
        """SQLite: what was deleted leaves the write-ahead log, too, unless somebody is reading it just now."""
        if self._file is not None:
            async with self._engine.connect() as connection:
                await connection.execution_options(vlmguard_begin="")
                await connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[None]:
        """Drivers fail in many ways, and not all by their own exceptions. After a failure the schema is looked at again."""
        try:
            yield
        except AuditError:
            self._prepared = False
            raise
        except (DataError, IntegrityError, UnicodeError, OverflowError) as error:
            raise RowRefusedError(f"{self.name}: {_reason(error)}") from error
        except Exception as error:
            self._prepared = False
            raise AuditError(f"{self.name}: {_reason(error)}") from error


def _read_url(url: str) -> URL:
    if "://" not in url:
        url = f"sqlite:///{url.removeprefix('sqlite:')}"
    try:
        read = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise AuditError("the audit database's address is no URL such as sqlite:audit.db") from error
    driver = _DRIVERS.get(read.drivername, read.drivername)
    if driver not in _DRIVERS.values():
        raise AuditError(f"the audit log writes to sqlite:FILE or postgresql://…, not to {read.drivername}://")
    if driver.startswith("sqlite") and (not read.database or read.database.startswith((":memory:", "file:"))):
        raise AuditError("an audit database in memory keeps nothing: name a file, as in sqlite:audit.db")
    return read.set(drivername=driver)


def _make_engine(url: URL, file: Path | None) -> AsyncEngine:
    # Parameters hold what clients sent; they do not belong into messages and logs.
    try:
        if file is None:
            return create_async_engine(
                url,
                hide_parameters=True,
                pool_size=2,
                max_overflow=4,
                pool_pre_ping=True,
                connect_args={
                    "timeout": _ANSWER_SECONDS / 2,
                    "command_timeout": _ANSWER_SECONDS,
                    "server_settings": {"application_name": "vlmguard"},
                },
            )
        engine = create_async_engine(url, hide_parameters=True, pool_size=2, connect_args={"timeout": _BUSY_SECONDS})
    except ImportError as error:
        raise MissingExtraError("an audit log in PostgreSQL", "postgres") from error
    sa.event.listen(engine.sync_engine, "connect", _on_connect)
    sa.event.listen(engine.sync_engine, "begin", _on_begin)

    def remember(_: object, record: ConnectionPoolEntry) -> None:
        record.info["file"] = _identity(file)

    def refuse_stale(_: object, record: ConnectionPoolEntry, __: object) -> None:
        # The file that is open has another name now, or none: what is written to it would be lost. The pool opens it anew.
        if record.info["file"] != _identity(file):
            raise DisconnectionError

    sa.event.listen(engine.sync_engine, "connect", remember)
    sa.event.listen(engine.sync_engine, "checkout", refuse_stale)
    return engine


def _on_connect(connection: Any, _: object) -> None:
    """Write-ahead log: readers and several writing processes do not lock each other out. FULL: a commit survives a power cut."""
    connection.isolation_level = None  # transactions begin where we say, and not where the driver guesses
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: sa.Connection) -> None:
    """A transaction that will write says so at once: one that reads first may find that it can no longer wait."""
    if statement := connection.get_execution_options().get("vlmguard_begin", "BEGIN"):
        connection.exec_driver_sql(statement)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _reason(error: Exception) -> str:
    """What the driver says in one line, unless it quotes a value."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = str(cause).partition("\n")[0].strip()
    if not said or "query argument" in said:
        return type(cause).__name__
    return f"{said} ({type(error).__name__})"
