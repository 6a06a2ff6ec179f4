"""A finished dataset as its readers see it: the rows of ``data.jsonl``, the pictures by their hashes, TRL's rows.

``vlmguard synth`` writes it, ``vlmguard train`` reads it: what both must know stands here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError
from vlmguard.jsonl import read_rows
from vlmguard.pictures import PictureStore
from vlmguard.types import Chat, Image, Message, Part, Text

ROWS = "data.jsonl"
PICTURES = "pictures"


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
