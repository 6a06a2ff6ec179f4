"""The tokens of a text for the encoder. What ASCII prose falls into is looked up here, in a fraction of the time that the tokenizer
takes, which follows every character to where it stood; all else is left to the tokenizer."""

from __future__ import annotations

import json
import re
from typing import Any

_LEFT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\[]")
"""Of ASCII what the tokenizer drops, and what its special tokens begin with."""
_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
_LONGEST = 100
"""Characters of a word that the tokenizer cuts into pieces; a longer one is unknown to it."""


class WordPieces:
    """Text → tokens, those of ``tokenizer`` whatever it is.

    Args:
        tokenizer: of the library ``tokenizers``, without padding and truncation.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab() if _is_uncased_bert(tokenizer) else {}

    def __call__(self, text: str) -> list[int]:
        """The tokens of ``text`` between those that open and close it."""
        if not self._vocabulary or not text.isascii() or _LEFT.search(text):
            tokens: list[int] = self._tokenizer.encode(text).ids
            return tokens
        found = [self._vocabulary["[CLS]"]]
        for word in _WORD.findall(text.lower()):
            token = self._vocabulary.get(word)
            if token is not None and len(word) <= _LONGEST:
                found.append(token)
            else:
                found += self._pieces(word)
        found.append(self._vocabulary["[SEP]"])
        return found

    def _pieces(self, word: str) -> list[int]:
        """The longest pieces from left to right; one unknown where no piece fits."""
        unknown = [self._vocabulary["[UNK]"]]
        if len(word) > _LONGEST:
            return unknown
        pieces: list[int] = []
        start, prefix = 0, ""
        while start < len(word):
            for end in range(len(word), start, -1):
                if (token := self._vocabulary.get(prefix + word[start:end])) is not None:
                    break
            else:
                return unknown
            pieces.append(token)
            start, prefix = end, "##"
        return pieces


def _is_uncased_bert(tokenizer: Any) -> bool:
    """Whether the tokenizer does what is done here, and no more."""
    parts = json.loads(tokenizer.to_str())
    normalizer, model = parts["normalizer"] or {}, parts["model"]
    special = all(token["special"] and token["content"][0] == "[" for token in parts["added_tokens"])
    framed = [one for part in (parts["post_processor"] or {}).get("single", []) for one in part]
    return (
        (normalizer.get("type"), normalizer.get("lowercase")) == ("BertNormalizer", True)
        and (parts["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and (model["type"], model["continuing_subword_prefix"], model["unk_token"]) == ("WordPiece", "##", "[UNK]")
        and model["max_input_chars_per_word"] == _LONGEST
        and special
        and framed == ["SpecialToken", "Sequence", "SpecialToken"]
    )
