"""How figures are written: the same in every form of a report."""

from __future__ import annotations

import math

from vlmguard.evaluate.tables import Measure
from vlmguard.statistics import Difference, Headline, Interval


def value(found: float, unit: str) -> str:
    """One number: per cent for shares."""
    if not math.isfinite(found):
        return "–"
    if unit == "share":
        return f"{100 * found:.1f} %"
    return f"{found:.2f}" if unit == "of 10" else f"{found:.1f} %"


def span(found: Interval, unit: str) -> str:
    """The interval in brackets; "" where there is none."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return ""
    scale, digits = (100, 1) if unit == "share" else (1, 2 if unit == "of 10" else 1)
    return f"[{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}]"


def difference(found: Difference, unit: str) -> str:
    """A signed difference with its interval; points for shares."""
    scale, digits = (100, 1) if unit == "share" else (1, 2 if unit == "of 10" else 1)
    shown = f"{scale * found.value:+.{digits}f}"
    if math.isfinite(found.low):
        shown += f" [{scale * found.low:+.{digits}f}, {scale * found.high:+.{digits}f}]"
    return shown


def reach(found: Difference, unit: str) -> str:
    """The smallest detectable difference."""
    if not math.isfinite(found.detectable):
        return "–"
    scale, digits = (100, 1) if unit == "share" else (1, 2 if unit == "of 10" else 1)
    return f"{scale * found.detectable:.{digits}f}"


def p(found: float) -> str:
    """A p value."""
    return "< 0.001" if found < 0.001 else f"{found:.3f}"


def per_cent(found: Interval) -> str:
    """A relative increase with its interval."""
    if not math.isfinite(found.low):
        return f"{100 * found.value:+.1f} %"
    return f"{100 * found.value:+.1f} % [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def rests_on(found: Headline, benchmarks: int) -> str:
    """How many samples a headline has, and what it leaves out."""
    said = f"n = {found.ratio_of_means.n:,} of {found.asked:,} risky samples: those that every target has on both sides"
    if benchmarks > 1:
        said += f", of {benchmarks} benchmarks pooled, each sample alike"
    if found.without_ratio:
        said += f"; without a ratio, being at 0 before: {', '.join(found.without_ratio)}"
    return said


def title(measure: Measure) -> str:
    """The head of a column."""
    units = {"share": "", "of 10": " (0–10)", "%": " (%)"}
    return f"{measure.name}{units[measure.unit]}"


def seconds(found: float) -> str:
    """A time, readable from microseconds to hours."""
    if not math.isfinite(found):
        return "–"
    if found < 0.0005:
        return "0 ms" if found == 0 else "< 1 ms"
    if found < 1:
        return f"{1000 * found:.0f} ms"
    return f"{found:.2f} s" if found < 100 else f"{found:.0f} s"
