"""Text in pictures: `TextReader` turns pixels into a `Reading` that says what was read and what was not."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vlmguard.perception.detection import Pixels, Quad, Region, heats_of, regions_of, sketch, whole_lines
from vlmguard.perception.fineprint import fine_print
from vlmguard.perception.layout import reading_order
from vlmguard.perception.poses import Attempt, read_regions
from vlmguard.perception.recognition import Recogniser
from vlmguard.perception.scripts import unknown_scripts, without_look_alikes
from vlmguard.perception.sessions import DETECTOR, open_session, weights_path

if TYPE_CHECKING:
    import onnxruntime

Pose = Literal["upright", "rotated", "mirrored"]
UnreadReason = Literal["budget", "script", "unreadable"]
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""Four corner points (x, y) in pixels of the picture, from the text's own top-left on, in the order of the text's own
top-right, bottom-right, bottom-left."""

_NEAR_SIDE = 512  # a sketch has about this many pixels squared, between half and one and a half of the picture's size
_FINE_PRINT = 0.8  # where the sketch is smaller than this, small print is looked for at full size
_FINE_SHARE = 0.16  # of the picture, looked at in full size
_PLAIN = 0.75  # score of a region that the sketch shows well enough
_FINE_LINE = 8  # pixels of the near sketch: lower lines are looked at in full size, however plain
_FAR_SIDE = 224  # the far view, for letters too large for a tile
_FAR_LINE = 14  # pixels of the far view: lower lines are blurs there, and the sketch shows them
_TALL_LINE = 40  # pixels of the sketch: higher regions may be anything, so small print is looked for in them too
_SMALLEST_SCALE = 0.25  # a picture that must be shrunk further is not read whole
_LEGIBLE = ((1, 0.97), (2, 0.9), (4, 0.75))  # so many letters need this worth: texture reads as a letter or two
_LEGIBLE_LINE = 0.6
_RATHER = 0.7  # a line of look-alikes is reported as unread, and from this worth on also with what it was read as
_ECHO = 0.3  # of a line's height: what is lower and stands in it is a line of its own
_TURNED_ECHO = 0.2  # the same for a piece that reads mirrored where the line does not: the bow of a letter
_TOO_SMALL = 12  # pixels: a line that is not understood at this height may be in any script
_UPRIGHT = np.tan(np.radians(15))


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
        """Set what one picture may cost: `max_lines` that are read, `max_pixels` of the sketch that text is looked for in.

        `threads`: cores that reads share. Networks are opened by the first read. Budgets count, they do not measure time,
        so the same picture always reads the same.
        """
        if threads < 1 or max_lines < 1 or max_pixels < 1:
            raise ValueError("threads, max_lines and max_pixels of a TextReader start at 1")
        self._max_lines = max_lines
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="text-reader")
        self._opening = threading.Lock()
        self._opened: tuple[onnxruntime.InferenceSession, Recogniser] | None = None

    def read(self, pixels: Pixels) -> Reading:
        """Read an RGB picture (uint8, height × width × 3)."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ValueError(f"a picture is uint8 of height × width × 3, not {pixels.dtype} of {pixels.shape}")
        detector, recogniser = self._models()
        scale = self._scale(pixels)
        unread = [Unread("budget", None)] if scale < _SMALLEST_SCALE else []
        regions = self._regions(detector, pixels, scale)
        regions.sort(key=lambda region: -region.score * region.size[0])
        unread += [Unread("budget", _box(region.corners())) for region in regions[self._max_lines :]]
        attempts = read_regions(recogniser, pixels, regions[: self._max_lines])
        strange = unknown_scripts(pixels, attempts)
        legible = _in_company([attempt for attempt in attempts if _legible(attempt)])
        unread += [_unread(attempt) for attempt in strange if not _echoed(attempt, legible)]
        read = _without_echoes([attempt for attempt in legible if attempt not in strange or attempt.worth >= _RATHER])
        order = reading_order([attempt.corners for attempt in read], [attempt.letters for attempt in read])
        return Reading(tuple(_line(read[k]) for k in order), tuple(unread))

    def _scale(self, pixels: Pixels) -> float:
        area = pixels.shape[0] * pixels.shape[1]
        wanted = min(1.5, max(0.5, _NEAR_SIDE / area**0.5))
        return float(min(wanted, (self._max_pixels / area) ** 0.5))

    def _regions(self, detector: "onnxruntime.InferenceSession", pixels: Pixels, scale: float) -> list[Region]:
        near = sketch(pixels, scale)
        far_scale = scale * min(1.0, _FAR_SIDE / max(near.shape[:2]))
        far = [sketch(near, far_scale / scale)] if far_scale < scale else []
        heat, *far_heat = heats_of(detector, [near, *far], self._pool)
        regions = regions_of(heat, scale)
        if scale < _FINE_PRINT:
            regions += self._fine_regions(detector, pixels, scale, regions)
        large = [region for seen in far_heat for region in regions_of(seen, far_scale)]
        regions += [region for region in large if region.size[1] * far_scale >= _FAR_LINE]
        return whole_lines(regions)

    def _fine_regions(
        self, detector: "onnxruntime.InferenceSession", pixels: Pixels, scale: float, regions: list[Region]
    ) -> list[Region]:
        plain = [
            region for region in regions if region.score >= _PLAIN and _FINE_LINE <= region.size[1] * scale < _TALL_LINE
        ]
        most = min(_FINE_SHARE * pixels.shape[0] * pixels.shape[1], self._max_pixels / 4)
        areas = fine_print(pixels, plain, most)
        drawn = [sketch(np.ascontiguousarray(pixels[rows, columns]), 1.0) for rows, columns in areas]
        heats = heats_of(detector, drawn, self._pool)
        return [
            region.moved(columns.start, rows.start)
            for heat, (rows, columns) in zip(heats, areas, strict=True)
            for region in regions_of(heat, 1.0)
        ]

    def _models(self) -> "tuple[onnxruntime.InferenceSession, Recogniser]":
        with self._opening:
            if self._opened is None:
                self._opened = open_session(weights_path(DETECTOR)), Recogniser(self._pool)
            return self._opened


def _legible(attempt: Attempt) -> bool:
    needed = next((worth for letters, worth in _LEGIBLE if attempt.letters <= letters), _LEGIBLE_LINE)
    return attempt.worth >= needed


def _in_company(legible: list[Attempt]) -> list[Attempt]:
    """Without lone ideographs where no line of such letters stands: windows, crosses and frames read as 田, 十 and 口."""
    if any(attempt.letters > 1 and not attempt.read.text.isascii() for attempt in legible):
        return legible
    return [attempt for attempt in legible if attempt.letters > 1 or attempt.read.text.strip().isascii()]


def _unread(attempt: Attempt) -> Unread:
    return Unread("unreadable" if attempt.region.size[1] < _TOO_SMALL else "script", _box(attempt.corners))


def _echoed(attempt: Attempt, legible: list[Attempt]) -> bool:
    """Tell whether other views read what stands in the region better."""
    better = [a for a in legible if a.worth > attempt.worth + 0.05 and attempt.region.holds(a.region)]
    return sum(a.region.size[0] for a in better) >= 0.5 * attempt.region.size[0]


def _without_echoes(attempts: list[Attempt]) -> list[Attempt]:
    """Drop what another view showed better: blocks whose lines were read, then pieces of a line that was read whole."""

    def is_block(block: Attempt) -> bool:
        low = [a for a in attempts if a.region.size[1] < 0.6 * block.region.size[1]]
        return sum(line.letters for line in low if block.region.holds(line.region)) > block.letters

    lines = [attempt for attempt in attempts if not is_block(attempt)]

    def is_echo(piece: Attempt) -> bool:
        return any(
            whole is not piece
            and whole.region.holds(piece.region)
            and piece.region.size[0] < whole.region.size[0]
            and piece.region.size[1]
            >= (_ECHO if piece.mirrored == whole.mirrored else _TURNED_ECHO) * whole.region.size[1]
            and piece.worth <= whole.worth + 0.05
            and piece.letters <= whole.letters
            for whole in lines
        )

    return [line for line in lines if not is_echo(line)]


def _line(attempt: Attempt) -> Line:
    along = attempt.corners[1] - attempt.corners[0]
    level = along[0] > 0 and abs(along[1]) <= _UPRIGHT * along[0]
    pose: Pose = "mirrored" if attempt.mirrored else "upright" if level else "rotated"
    return Line(without_look_alikes(attempt.read.text), _box(attempt.corners), attempt.read.confidence, pose)


def _box(corners: Quad | Iterable[Iterable[float]]) -> Box:
    a, b, c, d = ((float(x), float(y)) for x, y in corners)
    return a, b, c, d
