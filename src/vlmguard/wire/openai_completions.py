"""OpenAI completions (``POST /v1/completions``): prompts without roles, each a turn of the user's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import Chat, Message, Part, Text
from vlmguard.wire import members
from vlmguard.wire.answers import DONE, event, to_bytes
from vlmguard.wire.content import opaque, read_fields, read_remote_tools, read_string, read_tools
from vlmguard.wire.json_text import Place, read_object
from vlmguard.wire.members import BESIDE, Kind, each, has_own_prompt
from vlmguard.wire.openai_chat import LOCAL_TOOLS, NO_USAGE, beside, wants_usage
from vlmguard.wire.openai_parts import error, write_image
from vlmguard.wire.request import Request, Shapes, Turn, make_request
from vlmguard.wire.request import splice as splice_request

__all__ = ["blocked", "blocked_stream", "error", "read", "splice"]

_MOST_CHOICES = 128
"""Of a prompt: the most that servers take."""
_BODY = members.body(each(Kind.READ, "prompt suffix"))


def read(body: bytes) -> Request:
    """Raises ``WireError``, which names the place by its JSON pointer."""
    rows: list[Part] = []
    value = read_fields(read_object(body), "", _BODY, rows)
    rows += read_remote_tools(value.get("tools"), LOCAL_TOOLS)
    prompts = list(_read_prompts(value.get("prompt")))
    if not prompts and not any(BESIDE.get(row.path[1:]) is Kind.PROMPT for row in rows):
        raise WireError("/prompt is a string, a list of strings, or a list of tokens")
    if prompts and value.get("suffix") is not None:
        prompts[-1].append(read_string(value, "suffix", ""))
    turns = [*beside(rows), *(Turn(Message("user", tuple(parts))) for parts in prompts)]
    places = [Place("prefix", parts[0].path) for parts in prompts if isinstance(parts[0], Text)]
    # One prompt that no words can be put before leaves the whole request without a place for them.
    opening = tuple(places) if len(places) == len(prompts) and not has_own_prompt(rows, value) else ()
    return make_request(body, value, turns, opening, read_tools(value))


def _read_prompts(value: object) -> Iterator[list[Part]]:
    match value:
        case str(text):
            yield [Text(text, "/prompt")]
        case [int(), *_] as tokens:
            _require_tokens(tokens, "/prompt")
            yield [opaque("tokens", "/prompt")]
        case list(prompts):
            for number, prompt in enumerate(prompts):
                yield [_read_prompt(prompt, f"/prompt/{number}")]
        case None:
            return
        case _:
            raise WireError("/prompt is a string, a list of strings, or a list of tokens")


def _read_prompt(value: object, path: str) -> Part:
    if isinstance(value, str):
        return Text(value, path)
    _require_tokens(value, path)
    return opaque("tokens", path)


def _require_tokens(value: object, path: str) -> None:
    if not isinstance(value, list) or set(map(type, value)) != {int}:
        raise WireError(f"{path} is a string or a list of tokens")


# ---------------------------------------------------------------------------------------------------------------------
# Back

_SHAPES = Shapes(lambda text: text, write_image, lambda text, _: text)


def splice(request: Request, after: Chat) -> bytes:
    """The request that says what ``after`` says; see ``request.splice``. A safety prompt goes before every prompt."""
    return splice_request(request, after, _SHAPES)


def blocked(request: Request, notice: str, id: str) -> bytes:
    """A completion of every prompt that says ``notice`` and was ended by a content filter."""
    return to_bytes({**_head(request, id), "choices": _choices(request, notice), "usage": NO_USAGE})


def blocked_stream(request: Request, notice: str, id: str) -> bytes:
    """The same as server-sent events."""
    chunks = [{**_head(request, id), "choices": [choice]} for choice in _choices(request, notice)]
    if wants_usage(request):
        chunks.append({**_head(request, id), "choices": [], "usage": NO_USAGE})
    return b"".join(map(event, chunks)) + DONE


def _head(request: Request, id: str) -> dict[str, Any]:
    return {"id": f"cmpl-{id}", "object": "text_completion", "created": int(time.time()), "model": request.model}


def _choices(request: Request, notice: str) -> list[dict[str, Any]]:
    """``n`` for every prompt, as a server answers; no more than clients can have meant."""
    value = json.loads(request.body)
    count, prompts = value.get("n"), sum(1 for _ in _read_prompts(value.get("prompt")))
    each_prompt = min(max(count, 1), _MOST_CHOICES) if type(count) is int else 1
    return [
        {"index": index, "text": notice, "logprobs": None, "finish_reason": "content_filter"}
        for index in range(max(prompts, 1) * each_prompt)
    ]
