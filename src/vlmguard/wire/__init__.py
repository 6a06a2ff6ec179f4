"""Wire dialects, one file each: request bytes ↔ ``Chat``, and back by splicing only what changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from vlmguard.types import Chat
from vlmguard.wire import anthropic_messages, openai_chat, openai_completions, openai_responses
from vlmguard.wire.request import RemoteImage, Request

__all__ = ["DIALECTS", "Dialect", "RemoteImage", "Request"]


class Dialect(Protocol):
    """What a dialect's module gives."""

    def read(self, body: bytes) -> Request:
        """The request that ``body`` is. Raises ``WireError``, which names the place by its JSON pointer."""

    def splice(self, request: Request, after: Chat) -> bytes:
        """The request that says what ``after`` says: the client's very bytes, or these with only the changes made."""

    def blocked(self, request: Request, notice: str, id: str) -> bytes:
        """A finished answer that says ``notice``, in JSON. ``id`` is the receipt's."""

    def blocked_stream(self, request: Request, notice: str, id: str) -> bytes:
        """The same answer as server-sent events."""

    def error(self, status: int, message: str, kind: str = "") -> bytes:
        """An error object for an answer with HTTP ``status``. ``kind`` is our own word, for programs."""


DIALECTS: Mapping[str, Dialect] = {
    "openai-chat": openai_chat,
    "openai-responses": openai_responses,
    "anthropic-messages": anthropic_messages,
    "openai-completions": openai_completions,
}
