from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Draw
from vlmguard.errors import WireError
from vlmguard.types import Chat, Image, Message, Opaque, Reason, Text
from vlmguard.wire.openai_chat import read, splice

unknown = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=30)),
    st.just({"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "low"}}),
    st.just({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
    st.builds(lambda more: {"type": "novel", "x": more}, unknown),
)
contents = st.one_of(st.none(), st.text(max_size=40), st.lists(parts, max_size=4))
messages = st.builds(
    lambda role, content, more: {"x": more, "role": role, "content": content},
    st.sampled_from(["system", "user", "assistant", "tool", "developer", "function"]),
    contents,
    unknown,
)
bodies = st.builds(
    lambda some, more, indent, ascii_only: json.dumps(
        {"model": "m", "zz": more, "messages": some, "temperature": 1.5}, indent=indent, ensure_ascii=ascii_only
    ).encode(),
    st.lists(messages, min_size=1, max_size=4),
    unknown,
    st.sampled_from([None, 2]),
    st.booleans(),
)


@given(bodies)
def test_an_unchanged_request_is_the_clients_very_bytes(body: bytes) -> None:
    request = read(body)
    assert splice(request, request.chat) is body


@given(bodies, st.data(), st.text(max_size=30))
def test_one_changed_text_changes_that_string_and_no_other_byte(body: bytes, data: st.DataObject, new: str) -> None:
    request = read(body)
    turns = [
        turn for turn, message in enumerate(request.chat.messages) if any(isinstance(p, Text) for p in message.parts)
    ]
    if not turns:
        return
    turn = data.draw(st.sampled_from(turns))
    after = request.chat.with_prompt(turn, new)
    written = splice(request, after)
    assert read(written).chat == after
    old_value, new_value = json.loads(body), json.loads(written)
    for part, changed in zip(request.chat.messages[turn].parts, after.messages[turn].parts, strict=True):
        if isinstance(part, Text) and isinstance(changed, Text):
            assert _set(old_value, part.path, changed.text) == part.text
    assert old_value == new_value


def _set(value: Any, pointer: str, new: str) -> Any:
    *way, last = [int(key) if key.isdigit() else key for key in pointer.split("/")[1:]]
    for key in way:
        value = value[key]
    old, value[last] = value[last], new
    return old


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_wire_error(body: bytes) -> None:
    with pytest.raises(WireError):
        read(body)


@given(bodies, st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_damaged_request_is_a_request_or_a_wire_error(body: bytes, at: int, junk: bytes) -> None:
    try:
        request = read(body[: at % len(body)] + junk + body[at % len(body) + 1 :])
    except WireError:
        return
    assert splice(request, request.chat) is request.body


def test_numbers_spaces_and_escapes_keep_their_spelling() -> None:
    body = b'{ "n":1.50, "big":123456789012345678901234567890,\n "messages" : [ {"role":"user","content":"\\u0061b"} ] , "t": 1e-07}'
    request = read(body)
    assert splice(request, request.chat.with_prompt(0, "new")) == body.replace(b'"\\u0061b"', b'"new"')


def test_a_safety_prompt_goes_before_all_messages() -> None:
    request = read(b'{"messages":[{"role":"user","content":"hi"}],"n":1.0}')
    after = Chat((Message("system", (Text("be safe"),)), *request.chat.messages))
    assert splice(request, after) == (
        b'{"messages":[{"role": "system", "content": "be safe"},{"role":"user","content":"hi"}],"n":1.0}'
    )


def test_a_turn_of_pictures_alone_is_given_words() -> None:
    request = read(
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a.example/"}}]}]}'
    )
    written = splice(request, request.chat.with_prompt(0, "what is it?"))
    assert json.loads(written)["messages"][0]["content"][1] == {"type": "text", "text": "what is it?"}


def test_every_place_where_content_can_stand_is_read(draw: Draw) -> None:
    data = draw("hello")
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    body = json.dumps(
        {
            "messages": [
                {"role": "system", "content": "rules"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "look"},
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                        {"type": "file", "file": {"file_id": "f"}},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": [{"type": "text", "text": "result"}]},
            ]
        }
    ).encode()
    system, user, assistant, tool = read(body).chat.messages
    assert system.text == "rules"
    image = user.parts[1]
    assert isinstance(image, Image)
    assert image.data == data
    assert image.path == "/messages/1/content/1/image_url/url"
    assert user.parts[2] == Opaque("damaged image", "/messages/1/content/2/image_url/url", Reason.UNREADABLE)
    assert user.parts[3] == Opaque("file", "/messages/1/content/3", Reason.OPAQUE)
    assert assistant.parts == ()
    assert (tool.role, tool.text) == ("tool", "result")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"messages":[{"role":"user","content":"a","content":"b"}]}', "stands twice"),
        (b'{"messages":[{"role":"user","content":"a"}],"x":{"y":[{"z":1,"z":2}]}}', "stands twice"),
        (b'{"messages":[{"role":"user","content":"\xff"}]}', "not UTF-8"),
        (b'\xef\xbb\xbf{"messages":[]}', "byte order mark"),
        (b'{"messages":[{"role":"user","content":"a"}],"x":NaN}', "NaN"),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "lone surrogate"),
        (b'{"messages":[]}{}', "not JSON"),
        (b"[" * 100 + b"]" * 100, "nested deeper"),
        (b"[]", "not a JSON object"),
        (b'{"messages":[]}', "/messages"),
        (b'{"messages":[3]}', "/messages/0"),
        (b'{"messages":[{"role":"root","content":"x"}]}', "/messages/0/role"),
        (b'{"messages":[{"role":"user","content":3}]}', "/messages/0/content"),
        (b'{"messages":[{"role":"user","content":[{"type":"text"}]}]}', "/messages/0/content/0/text"),
        (b'{"messages":[{"role":"user","content":"x"}],"stream":"yes"}', "/stream"),
    ],
)
def test_what_two_readers_might_read_differently_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read(body)
