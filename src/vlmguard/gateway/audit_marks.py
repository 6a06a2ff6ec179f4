"""Marked decisions as labelled rows, for ``vlmguard calibrate`` and for evaluation (docs/console.md)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vlmguard.errors import InputError, WireError
from vlmguard.gateway import litellm
from vlmguard.gateway.audit_export import whole
from vlmguard.gateway.audit_store import Row
from vlmguard.types import Chat, Image
from vlmguard.wire import DIALECTS, Request

LABELS: Mapping[str, str] = {"false_alarm": "benign", "missed": "harmful"}
"""Mark → what it says of the request."""


def read_kept(row: Row) -> Request | None:
    """The request that a row kept; ``None`` when none was, or when it cannot be read."""
    if row.get("raw") is None:
        return None
    body = row["raw"].encode()
    try:
        if row["dialect"] == "litellm":
            question = litellm.read(body)
            return None if question is None else question.read(body)
        dialect = DIALECTS.get(row["dialect"])
        return None if dialect is None else dialect.read(body)
    except WireError:
        return None


async def write_marks(rows: AsyncIterator[Row], out: Path | BinaryIO) -> tuple[int, int]:
    """Writes a line for each marked request whose words were kept; returns how many, and how many have none.

    Pictures go into the folder ``OUT.pictures`` beside a file ``OUT``; to a stream they cannot, and a request with pictures
    raises ``InputError``, as does what cannot be written.
    """
    if not isinstance(out, Path):
        return await _write(rows, out, None)
    with whole(out) as part, part.open("wb") as file:
        return await _write(rows, file, out.with_name(out.name + ".pictures"))


async def _write(rows: AsyncIterator[Row], file: BinaryIO, pictures: Path | None) -> tuple[int, int]:
    written, wordless = 0, 0
    async for row in rows:
        request = read_kept(row)
        # A request may be kept and yet have no turn of the user's: it was refused for that.
        asked = request is not None and any(message.role == "user" for message in request.chat.messages)
        if request is None or not asked or row["mark"] not in LABELS:
            wordless += 1
            continue
        line = json.dumps(_form(row, request.chat, pictures), ensure_ascii=False)
        file.write(line.encode(errors="replace") + b"\n")
        written += 1
    file.flush()
    return written, wordless


def _form(row: Row, chat: Chat, pictures: Path | None) -> dict[str, Any]:
    images = chat.messages[chat.last_user_turn].images
    return {
        "id": row["id"],
        "prompt": chat.prompt,
        "label": LABELS[row["mark"]],
        "images": [_keep(image, pictures) for image in images],
        "mark": row["mark"],
        "note": row["note"],
        "outcome": row["outcome"],
        "categories": json.loads(row["categories"]),
    }


def _keep(image: Image, pictures: Path | None) -> str:
    """The picture's place as seen from the rows."""
    if pictures is None:
        raise InputError("a marked request has pictures, which go beside a file: name one with --out")
    pictures.mkdir(exist_ok=True)
    name = f"{image.sha256}.{image.media_type.partition('/')[2]}"
    (pictures / name).write_bytes(image.data)
    return f"{pictures.name}/{name}"
