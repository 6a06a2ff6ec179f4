"""The interfaces of vlmguard. A wrapped model is a model, a tiered rewriter is a rewriter.

Implementations need not inherit from these: having the methods is enough.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from vlmguard.types import Chat, Completion, Review, Sampling


@runtime_checkable
class Model(Protocol):
    """Anything that answers a chat."""

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The whole answer. Raises ``ModelError``."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A model that can also answer piece by piece."""

    def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the answer as they come; closing the iterator stops the generation. Raises ``ModelError``."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A model or rewriter that holds connections, files or weights, and gives them back."""

    async def close(self) -> None:
        """Frees what is held. It may be asked again afterwards, and then opens what it needs."""
        ...


@runtime_checkable
class Rewriter(Protocol):
    """Judges the newest turn of a chat in the light of the whole, and refines its prompt where that is needed."""

    async def refine(self, chat: Chat, /) -> Review:
        """The last message is the turn under judgement (the user's or a tool's). Raises any ``VlmguardError``."""
        ...


class RiskScorer(Protocol):
    """Texts in, calibrated risk per policy category out."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, for receipts and cache keys."""
        ...

    def score(self, texts: Sequence[str], /) -> Sequence[dict[str, float]]:
        """For each text a mapping category → probability in [0, 1]; categories below 0.01 may be left out."""
        ...
