from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Draw
from tests.models.upstream import STREAM_HEAD, Answer, Upstream, event, failed, http, reset, said, streamed
from vlmguard import chat
from vlmguard.errors import ChatError, CutOffError, ModelError
from vlmguard.models.deadline import Deadline
from vlmguard.models.endpoint import EndpointModel, _retry_after
from vlmguard.models.retry import Retry
from vlmguard.models.wrapper import Pieces, open_stream
from vlmguard.types import Chat, Message, Opaque, Sampling, Text

SHORT = Sampling(max_tokens=16)
KEY = "sk-very-secret"


@asynccontextmanager
async def endpoint(*answers: Answer, key: str | None = None) -> AsyncIterator[tuple[EndpointModel, Upstream]]:
    async with Upstream(*answers) as upstream:
        model = EndpointModel(upstream.url, "tiny", key=key)
        try:
            yield model, upstream
        finally:
            await model.close()


def stream(model: EndpointModel) -> Pieces:
    return open_stream(model, chat("hello"), SHORT)


async def read(pieces: Pieces) -> list[str]:
    async with aclosing(pieces):
        return [piece async for piece in pieces]


async def test_it_asks_in_the_dialect_and_reads_the_answer(draw: Draw) -> None:
    asked = Chat(
        (
            Message("developer", (Text("Be kind. “ü”"),)),
            Message("user", (Text('a "quote"\n'), *chat("", [draw("x")]).images)),
            Message("assistant", (Text("yes"),)),
            Message("user", (Text("more"),)),
        )
    )
    async with endpoint(said("fine"), key=KEY) as (model, upstream):
        completion = await model.generate(asked, Sampling(max_tokens=5, seed=3, stop=("x",), index=4))
    assert (completion.text, completion.finish_reason, completion.usage.completion_tokens) == ("fine", "stop", 3)
    body = upstream.asked[0]
    assert body["messages"][0] == {"role": "system", "content": "Be kind. “ü”"}
    words, image = body["messages"][1]["content"]
    assert words == {"type": "text", "text": 'a "quote"\n'}
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    rest = {key: value for key, value in body.items() if key != "messages"}
    assert rest == {"model": "tiny", "max_tokens": 5, "temperature": 0.0, "seed": 3, "stop": ["x"]}
    assert f"Authorization: Bearer {KEY}" in upstream.heads[0]
    assert upstream.heads[0].startswith("POST /v1/chat/completions HTTP/1.1")


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream(said("through the proxy")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "internal.example")
        model = EndpointModel("http://models.example/v1", "tiny")
        assert (await model.generate(chat("hello"), SHORT)).text == "through the proxy"
        await model.close()
    assert proxy.heads[0].startswith("POST http://models.example/v1/chat/completions HTTP/1.1")
    assert EndpointModel("http://internal.example/v1", "tiny")._proxy is None


async def test_a_query_of_the_address_is_sent_along() -> None:
    async with Upstream(said("fine")) as upstream:
        model = EndpointModel(f"{upstream.url}/?api-version=3", "tiny")
        await model.generate(chat("hello"), SHORT)
        await model.close()
    assert upstream.heads[0].startswith("POST /v1/chat/completions?api-version=3 HTTP/1.1")


@pytest.mark.parametrize(
    "part", [Message("tool", (Text("42"),)), Message("user", (Opaque("audio"),))], ids=["a tool's result", "audio"]
)
async def test_what_the_dialect_cannot_say_is_not_left_out_in_silence(part: Message) -> None:
    async with endpoint(said("fine")) as (model, upstream):
        with pytest.raises(ChatError, match="cannot be sent"):
            await model.generate(Chat((part,)), SHORT)
    assert not upstream.heads


# ---------------------------------------------------------------------------------------------------------------------
# Streams


async def test_a_stream_comes_in_pieces() -> None:
    more = asyncio.Event()

    async def one_by_one(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + event("one "))
        await writer.drain()
        await more.wait()
        writer.write(event("два ") + event("three", "stop"))
        await writer.drain()
        writer.close()

    async with endpoint(one_by_one) as (model, upstream), aclosing(stream(model)) as pieces:
        assert await anext(pieces) == "one "
        more.set()
        assert "".join([piece async for piece in pieces]) == "два three"
    assert upstream.asked[0]["stream"] is True


async def test_a_large_question_arrives_whole() -> None:
    words = "wörter " * 200_000
    async with endpoint(said("fine")) as (model, upstream):
        await model.generate(chat(words), SHORT)
    assert upstream.asked[0]["messages"][0]["content"] == words
    assert f"content-length: {len(upstream.bodies[0])}" in upstream.heads[0].lower()
    assert "chunked" not in upstream.heads[0].lower()


_ODD = (
    STREAM_HEAD
    + b": a comment\r\n\r\nevent: x\r\n"
    + b'data: {"choices":[{"delta":{"role":"assistant"}}]}\r\n\r\n'
    + event("grüße ")
    + b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    + b'data:{"choices":[{"delta":{"content":"an alle"},"finish_reason":"stop"}]}\n\n'
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, len(_ODD) - 1), max_size=4).map(sorted))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        for start, end in zip([0, *cuts], [*cuts, len(_ODD)], strict=True):
            writer.write(_ODD[start:end])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async def run() -> None:
        async with endpoint(in_pieces) as (model, _):
            assert "".join(await read(stream(model))) == "grüße an alle"

    asyncio.run(run())


async def test_closing_a_stream_closes_the_connection() -> None:
    async def never_ends(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while True:
            writer.write(event("on and "))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with endpoint(never_ends) as (model, upstream):
        async with aclosing(stream(model)) as pieces:
            assert await anext(pieces) == "on and "
        await asyncio.wait_for(upstream.left.wait(), 10)


@pytest.mark.parametrize(
    "refusal",
    [said("whole"), failed("400 Bad Request", "streaming is not supported by this model")],
    ids=["it answers whole", "it says so"],
)
async def test_a_server_that_cannot_stream_is_read_whole_from_then_on(refusal: bytes) -> None:
    async with endpoint(refusal, said("whole")) as (model, upstream):
        assert await read(stream(model)) == ["whole"]
        assert await read(stream(model)) == ["whole"]
    assert "stream" not in upstream.asked[-1]


@pytest.mark.parametrize(
    ("complaint", "gone", "instead"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", "max_tokens", "max_completion_tokens"),
        ("'temperature' does not support 0.0 with this model. Only the default (1) value is supported.", "temperature", None),
    ],
)  # fmt: skip
async def test_a_server_is_asked_in_the_way_it_wants(complaint: str, gone: str, instead: str | None) -> None:
    answers = (failed("400 Bad Request", complaint), streamed("fine"), said("fine"))
    async with endpoint(*answers) as (model, upstream):
        assert await read(stream(model)) == ["fine"]
        await model.generate(chat("hello"), SHORT)
    for body in upstream.asked[1:]:
        assert gone not in body
        assert instead is None or body[instead] == SHORT.max_tokens


async def test_a_server_that_only_complains_is_not_asked_for_ever() -> None:
    async with endpoint(failed("400 Bad Request", "stream, temperature is unsupported, max_completion_tokens")) as (
        model,
        upstream,
    ):
        with pytest.raises(ModelError, match="rejects the request"):
            await read(stream(model))
    assert len(upstream.heads) == 4


async def test_a_stream_cut_off_by_max_tokens_says_so_after_its_last_piece() -> None:
    async with endpoint(streamed("one ", "two", finish="length")) as (model, _):
        pieces: list[str] = []
        with pytest.raises(CutOffError, match="after 16 tokens: raise max_tokens"):
            pieces.extend(await _collect(stream(model), pieces))
    assert "".join(pieces) == "one two"


async def _collect(pieces: Pieces, into: list[str]) -> list[str]:
    async for piece in pieces:
        into.append(piece)
    return []


async def test_a_whole_answer_cut_off_says_so() -> None:
    async with endpoint(said("one two", finish="length")) as (model, _):
        assert (await model.generate(chat("hello"), SHORT)).finish_reason == "length"


# ---------------------------------------------------------------------------------------------------------------------
# Faults: each says what to do


async def _break_in_the_middle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


async def _break_a_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + event("one "))
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


@pytest.mark.parametrize(
    ("answer", "says", "transient"),
    [
        (failed("401 Unauthorized", f"bad key {KEY}"), "refuses the key .* valid one into VLMGUARD_API_KEY", False),
        (failed("404 Not Found", "no such model"), "knows no model 'tiny'.*usually ends in /v1", False),
        (failed("429 Too Many Requests", "slow down"), "asked too often .*slow down.*try later", True),
        (failed("408 Request Timeout", "late"), "fails .408", True),
        (failed("500 Internal Server Error", "oops"), "fails .500: oops.*look at its load and log", True),
        (http("<html>gone</html>", status="502 Bad Gateway", kind="text/html"), "fails .502: gone", True),
        (http("<!doctype html><p>hi", kind="text/html"), "a web page: the base address .* ends in /v1", False),
        (http("hello", kind="text/plain"), "text/plain that is no JSON", False),
        (http('{"choices": []}'), "without any choice", True),
        (http("[]"), "without any choice", True),
        (http('{"choices": [{}]}'), "holds no message", False),
        (http('{"error": {"message": "model crashed"}}'), "answers with an error: model crashed", True),
        (said("", finish="length"), "before it said anything: raise max_tokens", False),
        (said(None), "said nothing", True),
        (said("", finish="content_filter"), "content filter", False),
        (http(b'{"choices": [{"message": {"content": "\xff"}}]}'), "not UTF-8", False),
        (failed("400 Bad Request", "This model does not support image input"), "use a vision-language model", False),
        (failed("400 Bad Request", "maximum context length is 4096 tokens"), "longer context, or lower the rewriter's budget", False),
        (failed("413 Payload Too Large", "body"), "too long", False),
        (failed("422 Unprocessable Entity", "top_k is unknown"), "rejects the request .422: top_k is unknown", False),
        (http("", status="301 Moved Permanently", Location="https://elsewhere/"), "configure the final address", False),
        (_break_in_the_middle, "broke", True),
    ],
)  # fmt: skip
async def test_a_fault_is_told_in_words_that_help(answer: Answer, says: str, transient: bool) -> None:
    async with endpoint(answer, key=KEY) as (model, _):
        with pytest.raises(ModelError, match=says) as caught:
            await model.generate(chat("hello"), SHORT)
    assert caught.value.transient is transient
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_break_a_stream, "broke|ends in the middle"),
        (STREAM_HEAD + event("one "), "ends in the middle"),
        (STREAM_HEAD + b"data: [DONE]\n\n", "said nothing"),
        (STREAM_HEAD + b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (STREAM_HEAD + b"data: <html>\n\n", "a web page"),
        (STREAM_HEAD + b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', "not UTF-8"),
        (failed("503 Service Unavailable", "loading"), "loading"),
    ],
)
async def test_a_fault_of_a_stream_is_told_too(answer: Answer, says: str) -> None:
    async with endpoint(answer) as (model, _):
        with pytest.raises(ModelError, match=says):
            await read(stream(model))


async def test_an_answer_without_end_is_not_kept_in_memory() -> None:
    async def pours(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b" " * 1_000_000)
            await writer.drain()

    async with endpoint(pours) as (model, upstream):
        with pytest.raises(ModelError, match="more than 8,000,000 bytes"):
            await model.generate(chat("hello"), SHORT)
        await asyncio.wait_for(upstream.left.wait(), 10)


async def test_a_server_that_is_slow_is_left_at_the_deadline() -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async with endpoint(never) as (model, upstream):
        with pytest.raises(ModelError, match="within its deadline"):
            await Deadline(model, 0.2).generate(chat("hello"), SHORT)
        await asyncio.wait_for(upstream.left.wait(), 10)


async def test_a_server_that_is_down_is_named() -> None:
    model = EndpointModel("http://127.0.0.1:1/v1", "tiny")
    with pytest.raises(ModelError, match=r"cannot be reached .*: start the server, or correct the address") as caught:
        await model.generate(chat("hello"), SHORT)
    assert caught.value.transient
    await model.close()


async def test_without_a_key_the_error_says_where_one_goes() -> None:
    async with endpoint(failed("401 Unauthorized", "who are you?")) as (model, upstream):
        with pytest.raises(
            ModelError, match=r"wants a key, and there is none \(401\): put a valid one into VLMGUARD_API_KEY"
        ):
            await model.generate(chat("hello"), SHORT)
    assert "authorization" not in upstream.heads[0].lower()


async def test_retry_after_is_passed_on_and_a_server_that_recovers_is_asked_again() -> None:
    tries = (
        failed("429 Too Many Requests", "later", Retry_After="0"),
        failed("500 Internal Server Error", "oops"),
        said("fine"),
    )
    async with endpoint(*tries) as (model, upstream):
        completion = await Retry(model, 2, first_wait=0.001).generate(chat("hello"), SHORT)
    assert completion.text == "fine"
    assert len(upstream.heads) == 3


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), (None, None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_both_forms_of_retry_after_are_read(value: str | None, seconds: float | None) -> None:
    assert _retry_after(value) == seconds


async def test_a_picture_is_encoded_once(draw: Draw) -> None:
    asked = chat("what is this?", [draw("x")])
    async with endpoint(said("fine")) as (model, upstream):
        for _ in range(2):
            await model.generate(asked, SHORT)
        assert len(model._encoder.pictures) == 1
    assert json.loads(upstream.bodies[0])["messages"] == json.loads(upstream.bodies[1])["messages"]


async def test_the_models_that_a_server_lists() -> None:
    async with endpoint(http('{"data": [{"id": "a"}, {"id": "b"}]}')) as (model, _):
        assert await model.models() == ["a", "b"]


def test_one_model_serves_several_event_loops_in_turn() -> None:
    async def run(model: EndpointModel) -> str:
        async with Upstream(said("fine")) as upstream:
            model._base = upstream.url
            text = (await model.generate(chat("hello"), SHORT)).text
            await model.close()
            return text

    model = EndpointModel("http://127.0.0.1:1/v1", "tiny")
    assert [asyncio.run(run(model)) for _ in range(2)] == ["fine", "fine"]
