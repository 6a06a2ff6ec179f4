"""Stage 1: hindsight analysis through response comparison (VLMGuard-R1, section on dataset synthesis).

What in the input drives the unsafe answer, found by comparing a safe and an unsafe one. The evidence speaks of the input alone.
"""

from __future__ import annotations

from vlmguard import trace
from vlmguard.prompts import load_prompt
from vlmguard.protocols import Model
from vlmguard.synth.rows import Row
from vlmguard.synth.teaching import ask, teacher_chat
from vlmguard.types import Evidence, Sampling


async def hindsight(teacher: Model, row: Row, sampling: Sampling | None = None) -> tuple[Evidence, ...]:
    """Evidence from a row's request and its two answers. Raises ``TraceError``, ``ModelError``; ``ValueError`` without answers."""
    if row.safe is None or row.unsafe is None:
        raise ValueError("hindsight compares a safe and an unsafe answer; sample the missing one first")
    answers = (("harmful answer", row.unsafe), ("safe answer", row.safe))
    chat = teacher_chat(load_prompt("hindsight"), row.chat, answers)
    return await ask(teacher, chat, sampling or Sampling(max_tokens=600), _read)


async def observe(teacher: Model, row: Row, sampling: Sampling | None = None) -> tuple[Evidence, ...]:
    """The ablation without hindsight: evidence from the request alone."""
    chat = teacher_chat(load_prompt("observe"), row.chat)
    return await ask(teacher, chat, sampling or Sampling(max_tokens=600), _read)


def _read(text: str) -> tuple[Evidence, ...]:
    return trace.parse_evidence(trace.cut(text, "evidence", "evidence"))
