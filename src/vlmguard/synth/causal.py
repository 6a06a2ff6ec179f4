"""Stage 2: multimodal causal analysis (VLMGuard-R1): textual, visual and joint reasoning → the risk report."""

from __future__ import annotations

from collections.abc import Sequence

from vlmguard import trace
from vlmguard.policy import Policy
from vlmguard.prompts import fill
from vlmguard.protocols import Model
from vlmguard.synth.teaching import ask, teacher_chat
from vlmguard.trace import Causes, render_evidence
from vlmguard.types import Chat, Evidence, Sampling


async def causal(
    teacher: Model, chat: Chat, evidence: Sequence[Evidence], policy: Policy, sampling: Sampling | None = None
) -> Causes:
    """Understanding, risk report and analysis of a request in the light of the evidence. Raises ``TraceError``, ``ModelError``."""
    sections = (("observations", render_evidence(evidence)),) if evidence else ()
    asked = teacher_chat(fill("causal", rules=_rules(policy)), chat, sections)
    return await ask(teacher, asked, sampling or Sampling(max_tokens=800), _read)


def _read(text: str) -> Causes:
    last = "analysis" if "</analysis>" in text else "risk" if "</risk>" in text else "assessment"
    return trace.parse_causes(trace.cut(text, "understanding", last))


def _rules(policy: Policy) -> str:
    return "\n".join(f"- {category.id}: {category.rule}" for category in policy.categories.values())
