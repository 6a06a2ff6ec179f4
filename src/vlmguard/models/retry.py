"""Asking again where that may help: after 408, 429, 5xx and lost connections, with jitter, as the server asks, in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

from vlmguard.errors import ModelError
from vlmguard.models.deadline import remaining
from vlmguard.models.wrapper import Wrapper, open_stream
from vlmguard.protocols import Model
from vlmguard.types import Chat, Completion, Sampling


class Retry(Wrapper):
    """Asks up to ``times`` more. Only errors that say ``transient`` are tried again; ``Retry-After`` is kept to, and a
    wait that would outlast the deadline is not begun.

    Args:
        model: who is asked.
        times: attempts after the first.
        first_wait: seconds; doubled at each attempt, of which a random half to the whole is waited.
        longest_wait: seconds; a longer ``Retry-After`` ends the attempts.
        rng: where the jitter comes from.
    """

    def __init__(
        self,
        model: Model,
        times: int = 2,
        *,
        first_wait: float = 0.25,
        longest_wait: float = 30.0,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(model)
        self._times = times
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._rng = rng or random.Random()

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The first answer that comes. Raises the last ``ModelError``."""
        for attempt in range(self._times + 1):
            try:
                return await self._model.generate(chat, sampling)
            except ModelError as error:
                await self._wait(attempt, error)
        raise AssertionError("the last attempt returns or raises")

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the first answer that begins: what a reader has seen is not taken back."""
        for attempt in range(self._times + 1):
            begun = False
            try:
                async with aclosing(open_stream(self._model, chat, sampling)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except ModelError as error:
                if begun:
                    raise
                await self._wait(attempt, error)

    async def _wait(self, attempt: int, error: ModelError) -> None:
        """Waits before the next attempt, or raises ``error`` where there is none."""
        wait = self._first_wait * 2**attempt * self._rng.uniform(0.5, 1.0)
        if error.retry_after is not None:
            wait = max(wait, error.retry_after)
        if not error.transient or attempt >= self._times or wait > min(self._longest_wait, remaining()):
            raise error
        await asyncio.sleep(wait)
