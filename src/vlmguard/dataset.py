"""A finished dataset as its readers see it: the rows of ``data.jsonl``, the pictures by their hashes, TRL's rows.

``vlmguard synth`` writes it, ``vlmguard train`` reads it: what both must know stands here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError
from vlmguard.jsonl import read_rows
from vlmguard.pictures import PictureStore
from vlmguard.types import ROLES, Chat, Image, Message, Part, Text

ROWS = "data.jsonl"
PICTURES = "pictures"
SPLITS = ("train", "validation")


def rows_file(folder: Path) -> Path:
    """Where the rows of a dataset stand. Raises ``InputError`` when the folder holds none."""
    file = folder / ROWS
    if not file.is_file():
        raise InputError(f"{folder} holds no dataset: vlmguard synth run comes first")
    return file


def fingerprint(folder: Path) -> str:
    """SHA-256 of the rows. Pictures stand in them by their own hashes, which are checked at every reading."""
    with rows_file(folder).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_rows(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, each with the place in the file where it begins, in bytes.

    Raises ``InputError`` with file, line and id when there is no dataset, a row is none, or an id comes twice.
    """
    file = rows_file(folder)
    seen: set[str] = set()
    at = 0
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                yield at, _checked(line, f"{file}, line {number}", seen)
            at += len(line)


def _checked(line: bytes, where: str, seen: set[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:  # UnicodeDecodeError is one
        raise InputError(f"{where}: this is no JSON ({error}): export the dataset anew") from error
    id = row.get("id") if isinstance(row, dict) else None
    if wrong := _wrong(row):
        raise InputError(f"{where}{f', row {id}' if isinstance(id, str) else ''}: {wrong}: export the dataset anew")
    if id in seen:
        raise InputError(f"{where}, row {id}: another row has this id: each has its own")
    seen.add(str(id))
    return dict(row)


def _wrong(row: Any) -> str:
    """What is wrong with the shape of a row; nothing is the empty string."""
    if not isinstance(row, dict):
        return "a row is an object"
    for key in ("id", "trace"):
        if not isinstance(row.get(key), str) or not row[key]:
            return f"{key!r} is text, not {_short(row, key)}"
    if row.get("split") not in SPLITS:
        return f"'split' is {' or '.join(SPLITS)}, not {_short(row, 'split')}"
    if not isinstance(row.get("benign"), bool):
        return f"'benign' is true or false, not {_short(row, 'benign')}"
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return "'messages' is a list of turns"
    if not all(map(_is_turn, messages)):
        return f"a turn of 'messages' has a 'role' ({', '.join(ROLES)}) and 'parts', each of which has a 'text' or an 'image'"
    return "" if any(turn["role"] == "user" for turn in messages) else "'messages' has no turn of the user's"


def _short(row: dict[str, Any], key: str) -> str:
    return repr(row[key])[:40] if key in row else "missing"


def _is_turn(form: Any) -> bool:
    if not isinstance(form, dict) or form.get("role") not in ROLES or not isinstance(form.get("parts"), list):
        return False
    return all(
        isinstance(part, dict) and isinstance(part.get("text", part.get("image")), str) for part in form["parts"]
    )


def read_chat(messages: list[dict[str, Any]], pictures: PictureStore) -> Chat:
    """The chat of a row. Raises ``InputError`` when a picture is gone from the store or is another one."""
    return Chat(
        tuple(
            Message(message["role"], tuple(_part(part, pictures) for part in message["parts"])) for message in messages
        )
    )


def _part(form: dict[str, str], pictures: PictureStore) -> Part:
    return Text(form["text"]) if "text" in form else pictures.get(form["image"])


def conversation(asked: Chat, said: str) -> dict[str, Any]:
    """What a rewriter is asked and what it is to say, as TRL's ``prompt`` and ``completion``; pictures are places only."""
    return {
        "prompt": [{"role": message.role, "content": _contents(message)} for message in asked.messages],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": said}]}],
    }


def _contents(message: Message) -> list[dict[str, str]]:
    return [
        {"type": "image", "text": ""} if isinstance(part, Image) else {"type": "text", "text": part.text}
        for part in message.parts
        if isinstance(part, Image | Text)
    ]


def training_rows(folder: Path, rewriter_input: Callable[[Chat], Chat]) -> Iterator[dict[str, Any]]:
    """TRL's ``prompt``/``completion``/``images`` rows of a dataset, pictures as bytes.

    ``rewriter_input`` turns a chat into the rewriter's input: the very function that serving uses.
    """
    pictures = PictureStore(folder / PICTURES)
    for row in read_rows(rows_file(folder)):
        chat = rewriter_input(read_chat(row["messages"], pictures))
        yield {
            "id": row["id"],
            "split": row["split"],
            **conversation(chat, row["trace"]),
            "images": [{"bytes": image.data, "path": None} for image in chat.images],
        }
