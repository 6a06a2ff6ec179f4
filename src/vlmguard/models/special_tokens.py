"""A tokenizer's special tokens in somebody's words: it reads them as turns, pictures and ends wherever they stand in a prompt.

Quoting (``rewriters/quoting.py``) disarms those that families have in common. Where the tokenizer is at hand, in this process and in
training, each of its own is disarmed here as well, in the same way: by a backslash behind its first character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from vlmguard.types import Chat, Part, Text

_SHORTEST = 3
"""Characters. What is shorter is somebody's word, whatever a tokenizer calls it."""
_NAMED = re.compile(r"<[^\s<>]*[_|-][^\s<>]*>")
"""How control tokens are written that a tokenizer does not call special; ``<table>`` and runs of spaces are added tokens too."""
_known: WeakKeyDictionary[Any, re.Pattern[str]] = WeakKeyDictionary()


def without_special_tokens(processor: Any, chat: Chat) -> Chat:
    """``chat`` with a backslash inside every special token of a processor's that stands in its texts."""
    pattern = _pattern(processor)

    def disarmed(part: Part) -> Part:
        return replace(part, text=pattern.sub(r"\g<first>\\", part.text)) if isinstance(part, Text) else part

    return Chat(tuple(replace(message, parts=tuple(map(disarmed, message.parts))) for message in chat.messages))


def special_token_in(processor: Any, text: str) -> str:
    """The first special token in a text; empty where there is none."""
    found = _pattern(processor).search(text)
    return found["token"] if found else ""


def _pattern(processor: Any) -> re.Pattern[str]:
    """A character with which a special token begins, and the token seen from there, so that overlapping ones are found too.

    Case counts for nothing: some tokenizers look for their tokens in lower-cased text.
    """
    if (known := _known.get(processor)) is None:
        tokens = sorted(set(_tokens(processor)), key=lambda token: (-len(token), token))
        written = "|".join(map(re.escape, tokens)) or "(?!)"
        known = _known[processor] = re.compile(rf"(?=(?P<token>{written}))(?P<first>.)", re.IGNORECASE | re.DOTALL)
    return known


def _tokens(processor: Any) -> Iterator[str]:
    tokenizer = processor.tokenizer
    added = tokenizer.added_tokens_decoder.values()
    found = [token.content for token in added if token.special or _NAMED.fullmatch(token.content)]
    named = [
        value for name, value in vars(processor).items() if name.endswith(("_token", "_tag")) and isinstance(value, str)
    ]
    for token in (*found, *tokenizer.all_special_tokens, *named):
        if len(token) >= _SHORTEST and not token.isspace():
            yield token
