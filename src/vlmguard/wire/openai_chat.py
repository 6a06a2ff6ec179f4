"""OpenAI chat completions (``POST /v1/chat/completions``)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import ROLES, Chat, Message, Opaque, Part, Reason, Role
from vlmguard.wire.answers import DONE, event, to_bytes
from vlmguard.wire.content import (
    opaque,
    read_choice,
    read_content,
    read_definitions,
    read_fields,
    read_name,
    read_string,
)
from vlmguard.wire.json_text import Place, read_object
from vlmguard.wire.openai_parts import error, read_part, write_image
from vlmguard.wire.request import Request, Shapes, Turn, make_request
from vlmguard.wire.request import splice as splice_request

__all__ = ["blocked", "blocked_stream", "error", "read", "splice"]

BESIDE = (
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "prompt_embeds",
    "prompt_token_ids",
    "input_ids",
    "kv_transfer_params",
    "prediction",
)
"""Members with which servers (vLLM and its like, most of them) take content beside the messages."""
SHAPES = ("response_format", "structured_outputs", "guided_json")
"""Members with which a client asks for an answer of a shape."""
_DEFINITIONS = ("tools", "functions", *SHAPES)
_SWITCH = re.compile(r"[\w.-]{0,32}\Z")
"""What a template's option may say (``"high"``) without being content."""
_REASONING = ("reasoning_content", "reasoning")
_BODY = frozenset({"messages", "model", "stream", "tool_choice", *BESIDE, *_DEFINITIONS})
_MESSAGE = frozenset({"role", "name", "content", "refusal", "tool_calls", "function_call", "audio", *_REASONING})
_CALL = frozenset({"name", "function", "custom", "arguments", "input"})


def read(body: bytes) -> Request:
    """Raises ``WireError``, which names the place by its JSON pointer."""
    value = read_fields(read_object(body), "", _BODY)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError("/messages is a list of at least one message")
    turns = [_read_turn(message, f"/messages/{number}") for number, message in enumerate(messages)]
    tools = (*read_definitions(value, _DEFINITIONS), *read_choice(value, "tool_choice"))
    return make_request(body, value, [*read_beside(value), *turns], (_opening(messages[0]),), tools)


def read_beside(value: dict[str, Any]) -> Iterator[Turn]:
    """What reaches the model by another way than the messages: a turn of its own, which nobody can read."""
    if parts := tuple(
        opaque(key, f"/{key}") for key in BESIDE if value.get(key) and not _only_switches(key, value[key])
    ):
        yield Turn(Message("user", parts))


def _only_switches(key: str, value: object) -> bool:
    """Whether these are a template's options that can hold no content, such as ``{"enable_thinking": false}``."""
    if key != "chat_template_kwargs" or not isinstance(value, dict) or value.keys() & set(BESIDE):
        return False
    return all(
        _SWITCH.match(option) is not None if isinstance(option, str) else isinstance(option, bool | int | float | None)
        for option in value.values()
    )


def _read_turn(value: object, path: str) -> Turn:
    message = read_fields(value, path, _MESSAGE)
    parts, words = read_content(message, "content", path, read_part)
    parts += _read_more(message, path)
    return Turn(Message(_read_role(message.get("role"), path), tuple(parts)), words)


def _read_role(role: object, path: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    if role == "function":
        return "tool"
    raise WireError(f"{path}/role is one of {', '.join(ROLES)}, not {str(role)[:40]!r}")


def _read_more(message: dict[str, Any], path: str) -> Iterator[Part]:
    """What a message says beside its content: its reasoning, a refusal, calls of tools, spoken words, an odd name."""
    yield from read_name(message, path)
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
        yield from _read_call(message["function_call"], "arguments", f"{path}/function_call")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        raise WireError(f"{path}/tool_calls is a list")
    for number, value in enumerate(calls or ()):
        pointer = f"{path}/tool_calls/{number}"
        call = read_fields(value, pointer, _CALL)
        for member, key in (("function", "arguments"), ("custom", "input")):
            if call.get(member) is not None:
                yield from _read_call(call[member], key, f"{pointer}/{member}")


def _read_call(value: object, key: str, path: str) -> Iterator[Part]:
    call = read_fields(value, path, _CALL)
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
