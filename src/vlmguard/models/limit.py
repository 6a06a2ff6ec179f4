"""A limit on how many questions a model is asked at a time; the others wait their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from vlmguard.models.wrapper import Wrapper, open_stream
from vlmguard.protocols import Model
from vlmguard.types import Chat, Completion, Sampling


class Limit(Wrapper):
    """At most ``most`` questions at a time. For the tasks of one event loop."""

    def __init__(self, model: Model, most: int) -> None:
        super().__init__(model)
        self._slots = asyncio.Semaphore(most)

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The answer, once there is room."""
        async with self._slots:
            return await self._model.generate(chat, sampling)

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the answer, once there is room; the place is kept until the stream is closed."""
        async with self._slots, aclosing(open_stream(self._model, chat, sampling)) as pieces:
            async for piece in pieces:
                yield piece
