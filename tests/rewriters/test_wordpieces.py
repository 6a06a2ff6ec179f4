from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from vlmguard.perception.wordlike import vocabulary
from vlmguard.rewriters import wordpieces
from vlmguard.rewriters.wordpieces import WordPieces

_FILE = Path(wordpieces.__file__).parent / "weights" / "tokenizer.json"
TOKENIZER = Tokenizer.from_str(_FILE.read_text(encoding="utf-8"))
TOKENIZER.no_padding()
TOKENIZER.no_truncation()
PIECES = WordPieces(TOKENIZER)

_words = st.sampled_from(sorted(vocabulary()))
_prose = st.lists(
    st.one_of(
        _words,
        _words.map(str.title),
        st.sampled_from([".", ",", "?", "'", "-", "_", "`", "~", "$5", "[CLS]", "[x]", "3.14", "don't"]),
    )
)
_texts = st.one_of(
    _prose.map(" ".join),
    _prose.map("".join),
    st.text(st.characters(max_codepoint=127), max_size=200),
    st.text(st.sampled_from("abcXYZ019 ##.,'\n\t"), max_size=250),
    st.text(max_size=60),
)


@given(_texts)
def test_a_text_has_the_tokens_that_the_tokenizer_gives_it(text: str) -> None:
    assert PIECES(text) == TOKENIZER.encode(text).ids


@pytest.mark.parametrize("length", [99, 100, 101, 5_000])
def test_a_word_beyond_the_longest_is_unknown_to_both(length: int) -> None:
    word = f"see {'qa' * length}"[: 4 + length]
    assert PIECES(word) == TOKENIZER.encode(word).ids


def test_the_packaged_tokenizer_is_one_whose_words_are_looked_up() -> None:
    assert PIECES._vocabulary


@pytest.mark.parametrize("change", [("normalizer", "lowercase", False), ("model", "max_input_chars_per_word", 50)])
def test_a_tokenizer_that_does_something_else_is_asked_itself(change: tuple[str, str, object]) -> None:
    part, name, value = change
    form = json.loads(TOKENIZER.to_str())
    form[part][name] = value
    other = Tokenizer.from_str(json.dumps(form))
    text = f"Explain the Difference, {'a' * 60}"
    assert WordPieces(other)(text) == other.encode(text).ids


def test_a_tokenizer_of_another_kind_is_asked_itself() -> None:
    other = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    assert WordPieces(other)("a b c") == [0, 1, 2]
