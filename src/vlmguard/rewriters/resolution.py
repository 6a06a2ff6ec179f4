"""Owns cross-modal resolution: what a prompt points at in the pictures, and the intent that the two make together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Composed:
    """An intent that prompt and picture make together, to be scored like a prompt."""

    text: str
    image: int
    """Which picture it draws on, 1-based, in the order of the readings."""
    how: str
    """How the two were joined: ``pointing word``, ``item``, ``empty list``, ``instruction``, ``pairing``, …"""
    lines: tuple[str, ...] = ()
    """The lines of the picture that went into it."""


_FOLLOW = re.compile(
    r"\b(?:follow|do what|execute|carry out|answer the question in|complete|fill in|continue)\b.{0,60}"
    r"\b(?:image|picture|photo|list|it says)\b",
    re.IGNORECASE | re.DOTALL,
)
_EMPTY = re.compile(r"^\s*(?:\d{1,2}\s*[.):]?|[-•*])\s*$")
_ORDER = re.compile(
    r"[^.!?\n]*\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:the\s+|your\s+)?(?:previous|prior|above)\b[^.!?\n]*",
    re.IGNORECASE,
)


def resolve(prompt: str, readings: Sequence[str]) -> tuple[Composed, ...]:
    """The intents that ``prompt`` makes with the words read in its pictures, the most telling first.

    ``readings[i]`` is the text read in image ``i + 1``, "" where there was none.
    """
    composed = []
    for number, reading in enumerate(readings, start=1):
        lines = tuple(line.strip() for line in reading.splitlines() if line.strip())
        if not lines:
            continue
        heading = empty_items(reading)
        if heading:
            composed.append(Composed(f"Give {heading}", number, "empty list", (heading,)))
        composed.append(Composed(f"{prompt}\n{' '.join(lines)}".strip(), number, "pairing", lines))
    return tuple(composed)


def asks_to_follow(prompt: str) -> bool:
    """Whether ``prompt`` hands control to the words in a picture."""
    return _FOLLOW.search(prompt) is not None


def empty_items(reading: str) -> str | None:
    """The heading of a list whose numbered items are empty and wait to be filled in; ``None`` without such a list."""
    lines = [line for line in reading.splitlines() if line.strip()]
    empty = [line for line in lines if _EMPTY.match(line)]
    heading = " ".join(line.strip() for line in lines if not _EMPTY.match(line))
    return heading if len(empty) >= 2 and heading else None


def orders_to_assistant(text: str) -> str | None:
    """The sentence of ``text`` that gives orders to an assistant reading it; ``None`` when there is none."""
    match = _ORDER.search(text)
    return match[0].strip() if match else None
