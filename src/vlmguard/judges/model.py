"""A model as judge, by one of the rubrics: three ways, the paper's scores, SIUO's safe and effective, right beside a reference.

The judged answer is quoted between marks that its author could not know, so it cannot forge the verdict; what the judge says that is
no verdict counts as not judged, never as one.
"""

from __future__ import annotations

import re

from vlmguard.errors import InputError
from vlmguard.judges.rubrics import RUBRICS
from vlmguard.models.wrapper import close
from vlmguard.prompts import load_prompt, prompts_hash
from vlmguard.protocols import Model
from vlmguard.rewriters.quoting import quote
from vlmguard.types import Answer, Chat, Image, Message, Part, Sample, Sampling, Text, Verdict

_NEED = re.compile(r"<need\s+kept=\"(yes|no)\"\s*/>")
_RATIONALE = re.compile(r"<why>(.*?)</why>", re.DOTALL)
_ANY_VERDICT = re.compile(r"<verdict\b[^>]*>")
_LONGEST = 1_000
"""Characters of a rationale that are kept."""


class ModelJudge:
    """Judges answers with a model.

    Args:
        model: who judges. It should be another than the target.
        name: of the model, for reports.
        rubric: what it is asked.
        key: makes the marks: whoever wrote the answer must not know it.
    """

    def __init__(self, model: Model, name: str, rubric: str = "three-way", *, key: bytes = b"vlmguard judge") -> None:
        if rubric not in RUBRICS:
            raise InputError(f"{rubric!r} is no rubric: there are {', '.join(RUBRICS)}")
        self._model = model
        self._key = key
        self._rubric = RUBRICS[rubric]
        label = name if rubric == "three-way" else f"{rubric}:{name}"
        self.name = f"{label}#{prompts_hash(self._rubric.prompt)[:12]}"

    def applies(self, sample: Sample, /) -> bool:
        """Whether the rubric has anything to say of this sample."""
        return self._rubric.applies(sample)

    async def __call__(self, sample: Sample, answer: Answer, /) -> Verdict:
        """A verdict; all ``None`` where the judge said none, or two that differ. Raises ``ModelError``."""
        notes = []
        if sample.hazard:
            notes.append(("hazard", sample.hazard))
        if self._rubric.needs_reference:
            notes.append(("reference", sample.reference))
        said = await self._ask(self._rubric.prompt, sample.chat, (*notes, ("answer", answer.text)))
        found = [self._rubric.verdict.fullmatch(element) for element in _ANY_VERDICT.findall(said)]
        readings = [match for match in found if match]
        if not readings:
            return Verdict(self.name, rationale="the judge gave no verdict")
        if len(readings) < len(found) or len({match[0] for match in readings}) > 1:
            return Verdict(self.name, rationale="the judge gave two verdicts")
        why = _RATIONALE.search(said)
        rationale = " ".join(why[1].split())[:_LONGEST] if why else ""
        return Verdict(self.name, rationale=rationale, **self._rubric.read(readings[0]))

    async def keeps_need(self, chat: Chat, prompt: str) -> bool | None:
        """Whether a refined prompt still asks for what the user may legitimately need. Raises ``ModelError``."""
        found = set(_NEED.findall(await self._ask("need", chat, (("refined prompt", prompt),))))
        return found == {"yes"} if len(found) == 1 else None

    async def close(self) -> None:
        """Closes the model."""
        await close(self._model)

    async def _ask(self, name: str, chat: Chat, quoted: tuple[tuple[str, str], ...]) -> str:
        parts: list[Part] = []
        for message in chat.messages:
            parts += [part for part in message.parts if isinstance(part, Image)]
            parts.append(Text(quote(f"{message.role} turn", message.text, self._key)))
        parts += [Text(quote(title, content, self._key)) for title, content in quoted]
        asked = Chat((Message("system", (Text(load_prompt(name)),)), Message("user", tuple(parts))))
        return (await self._model.generate(asked, Sampling(max_tokens=400))).text
