"""Where text stands in a picture: the detection network and the boxes drawn around what it lights up."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

Pixels = NDArray[np.uint8]
"""RGB, height × width × 3."""
Quad = NDArray[np.float32]
"""4 × 2 corner points (x, y) in pixels of the picture."""


@dataclass(frozen=True, slots=True)
class Region:
    """A place that looks like a line of text."""

    corners: Quad
    """Clockwise in the picture, the first edge along the longer side."""
    score: float
    """Mean of the detector's map inside, 0..1."""


def detect(session: "onnxruntime.InferenceSession", pixels: Pixels, scale: float) -> list[Region]:
    """Run the detector on the picture resized by `scale` and return its regions, in pixels of the picture."""
    import cv2

    height, width = pixels.shape[:2]
    size = (max(32, round(width * scale / 32) * 32), max(32, round(height * scale / 32) * 32))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    blob = (small.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    heat: NDArray[np.float32] = session.run(None, {"x": np.ascontiguousarray(blob)})[0][0, 0]
    ratio = np.array([width / size[0], height / size[1]], np.float32)
    return _regions(heat, ratio)


def _regions(heat: NDArray[np.float32], ratio: NDArray[np.float32]) -> list[Region]:
    import cv2

    mask = (heat > 0.3).astype(np.uint8)
    found: list[Region] = []
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        centre, (w, h), angle = cv2.minAreaRect(contour)
        if min(w, h) < 3:
            continue
        score = _mean_inside(heat, cv2.boxPoints((centre, (w, h), angle)))
        if score < 0.5:
            continue
        grow = 1.6 * w * h / (w + h)
        corners: Any = cv2.boxPoints((centre, (w + grow, h + grow), angle))
        if w + grow < h + grow:
            corners = np.roll(corners, 1, axis=0)
        found.append(Region((corners * ratio).astype(np.float32), score))
    return found


def _mean_inside(heat: NDArray[np.float32], corners: Any) -> float:
    import cv2

    low = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    high = np.ceil(corners.max(0)).astype(int) + 1
    patch = heat[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(patch.shape, np.uint8)
    cv2.fillPoly(mask, [np.round(corners - low).astype(np.int32)], 1)
    return float(cv2.mean(patch, mask)[0])
