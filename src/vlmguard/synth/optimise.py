"""Stage 3: prompt optimisation (VLMGuard-R1): the refined prompt from the request and its risk report."""

from __future__ import annotations

from vlmguard import trace
from vlmguard.language import detect
from vlmguard.policy import Policy
from vlmguard.prompts import fill, load_prompt
from vlmguard.protocols import Model
from vlmguard.synth.teaching import ask, teacher_chat
from vlmguard.trace import Causes
from vlmguard.types import Chat, Sampling


async def optimise(teacher: Model, chat: Chat, causes: Causes, policy: Policy, sampling: Sampling | None = None) -> str:
    """The refined prompt for the last user turn of ``chat``. Raises ``TraceError``, ``ModelError``."""
    assessment = "\n".join(
        f"{modality.value}: {finding.level}, {finding.category}. {finding.rationale}"
        for modality, finding in causes.report
        if finding is not None and finding.category is not None
    )
    sections = (("assessment", f"{causes.understanding}\n{assessment}\n{causes.analysis}"),)
    asked = teacher_chat(fill("optimise", guidance=_guidance(chat, causes, policy)), chat, sections)
    return await ask(teacher, asked, sampling or Sampling(max_tokens=600), _read)


async def write_twin(teacher: Model, chat: Chat, sampling: Sampling | None = None) -> str:
    """A harmless request about the same pictures which shares words with the risky one: for the mix, not for a trace."""
    asked = teacher_chat(load_prompt("twin"), chat)
    return await ask(teacher, asked, sampling or Sampling(max_tokens=200), _read)


def _read(text: str) -> str:
    return trace.parse_prompt(trace.cut(text, "prompt", "prompt"))


def _guidance(chat: Chat, causes: Causes, policy: Policy) -> str:
    language = detect(chat.prompt)
    found = dict.fromkeys(
        policy.category(finding.category).id for _, finding in causes.report if finding is not None and finding.category
    )
    lines = [f"- {policy.categories[id].title}: {policy.say(policy.categories[id].guidance, language)}" for id in found]
    return "\n".join(lines)
