"""The JSON that programs get from ``vlmguard refine --json``: documented in docs/json.md, versioned here."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from vlmguard.types import Chat, Finding, Guarded, Judgement, Receipt, RiskReport, Text

SCHEMA = "vlmguard.refine/1"
"""Fields may be added under the same number; a changed or removed one raises it."""


def guarded_form(chat: Chat, guarded: Guarded, ms: float) -> dict[str, Any]:
    """``chat`` is what was asked, ``guarded`` what came of it."""
    refinement = guarded.refinement
    return {
        "schema": SCHEMA,
        "outcome": guarded.outcome.value,
        "prompt": None if guarded.chat is None else guarded.chat.prompt,
        "changed": _changed(chat, guarded.chat),
        "safety_prompt": _safety_prompt(chat, guarded.chat),
        "notice": guarded.notice,
        "turn": len(chat.messages) - 1 if guarded.turn < 0 else guarded.turn,
        "understanding": refinement.understanding,
        "report": _report_form(refinement.report),
        "evidence": [
            {"modality": item.modality.value, "source": item.source, "observation": item.observation}
            for item in refinement.evidence
        ],
        "analysis": refinement.analysis or None,
        "receipt": receipt_form(guarded.receipt),
        "ms": round(ms, 1),
    }


def _changed(before: Chat, after: Chat | None) -> dict[str, str]:
    """Every text part that is to be sent otherwise than it came, by its path: earlier turns and tool results, too."""
    if after is None:
        return {}
    added = len(after.messages) - len(before.messages)
    return {
        new.path: new.text
        for old_message, new_message in zip(before.messages, after.messages[added:], strict=True)
        for old, new in zip_longest(old_message.parts, new_message.parts)
        if isinstance(new, Text) and new != old
    }


def _safety_prompt(before: Chat, after: Chat | None) -> str | None:
    """The system turn that goes before the chat, where there is one to add."""
    return after.messages[0].text if after is not None and len(after.messages) > len(before.messages) else None


def receipt_form(receipt: Receipt) -> dict[str, Any]:
    """A receipt with its enums as words."""
    return {
        "version": receipt.version,
        "id": receipt.id,
        "time": receipt.time,
        "mode": receipt.mode.value,
        "outcome": receipt.outcome.value,
        "intended_outcome": receipt.intended_outcome.value,
        "failure": receipt.failure,
        "policy": receipt.policy,
        "prompts": receipt.prompts,
        "weights": receipt.weights,
        "tier": receipt.tier,
        "judgements": [_judgement_form(row) for row in receipt.judgements],
        "sent": receipt.sent,
    }


def _judgement_form(row: Judgement) -> dict[str, Any]:
    return {
        "path": row.path,
        "aspect": row.aspect.value,
        "judged_by": row.judged_by,
        "unjudged": None if row.unjudged is None else row.unjudged.value,
    }


def _report_form(report: RiskReport) -> dict[str, Any]:
    return {modality.value: _finding_form(finding) for modality, finding in report}


def _finding_form(finding: Finding | None) -> dict[str, Any] | None:
    if finding is None:
        return None
    return {
        "level": str(finding.level),
        "category": finding.category,
        "rationale": finding.rationale or None,
        "score": None if finding.score is None else round(finding.score, 4),
    }
