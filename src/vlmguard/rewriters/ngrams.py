"""The fast pass: hashed n-grams of characters and words under one weight each. numpy alone, well under a millisecond.

It settles what is plainly harmless and finds the sentences of a long text that deserve the encoder. Training and serving share
``features``, so that they cannot drift.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

BUCKETS = 1 << 18
_CHARACTERS = (3, 4, 5)
_WORDS = (1, 2, 3)
_BASE = 0x9E3779B97F4A7C15
"""Odd, hence invertible modulo 2^64."""
_INVERSE = pow(_BASE, -1, 1 << 64)
_SALTS = np.array([*_CHARACTERS, *(100 + size for size in _WORDS)], dtype=np.uint64)
"""Of each kind of n-gram, so that a word of three letters is not its own three characters."""
_MIX = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(40)
_MASK = np.uint64(BUCKETS - 1)
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_SPACE, _END = 32, 10

_Hashes = npt.NDArray[np.uint64]
_Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Features:
    """The n-grams of some texts."""

    buckets: _Places
    """One per n-gram, below ``BUCKETS``."""
    owners: _Places
    """Which text each belongs to."""
    counts: _Places
    """(texts,) how many each has."""


@dataclass(frozen=True, slots=True)
class FastPass:
    """A linear model over ``features``."""

    weights: npt.NDArray[np.float32]
    """(BUCKETS,)"""
    bias: float

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """(texts,) how much each sounds like a request for harm."""
        if not texts:
            return np.zeros(0)
        found = features(texts)
        sums = np.bincount(found.owners, weights=self.weights[found.buckets], minlength=len(texts))
        return sums / np.sqrt(np.maximum(found.counts, 1)) + self.bias


def features(texts: Sequence[str]) -> Features:
    """The n-grams of ``texts``: of 3 to 5 characters, and of 1 to 3 words, without case and marks. Linear in their length."""
    said = "\n".join(f" {_BETWEEN_WORDS.sub(' ', text.lower()).strip()} " for text in texts)
    codes = np.frombuffer(said.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    # The hash of a span is a difference of prefix sums: the same for the same characters wherever they stand.
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes.astype(np.uint64) * _powers(_BASE, len(codes)), out=sums[1:])
    inverses = _powers(_INVERSE, len(codes))
    starts, ends, salts = _spans(codes)
    owners = np.zeros(len(starts), dtype=np.int64)
    if len(texts) > 1:
        owner = np.cumsum(codes == _END)
        kept = (owner[starts] == owner[ends - 1]) & (codes[starts] != _END)
        starts, ends, salts = starts[kept], ends[kept], salts[kept]
        owners = owner[starts]
    hashes = (sums[ends] - sums[starts]) * inverses[starts] + salts
    hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX
    return Features(((hashes >> _SHIFT) & _MASK).astype(np.int64), owners, np.bincount(owners, minlength=len(texts)))


def _spans(codes: npt.NDArray[np.uint32]) -> tuple[_Places, _Places, _Hashes]:
    """Starts, ends and salts of all n-grams, one kind after another; some reach over the end of a text."""
    places = np.arange(len(codes) + 1, dtype=np.int64)
    inside = np.zeros(len(codes) + 2, dtype=np.bool_)
    inside[1:-1] = (codes != _SPACE) & (codes != _END)
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    first, last = edges[::2], edges[1::2]
    starts = [places[: max(0, len(codes) - size + 1)] for size in _CHARACTERS]
    starts += [first[: max(0, len(first) - size + 1)] for size in _WORDS]
    ends = [*(places[size:] for size in _CHARACTERS), *(last[size - 1 :] for size in _WORDS)]
    salts = np.repeat(_SALTS, [len(some) for some in starts])
    return np.concatenate(starts), np.concatenate(ends), salts


def _powers(base: int, size: int) -> _Hashes:
    """1, base, base², … modulo 2^64."""
    return _first_powers(base, 1 << max(12, (size - 1).bit_length()))[:size]


@lru_cache(maxsize=8)
def _first_powers(base: int, size: int) -> _Hashes:
    factors = np.full(size, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
