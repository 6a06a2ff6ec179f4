"""The vendors' own clients: what they send is read, and what we answer in a model's place they understand."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx2 as httpx
import openai
import pytest

from tests.wire.bodies import REMOTE, TINY
from vlmguard.types import Text
from vlmguard.wire import DIALECTS, Dialect

NOTICE = "I can't help with that.\nTalk to someone you trust: 😀"


class Server:
    """Answers every request as if it were blocked, or with an error, and keeps what was read."""

    def __init__(self, name: str, status: int = 200) -> None:
        self.dialect: Dialect = DIALECTS[name]
        self.status = status
        self.said: list[str] = []

    def __call__(self, sent: Any) -> Any:
        request = self.dialect.read(sent.content)
        assert self.dialect.splice(request, request.chat) == sent.content
        for part in (part for message in request.chat.messages for part in message.parts):
            self.said.append(part.text if isinstance(part, Text) else getattr(part, "kind", "IMAGE"))
        if self.status != 200:
            return httpx.Response(self.status, content=self.dialect.error(self.status, "wrong shape", "wire"))
        if request.stream:
            events = self.dialect.blocked_stream(request, NOTICE, "7")
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=events)
        answer = self.dialect.blocked(request, NOTICE, "7")
        return httpx.Response(200, headers={"content-type": "application/json"}, content=answer)

    def openai(self) -> Any:
        client = httpx.Client(transport=httpx.MockTransport(self))
        return openai.OpenAI(
            api_key="k", base_url="http://x/v1", http_client=client, max_retries=0, _strict_response_validation=True
        )

    def anthropic(self) -> Any:
        client = httpx.Client(transport=httpx.MockTransport(self))
        return anthropic.Anthropic(
            api_key="k", base_url="http://x", http_client=client, max_retries=0, _strict_response_validation=True
        )


CHAT: Any = [
    {"role": "system", "content": "rules"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": TINY}}]},
]


def test_openai_chat() -> None:
    server = Server("openai-chat")
    answer = server.openai().chat.completions.create(model="m", messages=CHAT)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (NOTICE, "content_filter")
    assert server.said == ["rules", "hi", "IMAGE"]


def test_openai_chat_streaming() -> None:
    server = Server("openai-chat")
    options = {"include_usage": True}
    chunks = list(
        server.openai().chat.completions.create(model="m", messages=CHAT, stream=True, stream_options=options)
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == NOTICE
    assert choices[-1].finish_reason == "content_filter"
    assert chunks[-1].usage.total_tokens == 0


INPUT: Any = [
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "hi"},
            {"type": "input_image", "detail": "auto", "image_url": REMOTE},
        ],
    }
]


def test_openai_responses() -> None:
    server = Server("openai-responses")
    answer = server.openai().responses.create(model="m", input=INPUT, previous_response_id="r")
    assert (answer.output_text, answer.incomplete_details.reason) == (NOTICE, "content_filter")
    assert server.said == ["earlier response", "hi", "remote image"]


def test_openai_responses_streaming() -> None:
    with Server("openai-responses").openai().responses.stream(model="m", input=INPUT) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == NOTICE


def test_openai_responses_streaming_without_the_assistant() -> None:
    events = list(Server("openai-responses").openai().responses.create(model="m", input="hi", stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == NOTICE


def test_openai_completions() -> None:
    client = Server("openai-completions").openai()
    answer = client.completions.create(model="m", prompt=["a", "b"])
    assert [choice.text for choice in answer.choices] == [NOTICE, NOTICE]
    chunks = list(client.completions.create(model="m", prompt="a", stream=True))
    assert [choice.text for chunk in chunks for choice in chunk.choices] == [NOTICE]


MESSAGES: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "hi"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": TINY.partition(",")[2]}},
        ],
    }
]


def test_anthropic_messages() -> None:
    server = Server("anthropic-messages")
    answer = server.anthropic().messages.create(model="m", max_tokens=9, system="rules", messages=MESSAGES)
    assert (answer.content[0].text, answer.stop_reason) == (NOTICE, "refusal")
    assert server.said == ["rules", "hi", "IMAGE"]


def test_anthropic_messages_streaming() -> None:
    with Server("anthropic-messages").anthropic().messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == NOTICE
        assert stream.get_final_message().stop_reason == "refusal"


def test_errors_are_understood() -> None:
    with pytest.raises(openai.BadRequestError, match="wrong shape") as refused:
        Server("openai-chat", 400).openai().chat.completions.create(model="m", messages=CHAT)
    assert refused.value.code == "wire"
    with pytest.raises(anthropic.RateLimitError, match="wrong shape"):
        Server("anthropic-messages", 429).anthropic().messages.create(model="m", max_tokens=9, messages=MESSAGES)
