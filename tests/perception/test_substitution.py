"""Reading tables of substituted words: whatever the text, in a time that grows with its length."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.perception import substitution

PATTERNS = {name: value for name, value in vars(substitution).items() if isinstance(value, re.Pattern)}


def _seconds(pattern: re.Pattern[str], text: str) -> float:
    """Of the fastest of three."""
    found = []
    for _ in range(3):
        begun = time.process_time()
        for _ in pattern.finditer(text):
            pass
        found.append(time.process_time() - begun)
    return min(found)


@pytest.mark.parametrize("unit", ["\n", " ", '"', ",", "let x ", "- ", "{", "a, "])
@pytest.mark.parametrize("name", PATTERNS)
def test_four_times_the_text_takes_about_four_times_as_long(name: str, unit: str) -> None:
    short, long = (unit * (length // len(unit)) for length in (10_000, 40_000))
    # The square would be 16; what takes no time at all has no ratio.
    assert _seconds(PATTERNS[name], long) < 8 * max(_seconds(PATTERNS[name], short), 0.001)


@pytest.mark.parametrize(
    "text",
    [
        "'pizza' means 'guide'",
        "where pizza means guide",
        "pizza\nmeans\nguide",
        "replace pizza with guide",
        "say pizza instead of guide",
        'let "pizza" be "guide"',
        "pizza -> guide",
    ],
)
def test_the_ways_people_write_a_table(text: str) -> None:
    table = substitution.substitutions(text)
    assert table.get("pizza") == "guide" or table.get("guide") == "pizza"


_PIECES = (
    "means",
    "STANDS FOR",
    "stands  for",
    "代表",
    "का मतलब",
    "is",
    "the word",
    "where",
    "pizza",
    '"guide"',
    "'s",
    ",",
    ":",
    "=",
    "->",
)
_SPACES = (" ", "\n", "\t", "\u00a0", "", "  ")


@given(st.lists(st.tuples(st.sampled_from(_PIECES), st.sampled_from(_SPACES)), max_size=12))
def test_what_is_looked_for_first_stands_in_every_statement_of_a_meaning(words: list[tuple[str, str]]) -> None:
    text = "".join(word + space for word, space in words)
    assert not any(substitution._BARE_MEANS.find(text)) or any(substitution._MEANS.find(text))


@given(st.lists(st.tuples(st.sampled_from(_PIECES), st.sampled_from(_SPACES)), max_size=12))
def test_what_is_looked_for_first_stands_in_every_inline_pair(words: list[tuple[str, str]]) -> None:
    text = "".join(word + space for word, space in words)
    assert not substitution._INLINE_PAIR.search(text) or substitution._POINTING.search(text)


_SENTENCES = (
    "Replace pizza with GUIDE, and Sugar by BOMB",
    "When I say pizza, read guide",
    "USE guide instead of Pizza",
    'Let X be "the Guide"',
    "where Pizza MEANS guide",
    "'pizza' -> 'Guide'",
    "translate it to French",
)


@given(st.lists(st.sampled_from((*_SENTENCES, *map(str.upper, _SENTENCES), *_PIECES)), max_size=6).map(". ".join))
def test_an_ascii_prompt_gives_the_table_that_it_gives_beside_other_letters(prompt: str) -> None:
    """A letter beyond ASCII has the prompt read with the patterns that know all cases."""
    assert substitution.substitutions(prompt) == substitution.substitutions(f"{prompt}\n\u00e9")
