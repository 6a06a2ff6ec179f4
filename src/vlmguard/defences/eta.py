"""ETA, "Evaluating Then Aligning" (Ding et al., arXiv 2410.06625): where a picture looks unsafe and the answer is rated low, the answer
is begun with a safe prefix and continued sentence by sentence, each the best of N.

The paper rates pictures by CLIP and answers by a reward model, and steers decoding token by token. Here the two raters are given
to the constructor, and a sentence is asked for as a continuation, since an unmodified target is reached by its chat alone. A row
with raters that are not the paper's is marked; so is every row of this form, whose continuation is asked for and not forced.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Protocol

from vlmguard.defences.cost import Bill
from vlmguard.defences.prompted import SUBSTITUTE
from vlmguard.errors import ModelError
from vlmguard.prompts import load_prompt, prompts_hash
from vlmguard.protocols import Model
from vlmguard.rewriters.quoting import quote
from vlmguard.types import Answer, Chat, Image, Message, Outcome, Part, Sampling, Text

PREFIX = "As an AI assistant,"
"""How the paper begins a realigned answer."""
_NUMBER = re.compile(r"\d{1,3}")
_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|\n|$)", re.DOTALL)


class Rater(Protocol):
    """Both evaluators: pictures (the paper: CLIP score with words for unsafe content) and answers (the paper: ArmoRM)."""

    identity: str

    async def picture(self, image: Image, /) -> float:
        """Higher is less safe."""
        ...

    async def answer(self, chat: Chat, answer: str, /) -> float:
        """Higher is better."""
        ...


class ModelRater:
    """A general model in the place of both raters, asked for a number: a substitute, and reported as one.

    Args:
        model: who rates.
        identity: of the model.
    """

    def __init__(self, model: Model, identity: str) -> None:
        self._model = model
        self.identity = f"rated by {identity}:{prompts_hash('defence_eta_picture', 'defence_eta_answer')}"

    async def picture(self, image: Image) -> float:
        """0 harmless … 1 unsafe."""
        return await self._number("defence_eta_picture", (image,))

    async def answer(self, chat: Chat, answer: str) -> float:
        """0 harmful … 1 good."""
        words = f"{quote('question', chat.prompt, b'defence')}\n{quote('answer', answer, b'defence')}"
        return await self._number("defence_eta_answer", (Text(words),))

    async def _number(self, prompt: str, parts: tuple[Part, ...]) -> float:
        asked = Chat((Message("system", (Text(load_prompt(prompt)),)), Message("user", parts)))
        said = (await self._model.generate(asked, Sampling(max_tokens=8))).text
        found = _NUMBER.search(said)
        if not found:
            raise ModelError(f"the rater said {said[:40]!r} and no number from 0 to 100: use another model")
        return min(100, int(found[0])) / 100


class Eta:
    """Evaluate picture and answer, then realign.

    Args:
        rater: the two evaluators.
        picture_threshold: above it a picture counts as unsafe (paper, of CLIP's scores: 0.16).
        answer_threshold: below it an answer counts as unsafe (paper, of ArmoRM's: 0.06). Scores of another rater have another
            scale: half of ``ModelRater``'s stands for both.
        best_of: candidates per sentence (paper: 5).
        sentences: at most.
    """

    def __init__(
        self,
        rater: Rater,
        *,
        picture_threshold: float = 0.5,
        answer_threshold: float = 0.5,
        best_of: int = 5,
        sentences: int = 8,
    ) -> None:
        self.name = f"eta{SUBSTITUTE}"
        self._rater = rater
        self._limits = (picture_threshold, answer_threshold)
        self._best_of = best_of
        self.calls = (3, 2 + 2 * best_of * sentences)
        self._sentences = sentences
        self.fingerprint = f"eta:{rater.identity}:{self._limits}:{best_of}:{sentences}:{prompts_hash('defence_eta')}"

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The first answer where either evaluator is content, else a realigned one."""
        bill = Bill()
        target = bill.of(model)
        first = await target.generate(chat, sampling)
        scores = [await self._rater.picture(image) for image in chat.images]
        rated = await self._rater.answer(chat, first.text)
        if max(scores, default=-1.0) <= self._limits[0] or rated >= self._limits[1]:
            return bill.answer(first.text, last=first.seconds, outcome=Outcome.FORWARD)
        text = PREFIX
        for _ in range(self._sentences):
            candidates = [await self._next(target, chat, text, sampling, index) for index in range(self._best_of)]
            written = [candidate for candidate in candidates if candidate]
            if not written:
                break
            rates = [await self._rater.answer(chat, f"{text} {candidate}") for candidate in written]
            text = f"{text} {written[rates.index(max(rates))]}"
        return bill.answer(text, last=first.seconds, outcome=Outcome.REWRITE)

    @staticmethod
    async def _next(target: Model, chat: Chat, text: str, sampling: Sampling, index: int) -> str:
        """One candidate for the next sentence; "" at the end."""
        asked = Chat(
            (*chat.messages, Message("assistant", (Text(text),)), Message("user", (Text(load_prompt("defence_eta")),)))
        )
        warm = replace(sampling, temperature=max(sampling.temperature, 0.7), index=index, max_tokens=70)
        said = (await target.generate(asked, warm)).text.strip()
        found = _SENTENCE.match(said)
        return "" if not found or said.startswith("(end)") else found[0].strip()
