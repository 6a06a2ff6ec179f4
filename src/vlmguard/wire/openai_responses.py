"""OpenAI responses (``POST /v1/responses``)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import ROLES, Chat, Message, Opaque, Part, Reason, Role, Text
from vlmguard.wire import members
from vlmguard.wire.answers import event, to_bytes
from vlmguard.wire.content import (
    is_name,
    opaque,
    read_content,
    read_definitions,
    read_fields,
    read_name,
    read_remote_tools,
    read_string,
    read_tools,
)
from vlmguard.wire.json_text import read_object
from vlmguard.wire.members import Kind, Members, each, has_own_prompt
from vlmguard.wire.openai_chat import beside
from vlmguard.wire.openai_parts import error, read_part, write_image
from vlmguard.wire.pictures import read_base64
from vlmguard.wire.request import Request, Shapes, Turn, make_request, string_opening
from vlmguard.wire.request import splice as splice_request

__all__ = ["blocked", "blocked_stream", "error", "read", "splice"]

_REMOTE_STATE = {
    "previous_response_id": "earlier response",
    "conversation": "stored conversation",
    "prompt": "stored prompt",
}
"""Members that name what stands on the server, and what it is."""
_BODY = members.body(
    {
        **dict.fromkeys(("input", "instructions", "text", *_REMOTE_STATE), Kind.READ),
        **each(Kind.NAMES, "include truncation background max_output_tokens max_tool_calls"),
    }
)
_PROMPT = Members({"id": Kind.READ, "variables": Kind.READ, "version": Kind.NAMES})
_MESSAGE = Members({**each(Kind.READ, "type role content"), "id": Kind.ID, **each(Kind.NAMES, "status phase")})
_CALL = {
    **each(Kind.READ, "type name arguments input code result summary content"),
    **each(Kind.ID, "id call_id container_id approval_request_id"),
    **each(Kind.NAMES, "status namespace server_label size quality background output_format"),
}
_OUTPUT_ITEM = Members({**each(Kind.READ, "type output name"), **each(Kind.ID, "id call_id"), "status": Kind.NAMES})
_OUTPUT = Members(
    {
        **each(Kind.READ, "type text logs stdout stderr output filename"),
        "file_id": Kind.ID,
        **each(Kind.NAMES, "score attributes outcome"),
    }
)
_STREAMS = ("text", "logs", "stdout", "stderr", "output")
_OF_THE_MODEL = frozenset(
    {
        "reasoning",
        "compaction",
        "function_call",
        "custom_tool_call",
        "tool_search_call",
        "computer_call",
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "mcp_call",
        "mcp_approval_request",
    }
)
"""Items that the model made and the client sends back."""
_OF_THE_OPERATOR = frozenset(
    {"mcp_list_tools", "additional_tools", "tool_search_output", "configuration_update", "compaction_trigger"}
)
"""Items that set tools and options."""
_RESULTS = {"mcp_call": "output", "file_search_call": "results", "code_interpreter_call": "outputs"}
"""Items in which a call and what the tool answered stand together, and where the answer stands."""

_CALLS = {kind: Members({**_CALL, _RESULTS[kind]: Kind.READ} if kind in _RESULTS else _CALL) for kind in _OF_THE_MODEL}
_LOCAL_TOOLS = (
    *("function", "custom", "computer", "local_shell", "shell", "apply_patch", "namespace", "tool_search"),
    "image_generation",
)
"""How the types begin of tools that the client calls, or that bring nothing in."""


def read(body: bytes) -> Request:
    """Raises ``WireError``, which names the place by its JSON pointer."""
    rows: list[Part] = []
    value = read_fields(read_object(body), "", _BODY, rows)
    opening = () if has_own_prompt(rows, value) else (string_opening(value, "instructions"),)
    variables = list(_read_variables(value, rows))
    rows += _read_remote_state(value)
    turns = [*beside(rows), *_read_instructions(value), *variables, *_read_input(value)]
    return make_request(
        body, value, turns, opening, (*read_tools(value, "text"), *_read_items_tools(value.get("input")))
    )


def _read_items_tools(items: object) -> Iterator[Text]:
    """Tools that an item defines: those that a server listed, among them."""
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") in _OF_THE_OPERATOR:
            yield from read_definitions(item, ("tools",), f"/input/{number}")


def _read_remote_state(value: dict[str, Any]) -> Iterator[Opaque]:
    """What stands on the server and reaches the model from there: nobody can read it."""
    for key, kind in _REMOTE_STATE.items():
        if value.get(key) is not None:
            yield Opaque(kind, f"/{key}", Reason.REMOTE_STATE)
    yield from read_remote_tools(value.get("tools"), _LOCAL_TOOLS)
    for number, tool in enumerate(value["tools"] if isinstance(value.get("tools"), list) else ()):
        if isinstance(tool, dict) and tool.get("type") == "shell" and not _is_local(tool.get("environment")):
            yield Opaque("shell tool", f"/tools/{number}", Reason.REMOTE_STATE)


def _is_local(environment: object) -> bool:
    """Whether a shell is the client's own."""
    return environment is None or (isinstance(environment, dict) and environment.get("type") == "local")


def _read_instructions(value: dict[str, Any]) -> Iterator[Turn]:
    if value.get("instructions") is not None:
        parts, _ = read_content(value, "instructions", "", read_part)
        yield Turn(Message("system", tuple(parts)))


def _read_variables(value: dict[str, Any], rows: list[Part]) -> Iterator[Turn]:
    """What the client fills into a stored prompt, each in a turn of its own."""
    prompt = value.get("prompt")
    if prompt is None:
        return
    variables = read_fields(prompt, "/prompt", _PROMPT, rows).get("variables")
    if not isinstance(variables, dict | None):
        raise WireError("/prompt/variables is an object")
    for name, variable in (variables or {}).items():
        if not is_name(name):  # receipts hold it, and no words of the client's
            raise WireError("the name of a variable in /prompt/variables is up to 64 letters, digits and _ . -")
        yield Turn(Message("user", tuple(read_part(variable, f"/prompt/variables/{name}"))))


def _read_input(value: dict[str, Any]) -> Iterator[Turn]:
    match value.get("input"):
        case str(text):
            yield Turn(Message("user", (Text(text, "/input"),)))
        case list(items) if items:
            for number, item in enumerate(items):
                yield from _read_item(item, f"/input/{number}")
        case None if value.get("prompt") is not None or value.get("conversation") is not None:
            return
        case _:
            raise WireError("/input is a string or a list of at least one item")


def _read_item(value: object, path: str) -> Iterable[Turn]:
    if not isinstance(value, dict):
        raise WireError(f"{path} is an object")
    kind = value.get("type")
    rows: list[Part] = []
    if kind == "message" or (kind is None and "role" in value):
        item = read_fields(value, path, _MESSAGE, rows)
        parts, words = read_content(item, "content", path, read_part)
        return (Turn(Message(_read_role(item.get("role"), path), (*parts, *rows)), words),)
    if isinstance(kind, str) and kind in _OF_THE_MODEL:
        return _read_call(read_fields(value, path, _CALLS[kind], rows), kind, path, rows)
    item = read_fields(value, path, _OUTPUT_ITEM, rows)
    if kind == "item_reference" or (kind is None and "id" in item):
        return (Turn(Message("user", (Opaque("item reference", path, Reason.REMOTE_STATE),))),)
    if not isinstance(kind, str):
        raise WireError(f"{path} is an item with a type or a role")
    if kind in _OF_THE_OPERATOR:
        return (Turn(Message("developer", (opaque(kind, path),))),)
    if kind.endswith("_output"):
        return (_read_output(item, "output", path, (*read_name(item, path), *rows)),)
    return (Turn(Message("user", (opaque(kind, path),))),)


def _read_role(role: object, path: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise WireError(f"{path}/role is one of {', '.join(ROLES)}, not {str(role)[:40]!r}")


def _read_call(item: dict[str, Any], kind: str, path: str, rows: list[Part]) -> Iterator[Turn]:
    """A call that the model made; where it brings the tool's answer along, that is a turn of the tool's."""
    said: list[Part] = [*read_name(item, path)]
    for key in ("arguments", "input", "code"):
        if isinstance(item.get(key), str):
            said.append(read_string(item, key, path))
        elif item.get(key):
            said.append(opaque(kind, f"{path}/{key}"))
    for key in ("summary", "content"):  # of reasoning
        if isinstance(item.get(key), str | list):
            said += read_content(item, key, path, _read_thought)[0]
        elif item.get(key):
            said.append(opaque(kind, f"{path}/{key}"))
    if isinstance(item.get("result"), str):  # image_generation_call
        said.append(read_base64(item["result"], f"{path}/result"))
    elif item.get("result"):
        said.append(opaque(kind, f"{path}/result"))
    said += rows
    yield Turn(Message("assistant", tuple(said or (opaque(kind, path),))))
    if item.get(_RESULTS.get(kind, "")) is not None:
        yield _read_output(item, _RESULTS[kind], path)


def _read_thought(value: object, path: str) -> Iterable[Part]:
    if isinstance(value, dict) and value.get("type") in ("summary_text", "reasoning_text"):
        rows: list[Part] = []
        return (read_string(read_fields(value, path, _OUTPUT, rows), "text", path), *rows)
    return (opaque("reasoning", path),)


def _read_output(item: dict[str, Any], key: str, path: str, rows: Iterable[Part] = ()) -> Turn:
    """What a tool answered: a string, a list of parts, a screenshot, the streams of a shell."""
    if isinstance(item.get(key), dict):
        return Turn(Message("tool", (*_read_output_part(item[key], f"{path}/{key}"), *rows)))
    parts, words = read_content(item, key, path, _read_output_part)
    return Turn(Message("tool", (*parts, *rows)), words)


def _read_output_part(value: object, path: str) -> Iterable[Part]:
    if not isinstance(value, dict) or value.get("type") not in (None, "logs"):
        return read_part(value, path)
    parts: list[Part] = []
    rows: list[Part] = []
    streams = read_fields(value, path, _OUTPUT, rows)
    parts += (read_string(streams, key, path) for key in streams if key in _STREAMS and streams[key] is not None)
    parts += (*read_name(streams, path, key="filename"), *rows)
    return parts or (opaque("tool output", path),)


# ---------------------------------------------------------------------------------------------------------------------
# Back


def _part(text: str) -> dict[str, str]:
    return {"type": "input_text", "text": text}


_SHAPES = Shapes(_part, write_image, lambda text, _: _part(text))


def splice(request: Request, after: Chat) -> bytes:
    """The request that says what ``after`` says; see ``request.splice``."""
    return splice_request(request, after, _SHAPES)


def blocked(request: Request, notice: str, id: str) -> bytes:
    """A response that says ``notice`` and was left incomplete by a content filter."""
    return to_bytes(_response(request, id, "incomplete", [_message(id, notice, "completed")]))


def blocked_stream(request: Request, notice: str, id: str) -> bytes:
    """The same as server-sent events."""
    begun = _response(request, id, "in_progress", [])
    where = {"item_id": f"msg_{id}", "output_index": 0, "content_index": 0}
    said = _message(id, notice, "completed")
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": {**said, "content": [], "status": "in_progress"}}),
        ("response.content_part.added", {**where, "part": _output_text("")}),
        ("response.output_text.delta", {**where, "delta": notice, "logprobs": []}),
        ("response.output_text.done", {**where, "text": notice, "logprobs": []}),
        ("response.content_part.done", {**where, "part": _output_text(notice)}),
        ("response.output_item.done", {"output_index": 0, "item": said}),
        ("response.incomplete", {"response": _response(request, id, "incomplete", [said])}),
    ]
    return b"".join(
        event({"type": name, "sequence_number": number, **value}, name) for number, (name, value) in enumerate(events)
    )


def _message(id: str, text: str, status: str) -> dict[str, Any]:
    return {
        "id": f"msg_{id}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [_output_text(text)],
    }


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(request: Request, id: str, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    ended = status == "incomplete"
    return {
        "id": f"resp_{id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "content_filter"} if ended else None,
        "instructions": None,
        "metadata": {},
        "model": request.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": _NO_USAGE if ended else None,
    }


_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}
