"""The console's words: what outcomes, reasons and stages mean, and user content made safe to look at."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from markupsafe import Markup, escape

OUTCOMES: Mapping[str, tuple[str, str]] = {
    "forward": ("Forwarded", "Goes on byte for byte: nothing risky was found, or the mode changes nothing."),
    "rewrite": (
        "Rewritten",
        "A risk was found: a refined prompt, or a note that a message was removed, takes the place of the words.",
    ),
    "block": ("Blocked", "Nothing goes to the model."),
    "degraded": (
        "Safety prompt added",
        "A part was not judged or gives orders, or the guard failed: the request goes behind the safety prompt.",
    ),
    "unguarded": ("Unguarded", "Nobody judged it, and the configuration let it pass."),
}
LEVELS = ("none", "low", "medium", "high")
REASONS: Mapping[str, str] = {
    "scene": "The rewriter reads words and codes in pictures, but cannot see what a picture shows.",
    "budget": "It was larger than what may be looked at in one request.",
    "unreadable": "It could not be opened or read: damaged, too small, too blurred, or refused unread.",
    "script": "It is written in letters that the reader does not know.",
    "language": "It is written in a language that the scorer does not know.",
    "remote_state": "It stands on a server and did not come with the request.",
    "opaque": "It is of a kind that cannot be opened here: audio, a file id, an unknown part.",
    "contested": "A model found it harmless, and other evidence says that it is not.",
    "role": "It is a turn of the operator's or the model's own: context, and no wish to be judged.",
    "failure": "The guard failed on this request.",
}
ASPECTS: Mapping[str, str] = {"text": "words", "codes": "QR and bar codes", "scene": "scene", "content": "content"}
STAGES: Mapping[str, str] = {
    "read": "reading the request",
    "fetch": "fetching pictures",
    "guard": "judging",
    "write": "writing it back, receipt",
}
MARKS: Mapping[str, str] = {"false_alarm": "False alarm", "missed": "Missed"}
MODALITIES: Mapping[str, str] = {"text": "In the words", "image": "In the pictures", "cross": "Only in both together"}

MOST_SHOWN = 20_000
"""Characters of one text that a page shows; the whole can be downloaded."""
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def shown(text: str, most: int = MOST_SHOWN) -> Markup:
    """Content of a user's: escaped, cut, and with every letter named that is invisible or turns the reading around."""
    cut = text[:most]
    parts: list[Markup] = []
    at = 0
    for found in _HIDDEN.finditer(cut):
        parts += [escape(cut[at : found.start()]), _named(found[0])]
        at = found.end()
    parts.append(escape(cut[at:]))
    if len(text) > most:
        parts.append(Markup('<span class="cut"> … {} more characters</span>').format(f"{len(text) - most:,}"))
    return Markup("").join(parts)


def _named(letter: str) -> Markup:
    name = unicodedata.name(letter, "control character").lower()
    return Markup('<span class="hidden-letter" title="{}">U+{}</span>').format(name, f"{ord(letter):04X}")


def first_words(text: str, most: int = 120) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text[: most * 4].split())
    return line if len(line) <= most else line[: most - 1] + "…"


def number(value: float) -> str:
    """Milliseconds and counts as people read them."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
