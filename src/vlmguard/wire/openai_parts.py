"""Content parts as OpenAI spells them, in chat completions and in responses, and what servers of these add to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import Image, Opaque, Part, Reason, Text
from vlmguard.wire.answers import error_type, to_bytes
from vlmguard.wire.content import opaque, read_fields, read_string
from vlmguard.wire.members import Kind, Members, each
from vlmguard.wire.pictures import data_url, read_url

_CONTENT = each(
    Kind.READ,
    "text refusal image_url file_id file_data file_url file input_audio audio_url video_url image images audio video"
    " image_embeds audio_embeds video_embeds prompt_embeds image_pil image_data",
)
"""Members of a part in which content can stand."""
_PART = Members(
    {
        **_CONTENT,
        **each(Kind.READ, "type uuid"),
        **each(Kind.NAMES, "detail cache_control prompt_cache_breakpoint logprobs"),
    }
)
_ADDRESS = Members({"url": Kind.READ, "detail": Kind.NAMES})
_OWN = {
    "text": {"text"},
    "input_text": {"text"},
    "output_text": {"text"},
    "refusal": {"refusal"},
    "image_url": {"image_url"},
    "input_image": {"image_url", "file_id"},
    "computer_screenshot": {"image_url", "file_id"},
}
"""The kinds of part that are read, and where their content stands."""
_KINDS = {"file": "file", "input_file": "file", "input_audio": "audio", "audio_url": "audio", "video_url": "video"}


def read_part(value: object, path: str) -> Iterable[Part]:
    """One element of a content list. Raises ``WireError``."""
    if isinstance(value, str):  # vLLM takes bare strings for text parts
        return (Text(value, path),)
    rows: list[Part] = []
    part = read_fields(value, path, _PART, rows)
    kind = part.get("type")
    own = _OWN.get(kind) if isinstance(kind, str) else None
    if own is None:
        return (_unread(part, path),)
    filled = [key for key in part if key in _CONTENT and part[key] is not None]
    if len(filled) > 1 or not own.issuperset(filled):
        raise WireError(f"{path} is a part of type {kind!r} and holds {' and '.join(filled)}: send one part for each")
    if "image_url" in own:
        return (*_read_image(part, path), *rows)
    if part.get("uuid"):  # vLLM may take it for the name of what it remembers, whatever the type
        rows.append(Opaque("remembered content", f"{path}/uuid", Reason.REMOTE_STATE))
    return (read_string(part, next(iter(own)), path), *rows)


def _unread(part: dict[str, Any], path: str) -> Opaque:
    kind = part.get("type")
    holder = part.get("file") if isinstance(part.get("file"), dict) else part
    if kind in ("file", "input_file") and isinstance(holder, dict) and holder.get("file_id"):
        return Opaque("file id", path, Reason.OPAQUE)
    return opaque(_KINDS.get(kind, kind) if isinstance(kind, str) else kind, path)


def _read_image(part: dict[str, Any], path: str) -> Iterator[Part]:
    address = part.get("image_url")
    if part.get("uuid"):  # vLLM then shows the picture that it remembers under this name, whatever else is sent
        yield Opaque("remembered image", path, Reason.REMOTE_STATE)
        if address is None:
            return
    if part.get("file_id"):
        yield Opaque("file id", path, Reason.OPAQUE)
    elif isinstance(address, dict):
        yield from _read_address(address, f"{path}/image_url")
    elif isinstance(address, str):
        yield read_url(address, f"{path}/image_url")
    else:
        raise WireError(f"{path}/image_url is a URL")


def _read_address(value: dict[str, Any], path: str) -> Iterable[Part]:
    rows: list[Part] = []
    text = read_string(read_fields(value, path, _ADDRESS, rows), "url", path)
    return (read_url(text.text, text.path), *rows)


def write_image(image: Image) -> str:
    """A fetched picture, in the place of its URL."""
    return data_url(image)


def error(status: int, message: str, kind: str = "") -> bytes:
    """An error object. ``kind`` is our own word for what happened, for programs."""
    return to_bytes({"error": {"message": message, "type": error_type(status), "param": None, "code": kind or None}})
