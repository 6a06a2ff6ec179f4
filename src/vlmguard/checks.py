"""What a refined prompt must keep to before it is sent (architecture, decision 5).

The guard composes text, so whoever steers the rewriter steers what reaches the model. A rewrite that brings in something
the user did not write and the policy does not offer is not sent.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from vlmguard import trace
from vlmguard.errors import RewriteError
from vlmguard.language import detect
from vlmguard.policy import LANGUAGES, Policy
from vlmguard.prompts import load_prompt
from vlmguard.types import Chat, Level, Refinement

MOST_ADDED = 4_000
"""Characters that a rewrite may add to what the user wrote."""
MOST_RELATIVE = 4.0
"""How many times the user's length a rewrite may be, beyond what ``FREE`` allows any."""
FREE = 2_500
"""Characters that any rewrite may have, however short the user's prompt was."""

_FOREIGN = {
    "a web address": re.compile(
        r"(?:\b[a-z][a-z0-9+.-]{1,15}://|www\.)\w[^\s<>\"')\]]+"
        r"|(?<!:)//[\w.-]+/\S*|(?<![\w@.-])(?:[a-z0-9-]+\.)+[a-z]{2,24}/\S+"
        r"|(?<![\w@.-])(?:[a-z0-9-]+\.)+(?:com|net|org|io|dev|app|info|biz|xyz|onion|example|site|online|top|shop|link|sh|co|ai|me|ru|cn|de|uk|eu)\b(?:/\S*)?",
        re.IGNORECASE,
    ),
    "the address of a machine": re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
    "a mail address": re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]+\.[\w.-]+"),
    "a phone number": re.compile(
        r"(?<![\w.])(?!(?:1[89]|20)\d\d ?[-/] ?(?:1[89]|20)\d\d(?!\d))\+?\d[\d ()/-]{6,}\d(?![\w.])"
    ),  # a span of years is none
    "a code block": re.compile(r"```[^`]*(?:```|\Z)"),
    "code": re.compile(r"(?<!`)`[^`\n]{2,200}`(?!`)"),
    "an encoded text": re.compile(
        r"(?<![\w+/=])(?=[A-Za-z+/]*\d)(?=[0-9+/a-z]*[A-Z])[A-Za-z0-9+/]{28,}={0,2}|\b[0-9a-f]{40,}\b"
    ),
    "a tool call": re.compile(r"</?tool_(?:call|response)>|<\|[^|>]{1,40}\|>|\"(?:tool_calls|function_call)\"\s*:"),
    "a mark of a chat template": re.compile(
        r"\[/?INST\]|<</?SYS>>|</?think(?:ing)?>|<(?:start|end)_of_turn>|^[ \t]*(?:system|assistant|developer)[ \t]*:(?=\s)",
        re.IGNORECASE | re.MULTILINE,
    ),
}
_INVISIBLE = frozenset({"Cc", "Cf", "Co", "Cn"})
_SPELLING = frozenset("\n\t\u200c\u200d")
"""What texts are laid out and some languages are spelled with."""
_LEAK = 40
"""Letters and digits in a row, about eight words, from which on words count as taken from somewhere."""
_OTHERS = frozenset({"system", "developer", "tool"})
"""Whose words are not the user's to say."""
_DATUM = re.compile(
    r"```[^`]+```|(?<!`)`[^`\n]{2,200}`(?!`)|(?<![\w.+-])[\w.+-]++@[\w-]+\.[\w.-]+|https?://[^\s<>\"')\]]+|\d+(?:[.,:/-]\d+)+|\d{3,}"
)
"""Smaller numbers mostly count what is asked for ("ten steps"), which a safe answer need not keep to."""
_KEPT_UP_TO = 6_000
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*")
_NAMED_IN = frozenset({"en", "es", "fr"})
"""Languages in which a capital letter inside a sentence marks a name."""
_SENTENCE = re.compile(r"(?<=[.!?\n])\s+")
_CONTENT_WORD = re.compile(r"[^\W\d_]{4,}")


def check_rewrite(chat: Chat, refined: str, policy: Policy) -> None:
    """Raises ``RewriteError`` when ``refined`` may not take the place of the last turn of ``chat``."""
    original = chat.messages[-1].text
    if _folded(original) and _folded(refined) == _folded(original):
        raise RewriteError("it says what the user said, though a risk was found in that")
    _check_length(original, refined)
    _check_language(original, refined)
    if trace.is_refusal(refined) and not trace.is_refusal(original):
        raise RewriteError(f"it is a refusal and no prompt: {refined[:60]!r}")
    _check_leak(chat, refined, policy)
    said = (message.text for message in chat.messages if message.role not in _OTHERS)
    written = "\n".join([*said, *_offered(policy)])
    for letter in set(refined) - set(written):
        if unicodedata.category(letter) in _INVISIBLE and letter not in _SPELLING:
            raise RewriteError(f"it holds an invisible character that the user did not write: U+{ord(letter):04X}")
    for what, pattern in _FOREIGN.items():
        for found in pattern.findall(refined):
            if found not in written:
                raise RewriteError(f"it holds {what} that the user did not write: {found[:60]!r}")
    for tag in trace.find_tags(refined):
        if tag not in written:
            raise RewriteError(f"it holds a tag of the trace grammar: {tag[:60]!r}")


def without_foreign(text: str) -> str:
    """``text`` without what no rewrite may bring in: for quoting words that are not the user's."""
    for pattern in _FOREIGN.values():
        text = pattern.sub("…", text)
    return text


def check_kept(chat: Chat, refinement: Refinement) -> None:
    """Raises ``RewriteError`` when a refined prompt has lost the user's own data: numbers, names, addresses and code.

    Of a text too long for that, nothing is asked. What is part of the risk need not be kept: what the evidence or a rationale
    quotes, and, where the words are a risk by themselves, whatever stands in a sentence that they are about.
    """
    original, refined = chat.messages[-1].text, refinement.prompt or ""
    if len(original) > _KEPT_UP_TO:
        return
    reasons = " ".join(
        [
            *(item.observation for item in refinement.evidence),
            *(finding.rationale for _, finding in refinement.report if finding is not None),
            refinement.analysis,
        ]
    ).lower()
    text = refinement.report.text
    risky = text is not None and text.level >= Level.MEDIUM
    named = detect(original) in _NAMED_IN
    for sentence in _SENTENCE.split(original):
        if risky and _is_about(reasons, sentence):
            continue
        data = [*_DATUM.findall(sentence), *(_NAME.findall(sentence) if named and not _is_title(sentence) else ())]
        for datum in data:
            if datum.lower() not in refined.lower() and datum.lower() not in reasons:
                raise RewriteError(f"it drops what the user needs and no evidence speaks of: {datum[:60]!r}")


def _is_title(sentence: str) -> bool:
    """Whether capitals mean nothing in a sentence, since most of its words have one."""
    words = _CONTENT_WORD.findall(sentence)
    return bool(sum(word[0].isupper() for word in words) * 2 > len(words))


def _is_about(reasons: str, sentence: str) -> bool:
    """Whether reasons speak of a sentence: a third of its longer words stand in them."""
    words = {word.lower() for word in _CONTENT_WORD.findall(sentence)}
    return not words or sum(word in reasons for word in words) * 3 >= len(words)


def _check_leak(chat: Chat, refined: str, policy: Policy) -> None:
    """Nothing of the rewriter's instructions, of system turns or of tool results may come to stand in the user's mouth."""
    ours = _folded(refined)
    windows = {ours[at : at + _LEAK] for at in range(len(ours) - _LEAK + 1)}
    if not windows:
        return
    theirs = _folded("\n".join(message.text for message in chat.messages if message.role == "user"))
    allowed = _folded("\n".join(_offered(policy)))
    kept = _kept_to_ourselves("\n".join(category.rule for category in policy.categories.values()))
    others = _folded("\n".join(message.text for message in chat.messages if message.role in _OTHERS))
    for window in windows:
        if (window in kept or window in others) and window not in theirs and window not in allowed:
            raise RewriteError(f"it repeats words of others that are not the user's to say: …{window}…")


@lru_cache(maxsize=32)
def _kept_to_ourselves(rules: str) -> str:
    return _folded("\n".join((load_prompt("rewriter"), load_prompt("repair"), load_prompt("reminder"), rules)))


def _folded(text: str) -> str:
    """Letters and digits alone, so that spacing and punctuation hide nothing."""
    return "".join(filter(str.isalnum, text.lower()))


def _offered(policy: Policy) -> Iterator[str]:
    """What the policy may bring into a prompt."""
    yield from policy.allowed
    for category in policy.categories.values():
        yield from category.risk.values()
        yield from category.guidance.values()


def _check_length(original: str, refined: str) -> None:
    most = max(FREE, min(len(original) + MOST_ADDED, int(len(original) * MOST_RELATIVE)))
    if len(refined) > most:
        raise RewriteError(f"it has {len(refined):,} characters where {most:,} are the most")


def _check_language(original: str, refined: str) -> None:
    theirs, ours = detect(original), detect(refined)
    if "und" in (theirs, ours) or theirs not in LANGUAGES:
        return
    if theirs != ours:
        raise RewriteError(f"the user writes {theirs}, the refined prompt is in {ours}")
