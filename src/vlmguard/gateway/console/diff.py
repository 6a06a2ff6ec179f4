"""What changed between two texts, word by word."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_MOST = 3_000
"""Words of both texts together that are compared: the time grows with the square."""


@dataclass(frozen=True, slots=True)
class Run:
    """Some words that stayed, went or came."""

    kind: Literal["same", "gone", "new"]
    text: str


def words(before: str, after: str) -> list[Run] | None:
    """The runs that lead from one text to the other; ``None`` when they are too long to compare."""
    if len(before) + len(after) > _MOST * 20:
        return None
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) + len(new) > _MOST:
        return None
    runs: list[Run] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            runs.append(Run("same", "".join(old[i1:i2])))
            continue
        if i1 < i2:
            runs.append(Run("gone", "".join(old[i1:i2])))
        if j1 < j2:
            runs.append(Run("new", "".join(new[j1:j2])))
    return runs
