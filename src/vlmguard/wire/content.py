"""What all dialects share in reading content: objects whose keys have one reading, strings, lists of parts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import Opaque, Part, Reason, Text
from vlmguard.wire.json_text import Place
from vlmguard.wire.members import CHOICES, DEFINITIONS, Members

Read = Callable[[object, str], Iterable[Part]]
"""Reads one element of a list of parts: (element, its pointer) → parts."""
_LONGEST_KIND = 40
_NAME = re.compile(r"[\w.-]{0,64}\Z", re.ASCII)
"""What is taken for a name or a switch (``"auto"``, ``"json_object"``), and not for words to a model."""
_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SEVERAL = 3
"""Words from which on a name may say something: fewer are a person's, or a function's."""


def read_fields(value: object, path: str, members: Members, rows: list[Part]) -> dict[str, Any]:
    """``value`` as an object. What it holds beside that which is read goes to ``rows``. Raises ``WireError``."""
    if not isinstance(value, dict):
        raise WireError(f"{path or 'the body'} is an object")
    rows += members.unread(value, path)
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

    A member that holds only names, such as that of a shape (``{"type": "json_object"}``), defines nothing.
    """
    found: list[Text] = []
    for key in keys:
        value = body.get(key)
        if isinstance(value, list):
            found += (_definition(item, f"{path}/{key}/{number}") for number, item in enumerate(value))
        elif isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
            found.append(_definition(value, f"{path}/{key}"))
        else:
            found += read_choice(body, key, path)
    return tuple(found)


def read_tools(body: dict[str, Any], *more: str) -> tuple[Text, ...]:
    """What a body defines for the model, in the members of all dialects and in ``more`` of its own."""
    found = read_definitions(body, (*(key for key in DEFINITIONS if key in body), *more))
    return (*found, *(text for key in CHOICES if key in body for text in read_choice(body, key)))


def read_choice(body: dict[str, Any], key: str, path: str = "") -> Iterable[Text]:
    """What stands at ``key``, where only names belong (which tool to use), when it says more than names."""
    words = _words(body.get(key))
    if not all(map(_NAME.match, words)):
        yield Text("\n".join(words), f"{path}/{key}")


def read_name(holder: dict[str, Any], path: str, *, spoken: bool = False, key: str = "name") -> Iterable[Part]:
    """The name at ``key`` in ``holder``, the object at ``path``, when it is none that an API takes: templates write it into the
    prompt. ``spoken``: it names who speaks in a judged turn, and one of several words is read as these words."""
    name = holder.get(key)
    if isinstance(name, str):
        if _NAME.match(name) is None:
            yield Text(name, f"{path}/{key}")
        elif spoken and len(words := _NAME_WORD.findall(name)) >= _SEVERAL:
            yield Text(" ".join(words), f"{path}/{key}")
    elif name is not None:
        yield opaque("name", f"{path}/{key}")


def is_name(text: str) -> bool:
    """Whether ``text`` can be taken for a name, and not for words."""
    return _NAME.match(text) is not None


def read_remote_tools(tools: object, local: tuple[str, ...], path: str = "/tools") -> Iterator[Opaque]:
    """Tools that the model's server calls by itself: what they answer never comes by here.

    ``local``: how the types begin of those that the client calls.
    """
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and not kind.startswith(local):
            yield replace(opaque(f"{kind} tool", f"{path}/{number}"), reason=Reason.REMOTE_STATE)


def _definition(value: object, path: str) -> Text:
    return Text("\n".join(_words(value)), path)


def _words(value: object) -> list[str]:
    """All strings and keys in ``value``, in their order. Of a string that is JSON itself: those within it as well."""
    words: list[str] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                words.append(text)
                waiting += _within(text)
            case dict() as members:
                waiting += [each for member in reversed(members.items()) for each in reversed(member)]
            case list(elements):
                waiting += reversed(elements)
    return words


def _within(text: str) -> list[Any]:
    """What stands in a string that is JSON: upstreams take schemas so, too. Of a key that stands twice, both
    values count: which of them the upstream takes is its choice."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return []
    try:
        return [json.loads(text, object_pairs_hook=lambda pairs: [each for pair in pairs for each in pair])]
    except (ValueError, RecursionError):
        return []  # words that begin with a bracket or a quote


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
