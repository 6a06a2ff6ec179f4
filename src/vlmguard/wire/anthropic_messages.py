"""Anthropic messages (``POST /v1/messages``).

Results of tools stand inside the user's messages there; in the chat they are turns of the tool's, in their order. So are
documents and search results, which are data and not the user's wish; they come after the words they were sent with.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import Chat, Image, Message, Opaque, Part, Reason, Role, Text
from vlmguard.wire.answers import error_type, event, to_bytes
from vlmguard.wire.content import opaque, read_choice, read_content, read_definitions, read_fields, read_string
from vlmguard.wire.json_text import Place, quote, read_object
from vlmguard.wire.pictures import read_base64, read_url
from vlmguard.wire.request import Request, Shapes, Turn, make_request, string_opening
from vlmguard.wire.request import splice as splice_request

_REMOTE = {"mcp_servers": "remote tools", "container": "stored container"}
"""Members that name what stands on servers, and what it is."""
_DEFINITIONS = ("tools", "output_config", "output_format")
_BODY = frozenset({"messages", "system", "model", "stream", "tool_choice", *_REMOTE, *_DEFINITIONS})
_MESSAGE = frozenset({"role", "content"})
_BLOCK = frozenset({"type", "text", "source", "content", "title", "context", "input"})
_SOURCE = frozenset({"type", "media_type", "data", "url", "file_id", "content"})
_ROLES: tuple[Role, ...] = ("user", "assistant", "system")
_DATA = ("document", "search_result")


def read(body: bytes) -> Request:
    """Raises ``WireError``, which names the place by its JSON pointer."""
    value = read_fields(read_object(body), "", _BODY)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError("/messages is a list of at least one message")
    turns = [*_read_remote_state(value), *_read_system(value)]
    for number, message in enumerate(messages):
        turns += _read_message(message, f"/messages/{number}")
    tools = (*read_definitions(value, _DEFINITIONS), *read_choice(value, "tool_choice"))
    return make_request(body, value, turns, (string_opening(value, "system"),), tools)


def _read_remote_state(value: dict[str, Any]) -> Iterator[Turn]:
    """What reaches the model from a server and never comes by here: a turn of its own."""
    if parts := tuple(Opaque(kind, f"/{key}", Reason.REMOTE_STATE) for key, kind in _REMOTE.items() if value.get(key)):
        yield Turn(Message("user", parts))


def _read_system(value: dict[str, Any]) -> Iterator[Turn]:
    if value.get("system") is not None:
        parts, _ = read_content(value, "system", "", _read_block)
        yield Turn(Message("system", tuple(parts)))


def _read_message(value: object, path: str) -> Iterable[Turn]:
    message = read_fields(value, path, _MESSAGE)
    role = next((known for known in _ROLES if message.get("role") == known), None)
    if role is None:
        raise WireError(f"{path}/role is one of {', '.join(_ROLES)}, not {str(message.get('role'))[:40]!r}")
    content = message.get("content")
    if role == "user" and isinstance(content, list):
        return _read_user_turns(content, f"{path}/content")
    read = _read_said_block if role == "assistant" else _read_block
    parts, words = read_content(message, "content", path, read)
    return (Turn(Message(role, tuple(parts)), words),)


def _read_user_turns(blocks: list[object], path: str) -> Iterator[Turn]:
    """The user's words between results of tools, each run a turn; documents and search results behind their run."""
    run: list[Part] = []
    data: list[Turn] = []
    end = Place("first", path)
    for number, value in enumerate(blocks):
        pointer = f"{path}/{number}"
        block = read_fields(value, pointer, _BLOCK)
        if block.get("type") == "tool_result":
            yield from _user_turns(run, data, end)
            run, data = [], []
            parts, words = read_content(block, "content", pointer, _read_block)
            yield Turn(Message("tool", tuple(parts)), words)
        elif block.get("type") in _DATA:
            data.append(Turn(Message("tool", tuple(_read_block(block, pointer)))))
        else:
            run += _read_block(block, pointer)
            end = Place("after", pointer)
    yield from _user_turns(run, data, end)


def _user_turns(run: list[Part], data: list[Turn], end: Place) -> Iterator[Turn]:
    if run:
        yield Turn(Message("user", tuple(run)), end)
        yield from data
    else:  # documents alone are what the user says
        yield from (Turn(Message("user", turn.message.parts)) for turn in data)


def _read_said_block(value: object, path: str) -> Iterable[Part]:
    """A block of the model's own: what it asked of a tool is read as words."""
    block = read_fields(value, path, _BLOCK)
    if block.get("type") == "tool_use" and isinstance(block.get("input"), dict):
        return (Text(quote(block["input"]), f"{path}/input"),)
    return _read_block(block, path)


def _read_block(value: object, path: str) -> Iterable[Part]:
    block = read_fields(value, path, _BLOCK)
    match block.get("type"):
        case "text":
            return (read_string(block, "text", path),)
        case "image":
            return (_read_image(block, path),)
        case "document":
            return _read_document(block, path)
        case "search_result":
            parts, _ = read_content(block, "content", path, _read_block)
            return (*parts, *_read_labels(block, path))
        case kind:
            return (opaque(kind, path),)


def _read_source(block: dict[str, Any], path: str) -> dict[str, Any]:
    return read_fields(block.get("source"), f"{path}/source", _SOURCE)


def _read_image(block: dict[str, Any], path: str) -> Part:
    source = _read_source(block, path)
    pointer = f"{path}/source"
    match source.get("type"):
        case "base64":
            return read_base64(read_string(source, "data", pointer).text, pointer)
        case "url":
            return read_url(read_string(source, "url", pointer).text, pointer)
        case "file":
            return opaque("file id", pointer)
        case _:
            return opaque("unknown image", pointer)


def _read_document(block: dict[str, Any], path: str) -> Iterable[Part]:
    source = _read_source(block, path)
    pointer = f"{path}/source"
    match source.get("type"):
        case "text":
            parts: list[Part] = [read_string(source, "data", pointer)]
        case "content":
            parts, _ = read_content(source, "content", pointer, _read_block)
        case "url":
            parts = [opaque("remote document", pointer)]
        case "file":
            parts = [opaque("file id", pointer)]
        case _:
            parts = [opaque("document", pointer)]
    return (*parts, *_read_labels(block, path))


def _read_labels(block: dict[str, Any], path: str) -> Iterator[Text]:
    """What a document or a search result says about itself."""
    for key in ("title", "context"):
        if block.get(key) is not None:
            yield read_string(block, key, path)


# ---------------------------------------------------------------------------------------------------------------------
# Back


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _image(image: Image) -> dict[str, str]:
    return {"type": "base64", "media_type": image.media_type, "data": base64.b64encode(image.data).decode()}


_SHAPES = Shapes(_part, _image, lambda text, _: _part(text), nothing="…")  # empty blocks are an error there


def splice(request: Request, after: Chat) -> bytes:
    """The request that says what ``after`` says; see ``request.splice``."""
    return splice_request(request, after, _SHAPES)


def blocked(request: Request, notice: str, id: str) -> bytes:
    """A message that says ``notice`` and ended in a refusal."""
    return to_bytes({**_message(request, id), "content": [_part(notice)], "stop_reason": "refusal"})


def blocked_stream(request: Request, notice: str, id: str) -> bytes:
    """The same as server-sent events."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": _message(request, id)},
        {"type": "content_block_start", "index": 0, "content_block": _part("")},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": notice}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "refusal", "stop_sequence": None},
            "usage": {"output_tokens": 0},
        },
        {"type": "message_stop"},
    ]
    return b"".join(event(value, value["type"]) for value in events)


def _message(request: Request, id: str) -> dict[str, Any]:
    return {
        "id": f"msg_{id}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def error(status: int, message: str, kind: str = "") -> bytes:
    """An error object. ``kind`` is our own word for what happened, for programs."""
    return to_bytes({"type": "error", "error": {"type": error_type(status), "message": message, "code": kind or None}})
