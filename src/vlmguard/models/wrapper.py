"""What wrappers share. A wrapped model is a model: it answers whole and in pieces, and closes what it wraps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Protocol, cast

from vlmguard.errors import CutOffError
from vlmguard.protocols import Closing, Model, Streaming
from vlmguard.types import Chat, Completion, Sampling


class Pieces(Protocol):
    """An iterator over pieces of an answer that can be closed: what an asynchronous generator is."""

    def __aiter__(self) -> AsyncIterator[str]: ...
    async def __anext__(self) -> str: ...
    async def aclose(self) -> None: ...


def open_stream(model: Model, chat: Chat, sampling: Sampling) -> Pieces:
    """The answer in pieces; that of a model which cannot stream comes as one. Close it (``contextlib.aclosing``)."""
    stream = getattr(model, "stream", None)  # asked of every question: the check of a protocol takes its time
    return cast(Pieces, _whole(model, chat, sampling) if stream is None else stream(chat, sampling))


def streams(model: Model) -> bool:
    """Whether answers really come in pieces: wrappers can stream, and do so where the model inside does."""
    return streams(model.inner) if isinstance(model, Wrapper) else isinstance(model, Streaming)


async def _whole(model: Model, chat: Chat, sampling: Sampling) -> AsyncIterator[str]:
    completion = await model.generate(chat, sampling)
    yield completion.text
    if completion.finish_reason == "length":
        raise cut_off(sampling)


def cut_off(sampling: Sampling) -> CutOffError:
    """The error at the end of an answer that reached the most tokens."""
    return CutOffError(f"the answer was cut off after {sampling.max_tokens} tokens: raise max_tokens")


async def close(thing: object) -> None:
    """Closes what can be closed."""
    if isinstance(thing, Closing):
        await thing.close()


async def forget(model: Model, chat: Chat, sampling: Sampling) -> None:
    """Drops a kept answer that was of no use, so that the question is asked anew; nothing happens where none is kept."""
    drop = getattr(model, "forget", None)
    if drop is not None:
        await drop(chat, sampling)


class Wrapper:
    """A model around a model, with nothing changed: the base of those that change something."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def inner(self) -> Model:
        """The model inside."""
        return self._model

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The whole answer."""
        return await self._model.generate(chat, sampling)

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the answer."""
        async with aclosing(open_stream(self._model, chat, sampling)) as pieces:
            async for piece in pieces:
                yield piece

    async def forget(self, chat: Chat, sampling: Sampling, /) -> None:
        """Drops the answer that the model inside keeps, if it does."""
        await forget(self._model, chat, sampling)

    async def close(self) -> None:
        """Closes the model inside."""
        await close(self._model)
