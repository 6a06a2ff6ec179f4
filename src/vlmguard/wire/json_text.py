"""Strict JSON, and changing single values in it without touching another byte.

Refused is what two readers could read differently: duplicate keys, invalid UTF-8, NaN, lone surrogates, bytes after the
end, nesting that some parsers give up on. Speed matters here, since a body may hold megabytes of base64: reading is one
pass of the C decoder, and looking for places happens only when something is to be changed, jumping from quote to quote.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from vlmguard.errors import WireError

MOST_DEPTH = 64
_CONTAINERS = (dict, list)


def read_object(body: bytes) -> dict[str, Any]:
    """The object that ``body`` is. Raises ``WireError``."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"the body is not UTF-8 (byte {error.start}): encode it as UTF-8") from error
    if text.startswith("\ufeff"):
        raise WireError("the body starts with a byte order mark: leave it out")
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise WireError(f"the body is nested deeper than {MOST_DEPTH} levels") from error
    except ValueError as error:
        raise WireError(f"the body is not JSON: {error}") from error
    _refuse_depth(value)
    if not isinstance(value, dict):
        raise WireError("the body is not a JSON object")
    if "\\" in text and ("\\ud" in text or "\\uD" in text):
        _refuse_lone_surrogates(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise WireError(f"the key {key[:60]!r} stands twice in one object")
            seen.add(key)
    return found


def _no_constant(word: str) -> NoReturn:
    raise WireError(f"{word} is not JSON")


def _finite(word: str) -> float:
    """Some readers take what is too large for infinity, others refuse it."""
    if not math.isfinite(value := float(word)):
        raise WireError(f"{word[:40]} is too large a number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
"""Made once: making it costs more than reading a short body."""


def _refuse_depth(value: object) -> None:
    """Level by level, so that the cost is that of the containers and not of the bytes."""
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    for _ in range(MOST_DEPTH):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return
    raise WireError(f"the body is nested deeper than {MOST_DEPTH} levels")


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        pointer = next(pointer for pointer, text in _strings(value, "") if _has_surrogate(text))
        raise WireError(f"{pointer or 'a key'} holds a lone surrogate: send valid Unicode") from error


def _strings(value: object, pointer: str) -> Iterator[tuple[str, str]]:
    """Every string and every key (a key with the pointer of its object)."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield pointer, key
            yield from _strings(child, f"{pointer}/{escape(key)}")
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _strings(child, f"{pointer}/{number}")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def escape(key: str) -> str:
    """``key`` as a step of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def unescape(step: str) -> str:
    """The key that a step of a JSON pointer names."""
    return step.replace("~1", "/").replace("~0", "~")


def quote(value: object) -> str:
    """``value`` as JSON, compact."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ---------------------------------------------------------------------------------------------------------------------
# Finding places

Span = tuple[int, int]
"""[start, end) in bytes."""

_GAP = re.compile(rb"[ \t\n\r,:]*")
_SCALAR = re.compile(rb"[^ \t\n\r,\]}]+")
_MARK = re.compile(rb'["\[\]{}]')
_QUOTE, _BACKSLASH = b'"\\'
_ARRAY, _OBJECT = b"[{"
_OPENING, _CLOSING = b"[{", b"]}"
_Tree = dict[str, Any]


def spans(body: bytes, pointers: Iterable[str]) -> dict[str, Span]:
    """Where values stand in ``body``, which ``read_object`` accepted: pointer → span, for those that exist."""
    tree: _Tree = {}
    for pointer in pointers:
        node = tree
        for step in pointer.split("/")[1:]:
            node = node.setdefault(step, {})
    found: dict[str, Span] = {}
    _find(body, _gap(body, 0), tree, "", found)
    return found


def _find(body: bytes, at: int, tree: _Tree, pointer: str, found: dict[str, Span]) -> int:
    """Notes the value at ``at`` and those below it that ``tree`` names; returns where it ends."""
    start = at
    if not tree or body[at] not in _OPENING:
        at = _skip(body, at)
    elif body[at : at + 1] == b"{":
        at = _gap(body, at + 1)
        while body[at : at + 1] != b"}":
            end = _string_end(body, at)
            step = escape(json.loads(body[at:end]))
            at = _gap(body, _find_child(body, _gap(body, end), tree, pointer, step, found))
        at += 1
    else:
        at, number = _gap(body, at + 1), 0
        while body[at : at + 1] != b"]":
            at = _gap(body, _find_child(body, at, tree, pointer, str(number), found))
            number += 1
        at += 1
    found[pointer] = (start, at)
    return at


def _find_child(body: bytes, at: int, tree: _Tree, pointer: str, step: str, found: dict[str, Span]) -> int:
    if (below := tree.get(step)) is None:
        return _skip(body, at)
    return _find(body, at, below, f"{pointer}/{step}", found)


def _skip(body: bytes, at: int) -> int:
    """Where the value at ``at`` ends."""
    if body[at] == _QUOTE:
        return _string_end(body, at)
    if body[at] not in _OPENING:
        scalar = _SCALAR.match(body, at)
        assert scalar is not None
        return scalar.end()
    depth = 0
    while True:
        mark = _MARK.search(body, at)
        assert mark is not None
        at = mark.start()
        if body[at] == _QUOTE:
            at = _string_end(body, at)
            continue
        depth += 1 if body[at] in _OPENING else -1
        at += 1
        if not depth:
            return at


def _string_end(body: bytes, at: int) -> int:
    """Where the string ends that opens at ``at``: at the first quote after an even number of backslashes."""
    end = at
    while True:
        end = body.index(b'"', end + 1)
        before = end
        while body[before - 1] == _BACKSLASH:
            before -= 1
        if (end - before) % 2 == 0:
            return end + 1


def _gap(body: bytes, at: int) -> int:
    gap = _GAP.match(body, at)
    assert gap is not None
    return gap.end()


# ---------------------------------------------------------------------------------------------------------------------
# Changing them

Action = Literal["replace", "prefix", "first", "after", "member"]


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere in a body where JSON can be written, and how."""

    action: Action
    """``replace`` the value; ``prefix`` a string with text; put a value ``first`` into an array; put one ``after`` an
    element; add a ``member`` that the object above does not have yet."""
    pointer: str
    """Of the value, the array, the element, the new member."""


Edit = tuple[Place, Any]
"""What to write where: a value, or the text to put before a string."""


def edit(body: bytes, edits: Iterable[Edit]) -> bytes:
    """``body`` with ``edits`` made: every other byte stays.

    Several values may go to one place, in their order; a text before a string that is replaced goes before the new one. Raises
    ``WireError`` when a place is not there or two edits write the same bytes.
    """
    edits = list(_composed(edits))
    wanted = {pointer for place, _ in edits for pointer in (place.pointer, _above(place.pointer))}
    found = spans(body, wanted)
    members = [place for place, _ in edits if place.action == "member"]
    if len(set(members)) < len(members):
        raise _refused(members[-1], "it would stand there twice")
    cuts = sorted((_cut(body, found, place, value) for place, value in edits), key=lambda cut: cut.span)
    pieces: list[bytes] = []
    at = 0
    for number, cut in enumerate(cuts):
        start, end = cut.span
        if start < at:
            raise WireError(f"{cut.place.pointer} cannot be written: another change writes there too")
        pieces += (body[at:start], cut.new)
        if cut.opens and (not _is_last(cuts, number) or body[_gap(body, start)] not in _CLOSING):
            pieces.append(b",")
        at = end
    return b"".join((*pieces, body[at:]))


def _composed(edits: Iterable[Edit]) -> Iterator[Edit]:
    """``edits``, in which no string that is replaced has a text to go before it: that text is part of the new string."""
    edits = list(edits)
    replaced = {place.pointer for place, _ in edits if place.action == "replace"}
    heads: dict[str, str] = {}
    for place, value in edits:
        if place.action == "prefix" and place.pointer in replaced:
            heads[place.pointer] = heads.get(place.pointer, "") + value
    for place, value in edits:
        if place.pointer not in heads or place.action not in ("prefix", "replace"):
            yield place, value
        elif place.action == "replace":
            if not isinstance(value, str):
                raise _refused(place, "a text goes before a string")
            yield place, heads[place.pointer] + value


def _anchor(place: Place) -> str:
    """The value that must be there for a place to exist."""
    return _above(place.pointer) if place.action == "member" else place.pointer


def _above(pointer: str) -> str:
    return pointer.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class _Cut:
    span: Span
    """The bytes that ``new`` takes the place of."""
    new: bytes
    place: Place
    opens: bool = False
    """Whether it stands behind an opening bracket, so that a comma parts it from what follows."""


def _cut(body: bytes, found: dict[str, Span], place: Place, value: object) -> _Cut:
    if (span := found.get(_anchor(place))) is None:
        raise _refused(place, "it is not in the body")
    start, end = span
    new = quote(value)
    match place.action:
        case "replace":
            return _Cut(span, new.encode(), place)
        case "prefix":
            if body[start] != _QUOTE or not isinstance(value, str):
                raise _refused(place, "a text goes before a string")
            return _Cut((start + 1, start + 1), new[1:-1].encode(), place)
        case "after":
            if not place.pointer or body[found[_above(place.pointer)][0]] != _ARRAY:
                raise _refused(place, "it is no element of an array")
            return _Cut((end, end), f",{new}".encode(), place)
        case "first":
            if body[start] != _ARRAY:
                raise _refused(place, "it is no array")
        case "member":
            if body[start] != _OBJECT or place.pointer in found:
                raise _refused(place, "it stands there already, or above it is no object")
            new = f"{quote(unescape(place.pointer.rpartition('/')[2]))}:{new}"
    return _Cut((start + 1, start + 1), new.encode(), place, opens=True)


def _is_last(cuts: list[_Cut], number: int) -> bool:
    """Whether no other cut stands where this one does."""
    return number + 1 == len(cuts) or cuts[number + 1].span != cuts[number].span


def _refused(place: Place, why: str) -> WireError:
    return WireError(f"{place.pointer or 'the body'} cannot be written: {why}")
