"""Decisions as files: JSON lines, or Parquet (extra ``parquet``). The shape is ``vlmguard.audit/1``, told in docs/audit.md."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from vlmguard.errors import InputError, MissingExtraError
from vlmguard.gateway.audit_store import Row

_JSON = ("categories", "stages_ms", "receipt")
"""Columns that hold JSON."""
_GROUP = 10_000
"""Rows of a Parquet row group: what an export holds in memory."""


def form(row: Row) -> dict[str, Any]:
    """One decision as JSON. ``raw`` is left out where nothing was kept."""
    told = {name: json.loads(value) if name in _JSON else value for name, value in row.items()}
    if told.get("raw") is None:
        told.pop("raw", None)
    return told


async def write_jsonl(rows: AsyncIterator[Row], out: Path | BinaryIO) -> int:
    """Writes a line for each row; returns how many. A file appears when it is whole. Raises ``InputError``, ``AuditError``."""
    if not isinstance(out, Path):
        return await _write_lines(rows, out)
    with whole(out) as part, part.open("wb") as file:
        return await _write_lines(rows, file)


async def _write_lines(rows: AsyncIterator[Row], file: BinaryIO) -> int:
    count = 0
    async for row in rows:
        file.write(json.dumps(form(row), ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        count += 1
    file.flush()
    return count


async def write_parquet(rows: AsyncIterator[Row], out: Path, *, raw: bool) -> int:
    """Writes one file; returns the number of rows. Raises ``MissingExtraError``, ``InputError``, ``AuditError``."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("Parquet", "parquet") from error
    words = ("id", "owner", "route", "dialect", "model", "mode", "outcome", "intended_outcome", "level", "receipt")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in words),
            ("time", pa.timestamp("ms", tz="UTC")),
            ("status", pa.int32()),
            ("categories", pa.list_(pa.string())),
            ("stages_ms", pa.map_(pa.string(), pa.float64())),
            *([("raw", pa.string())] if raw else []),
        ],
        metadata={"schema": "vlmguard.audit/1"},
    )
    count = 0
    with whole(out) as part, pq.ParquetWriter(part, schema) as writer:
        group: list[dict[str, Any]] = []
        async for row in rows:
            group.append(_parquet_form(row))
            count += 1
            if len(group) == _GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return count


def _parquet_form(row: Row) -> dict[str, Any]:
    """The receipt stays text: its signature is over exactly this spelling."""
    return {
        **row,
        "time": datetime.fromisoformat(row["time"]),
        "categories": json.loads(row["categories"]),
        "stages_ms": list(json.loads(row["stages_ms"]).items()),
    }


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A place to write to, which takes the name ``out`` when all went well, and is gone otherwise."""
    part = out.with_name(out.name + ".part")
    try:
        try:
            # Others' words are in it: it is its owner's alone, as the database is.
            part.unlink(missing_ok=True)
            part.touch(0o600, exist_ok=False)
            yield part
            part.replace(out)
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
