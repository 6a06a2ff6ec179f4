from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.bodies import TINY
from vlmguard.errors import WireError
from vlmguard.types import Chat, Message, Opaque, Reason, Text
from vlmguard.wire.openai_responses import blocked, blocked_stream, read, splice


def body(input: Any, **members: Any) -> bytes:
    return json.dumps({"model": "m", "input": input, **members}).encode()


def test_a_string_is_what_the_user_says() -> None:
    request = read(b'{"model": "m", "input": "hi", "instructions": "rules", "temperature": 1.50}')
    assert request.chat == Chat(
        (Message("system", (Text("rules", "/instructions"),)), Message("user", (Text("hi", "/input"),)))
    )
    assert splice(request, request.chat.with_prompt(1, "new")) == (
        b'{"model": "m", "input": "new", "instructions": "rules", "temperature": 1.50}'
    )


def test_tools_that_the_server_calls_by_itself_are_named() -> None:
    tools = [
        {"type": "function", "name": "f"},
        {"type": "mcp", "server_url": "https://a.example"},
        {"type": "file_search"},
    ]
    assert read(body("hi", tools=tools)).chat.messages[0].parts == (
        Opaque("mcp tool", "/tools/1", Reason.REMOTE_STATE),
        Opaque("file search tool", "/tools/2", Reason.REMOTE_STATE),
    )
    assert len(read(body("hi", tools=tools[:1])).chat.messages) == 1


def test_every_kind_of_item_is_read() -> None:
    request = read(
        body(
            [
                {"role": "developer", "content": "rules"},
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "look"},
                        {"type": "input_image", "image_url": TINY, "detail": "auto"},
                        {"type": "input_image", "image_url": "https://a.example/x", "detail": "auto"},
                        {"type": "input_image", "file_id": "f", "detail": "auto"},
                        {"type": "input_file", "file_id": "f"},
                        {"type": "input_file", "file_url": "https://a.example/a.pdf"},
                    ],
                },
                {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "sunny"},
                {
                    "type": "function_call_output",
                    "call_id": "2",
                    "output": [{"type": "input_image", "image_url": TINY}],
                },
                {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": TINY}},
                {
                    "type": "shell_call_output",
                    "output": [{"stdout": "out", "stderr": "err", "outcome": {"type": "exit"}}],
                },
                {"type": "mcp_call", "name": "f", "arguments": "{}", "output": "found", "server_label": "s"},
                {"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": "log"}]},
                {"type": "file_search_call", "queries": ["q"], "results": [{"file_id": "f", "text": "passage"}]},
                {"type": "image_generation_call", "result": TINY.partition(",")[2]},
                {"type": "web_search_call", "id": "ws", "status": "completed"},
                {"type": "mcp_list_tools", "tools": []},
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "ok"}, {"type": "refusal", "refusal": "no"}],
                },
                {"id": "msg_1"},
                {"type": "novel_item", "content": "x"},
                {"type": "novel_call_output", "output": {"x": 1}},
            ]
        )
    )
    said = [(message.role, [_word(part) for part in message.parts]) for message in request.chat.messages]
    assert said == [
        ("developer", ["rules"]),
        ("user", ["look", "IMAGE", "<remote image>", "<file id>", "<file id>", "<file>"]),
        ("assistant", ["<reasoning>"]),
        ("assistant", ["{}"]),
        ("tool", ["sunny"]),
        ("tool", ["IMAGE"]),
        ("tool", ["IMAGE"]),
        ("tool", ["out", "err"]),
        ("assistant", ["{}"]),
        ("tool", ["found"]),
        ("assistant", ["1"]),
        ("tool", ["log"]),
        ("assistant", ["<queries>"]),
        ("tool", ["passage"]),
        ("assistant", ["IMAGE"]),
        ("assistant", ["<web search call>"]),
        ("developer", ["<mcp list tools>"]),
        ("assistant", ["ok", "no"]),
        ("user", ["<item reference>"]),
        ("user", ["<novel item>"]),
        ("tool", ["<tool output>"]),
    ]
    assert request.chat.messages[18].parts == (Opaque("item reference", "/input/15", Reason.REMOTE_STATE),)


def _word(part: object) -> str:
    match part:
        case Text(text):
            return text
        case Opaque(kind):
            return f"<{kind}>"
        case _:
            return "IMAGE"


def test_what_stands_on_the_server_is_named() -> None:
    request = read(
        body(
            [{"type": "function_call_output", "call_id": "1", "output": "sunny"}],
            previous_response_id="resp_1",
            conversation={"id": "conv_1"},
            prompt={"id": "pmpt_1", "variables": {"a.b": "x", "picture": {"type": "input_image", "image_url": TINY}}},
        )
    )
    stored, word, picture, tool = request.chat.messages
    assert stored == Message(
        "user",
        (
            Opaque("earlier response", "/previous_response_id", Reason.REMOTE_STATE),
            Opaque("stored conversation", "/conversation", Reason.REMOTE_STATE),
            Opaque("stored prompt", "/prompt", Reason.REMOTE_STATE),
        ),
    )
    assert word.parts == (Text("x", "/prompt/variables/a.b"),)
    assert len(picture.images) == 1
    assert tool.text == "sunny"
    new = splice(request, request.chat.with_prompt(1, "y"))
    assert json.loads(new)["prompt"]["variables"]["a.b"] == "y"


def test_a_stored_prompt_needs_no_input() -> None:
    assert len(read(b'{"prompt":{"id":"p"}}').chat.messages) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"instructions":"rules",', b'"instructions":"be safe\\n\\nrules",'),
        (b'"instructions":null,', b'"instructions":"be safe",'),
    ],
)
def test_a_safety_prompt_goes_into_the_instructions(before: bytes, after: bytes) -> None:
    form = b'{%s"input":"hi"}'
    request = read(form % before)
    safe = Chat((Message("system", (Text("be safe"),)), *request.chat.messages))
    assert splice(request, safe) == form % after
    request = read(b'{"input":"hi"}')
    safe = Chat((Message("system", (Text("be safe"),)), *request.chat.messages))
    assert splice(request, safe) == b'{"instructions":"be safe","input":"hi"}'


def test_a_turn_of_pictures_alone_is_given_words() -> None:
    request = read(body([{"role": "user", "content": [{"type": "input_image", "image_url": TINY}]}]))
    (item,) = json.loads(splice(request, request.chat.with_prompt(0, "what is it?")))["input"]
    assert item["content"][1] == {"type": "input_text", "text": "what is it?"}


def test_a_screenshot_has_no_place_for_words() -> None:
    output = {"type": "computer_screenshot", "image_url": TINY}
    request = read(body([{"role": "user", "content": "x"}, {"type": "computer_call_output", "output": output}]))
    with pytest.raises(WireError, match="/input/1/output/image_url cannot be given words"):
        splice(request, request.chat.with_prompt(1, "new"))


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"{}", "/input is"),
        (b'{"input":[]}', "/input is"),
        (b'{"input":3}', "/input is"),
        (b'{"Input":"x"}', "write 'input'"),
        (b'{"input":["x"]}', "/input/0 is an object"),
        (b'{"input":[{}]}', "/input/0 is an item with a type or a role"),
        (b'{"input":[{"type":3}]}', "/input/0 is an item with a type or a role"),
        (b'{"input":[{"role":"root","content":"x"}]}', "/input/0/role"),
        (b'{"input":[{"type":"function_call_output","output":3}]}', "/input/0/output"),
        (b'{"input":[{"type":"shell_call_output","output":[{"stdout":3}]}]}', "/input/0/output/0/stdout"),
        (b'{"input":"x","instructions":3}', "/instructions"),
        (b'{"input":"x","prompt":"p"}', "/prompt is an object"),
        (b'{"input":"x","prompt":{"id":"p","variables":[]}}', "/prompt/variables"),
        (
            b'{"input":[{"role":"user","content":[{"type":"input_image","file_id":"f","image_url":"u"}]}]}',
            "one part for each",
        ),
    ],
)
def test_a_wrong_shape_is_refused_and_named(written: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read(written)


def test_a_blocked_request_gets_an_incomplete_response() -> None:
    answer = json.loads(blocked(read(body("x")), "Not this.", "7"))
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert answer["output"][0]["content"][0]["text"] == "Not this."
    assert answer["id"] == "resp_7"


def test_a_blocked_stream_numbers_its_events() -> None:
    blocks = blocked_stream(read(body("x", stream=True)), "Not this.", "7").decode().removesuffix("\n\n").split("\n\n")
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Not this."
