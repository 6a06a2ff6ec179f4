"""What a line says: a rectangle cut out of the picture → characters and how sure the network is of them."""

import threading
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmguard.perception.detection import Pixels, Quad
from vlmguard.perception.sessions import (
    FAST_RECOGNISER,
    RECOGNISER,
    multiplies_bytes_exactly,
    open_session,
    weights_path,
)

if TYPE_CHECKING:
    import onnxruntime

_HEIGHT = 48  # of the network's input
_SQUEEZE = 0.8  # of the width at first: costs no accuracy but for narrow or tiny letters, and much below 0.8
_WIDEST = 1408  # of one run; longer lines are cut in a gap between words
_STEP = 8  # columns of the input per step of the network
_BLANK = 0


@dataclass(frozen=True, slots=True)
class Recognised:
    """What the network read in one cut."""

    text: str
    confidence: float
    """Mean probability of the characters, 0..1; 0 without any."""
    typical: float
    """Their median probability: near 1 for a known script however many letters are damaged."""


class Recogniser:
    """The recognition network and its alphabet. Fast by default; `carefully` takes the network in full precision."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._opening = threading.Lock()
        self._careful: onnxruntime.InferenceSession | None = None
        self._fast = open_session(FAST_RECOGNISER) if multiplies_bytes_exactly() else None
        known = (self._fast or self._open_careful()).get_modelmeta().custom_metadata_map["character"]
        self._alphabet = ["", *known.split("\n"), " "]

    def _open_careful(self) -> "onnxruntime.InferenceSession":
        with self._opening:
            if self._careful is None:
                self._careful = open_session(weights_path(RECOGNISER))
            return self._careful

    def read(self, cuts: list[Pixels], carefully: bool = False) -> list[Recognised]:
        """Read upright cuts of the network's height."""
        return list(self._pool.map(lambda cut: self._read_cut(cut, carefully), cuts))

    def _read_cut(self, cut: Pixels, carefully: bool) -> Recognised:
        texts: list[str] = []
        sure: list[NDArray[np.float32]] = []
        for part, gap in _parts(cut):
            text, probabilities = self._read_part(part, carefully)
            texts.append(text + " " if gap else text)
            sure.append(probabilities)
        letters = np.concatenate(sure)
        if not letters.size:
            return Recognised("", 0.0, 0.0)
        return Recognised("".join(texts).strip(), float(letters.mean()), float(np.median(letters)))

    def _read_part(self, part: Pixels, carefully: bool) -> tuple[str, NDArray[np.float32]]:
        blob = np.ascontiguousarray(part.transpose(2, 0, 1)[None], np.float32)
        blob /= 127.5
        blob -= 1
        fast = None if carefully else self._fast
        scores: NDArray[np.float32] = (fast or self._open_careful()).run(None, {"x": blob})[0][0]
        best = scores.argmax(1)
        kept = (best != _BLANK) & np.concatenate(([True], best[1:] != best[:-1]))
        chosen = scores[kept]
        top = chosen.max(1)
        # the fast network ends in logits, the careful one in probabilities
        probabilities = 1 / np.exp(chosen - top[:, None]).sum(1) if fast else top
        return "".join(self._alphabet[index] for index in best[kept]), probabilities


def cut_out(pixels: Pixels, corners: Quad, squeeze: float = _SQUEEZE) -> Pixels:
    """Cut a rectangle out so that its first corner is top-left, and bring it to the network's height and full contrast."""
    import cv2

    along = float(np.linalg.norm(corners[1] - corners[0]))
    across = max(1.0, float(np.linalg.norm(corners[3] - corners[0])))
    width = max(16, round(_HEIGHT * along / across * squeeze))
    target = np.array([[0, 0], [width, 0], [width, _HEIGHT]], np.float32)
    shrink = across / _HEIGHT
    if shrink > 2:  # a large letter: without it every second pixel would be skipped
        low = np.maximum(np.floor(corners.min(0)).astype(int) - 2, 0)
        high = np.ceil(corners.max(0)).astype(int) + 2
        patch = pixels[low[1] : high[1], low[0] : high[0]]
        size = (max(1, round(patch.shape[1] / shrink)), max(1, round(patch.shape[0] / shrink)))
        ratio = np.array([size[0] / patch.shape[1], size[1] / patch.shape[0]], np.float32)
        pixels = np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), np.uint8)
        corners = (corners - low).astype(np.float32) * ratio
    matrix = cv2.getAffineTransform(corners[:3].astype(np.float32), target)
    flags = cv2.INTER_LINEAR
    straight = cv2.warpAffine(pixels, matrix, (width, _HEIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return _with_full_contrast(np.asarray(straight, np.uint8))


def ink_rows(cut: Pixels) -> tuple[float, float]:
    """Return where the ink of a cut begins and ends, as shares of its height; (0, 1) where that cannot be told."""
    strokes = np.abs(np.diff(cut.astype(np.int16), axis=1)).max(axis=2).mean(axis=1)
    floor, peak = float(np.quantile(strokes, 0.1)), float(np.quantile(strokes, 0.9))
    if peak < 3 * floor + 1:
        return 0.0, 1.0
    rows = np.flatnonzero(strokes > floor + 0.2 * (peak - floor))
    return float(rows[0]) / len(strokes), float(rows[-1] + 1) / len(strokes)


def _with_full_contrast(cut: Pixels) -> Pixels:
    low, high = np.percentile(cut[::2, ::2], (1, 99))
    if high - low > 100:
        return cut
    gain = 160 / max(4.0, high - low)
    return np.asarray(((cut - (low + high) / 2) * gain + 128).clip(0, 255), np.uint8)


def _parts(cut: Pixels) -> list[tuple[Pixels, bool]]:
    """Split a long line where there is least ink; tell of each part whether a gap between words follows it."""
    parts: list[tuple[Pixels, bool]] = []
    while cut.shape[1] > _WIDEST:
        earliest = _WIDEST * 3 // 4
        window = cut[:, earliest:_WIDEST].astype(np.int16)
        ink = np.abs(np.diff(window, axis=0)).max(axis=(0, 2))
        quiet = np.convolve(ink, np.ones(9), "same")
        at = int(quiet[4:-4].argmin()) + 4
        gap = ink[at - 4 : at + 5].max() < 0.25 * max(1, ink.max())
        parts.append((cut[:, : earliest + at], bool(gap)))
        cut = cut[:, earliest + at :]
    parts.append((cut, False))
    return [(np.pad(part, ((0, 0), (0, -part.shape[1] % _STEP), (0, 0)), mode="edge"), gap) for part, gap in parts]
