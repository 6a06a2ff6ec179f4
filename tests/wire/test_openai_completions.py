from __future__ import annotations

import json

import pytest

from vlmguard.errors import WireError
from vlmguard.types import Chat, Message, Opaque, Reason, Text
from vlmguard.wire.openai_completions import blocked, blocked_stream, read, splice


def safe(chat: Chat) -> Chat:
    return Chat((Message("system", (Text("be safe"),)), *chat.messages))


def test_a_prompt_is_what_the_user_says() -> None:
    request = read(b'{"model":"m","prompt":"once","suffix":"end","n":1.0}')
    assert request.chat == Chat((Message("user", (Text("once", "/prompt"), Text("end", "/suffix"))),))
    assert splice(request, request.chat.with_prompt(0, "twice")) == (
        b'{"model":"m","prompt":"twice","suffix":"","n":1.0}'
    )


def test_a_list_holds_a_turn_for_each_prompt() -> None:
    request = read(b'{"prompt":["a", "b"]}')
    assert [message.text for message in request.chat.messages] == ["a", "b"]
    assert splice(request, request.chat.with_prompt(1, "c")) == b'{"prompt":["a", "c"]}'
    assert splice(request, safe(request.chat)) == b'{"prompt":["be safe\\n\\na", "be safe\\n\\nb"]}'


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (b"[1,2]", [Opaque("tokens", "/prompt", Reason.OPAQUE)]),
        (b"[[1],[2]]", [Opaque("tokens", "/prompt/0", Reason.OPAQUE), Opaque("tokens", "/prompt/1", Reason.OPAQUE)]),
        (b'[[1],"b"]', [Opaque("tokens", "/prompt/0", Reason.OPAQUE), Text("b", "/prompt/1")]),
    ],
)
def test_tokens_cannot_be_read_and_take_no_words(prompt: bytes, parts: list[object]) -> None:
    request = read(b'{"prompt":%s}' % prompt)
    assert [part for message in request.chat.messages for part in message.parts] == parts
    with pytest.raises(WireError, match="no place for a safety prompt: send the prompt as text"):
        splice(request, safe(request.chat))
    with pytest.raises(WireError, match=r"/prompt.* cannot be given words"):
        splice(request, request.chat.with_prompt(0, "words"))


def test_embedded_prompts_are_named() -> None:
    (message,) = read(b'{"prompt_embeds":"AAAA"}').chat.messages
    assert message.parts == (Opaque("prompt embeds", "/prompt_embeds", Reason.OPAQUE),)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"{}", "/prompt is"),
        (b'{"prompt":null}', "/prompt is"),
        (b'{"prompt":[]}', "/prompt is"),
        (b'{"prompt":{}}', "/prompt is"),
        (b'{"prompt":[1,"a"]}', "/prompt is"),
        (b'{"prompt":[true]}', "/prompt is"),
        (b'{"prompt":["a",1]}', "/prompt/1 is"),
        (b'{"prompt":["a",[]]}', "/prompt/1 is"),
        (b'{"prompt":["a",[1.0]]}', "/prompt/1 is"),
        (b'{"prompt":"a","suffix":1}', "/suffix is a string"),
        (b'{"prompt":"a","PROMPT":"b"}', "write 'prompt'"),
    ],
)
def test_a_wrong_shape_is_refused_and_named(written: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read(written)


def test_a_blocked_request_gets_a_completion_of_every_prompt() -> None:
    request = read(b'{"model":"m","prompt":["a","b"],"stream":true,"stream_options":{"include_usage":true}}')
    answer = json.loads(blocked(request, "Not this.", "7"))
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in answer["choices"]] == [
        (0, "Not this.", "content_filter"),
        (1, "Not this.", "content_filter"),
    ]
    *events, last = blocked_stream(request, "Not this.", "7").decode().removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [choice["index"] for chunk in chunks for choice in chunk["choices"]] == [0, 1]
    assert "usage" in chunks[-1]
    assert last == "data: [DONE]"


@pytest.mark.parametrize(
    ("members", "count"),
    [
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": "a", "prompt_embeds": "AAAA"}, 1),
        ({"prompt": "a", "documents": ["x"]}, 1),
        ({"prompt_embeds": "AAAA"}, 1),
        ({"prompt": "a", "n": None}, 1),
        ({"prompt": "a", "n": True}, 1),
        ({"prompt": "a", "n": -1}, 1),
        ({"prompt": "a", "n": 10**9}, 128),
        ({"prompt": [[1], [2]]}, 2),
    ],
)
def test_a_blocked_request_has_a_choice_for_each_that_was_asked_for(members: dict[str, object], count: int) -> None:
    answer = json.loads(blocked(read(json.dumps(members).encode()), "Not this.", "7"))
    assert [choice["index"] for choice in answer["choices"]] == list(range(count))
