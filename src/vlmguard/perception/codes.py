"""QR codes and bar codes in pictures, also turned, mirrored, faint, or light on dark."""

from dataclasses import dataclass

from vlmguard.perception.detection import Pixels, sketch
from vlmguard.perception.ocr import Box

_SKETCH_SIDE = 640  # pixels of the longer side of the evenly lit view, for faint codes


@dataclass(frozen=True, slots=True)
class Code:
    """One code that was decoded."""

    text: str
    format: str
    """The symbology as zxing names it, such as "QR Code" or "EAN-13"."""
    box: Box
    """Corner points in pixels of the picture, from the code's own top-left on."""


def read_codes(pixels: Pixels) -> tuple[Code, ...]:
    """Decode the codes of an RGB picture (uint8, height × width × 3), each text once per symbology.

    Bar codes (not square ones) are found along the rows and columns only, and dark on light only.
    """
    scale = min(1.0, _SKETCH_SIDE / max(pixels.shape[:2]))
    found = _decoded(pixels, 1.0) + _decoded(sketch(pixels, scale), scale)
    first = {(code.text, code.format): code for code in reversed(found)}
    return tuple(code for code in found if code is first[code.text, code.format])


def _decoded(view: Pixels, scale: float) -> list[Code]:
    import zxingcpp

    codes: list[Code] = []
    for code in zxingcpp.read_barcodes(view, try_rotate=True, try_downscale=True, try_invert=True):
        at = code.position
        corners = (at.top_left, at.top_right, at.bottom_right, at.bottom_left)
        a, b, c, d = ((point.x / scale, point.y / scale) for point in corners)
        codes.append(Code(code.text, str(code.format), (a, b, c, d)))
    return codes
