"""What a line says: crops of text lines → characters and how sure the network is of them."""

from typing import TYPE_CHECKING

import numpy as np

from vlmguard.perception.detection import Pixels, Quad

if TYPE_CHECKING:
    import onnxruntime

HEIGHT = 48


class Recogniser:
    """The recognition network and its alphabet."""

    def __init__(self, session: "onnxruntime.InferenceSession") -> None:
        self._session = session
        known = session.get_modelmeta().custom_metadata_map["character"].split("\n")
        self._alphabet = ["", *known, " "]

    def read_any_way(self, pixels: Pixels, corners: Quad) -> tuple[str, float, Quad, bool]:
        """Read a region as it stands and, where that is doubtful, turned and mirrored; the surest reading wins."""
        if corners[1][0] < corners[0][0]:
            corners = np.roll(corners, 2, axis=0)
        readings = []
        for turn in (0, 2, 1, 3):
            for mirrored in (False, True):
                seen = np.roll(corners, turn, axis=0)
                if mirrored:
                    seen = seen[[1, 0, 3, 2]]
                text, confidence = self.read(cut(pixels, seen))
                readings.append((text, confidence, seen, mirrored))
                if confidence > 0.9 and turn == 0 and not mirrored:
                    return readings[-1]
            if turn == 2 and max(reading[1] for reading in readings) > 0.8:
                break
        return max(readings, key=lambda reading: reading[1])

    def read(self, crop: Pixels) -> tuple[str, float]:
        """Read one upright crop; the confidence is the mean probability of its characters, 0 for none."""
        blob = (crop.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
        steps = self._session.run(None, {"x": np.ascontiguousarray(blob)})[0][0]
        best = steps.argmax(1)
        kept = (best != 0) & np.concatenate(([True], best[1:] != best[:-1]))
        if not kept.any():
            return "", 0.0
        return "".join(self._alphabet[k] for k in best[kept]), float(steps.max(1)[kept].mean())


def cut(pixels: Pixels, corners: Quad) -> Pixels:
    """Cut a quadrilateral out and stretch it to the network's height, at least 16 pixels wide."""
    import cv2

    along = float(np.linalg.norm(corners[1] - corners[0]))
    across = max(1.0, float(np.linalg.norm(corners[3] - corners[0])))
    width = max(16, min(3200, round(HEIGHT * along / across)))
    target = np.array([[0, 0], [width, 0], [width, HEIGHT]], np.float32)
    matrix = cv2.getAffineTransform(corners[:3].astype(np.float32), target)
    return np.asarray(
        cv2.warpAffine(pixels, matrix, (width, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )
