"""What the console asks of the audit database: pages of decisions by keyset, and what is newer, marked or neighbouring.

No question reads the whole table. What no index answers (a word in a request, say) is looked for among the newest
``Wanted.budget`` decisions that an index gives, and the page then says how far back that reached.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from vlmguard.gateway.audit_store import DECISIONS, MARKS, Filter, Row, Store

PAGE = 50
"""Decisions on a page."""
_SCANNED = 10_000
"""Decisions that one question may look through for what no index answers."""
_SCANNED_WORDS = 1_000
"""The same, where their words are to be read: a request may hold pictures."""
_MOST_NEWER = 100
_SHORT = 65_536
"""Characters up to which a request is fetched to show its beginning in a list."""

_columns = DECISIONS.c


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two decisions, in the order of time."""

    time: str
    id: str

    @classmethod
    def of(cls, row: Row) -> Cursor:
        return cls(row["time"], row["id"])

    @classmethod
    def read(cls, text: str) -> Cursor | None:
        """What ``str`` wrote; ``None`` for anything else."""
        time, mark, id = text.partition("~")
        return cls(time, id) if mark and time and id else None

    def __str__(self) -> str:
        return f"{self.time}~{self.id}"


@dataclass(frozen=True, slots=True)
class Wanted(Filter):
    """Which decisions a page shows: all conditions hold."""

    level: str | None = None
    category: str | None = None
    route: str | None = None
    text: str | None = None
    """A word of the request, where its words were kept; upper and lower case are the same for ASCII letters."""
    marked: bool = False

    @property
    def _driver(self) -> str | None:
        """The one condition whose index is walked. The terms of the partial indexes stand below as the indexes have them."""
        if self.marked:
            return "marked"
        if self.outcome not in (None, "forward"):
            return "outcome"
        if self.level not in (None, "none"):
            return "level"
        if self.category is not None:
            return "category"
        return "owner" if self.owner is not None else None

    def _indexed(self) -> list[sa.ColumnElement[bool]]:
        """What an index answers: the time, and one condition more, so that no more is read than is looked at."""
        conditions = Filter(self.since, self.until).conditions()
        match self._driver:
            case "marked":
                conditions.append(_columns.id.in_(sa.select(MARKS.c.id)))
            case "outcome":
                conditions += [_columns.outcome == self.outcome, _term("outcome <> 'forward'")]
            case "level":
                conditions += [_columns.level == self.level, _term("level <> 'none'")]
            case "category":
                conditions.append(_term("level <> 'none'"))
            case "owner":
                conditions.append(_columns.owner == self.owner)
        return conditions

    def _scanned(self, table: Any) -> list[sa.ColumnElement[bool]]:
        """What is looked for among decisions that an index gave."""
        conditions: list[sa.ColumnElement[bool]] = []
        for name in ("outcome", "level", "owner", "route"):
            if (value := getattr(self, name)) is not None and name != self._driver:
                conditions.append(table[name] == value)
        if self.category is not None:
            conditions.append(table.categories.contains(json.dumps(self.category), autoescape=True))
        if self.text is not None:
            spelled = {self.text, json.dumps(self.text)[1:-1], json.dumps(self.text, ensure_ascii=False)[1:-1]}
            conditions.append(sa.or_(*(table.raw.icontains(word, autoescape=True) for word in sorted(spelled))))
        return conditions

    def _looked_at(self) -> list[sa.Column[Any]]:
        """The columns of these conditions, and of the order: an index may hold them all."""
        names = {name for name in ("outcome", "level", "owner", "route") if getattr(self, name) is not None} - {
            self._driver
        }
        names |= {"time", "id"} | ({"categories"} if self.category is not None else set())
        names |= {"raw"} if self.text is not None else set()
        return [column for column in _columns if column.name in names]

    @property
    def budget(self) -> int:
        return _SCANNED if self.text is None else _SCANNED_WORDS


@dataclass(frozen=True, slots=True)
class Page:
    """Some decisions, newest first, and where the next ones begin."""

    rows: list[Row]
    older: Cursor | None
    """After it come the next ones; ``None``: there are none."""
    searched_to: str | None = None
    """Where the search stopped for now, which may have left a page with few rows or none."""


async def page(store: Store, wanted: Wanted, before: Cursor | None = None, *, size: int = PAGE) -> Page:
    """The newest decisions before a place. Raises ``AuditError``."""
    ordered = (_columns.time.desc(), _columns.id.desc())
    if not wanted._scanned(_columns):
        rows = await store.fetch(
            _listed(sa.select(_columns.id).where(*_within(wanted, before)).order_by(*ordered).limit(size + 1), wanted)
        )
        return Page(rows[:size], Cursor.of(rows[size - 1]) if len(rows) > size else None)
    inner = sa.select(*wanted._looked_at()).where(*_within(wanted, before))
    walked = inner.order_by(*ordered).limit(wanted.budget).subquery()
    found = sa.select(walked.c.id).where(*wanted._scanned(walked.c))
    found = found.order_by(walked.c.time.desc(), walked.c.id.desc()).limit(size + 1)
    rows = await store.fetch(_listed(found, wanted))
    if len(rows) > size:
        return Page(rows[:size], Cursor.of(rows[size - 1]))
    last = await _last_scanned(store, wanted, before)
    return Page(rows, last, None if last is None else last.time)


async def _last_scanned(store: Store, wanted: Wanted, before: Cursor | None) -> Cursor | None:
    """The decision at which a search stopped; ``None`` when it saw all."""
    query = sa.select(_columns.time, _columns.id).where(*_within(wanted, before))
    query = query.order_by(_columns.time.desc(), _columns.id.desc()).limit(1).offset(wanted.budget - 1)
    rows = await store.fetch(query)
    return Cursor.of(rows[0]) if rows else None


def _term(text: str) -> sa.ColumnElement[bool]:
    """A condition spelled as the partial indexes spell it: SQLite takes no other for the same."""
    return sa.text(text)  # type: ignore[return-value]


def _within(wanted: Wanted, before: Cursor | None) -> list[sa.ColumnElement[bool]]:
    conditions = wanted._indexed()
    if before is not None:
        conditions.append(
            sa.tuple_(_columns.time, _columns.id) < sa.tuple_(sa.literal(before.time), sa.literal(before.id))
        )
    return conditions


def _listed(ids: sa.Select[Any], wanted: Wanted) -> sa.Select[Any]:
    """What a list shows of some decisions: all but the receipts, short requests whole, and the marks."""
    shown = [column for column in _columns if column.name not in ("receipt", "raw")]
    short = _columns.raw if wanted.text is not None else sa.case((sa.func.length(_columns.raw) <= _SHORT, _columns.raw))
    query = sa.select(*shown, short.label("raw"), _columns.raw.is_not(None).label("kept"), MARKS.c.mark)
    query = query.outerjoin_from(DECISIONS, MARKS, MARKS.c.id == _columns.id).where(_columns.id.in_(ids))
    return query.order_by(_columns.time.desc(), _columns.id.desc())


async def count_newer(store: Store, wanted: Wanted, than: Cursor) -> int:
    """How many decisions came after a place, up to 100."""
    newer = sa.tuple_(_columns.time, _columns.id) > sa.tuple_(sa.literal(than.time), sa.literal(than.id))
    query = sa.select(*wanted._looked_at()).where(*wanted._indexed(), newer)
    latest = query.order_by(_columns.time.desc(), _columns.id.desc()).limit(wanted.budget).subquery()
    inner = sa.select(latest.c.id).where(*wanted._scanned(latest.c)).limit(_MOST_NEWER)
    rows = await store.fetch(sa.select(sa.func.count().label("count")).select_from(inner.subquery()))
    return int(rows[0]["count"])


async def mark_of(store: Store, id: str) -> Row | None:
    """The mark of a decision."""
    rows = await store.fetch(sa.select(MARKS).where(MARKS.c.id == id))
    return rows[0] if rows else None


def newest(store: Store, wanted: Wanted, most: int, *, raw: bool = False) -> AsyncGenerator[Row, None]:
    """The newest decisions whole, for counting and judging again."""
    columns = [column for column in _columns if raw or column.name != "raw"]
    conditions = [*wanted._indexed(), *wanted._scanned(_columns)]
    query = sa.select(*columns).where(*conditions).order_by(_columns.time.desc(), _columns.id.desc())
    return store.stream(query.limit(most))


def marked(store: Store, wanted: Filter) -> AsyncGenerator[Row, None]:
    """The marked decisions with their words, where these were kept, oldest first."""
    query = sa.select(DECISIONS, MARKS.c.mark, MARKS.c.note).join(MARKS, MARKS.c.id == _columns.id)
    return store.stream(query.where(*wanted.conditions()).order_by(_columns.time, _columns.id))
