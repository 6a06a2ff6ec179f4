"""Where small print may stand that a half-size sketch loses: the few places worth a look at full size.

Letters are strokes a few pixels apart, so a line of them is a long, narrow window full of second differences with less
around it. That ranks print above foliage, gravel and fur well enough to look at a tenth of a picture only.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vlmguard.perception.detection import Pixels, Region

_CELL = 4  # pixels of the picture per cell of the stroke map
_BLOCK = 16  # cells
_WINDOWS = ((16, 3), (3, 16), (8, 8))  # cells: a line along, a line upright, a line aslant
_CONTEXT = 24  # pixels kept around the blocks chosen
_FAINTEST = 5.0  # of the ranking; flat ground and soft gradients stay below

Area = tuple[slice, slice]
"""Rows and columns of the picture."""


def fine_print(pixels: Pixels, known: Iterable[Region], most: float) -> list[Area]:
    """Return the areas likeliest to hold small print besides the known regions, `most` pixels in all."""
    import cv2

    strokes = _stroke_map(pixels)
    for region in known:
        # what the sketch showed plainly needs no second look
        cv2.fillPoly(strokes, [np.round(region.corners() / _CELL).astype(np.int32)], 0.0)
    rank = np.max([cv2.blur(strokes, window) - cv2.blur(strokes, _around(window)) for window in _WINDOWS], axis=0)
    blocks = _block_maxima(rank)
    chosen = np.zeros(blocks.shape, np.uint8)
    areas: list[Area] = []
    for index in np.argsort(-blocks, axis=None, kind="stable"):
        row, column = divmod(int(index), blocks.shape[1])
        if blocks[row, column] < _FAINTEST:
            break
        chosen[row, column] = 1
        grown = _areas(chosen, pixels.shape[:2])
        if sum((y.stop - y.start) * (x.stop - x.start) for y, x in grown) > most:
            break
        areas = grown
    return areas


def _stroke_map(pixels: Pixels) -> NDArray[np.float32]:
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    differences = cv2.convertScaleAbs(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))
    height, width = grey.shape
    size = (max(1, width // _CELL), max(1, height // _CELL))
    return np.asarray(cv2.resize(np.minimum(differences, 160), size, interpolation=cv2.INTER_AREA), np.float32)


def _around(window: tuple[int, int]) -> tuple[int, int]:
    return window[0] + 8, window[1] + 8


def _block_maxima(rank: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = rank.shape
    padded = np.pad(rank, ((0, -height % _BLOCK), (0, -width % _BLOCK)), mode="edge")
    rows, columns = padded.shape[0] // _BLOCK, padded.shape[1] // _BLOCK
    return np.asarray(padded.reshape(rows, _BLOCK, columns, _BLOCK).max(axis=(1, 3)), np.float32)


def _areas(chosen: NDArray[np.uint8], shape: tuple[int, ...]) -> list[Area]:
    """The boxes of connected blocks with their context, cut to the picture."""
    import cv2

    side = _CELL * _BLOCK
    _, _, stats, _ = cv2.connectedComponentsWithStats(chosen, connectivity=8)
    return [
        (
            slice(max(0, y * side - _CONTEXT), min(shape[0], (y + h) * side + _CONTEXT)),
            slice(max(0, x * side - _CONTEXT), min(shape[1], (x + w) * side + _CONTEXT)),
        )
        for x, y, w, h, _ in stats[1:].tolist()
    ]
