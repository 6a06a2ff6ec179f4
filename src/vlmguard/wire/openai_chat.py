"""OpenAI chat completions: request bytes → ``Chat``, and a changed chat back into the same bytes."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vlmguard.errors import ImageError, WireError
from vlmguard.images import read_image
from vlmguard.types import ROLES, Chat, Message, Opaque, Part, Reason, Role, Text
from vlmguard.wire.json_text import quote, read_object, require_unicode, spans

_DATA_URL = re.compile(r"data:[^,;]*(?:;[^,;]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came, and what it says."""

    body: bytes = field(repr=False)
    chat: Chat
    """Every part carries the JSON pointer at which it stands in ``body``."""
    model: str
    stream: bool


def read(body: bytes) -> Request:
    """Raises ``WireError``, which names the place by its JSON pointer."""
    value = read_object(body)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError("/messages is a list of at least one message")
    chat = Chat(tuple(_message(message, f"/messages/{number}") for number, message in enumerate(messages)))
    model, stream = value.get("model", ""), value.get("stream") or False
    if not isinstance(model, str):
        raise WireError("/model is a string")
    if not isinstance(stream, bool):
        raise WireError("/stream is true or false")
    return Request(body, chat, model, stream)


def _message(message: object, path: str) -> Message:
    if not isinstance(message, dict):
        raise WireError(f"{path} is an object")
    role = message.get("role")
    known: Role | None = "tool" if role == "function" else role if role in ROLES else None
    if known is None:
        raise WireError(f"{path}/role is one of {', '.join(ROLES)}, not {str(role)[:40]!r}")
    content = message.get("content")
    if content is None:
        return Message(known, ())
    if isinstance(content, str):
        return Message(known, (Text(require_unicode(content, f"{path}/content"), f"{path}/content"),))
    if not isinstance(content, list):
        raise WireError(f"{path}/content is a string or a list of parts")
    return Message(known, tuple(_part(part, f"{path}/content/{number}") for number, part in enumerate(content)))


def _part(part: object, path: str) -> Part:
    if not isinstance(part, dict):
        raise WireError(f"{path} is an object")
    kind = part.get("type")
    match kind:
        case "text":
            text = part.get("text")
            if not isinstance(text, str):
                raise WireError(f"{path}/text is a string")
            return Text(require_unicode(text, f"{path}/text"), f"{path}/text")
        case "image_url":
            address = part.get("image_url")
            url = address.get("url") if isinstance(address, dict) else address
            if not isinstance(url, str):
                raise WireError(f"{path}/image_url/url is a string")
            return _picture(url, f"{path}/image_url/url" if isinstance(address, dict) else f"{path}/image_url")
        case "input_audio":
            return Opaque("audio", path, Reason.OPAQUE)
        case _:
            return Opaque(str(kind)[:40] if isinstance(kind, str) else "unknown part", path, Reason.OPAQUE)


def _picture(url: str, path: str) -> Part:
    if url[:5].lower() != "data:":
        return Opaque("remote image", path, Reason.OPAQUE)
    head = _DATA_URL.match(url[:200])
    if head is None:
        return Opaque("damaged image", path, Reason.UNREADABLE)
    try:
        return read_image(base64.b64decode(url[head.end() :], validate=True), path)
    except (ImageError, binascii.Error, ValueError):
        return Opaque("damaged image", path, Reason.UNREADABLE)


# ---------------------------------------------------------------------------------------------------------------------
# Back


def splice(request: Request, after: Chat) -> bytes:
    """The request that says what ``after`` says. Unchanged: the client's very bytes. Else only the changed strings differ.

    ``after`` may have a system turn put before all others, and a text part put at the end of a turn that had none.
    """
    if after is request.chat or after == request.chat:
        return request.body
    added = len(after.messages) - len(request.chat.messages)
    if added not in (0, 1):
        raise ValueError("a changed chat has the turns of the request, and at most a system turn before them")
    kept = after.messages[added:]
    replacements = dict(_replaced(request.chat.messages, kept))
    insertions = dict(_inserted(kept, json.loads(request.body)))
    text = request.body.decode()
    places = spans(text, {*replacements, *insertions, "/messages"})
    edits = [(*places[pointer], quote(new)) for pointer, new in replacements.items()]
    for pointer, new in insertions.items():
        start, end = places[pointer]
        edits.append((start, end, new) if text[start] != "[" else (end - 1, end - 1, _comma(text, start, end) + new))
    if added:
        start = places["/messages"][0] + 1
        edits.append(
            (
                start,
                start,
                json.dumps({"role": "system", "content": after.messages[0].text}, ensure_ascii=False) + ",",
            )
        )
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text.encode()


def _replaced(before: tuple[Message, ...], after: tuple[Message, ...]) -> Iterator[tuple[str, str]]:
    for old, new in zip(before, after, strict=True):
        for old_part, new_part in zip(old.parts, new.parts, strict=False):
            if isinstance(new_part, Text) and new_part != old_part:
                yield new_part.path, new_part.text


def _inserted(after: tuple[Message, ...], value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Content for turns that were given a text part: (pointer of the content, JSON to put there)."""
    for number, message in enumerate(after):
        last = message.parts[-1] if message.parts else None
        if isinstance(last, Text) and not last.path:
            if "content" not in value["messages"][number]:
                raise ValueError("a turn without content cannot be given text")
            part = json.dumps({"type": "text", "text": last.text}, ensure_ascii=False)
            content = value["messages"][number]["content"]
            yield f"/messages/{number}/content", part if isinstance(content, list) else quote(last.text)


def _comma(text: str, start: int, end: int) -> str:
    return "" if not text[start + 1 : end - 1].strip() else ","
