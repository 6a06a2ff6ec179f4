"""ECSO, "Eyes Closed, Safety On" (Gou et al., arXiv 2403.09572): the target checks its own answer and, where it finds harm, answers
once more from a caption of the picture instead of the picture. No part but the target; the prompts are in our words.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from vlmguard.defences.cost import Bill
from vlmguard.defences.prompted import marked, without_pictures
from vlmguard.prompts import load_prompt
from vlmguard.protocols import Model
from vlmguard.types import Answer, Chat, Image, Message, Outcome, Part, Sampling, Text


@dataclass(frozen=True, slots=True)
class Prompts:
    """The three questions; ``{query}``, ``{answer}`` and ``{caption}`` stand for what they are about."""

    check: str
    caption: str
    answer: str


class Ecso:
    """Check, caption, answer without looking.

    Args:
        prompts: the authors' own; without them ours are used, and the name is marked.
    """

    calls = (1, 4)

    def __init__(self, prompts: Prompts | None = None) -> None:
        self.name = marked("ecso", prompts)
        self._prompts = prompts or Prompts(
            *(load_prompt(f"defence_ecso_{part}") for part in ("check", "caption", "answer"))
        )
        words = "\0".join((self._prompts.check, self._prompts.caption, self._prompts.answer))
        self.fingerprint = f"ecso:{hashlib.sha256(words.encode()).hexdigest()}"

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The first answer where the target finds it harmless, else one from the caption."""
        bill = Bill()
        target = bill.of(model)
        first = await target.generate(chat, sampling)
        if not chat.images:
            return bill.answer(first.text, last=first.seconds)
        query = chat.prompt
        check = self._ask(chat, _filled(self._prompts.check, query=query, answer=first.text))
        said = await target.generate(check, Sampling(max_tokens=8, seed=sampling.seed))
        if not said.text.strip().lower().startswith("yes"):
            return bill.answer(first.text, last=first.seconds, outcome=Outcome.FORWARD)
        caption = await target.generate(self._ask(chat, _filled(self._prompts.caption, query=query)), sampling)
        prompt = _filled(self._prompts.answer, query=query, caption=caption.text)
        blind = without_pictures(chat).with_prompt(chat.last_user_turn, prompt)
        last = await target.generate(blind, sampling)
        return bill.answer(last.text, last=last.seconds, outcome=Outcome.REWRITE, prompt=prompt)

    @staticmethod
    def _ask(chat: Chat, question: str) -> Chat:
        parts: list[Part] = [part for part in chat.messages[chat.last_user_turn].parts if isinstance(part, Image)]
        return Chat((Message("user", (*parts, Text(question))),))


def _filled(template: str, **values: str) -> str:
    """Each hole once: braces in a value stay what they are."""
    pieces: list[str] = []
    rest = template
    while True:
        places = [(rest.find(f"{{{name}}}"), name) for name in values if f"{{{name}}}" in rest]
        if not places:
            return "".join((*pieces, rest))
        at, name = min(places)
        pieces += [rest[:at], values[name]]
        rest = rest[at + len(name) + 2 :]
