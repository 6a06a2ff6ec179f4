"""A circuit breaker: a model that keeps failing is left alone for a while, so that users do not queue for nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager

from vlmguard.errors import ModelError
from vlmguard.models.wrapper import Wrapper, open_stream
from vlmguard.protocols import Model
from vlmguard.types import Chat, Completion, Sampling


class Breaker(Wrapper):
    """Fails at once after ``failures`` transient failures in a row; after ``rest`` seconds one question tries the model.

    Errors that a request brought about itself (a picture the model rejects, a text too long) do not count: nobody can shut
    the model off for others with them.
    """

    def __init__(
        self, model: Model, failures: int = 5, rest: float = 15.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(model)
        self._most = failures
        self._rest = rest
        self._clock = clock
        self._failed = 0
        self._closed_until = 0.0
        self._trying = False

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The answer. Raises ``ModelError`` at once while the model is left alone."""
        with self._watched():
            return await self._model.generate(chat, sampling)

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the answer. Raises ``ModelError`` at once while the model is left alone."""
        with self._watched():
            async with aclosing(open_stream(self._model, chat, sampling)) as pieces:
                async for piece in pieces:
                    yield piece

    @contextmanager
    def _watched(self) -> Iterator[None]:
        trying = self._admit()
        try:
            yield
        except ModelError as error:
            if error.transient:
                self._failed += 1
                if self._failed >= self._most:
                    self._closed_until = self._clock() + self._rest
            else:
                self._failed = 0
            raise
        except GeneratorExit:  # the reader had enough of an answer
            self._failed = 0
            raise
        else:
            self._failed = 0
        finally:
            if trying:
                self._trying = False

    def _admit(self) -> bool:
        """Whether this question is the one that tries the model. Raises ``ModelError`` where it is not asked."""
        if self._failed < self._most:
            return False
        left = self._closed_until - self._clock()
        if left > 0 or self._trying:
            raise ModelError(
                f"the model failed {self._failed} times in a row and is left alone; it is tried again"
                f" {f'in {left:.0f} s' if left > 0 else 'now'}: look whether it runs"
            )
        self._trying = True
        return True
