"""What all dialects share in reading content: objects whose keys have one reading, strings, lists of parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import Opaque, Part, Reason, Text
from vlmguard.wire.json_text import Place

Read = Callable[[object, str], Iterable[Part]]
"""Reads one element of a list of parts: (element, its pointer) → parts."""
_LONGEST_KIND = 40


def read_fields(value: object, path: str, known: frozenset[str]) -> dict[str, Any]:
    """``value`` as an object in which none of the ``known`` keys is spelled in another way.

    Some readers (Go's encoding/json among them) take ``Content`` for ``content``: what we would pass over as an unknown
    field is then what the model reads. Raises ``WireError``.
    """
    if not isinstance(value, dict):
        raise WireError(f"{path or 'the body'} is an object")
    for key in value:
        if key not in known and key.casefold() in known:
            raise WireError(f"{path or 'the body'} has the key {key!r}: write {key.casefold()!r}")
    return value


def read_string(holder: dict[str, Any], key: str, path: str) -> Text:
    """The string that stands in ``holder``, the object at ``path``. Raises ``WireError``."""
    value = holder.get(key)
    if not isinstance(value, str):
        raise WireError(f"{path}/{key} is a string")
    return Text(value, f"{path}/{key}")


def read_content(holder: dict[str, Any], key: str, path: str, read: Read) -> tuple[list[Part], Place]:
    """What stands in ``holder[key]`` (nothing, a string, a list of parts), and where words could be added to it."""
    pointer = f"{path}/{key}"
    if key not in holder:
        return [], Place("member", pointer)
    match holder[key]:
        case None:
            return [], Place("replace", pointer)
        case str(text):
            return [Text(text, pointer)], Place("replace", pointer)
        case list(elements):
            parts = [part for number, element in enumerate(elements) for part in read(element, f"{pointer}/{number}")]
            return parts, after_last(elements, pointer)
        case _:
            raise WireError(f"{pointer} is a string or a list of parts")


def after_last(elements: Sequence[object], pointer: str) -> Place:
    """Where one more element can be put at the end of the array at ``pointer``."""
    return Place("after", f"{pointer}/{len(elements) - 1}") if elements else Place("first", pointer)


def read_definitions(body: dict[str, Any], keys: Iterable[str], path: str = "") -> tuple[Text, ...]:
    """What the members ``keys`` define for the model, such as tools and schemas: for each definition its words, keys included.

    A member that holds neither an object nor a list, or only a name for a shape (``{"type": "json_object"}``), defines nothing.
    """
    found: list[Text] = []
    for key in keys:
        value = body.get(key)
        if isinstance(value, list):
            found += (_definition(item, f"{path}/{key}/{number}") for number, item in enumerate(value))
        elif isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
            found.append(_definition(value, f"{path}/{key}"))
    return tuple(found)


def _definition(value: object, path: str) -> Text:
    words: list[str] = []
    _gather(value, words)
    return Text("\n".join(words), path)


def _gather(value: object, words: list[str]) -> None:
    if isinstance(value, str):
        words.append(value)
    elif isinstance(value, dict):
        for key, child in value.items():
            words.append(key)
            _gather(child, words)
    elif isinstance(value, list):
        for child in value:
            _gather(child, words)


def opaque(kind: object, path: str) -> Opaque:
    """A part of a kind that nobody here can read."""
    words = kind[:_LONGEST_KIND].replace("_", " ") if isinstance(kind, str) and kind else "unknown part"
    return Opaque(words, path, Reason.OPAQUE)


def read_envelope(body: dict[str, Any]) -> tuple[str, bool]:
    """Model and ``stream`` flag. Raises ``WireError``."""
    model, stream = body.get("model"), body.get("stream")
    if not isinstance(model, str | None):
        raise WireError("/model is a string")
    if not isinstance(stream, bool | None):
        raise WireError("/stream is true or false")
    return model or "", bool(stream)
