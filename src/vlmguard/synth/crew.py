"""Who works on rows, what they cost, and how long is waited for one of them who does not answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from vlmguard.errors import ModelError
from vlmguard.protocols import Judge, Model
from vlmguard.types import Answer, Chat, Completion, Sample, Sampling, Verdict

T = TypeVar("T")
NeedJudge = Callable[[Chat, str], Awaitable[bool | None]]
"""Whether a refined prompt keeps what the user may legitimately need; ``None`` = could not be judged."""
FIRST_DELAY = 1.0
"""Seconds before a call is tried again; each next time twice as long, up to a minute."""
_TRIES = 3


@dataclass(slots=True)
class Meter:
    """What was spent, by all models of a crew together."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def take(self) -> dict[str, int]:
        """What was spent since it was last asked."""
        spent = {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }
        self.calls = self.prompt_tokens = self.completion_tokens = 0
        return spent


@dataclass(frozen=True, slots=True)
class Metered:
    """A model whose calls are counted."""

    model: Model
    meter: Meter

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The model's answer."""
        completion = await self.model.generate(chat, sampling)
        self.meter.calls += 1
        self.meter.prompt_tokens += completion.usage.prompt_tokens
        self.meter.completion_tokens += completion.usage.completion_tokens
        return completion


@dataclass(frozen=True, slots=True)
class Crew:
    """Who works on a row. ``None`` leaves out what they would do."""

    teacher: Model
    target: Model | None = None
    judge: Judge | None = None
    need: NeedJudge | None = None
    identities: Mapping[str, str] = field(default_factory=dict)
    """Role (``teacher``, ``target``, ``judge``) → model with its weights: what steps and fingerprints depend on."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Role → what the dataset says of it: a name and a hash, no address and no key."""
    meter: Meter = field(default_factory=Meter)
    closers: tuple[Callable[[], Awaitable[None]], ...] = ()

    async def close(self) -> None:
        """Gives back what the models hold."""
        for closer in self.closers:
            await closer()


class OutageError(ModelError):
    """Nobody got through to a model for too long: the run stops, the row is to be done."""


class Patience:
    """Waits for one model, and tells a call that it cannot answer from a model that answers nobody.

    Args:
        who: its role, for messages.
        seconds: that nobody may get through before the run stops.
        tell: is told at once when a model does not answer, and every minute again.
    """

    def __init__(self, who: str, seconds: float, tell: Callable[[str], None]) -> None:
        self._who = who
        self._seconds = seconds
        self._tell = tell
        self._through = 0
        self._last = time.monotonic()
        self._told = 0.0

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """What ``call`` gives. Raises ``OutageError``; ``ModelError`` when it is the call and not the model: the model says so,
        or others got through while this one failed again and again.
        """
        through, tries, delay = self._through, 0, FIRST_DELAY
        while True:
            try:
                value = await call()
            except ModelError as error:
                tries += 1
                if not error.transient or (tries >= _TRIES and self._through > through):
                    raise
                self._check(error)
            else:
                self._through += 1
                self._last = time.monotonic()
                return value
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(60.0, delay * 2)

    def _check(self, error: ModelError) -> None:
        now = time.monotonic()
        away = now - self._last
        if away > self._seconds:
            raise OutageError(
                f"the {self._who} answered nobody for {away:.0f} s, the last error: {error}. "
                "What was done is kept: mend its server and run again"
            ) from error
        if now - self._told > 60:
            self._told = now
            self._tell(f"the {self._who} does not answer ({error}); waiting")


def patient(crew: Crew, seconds: float, tell: Callable[[str], None]) -> Crew:
    """A crew whose members are waited for."""
    judging = Patience("judge", seconds, tell)
    need = crew.need
    return replace(
        crew,
        teacher=_Patient(crew.teacher, Patience("teacher", seconds, tell)),
        target=None if crew.target is None else _Patient(crew.target, Patience("target", seconds, tell)),
        judge=None if crew.judge is None else _PatientJudge(crew.judge, judging),
        need=None if need is None else lambda chat, prompt: judging(lambda: need(chat, prompt)),
    )


@dataclass(frozen=True, slots=True)
class _Patient:
    model: Model
    patience: Patience

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        return await self.patience(lambda: self.model.generate(chat, sampling))


@dataclass(frozen=True, slots=True)
class _PatientJudge:
    judge: Judge
    patience: Patience

    @property
    def name(self) -> str:
        return self.judge.name

    async def __call__(self, sample: Sample, answer: Answer, /) -> Verdict:
        return await self.patience(lambda: self.judge(sample, answer))
