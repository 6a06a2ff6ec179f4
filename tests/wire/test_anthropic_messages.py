from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.conftest import Draw
from tests.wire.bodies import TINY
from vlmguard.errors import WireError
from vlmguard.images import read_image
from vlmguard.types import Chat, Message, Opaque, Reason, Text
from vlmguard.wire.anthropic_messages import blocked, blocked_stream, error, read, splice

PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": TINY.partition(",")[2]}}


def body(*messages: Any, **members: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": messages, **members}).encode()


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str, **members: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **members}


def said(chat: Chat) -> list[tuple[str, list[str]]]:
    return [(message.role, [_word(part) for part in message.parts]) for message in chat.messages]


def _word(part: object) -> str:
    match part:
        case Text(words):
            return words
        case Opaque(kind):
            return f"<{kind}>"
        case _:
            return "IMAGE"


def test_servers_that_are_asked_behind_our_back_are_named() -> None:
    members = {"mcp_servers": [{"type": "url", "url": "https://a.example"}], "container": "c_1"}
    request = read(body(user(text("hi")), **members))
    assert said(request.chat) == [("user", ["<remote tools>", "<stored container>"]), ("user", ["hi"])]
    assert len(read(body(user(text("hi")), mcp_servers=[], container=None)).chat.messages) == 1


def test_a_conversation_with_a_tool_is_split_into_its_speakers() -> None:
    request = read(
        body(
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    text("I look."),
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"at": "Köln"}},
                    {"type": "tool_use", "id": "2", "name": "f", "input": {}},
                ],
            },
            user(
                {"type": "tool_result", "tool_use_id": "1", "content": "sunny"},
                {"type": "tool_result", "tool_use_id": "2", "content": [text("map"), PIXEL], "is_error": False},
                text("and tomorrow?"),
                PIXEL,
            ),
            system=[text("rules", cache_control={"type": "ephemeral"})],
        )
    )
    assert said(request.chat) == [
        ("system", ["rules"]),
        ("user", ["weather?"]),
        ("assistant", ["<thinking>", "I look.", '{"at":"Köln"}', "{}"]),
        ("tool", ["sunny"]),
        ("tool", ["map", "IMAGE"]),
        ("user", ["and tomorrow?", "IMAGE"]),
    ]
    assert [part.path for part in request.chat.messages[4].parts] == [
        "/messages/2/content/1/content/0/text",
        "/messages/2/content/1/content/1/source",
    ]


def test_words_and_results_keep_their_order() -> None:
    request = read(body(user(text("a"), {"type": "tool_result", "tool_use_id": "1", "content": "b"}, text("c"))))
    assert said(request.chat) == [("user", ["a"]), ("tool", ["b"]), ("user", ["c"])]


def test_documents_and_search_results_are_data_behind_the_users_words() -> None:
    documents = [
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d1"}, "title": "t1"},
        {"type": "document", "source": {"type": "content", "content": [text("d2"), PIXEL]}, "context": "c2"},
        {"type": "document", "source": {"type": "content", "content": "d3"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
        {"type": "document", "source": {"type": "url", "url": "https://a.example/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
        {"type": "search_result", "source": "https://a.example", "title": "t7", "content": [text("s7")]},
    ]
    assert said(read(body(user(*documents, text("sum up")))).chat) == [
        ("user", ["sum up"]),
        ("tool", ["d1", "t1"]),
        ("tool", ["d2", "IMAGE", "c2"]),
        ("tool", ["d3"]),
        ("tool", ["<document>"]),
        ("tool", ["<remote document>"]),
        ("tool", ["<file id>"]),
        ("tool", ["s7", "t7"]),
    ]
    assert said(read(body(user(documents[0]))).chat) == [("user", ["d1", "t1"])]
    inside = {"type": "tool_result", "tool_use_id": "1", "content": [documents[0], documents[6]]}
    assert said(read(body(user(inside))).chat) == [("tool", ["d1", "t1", "s7", "t7"])]


def test_pictures_that_are_not_there_are_named() -> None:
    request = read(
        body(
            user(
                {"type": "image", "source": {"type": "url", "url": "https://a.example/x"}},
                {"type": "image", "source": {"type": "file", "file_id": "f"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                {"type": "image", "source": {"type": "novel"}},
                {"type": "container_upload", "file_id": "f"},
            )
        )
    )
    assert said(request.chat) == [
        ("user", ["<remote image>", "<file id>", "<damaged image>", "<unknown image>", "<container upload>"])
    ]
    assert [remote.url for remote in request.remote] == ["https://a.example/x"]


def test_a_fetched_picture_is_sent_as_it_was_judged(draw: Draw) -> None:
    block = {"type": "image", "source": {"type": "url", "url": "https://a.example/x"}, "cache_control": None}
    request = read(body(user(block)))
    image = read_image(draw("hello", kind="JPEG"))
    fetched = request.with_image(request.remote[0].path, image)
    (sent,) = json.loads(splice(fetched, fetched.chat))["messages"][0]["content"]
    data = base64.b64encode(image.data).decode()
    assert sent == {**block, "source": {"type": "base64", "media_type": "image/jpeg", "data": data}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"system":"rules",', b'"system":"be safe\\n\\nrules",'),
        (b'"system":[],', b'"system":[{"type":"text","text":"be safe"}],'),
        (
            b'"system":[{"type":"text","text":"r"}],',
            b'"system":[{"type":"text","text":"be safe"},{"type":"text","text":"r"}],',
        ),
    ],
)
def test_a_safety_prompt_goes_into_the_system_member(before: bytes, after: bytes) -> None:
    form = b'{%s"messages":[{"role":"user","content":"hi"}]}'
    request = read(form % before)
    assert splice(request, Chat((Message("system", (Text("be safe"),)), *request.chat.messages))) == form % after
    request = read(form % b"")
    assert splice(request, Chat((Message("system", (Text("be safe"),)), *request.chat.messages))) == (
        form % b'"system":"be safe",'
    )


def test_words_are_added_where_a_turn_ends() -> None:
    result = {"type": "tool_result", "tool_use_id": "1"}
    request = read(body(user(PIXEL, {**result, "content": [PIXEL]}, {**result, "content": []}, result, PIXEL)))
    assert [message.role for message in request.chat.messages] == ["user", "tool", "tool", "tool", "user"]
    chat = request.chat
    for turn in range(5):
        chat = chat.with_prompt(turn, f"words {turn}")
    (message,) = json.loads(splice(request, chat))["messages"]
    assert message["content"] == [
        PIXEL,
        text("words 0"),
        {**result, "content": [PIXEL, text("words 1")]},
        {**result, "content": [text("words 2")]},
        {**result, "content": "words 3"},
        PIXEL,
        text("words 4"),
    ]


def test_no_text_is_left_empty_since_the_upstream_refuses_that() -> None:
    request = read(body(user(text("a"), text("b"))))
    (message,) = json.loads(splice(request, request.chat.with_prompt(0, "new")))["messages"]
    assert message["content"] == [text("new"), text("…")]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b'{"messages":[]}', "/messages is"),
        (b'{"messages":[{"role":"tool","content":"x"}]}', "/messages/0/role"),
        (b'{"messages":[{"role":"user","content":3}]}', "/messages/0/content"),
        (b'{"messages":[{"role":"user","content":["x"]}]}', "/messages/0/content/0 is an object"),
        (b'{"messages":[{"role":"user","content":[{"type":"text"}]}]}', "/messages/0/content/0/text"),
        (b'{"messages":[{"role":"user","content":[{"type":"image"}]}]}', "/messages/0/content/0/source is an object"),
        (b'{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url"}}]}]}', "0/source/url"),
        (
            b'{"messages":[{"role":"user","content":[{"type":"tool_result","content":3}]}]}',
            "/messages/0/content/0/content",
        ),
        (
            b'{"messages":[{"role":"user","content":[{"type":"document","title":3,"source":{}}]}]}',
            "/messages/0/content/0/title",
        ),
        (b'{"messages":[{"role":"user","content":"x"}],"system":3}', "/system"),
        (b'{"messages":[{"role":"user","content":"x"}],"System":"y"}', "write 'system'"),
    ],
)
def test_a_wrong_shape_is_refused_and_named(written: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read(written)


def test_a_blocked_request_ends_in_a_refusal() -> None:
    request = read(body({"role": "user", "content": "x"}))
    answer = json.loads(blocked(request, "Not this.", "7"))
    assert (answer["id"], answer["stop_reason"], answer["content"]) == ("msg_7", "refusal", [text("Not this.")])
    names = [
        line[7:] for line in blocked_stream(request, "Not this.", "7").decode().split("\n") if line[:6] == "event:"
    ]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_an_error_has_the_dialects_shape() -> None:
    assert json.loads(error(429, "slower", "rate")) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "slower", "code": "rate"},
    }


def test_what_nobody_can_read_is_opaque() -> None:
    request = read(body(user({"type": "novel_block", "x": 1})))
    assert request.chat.messages[0].parts == (Opaque("novel block", "/messages/0/content/0", Reason.OPAQUE),)
