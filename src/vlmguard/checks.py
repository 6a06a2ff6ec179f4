"""What a refined prompt must keep to before it is sent (architecture, decision 5).

The guard composes text, so whoever steers the rewriter steers what reaches the model. A rewrite that brings in something
the user did not write and the policy does not offer is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vlmguard import trace
from vlmguard.errors import RewriteError
from vlmguard.language import detect
from vlmguard.policy import LANGUAGES, Policy
from vlmguard.types import Chat

MOST_ADDED = 4_000
"""Characters that a rewrite may add to what the user wrote."""
MOST_RELATIVE = 4.0
"""How many times the user's length a rewrite may be, beyond what ``FREE`` allows any."""
FREE = 2_500
"""Characters that any rewrite may have, however short the user's prompt was."""

_FOREIGN = {
    "a web address": re.compile(r"(?:https?://|www\.)\w[^\s<>\"')\]]+", re.IGNORECASE),
    "a mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"),
    "a phone number": re.compile(
        r"(?<![\w.])(?!(?:1[89]|20)\d\d ?[-/] ?(?:1[89]|20)\d\d(?!\d))\+?\d[\d ()/-]{6,}\d(?![\w.])"
    ),  # a span of years is none
    "a code block": re.compile(r"```[^`]*(?:```|\Z)"),
    "a tool call": re.compile(r"<tool_call>|<\|[^|>]{1,40}\|>|\"(?:tool_calls|function_call)\"\s*:"),
}


def check_rewrite(chat: Chat, refined: str, policy: Policy) -> None:
    """Raises ``RewriteError`` when ``refined`` may not take the place of the last turn of ``chat``."""
    original = chat.messages[-1].text
    _check_length(original, refined)
    _check_language(original, refined)
    written = "\n".join([*(message.text for message in chat.messages), *_offered(policy)])
    for what, pattern in _FOREIGN.items():
        for found in pattern.findall(refined):
            if found not in written:
                raise RewriteError(f"it holds {what} that the user did not write: {found[:60]!r}")
    for tag in trace.find_tags(refined):
        if tag not in written:
            raise RewriteError(f"it holds a tag of the trace grammar: {tag[:60]!r}")


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
