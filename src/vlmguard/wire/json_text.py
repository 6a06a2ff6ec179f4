"""Strict JSON, and writing strings into it without touching another byte.

Refused is what two readers could read differently: duplicate keys, invalid UTF-8, NaN, lone surrogates, bytes after the end.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from vlmguard.errors import WireError

MOST_DEPTH = 64
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_JUMP = re.compile(r"[\s,:]*")
_PRIMITIVE = re.compile(r"[^\s,\]}]+")
_DEEPER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)


def read_object(body: bytes) -> dict[str, Any]:
    """The object that ``body`` is. Raises ``WireError``."""
    _refuse_depth(body)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"the body is not UTF-8 (byte {error.start})") from error
    if text.startswith("\ufeff"):
        raise WireError("the body starts with a byte order mark: leave it out")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise WireError("the body is nested too deeply") from error
    except ValueError as error:
        raise WireError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WireError("the body is not a JSON object")
    return value


def _refuse_depth(body: bytes) -> None:
    depth = 0
    for token in _DEEPER.finditer(body):
        mark = body[token.start()]
        if mark in b"[{":
            depth += 1
            if depth > MOST_DEPTH:
                raise WireError(f"the body is nested deeper than {MOST_DEPTH} levels")
        elif mark in b"]}":
            depth -= 1


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


def require_unicode(text: str, path: str) -> str:
    """``text``, which holds no lone surrogate. Raises ``WireError``."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WireError(f"{path} holds a lone surrogate at character {error.start}") from error
    return text


def spans(text: str, wanted: set[str]) -> dict[str, tuple[int, int]]:
    """Where the values at the JSON pointers ``wanted`` stand in ``text``, which is valid JSON: pointer → [start, end)."""
    found: dict[str, tuple[int, int]] = {}
    _walk(text, _JUMP.match(text, 0).end(), "", wanted, found)  # type: ignore[union-attr]
    return found


def _walk(text: str, at: int, pointer: str, wanted: set[str], found: dict[str, tuple[int, int]]) -> int:
    """Reads the value at ``at``; returns where it ends."""
    start = at
    mark = text[at]
    if mark == '"':
        at = _STRING.match(text, at).end()  # type: ignore[union-attr]
    elif mark == "{":
        at = _skip(text, at + 1)
        while text[at] != "}":
            key = _STRING.match(text, at)
            assert key is not None
            name = json.loads(key[0]).replace("~", "~0").replace("/", "~1")
            at = _walk(text, _skip(text, key.end()), f"{pointer}/{name}", wanted, found)
            at = _skip(text, at)
        at += 1
    elif mark == "[":
        at, number = _skip(text, at + 1), 0
        while text[at] != "]":
            at = _skip(text, _walk(text, at, f"{pointer}/{number}", wanted, found))
            number += 1
        at += 1
    else:
        at = _PRIMITIVE.match(text, at).end()  # type: ignore[union-attr]
    if pointer in wanted:
        found[pointer] = (start, at)
    return at


def _skip(text: str, at: int) -> int:
    return _JUMP.match(text, at).end()  # type: ignore[union-attr]


def quote(text: str) -> str:
    """``text`` as a JSON string."""
    return json.dumps(text, ensure_ascii=False)
