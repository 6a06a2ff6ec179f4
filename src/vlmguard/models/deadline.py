"""A hard deadline: what is not there in time is cancelled. Deadlines nest, and whoever waits can ask what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar

from vlmguard.errors import ModelError
from vlmguard.models.wrapper import Wrapper, open_stream
from vlmguard.protocols import Model
from vlmguard.types import Chat, Completion, Sampling

_ends: ContextVar[float] = ContextVar("_ends", default=float("inf"))
"""Loop time at which the work of this task has to be done."""
_APART = 0.02
"""Seconds by which an inner deadline is earlier than the one around it, so that the one who was late is named."""


def remaining() -> float:
    """Seconds until the nearest deadline around the caller; infinite where there is none."""
    return _ends.get() - asyncio.get_running_loop().time()


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Cancels the block after ``seconds``, or a little before the deadline around it. Raises ``ModelError`` then."""
    async with _until(asyncio.get_running_loop().time() + seconds, what, seconds):
        yield


@asynccontextmanager
async def _until(ends: float, what: str, seconds: float) -> AsyncIterator[None]:
    ends = min(ends, _ends.get() - _APART)
    token = _ends.set(ends)
    try:
        async with asyncio.timeout_at(ends):
            yield
    except TimeoutError as error:
        raise ModelError(
            f"{what} did not answer within its deadline ({seconds:g} s at most): raise the deadline, or look at its load",
            transient=True,
        ) from error
    finally:
        _ends.reset(token)


class Deadline(Wrapper):
    """A model that answers within ``seconds`` or not at all. A stream has to end within them, too."""

    def __init__(self, model: Model, seconds: float) -> None:
        super().__init__(model)
        self._seconds = seconds

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The answer. Raises ``ModelError`` when the deadline passes."""
        async with within(self._seconds, "the model"):
            return await self._model.generate(chat, sampling)

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the answer. The reader's own time counts, but is never cut short from here."""
        ends = asyncio.get_running_loop().time() + self._seconds
        async with aclosing(open_stream(self._model, chat, sampling)) as pieces:
            while True:
                async with _until(ends, "the model", self._seconds):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece
