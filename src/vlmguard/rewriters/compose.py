"""Composition: the refined prompt of the embedded rewriter, and the analysis that explains it.

The refined prompt takes the place of the user's turn, so it speaks in the user's voice and language. It keeps what they need,
names the risk found between this text and this picture, and asks for the answer that the policy's guidance describes: never a
bare refusal. Dangerous words appear only as short quoted data.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from vlmguard import trace
from vlmguard.policy import Policy
from vlmguard.types import Finding, Modality

MOST_QUOTED = 160
"""Characters of dangerous words that are quoted."""

_UNQUOTABLE = re.compile(
    r"https?://\S+|www\.\S+|[\w.+-]+@[\w-]+\.[\w.-]+|\+?\d[\d ()/-]{6,}\d|`{3,}|</?[a-z_|]+[^>\s]*/?>|<\|[^|>]*\|>",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a refined prompt has to answer to."""

    prompt: str
    """The user's words."""
    finding: Finding
    """The finding that decides."""
    modality: Modality
    """Where that finding lives."""
    seen: tuple[tuple[str, str], ...] = ()
    """(source, words) per picture in which words were read; the source is ``image 1`` and so on."""
    resolved: str = ""
    """What prompt and picture mean together."""
    orders: str = ""
    """An order to the assistant, found where nobody may give one."""
    hidden: str = ""
    """What disguised words say when read plainly."""
    risky: str = ""
    """The part that carries the risk, of a text too long to quote."""
    source: str = ""
    """The picture that the finding is about, where there is one."""


@dataclass(frozen=True, slots=True)
class Composition:
    """The explanation, in English, and the refined prompt, in the user's language."""

    analysis: str
    prompt: str


@lru_cache(maxsize=1)
def _phrases() -> Mapping[str, Mapping[str, str]]:
    phrases: dict[str, dict[str, str]] = tomllib.loads(
        (files("vlmguard.rewriters") / "phrases.toml").read_text(encoding="utf-8")
    )
    return phrases


def _frames(language: str) -> Mapping[str, str]:
    phrases = _phrases()
    return phrases.get(language) or phrases["en"]


def compose(situation: Situation, policy: Policy, language: str) -> Composition:
    """The refined prompt for a situation whose finding has a category. ``language`` falls back to English."""
    category = policy.category(situation.finding.category or "other")
    frames = _frames(language)
    slots = {
        "risk": policy.say(category.risk, language),
        "guidance": policy.say(category.guidance, language),
        "quote": quoted(_risky_words(situation)),
        "seen": quoted(situation.orders or _words_of(situation)),
        "source": _picture(situation, frames),
    }
    kind = "orders" if situation.orders else situation.modality.value
    note = frames[kind].format(**slots)
    parts = [note] if kind == "text" else [situation.prompt.strip() or frames["alone"].format(**slots), note]
    if situation.hidden and kind == "text":
        parts.append(frames["hidden"].format(hidden=quoted(situation.hidden)))
    return Composition(_analysis(situation, category.title.lower()), "\n\n".join(parts).strip())


def quoted(text: str) -> str:
    """Words as data: on one line, cut to length, without addresses, numbers to call, code fences and tags."""
    text = _UNQUOTABLE.sub("…", text.replace("\x00", " "))
    text = " ".join(trace.escape(text).replace("“", "'").replace("”", "'").split())
    return text if len(text) <= MOST_QUOTED else text[: MOST_QUOTED - 1].rstrip() + "…"


def neutralise_tool_result(text: str, policy: Policy, language: str) -> str:
    """A tool's result, whole, marked as data that gives no orders."""
    del policy  # the wording is the same under every policy
    frames = _frames(language)
    return f"{frames['tool']}\n{text}\n{frames['tool_end']}"


def _risky_words(situation: Situation) -> str:
    if len(situation.prompt) > MOST_QUOTED and situation.risky and not situation.hidden:
        return situation.risky
    return situation.prompt


def _words_of(situation: Situation) -> str:
    for source, words in situation.seen:
        if not situation.source or source == situation.source:
            return situation.risky if situation.modality is Modality.IMAGE and situation.risky else words
    return situation.risky or situation.resolved


def _picture(situation: Situation, frames: Mapping[str, str]) -> str:
    source = situation.source or (situation.seen[0][0] if situation.seen else "")
    number = source.removeprefix("image ")
    return frames["image_name"].format(number=number) if number.isdigit() else frames["anything"]


def _analysis(situation: Situation, title: str) -> str:
    if situation.orders:
        return (
            "Words that the user did not write give the assistant orders; obeyed, they would put somebody else's wish in the "
            "place of the user's."
        )
    match situation.modality:
        case Modality.TEXT:
            disguised = (
                " They were disguised, which shows that it was meant to pass unseen." if situation.hidden else ""
            )
            return f"The user's own words carry the risk ({title}); the pictures are not needed for it.{disguised}"
        case Modality.IMAGE:
            return (
                f"The words in the picture carry the risk ({title}); a prompt that looks harmless hands control to them, so the "
                "text alone would have passed."
            )
        case Modality.CROSS:
            return (
                f"Neither the words nor the picture need be harmful alone; the prompt points at what the picture says, and only "
                f"together they touch on {title}."
            )
