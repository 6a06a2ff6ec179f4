"""Definitions of tools and of answers' shapes, in every dialect: read, at their places, and never written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vlmguard.errors import WireError
from vlmguard.types import Message, Text
from vlmguard.wire import DIALECTS

SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris"], "description": "Where."}}}
OPENAI = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}
SHAPE = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"description": "One word."}}}
CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    (
        "openai-chat",
        {"messages": [{"role": "user", "content": "hi"}], "tools": [OPENAI], "response_format": SHAPE},
        ["/tools/0", "/response_format"],
    ),
    ("openai-chat", {"messages": [{"role": "user", "content": "hi"}], "functions": [OPENAI]}, ["/functions/0"]),
    ("openai-completions", {"prompt": "hi", "guided_json": SCHEMA}, ["/guided_json"]),
    (
        "openai-responses",
        {"input": "hi", "tools": [{"type": "function", "name": "weather", "description": "Tells it."}, OPENAI]},
        ["/tools/0", "/tools/1"],
    ),
    (
        "openai-responses",
        {
            "input": [
                {"type": "mcp_list_tools", "tools": [{"name": "weather", "description": "Tells it."}]},
                {"role": "user", "content": "hi"},
            ],
            "text": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
        ["/text", "/input/0/tools/0"],
    ),
    (
        "anthropic-messages",
        {
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}],
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
        ["/tools/0", "/output_config"],
    ),
]


@pytest.mark.parametrize(("name", "value", "places"), CASES)
def test_every_definition_is_read_with_all_its_words(name: str, value: dict[str, Any], places: list[str]) -> None:
    request = DIALECTS[name].read(json.dumps(value).encode())
    assert [tool.path for tool in request.chat.tools] == places
    for tool in request.chat.tools:
        place: Any = value
        for step in tool.path.split("/")[1:]:
            place = place[int(step)] if isinstance(place, list) else place[step]
        assert tool.text.split("\n") == json.dumps(place).split('"')[1::2]


@pytest.mark.parametrize(("name", "value", "places"), CASES)
def test_a_change_elsewhere_leaves_them_alone(name: str, value: dict[str, Any], places: list[str]) -> None:
    body = json.dumps(value).encode()
    request = DIALECTS[name].read(body)
    turn = request.chat.last_user_turn
    after = request.chat.with_prompt(turn, "bye")
    assert after.tools == request.chat.tools
    assert DIALECTS[name].splice(request, after) == body.replace(b'"hi"', b'"bye"')
    assert DIALECTS[name].splice(request, request.chat) is body


@pytest.mark.parametrize("tools", [None, "x", 7, True, {}, [], {"a": 1}, [None, 7, [[]]]])
def test_whatever_stands_there_breaks_nothing(tools: object) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "tools": tools}).encode()
    assert DIALECTS["openai-chat"].read(body).chat.messages == (Message("user", (Text("hi", "/messages/0/content"),)),)


def test_another_spelling_of_the_member_is_refused() -> None:
    for name, value, _ in CASES:
        key = next(key for key in value if key not in ("messages", "input", "prompt"))
        with pytest.raises(WireError, match=f"write '{key}'"):
            DIALECTS[name].read(json.dumps({**value, key.upper(): []}).encode())
