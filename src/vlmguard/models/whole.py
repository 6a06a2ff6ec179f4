"""Reading a stream until what matters is there, and closing it then: the rest is not generated."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

from vlmguard.errors import CutOffError
from vlmguard.models.wrapper import close, forget, open_stream
from vlmguard.protocols import Model
from vlmguard.types import Chat, Completion, Sampling


class Reader(Protocol):
    """Takes pieces and says when it has all that it needs. ``vlmguard.trace.TraceReader`` is one."""

    def feed(self, piece: str) -> bool:
        """True once nothing more is needed."""
        ...

    @property
    def text(self) -> str:
        """What was needed."""
        ...


class Until:
    """A model whose answer ends where a reader has all that it needs. Does not stream itself: its answers are whole.

    Args:
        model: who is asked; one that cannot stream is read whole.
        reader: makes a reader for one answer.
    """

    def __init__(self, model: Model, reader: Callable[[], Reader]) -> None:
        self._model = model
        self._reader = reader

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """As much of the answer as is needed; no usage is told, since a closed stream tells none."""
        started = time.perf_counter()
        reader = self._reader()
        reason = "stop"
        try:
            async with aclosing(open_stream(self._model, chat, sampling)) as pieces:
                async for piece in pieces:
                    if reader.feed(piece):
                        break
        except CutOffError:
            reason = "length"
        return Completion(reader.text, reason, seconds=time.perf_counter() - started)

    async def forget(self, chat: Chat, sampling: Sampling, /) -> None:
        """Drops the answer that the model inside keeps, if it does."""
        await forget(self._model, chat, sampling)

    async def close(self) -> None:
        """Closes the model inside."""
        await close(self._model)
