"""The quality gate: named filters that a row has to pass, each giving the reason when it does not.

The order is the order of cost: what the text itself shows first, what takes model calls last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vlmguard.checks import check_rewrite
from vlmguard.errors import RewriteError
from vlmguard.language import detect
from vlmguard.policy import Action, Policy
from vlmguard.types import Chat, Evidence, Level, Modality, RiskReport, Verdict

GATES = (
    "answers",
    "nothing to mend",
    "grammar",
    "false alarm",
    "missed",
    "leakage",
    "grounding",
    "checks",
    "need",
    "outcome",
)
"""The names of the filters, in order."""

_ABOUT_ANSWERS = re.compile(
    r"\b(?:safe|unsafe|harmful|harmless|first|second|other|both|either|better|worse|two|model's|assistant's)\s+"
    r"(?:\w+\s+)?(?:answers?|responses?|repl(?:y|ies)|completions?|refusals?)\b"
    r"|\b(?:answers?|responses?) [AB]\b"
    r"|\b(?:the (?:model|assistant|AI)) (?:says|said|answers|answered|refuses|refused|complies|complied|responds|responded)\b"
    r"|\b(?:should|would|must|to) be (?:answered|refused|declined)\b"
    r"|\bthe (?:answers?|responses?|completions?) (?:tells?|gives?|says?|explains?|fails?|refuses?|misses|complies|provides?)\b",
    re.IGNORECASE,
)
_SHARED = 6
"""Words in a row that a trace may not share with an answer when the request does not hold them."""
_WORD = re.compile(r"[^\W\d_]+|\d+")
_EMPTY_WORDS = frozenset(
    _WORD.findall(
        """the a an of to in on and or is are be this that it its with for as by at from has have was were which who not
        no image picture photo text user users request words word shows show shown asks ask about there what how
        something someone person people can could may might would"""
    )
)


def leakage(traced: Iterable[str], chat: Chat, answers: Sequence[str]) -> str | None:
    """Whether a trace speaks of an answer (hindsight must not leak: the deployed rewriter never sees one)."""
    asked = " ".join(message.text for message in chat.messages)
    known = _shingles(asked)
    told = set().union(*(_shingles(answer) for answer in answers)) - known if answers else set()
    for sentence in traced:
        if (found := _ABOUT_ANSWERS.search(sentence)) and found[0].casefold() not in asked.casefold():
            return f"it speaks of an answer: {found[0]!r}"
        if shared := _shingles(sentence) & told:
            return f"it quotes an answer: {' '.join(min(shared))!r}"
    return None


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = [word.casefold() for word in _WORD.findall(text)]
    return {tuple(words[at : at + _SHARED]) for at in range(len(words) - _SHARED + 1)}


def grounding(evidence: Sequence[Evidence], chat: Chat) -> str | None:
    """Whether each piece of evidence names something of the input, in a source that is there."""
    images = len(chat.images)
    asked = _content_words(" ".join(message.text for message in chat.messages))
    for item in evidence:
        number = item.source.removeprefix("image ")
        if item.source.startswith("image "):
            if not number.isdigit() or not 1 <= int(number) <= images:
                return f"it cites {item.source}, and the request has {images} picture(s)"
        elif item.modality is not Modality.TEXT and not images:
            return f"it cites a picture ({item.modality.value}), and the request has none"
        named = _content_words(item.observation)
        if not named:
            return f"it names nothing: {item.observation!r}"
        if (
            item.modality is Modality.TEXT
            and item.source == "text"
            and not _speaks_of(named, item.observation, chat, asked)
        ):
            return f"it names nothing of the words: {item.observation!r}"
    return None


def _speaks_of(named: set[str], observation: str, chat: Chat, asked: set[str]) -> bool:
    """Whether an observation shares a word with the request. Where it is in another language, words cannot tell."""
    if not asked or named & asked:
        return True
    languages = {detect(observation), detect(chat.prompt)}
    return len(languages - {"und"}) > 1


def _content_words(text: str) -> set[str]:
    """Stems of a sort: the first five letters tell words apart well enough, and 'mixes' is 'mixing'. Of scripts without spaces
    every letter is one.
    """
    words = {word.casefold()[:5] for word in _WORD.findall(text) if word.casefold() not in _EMPTY_WORDS}
    return words | {letter for letter in text if letter >= "\u2e80" and letter.isalpha()}


def rewrite_checks(chat: Chat, prompt: str, policy: Policy) -> str | None:
    """Whether the guard would send this rewrite."""
    turn = chat.last_user_turn
    if prompt.strip() == chat.messages[turn].text.strip():
        return "it changes nothing"
    try:
        check_rewrite(chat.until(turn), prompt, policy)
    except RewriteError as error:
        return str(error)
    return None


def decision(report: RiskReport, policy: Policy, *, benign: bool) -> tuple[str, str] | None:
    """(gate, reason) when the report contradicts what the source says of the row."""
    worst = report.worst
    if benign and worst.level > Level.NONE:
        return "false alarm", f"a harmless row was found to be {worst.category} ({worst.level})"
    if not benign and all(finding is None or policy.action(finding) is Action.FORWARD for _, finding in report):
        return "missed", f"a risky row was found to be no more than {worst.level}, which is forwarded"
    return None


def outcome(after: Verdict) -> str | None:
    """Why the target's answer to a rewrite does not pass."""
    if after.safe is None or after.helpful is None:
        return "the answer to the rewrite was not judged"
    if not after.safe:
        return "the target still answers unsafely"
    if not after.helpful:
        return "the target answers safely, and does not help"
    return None
