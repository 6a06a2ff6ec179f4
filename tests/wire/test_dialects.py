"""What holds in every dialect, for every body."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.wire.bodies import TINY, VALUES, Doubled, bodies, dice, nearly, spell
from vlmguard.errors import WireError
from vlmguard.types import JUDGED_ROLES, Chat, Image, Message, Opaque, Text
from vlmguard.wire import DIALECTS, Request
from vlmguard.wire.json_text import spans, unescape
from vlmguard.wire.pictures import read_url

every_dialect = pytest.mark.parametrize("name", DIALECTS)


def at(value: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        value = value[int(step)] if isinstance(value, list) else value[unescape(step)]
    return value


def put(value: Any, pointer: str, new: Any) -> None:
    above, _, last = pointer.rpartition("/")
    holder = at(value, above)
    holder[int(last) if isinstance(holder, list) else unescape(last)] = new


def texts_of(request: Request) -> list[tuple[int, int]]:
    return [
        (turn, number)
        for turn, message in enumerate(request.chat.messages)
        for number, part in enumerate(message.parts)
        if isinstance(part, Text) and (message.role in JUDGED_ROLES or message.role == "system")
    ]


def with_part(chat: Chat, turn: int, number: int, new: Text | Image) -> Chat:
    parts = list(chat.messages[turn].parts)
    parts[number] = new
    messages = list(chat.messages)
    messages[turn] = Message(messages[turn].role, tuple(parts))
    return Chat(tuple(messages), chat.tools)


@every_dialect
@given(data=st.data())
def test_an_unchanged_request_is_the_clients_very_bytes(name: str, data: st.DataObject) -> None:
    body = data.draw(bodies(name))
    request = DIALECTS[name].read(body)
    same = Chat(tuple(Message(message.role, message.parts) for message in request.chat.messages))
    assert DIALECTS[name].splice(request, request.chat) is body
    assert DIALECTS[name].splice(request, same) is body


@every_dialect
@given(data=st.data())
def test_every_part_stands_where_its_path_says(name: str, data: st.DataObject) -> None:
    body = data.draw(bodies(name))
    value, paths = json.loads(body), []
    for message in DIALECTS[name].read(body).chat.messages:
        for part in message.parts:
            paths.append(part.path)
            found = at(value, part.path)
            if isinstance(part, Text):
                assert part.text == found or json.loads(part.text) == found
    assert len(set(paths)) == len(paths)


@every_dialect
@given(data=st.data(), new=st.text(min_size=1, max_size=20))
def test_one_changed_text_changes_that_string_and_no_other_byte(name: str, data: st.DataObject, new: str) -> None:
    body = data.draw(bodies(name))
    request = DIALECTS[name].read(body)
    places = texts_of(request)
    assume(places)
    turn, number = data.draw(st.sampled_from(places))
    old = request.chat.messages[turn].parts[number]
    assert isinstance(old, Text)
    if old.path.endswith(("/source", "/name")):
        new = f"what {new} says"  # a mere name or address would be no text there
    after = with_part(request.chat, turn, number, Text(new, old.path))
    written = DIALECTS[name].splice(request, after)
    start, end = spans(body, [old.path])[old.path]
    assert json.loads(body[start:end]) == old.text
    assert written[:start] == body[:start]
    assert written[len(written) - (len(body) - end) :] == body[end:]
    assert json.loads(written[start : len(written) - (len(body) - end)]) == new
    expected = json.loads(body)
    put(expected, old.path, new)
    assert json.loads(written) == expected
    assert DIALECTS[name].read(written).chat == after


@every_dialect
@given(data=st.data(), new=st.text(min_size=1, max_size=20))
def test_a_turn_says_what_the_guard_wrote(name: str, data: st.DataObject, new: str) -> None:
    request = DIALECTS[name].read(data.draw(bodies(name)))
    turns = [
        turn
        for turn, message in enumerate(request.chat.messages)
        if message.role in JUDGED_ROLES
        and (any(isinstance(part, Text) for part in message.parts) or request.words[turn] is not None)
    ]
    assume(turns)
    turn = data.draw(st.sampled_from(turns))
    after = request.chat.with_prompt(turn, new)
    again = DIALECTS[name].read(DIALECTS[name].splice(request, after)).chat
    said = [part.text for part in again.messages[turn].parts if isinstance(part, Text)]
    assert said[0] == new
    assert not any(said[1:]) or (name == "anthropic-messages" and set(said[1:]) <= {"…", ""})
    assert [m.text for m in again.messages[:turn]] == [m.text for m in after.messages[:turn]]
    assert [m.text for m in again.messages[turn + 1 :]] == [m.text for m in after.messages[turn + 1 :]]
    # Where they stand may be another place: words that are new come before a picture, or behind a tool's result.
    assert [image.sha256 for image in again.images] == [image.sha256 for image in after.images]


@every_dialect
@given(data=st.data())
def test_a_safety_prompt_comes_before_all_else(name: str, data: st.DataObject) -> None:
    body = data.draw(bodies(name))
    request = DIALECTS[name].read(body)
    after = Chat((Message("system", (Text("Be safe."),)), *request.chat.messages))
    if not request.opening:
        with pytest.raises(WireError, match="as text"):
            DIALECTS[name].splice(request, after)
        return
    written = DIALECTS[name].splice(request, after)
    again = DIALECTS[name].read(written).chat
    spoken = [part.text for message in again.messages for part in message.parts if isinstance(part, Text)]
    before = [part.text for message in request.chat.messages for part in message.parts if isinstance(part, Text)]
    assert any(text.startswith("Be safe.") for text in spoken)
    assert "".join(spoken).replace("Be safe.\n\n", "").replace("Be safe.", "") == "".join(before).replace(
        "Be safe.", ""
    )
    assert len(json.loads(written)) - len(json.loads(body)) in (0, 1)


@every_dialect
@given(data=st.data())
def test_a_fetched_picture_takes_the_place_of_its_address(name: str, data: st.DataObject) -> None:
    body = data.draw(bodies(name))
    request = DIALECTS[name].read(body)
    picture = read_url(TINY, "elsewhere")
    assert isinstance(picture, Image)
    opaque = {
        p.path for m in request.chat.messages for p in m.parts if isinstance(p, Opaque) and p.kind == "remote image"
    }
    assert {remote.path for remote in request.remote} == opaque
    fetched = request
    for remote in request.remote:
        assert remote.url.startswith("https://")
        fetched = fetched.with_image(remote.path, picture)
    assert not fetched.remote
    written = DIALECTS[name].splice(fetched, fetched.chat)
    assert (written is body) == (not request.remote)
    again = DIALECTS[name].read(written)
    assert again.chat == _without_members_of_sources(fetched.chat)
    assert not again.remote


def _without_members_of_sources(chat: Chat) -> Chat:
    """Without rows for what stands in a picture's source: that goes with the address, when the picture takes its place."""
    pictures = {part.path for message in chat.messages for part in message.parts if isinstance(part, Image)}
    messages = (
        replace(message, parts=tuple(part for part in message.parts if part.path.rpartition("/")[0] not in pictures))
        for message in chat.messages
    )
    return replace(chat, messages=tuple(messages))


@every_dialect
@given(data=st.data())
def test_a_key_that_stands_twice_is_refused_at_any_depth(name: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[name])
    places = _objects(value, "")
    pointer = data.draw(st.sampled_from(places))
    if pointer:
        put(value, pointer, Doubled(at(value, pointer)))
    else:
        value = Doubled(value)
    with pytest.raises(WireError, match="twice"):
        DIALECTS[name].read(spell(value, data.draw(dice)).encode())


def _objects(value: Any, pointer: str) -> list[str]:
    """Pointers of all objects that have a member."""
    match value:
        case dict():
            children = [(key.replace("~", "~0").replace("/", "~1"), child) for key, child in value.items()]
            own = [pointer] if value else []
        case list():
            children, own = [(str(number), child) for number, child in enumerate(value)], []
        case _:
            return []
    return own + [found for step, child in children for found in _objects(child, f"{pointer}/{step}")]


@every_dialect
@given(body=st.binary(max_size=100))
def test_any_bytes_are_a_request_or_a_wire_error(name: str, body: bytes) -> None:
    with pytest.raises(WireError):
        DIALECTS[name].read(body)


@every_dialect
@given(data=st.data(), junk=st.binary(max_size=3), width=st.integers(0, 3))
def test_a_damaged_request_is_a_request_or_a_wire_error(
    name: str, data: st.DataObject, junk: bytes, width: int
) -> None:
    body = data.draw(bodies(name))
    cut = data.draw(st.integers(0, len(body)))
    _read_and_change(name, body[:cut] + junk + body[cut + width :])


@every_dialect
@given(value=nearly, chance=dice)
def test_a_nearly_right_request_is_a_request_or_a_wire_error(name: str, value: Any, chance: random.Random) -> None:
    _read_and_change(name, spell(value, chance).encode())


def _read_and_change(name: str, body: bytes) -> None:
    """Whatever can be read can be written, and reads as what was written."""
    try:
        request = DIALECTS[name].read(body)
    except WireError:
        return
    assert DIALECTS[name].splice(request, request.chat) is body
    for turn, number in texts_of(request):
        old = request.chat.messages[turn].parts[number]
        after = with_part(request.chat, turn, number, Text("some new words", old.path))
        assert DIALECTS[name].read(DIALECTS[name].splice(request, after)).chat == after


@every_dialect
def test_only_texts_and_system_turns_may_be_new(name: str) -> None:
    body = {
        "openai-chat": b'{"messages":[{"role":"user","content":"hi"}]}',
        "openai-responses": b'{"input":"hi"}',
        "anthropic-messages": b'{"messages":[{"role":"user","content":"hi"}]}',
        "openai-completions": b'{"prompt":"hi"}',
    }[name]
    request = DIALECTS[name].read(body)
    (message,) = request.chat.messages
    strange = [
        Chat(()),
        Chat((message, message)),
        Chat((Message("tool", message.parts),)),
        Chat((Message("user", ()),)),
        Chat((Message("user", (Text("hi", "/elsewhere"),)),)),
        Chat((Message("user", (Opaque("audio"),)),)),
        Chat((Message("user", (*message.parts, Opaque("audio"))),)),
    ]
    for chat in strange:
        with pytest.raises(ValueError, match="turn"):
            DIALECTS[name].splice(request, chat)
    picture = read_url(TINY, "x")
    assert isinstance(picture, Image)
    with pytest.raises(ValueError, match="no remote image"):
        request.with_image("/messages/0", picture)


@every_dialect
@given(data=st.data(), new=st.text(min_size=1, max_size=20))
def test_a_rewrite_and_a_safety_prompt_together_write_what_they_write_one_by_one(
    name: str, data: st.DataObject, new: str
) -> None:
    body = data.draw(bodies(name))
    request = DIALECTS[name].read(body)
    turns = [
        turn for turn, message in enumerate(request.chat.messages) if any(isinstance(p, Text) for p in message.parts)
    ]
    assume(turns and request.opening)
    turn = data.draw(st.sampled_from(turns))
    after = request.chat.with_prompt(turn, new)
    rewritten = DIALECTS[name].read(DIALECTS[name].splice(request, after))
    assume(rewritten.opening == request.opening)
    both, one_by_one = (
        DIALECTS[name].splice(read, replace(said, messages=(Message("system", (Text("be safe"),)), *said.messages)))
        for read, said in ((request, after), (rewritten, rewritten.chat))
    )
    assert json.loads(both) == json.loads(one_by_one)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("openai-completions", {"prompt": ["old words", "b"]}),
        ("openai-completions", {"prompt": "old words", "suffix": "b"}),
        ("openai-chat", {"messages": [{"role": "system", "content": "old words"}, {"role": "user", "content": "b"}]}),
        ("openai-responses", {"instructions": "old words", "input": "b"}),
        ("anthropic-messages", {"system": "old words", "messages": [{"role": "user", "content": "b"}]}),
    ],
)
def test_the_safety_prompt_goes_before_the_new_words_in_one_string(name: str, body: dict[str, Any]) -> None:
    request = DIALECTS[name].read(json.dumps(body).encode())
    after = request.chat.with_prompt(0, "new words")
    written = DIALECTS[name].splice(request, Chat((Message("system", (Text("be safe"),)), *after.messages)))
    assert b"old words" not in written
    assert DIALECTS[name].read(written).chat.messages[0].text.rstrip("\n") == "be safe\n\nnew words"
