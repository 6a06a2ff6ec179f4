"""Pictures on the wire: ``data:`` URLs and base64 to checked bytes, and checked bytes back to a ``data:`` URL."""

from __future__ import annotations

import base64
import binascii

import pybase64

from vlmguard.errors import ImageError
from vlmguard.images import read_image
from vlmguard.types import Image, Opaque, Part, Reason

REMOTE = "remote image"
"""Kind of the part that stands for a picture which is named by an http(s) URL and was not fetched."""
_LONGEST_HEAD = 1000


def read_url(url: str, path: str) -> Part:
    """The picture that ``url`` holds or names."""
    match url[:8].partition(":")[0].lower():
        case "http" | "https":
            return Opaque(REMOTE, path, Reason.OPAQUE)
        case "data":
            return _read_data_url(url, path)
        case _:
            return Opaque("unknown image", path, Reason.OPAQUE)


def _read_data_url(url: str, path: str) -> Part:
    """One in base64, without escapes. Of any other spelling the client's own string would go on, and readers that skip ``%``
    and take the rest for base64 would see another picture than the one that was judged."""
    comma = url.find(",", 0, _LONGEST_HEAD)
    if comma < 0 or not url[:comma].rstrip().lower().endswith(";base64"):
        return _damaged(path)
    return read_base64(url[comma + 1 :], path)


def read_base64(text: str | bytes, path: str) -> Part:
    """The picture whose bytes ``text`` spells. Line breaks and missing padding are forgiven, foreign letters are not:
    readers differ on what those stand for."""
    data = _decoded(text)
    return _damaged(path) if data is None else _read(data, path)


def _decoded(text: str | bytes) -> bytes | None:
    try:
        # A tenth of the time of ``binascii``, which took a third of what a megabyte that was seen before costs.
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        bare = b"".join((text.encode() if isinstance(text, str) else text).split()).rstrip(b"=")
    try:
        return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True)
    except ValueError:
        return None


def _read(data: bytes, path: str) -> Part:
    try:
        return read_image(data, path)
    except ImageError:
        return _damaged(path)


def _damaged(path: str) -> Opaque:
    return Opaque("damaged image", path, Reason.UNREADABLE)


def data_url(image: Image) -> str:
    """The picture as a ``data:`` URL: the bytes that were judged."""
    return b"".join(data_url_parts(image)).decode()


def data_url_parts(image: Image) -> tuple[bytes, bytes]:
    """``data_url`` as bytes, its head and its megabytes, for those who write it into a body without copying it about."""
    return b"data:%b;base64," % image.media_type.encode(), base64.b64encode(image.data)
