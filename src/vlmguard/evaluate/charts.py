"""Pictures of a report, as SVG text: an interval on a line, safety beside helpfulness with its front, bars per category."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from vlmguard.statistics import Interval

Scale = Callable[[float], float]

COLOURS = ("#7b8794", "#0f766e", "#ea580c", "#2563eb", "#a21caf", "#ca8a04", "#65a30d", "#e11d48", "#6d28d9", "#0891b2")
"""Of defences, in their order: grey for none, our own green first, then far apart in hue."""


def colour(place: int) -> str:
    """The colour of the defence at a place."""
    return COLOURS[place % len(COLOURS)] if place < len(COLOURS) else COLOURS[1 + place % (len(COLOURS) - 1)]


def interval(found: Interval, top: float, ink: str) -> str:
    """A dot on a line from 0 to ``top``, with its interval."""
    if not math.isfinite(found.value):
        return ""
    width, height = 72, 12

    def x(value: float) -> float:
        return 2 + (width - 4) * max(0.0, min(1.0, value / top))

    line = f'<line x1="2" x2="{width - 2}" y1="6" y2="6" class="rule"/>'
    whisker = ""
    if math.isfinite(found.low) and math.isfinite(found.high):
        whisker = (
            f'<line x1="{x(found.low):.1f}" x2="{x(found.high):.1f}" y1="6" y2="6" stroke="{ink}" stroke-width="4"'
            ' stroke-linecap="round" opacity=".35"/>'
        )
    dot = f'<circle cx="{x(found.value):.1f}" cy="6" r="3.2" fill="{ink}"/>'
    return f'<svg class="interval" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{line}{whisker}{dot}</svg>'


@dataclass(frozen=True, slots=True)
class Point:
    """A defence in the plane of help and safety."""

    label: str
    x: Interval
    """Help, 0–1."""
    y: Interval
    """Safety, 0–1."""
    ink: str


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in one respect without losing in the other, from left to right."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.x.value, -point.y.value)):
        if not best or point.y.value > best[-1].y.value:
            best.append(point)
    return best[::-1]


def scatter(points: Sequence[Point], title: str, x_name: str, y_name: str) -> str:
    """Safety over help with intervals and the Pareto front; what is up and to the right is better."""
    width, height, left, bottom, top, right = 470, 360, 52, 46, 34, 22
    x_from, y_from = _start([point.x for point in points]), _start([point.y for point in points])

    def x(value: float) -> float:
        return left + (width - left - right) * max(0.0, min(1.0, (value - x_from) / (1 - x_from)))

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * max(0.0, min(1.0, (value - y_from) / (1 - y_from)))

    parts = [f'<text x="{left}" y="18" class="title">{escape(title)}</text>']
    for step in range(6):
        at_x, at_y = x_from + (1 - x_from) * step / 5, y_from + (1 - y_from) * step / 5
        parts.append(f'<line x1="{x(at_x):.1f}" x2="{x(at_x):.1f}" y1="{y(y_from):.1f}" y2="{y(1):.1f}" class="grid"/>')
        parts.append(f'<line x1="{x(x_from):.1f}" x2="{x(1):.1f}" y1="{y(at_y):.1f}" y2="{y(at_y):.1f}" class="grid"/>')
        parts.append(
            f'<text x="{x(at_x):.1f}" y="{height - bottom + 16}" class="tick" text-anchor="middle">{100 * at_x:.0f}</text>'
            f'<text x="{left - 8}" y="{y(at_y) + 4:.1f}" class="tick" text-anchor="end">{100 * at_y:.0f}</text>'
        )
    parts.append(
        f'<text x="{(left + width - right) / 2:.1f}" y="{height - 8}" class="axis" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(14 {(top + height - bottom) / 2:.1f}) rotate(-90)" class="axis" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    best = front(points)
    if len(best) > 1:
        path = " ".join(f"{x(point.x.value):.1f},{y(point.y.value):.1f}" for point in best)
        parts.append(f'<polyline points="{path}" class="front"/>')
    for point in points:
        px, py = x(point.x.value), y(point.y.value)
        for low, high, flat in ((point.x.low, point.x.high, True), (point.y.low, point.y.high, False)):
            if math.isfinite(low) and math.isfinite(high):
                x1, x2, y1, y2 = (x(low), x(high), py, py) if flat else (px, px, y(low), y(high))
                parts.append(
                    f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{point.ink}" opacity=".4"'
                    ' stroke-width="1.5"/>'
                )
        ring = ' stroke-width="2.5" stroke="var(--ground)"'
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="6.5" fill="{point.ink}"{ring}/>')
    parts += _labels(points, x, y, width)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _labels(points: Sequence[Point], x: Scale, y: Scale, width: float) -> list[str]:
    """Names beside the dots, moved apart where they would cover each other."""
    placed: list[tuple[float, float, float]] = []
    parts: list[str] = []
    for point in sorted(points, key=lambda point: y(point.y.value)):
        px, py = x(point.x.value), y(point.y.value)
        long = 7.2 * len(point.label)
        to_left = px + 12 + long > width - 10
        start, end = (px - 12 - long, px - 12) if to_left else (px + 12, px + 12 + long)
        ty = py + 4
        while any(abs(ty - other) < 14 and start < right and begin < end for begin, right, other in placed):
            ty += 2
        placed.append((start, end, ty))
        if ty > py + 14:
            corner = end + 2 if to_left else start - 2
            parts.append(
                f'<line x1="{px:.1f}" y1="{py:.1f}" x2="{corner:.1f}" y2="{ty - 4:.1f}" stroke="{point.ink}" opacity=".5"/>'
            )
        anchor = "end" if to_left else "start"
        parts.append(
            f'<text x="{end if to_left else start:.1f}" y="{ty:.1f}" class="label" text-anchor="{anchor}" fill="{point.ink}">'
            f"{escape(point.label)}</text>"
        )
    return parts


def _start(spread: Sequence[Interval]) -> float:
    """Where an axis that ends at 1 begins, so that the points fill it: a multiple of 0.25."""
    lowest = min(min(found.value, found.low) if math.isfinite(found.low) else found.value for found in spread)
    return max(0.0, min(0.75, math.floor(4 * lowest) / 4))


@dataclass(frozen=True, slots=True)
class Group:
    """A category with a bar per defence."""

    label: str
    bars: tuple[tuple[str, Interval], ...]
    """(colour, share or score)."""


def bars(groups: Sequence[Group], top: float, unit: str) -> str:
    """Bars per category, intervals on them, the value at their end."""
    width, left, right, thick, gap = 720, 210, 64, 11, 12
    height = sum(len(group.bars) * (thick + 2) + gap for group in groups) + 26

    def x(value: float) -> float:
        return left + (width - left - right) * max(0.0, min(1.0, value / top))

    parts: list[str] = []
    for step in range(5):
        share = top * step / 4
        shown = f"{share:g}" if top != 1 else f"{100 * share:.0f}"
        parts.append(f'<line x1="{x(share):.1f}" x2="{x(share):.1f}" y1="4" y2="{height - 20}" class="grid"/>')
        parts.append(f'<text x="{x(share):.1f}" y="{height - 5}" class="tick" text-anchor="middle">{shown}</text>')
    at = 8.0
    for group in groups:
        block = len(group.bars) * (thick + 2)
        n = group.bars[0][1].n if group.bars else 0
        name = escape(group.label if len(group.label) <= 30 else f"{group.label[:29]}…")
        parts.append(
            f'<text x="{left - 10}" y="{at + block / 2 + 3:.1f}" class="category" text-anchor="end">{name}'
            f' <tspan class="tick">n={n}</tspan></text>'
        )
        for ink, found in group.bars:
            middle = at + thick / 2
            wide = max(1.0, x(found.value) - left)
            parts.append(
                f'<rect x="{left}" y="{at:.1f}" width="{wide:.1f}" height="{thick}" rx="2.5" fill="{ink}" opacity=".85"/>'
            )
            if math.isfinite(found.low) and math.isfinite(found.high):
                parts.append(
                    f'<line x1="{x(found.low):.1f}" x2="{x(found.high):.1f}" y1="{middle:.1f}" y2="{middle:.1f}" class="whisker"/>'
                )
            shown = f"{100 * found.value:.0f} %" if unit == "share" else f"{found.value:.1f}"
            parts.append(f'<text x="{width - right + 10}" y="{middle + 4:.1f}" class="tick">{shown}</text>')
            at += thick + 2
        at += gap
    return f'<svg class="chart wide" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
