"""Figures over the newest decisions: outcomes, categories, latency, failures, and what nobody judged."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from vlmguard.gateway.audit_store import Row
from vlmguard.gateway.console.words import OUTCOMES

MOST = 10_000
"""Decisions that an overview counts: the newest of its period."""
PERIODS = {
    "hour": ("Last hour", timedelta(hours=1)),
    "day": ("Last day", timedelta(days=1)),
    "week": ("Last week", timedelta(days=7)),
    "month": ("Last 30 days", timedelta(days=30)),
}
_BUCKETS = 24
_BREATH = 200
"""Decisions counted between two looks at the gateway's requests."""


@dataclass
class Bucket:
    """What happened in one stretch of time."""

    label: str
    outcomes: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    judged: int = 0
    unjudged: int = 0
    """Sides of parts that nobody looked at, without the turns that are nobody's to judge."""

    def percentile(self, share: float) -> float | None:
        return percentile(self.milliseconds, share)

    @property
    def unjudged_share(self) -> float | None:
        """Per cent."""
        rows = self.judged + self.unjudged
        return 100 * self.unjudged / rows if rows else None


@dataclass
class Overview:
    """All figures of a period."""

    buckets: list[Bucket]
    count: int = 0
    oldest: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    stages: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    milliseconds: list[float] = field(default_factory=list)

    @property
    def is_cut(self) -> bool:
        return self.count >= MOST

    def outcome_series(self) -> dict[str, list[float]]:
        return {name: [bucket.outcomes[name] for bucket in self.buckets] for name in OUTCOMES}


def percentile(values: list[float], share: float) -> float | None:
    """The nearest-rank percentile."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


async def count(rows: AsyncIterator[Row], since: datetime, until: datetime) -> Overview:
    """The figures of decisions made between two moments, which come newest first."""
    width = (until - since) / _BUCKETS
    form = (
        "%H:%M"
        if until - since <= timedelta(days=1)
        else "%d %b %H:%M"
        if until - since <= timedelta(days=7)
        else "%d %b"
    )
    overview = Overview([Bucket((since + width * number).astimezone(UTC).strftime(form)) for number in range(_BUCKETS)])
    async for row in rows:
        place = int((datetime.fromisoformat(row["time"]) - since) / width)
        _add(overview, overview.buckets[min(max(place, 0), _BUCKETS - 1)], row)
        if overview.count % _BREATH == 0:
            await asyncio.sleep(0)
    return overview


def _add(overview: Overview, bucket: Bucket, row: Row) -> None:
    overview.count += 1
    overview.oldest = row["time"]
    overview.outcomes[row["outcome"]] += 1
    bucket.outcomes[row["outcome"]] += 1
    overview.categories.update(json.loads(row["categories"]))
    stages = json.loads(row["stages_ms"])
    for stage, milliseconds in stages.items():
        overview.stages[stage].append(milliseconds)
    total = sum(stages.values())
    overview.milliseconds.append(total)
    bucket.milliseconds.append(total)
    receipt = json.loads(row["receipt"])
    if receipt["failure"]:
        overview.failures[receipt["failure"]] += 1
    for judgement in receipt["judgements"]:
        if judgement["unjudged"] is None:
            bucket.judged += 1
        elif judgement["unjudged"] != "role":
            bucket.unjudged += 1
            overview.reasons[judgement["unjudged"]] += 1
