"""Receipts: the proof of what was checked. Makes them and names their parts; signing and storing is the gateway's."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from datetime import UTC, datetime

from vlmguard.types import Aspect, Chat, Image, Judgement, Mode, Outcome, Part, Reason, Receipt, Review, Text

VERSION = 1
"""Of the receipt's shape. Grows when a field is added; a field never changes its meaning."""


def content_hash(data: str, key: bytes) -> str:
    """Keyed digest (HMAC-SHA-256, hex): without the key a short prompt cannot be guessed from its hash."""
    return hmac.new(key, data.encode(), hashlib.sha256).hexdigest()


def aspects(part: Part) -> tuple[Aspect, ...]:
    """The sides of a part that a receipt accounts for, each in a row of its own."""
    match part:
        case Text():
            return (Aspect.TEXT,)
        case Image():
            return (Aspect.TEXT, Aspect.CODES, Aspect.SCENE)
        case _:
            return (Aspect.CONTENT,)


def unjudged(part: Part, reason: Reason) -> tuple[Judgement, ...]:
    """The rows for a part that nobody looked at."""
    return tuple(Judgement(part.path, aspect, unjudged=reason) for aspect in aspects(part))


def make_receipt(
    *,
    review: Review,
    judgements: tuple[Judgement, ...],
    mode: Mode,
    outcome: Outcome,
    intended: Outcome,
    policy: str,
    prompts: str = "",
    sent: Chat | None,
    key: bytes,
    failure: str | None = None,
) -> Receipt:
    """A receipt for one request, stamped with the time and an id of its own."""
    return Receipt(
        version=VERSION,
        id=uuid.uuid4().hex,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        mode=mode,
        outcome=outcome,
        intended_outcome=intended,
        failure=failure,
        policy=policy,
        prompts=prompts,
        weights=review.weights,
        tier=review.tier,
        judgements=judgements,
        sent=None if sent is None else content_hash(sent.prefix_hash(len(sent.messages) - 1), key),
    )
