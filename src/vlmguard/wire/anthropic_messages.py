"""Anthropic messages (``POST /v1/messages``).

Results of tools stand inside the user's messages there; in the chat they are turns of the tool's, in their order. So are
documents and search results, which are data and not the user's wish; they come after the words they were sent with.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import Chat, Image, Message, Opaque, Part, Reason, Role, Text
from vlmguard.wire import members
from vlmguard.wire.answers import error_type, event, to_bytes
from vlmguard.wire.content import (
    opaque,
    read_content,
    read_fields,
    read_name,
    read_remote_tools,
    read_string,
    read_tools,
)
from vlmguard.wire.json_text import Place, quote, read_object
from vlmguard.wire.members import Kind, Members, each, has_own_prompt
from vlmguard.wire.openai_chat import beside
from vlmguard.wire.pictures import read_base64, read_url
from vlmguard.wire.request import Request, Shapes, Turn, make_request, string_opening
from vlmguard.wire.request import splice as splice_request

_REMOTE = {"mcp_servers": "remote tools", "container": "stored container"}
"""Members that name what stands on servers, and what it is."""
_BODY = members.body(
    {
        **dict.fromkeys(("messages", "system", "output_config", *_REMOTE), Kind.READ),
        "output_format": Kind.READ,
    }
)
_MESSAGE = Members({**each(Kind.READ, "role content"), "id": Kind.ID, **each(Kind.NAMES, "type usage stop_reason")})
_BLOCKS = {
    "text": each(Kind.READ, "text"),
    "image": each(Kind.READ, "source"),
    "document": each(Kind.READ, "source title context"),
    "search_result": each(Kind.READ, "source title content"),
    "tool_use": {**each(Kind.READ, "input name"), **each(Kind.ID, "id"), "caller": Kind.NAMES},
    "tool_result": {**each(Kind.READ, "content"), "tool_use_id": Kind.ID},
}
_ANY = {"type": Kind.READ, "cache_control": Kind.NAMES}
_BLOCK = {kind: Members({**_ANY, "citations": Kind.NAMES, **own}) for kind, own in _BLOCKS.items()}
_OTHER_BLOCK = Members({**_ANY, **{key: kind for own in _BLOCKS.values() for key, kind in own.items()}})
"""Of a kind that is not read: its members count for their spelling only."""
_SOURCES = {"base64": "data", "text": "data", "url": "url", "file": "file_id", "content": "content"}
"""Kinds of source, and where their content stands."""
_SOURCE = Members({**dict.fromkeys(("type", *_SOURCES.values()), Kind.READ), "media_type": Kind.NAMES})
_ADDRESS = re.compile(r"[!-~]{0,200}\Z")
"""Where a search result comes from: an address, a name, and no words."""
_LOCAL_TOOLS = ("custom", "function", "bash_", "text_editor_", "computer_", "memory_", "tool_search_")
"""How the types begin of tools that the client calls, or that bring nothing in."""
_ROLES: tuple[Role, ...] = ("user", "assistant", "system")
_DATA = ("document", "search_result")


def read(body: bytes) -> Request:
    """Raises ``WireError``, which names the place by its JSON pointer."""
    rows: list[Part] = []
    value = read_fields(read_object(body), "", _BODY, rows)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError("/messages is a list of at least one message")
    opening = () if has_own_prompt(rows, value) else (string_opening(value, "system"),)
    rows += (Opaque(kind, f"/{key}", Reason.REMOTE_STATE) for key, kind in _REMOTE.items() if value.get(key))
    rows += read_remote_tools(value.get("tools"), _LOCAL_TOOLS)
    turns = [*beside(rows), *_read_system(value)]
    for number, message in enumerate(messages):
        turns += _read_message(message, f"/messages/{number}")
    return make_request(body, value, turns, opening, read_tools(value, "output_config", "output_format"))


def _read_system(value: dict[str, Any]) -> Iterator[Turn]:
    if value.get("system") is not None:
        parts, _ = read_content(value, "system", "", _read_block)
        yield Turn(Message("system", tuple(parts)))


def _read_message(value: object, path: str) -> Iterable[Turn]:
    rows: list[Part] = []
    message = read_fields(value, path, _MESSAGE, rows)
    role = next((known for known in _ROLES if message.get("role") == known), None)
    if role is None:
        raise WireError(f"{path}/role is one of {', '.join(_ROLES)}, not {str(message.get('role'))[:40]!r}")
    content = message.get("content")
    if role == "user" and isinstance(content, list):
        return (*beside(rows), *_read_user_turns(content, f"{path}/content"))
    read = _read_said_block if role == "assistant" else _read_block
    parts, words = read_content(message, "content", path, read)
    return (Turn(Message(role, (*parts, *rows)), words),)


def _read_user_turns(blocks: list[object], path: str) -> Iterator[Turn]:
    """The user's words between results of tools, each run a turn; documents and search results behind their run."""
    run: list[Part] = []
    data: list[Turn] = []
    end = Place("first", path)
    for number, value in enumerate(blocks):
        pointer = f"{path}/{number}"
        block = _require_block(value, pointer)
        if block.get("type") == "tool_result":
            yield from _user_turns(run, data, end)
            run, data = [], []
            rows: list[Part] = []
            read_fields(block, pointer, _BLOCK["tool_result"], rows)
            parts, words = read_content(block, "content", pointer, _read_block)
            yield Turn(Message("tool", (*parts, *rows)), words)
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
    block = _require_block(value, path)
    if block.get("type") == "tool_use" and isinstance(block.get("input"), dict):
        rows: list[Part] = []
        read_fields(block, path, _BLOCK["tool_use"], rows)
        return (Text(quote(block["input"]), f"{path}/input"), *read_name(block, path), *rows)
    return _read_block(block, path)


def _require_block(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WireError(f"{path} is an object")
    return value


def _read_block(value: object, path: str) -> Iterable[Part]:
    block = _require_block(value, path)
    kind = block.get("type")
    rows: list[Part] = []
    read_fields(block, path, _BLOCK.get(kind, _OTHER_BLOCK) if isinstance(kind, str) else _OTHER_BLOCK, rows)
    match kind:
        case "text":
            return (read_string(block, "text", path), *rows)
        case "image":
            return (*_read_image(block, path), *rows)
        case "document":
            return (*_read_document(block, path), *rows)
        case "search_result":
            parts, _ = read_content(block, "content", path, _read_block)
            return (*parts, *_read_labels(block, path), *rows)
        case _:
            return (opaque(kind, path),)


def _read_source(block: dict[str, Any], path: str, rows: list[Part]) -> tuple[object, dict[str, Any], str]:
    """The kind of a block's source, the source, and where it stands. Raises ``WireError`` when it says two things."""
    pointer = f"{path}/source"
    source = read_fields(block.get("source"), pointer, _SOURCE, rows)
    kind = source.get("type")
    own = _SOURCES.get(kind) if isinstance(kind, str) else None
    more = [key for key in dict.fromkeys(_SOURCES.values()) if key != own and source.get(key) is not None]
    if own is not None and more:
        raise WireError(f"{pointer} is of type {kind!r} and holds {' and '.join(more)}: send one block for each")
    return kind, source, pointer


def _read_image(block: dict[str, Any], path: str) -> Iterable[Part]:
    rows: list[Part] = []
    kind, source, pointer = _read_source(block, path, rows)
    match kind:
        case "base64":
            part = read_base64(read_string(source, "data", pointer).text, pointer)
        case "url":
            part = read_url(read_string(source, "url", pointer).text, pointer)
        case "file":
            part = opaque("file id", pointer)
        case _:
            part = opaque("unknown image", pointer)
    return (part, *rows)


def _read_document(block: dict[str, Any], path: str) -> Iterable[Part]:
    rows: list[Part] = []
    kind, source, pointer = _read_source(block, path, rows)
    match kind:
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
    return (*parts, *_read_labels(block, path), *rows)


def _read_labels(block: dict[str, Any], path: str) -> Iterator[Text]:
    """What a document or a search result says about itself; where it comes from, when that is no address."""
    for key in ("title", "context"):
        if block.get(key) is not None:
            yield read_string(block, key, path)
    if block.get("type") == "search_result" and block.get("source") is not None:
        source = read_string(block, "source", path)
        if not _ADDRESS.match(source.text):
            yield source


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
