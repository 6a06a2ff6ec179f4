"""Pictures on the wire: ``data:`` URLs and base64 to checked bytes, and checked bytes back to a ``data:`` URL."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pybase64

from vlmguard.errors import ImageError, WireError
from vlmguard.images import read_image
from vlmguard.types import Image, Opaque, Part, Reason, Text
from vlmguard.wire.json_text import escape

REMOTE = "remote image"
"""Kind of the part that stands for a picture which is named by an http(s) URL and was not fetched."""
_LONGEST_HEAD = 1000
_PLAIN = ("http://", "https://")
_SHOWS = re.compile(r"image|img|picture|photo|screenshot", re.IGNORECASE)
"""What the keys and kinds of pictures hold, in whichever server's spelling."""
_ADDRESS = re.compile(
    r"[^a-z0-9]*(?:h~*t~*t~*p~*s?~*:|[a-z](?:[a-z0-9+.-]|~){0,40}:~*[/\\])".replace("~", r"[\s\x00-\x1f\x7f]"),
    re.IGNORECASE,
)
"""An address, behind and between whatever signs some readers leave out."""
_OF_A_CALL = ("input", "arguments")
"""Members in which a tool is told what to do: addresses there are words, which no server follows by itself."""


def read_url(url: str, path: str) -> Part:
    """The picture that ``url`` holds or names. Raises ``WireError`` for an address that is none of the plain kinds: what
    is no address here may be one to the upstream, which would then fetch what nobody saw."""
    head = url[:8].lower()
    if head.startswith(_PLAIN):
        return Opaque(REMOTE, path, Reason.OPAQUE)
    if head.startswith("data:"):
        return _read_data_url(url, path)
    raise WireError(f"{path} is no address of a picture that is read here: it begins with http://, https:// or data:")


def refuse_unread_addresses(body: dict[str, Any], parts: Iterable[Part], definitions: Iterable[Text]) -> None:
    """Nothing, if ``parts`` holds every picture that ``body`` names by its address. Else the upstream might fetch one at a
    place that is not read here, whichever that is: so it raises ``WireError``."""
    parts = tuple(parts)
    read = {part.path for part in parts if isinstance(part, Text) or (isinstance(part, Opaque) and part.kind == REMOTE)}
    words = {part.path for part in parts if isinstance(part, Text)}
    defined = {definition.path for definition in definitions}
    for pointer in _addresses(body, words, defined):
        if pointer not in read and pointer.removesuffix("/url") not in read:
            raise WireError(
                f"{pointer} is the address of a picture where none is read: send the picture in a part of its own, "
                'with a type such as "image_url"'
            )


def _addresses(body: dict[str, Any], words: set[str], defined: set[str]) -> Iterator[str]:
    """Where addresses stand that are a picture's by their key, or by the key or the type of what they stand in."""
    waiting: list[tuple[Any, str, bool]] = [(body, "", False)]
    while waiting:
        holder, path, shows = waiting.pop()
        members = holder.items() if isinstance(holder, dict) else enumerate(holder)
        if isinstance(holder, dict):
            shows = shows or _says_picture(holder.get("type"))
        for key, child in members:
            is_shown = shows or _says_picture(key)
            if isinstance(child, str):
                if is_shown and _is_address(child):
                    yield f"{path}/{escape(str(key))}"
            elif isinstance(child, dict | list):
                pointer = f"{path}/{escape(key) if isinstance(key, str) else key}"
                if pointer in words or pointer == "/metadata" or (key in _OF_A_CALL and path and not shows):
                    continue  # said to a tool, or noted by a client for itself
                if pointer in defined and not (isinstance(child, dict) and _says_picture(child.get("type"))):
                    continue  # of tools, those that make pictures may hold one
                waiting.append((child, pointer, is_shown))


def _says_picture(key: object) -> bool:
    return isinstance(key, str) and _SHOWS.search(key) is not None


def _is_address(text: str) -> bool:
    return _ADDRESS.match(text) is not None


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
