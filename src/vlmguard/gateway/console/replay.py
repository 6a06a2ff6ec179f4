"""A proposed policy tried on what was already decided: which decisions would have been others."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from vlmguard.errors import VlmguardError
from vlmguard.gateway.audit_marks import read_kept
from vlmguard.gateway.audit_store import Row
from vlmguard.gateway.console import look
from vlmguard.gateway.console.words import first_words
from vlmguard.guard import Guard
from vlmguard.policy import Action, Policy, Rule
from vlmguard.types import Finding, Level, Outcome

_SECONDS = 25.0
_MOST_LISTED = 200
_LEVELS = {str(level): level for level in Level}


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that would have been another."""

    id: str
    time: str
    before: str
    after: str
    words: str
    """The beginning of the prompt; "" where it was not kept."""


@dataclass
class Replay:
    """What a proposed policy would have changed."""

    judged_again: int = 0
    """From the kept words, thresholds and all."""
    decided_again: int = 0
    """From the recorded categories, level and account, where no words were kept: thresholds and texts change nothing here."""
    skipped: int = 0
    """Requests that were refused, or on which the guard failed."""
    out_of_time: bool = False
    flows: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)

    @property
    def looked_at(self) -> int:
        return self.judged_again + self.decided_again

    @property
    def changed(self) -> int:
        return sum(count for (before, after), count in self.flows.items() if before != after)


async def replay(rows: AsyncIterator[Row], guard: Guard, looker: look.Looker) -> Replay:
    """Compares the recorded outcomes with those of ``guard``, newest first, for 25 seconds at most."""
    found = Replay()
    deadline = time.monotonic() + _SECONDS
    async for row in rows:
        if time.monotonic() > deadline:
            found.out_of_time = True
            break
        receipt = json.loads(row["receipt"])
        if receipt["failure"] or not receipt["policy"]:
            found.skipped += 1
            continue
        request = await asyncio.to_thread(read_kept, row)
        words = ""
        if request is None:
            after = decide(row, receipt, guard.policy)
            found.decided_again += 1
        else:
            try:
                guarded = await looker.judge(request.chat, guard)
            except (VlmguardError, TimeoutError):
                found.skipped += 1
                continue
            after, words = guarded.receipt.intended_outcome.value, first_words(request.chat.prompt)
            found.judged_again += 1
        before = row["intended_outcome"]
        found.flows[before, after] += 1
        if before != after and len(found.changes) < _MOST_LISTED:
            found.changes.append(Change(row["id"], row["time"], before, after, words))
    return found


def decide(row: Row, receipt: dict[str, object], policy: Policy) -> str:
    """The outcome that a policy gives to recorded findings. The level on record is the gravest of all categories."""
    level = _LEVELS.get(row["level"], Level.NONE)
    actions = set()
    if level > Level.NONE:
        actions = {policy.action(Finding(level, category, "recorded")) for category in json.loads(row["categories"])}
    judgements = receipt["judgements"]
    assert isinstance(judgements, list)
    reasons = {row["unjudged"] for row in judgements}
    rules = {rule for reason, rule in policy.unjudged.items() if reason.value in reasons}
    if Action.BLOCK in actions or Rule.BLOCK in rules:
        return Outcome.BLOCK.value
    if Action.REWRITE in actions:
        return Outcome.REWRITE.value
    return (Outcome.DEGRADED if Rule.DEGRADE in rules else Outcome.FORWARD).value
