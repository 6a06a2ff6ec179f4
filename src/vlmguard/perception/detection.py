"""Where text stands in a picture: an evenly lit sketch of it, the detection network in tiles, boxes around what lights up.

The map comes from DBNet-like shrunken text kernels (Liao et al. 2020, "Real-time Scene Text Detection with
Differentiable Binarization"), so a box grows by `_GROWTH` of area / perimeter, as the network was trained.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

Pixels = NDArray[np.uint8]
"""RGB, height × width × 3."""
Quad = NDArray[np.float32]
"""4 × 2 corner points (x, y) in pixels of the picture."""
Heat = NDArray[np.float32]
_Tile = tuple[slice, slice, slice, slice]
"""Rows and columns that a tile sees, and those that are its own."""

_GRID = 32  # the network halves its input five times
_TILE = 288  # tiles of this height stay in the processor's cache; the widest is _TILE_WIDTH
_TILE_WIDTH = 544
_CONTEXT = 32  # what a tile sees beyond its own part
_LIT = 0.3
_SURE = 0.45
_GROWTH = 1.6
_SQUARISH = 1.5
_SAME_VIEW = 0.75  # share of the longer one that two views of one line have in common
_VIEWS_DIFFER = 2.5  # how much taller one view's box may be
_PIECES_DIFFER = 1.6
_SAME_ANGLE = 0.12  # sine of the angle between two pieces of a line
_SAME_LINE = 0.35  # of the height: how far the middle of a piece may lie off its line
_NEIGHBOURHOOD = 31  # of the even light, in pixels of the sketch: wider than a letter
_FAINTEST = 2.0  # grey levels; a smaller deviation is noise of the encoder and stays faint
_HEADROOM = 0.7  # of the light and dark of whole neighbourhoods, so that raised contrast is not cut off
_LIVELY = 25.0  # grey levels of deviation that are never raised further


@dataclass(frozen=True, slots=True)
class Region:
    """A place that looks like a line of text: a rectangle, turned by any angle."""

    centre: tuple[float, float]
    size: tuple[float, float]
    """Along the line and across it."""
    angle: float
    """Radians, of the longer side, clockwise, in (-π/2, π/2]."""
    score: float
    """Mean of the detector's map inside, 0..1."""

    @property
    def is_squarish(self) -> bool:
        """Whether it may hold a letter or two, so that its longer side says nothing about its direction."""
        return self.size[0] < _SQUARISH * self.size[1]

    def corners(self, turn: int = 0, mirrored: bool = False) -> Quad:
        """Corner points from the text's own top-left on, if it is turned by `turn` quarters from `angle`."""
        along = np.array([np.cos(self.angle), np.sin(self.angle)]) * self.size[0] / 2
        across = np.array([-np.sin(self.angle), np.cos(self.angle)]) * self.size[1] / 2
        points = np.array([-along - across, along - across, along + across, across - along]) + self.centre
        points = np.roll(points, -turn, axis=0)
        return (points[[1, 0, 3, 2]] if mirrored else points).astype(np.float32)

    def moved(self, right: float, down: float) -> "Region":
        """The region in a picture that this one is a part of."""
        return replace(self, centre=(self.centre[0] + right, self.centre[1] + down))

    def holds(self, other: "Region") -> bool:
        """Tell whether the other one's centre lies in this one."""
        along, across = self._offset(other)
        return abs(along) * 2 <= self.size[0] and abs(across) * 2 <= self.size[1]

    def joined(self, other: "Region") -> "Region | None":
        """One region over both if they are pieces of one line that touch, or views of one line, else None."""
        along, across = self._offset(other)
        overlap = (self.size[0] + other.size[0]) / 2 - abs(along)
        taller = max(self.size[1], other.size[1]) / min(self.size[1], other.size[1])
        same_view = overlap >= _SAME_VIEW * max(self.size[0], other.size[0])
        if overlap <= 0 or taller > (_VIEWS_DIFFER if same_view else _PIECES_DIFFER):
            return None
        if abs(np.sin(self.angle - other.angle)) > _SAME_ANGLE or abs(across) > _SAME_LINE * self.size[1]:
            return None
        if same_view and other.size[1] < self.size[1]:
            return other._over(self)  # a coarser view only draws its box larger
        return self._over(other)

    def _offset(self, other: "Region") -> tuple[float, float]:
        """Where the other one's centre lies along and across this line."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        x, y = other.centre[0] - self.centre[0], other.centre[1] - self.centre[1]
        return x * cos + y * sin, y * cos - x * sin

    def _over(self, other: "Region") -> "Region":
        """This line, long enough to reach over the other one."""
        along, _ = self._offset(other)
        start = min(-self.size[0] / 2, along - other.size[0] / 2)
        end = max(self.size[0] / 2, along + other.size[0] / 2)
        x, y = np.cos(self.angle) * (start + end) / 2, np.sin(self.angle) * (start + end) / 2
        centre = (self.centre[0] + float(x), self.centre[1] + float(y))
        return Region(centre, (end - start, self.size[1]), self.angle, max(self.score, other.score))


def whole_lines(regions: list[Region]) -> list[Region]:
    """Join what is one line, found in pieces or in several views; the longest piece gives height and angle."""
    lines: list[Region] = []
    for region in sorted(regions, key=lambda region: -region.size[0]):
        for k, line in enumerate(lines):
            union = line.joined(region)
            if union is not None:
                lines[k] = union
                break
        else:
            lines.append(region)
    return lines if len(lines) == len(regions) else whole_lines(lines)


def sketch(pixels: Pixels, scale: float) -> Pixels:
    """Resize by `scale` and light evenly: where contrast is small nearby, it is raised, so six grey levels suffice."""
    import cv2

    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != (width, height):
        pixels = np.asarray(
            cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR),
            np.uint8,
        )
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    window = (_NEIGHBOURHOOD, _NEIGHBOURHOOD)
    level = cv2.blur(grey, window)
    spread = np.sqrt(np.maximum(cv2.blur(grey * grey, window) - level * level, _FAINTEST**2))
    gain = np.maximum(_LIVELY / spread, 1)
    if gain.max() == 1:
        return pixels
    mean = cv2.blur(pixels, window).astype(np.float32)
    lit = (pixels - mean) * gain[..., None] + (mean - 128) * _HEADROOM + 128
    return np.asarray(lit.clip(0, 255), np.uint8)


def heats_of(session: "onnxruntime.InferenceSession", drawn: Sequence[Pixels], pool: Executor) -> list[Heat]:
    """Map of each sketch how much a pixel looks like the core of a text line, 0..1. All tiles of all of them share the pool."""
    padded = [
        np.pad(one, ((0, -one.shape[0] % _GRID), (0, -one.shape[1] % _GRID), (0, 0)), mode="edge") for one in drawn
    ]
    heats = [np.zeros(one.shape[:2], np.float32) for one in padded]

    def fill(task: tuple[int, _Tile]) -> None:
        which, (top, left, inner_top, inner_left) = task
        part = padded[which][top, left]
        if int(part.max()) - int(part.min()) < 2 * _FAINTEST:
            return
        blob = np.ascontiguousarray(part.transpose(2, 0, 1)[None], np.float32)
        blob /= 127.5
        blob -= 1
        seen: Heat = session.run(None, {"x": blob})[0][0, 0]
        heats[which][inner_top, inner_left] = seen[
            inner_top.start - top.start : inner_top.stop - top.start,
            inner_left.start - left.start : inner_left.stop - left.start,
        ]

    list(pool.map(fill, ((which, tile) for which, one in enumerate(padded) for tile in _tiles(*one.shape[:2]))))
    return [heat[: one.shape[0], : one.shape[1]] for heat, one in zip(heats, drawn, strict=True)]


def regions_of(heat: Heat, scale: float) -> list[Region]:
    """Draw boxes around the lit parts of a map, in pixels of the picture that was drawn at `scale`."""
    import cv2

    found: list[Region] = []
    contours, nesting = cv2.findContours((heat > _LIT).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for index, contour in enumerate(contours):
        if nesting[0][index][3] != -1:  # the rim of a hole
            continue
        (x, y), (along, across), degrees = cv2.minAreaRect(contour)
        if min(along, across) < 1.5 or max(along, across) < 4:
            continue
        score = _mean_inside(heat, contour)
        if score < _SURE:
            continue
        if along < across:
            along, across, degrees = across, along, degrees + 90
        if along < _SQUARISH * across and abs((degrees + 90) % 180 - 90) > 45:
            along, across, degrees = across, along, degrees + 90
        growth = _GROWTH * along * across / (along + across)
        size = ((along + growth) / scale, (across + growth) / scale)
        angle = np.radians(90 - (90 - degrees) % 180)
        found.append(Region(((x + 0.5) / scale, (y + 0.5) / scale), size, float(angle), score))
    return found


def _tiles(height: int, width: int) -> Iterator[_Tile]:
    """Yield (rows, columns) that a tile sees and (rows, columns) that are its own; all are multiples of the grid."""
    for top in _shares(height, _TILE):
        for left in _shares(width, _TILE_WIDTH):
            yield _with_context(top, height), _with_context(left, width), top, left


def _shares(length: int, most: int) -> Iterator[slice]:
    step = length if length <= most else ceil(length / ceil(length / (most - _CONTEXT)) / _GRID) * _GRID
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _with_context(own: slice, length: int) -> slice:
    return slice(max(0, own.start - _CONTEXT), min(length, own.stop + _CONTEXT))


def _mean_inside(heat: Heat, contour: NDArray[np.int32]) -> float:
    import cv2

    x, y, width, height = cv2.boundingRect(contour)
    mask = np.zeros((height, width), np.uint8)
    cv2.drawContours(mask, [contour - (x, y)], -1, 1, cv2.FILLED)
    return float(cv2.mean(heat[y : y + height, x : x + width], mask)[0])
