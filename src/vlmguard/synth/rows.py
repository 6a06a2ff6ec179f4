"""One row of the raw material: a chat, a safe and an unsafe answer to it, and where they come from.

The two answers exist only at synthesis time (VLMGuard-R1, stage 1): nothing that a rewriter is trained to say may speak of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from vlmguard.dataset import read_chat
from vlmguard.errors import InputError
from vlmguard.images import read_image
from vlmguard.pictures import PictureStore
from vlmguard.types import ROLES, Chat, Image, Message, Opaque, Part, Text


@dataclass(frozen=True, slots=True)
class Row:
    """A source's row, whatever the source."""

    id: str
    """Unique in a run and the same in every run: the source's name and its own id."""
    chat: Chat
    benign: bool
    """Whether the request is harmless, so that its trace is to end in ``<forward/>``."""
    licence: str
    origin: str
    """The source and the place in it, for provenance: ``vlguard:Ads_423222``."""
    safe: str | None = None
    """An answer that is safe and useful; ``None`` = to be sampled from the teacher."""
    unsafe: str | None = None
    """An answer that does harm; ``None`` = to be sampled from a target. A benign row needs neither."""
    category: str | None = None
    """What the source calls the harm, in its own word; the policy maps it."""

    def __post_init__(self) -> None:
        if not self.id:
            raise InputError("a row needs an id")
        for name in ("id", "licence", "origin", "safe", "unsafe", "category"):
            _require_text(name, getattr(self, name))
        if self.chat.last_user_turn != len(self.chat.messages) - 1:
            raise InputError("a row ends with the user's turn: that is the one to be rewritten")

    def without_images(self) -> Row:
        """The text-only ablation: the same words, no picture."""
        messages = tuple(
            Message(message.role, tuple(part for part in message.parts if not isinstance(part, Image)))
            for message in self.chat.messages
        )
        return replace(self, chat=Chat(messages))


def _require_text(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InputError(f"{name} is a string, not {value!r:.60}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"{name} holds a lone surrogate: send valid Unicode text")


def to_json(row: Row, pictures: PictureStore) -> dict[str, Any]:
    """The row with its pictures by hash; their bytes go into ``pictures``."""
    return {
        "id": row.id,
        "messages": [
            {"role": message.role, "parts": [_part_form(part, pictures) for part in message.parts]}
            for message in row.chat.messages
        ],
        "benign": row.benign,
        "safe": row.safe,
        "unsafe": row.unsafe,
        "category": row.category,
        "licence": row.licence,
        "origin": row.origin,
    }


def from_json(form: dict[str, Any], pictures: PictureStore) -> Row:
    """The inverse of ``to_json``. Raises ``InputError`` when a picture is gone from the store."""
    return Row(
        id=form["id"],
        chat=read_chat(form["messages"], pictures),
        benign=form["benign"],
        licence=form["licence"],
        origin=form["origin"],
        safe=form["safe"],
        unsafe=form["unsafe"],
        category=form["category"],
    )


def _part_form(part: Part, pictures: PictureStore) -> dict[str, str]:
    match part:
        case Text():
            return {"text": part.text}
        case Image():
            return {"image": pictures.put(part)}
        case Opaque():
            raise InputError(f"a {part.kind} cannot be part of the raw material: the teacher could not read it")


def image_from_bytes(data: bytes, name: str) -> Image:
    """A checked picture of a source. Raises ``ImageError``."""
    return read_image(data, name)


def simple_chat(prompt: str, images: tuple[Image, ...]) -> Chat:
    """One user turn: the pictures, then the words."""
    return Chat((Message("user", (*images, Text(prompt))),))


def chat_from_messages(messages: Any, images: tuple[Image, ...]) -> Chat:
    """A chat of ``[{"role", "content"}]`` with plain text contents; the pictures go into the last user turn.

    Raises ``InputError`` for another shape.
    """
    if not isinstance(messages, list) or not messages:
        raise InputError("messages is a list of {role, content}")
    turns: list[Message] = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise InputError(f"a message has a role of {', '.join(ROLES)} and a content")
        if not isinstance(message.get("content"), str):
            raise InputError("a message's content is a string here; pictures stand in the row's images")
        turns.append(Message(message["role"], (Text(message["content"]),)))
    last = Chat(tuple(turns)).last_user_turn
    turns[last] = Message("user", (*images, *turns[last].parts))
    return Chat(tuple(turns))


def text_key(row: Row) -> str:
    """Digest of the words alone, case and space aside: the group of a row without a picture."""
    words = " ".join(message.text for message in row.chat.messages).casefold().split()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()
