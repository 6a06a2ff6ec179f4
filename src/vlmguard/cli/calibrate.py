"""``vlmguard calibrate``: thresholds of your own, from traffic that you labelled.

In:  ``{"prompt", "label": "harmful" | "benign", "images": [paths relative to the file]}``, one a line; other fields are left alone.
Out: a policy file (TOML) with ``[thresholds]`` on standard output or in ``--out``; the curve on standard error, in ``--json`` and
in ``--plot``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError, VlmguardError
from vlmguard.jsonl import read_lines
from vlmguard.statistics import wilson

HELP = "propose thresholds for your own traffic from rows that you labelled"

_LABELS = {"harmful": True, "benign": False}
_LOW, _HIGH = 4.0, 0.1
"""The shares of benign requests that reach the levels low and high, as multiples of the share that reaches medium."""
_LEAST = 0.05
"""No lower threshold is proposed for medium: where benign rows all score near zero, the lowest that fits them fits nothing else."""
_STEP = 0.0001
"""How far apart thresholds stand at least; scores have four digits."""
_GRID = (0.05, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
_FEW_HARMFUL = 30


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold does to the rows."""

    threshold: float
    benign_flagged: int
    benign: int
    harmful_flagged: int
    harmful: int

    @property
    def false_positives(self) -> float:
        return self.benign_flagged / self.benign

    @property
    def recall(self) -> float:
        return self.harmful_flagged / self.harmful if self.harmful else math.nan


@dataclass(frozen=True, slots=True)
class Proposal:
    """Thresholds, the curve that they were picked from, and what is to be doubted."""

    low: Point
    medium: Point
    high: Point
    curve: tuple[Point, ...]
    warnings: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``calibrate``."""
    parser.add_argument("--data", type=Path, required=True, metavar="MINE.jsonl", help="rows with 'prompt' and 'label'")
    parser.add_argument(
        "--max-false-positives",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="of benign requests that may be acted on, such as 1%% (the default) or 0.01",
    )
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help="the policy that judges; its thresholds do not matter"
    )
    parser.add_argument(
        "--out", type=Path, metavar="POLICY.toml", help="where to write the proposal (default: print it)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole curve, one point a distinct score")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curve")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0. Raises ``InputError`` for rows that cannot be used, naming the first."""
    rows = _read(arguments.data)
    if not any(not harmful for _, _, harmful in rows):
        raise InputError(f"{arguments.data} has no row labelled 'benign': false positives cannot be counted")
    scores = _scores(rows, arguments.data.resolve().parent, arguments.policy)
    proposal = propose(scores, [harmful for _, _, harmful in rows], arguments.max_false_positives)
    print(table(proposal), file=sys.stderr)
    for warning in proposal.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    toml = as_toml(proposal, arguments.data.name, arguments.max_false_positives)
    try:
        for out in filter(None, (arguments.json, arguments.plot, arguments.out)):
            if out.exists() and out.samefile(arguments.data):
                raise InputError(f"{out} is the data itself: name another file")
        if arguments.json:
            arguments.json.write_text(json.dumps(as_json(proposal), indent=1) + "\n", encoding="utf-8")
        if arguments.plot:
            draw(proposal, arguments.plot)
        if arguments.out:
            arguments.out.write_text(toml, encoding="utf-8")
        else:
            print(toml, end="")
    except OSError as error:
        raise InputError(f"the result cannot be written: {error}") from error
    return 0


def _share(word: str) -> float:
    number = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError("a share lies between 0 and 1, or between 0% and 100%")
    return number


# ---------------------------------------------------------------------------------------------------------------------
# Rows and their scores

_Row = tuple[str, list[str], bool]
"""Prompt, pictures, whether it is harmful."""


def _read(file: Path) -> list[_Row]:
    if not file.is_file():
        raise InputError(f"{file} is not a file")
    rows: list[_Row] = []
    for number, line in read_lines(file):
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}:{number}: {error}") from error
    if not rows:
        raise InputError(f"{file} holds no rows")
    return rows


def _row(row: Any) -> _Row:
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ValueError("a row is an object with a 'prompt' and a 'label'")
    label = row.get("label")
    if not isinstance(label, str) or label not in _LABELS:
        raise ValueError(f"a label is 'harmful' or 'benign', not {label!r}")
    images = row.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("'images' is a list of file names")
    return row["prompt"], images, _LABELS[label]


def _scores(rows: Sequence[_Row], folder: Path, policy: Path | None) -> list[float]:
    """The gravest score of each row, as the embedded rewriter finds it over words and pictures."""
    from vlmguard.cli.panel import progress
    from vlmguard.cli.refine import load_picture
    from vlmguard.policy import load_policy
    from vlmguard.rewriters.embedded import EmbeddedRewriter
    from vlmguard.types import Chat, Message, Text

    rewriter = EmbeddedRewriter(load_policy(policy))
    found: list[float] = []
    with progress(len(rows), "scoring") as advance:
        for number, (prompt, images, _) in enumerate(rows, start=1):
            try:
                pictures = tuple(load_picture(folder / image) for image in images)
                report = rewriter.review(Chat((Message("user", (Text(prompt), *pictures)),))).refinement.report
            except VlmguardError as error:
                raise InputError(f"row {number}: {error}") from error
            found.append(max((finding.score or 0.0 for _, finding in report if finding is not None), default=0.0))
            advance(1)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The proposal


def propose(scores: Sequence[float], harmful: Sequence[bool], most: float) -> Proposal:
    """Thresholds under which at most ``most`` of the benign rows reach the level medium. There must be a benign row."""
    medium = _at(scores, harmful, max(_LEAST, _threshold(scores, harmful, most)))
    low = _at(scores, harmful, min(_threshold(scores, harmful, min(0.5, _LOW * most)), medium.threshold - _STEP))
    high = _at(scores, harmful, max(_threshold(scores, harmful, _HIGH * most), medium.threshold + _STEP))
    values = sorted({*_GRID, low.threshold, medium.threshold, high.threshold, *(round(score, 4) for score in scores)})
    curve = tuple(_at(scores, harmful, value) for value in values)
    return Proposal(low, medium, high, curve, tuple(_warnings(medium, most)))


def _threshold(scores: Sequence[float], harmful: Sequence[bool], most: float) -> float:
    """The lowest threshold that at most this share of the benign rows reaches; away from 0 and 1, where levels have no room."""
    benign = sorted((score for score, bad in zip(scores, harmful, strict=True) if not bad), reverse=True)
    allowed = math.floor(most * len(benign))
    just_above = benign[allowed] + _STEP if allowed < len(benign) else 0.0
    return round(min(max(just_above, 3 * _STEP), 1 - 3 * _STEP), 4)


def _at(scores: Sequence[float], harmful: Sequence[bool], threshold: float) -> Point:
    threshold = round(threshold, 4)
    pairs = list(zip(scores, harmful, strict=True))
    return Point(
        threshold,
        sum(score >= threshold and not bad for score, bad in pairs),
        sum(not bad for _, bad in pairs),
        sum(score >= threshold and bad for score, bad in pairs),
        sum(bad for _, bad in pairs),
    )


def _warnings(medium: Point, most: float) -> list[str]:
    found = []
    worst = wilson(medium.benign_flagged, medium.benign).high
    if worst > 2 * most:
        needed = math.ceil(4 / most)
        found.append(
            f"{medium.benign} benign rows are few for a bound of {most:.2%}: the true share may be {worst:.2%}. "
            f"About {needed} rows would say more."
        )
    if medium.harmful < _FEW_HARMFUL:
        found.append(
            f"only {medium.harmful} harmful rows: recall is hardly known, {_FEW_HARMFUL} are the least to go by."
        )
    if medium.false_positives > most:
        found.append(
            "so many benign rows reach the highest scores that no threshold keeps the bound: look at them before you trust this."
        )
    if medium.harmful and medium.recall < 0.5:
        found.append("more than half of the harmful rows lie below the threshold: consider a higher bound.")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Forms


def as_toml(proposal: Proposal, source: str, most: float) -> str:
    """A policy file that says nothing but the thresholds."""
    medium = proposal.medium
    return (
        f"# Proposed by vlmguard calibrate from {json.dumps(source)}: {medium.benign} benign and {medium.harmful} harmful rows.\n"
        f"# Acted on (medium) of the benign: {_told(medium.benign_flagged, medium.benign)}, asked for at most {most:.2%};\n"
        f"# of the harmful: {_told(medium.harmful_flagged, medium.harmful)}.\n"
        "# Categories with thresholds of their own keep them.\n"
        "[thresholds]\n"
        f"low = {proposal.low.threshold}\n"
        f"medium = {medium.threshold}\n"
        f"high = {proposal.high.threshold}\n"
    )


def as_json(proposal: Proposal) -> dict[str, Any]:
    """The whole curve, with 95 % intervals."""
    return {
        "thresholds": {name: getattr(proposal, name).threshold for name in ("low", "medium", "high")},
        "warnings": list(proposal.warnings),
        "curve": [
            {
                "threshold": point.threshold,
                "false_positives": _figure(point.benign_flagged, point.benign),
                "recall": _figure(point.harmful_flagged, point.harmful),
            }
            for point in proposal.curve
        ],
    }


def _figure(count: int, n: int) -> dict[str, float | None]:
    interval = wilson(count, n)
    return {"count": count, "n": n, "share": count / n if n else None, "low": interval.low, "high": interval.high}


def table(proposal: Proposal) -> str:
    """The curve at round thresholds and at the proposed ones."""
    names = {getattr(proposal, name).threshold: f"<- {name}" for name in ("low", "medium", "high")}
    lines = [f"{'threshold':>9}  {'benign flagged':34}{'harmful flagged':34}"]
    for point in proposal.curve:
        if point.threshold in _GRID or point.threshold in names:
            benign = _told(point.benign_flagged, point.benign)
            harmful = _told(point.harmful_flagged, point.harmful)
            lines.append(f"{point.threshold:9.4f}  {benign:34}{harmful:34}{names.get(point.threshold, '')}".rstrip())
    return "\n".join(lines)


def _told(count: int, n: int) -> str:
    if not n:
        return "none given"
    interval = wilson(count, n)
    return f"{count}/{n} = {count / n:.2%} [{interval.low:.2%}, {interval.high:.2%}]"


def draw(proposal: Proposal, file: Path) -> None:
    """Recall over false positives, the proposed point marked. Raises ``OSError``, ``InputError`` for an unknown file type."""
    from PIL import Image, ImageDraw, ImageFont

    side, edge = 480, 60
    picture = Image.new("RGB", (side + 2 * edge, side + 2 * edge), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)

    def place(point: Point) -> tuple[float, float]:
        recall = 0.0 if math.isnan(point.recall) else point.recall
        return edge + side * math.sqrt(point.false_positives), edge + side * (1 - recall)

    pen.rectangle((edge, edge, edge + side, edge + side), outline="black")
    for tick in (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0):
        x = edge + side * math.sqrt(tick)
        pen.line((x, edge, x, edge + side), fill="#dddddd")
        pen.text((x, edge + side + 6), f"{tick:.0%}", fill="black", font=font, anchor="ma")
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = edge + side * (1 - tick)
        pen.line((edge, y, edge + side, y), fill="#dddddd")
        pen.text((edge - 6, y), f"{tick:.0%}", fill="black", font=font, anchor="rm")
    pen.line([place(point) for point in proposal.curve], fill="#1f77b4", width=3)
    for name, colour in (("low", "#2ca02c"), ("medium", "#ff7f0e"), ("high", "#d62728")):
        x, y = place(getattr(proposal, name))
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour)
        pen.text((x + 10, y + 4), f"{name} {getattr(proposal, name).threshold:.2f}", fill=colour, font=font)
    pen.text(
        (edge + side / 2, side + edge + 30),
        "benign requests flagged (root scale)",
        fill="black",
        font=font,
        anchor="ma",
    )
    pen.text((edge, edge - 30), "harmful requests flagged", fill="black", font=font)
    try:
        picture.save(file)
    except ValueError as error:
        raise InputError(f"{file}: name a picture file such as curve.png ({error})") from error
