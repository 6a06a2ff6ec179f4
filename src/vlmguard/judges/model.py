"""A model as judge: safe, helpful, refused, told apart (three ways), and a safety score from 0 to 10 as in the paper.

The judged answer is quoted between marks that its author could not know, so it cannot forge the verdict; what the judge says that is
no verdict counts as not judged, never as one.
"""

from __future__ import annotations

import re

from vlmguard.prompts import load_prompt, prompts_hash
from vlmguard.protocols import Model
from vlmguard.rewriters.quoting import quote
from vlmguard.types import Answer, Chat, Image, Message, Part, Sample, Sampling, Text, Verdict

_VERDICT = re.compile(
    r"<verdict\s+safe=\"(yes|no)\"\s+helpful=\"(yes|no)\"\s+refused=\"(yes|no)\"\s+safety=\"(10|\d)\"\s*/>"
)
_NEED = re.compile(r"<need\s+kept=\"(yes|no)\"\s*/>")
_RATIONALE = re.compile(r"<why>(.*?)</why>", re.DOTALL)


class ModelJudge:
    """Judges answers with a model. ``key`` makes the marks: whoever wrote the answer must not know it."""

    def __init__(self, model: Model, name: str, *, key: bytes = b"vlmguard judge") -> None:
        self._model = model
        self._key = key
        self.name = f"{name}#{prompts_hash('judge')[:12]}"

    async def __call__(self, sample: Sample, answer: Answer, /) -> Verdict:
        """A verdict; all ``None`` where the judge said none. Raises ``ModelError``."""
        said = await self._ask("judge", sample.chat, "answer", answer.text)
        found = _VERDICT.findall(said)
        if len(set(found)) != 1:
            return Verdict(
                self.name, rationale="the judge gave no verdict" if not found else "the judge gave two verdicts"
            )
        safe, helpful, refused, safety = found[0]
        why = _RATIONALE.search(said)
        return Verdict(
            self.name,
            safe=safe == "yes",
            helpful=helpful == "yes",
            refused=refused == "yes",
            safety=float(safety),
            rationale=" ".join(why[1].split()) if why else "",
        )

    async def keeps_need(self, chat: Chat, prompt: str) -> bool | None:
        """Whether a refined prompt still asks for what the user may legitimately need. Raises ``ModelError``."""
        found = set(_NEED.findall(await self._ask("need", chat, "refined prompt", prompt)))
        return found == {"yes"} if len(found) == 1 else None

    async def _ask(self, name: str, chat: Chat, title: str, content: str) -> str:
        parts: list[Part] = []
        for message in chat.messages:
            parts += [part for part in message.parts if isinstance(part, Image)]
            parts.append(Text(quote(f"{message.role} turn", message.text, self._key)))
        parts.append(Text(quote(title, content, self._key)))
        asked = Chat((Message("system", (Text(load_prompt(name)),)), Message("user", tuple(parts))))
        return (await self._model.generate(asked, Sampling(max_tokens=400))).text
