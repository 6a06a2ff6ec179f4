"""LiteLLM's generic guardrail endpoint: its proxy asks before each call, and sends on what it is answered.

The proxy sends the texts of a request as a flat list, and beside it the messages they come from. Those are read like a chat, so
that every text is judged in its role; where there are none, or they do not match the texts, each text is a turn of the user's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from vlmguard.errors import WireError
from vlmguard.gateway.asgi import to_json
from vlmguard.gateway.judge import Case
from vlmguard.types import Chat, Image, Message, Opaque, Part, Reason, Text
from vlmguard.wire import RemoteImage, Request, openai_chat
from vlmguard.wire.content import read_definitions
from vlmguard.wire.json_text import quote, read_object
from vlmguard.wire.pictures import REMOTE, data_url, read_base64, read_url

PATH = "/beta/litellm_basic_guardrail_api"
NOTHING = {"action": "NONE"}
_CONTENT = re.compile(r"/messages/\d+/content(?:/\d+/text)?\Z")


def read(body: bytes) -> Question | None:
    """What the proxy asks; ``None`` when there is nothing of a client's to judge (it asks about an answer). Raises ``WireError``."""
    value = read_object(body)
    texts, images = _strings(value, "texts"), _strings(value, "images")
    messages = value.get("structured_messages")
    if value.get("input_type") not in ("request", "response"):
        raise WireError("/input_type is 'request' or 'response'")
    if not isinstance(messages, list | None):
        raise WireError("/structured_messages is a list of messages")
    model = value.get("model")
    if not isinstance(model, str | None):
        raise WireError("/model is a string")
    calls = value.get("tool_calls")
    if not isinstance(calls, list | None):
        raise WireError("/tool_calls is a list of calls")
    if value["input_type"] == "response" or not (texts or images or messages):
        return None
    return Question(body, texts, images, messages or [], model or "", read_definitions(value, ("tools",)), calls or [])


def _strings(value: dict[str, Any], key: str) -> list[str]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise WireError(f"/{key} is a list of strings")
    return found


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the proxy's. Read and written back like a dialect: what is written is the answer."""

    body: bytes = field(repr=False)
    texts: list[str]
    images: list[str]
    messages: list[Any]
    model: str
    tools: tuple[Text, ...] = ()
    calls: list[Any] = field(default_factory=list)
    """Of tools, as the model made them."""

    def read(self, body: bytes) -> Request:
        """The chat that is asked about. Raises ``WireError``."""
        request = self._read(body)
        return replace(request, chat=replace(request.chat, tools=self.tools))

    def _read(self, body: bytes) -> Request:
        if (chat := self._of_messages()) is not None:
            return replace(chat, body=body, model=self.model)
        parts = [_picture(image, f"/images/{number}") for number, image in enumerate(self.images)]
        turns: list[list[Part]] = [[Text(text, f"/texts/{number}")] for number, text in enumerate(self.texts)] or [[]]
        turns[-1] += parts
        before: list[Message] = []
        if self.calls:
            before.append(Message("assistant", (Opaque("tool calls", "/tool_calls", Reason.OPAQUE),)))
        if self.messages:  # what they hold beside the texts stays unread
            turns[-1].append(Opaque("messages", "/structured_messages", Reason.OPAQUE))
        remote = tuple(
            RemoteImage(part.path, self.images[number])
            for number, part in enumerate(parts)
            if isinstance(part, Opaque) and part.kind == REMOTE
        )
        said = (*before, *(Message("user", tuple(turn)) for turn in turns))
        return Request(body, Chat(said), self.model, False, remote)

    def _of_messages(self) -> Request | None:
        if not self.messages:
            return None
        try:
            request = openai_chat.read(self._as_chat())
        except WireError:  # of a dialect that the proxy did not translate: the texts remain
            return None
        if [text.text for text in _contents(request.chat)] != self.texts:
            return None
        # What the lists name and the messages lack would be sent on, and nobody would have judged it.
        named = [*self.images, *map(quote, self.calls)]
        return request if {*named} <= {*_pictures_and_calls(self.messages)} else None

    def _as_chat(self) -> bytes:
        return quote({"messages": self.messages}).encode()

    def splice(self, request: Request, after: Chat) -> bytes:
        """The answer that has the proxy say what ``after`` says. Raises ``WireError`` where it has no way to."""
        if after.messages == request.chat.messages and not request.inlined:
            return to_json(NOTHING)
        added = len(after.messages) - len(request.chat.messages)
        safety = "\n\n".join(message.text for message in after.messages[:added])
        rest = Chat(after.messages[added:])
        if safety:
            rest = _behind(safety, rest)
        answer: dict[str, object] = {
            "action": "GUARDRAIL_INTERVENED",
            "texts": [text.text for text in self._texts(rest)],
        }
        if request.words:  # the messages were read: the proxy takes them back whole
            if request.inlined or _has_new_parts(rest):
                written = openai_chat.splice(replace(request, body=self._as_chat()), rest)
                answer["structured_messages"] = json.loads(written)["messages"]
        elif _has_new_parts(rest):
            raise WireError("a picture without words cannot be given any: send words with it")
        elif request.inlined:
            answer["images"] = [
                data_url(part) if isinstance(part, Image) and part.path in request.inlined else old
                for part, old in zip(_pictures(rest), self.images, strict=True)
            ]
        return to_json(answer)

    def _texts(self, chat: Chat) -> Iterator[Text]:
        read_messages = any(_CONTENT.match(text.path) for text in _all_texts(chat))
        return _contents(chat) if read_messages else iter([text for text in _all_texts(chat) if text.path])

    def answer(self, case: Case) -> object:
        """What the proxy is told."""
        if case.body is None:
            return {"action": "BLOCKED", "blocked_reason": case.notice}
        return NOTHING if case.body is self.body else json.loads(case.body)


def _pictures_and_calls(messages: list[Any]) -> Iterator[str]:
    """The addresses of pictures in ``messages``, which were read as a chat, and the calls of tools."""
    for message in messages:
        yield from map(quote, message.get("tool_calls") or ())
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            address = part.get("image_url") if isinstance(part, dict) else None
            url = address.get("url") if isinstance(address, dict) else address
            if isinstance(url, str):
                yield url


def _all_texts(chat: Chat) -> list[Text]:
    return [part for message in chat.messages for part in message.parts if isinstance(part, Text)]


def _contents(chat: Chat) -> Iterator[Text]:
    """The texts that the proxy lists: contents, and not what tools were asked."""
    return (text for text in _all_texts(chat) if _CONTENT.match(text.path))


def _has_new_parts(chat: Chat) -> bool:
    return any(not text.path for text in _all_texts(chat))


def _behind(safety: str, chat: Chat) -> Chat:
    """``chat`` with the safety prompt before the user's last words: the list of texts has no place for another."""
    turn = chat.last_user_turn
    message = chat.messages[turn]
    first = next((part for part in message.parts if isinstance(part, Text)), None)
    if first is None:
        return chat.with_prompt(turn, safety)
    parts = tuple(replace(part, text=f"{safety}\n\n{first.text}") if part is first else part for part in message.parts)
    messages = list(chat.messages)
    messages[turn] = Message(message.role, parts)
    return Chat(tuple(messages))


def _picture(text: str, path: str) -> Part:
    return read_url(text, path) if ":" in text else read_base64(text, path)


def _pictures(chat: Chat) -> Iterator[Part]:
    return (part for message in chat.messages for part in message.parts if part.path.startswith("/images/"))
