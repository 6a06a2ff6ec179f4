from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.rewriters.ngrams import BUCKETS, FastPass, features

RNG = np.random.default_rng(0)
RANDOM = FastPass(RNG.normal(size=BUCKETS).astype(np.float32), 0.5)


@given(st.lists(st.text(max_size=40), max_size=6), st.text(max_size=40))
def test_a_text_has_the_same_logit_alone_and_in_company(others: list[str], text: str) -> None:
    alone = RANDOM.logits([text])[0]
    together = RANDOM.logits([*others, text, *others])[len(others)]
    assert together == alone  # to the last bit: a passage's logit is told from either


def test_case_marks_and_spacing_do_not_matter_but_words_do() -> None:
    first, same, other = RANDOM.logits(
        ["Kill the process, please!", "kill   the process\nplease", "kill the prophet please"]
    )
    assert first == pytest.approx(same)
    assert abs(first - other) > 1e-3


def test_ngrams_are_those_of_characters_and_words() -> None:
    found = features(["ab cd"])  # " ab cd ": 5 + 4 + 3 runs of characters, 2 words, 1 pair
    assert found.counts.tolist() == [15]
    shared = set(features(["x y ab cd"]).buckets) & set(found.buckets)
    assert len(shared) == 15


def test_a_text_of_any_length_has_the_same_logit_twice_over() -> None:
    """The powers that hashes are made of are kept, and cut to the text's length: past each size that is kept, too."""
    for length in (4_094, 4_095, 4_200, 9_000):
        text = ("ab cd efg " * length)[:length]
        assert RANDOM.logits([f"{text} tail", "x"])[0] == RANDOM.logits([f"{text} tail"])[0]
    assert set(features(["ab cd"]).buckets) <= set(features(["filler " * 2_000 + "ab cd"]).buckets)


def test_no_texts_and_empty_texts() -> None:
    assert RANDOM.logits([]).tolist() == []
    assert np.isfinite(RANDOM.logits(["", " ", "?", "\x00"])).all()
