"""Charts as SVG, drawn here so that the page needs no script for them. Colours are classes of the style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 10, 26


def stacked(labels: Sequence[str], series: Mapping[str, Sequence[float]], title: str) -> Markup:
    """Bars, one for each label, of what each of ``series`` has there. A series' name is the class of its colour."""
    top = _nice(max((sum(values) for values in zip(*series.values(), strict=True)), default=0))
    pieces = _grid(top)
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    for column in range(len(labels)):
        base = 0.0
        for name, values in series.items():
            if values[column]:
                y, bottom = _y(base + values[column], top), _y(base, top)
                pieces.append(
                    Markup(
                        '<rect class="fill-{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
                    ).format(
                        name,
                        _at(_LEFT + column * step + step * 0.1),
                        _at(y),
                        _at(max(step * 0.8, 0.5)),
                        _at(bottom - y),
                        f"{labels[column]}: {name} {values[column]:,.0f}",
                    )
                )
                base += values[column]
    return _svg(pieces + _ticks(labels), title)


def lines(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str, unit: str = "") -> Markup:
    """A line for each of ``series``, broken where there is no value."""
    top = _nice(max((value for values in series.values() for value in values if value is not None), default=0))
    pieces = _grid(top, unit)
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    for name, values in series.items():
        points = [
            None if value is None else f"{_at(_LEFT + (column + 0.5) * step)},{_at(_y(value, top))}"
            for column, value in enumerate(values)
        ]
        for run in _runs(points):
            if len(run) == 1:
                x, y = run[0].split(",")
                pieces.append(Markup('<circle class="fill-{}" cx="{}" cy="{}" r="3"/>').format(name, x, y))
            else:
                pieces.append(Markup('<polyline class="line-{}" points="{}"/>').format(name, " ".join(run)))
    return _svg(pieces + _ticks(labels), title)


def bars(items: Sequence[tuple[str, float]], title: str) -> Markup:
    """Horizontal bars with their names and values beside them."""
    row, left = 24, _beside([name for name, _ in items])
    top = max((value for _, value in items), default=0) or 1
    pieces: list[Markup] = []
    for number, (name, value) in enumerate(items):
        y = number * row
        width = (WIDTH - left - 70) * value / top
        pieces.append(
            Markup(
                '<text class="label" x="{}" y="{}" text-anchor="end">{}</text>'
                '<rect class="fill-bar" x="{}" y="{}" width="{}" height="{}"/>'
                '<text class="label" x="{}" y="{}">{}</text>'
            ).format(
                left - 8,
                y + 16,
                name,
                left,
                y + 4,
                _at(max(width, 1)),
                row - 8,
                _at(left + width + 6),
                y + 16,
                f"{value:,.0f}",
            )
        )
    return _svg(pieces, title, max(row, row * len(items)))


def waterfall(stages: Mapping[str, float], title: str) -> Markup:
    """Stages one after the other, in milliseconds."""
    row, left = 26, _beside(list(stages))
    total = sum(stages.values()) or 1.0
    pieces: list[Markup] = []
    passed = 0.0
    for number, (name, value) in enumerate(stages.items()):
        x = left + (WIDTH - left - 90) * passed / total
        width = max((WIDTH - left - 90) * value / total, 1.5)
        pieces.append(
            Markup(
                '<text class="label" x="{}" y="{}" text-anchor="end">{}</text>'
                '<rect class="fill-bar" x="{}" y="{}" width="{}" height="16"/>'
                '<text class="label" x="{}" y="{}">{} ms</text>'
            ).format(
                left - 8,
                number * row + 17,
                name,
                _at(x),
                number * row + 4,
                _at(width),
                _at(x + width + 6),
                number * row + 17,
                f"{value:,.2f}",
            )
        )
        passed += value
    return _svg(pieces, title, max(row, row * len(stages)))


# ---------------------------------------------------------------------------------------------------------------------


def _svg(pieces: Sequence[Markup], title: str, height: int = HEIGHT) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(pieces)
    )


def _grid(top: float, unit: str = "") -> list[Markup]:
    pieces = []
    for part in (0.0, 0.5, 1.0):
        y = _at(_y(top * part, top))
        pieces.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(_LEFT, WIDTH - _RIGHT, y, y, _LEFT - 6, _at(_y(top * part, top) + 4), f"{top * part:,g}{unit}")
        )
    return pieces


def _beside(names: Sequence[str]) -> int:
    """Room for the longest of ``names``, in the larger letters of a narrow screen."""
    return min(320, max(100, round(8.6 * max(map(len, names), default=0)) + 12))


def _ticks(labels: Sequence[str]) -> list[Markup]:
    """The first, the middle and the last: more would run into each other on a narrow screen."""
    if not labels:
        return []
    step = (WIDTH - _LEFT - _RIGHT) / len(labels)
    last = len(labels) - 1
    anchors = {0: "start", last // 2: "middle", last: "end"} if last > 1 else {0: "start"}
    return [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            _at(_LEFT + step * (column + {"start": 0, "middle": 0.5, "end": 1}[anchor])),
            HEIGHT - 8,
            anchor,
            labels[column],
        )
        for column, anchor in anchors.items()
    ]


def _runs(points: Sequence[str | None]) -> list[list[str]]:
    runs: list[list[str]] = [[]]
    for point in points:
        if point is not None:
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _y(value: float, top: float) -> float:
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - value / top)


def _at(value: float) -> str:
    return f"{value:.1f}"


def _nice(value: float) -> float:
    """A round number at or above ``value``; 1 for what would show as nothing."""
    if value < 1e-6:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value), value)
