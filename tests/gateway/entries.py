"""Audit entries for tests."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.test_receipts import a_receipt
from vlmguard.gateway.audit import AuditEntry
from vlmguard.gateway.audit_store import stamp
from vlmguard.types import Outcome


def entry(
    *, outcome: Outcome = Outcome.FORWARD, time: datetime | None = None, id: str | None = None, **fields: Any
) -> AuditEntry:
    """One decision, with an id of its own, made now unless said otherwise."""
    receipt = replace(
        a_receipt(),
        id=id or uuid.uuid4().hex,
        time=stamp(time or datetime.now(UTC)),
        outcome=outcome,
        intended_outcome=outcome,
    )
    known: dict[str, Any] = {
        "owner": "alice",
        "route": "/v1/chat/completions",
        "dialect": "openai_chat",
        "model": "llava",
        "categories": ("hate",),
        "level": "medium",
        "status": 200,
        "stages_ms": {"read": 0.25, "guard": 3.5},
    }
    return AuditEntry(receipt=receipt, **(known | fields))
