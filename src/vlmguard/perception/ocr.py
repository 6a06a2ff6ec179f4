"""Text in pictures: `TextReader` turns pixels into a `Reading` that says what was read and what was not."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlmguard.perception.detection import Pixels, Quad, detect
from vlmguard.perception.recognition import Recogniser
from vlmguard.perception.sessions import DETECTOR, RECOGNISER, open_session, weights_path

Pose = Literal["upright", "rotated", "mirrored"]
UnreadReason = Literal["budget", "script", "unreadable"]
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""Four corner points (x, y) in pixels of the picture, from the text's own top-left on, in the order of the text's own
top-right, bottom-right, bottom-left."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text that was read."""

    text: str
    box: Box
    confidence: float
    """Mean probability of its characters, 0..1."""
    pose: Pose
    """How it stood in the picture: upright (within 15 degrees), rotated, or mirrored."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A place that was not read, and why."""

    reason: UnreadReason
    box: Box | None
    """None: no single place, but the whole picture."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader saw in one picture."""

    lines: tuple[Line, ...]
    """In reading order."""
    unread: tuple[Unread, ...]

    @property
    def text(self) -> str:
        """The lines joined by newlines."""
        return "\n".join(line.text for line in self.lines)


class TextReader:
    """Reads text in pictures, in any direction. Construct once; `read` may be called from many threads."""

    def __init__(self, *, threads: int = 2, max_lines: int = 256, max_pixels: int = 4_000_000) -> None:
        """`threads`: cores one read may use. `max_lines`, `max_pixels`: what one picture may cost; the rest is unread."""
        if threads < 1 or max_lines < 1 or max_pixels < 1:
            raise ValueError("threads, max_lines and max_pixels of a TextReader start at 1")
        self._threads = threads
        self._max_lines = max_lines
        self._max_pixels = max_pixels
        self._opening = threading.Lock()
        self._opened: tuple[Any, Recogniser] | None = None

    def read(self, pixels: Pixels) -> Reading:
        """Read an RGB picture (uint8, height × width × 3)."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ValueError(f"a picture is uint8 of height × width × 3, not {pixels.dtype} of {pixels.shape}")
        detector, recogniser = self._models()
        height, width = pixels.shape[:2]
        scale = min(1.0, (self._max_pixels / (height * width)) ** 0.5)
        regions = detect(detector, pixels, scale)
        order = sorted(regions, key=lambda region: (round(region.corners[:, 1].mean() / 12), region.corners[:, 0].min()))
        lines: list[Line] = []
        unread = [Unread("budget", _box(region.corners)) for region in order[self._max_lines :]]
        for region in order[: self._max_lines]:
            text, confidence, corners, mirrored = recogniser.read_any_way(pixels, region.corners)
            if confidence >= 0.5 and text.strip():
                lines.append(Line(text, _box(corners), confidence, _pose(corners, mirrored)))
        return Reading(tuple(lines), tuple(unread))

    def _models(self) -> tuple[Any, Recogniser]:
        with self._opening:
            if self._opened is None:
                detector = open_session(weights_path(DETECTOR), self._threads)
                self._opened = detector, Recogniser(open_session(weights_path(RECOGNISER), self._threads))
            return self._opened


def _pose(corners: Quad, mirrored: bool) -> Pose:
    if mirrored:
        return "mirrored"
    along = corners[1] - corners[0]
    return "upright" if along[0] > 0 and abs(along[1]) <= 0.27 * along[0] else "rotated"


def _box(corners: Quad | Sequence[Sequence[float]]) -> Box:
    a, b, c, d = ((float(x), float(y)) for x, y in corners)
    return a, b, c, d
