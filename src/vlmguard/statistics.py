"""Intervals, paired tests, corrections, agreement: what a table of an evaluation rests on.

Rows of one group (the same picture, twins, several seeds of one sample) are not independent, so intervals of means resample
groups and never rows. All but Wilson's interval needs scipy (extra ``eval``), which is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_RESAMPLES = (1_000, 4_000)
"""Fewest, where thousands of groups make a mean all but normal, and most."""
_DRAWS = 8_000_000
"""Groups drawn in all, between these two."""
_CHUNK = 2_000_000
"""Groups drawn at a time: what is held in memory."""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, what it rests on, and where the true value is to be looked for."""

    value: float
    low: float
    high: float
    n: int
    """Rows."""
    groups: int
    """Independent groups among them."""
    method: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two defences on the same samples: the second minus the first."""

    value: float
    low: float
    high: float
    p: float
    n: int
    """Samples that both have."""
    test: str
    detectable: float
    """The smallest true difference that this many samples would show with 80 % power."""


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share (Wilson 1927), which is right also near 0 and 1 and for few rows."""
    if n <= 0:
        return Interval(math.nan, 0.0, 1.0, 0, 0, "none")
    z = _normal(0.5 + confidence / 2)
    share = successes / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula is exact: rounding must not move them.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Interval(share, low, high, n, n, "Wilson")


def share(values: Sequence[bool], groups: Sequence[str], confidence: float = CONFIDENCE) -> Interval:
    """A share with Wilson's interval; where groups have several rows, at the number of independent rows that are worth as much.

    That number is the share's variance over what it varies between groups (Kish's effective sample size), and the quantile is
    Student's t for so many groups (Korn and Graubard 1998 do so for Clopper and Pearson's interval). Where all rows are alike it
    is Wilson's interval over the number of groups.
    """
    hits = sum(values)
    distinct = len(set(groups))
    if distinct == len(values):
        return wilson(hits, len(values), confidence)
    if hits in (0, len(values)):
        edge = wilson(distinct if hits else 0, distinct, confidence)
        return Interval(edge.value, edge.low, edge.high, len(values), distinct, "Wilson over groups")
    if distinct == 1:
        return Interval(hits / len(values), math.nan, math.nan, len(values), 1, "one group: no interval")
    sums, counts = _by_group([float(value) for value in values], groups)
    return _clustered_wilson(sums, counts, confidence)


def _clustered_wilson(sums: Numbers, counts: Numbers, confidence: float) -> Interval:
    from scipy.special import stdtrit

    n, k = int(counts.sum()), len(counts)
    found = float(sums.sum()) / n
    variance = k / (k - 1) * float(((sums - found * counts) ** 2).sum()) / n**2
    worth = max(1.0, min(float(n), found * (1 - found) / variance)) if variance > 0 else float(n)
    z = float(stdtrit(k - 1, 0.5 + confidence / 2))
    scale = 1 + z * z / worth
    middle = (found + z * z / (2 * worth)) / scale
    half = z / scale * math.sqrt(found * (1 - found) / worth + z * z / (4 * worth * worth))
    return Interval(found, max(0.0, middle - half), min(1.0, middle + half), n, k, "Wilson, clustered")


def mean(values: Sequence[float], groups: Sequence[str], confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """A mean with a bootstrap interval that resamples groups (percentiles, widened for few groups)."""
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, 0, "none")
    sums, counts = _by_group(values, groups)
    estimate = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return Interval(estimate, math.nan, math.nan, n, 1, "one group: no interval")
    drawn = _resampled(np.stack([sums, counts]), seed)
    low, high = _percentiles(drawn[0] / drawn[1], estimate, len(sums), confidence)
    return Interval(estimate, low, high, n, len(sums), "clustered bootstrap" if len(sums) < n else "bootstrap")


def compare_shares(
    first: Mapping[str, bool], second: Mapping[str, bool], groups: Mapping[str, str], seed: int = 0
) -> Difference | None:
    """Two defences by a yes-or-no measure: McNemar's exact test, or a paired bootstrap where samples come in groups.

    Keys are samples; only those that both have count. ``None`` when there are fewer than two.
    """
    keys = sorted(first.keys() & second.keys())
    if len(keys) < 2:
        return None
    numbers = {key: float(second[key]) - float(first[key]) for key in keys}
    labels = [groups[key] for key in keys]
    # Where no sample changed, as many may still change as Wilson's upper end allows.
    unmoved = math.sqrt(wilson(0, len(set(labels))).high)
    if len(set(labels)) < len(keys):
        return _paired(numbers, labels, seed, unmoved)
    gained = sum(value > 0 for value in numbers.values())
    lost = sum(value < 0 for value in numbers.values())
    bootstrap = _paired(numbers, labels, seed, unmoved)
    return Difference(
        bootstrap.value,
        bootstrap.low,
        bootstrap.high,
        mcnemar(gained, lost),
        len(keys),
        "McNemar, exact",
        bootstrap.detectable,
    )


def compare_means(
    first: Mapping[str, float], second: Mapping[str, float], groups: Mapping[str, str], seed: int = 0
) -> Difference | None:
    """Two defences by a score: paired bootstrap over groups. ``None`` when they share fewer than two samples."""
    keys = sorted(first.keys() & second.keys())
    if len(keys) < 2:
        return None
    return _paired({key: second[key] - first[key] for key in keys}, [groups[key] for key in keys], seed)


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact two-sided test: of the samples that changed, are as many gained as lost? 1 when none changed."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for being many (Holm 1979), in the order given."""
    corrected = [0.0] * len(values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = worst
    return corrected


def detectable(deviation: float, n: int, *, power: float = 0.8, confidence: float = CONFIDENCE) -> float:
    """The smallest true mean difference of pairs that a two-sided test of ``n`` pairs shows with that power.

    ``deviation``: standard deviation of the differences. Of a yes-or-no measure that is about the square root of the share
    of samples that change.
    """
    if n < 2:
        return math.inf
    return (_normal(0.5 + confidence / 2) + _normal(power)) * deviation / math.sqrt(n)


def kappa(first: Sequence[object], second: Sequence[object]) -> float:
    """Cohen's κ (1960) of two judges on the same answers. NaN when there are none, or both only ever say the same one."""
    n = len(first)
    if n == 0:
        return math.nan
    labels = set(first) | set(second)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    expected = sum((list(first).count(label) / n) * (list(second).count(label) / n) for label in labels)
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


# ---------------------------------------------------------------------------------------------------------------------
# The headline


@dataclass(frozen=True, slots=True)
class Headline:
    """The relative increase of mean safety over targets, in both readings of that phrase. 0.25 = 25 % more."""

    ratio_of_means: Interval
    """(mean over targets after) / (mean over targets before) − 1."""
    mean_of_ratios: Interval
    """Mean over targets of after / before − 1."""
    per_target: Mapping[str, Interval]
    without_ratio: tuple[str, ...] = ()
    """Targets at 0 before."""
    asked: int = 0
    """Samples that any target has on any side: ``n`` of the intervals are those that all have on both."""


def headline(
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    groups: Mapping[str, str],
    seed: int = 0,
) -> Headline | None:
    """The relative increase with intervals that resample groups of samples, the same ones for all targets.

    Targets are the ones that were asked, not drawn from others, so the intervals say nothing of further models.
    ``before`` and ``after``: target → sample → safety. Samples count that all targets have on both sides; ``None`` when
    there are fewer than two, or every mean before is 0. A target whose own is 0 has no ratio: it is in the ratio of means alone,
    and named in ``without_ratio``.
    """
    targets = sorted(before.keys() & after.keys())
    shared: set[str] | None = None
    for target in targets:
        both = before[target].keys() & after[target].keys()
        shared = set(both) if shared is None else shared & both
    keys = sorted(shared or ())
    if len(keys) < 2:
        return None
    asked = set().union(*(side[target].keys() for target in targets for side in (before, after)))
    labels = [groups[key] for key in keys]
    rows = [_by_group([side[target][key] for key in keys], labels)[0] for target in targets for side in (before, after)]
    counts = _by_group([1.0] * len(keys), labels)[0]
    totals = np.stack([*rows, counts])
    rated = np.array([place for place, row in enumerate(rows[::2]) if row.sum() > 0], dtype=np.intp)
    if not len(rated):
        return None
    drawn = _resampled(totals, seed)
    n, clusters = len(keys), len(counts)

    def interval(of: Callable[[Numbers], Numbers]) -> Interval:
        estimate = float(of(totals.sum(axis=1, keepdims=True))[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = of(drawn)
        low, high = _percentiles(spread[np.isfinite(spread)], estimate, clusters, CONFIDENCE)
        low = max(-1.0, low) if math.isfinite(low) else low  # nothing can lose more than all of it
        return Interval(estimate, low, high, n, clusters, "clustered bootstrap" if clusters < n else "bootstrap")

    sides = 2 * np.arange(len(targets))
    return Headline(
        interval(lambda sums: sums[sides + 1].sum(axis=0) / sums[sides].sum(axis=0) - 1),
        interval(lambda sums: (sums[2 * rated + 1] / sums[2 * rated]).mean(axis=0) - 1),
        {
            target: interval(lambda sums, place=2 * place: sums[place + 1] / sums[place] - 1)  # type: ignore[misc]
            for place, target in enumerate(targets)
            if place in rated
        },
        tuple(target for place, target in enumerate(targets) if place not in rated),
        len(asked),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Resampling


def _normal(quantile: float) -> float:
    return NormalDist().inv_cdf(quantile)


def _by_group(values: Sequence[float], groups: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Per group the sum of its values and their number."""
    _, places = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(places, weights=np.asarray(values, dtype=np.float64)).astype(np.float64)
    return sums, np.bincount(places).astype(np.float64)


def _resampled(totals: Numbers, seed: int) -> Numbers:
    """Rows of totals per group → the same rows of totals per resample: groups are drawn with replacement."""
    rng = np.random.default_rng(seed)
    groups = totals.shape[1]
    resamples = min(_RESAMPLES[1], max(_RESAMPLES[0], _DRAWS // groups))
    drawn: list[Numbers] = []
    size = max(1, _CHUNK // groups)
    for start in range(0, resamples, size):
        picks = rng.integers(0, groups, size=(min(size, resamples - start), groups), dtype=np.int32)
        drawn.append(np.stack([row[picks].sum(axis=1) for row in totals]))
    return np.concatenate(drawn, axis=1)


def _percentiles(drawn: Numbers, estimate: float, groups: int, confidence: float) -> tuple[float, float]:
    """Percentiles, NaN where there is no spread, widened as Student's t asks for few groups.

    A plain bootstrap of n groups is too narrow by √(n/(n−1)) and by the quotient of the quantiles of t and of the normal.
    """
    if groups < 2 or len(drawn) == 0:
        return math.nan, math.nan
    from scipy.special import stdtrit

    tail = (1 - confidence) / 2
    widen = float(stdtrit(groups - 1, 1 - tail)) / _normal(1 - tail) * math.sqrt(groups / (groups - 1))
    if np.ptp(drawn) < 1e-12:
        return math.nan, math.nan  # groups that are all alike say nothing of their spread
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(estimate + (low - estimate) * widen), float(estimate + (high - estimate) * widen)


def _paired(numbers: Mapping[str, float], groups: Sequence[str], seed: int, unmoved: float = math.inf) -> Difference:
    """Paired bootstrap of mean differences. P: of the estimate beside the bootstrap's standard error.

    ``unmoved``: the deviation to reckon with where none was seen.
    """
    values = list(numbers.values())
    sums, counts = _by_group(values, groups)
    estimate = float(sums.sum() / counts.sum())
    clustered = len(sums) < len(values)
    deviation = float(np.std(sums / counts, ddof=1)) if len(sums) > 1 else math.nan
    if deviation == 0:
        deviation = unmoved  # groups that moved alike say nothing of how they would differ
    reach = detectable(deviation, len(sums))
    test = "paired bootstrap over groups" if clustered else "paired bootstrap"
    if len(sums) < 2:
        return Difference(estimate, math.nan, math.nan, 1.0, len(values), "one group: no test", math.inf)
    drawn = _resampled(np.stack([sums, counts]), seed)
    spread = drawn[0] / drawn[1]
    low, high = _percentiles(spread, estimate, len(sums), CONFIDENCE)
    return Difference(estimate, low, high, _p_value(estimate, float(spread.std()), len(sums)), len(values), test, reach)


def _p_value(estimate: float, error: float, groups: int) -> float:
    """Two-sided, of an estimate beside its bootstrap standard error, by Student's t for that many groups."""
    from scipy.special import stdtr

    if estimate == 0:
        return 1.0
    error *= math.sqrt(groups / (groups - 1))
    if error < 1e-12:
        return float(0.5 ** (groups - 1))  # all groups moved alike: how often coins would all fall the same way
    return float(2 * stdtr(groups - 1, -abs(estimate) / error))
