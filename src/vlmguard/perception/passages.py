"""Owns what every finder of hidden text gives, a ``Passage``, and when one is believed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vlmguard.perception.wordlike import WORD, sense


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a text and what it says."""

    start: int
    end: int
    text: str
    hidden: bool
    """Whether it is a message that was hidden, not an encoded thing that belongs there."""


MOST_TRIED = 300
"""Candidates of one encoding that are tried in one text, the longest ones."""
BELIEVED = 0.6
"""Sense that a reading needs."""


def is_message(text: str) -> bool:
    """Three words or more that are prose, not JSON, markup, code or a key."""
    if re.match(r"\s*[{\[<]|-----BEGIN|data:|https?:", text) and not re.match(r"\s*[\[(<][\w ]{1,30}[\])>]", text):
        return False
    return len(WORD.findall(text[:2000])) >= 3 and sense(text) >= BELIEVED


def longest(matches: Iterator[re.Match[str]]) -> list[re.Match[str]]:
    """The longest ``MOST_TRIED`` of ``matches``, in the order of the text."""
    found = list(matches)
    if len(found) > MOST_TRIED:
        found = sorted(found, key=lambda match: match.start() - match.end())[:MOST_TRIED]
        found.sort(key=lambda match: match.start())
    return found
