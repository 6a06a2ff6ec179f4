"""The order in which a person reads lines: columns of prose one after the other, rows from top to bottom, left to right."""

from collections.abc import Sequence

import numpy as np

from vlmguard.perception.detection import Quad

_PROSE = 5.0  # a column of lines at least this many times as long as high is read to its end before the next


def reading_order(quads: Sequence[Quad], letters: Sequence[int]) -> list[int]:
    """Order boxes (corners from the text's own top-left on); the direction of the line with most letters is horizontal."""
    if not quads:
        return []
    main = quads[max(range(len(quads)), key=lambda k: letters[k])]
    across, down = main[1] - main[0], main[3] - main[0]
    turn = np.array([across / np.hypot(*across), down / np.hypot(*down)])
    spans = np.array([[*(quad @ turn.T).min(0), *(quad @ turn.T).max(0)] for quad in quads])
    return _ordered(spans, list(range(len(quads))))


def _ordered(spans: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", which: list[int]) -> list[int]:
    columns = _columns(spans, which)
    if columns:
        return [k for column in columns for k in _ordered(spans, column)]
    ordered: list[int] = []
    row: list[int] = []
    for k in sorted(which, key=lambda k: spans[k, 1] + spans[k, 3]):
        middle = (spans[k, 1] + spans[k, 3]) / 2
        if row and not (spans[row[0], 1] < middle < spans[row[0], 3]):
            ordered += sorted(row, key=lambda j: spans[j, 0])
            row = []
        row.append(k)
    return ordered + sorted(row, key=lambda j: spans[j, 0])


def _columns(spans: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", which: list[int]) -> list[list[int]]:
    """Split at the first gutter as wide as a line is high, if prose of three lines or more stands on both sides."""
    heights = spans[which, 3] - spans[which, 1]
    gutter = float(np.median(heights))
    by_left = sorted(which, key=lambda k: spans[k, 0])
    right = -np.inf
    for at, k in enumerate(by_left):
        if spans[k, 0] - right >= gutter and all(_is_prose(spans, side) for side in (by_left[:at], by_left[at:])):
            return [by_left[:at], by_left[at:]]
        right = max(right, spans[k, 2])
    return []


def _is_prose(spans: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", side: list[int]) -> bool:
    if len(side) < 3:
        return False
    widths, heights = spans[side, 2] - spans[side, 0], spans[side, 3] - spans[side, 1]
    return float(np.median(widths / heights)) >= _PROSE
