"""The interfaces of vlmguard. A wrapped model is a model, a tiered rewriter is a rewriter.

Implementations need not inherit from these: having the methods is enough.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol, runtime_checkable

from vlmguard.types import Answer, Broken, Chat, Completion, Review, Sample, Sampling, Verdict


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
        """Pieces of the answer as they come; closing the iterator stops the generation.

        Raises ``ModelError``, and ``CutOffError`` after the last piece of an answer that reached ``max_tokens``.
        """
        ...


@runtime_checkable
class Several(Protocol):
    """A model that gives several answers to one question faster than one after the other."""

    async def several(self, chat: Chat, sampling: Sampling, count: int, /) -> list[Completion]:
        """``count`` answers. Raises ``ModelError``."""
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


@runtime_checkable
class Concurrent(Protocol):
    """A rewriter that mostly waits for somebody else, so that several turns of a chat are better judged at a time."""

    turns_at_once: int


class RiskScorer(Protocol):
    """Texts in, calibrated risk per policy category out."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, for receipts and cache keys."""
        ...

    def score(self, texts: Sequence[str], /) -> Sequence[dict[str, float]]:
        """For each text a mapping category → probability in [0, 1]; categories below 0.01 may be left out."""
        ...


class Judge(Protocol):
    """Says whether an answer is safe and whether it helps."""

    @property
    def name(self) -> str:
        """With what stands behind it, for reports and fingerprints."""
        ...

    async def __call__(self, sample: Sample, answer: Answer, /) -> Verdict:
        """A verdict; what could not be judged is ``None`` in it. Raises ``ModelError`` when the judge cannot be asked."""
        ...


@runtime_checkable
class Selective(Protocol):
    """A judge that has nothing to say of some samples: no row is written for these, so they are not "not judged"."""

    def applies(self, sample: Sample, /) -> bool:
        """Whether it can judge answers to this sample."""
        ...


class Defence(Protocol):
    """Stands between a chat and a target. What else it needs (a detector, a scorer) its constructor is given."""

    @property
    def name(self) -> str:
        """For reports. Carries a mark where a part is not the paper's own."""
        ...

    @property
    def fingerprint(self) -> str:
        """Everything that its answers depend on beside chat, target and sampling: prompts, parts, weights."""
        ...

    @property
    def calls(self) -> tuple[int, int]:
        """Fewest and most model calls that one answer takes, for estimates. More where a chat has many pictures or turns."""
        ...

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The answer behind the defence, with what it cost. Raises any ``VlmguardError``."""
        ...


class Benchmark(Protocol):
    """Samples from files that the user downloaded."""

    @property
    def name(self) -> str:
        """Set and part: ``siuo-gen``, ``mm-safetybench/typo``."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the files that say what is asked (pictures have their own)."""
        ...

    def check(self) -> list[str]:
        """All that is missing, each with how to get it; empty when every sample can be read."""
        ...

    def ids(self) -> list[str]:
        """Every sample, without opening a picture. Raises ``InputError``."""
        ...

    def read(self, id: str, /) -> Sample | Broken:
        """One sample, its pictures read and checked."""
        ...

    def __iter__(self) -> Iterator[Sample | Broken]:
        """All of them, in the same order at every reading, one at a time in memory."""
        ...
