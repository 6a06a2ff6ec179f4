"""OpenAI chat completions (``POST /v1/chat/completions``)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import JUDGED_ROLES, ROLES, Chat, Message, Opaque, Part, Reason, Role
from vlmguard.wire import members
from vlmguard.wire.answers import DONE, event, to_bytes
from vlmguard.wire.content import (
    opaque,
    read_content,
    read_definitions,
    read_fields,
    read_name,
    read_remote_tools,
    read_string,
    read_tools,
)
from vlmguard.wire.json_text import Place, read_object
from vlmguard.wire.members import Kind, Members, each, has_own_prompt
from vlmguard.wire.openai_parts import error, read_part, write_image
from vlmguard.wire.request import Request, Shapes, Turn, make_request
from vlmguard.wire.request import splice as splice_request

__all__ = ["blocked", "blocked_stream", "error", "read", "splice"]

_REASONING = ("reasoning_content", "reasoning")
LOCAL_TOOLS = ("function", "custom")
"""How the types begin of tools that the client calls."""
_BODY = members.body({"messages": Kind.READ})
_MESSAGE = Members(
    {
        **each(Kind.READ, "role name content refusal tool_calls function_call audio tools reasoning_content reasoning"),
        "tool_call_id": Kind.ID,
        "cache_control": Kind.NAMES,
    }
)
_CALL = Members({**each(Kind.READ, "function custom"), "id": Kind.ID, "type": Kind.NAMES, "index": Kind.NAMES})
_FUNCTION = Members({**each(Kind.READ, "name arguments"), "input": Kind.OPAQUE})
_CUSTOM = Members({**each(Kind.READ, "name input"), "arguments": Kind.OPAQUE})


def read(body: bytes) -> Request:
    """Raises ``WireError``, which names the place by its JSON pointer."""
    rows: list[Part] = []
    value = read_fields(read_object(body), "", _BODY, rows)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError("/messages is a list of at least one message")
    turns = [_read_turn(message, f"/messages/{number}") for number, message in enumerate(messages)]
    opening = () if has_own_prompt(rows, value) else (_opening(messages[0]),)
    rows += read_remote_tools(value.get("tools"), LOCAL_TOOLS)
    tools = [*read_tools(value)]
    for number, message in enumerate(messages):  # vLLM takes tools from a developer's turn
        if "tools" in message:
            tools += read_definitions(message, ("tools",), f"/messages/{number}")
    return make_request(body, value, [*beside(rows), *turns], opening, tuple(tools))


def beside(rows: list[Part]) -> Iterator[Turn]:
    """What a body holds beside its messages: a turn of its own, which nobody can read."""
    if rows:
        yield Turn(Message("user", tuple(rows)))


def _read_turn(value: object, path: str) -> Turn:
    rows: list[Part] = []
    message = read_fields(value, path, _MESSAGE, rows)
    role = _read_role(message.get("role"), path)
    parts, words = read_content(message, "content", path, read_part)
    parts += read_name(message, path, spoken=role in JUDGED_ROLES)
    parts += _read_more(message, path)
    return Turn(Message(role, (*parts, *rows)), words)


def _read_role(role: object, path: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    if role == "function":
        return "tool"
    raise WireError(f"{path}/role is one of {', '.join(ROLES)}, not {str(role)[:40]!r}")


def _read_more(message: dict[str, Any], path: str) -> Iterator[Part]:
    """What a message says beside its content: its reasoning, a refusal, calls of tools, spoken words."""
    for key in _REASONING:
        if isinstance(message.get(key), str):
            yield read_string(message, key, path)
        elif message.get(key) is not None:
            yield opaque("reasoning", f"{path}/{key}")
    if message.get("refusal") is not None:
        yield read_string(message, "refusal", path)
    if message.get("audio") is not None:
        yield Opaque("audio", f"{path}/audio", Reason.OPAQUE)
    if message.get("function_call") is not None:
        yield from _read_call(message["function_call"], "arguments", f"{path}/function_call", _FUNCTION)
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        raise WireError(f"{path}/tool_calls is a list")
    for number, value in enumerate(calls or ()):
        pointer = f"{path}/tool_calls/{number}"
        rows: list[Part] = []
        call = read_fields(value, pointer, _CALL, rows)
        yield from rows
        for member, key, known in (("function", "arguments", _FUNCTION), ("custom", "input", _CUSTOM)):
            if call.get(member) is not None:
                yield from _read_call(call[member], key, f"{pointer}/{member}", known)


def _read_call(value: object, key: str, path: str, known: Members) -> Iterator[Part]:
    rows: list[Part] = []
    call = read_fields(value, path, known, rows)
    yield from rows
    yield from read_name(call, path)
    if isinstance(call.get(key), str):
        yield read_string(call, key, path)
    elif call.get(key) is not None:
        yield opaque("tool call", f"{path}/{key}")


def _opening(first: dict[str, Any]) -> Place:
    """Before what the operator's own first message says: many templates and models take one system message only."""
    if first.get("role") in ("system", "developer"):
        if isinstance(first.get("content"), str):
            return Place("prefix", "/messages/0/content")
        if isinstance(first.get("content"), list):
            return Place("first", "/messages/0/content")
    return Place("first", "/messages")


# ---------------------------------------------------------------------------------------------------------------------
# Back


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _system(text: str, pointer: str) -> dict[str, str]:
    return {"role": "system", "content": text} if pointer == "/messages" else _part(text)


_SHAPES = Shapes(_part, write_image, _system)


def splice(request: Request, after: Chat) -> bytes:
    """The request that says what ``after`` says; see ``request.splice``."""
    return splice_request(request, after, _SHAPES)


def blocked(request: Request, notice: str, id: str) -> bytes:
    """A completion that says ``notice`` and was ended by a content filter."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": notice, "refusal": None},
        "logprobs": None,
        "finish_reason": "content_filter",
    }
    return to_bytes({**_head(request, id, "chat.completion"), "choices": [choice], "usage": NO_USAGE})


def blocked_stream(request: Request, notice: str, id: str) -> bytes:
    """The same as server-sent events."""
    head = _head(request, id, "chat.completion.chunk")
    deltas = [({"role": "assistant", "content": ""}, None), ({"content": notice}, None), ({}, "content_filter")]
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    if wants_usage(request):
        chunks.append({**head, "choices": [], "usage": NO_USAGE})
    return b"".join(map(event, chunks)) + DONE


def _head(request: Request, id: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{id}", "object": kind, "created": int(time.time()), "model": request.model}


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def wants_usage(request: Request) -> bool:
    """Whether the client asked for a last chunk with token counts: others may stumble over it."""
    options = json.loads(request.body).get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
