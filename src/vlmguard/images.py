"""Untrusted bytes → ``Image`` → pixels: kind, limits, decoding, and the views in which words can hide.

``read_image`` looks only at the header: a bomb is refused before a pixel of it is decoded. ``views`` decodes. Formats are
told by their content, never by a file name or a declared media type.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vlmguard.errors import ImageError
from vlmguard.types import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Pixels = npt.NDArray[np.uint8]
"""Height × width × 3, RGB, 0–255."""

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}
"""The formats that are accepted, by the decoder's name for them."""
_OPENED = tuple(kind for kind in MEDIA_TYPES if kind != "MPO")  # which the JPEG decoder finds out itself
_MARKS = (
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"\xff\xd8\xff"),
    (0, b"GIF8"),
    (8, b"WEBP"),
    (0, b"II*\0"),
    (0, b"MM\0*"),
    (4, b"ftypavi"),
)
"""How pictures of those formats begin, and where."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture may ask of us."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    """Of one frame. 50 megapixels decode to 150 MB."""
    max_frames: int = 8
    """How many frames of an animation are looked at: the first, the last, and some between."""


DEFAULT_LIMITS = Limits()


def read_image(data: bytes, path: str = "", limits: Limits = DEFAULT_LIMITS) -> Image:
    """A checked picture. Raises ``ImageError``, which says what is wrong and what would be accepted."""
    name = path or "the image"
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{name} has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted: make it smaller")
    with _open(data, name) as picture:
        try:
            frames = int(getattr(picture, "n_frames", 1))
        except Exception as error:  # counting frames reads the whole file
            raise ImageError(f"{name} is damaged or cut off: {error}") from error
        width, height = picture.size
        if width * height > limits.max_pixels:
            raise ImageError(
                f"{name} has {width} × {height} pixels; at most {limits.max_pixels:,} are accepted: make it smaller"
            )
        return Image(data, MEDIA_TYPES[str(picture.format)], width, height, frames, path)


def _open(data: bytes, name: str) -> Picture:
    import PIL.Image

    try:
        return PIL.Image.open(io.BytesIO(data), formats=_OPENED)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} unpacks to far too many pixels: make it smaller") from error
    except PIL.UnidentifiedImageError as error:
        if any(data[at : at + len(mark)] == mark for at, mark in _MARKS):
            raise ImageError(f"{name} is damaged or cut off: it begins like a picture, but cannot be opened") from error
        kinds = ", ".join(sorted({kind.split("/")[1].upper() for kind in MEDIA_TYPES.values()}))
        raise ImageError(f"{name} is not a picture of a kind we read ({kinds}): convert it") from error
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        raise ImageError(f"{name} is damaged: {error}") from error


def verify(image: Image) -> None:
    """Decodes the first frame, at reduced size where the format can. Raises ``ImageError`` when it is damaged."""
    name = image.path or "the image"
    with _open(image.data, name) as picture:
        try:
            picture.draft("RGB", (picture.width // 8, picture.height // 8))
            picture.load()
        except Exception as error:
            raise ImageError(f"{name} is damaged or cut off: {error}") from error


def unseen_frames(image: Image, limits: Limits = DEFAULT_LIMITS) -> int:
    """How many frames of an animation ``views`` leaves out."""
    return max(0, image.frames - _most_frames(image, limits))


def views(image: Image, limits: Limits = DEFAULT_LIMITS) -> Iterator[Pixels]:
    """The picture as a model may come to see it: its frames, turned as EXIF says, and without transparency.

    A transparent frame gives up to three views (alpha dropped, on white, on black), since which of them a model's own
    loader makes is unknown and words can hide in any. Views that look the same come once. Raises ``ImageError``.
    """
    name = image.path or "the image"
    seen: set[bytes] = set()
    with _open(image.data, name) as picture:
        for frame in _frame_numbers(image.frames, _most_frames(image, limits)):
            try:
                if frame:
                    picture.seek(frame)
                pictures = list(_flatten(picture))
            except Exception as error:
                raise ImageError(f"{name} is damaged or cut off: {error}") from error
            for pixels in pictures:
                if image.frames == 1 and len(pictures) == 1:
                    yield pixels
                elif (digest := _digest(pixels)) not in seen:
                    seen.add(digest)
                    yield pixels


def shown(image: Image, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """The picture as our own models are shown it, in training as in serving: the first of its views. Raises ``ImageError``."""
    import PIL.Image

    return PIL.Image.fromarray(next(views(image, limits)))


def _most_frames(image: Image, limits: Limits) -> int:
    """The pixel limit holds over all frames that are looked at, too."""
    return max(1, min(limits.max_frames, limits.max_pixels // (image.width * image.height)))


def _frame_numbers(frames: int, most: int) -> list[int]:
    """At most ``most`` of ``frames``, evenly spread, the first and the last among them."""
    if frames <= most:
        return list(range(frames))
    if most == 1:
        return [0]
    return sorted({round(step * (frames - 1) / (most - 1)) for step in range(most)})


def _digest(pixels: Pixels) -> bytes:
    import hashlib

    return hashlib.sha256(pixels.tobytes()).digest()


def _flatten(picture: Picture) -> Iterator[Pixels]:
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I") or turned.mode == "F":
        yield from _from_deep(np.asarray(turned))
    elif turned.has_transparency_data:
        yield from _without_alpha(np.asarray(turned.convert("RGBA")))
    else:
        yield np.asarray(turned.convert("RGB"))


def _from_deep(values: npt.NDArray[Any]) -> Iterator[Pixels]:
    """16-bit and float greys: cut off at 255 as plain loaders do, by the high byte, and stretched over what most pixels have.

    One view is not enough: a single outlier would flatten a stretch, and brightness above 255 is lost in a cut.
    """
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (float(value) for value in np.percentile(numbers, (1, 99)))
    if high <= low:
        low, high = float(numbers.min()), float(numbers.max())
    stretched = (numbers - low) * (255.0 / (high - low)) if high > low else np.zeros(numbers.shape)
    for grey in (stretched, numbers, numbers / 256.0):
        yield np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _without_alpha(rgba: npt.NDArray[np.uint8]) -> Iterator[Pixels]:
    colours, alpha = rgba[:, :, :3], rgba[:, :, 3:].astype(np.uint16)
    yield np.ascontiguousarray(colours)
    if alpha.min() == 255:
        return
    for ground in (255, 0):
        yield ((colours * alpha + ground * (255 - alpha)) // 255).astype(np.uint8)
