"""The length–quality curve: how long a rewriter's greedy traces on held-out rows are after each round, and how good."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmguard.errors import MissingExtraError
from vlmguard.statistics import Interval, mean, share
from vlmguard.train.pairs import Candidate
from vlmguard.train.run import write_json

CHOSEN = (
    "the round with the most right traces of these held-out rows, of equals the shortest; round 0 = what was begun with"
)
"""How the round that is handed over is chosen: on the rows of the intervals, so that its own flatters it a little."""


@dataclass(frozen=True, slots=True)
class Held:
    """A held-out row and what the rewriter said of it."""

    candidate: Candidate
    benign: bool
    group: str


@dataclass(frozen=True, slots=True)
class Measures:
    """A rewriter after a round; round 0 is the one that was begun with."""

    round: int
    right: Interval
    """Share of traces that serving takes, with the right decision, and with a good outcome where that was judged."""
    sound: Interval
    """Share of traces that serving takes."""
    forward: Interval
    """Share of benign rows that are forwarded."""
    caught: Interval
    """Share of risky rows that are not."""
    outcome: Interval
    """Share of rows whose answer is safe and helpful, or whose risk the policy blocks unasked, of those that were judged."""
    tokens: Interval
    """Mean length of a trace."""

    def form(self) -> dict[str, Any]:
        """As JSON: what is no number is ``null``."""
        form = asdict(self)
        for value in form.values():
            if isinstance(value, dict):
                value |= {
                    key: None for key, number in value.items() if isinstance(number, float) and math.isnan(number)
                }
        return form


def measure(round: int, held: Sequence[Held]) -> Measures:
    """Shares with Wilson's interval, the mean length with a bootstrap's, both by groups of rows that share a picture."""

    def part(rows: Sequence[Held], of: Callable[[Candidate], bool]) -> Interval:
        return share([of(row.candidate) for row in rows], [row.group for row in rows])

    return Measures(
        round,
        right=part(held, lambda one: one.right),
        sound=part(held, lambda one: one.sound),
        forward=part([row for row in held if row.benign], lambda one: one.sound and one.decided),
        caught=part([row for row in held if not row.benign], lambda one: one.sound and one.decided),
        outcome=part([row for row in held if row.candidate.outcome is not None], lambda one: bool(one.outcome)),
        tokens=mean([float(row.candidate.tokens) for row in held], [row.group for row in held]),
    )


def best(curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The round with the most right traces, round 0 among them; of equals the shortest, then the earliest."""
    return min(curve, key=lambda one: (-one["right"]["value"], one["tokens"]["value"], one["round"]))


def write_curve(curve: Sequence[dict[str, Any]], folder: Path) -> None:
    """Writes ``curve.json`` and ``curve.png``. Raises ``MissingExtraError``."""
    write_json(folder / "curve.json", list(curve))
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a plot", "train") from error
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    lines = [("right", "#1f6f8b", "right: taken by serving, right decision, good outcome")]
    if any(one["outcome"]["n"] for one in curve):
        lines.append(("outcome", "#c0563b", "the target's answer is safe and helpful, or a risk is blocked"))
    for name, ink, label in lines:
        points = [one for one in curve if one[name]["value"] is not None]
        x = [one["tokens"]["value"] for one in points]
        y = [100 * one[name]["value"] for one in points]
        axes.plot(x, y, color=ink, linewidth=1, alpha=0.5)
        axes.errorbar(
            x, y, fmt="o", color=ink, capsize=3, label=label,
            xerr=_reach(points, "tokens", 1), yerr=_reach(points, name, 100),
        )  # fmt: skip
    for one in curve:
        x, y = one["tokens"]["value"], 100 * one["right"]["value"]
        axes.annotate(f"round {one['round']}", (x, y), textcoords="offset points", xytext=(7, 7), fontsize=9)
    axes.set_xlabel(f"tokens of a trace, mean over {curve[0]['tokens']['n']} held-out rows (shorter is to the left)")
    axes.set_ylabel("held-out rows, %")
    axes.set_ylim(-4, 108)
    axes.set_title("Length and quality, with 95 % intervals (of the rows that choose the round)", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", fontsize=8)
    figure.savefig(folder / "curve.png", dpi=150)


def _reach(points: Sequence[dict[str, Any]], name: str, scale: float) -> list[list[float]]:
    """How far intervals reach below and above their values; 0 where there is none."""
    sides = [
        (0.0, 0.0)
        if one[name]["low"] is None or one[name]["high"] is None
        else (max(0.0, one[name]["value"] - one[name]["low"]), max(0.0, one[name]["high"] - one[name]["value"]))
        for one in points
    ]
    return [[scale * low for low, _ in sides], [scale * high for _, high in sides]]
