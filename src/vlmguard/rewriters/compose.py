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
from pathlib import Path

from vlmguard import trace
from vlmguard.checks import without_foreign
from vlmguard.policy import Policy
from vlmguard.types import Finding, Modality

MOST_QUOTED = 160
"""Characters that are quoted of words in a picture, or of a text too long to quote whole."""
MOST_REQUESTED = 320
"""Characters of a request that is quoted whole. Of a longer one only the part that carries the risk is."""

_READ = 4 * MOST_REQUESTED
"""Characters that are looked at to find those to quote."""
_UNQUOTABLE = re.compile(
    r"""\b[a-z][a-z0-9+.-]{1,15}://\S+ | www\.\S+              # web addresses
      | (?<![\w.+-])[\w.+-]++@[\w-]+\.[\w.-]+                  # mail addresses
      | \+?\d[\d\ ()/-]{6,}\d | \d{2,4}(?:\.\d{2,4}){2,}       # numbers to call
      | \d+(?:\.\d+){3,}                                      # addresses of machines
      | `{3,} | </?[a-z_|]+[^<>]{0,80}> | <\|[^|>]{0,40}\|> | \[/?inst\] | <</?sys>>
    """,
    re.IGNORECASE | re.VERBOSE,
)
_GAP = r"(?:[.):]?\s|[):])?"
_EMPTY_ITEMS = re.compile(rf"(?:(?:\s*\b\d{{1,2}}[.):]){{2,}}|\s1{_GAP}2{_GAP}3(?:{_GAP}[4-9])*[.):]?)\s*\Z")
"""The numbers of a list left to be filled in, also read as one ("123"): quoted, they would ask for it again."""
_MARKS = str.maketrans(dict.fromkeys("“”„‟«»「」『』", "'"))
"""Quotation marks inside a quotation would end it."""
_JOINERS = "\u200c\u200d"
"""Invisible letters that Hindi, Persian and emoji are spelled with; no other invisible one is quoted."""


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
    together: tuple[str, ...] = ()
    """The pictures that make the risk together, when one alone does not."""
    alone: bool = False
    """Whether the words or the picture carry a risk without the other, too."""


@dataclass(frozen=True, slots=True)
class Composition:
    """The explanation, in English, and the refined prompt, in the user's language."""

    analysis: str
    prompt: str


@lru_cache(maxsize=1)
def _phrases() -> Mapping[str, Mapping[str, str]]:
    phrases: dict[str, dict[str, str]] = tomllib.loads(
        Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8")
    )
    return phrases


def compose(situation: Situation, policy: Policy, language: str) -> Composition:
    """The refined prompt for a situation whose finding has a category. ``language`` falls back to English."""
    category = policy.category(situation.finding.category or "other")
    language = language if language in _phrases() else "en"
    frames = _phrases()[language]
    frame = _frame(situation)
    source = _picture(situation, frames)
    variant = f"{frame}_together" if situation.together else f"{frame}_{category.id}"
    note = frames.get(variant, frames[frame]).format(
        risk=policy.say(category.risk, language),
        guidance=policy.say(category.guidance, language),
        quote=_request(situation),
        seen=quoted(_words_in_picture(situation)),
        source=source,
    )
    analysis = _analysis(situation, frame, category.title.lower())
    if frame.startswith("text"):
        return Composition(analysis, note)
    prompt = situation.prompt.strip() or frames["alone"].format(source=source)
    return Composition(analysis, f"{prompt}\n\n{note}")


def quoted(text: str, most: int = MOST_QUOTED) -> str:
    """Words as data: on one line, cut to ``most``, without addresses, numbers to call, code fences, tags and marks."""
    text = " ".join(text[: 4 * _READ].split())[:_READ].translate(_MARKS)
    text = "".join(letter for letter in text if letter.isprintable() or letter in _JOINERS)
    text = " ".join(trace.escape(_EMPTY_ITEMS.sub("", without_foreign(_UNQUOTABLE.sub("…", text)))).split())
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    whole = cut[: cut.rfind(" ")] if " " in cut[most // 2 :] else cut
    return whole.rstrip() + "…"


def neutralise_tool_result(text: str, policy: Policy, language: str) -> str:
    """A tool's result, whole, marked as data that gives no orders.

    Every line carries a mark of its own, since a mark at the end alone could be written by the tool too.
    """
    del policy  # the wording is the same under every policy
    frames = _phrases().get(language) or _phrases()["en"]
    lines = "\n".join(f"> {line}" for line in text.splitlines())
    return f"{frames['tool']}\n{lines}\n{frames['tool_end']}"


def _frame(situation: Situation) -> str:
    if situation.orders:
        return "orders"
    if situation.hidden and situation.modality is not Modality.CROSS:
        return f"{situation.modality.value}_hidden"
    return situation.modality.value


def _request(situation: Situation) -> str:
    """What is quoted of the user's words. Disguised ones are quoted in plain words, so that nobody undoes them anew."""
    request = situation.hidden or situation.prompt
    if len(request) > MOST_REQUESTED and situation.risky:
        return quoted(situation.risky)
    return quoted(request, MOST_REQUESTED)


def _words_in_picture(situation: Situation) -> str:
    if situation.orders:
        return situation.orders
    if situation.modality is Modality.IMAGE and (situation.risky or situation.hidden):
        return situation.risky or situation.hidden
    if situation.together:
        return " · ".join(words for source, words in situation.seen if source in situation.together)
    words = next((words for source, words in situation.seen if not situation.source or source == situation.source), "")
    return _most_telling(words, situation.resolved) or situation.risky or situation.resolved


def _most_telling(words: str, resolved: str) -> str:
    """Of a page too long to quote, the stretch that shares most words with what was made of it."""
    if len(words) <= MOST_QUOTED:
        return words
    tokens, used = words.split()[:_READ], set(resolved.casefold().split())
    shared = [index for index, token in enumerate(tokens) if len(token) > 3 and token.casefold() in used]
    near = [sum(start <= index < start + 20 for index in shared[at : at + 20]) for at, start in enumerate(shared)]
    start = shared[near.index(max(near))] if shared else 0
    return " ".join(tokens[max(0, start - 3) :])


def _picture(situation: Situation, frames: Mapping[str, str]) -> str:
    sources = situation.together or (situation.source or (situation.seen[0][0] if situation.seen else ""),)
    numbers = [source.removeprefix("image ") for source in sources]
    if not all(number.isdigit() for number in numbers):
        return frames["anything"]
    return ", ".join(frames["image_name"].format(number=number) for number in numbers)


def _analysis(situation: Situation, frame: str, title: str) -> str:
    source = ", ".join(situation.together) or situation.source or "the picture"
    seen = quoted(_words_in_picture(situation), 80)
    match frame:
        case "orders":
            return (
                f'Words in {source} that the user did not write ("{seen}") give the assistant orders; obeyed, they would put '
                "somebody else's wish in the place of the user's."
            )
        case "text":
            return f"The user's own words carry the risk ({title}); no picture is needed for it."
        case "text_hidden":
            return f"The user's own words carry the risk ({title}), in a disguise that lets it pass unseen."
        case "image":
            return (
                f'The words in {source} ("{seen}") carry the risk ({title}); a prompt that looks harmless hands control to '
                "them, so the text alone would have passed."
            )
        case "image_hidden":
            return (
                f'The words in {source}, undisguised ("{seen}"), carry the risk ({title}); a prompt that looks harmless hands '
                "control to them, and their disguise lets them pass unseen."
            )
        case _:
            says = "say" if situation.together else "says"
            return f'The prompt points at what {source} {says} ("{seen}"), and together they touch on {title}' + (
                "." if situation.alone else "; neither was found harmful alone."
            )
