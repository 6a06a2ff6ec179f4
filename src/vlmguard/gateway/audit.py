"""The audit log: every decision of the gateway is kept, off the hot path, in batches, and none is dropped in silence.

``record`` puts an entry into a bounded queue; one writer a process signs and stores what is there. While the database is
away the queue fills, and then requests wait or fail, as configured. What a killed process can lose is what it accepted
less than ``flush_seconds`` ago.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal

from vlmguard.errors import AuditError
from vlmguard.gateway.audit_store import RowRefusedError, Store, stamp
from vlmguard.json_form import receipt_form
from vlmguard.receipts import canonical, sign
from vlmguard.types import Receipt

logger = logging.getLogger(__name__)

_BATCH = 200
"""Rows a transaction writes; as many pending start one before its time."""
_BREATH = 5
"""Rows formed between two looks at other requests: about half a millisecond."""
_LONGEST_WORD = 256
"""Characters of a client's own word (a model's name) that are kept."""
_MOST_RAW = 64 * 2**20
"""Characters of raw requests that may wait in memory."""
_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 10.0
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_PRUNE_SECONDS = 3600.0
_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision, as the gateway knows it."""

    receipt: Receipt
    owner: str
    """The id of the key that made the request; "" without keys."""
    route: str
    dialect: str
    model: str
    categories: tuple[str, ...]
    level: str
    status: int
    stages_ms: Mapping[str, float]
    raw: str | None = None
    """The request's own words, kept only where the configuration asks for them."""


class AuditLog:
    """The gateway's end of the audit database. Made by ``AuditLog.open``; one for each process."""

    def __init__(
        self,
        store: Store,
        *,
        queue: int,
        flush_seconds: float,
        when_full: Literal["wait", "fail"],
        signing_key: bytes | None,
        on_depth: Callable[[int], None] | None,
    ) -> None:
        self._store = store
        self._most = queue
        self._flush_seconds = flush_seconds
        self._when_full = when_full
        self._signing_key = signing_key
        self._on_depth = on_depth or (lambda depth: None)
        self._pending: dict[str, AuditEntry] = {}
        self._raw_waiting = 0
        self._failure: str | None = None
        self._closed = False
        self._first_came = 0.0
        """When, in monotonic seconds, the first decision came that the writer has not begun to write."""
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._space = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        queue: int = 10_000,
        flush_seconds: float = 0.2,
        when_full: Literal["wait", "fail"] = "wait",
        signing_key: bytes | None = None,
        keep: timedelta | None = None,
        on_depth: Callable[[int], None] | None = None,
    ) -> AuditLog:
        """Connects, brings the schema up to date, and starts the writer.

        Args:
            url: ``sqlite:FILE`` or ``postgresql://user:password@host/database``.
            queue: decisions that may wait to be written.
            flush_seconds: how old a decision is at most when it is in the database, while that keeps up.
            when_full: whether ``record`` waits for space in a full queue, or raises.
            signing_key: receipts are signed with it (``receipts.sign``).
            keep: decisions older than this are removed, at the start and every hour.
            on_depth: told how many decisions wait, whenever that changes.

        Raises:
            AuditError: the database cannot be used; one that does not answer is tried for ten seconds.
        """
        if queue < 1 or flush_seconds <= 0:
            raise AuditError("an audit queue holds at least 1 decision, and is flushed after more than 0 seconds")
        store = Store(url)
        try:
            await _prepare(store)
        except BaseException:
            await store.close()
            raise
        log = cls(
            store,
            queue=queue,
            flush_seconds=flush_seconds,
            when_full=when_full,
            signing_key=signing_key,
            on_depth=on_depth,
        )
        log._tasks.append(asyncio.create_task(log._write(), name="audit writer"))
        if keep is not None:
            log._tasks.append(asyncio.create_task(log._prune(keep), name="audit retention"))
        return log

    @property
    def depth(self) -> int:
        """Decisions that are not in the database yet."""
        return len(self._pending)

    async def record(self, entry: AuditEntry) -> None:
        """Accepts a decision. It is readable from now on, and in the database within ``flush_seconds``.

        In a full queue it waits until the writer has made space (give it a deadline), or raises, as configured.

        Raises:
            AuditError: the queue is full and ``when_full`` is "fail"; the log is closed; the writer is broken.
        """
        while self._is_full(entry):
            self._require_writer()
            if self._when_full == "fail":
                raise AuditError(f"{len(self._pending):,} decisions wait to be written, as many as may: {self._why()}")
            self._hurry.set()
            self._space.clear()
            await self._space.wait()
        self._require_writer()
        if entry.receipt.id in self._pending:
            raise AuditError(f"the receipt {entry.receipt.id} was recorded already")
        self._pending[entry.receipt.id] = entry
        self._raw_waiting += len(entry.raw or "")
        self._on_depth(len(self._pending))
        if not self._work.is_set():
            self._work.set()
            self._first_came = time.monotonic()
        if len(self._pending) >= _BATCH:
            self._hurry.set()

    async def receipt(self, id: str, owner: str) -> dict[str, object] | None:
        """The signed JSON form of a receipt; ``None`` when there is none with this id that is ``owner``'s.

        One that another process has just accepted is waited for, about as long as that may take to store it.
        Raises ``AuditError``.
        """
        if not _ID.match(id):
            return None
        for wait in (0.0, 0.25, 0.25, 0.5, 0.5):
            await asyncio.sleep(wait * self._flush_seconds)
            if (entry := self._pending.get(id)) is not None:
                return _read(receipt_text(entry, self._signing_key)) if entry.owner == owner else None
            if (row := await self._store.one(id)) is not None:
                return _read(row["receipt"]) if row["owner"] == owner else None
        return None

    async def ready(self) -> None:
        """Asks the database. Raises ``AuditError`` when decisions cannot be kept just now, saying why."""
        self._require_writer()
        if self._failure is not None:
            raise AuditError(f"{len(self._pending):,} decisions wait to be written: {self._failure}")
        await self._store.ping()

    async def close(self) -> None:
        """Writes what waits, and gives the connections back. Raises ``AuditError`` with the number of rows that were lost."""
        if self._closed:
            return
        self._closed = True
        writer, *others = self._tasks
        for task in others:
            task.cancel()
        self._work.set()
        self._hurry.set()
        self._space.set()
        await asyncio.wait([writer], timeout=_CLOSE_SECONDS)
        writer.cancel()
        await asyncio.gather(writer, *others, return_exceptions=True)
        await self._store.close()
        if self._pending:
            raise AuditError(f"{len(self._pending):,} decisions were NOT written and are lost: {self._why()}")

    # -----------------------------------------------------------------------------------------------------------------

    def _is_full(self, entry: AuditEntry) -> bool:
        if not self._pending:
            return False
        raw = self._raw_waiting + len(entry.raw or "")
        return len(self._pending) >= self._most or (entry.raw is not None and raw > _MOST_RAW)

    def _require_writer(self) -> None:
        if self._closed:
            raise AuditError("the audit log is closed")
        if self._tasks[0].done():
            raise AuditError("the audit log's writer is broken: restart the gateway, and report this")

    def _why(self) -> str:
        return self._failure or f"{self._store.name} does not keep up"

    async def _write(self) -> None:
        """The writer: begins when what came first is a quarter of an interval old, and has the rest of it to write, and write again."""
        try:
            while not self._closed or self._pending:
                await self._work.wait()
                wait = self._first_came + self._flush_seconds / 4 - time.monotonic()
                if wait > 0 and not self._closed and len(self._pending) < _BATCH:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._hurry.wait(), wait)
                self._hurry.clear()
                self._work.clear()
                await self._flush()
        except Exception:
            logger.exception("the audit log's writer broke; %d decisions were not stored", len(self._pending))
            raise
        finally:
            self._space.set()  # whoever waits for space shall learn that none will come

    async def _flush(self) -> None:
        """Writes what waits now. What comes meanwhile is left for the next time, so that batches stay batches."""
        left = len(self._pending)
        while left > 0:
            entries = list(islice(self._pending.values(), min(left, _BATCH)))
            await self._keep(entries)
            left -= len(entries)
            for entry in entries:
                del self._pending[entry.receipt.id]
                self._raw_waiting -= len(entry.raw or "")
            self._space.set()
            self._on_depth(len(self._pending))

    async def _rows(self, entries: list[AuditEntry]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for entry in entries:
            rows.append(row_of(entry, self._signing_key))
            if len(rows) % _BREATH == 0:
                await asyncio.sleep(0)
        return rows

    async def _keep(self, entries: list[AuditEntry], attempt: int = 0, *, cut: bool = False) -> None:
        """Stores a batch, however often that takes. One that the database refuses does not hold up the others."""
        rows = await self._rows(entries)
        while True:
            try:
                await self._store.add(rows, again=attempt > 0)
            except AuditError as error:
                if isinstance(error, RowRefusedError) and not cut:
                    await self._keep_apart(entries, attempt, error)
                    return
                if self._failure is None:
                    logger.error("the audit database cannot be written: decisions wait in memory: %s", error)
                self._failure = str(error)
            else:
                if self._failure is not None:
                    logger.warning("the audit database can be written again")
                    self._failure = None
                return
            await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            attempt += 1

    async def _keep_apart(self, entries: list[AuditEntry], attempt: int, error: RowRefusedError) -> None:
        """Stores each decision of a refused batch by itself, and of the one that is refused what can be kept."""
        if len(entries) > 1:
            for entry in entries:
                await self._keep([entry], attempt)
            return
        logger.error("the decision %s was refused, and is kept without its details: %s", entries[0].receipt.id, error)
        await self._keep([_cut(entries[0])], attempt, cut=True)

    async def _prune(self, keep: timedelta) -> None:
        while True:
            try:
                count = await self._store.prune(stamp(datetime.now(UTC) - keep))
            except AuditError as error:
                logger.error("old decisions could not be removed: %s", error)
            else:
                if count:
                    logger.info("%d decisions older than %s were removed", count, keep)
            await asyncio.sleep(_PRUNE_SECONDS)


def _read(text: str) -> dict[str, object]:
    return dict(json.loads(text))


async def _prepare(store: Store) -> None:
    """The first contact: a database that is just starting, or just being made by another worker, gets some time."""
    deadline = asyncio.get_running_loop().time() + _OPEN_SECONDS
    while True:
        try:
            await store.prepare()
        except AuditError as error:
            # Of our own refusals (a newer schema, a missing folder) none goes away by waiting.
            if error.__cause__ is None or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return


def receipt_text(entry: AuditEntry, signing_key: bytes | None) -> str:
    """The receipt's JSON as it is stored: canonical, signed when there is a key."""
    form = receipt_form(entry.receipt)
    try:
        return _written(form, signing_key)
    except UnicodeEncodeError:
        # A lone surrogate in a name that came from outside must not stop the log.
        return _written(json.loads(json.dumps(form, ensure_ascii=False).encode(errors="replace")), signing_key)


def _written(form: dict[str, Any], signing_key: bytes | None) -> str:
    return canonical(form if signing_key is None else sign(form, signing_key)).decode()


def row_of(entry: AuditEntry, signing_key: bytes | None) -> dict[str, Any]:
    """The row of ``vlmguard_decisions``. Whatever the entry holds, the row can be stored: nothing a client sends stops the log."""
    receipt = entry.receipt
    return {
        "id": receipt.id,
        "time": receipt.time,
        "owner": _word(entry.owner),
        "route": _word(entry.route),
        "dialect": _word(entry.dialect),
        "model": _word(entry.model),
        "mode": receipt.mode.value,
        "outcome": receipt.outcome.value,
        "intended_outcome": receipt.intended_outcome.value,
        "categories": json.dumps([_word(category) for category in entry.categories]),
        "level": _word(entry.level),
        "status": entry.status,
        "stages_ms": json.dumps({stage: round(ms, 3) for stage, ms in entry.stages_ms.items()}),
        "receipt": receipt_text(entry, signing_key),
        "raw": None if entry.raw is None else _escaped(entry.raw),
    }


def _cut(entry: AuditEntry) -> AuditEntry:
    """``entry`` without what a client's words can make large or odd."""
    receipt = replace(entry.receipt, judgements=(), failure="audit: the database refused the details")
    return replace(entry, receipt=receipt, model="", categories=(), stages_ms={}, raw=None)


def _word(text: str) -> str:
    return _escaped(text if len(text) <= _LONGEST_WORD else text[: _LONGEST_WORD - 1] + "…")


def _escaped(text: str) -> str:
    """Without what no database takes: lone surrogates, and NUL, which PostgreSQL refuses."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
