"""MLLM-Protector (Pi et al., arXiv 2401.02906): a detector reads the answer, and a detoxifier rewrites one that it finds harmful.

Both are models that the authors trained. They are given to the constructor; where a general model stands in for one of them, with
the prompts here, the row is marked and must not be read as MLLM-Protector.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlmguard.defences.cost import Bill
from vlmguard.defences.prompted import marked
from vlmguard.prompts import load_prompt, prompts_hash
from vlmguard.protocols import Model
from vlmguard.rewriters.quoting import quote
from vlmguard.types import Answer, Chat, Message, Outcome, Sampling, Text


@dataclass(frozen=True, slots=True)
class Part:
    """A model that plays a part of a defence."""

    model: Model
    identity: str
    original: bool = False
    """Whether it is the one that the paper trained, asked as there: question and answer, no instructions of ours."""


class MllmProtector:
    """Detector and detoxifier behind the target.

    Args:
        detector: says ``harmful`` or ``harmless`` of question and answer.
        detoxifier: rewrites a harmful answer.
    """

    calls = (2, 3)

    def __init__(self, detector: Part, detoxifier: Part) -> None:
        self.name = marked("mllm-protector", detector.original or None, detoxifier.original or None)
        self._detector = detector
        self._detoxifier = detoxifier
        prompts = prompts_hash("defence_detector", "defence_detoxifier")
        self.fingerprint = f"mllm-protector:{detector.identity}:{detoxifier.identity}:{self.name}:{prompts}"

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The target's answer, rewritten where the detector finds harm in it."""
        bill = Bill()
        first = await bill.of(model).generate(chat, sampling)
        verdict = await self._ask(bill, self._detector, "defence_detector", chat, first.text, Sampling(max_tokens=8))
        if not verdict.strip().lower().startswith(("harmful", "yes", "unsafe")):
            return bill.answer(first.text, last=first.seconds, outcome=Outcome.FORWARD)
        text = await self._ask(bill, self._detoxifier, "defence_detoxifier", chat, first.text, sampling)
        return bill.answer(text, last=first.seconds, outcome=Outcome.REWRITE)

    @staticmethod
    async def _ask(bill: Bill, part: Part, prompt: str, chat: Chat, answer: str, sampling: Sampling) -> str:
        if part.original:
            asked = Chat((Message("user", (Text(f"{chat.prompt}\n{answer}"),)),))
        else:
            words = f"{quote('question', chat.prompt, b'defence')}\n{quote('answer', answer, b'defence')}"
            asked = Chat((Message("system", (Text(load_prompt(prompt)),)), Message("user", (Text(words),))))
        return (await bill.of(part.model).generate(asked, sampling)).text
