"""QR codes and bar codes in pictures, also inverted, mirrored or turned."""

from dataclasses import dataclass

from vlmguard.perception.detection import Pixels
from vlmguard.perception.ocr import Box


@dataclass(frozen=True, slots=True)
class Code:
    """One code that was decoded."""

    text: str
    format: str
    """The symbology as zxing names it, such as "QR Code" or "EAN-13"."""
    box: Box


def read_codes(pixels: Pixels) -> tuple[Code, ...]:
    """Decode the codes of an RGB picture (uint8, height × width × 3)."""
    import zxingcpp

    found = zxingcpp.read_barcodes(pixels, try_rotate=True, try_downscale=True, try_invert=True)
    return tuple(Code(code.text, str(code.format), _box(code.position)) for code in found if code.valid)


def _box(position: object) -> Box:
    points = (getattr(position, side) for side in ("top_left", "top_right", "bottom_right", "bottom_left"))
    a, b, c, d = ((float(point.x), float(point.y)) for point in points)
    return a, b, c, d
