"""Owns intervals: no share is told without one."""

from __future__ import annotations

import math


def wilson(count: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share (Wilson's score interval; 95 % by default). (0, 1) where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p, spread = count / n, z * z / n
    middle = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt((p * (1 - p) + spread / 4) / n) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
