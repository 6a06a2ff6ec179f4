"""What a defence costs: every call to a model goes through a ``Tally``, so that each answer carries its bill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vlmguard.protocols import Model, Rewriter
from vlmguard.types import Answer, Chat, Completion, Outcome, Refinement, Review, Sampling, Usage


class Tally:
    """A model that counts: calls, tokens, seconds. One per answer; several models of one defence share a bill by ``of``."""

    def __init__(self, model: Model, bill: Bill) -> None:
        self._model = model
        self._bill = bill

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The answer, put on the bill."""
        completion = await self._model.generate(chat, sampling)
        self._bill.add(completion)
        return completion


class Bill:
    """The calls that one answer took."""

    def __init__(self) -> None:
        self.calls = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.seconds = 0.0
        """Of the models, as each said of its own answer: time in our own queues is not theirs."""
        self.waited = 0.0
        """Seconds by our own clock that were spent on ``Metered`` models and in our queues."""
        self._work = 0.0

    def of(self, model: Model) -> Tally:
        """The model, on this bill."""
        return Tally(model, self)

    def add(self, completion: Completion) -> None:
        """One more call."""
        self.calls += 1
        self.prompt_tokens += completion.usage.prompt_tokens
        self.completion_tokens += completion.usage.completion_tokens
        self.seconds += completion.seconds

    def work(self, seconds: float) -> None:
        """Seconds of the defence's own that no model took."""
        self._work += seconds

    def answer(
        self,
        text: str,
        *,
        last: float = 0.0,
        outcome: Outcome | None = None,
        refinement: Refinement | None = None,
        prompt: str | None = None,
    ) -> Answer:
        """The answer with its bill. ``last``: seconds of the call that gave the text, which even no defence takes."""
        total = self.seconds + self._work
        return Answer(
            text,
            outcome,
            refinement,
            self.calls,
            Usage(self.prompt_tokens, self.completion_tokens),
            total,
            max(0.0, total - last),
            prompt,
        )


_PAYING: ContextVar[Bill | None] = ContextVar("paying", default=None)


@contextmanager
def paying(bill: Bill) -> Iterator[None]:
    """Inside, what ``Metered`` models are asked goes on this bill."""
    token = _PAYING.set(bill)
    try:
        yield
    finally:
        _PAYING.reset(token)


class Metered:
    """A model that sits deep inside another part (a rewriter in a guard): its calls go on the bill of who asked that part."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The answer, put on the bill of the moment."""
        with Stopwatch() as watch:
            completion = await self._model.generate(chat, sampling)
        if (bill := _PAYING.get()) is not None:
            bill.add(completion)
            bill.waited += watch.seconds
        return completion


class Queued:
    """A rewriter that works in this process, one chat at a time: what a chat waits for its turn is not the defence's time."""

    def __init__(self, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._turn = asyncio.Lock()

    async def refine(self, chat: Chat, /) -> Review:
        """The rewriter's review, when its turn has come."""
        with Stopwatch() as queue:
            await self._turn.acquire()
        try:
            if (bill := _PAYING.get()) is not None:
                bill.waited += queue.seconds
            return await self._rewriter.refine(chat)
        finally:
            self._turn.release()


class Stopwatch:
    """Seconds inside a ``with`` block."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
