"""Owns how English a row of letters is, letter by letter: what tells likely readings apart before any word is whole."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache, lru_cache

from vlmguard.perception.wordlike import vocabulary

_WORDS = 6_000
"""The most frequent words, by which the model is made (about 50 ms, at first use)."""
_SMOOTH = 0.02
_RARE = 6.0
"""Cost of a sign that prose has seldom, in nats."""
_SIGN = 3.5
_CAPITAL = 1.5
_SIGNS = frozenset(".,'?!-:;()\"\n")


class LetterModel:
    """Costs (negative log likelihoods, in nats) of letters after the two before them; trigrams of a weighted word list."""

    def __init__(self) -> None:
        threes: Counter[str] = Counter()
        twos: Counter[str] = Counter()
        for rank, word in enumerate(list(vocabulary())[:_WORDS]):
            weight = 1 / (rank + 12)
            padded = f"  {word} "
            for at in range(2, len(padded)):
                threes[padded[at - 2 : at + 1]] += weight  # type: ignore[assignment]
                twos[padded[at - 2 : at]] += weight  # type: ignore[assignment]
        self._threes, self._twos = threes, twos

    @lru_cache(maxsize=50_000)  # noqa: B019  # one model lives as long as the process
    def cost(self, before: str, piece: str) -> float:
        """Of ``piece`` after ``before``, of which the last two characters count."""
        total = 0.0
        tail = f"  {before}"[-2:]
        for letter in piece:
            total += self._of(tail, letter)
            tail = tail[1] + letter
        return total

    def _of(self, tail: str, letter: str) -> float:
        if letter in _SIGNS:
            return _SIGN
        low = letter.lower()
        if not (low == " " or "a" <= low <= "z"):
            return _RARE
        context = "".join(one.lower() if one.isalpha() else " " for one in tail)
        context = "  " if context[1] == " " else context
        if low == context[1] == " ":
            return _RARE
        likely = (self._threes[context + low] + _SMOOTH * 0.04) / (self._twos[context] + _SMOOTH)
        capital = 0.0 if letter == low else _CAPITAL if tail[1] in " \n" else _RARE
        return -math.log(min(1.0, likely)) + capital


@cache
def letter_model() -> LetterModel:
    """The one model of this process."""
    return LetterModel()
