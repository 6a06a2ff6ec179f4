"""Owns the readings of a text that someone wrote so that a reader, but not a filter, understands it.

``decode`` gives the readings that deserve to be judged beside the original; ``substitutions`` reads a table of
word replacements out of a prompt and ``substitute`` applies one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class View:
    """Another reading of a text."""

    text: str
    method: str
    """What was undone, outermost first, joined by " > ": ``base64``, ``zero-width``, ``hex > rot13``."""
    hidden: bool
    """Whether writing it that way looks like an attempt to hide; ``False`` is mere normalisation."""


_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\u00ad]")


def decode(text: str, table: Mapping[str, str] | None = None) -> tuple[View, ...]:
    """The decoded readings of ``text``, the most telling first; empty when there is nothing to decode.

    ``table`` maps words to the words they stand for (see ``substitutions``). Never raises.
    """
    views = []
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    if plain != text:
        views.append(View(plain, "normalised", hidden=False))
    if table and (replaced := substitute(plain, table)) != plain:
        views.append(View(replaced, "substitution", hidden=True))
    return tuple(views)


_PAIR = re.compile(r"""["'](\w[\w -]{0,40})["']\s*(?::|means|stands for|=|->|→)\s*["'](\w[\w -]{0,40})["']""")


def substitutions(prompt: str) -> Mapping[str, str]:
    """The word replacements that ``prompt`` declares: written word → meant word, lower case. Empty when none."""
    return {match[1].lower(): match[2].lower() for match in _PAIR.finditer(prompt)}


def substitute(text: str, table: Mapping[str, str]) -> str:
    """``text`` with every whole word that ``table`` knows replaced, keeping its case."""
    if not table:
        return text
    keys = sorted(table, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(key) for key in keys)})(?!\w)", re.IGNORECASE)

    def meant(match: re.Match[str]) -> str:
        word = table.get(match[0].lower(), match[0])
        return word.capitalize() if match[0][:1].isupper() else word

    return pattern.sub(meant, text)
