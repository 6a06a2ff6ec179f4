"""Owns the figures: shares with Wilson's interval, ranking, and the operating point that the bars speak of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from training.risk.rows import Row, twins
from vlmguard.statistics import wilson

ACTS = 0.6
"""The score from which the packaged policy acts."""


def share(hits: int, n: int) -> str:
    """A share as a table shows it."""
    if not n:
        return "–"
    interval = wilson(hits, n)
    return f"{hits}/{n} = {100 * hits / n:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def auroc(harmful: np.ndarray, harmless: np.ndarray) -> float:
    """How often a harmful text stands above a harmless one; ties count half."""
    if not len(harmful) or not len(harmless):
        return math.nan
    both = np.concatenate([harmful, harmless])
    order = np.argsort(both, kind="stable")
    ranks = np.empty(len(both))
    values = both[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    ends = np.r_[starts[1:], len(values)]
    for start, end in zip(starts, ends, strict=True):
        ranks[order[start:end]] = (start + end + 1) / 2
    n, m = len(harmful), len(harmless)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def auroc_interval(scores: np.ndarray, rows: Sequence[Row], rounds: int = 300) -> tuple[float, float]:
    """95 %, by resampling groups, since twins are not independent."""
    rng = np.random.default_rng(0)
    groups: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        groups[row.group].append(at)
    names = list(groups)
    harmful = np.array([row.harmful for row in rows])
    found = []
    for _ in range(rounds):
        places = [at for name in rng.choice(len(names), len(names)) for at in groups[names[name]]]
        truth = harmful[places]
        found.append(auroc(scores[places][truth], scores[places][~truth]))
    return float(np.nanquantile(found, 0.025)), float(np.nanquantile(found, 0.975))


def operating_point(logits: np.ndarray, rows: Sequence[Row], ordinary: float = 0.02, twin: float = 0.10) -> float:
    """The lowest logit that flags at most these shares of the everyday rows and of the harmless twins in English, where it is judged."""
    plain = logits[[at for at, row in enumerate(rows) if row.is_everyday]]
    pairs = logits[[at for at in twins(rows) if not rows[at].harmful and rows[at].language == "en"]]
    return max(float(np.quantile(plain, 1 - ordinary)), float(np.quantile(pairs, 1 - twin)))


def summary(logits: np.ndarray, rows: Sequence[Row], threshold: float) -> dict[str, float]:
    """The figures that candidates are compared by: at the threshold, and over all."""
    harmful = np.array([row.harmful for row in rows])
    paired = np.zeros(len(rows), dtype=bool)
    paired[twins(rows)] = True
    own = np.array([row.source == "own" for row in rows])
    english = np.array([row.language == "en" for row in rows])
    ordinary = np.array([row.is_ordinary for row in rows])
    flagged = logits > threshold

    def part(mask: np.ndarray) -> float:
        return round(100 * float(flagged[mask].mean()), 1) if mask.any() else math.nan

    return {
        "auroc twins": round(auroc(logits[paired & harmful], logits[paired & ~harmful]), 4),
        "auroc twins en": round(auroc(logits[paired & harmful & english], logits[paired & ~harmful & english]), 4),
        "auroc all": round(auroc(logits[harmful], logits[~harmful]), 4),
        "recall own": part(own & harmful),
        "recall own en": part(own & harmful & english),
        "flagged twins": part(paired & ~harmful),
        "flagged ordinary": part(ordinary),
        "flagged harmless": part(~harmful),
    }
