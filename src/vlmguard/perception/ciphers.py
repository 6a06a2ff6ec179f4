"""Owns ciphers: letters exchanged for others, or words and letters in another order. Read where the words of a text are no words, or
stand as no English sentence has them.

Every finder gives the ``Passage``s that it can read. Work is bounded per call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise

from vlmguard.perception.passages import BELIEVED, Passage, is_message, longest
from vlmguard.perception.wordlike import WORD, common_words, distinct_words, is_word, sense, vocabulary

_TOKEN = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_ATBASH = str.maketrans(_LOWER + _LOWER.upper(), _LOWER[::-1] + _LOWER[::-1].upper())
_ROT47 = {code: 33 + (code - 33 + 47) % 94 for code in range(33, 127)}
_REGIONS = 8
_REGION_SAMPLE = 600
"""Letters of a region by which a cipher is found."""


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of Latin letters that are mostly no words."""

    start: int
    end: int
    text: str


def wordless_regions(text: str) -> list[Region]:
    """The stretches of ``text`` whose Latin tokens are mostly no English words, the longest ``_REGIONS``, in order."""
    known = common_words()
    regions: list[tuple[int, int, int]] = []
    total = peak = 0.0
    start = end = -1
    for match in _TOKEN.finditer(text):
        token = match[0]
        strange = token.lower() not in known
        if start < 0:
            if strange:
                start, end = match.span()
                total = peak = 1.0 * len(token)
            continue
        total += 1.0 * len(token) if strange else -1.4 * len(token)
        if total >= peak:
            end, peak = match.end(), total
        elif total <= 0 or peak - total > 24:
            regions.append((int(peak), start, end))
            start = -1
    if start >= 0:
        regions.append((int(peak), start, end))
    best = sorted((region for region in regions if region[0] >= 4), reverse=True)[:_REGIONS]
    return [Region(start, end, text[start:end]) for _, start, end in sorted(best, key=lambda region: region[1])]


def read_shifted(regions: Sequence[Region]) -> Iterator[Passage]:
    """ROT13, every other Caesar shift, and Atbash."""
    for region in regions:
        yield from _first(_deciphered(region))


def _first(passages: Iterator[Passage]) -> Iterator[Passage]:
    passage = next(passages, None)
    if passage:
        yield passage


def _deciphered(region: Region) -> Iterator[Passage]:
    head = region.text[:_REGION_SAMPLE]
    tokens = _TOKEN.findall(head)
    letters = sum(map(len, tokens))
    before = sense(head)
    if before > 0.45 or letters < 4:
        return
    # A single word is another word in some shift too often; only the customary shift is tried.
    alone = letters < 9 or len(tokens) < 2
    tables = [_shift(13)] if alone else [_shift(shift) for shift in (13, *range(1, 13), *range(14, 26))] + [_ATBASH]
    best = max(tables, key=lambda table: _quick_sense(tokens, table))
    said = region.text.translate(best)
    after = sense(said[:_REGION_SAMPLE])
    # A long name that no list has may be a third of a short request, if the rest is several words.
    needed = 0.5 if before < 0.2 and distinct_words(said) > 3 else BELIEVED + (0.25 if letters < 14 else 0)
    if after < max(needed, before + 0.3):
        return
    if not alone and distinct_words(said) < (2 if best is tables[0] and letters < 14 else 3):
        return
    if alone and not (len(tokens) == 1 and vocabulary().get(said.lower(), 1 << 30) < 16_000):
        return
    yield Passage(region.start, region.end, said, len(tokens) > 2 and letters > 9 and is_message(said))


def _quick_sense(tokens: list[str], table: dict[int, int]) -> float:
    text = " ".join(tokens).translate(table)
    return sense(text)


@cache
def _shift(by: int) -> dict[int, int]:
    moved = _LOWER[by:] + _LOWER[:by]
    return str.maketrans(_LOWER + _LOWER.upper(), moved + moved.upper())


def _is_prose(text: str) -> bool:
    return sum(letter.isalpha() or letter in " ,.!?'" for letter in text) >= 0.9 * len(text)


_NOT_OF_ROT47 = {code: None for code, other in _ROT47.items() if not _is_prose(chr(other))}
"""The signs that prose never shifts to: most letters of any other text."""


def _may_be_rot47(run: str) -> bool:
    """Whether enough of ``run`` can be prose when it is shifted, told without shifting and reading it."""
    return len(run.translate(_NOT_OF_ROT47)) >= 0.9 * len(run)


def read_rot47(text: str) -> Iterator[Passage]:
    """Lines, or the rest of a line after a colon, of shifted printable characters."""
    for match in islice(re.finditer(r"[^\n]{12,4000}", text), 60):
        _, colon, rest = match[0].partition(": ")
        for run in (match[0], rest) if colon else (match[0],):
            if len(run) >= 12 and _may_be_rot47(run) and sense(run) < 0.5:
                said = run.translate(_ROT47)
                if sense(said) >= 0.8 and _is_prose(said) and is_message(said) and distinct_words(said) > 2:
                    yield Passage(match.end() - len(run), match.end(), said, True)
                    break


def read_reversed(text: str, regions: Sequence[Region]) -> Iterator[Passage]:
    """Letters written backwards: over the whole stretch (words come out in their order) or word by word."""
    for region in regions:
        head = region.text[:_REGION_SAMPLE]
        tokens = _TOKEN.findall(head)
        before, after = sense(head), sense(head[::-1])
        letters = sum(map(len, tokens))
        if len(tokens) < 2 and (letters < 5 or vocabulary().get(head[::-1].lower(), 1 << 30) > 16_000):
            continue
        needed = 0.5 if before < 0.2 and distinct_words(head[::-1]) > 3 else BELIEVED
        if after < max(needed, before + 0.3) or letters < 5:
            continue
        if len(tokens) > 2 and distinct_words(head[::-1]) < (2 if letters < 14 else 3):
            continue
        start, end = _with_marks(text, region.start, region.end)
        run = text[start:end]
        hidden = len(tokens) > 2 and is_message(head[::-1])
        whole = "\n".join(line[::-1] for line in run.split("\n"))
        by_word = _TOKEN.sub(lambda match: match[0][::-1], run)
        ordered = natural_order(whole) >= natural_order(by_word)
        for said in (whole, by_word) if ordered else (by_word, whole):
            yield Passage(start, end, said, hidden)
        if "\n" in run.strip() and ordered:
            yield Passage(start, end, run[::-1], hidden)


def _with_marks(text: str, start: int, end: int) -> tuple[int, int]:
    """Widened by short words at the edges, which read as words in either direction, up to the line's marks."""
    left = re.search(
        r"[?!.¿¡]?(?:\b(?:a|i|on|no|ti|ot|fo|ni|si|em|od|ew|A|I|ti)\b ?){0,3}\Z",
        text[max(0, start - 20) : start],
    )
    right = re.match(r"(?: ?\b(?:a|I|i|on|no|ti|ot|woh|em|A)\b){0,3}", text[end : end + 20])
    start, end = start - len(left[0] if left else ""), end + len(right[0] if right else "")
    # At the edge of a line a word or two more that are words in either direction, as "god" is.
    line = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    if 0 < start - line <= _EDGE and _reads_backwards(text[line:start]):
        start = line
    if 0 < stop - end <= _EDGE and _reads_backwards(text[end:stop]):
        end = stop
    return start, end


_EDGE = 16


def _reads_backwards(edge: str) -> bool:
    tokens = WORD.findall(edge)
    return all(is_word(token[::-1]) for token in tokens)


# ---------------------------------------------------------------------------------------------------------------------
# The order of words

_OPENERS = [
    "how",
    "what",
    "where",
    "when",
    "why",
    "which",
    "who",
    "to",
    "of",
    "in",
    "on",
    "for",
    "with",
    "from",
    "at",
    "by",
    "the",
    "a",
    "an",
    "my",
    "your",
    "is",
    "are",
    "can",
    "give",
    "tell",
    "show",
    "teach",
    "me",
]
_NATURAL = frozenset(
    (one, other)
    for ones, others in (
        ("how what where when why", "to do can does is are should would could much many"),
        (
            "to",
            "make build get be do create use find write steal hack hide buy kill break bypass avoid take have go give",
        ),
        ("of in on for with from by at", "the a an my your this their his her our"),
        ("is are was were", "the a an not my your"),
        ("give tell show teach", "me us"),
        ("make build write create explain describe find", "a an the my"),
        ("me", "how a the about why what"),
        ("way ways steps guide method methods instructions recipe", "to for of"),
        ("step by", "step"),
    )
    for one in ones.split()
    for other in others.split()
)

_BACKWARD = frozenset((other, one) for one, other in _NATURAL)


def natural_order(text: str) -> int:
    """How many pairs of neighbouring words stand in the usual English order, less those in the opposite order."""
    ahead, behind = _ordered_pairs(text)
    return ahead - behind


def _ordered_pairs(text: str) -> tuple[int, int]:
    pairs = list(pairwise(map(str.lower, WORD.findall(text[:2000]))))
    return sum(map(_NATURAL.__contains__, pairs)), sum(map(_BACKWARD.__contains__, pairs))


def read_backward_order(text: str) -> Iterator[Passage]:
    """Sentences whose words, or lines, stand in the opposite order."""
    if len(text) > 20_000:
        return
    for match in re.finditer(r"[^.!?:\n]{8,600}", text):
        run = match[0]
        ahead, behind = _ordered_pairs(run)
        if behind > 1 and not ahead:
            said = run[: len(run) - len(run.lstrip())] + " ".join(reversed(run.split()))
            yield Passage(match.start(), match.end(), said, behind > 2)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if 2 <= len(lines) <= 60:
        turned = " ".join(reversed(lines))
        if natural_order(turned) > natural_order(" ".join(lines)) + 1:
            yield Passage(0, len(text), turned, False)


# ---------------------------------------------------------------------------------------------------------------------
# Pig Latin

_PIG = re.compile(r"(?<!\w)[A-Za-z]{1,20}ay(?:[ ,.;!?\n-]{1,3}[A-Za-z]{1,20}-?ay){2,200}(?!\w)")


def read_pig_latin(text: str) -> Iterator[Passage]:
    """``owhay otay``: read where at least three neighbouring words, and most of their stretch, end so."""
    if text.count("ay") < 3:
        return
    for match in longest(_PIG.finditer(text)):
        said = re.sub(r"[A-Za-z-]+", lambda word: _from_pig_latin(word[0]), match[0])
        if sense(said) >= BELIEVED and sense(said) > sense(match[0]) + 0.2:
            yield Passage(match.start(), match.end(), said, True)


def _from_pig_latin(word: str) -> str:
    bare = word.lower().replace("-", "")
    if not bare.endswith("ay"):
        return word
    stem = bare[:-2]
    readings = [stem[:-1]] if stem.endswith(("w", "y", "h")) and len(stem) > 1 else []
    readings += [stem[-count:] + stem[:-count] for count in (1, 2, 3) if len(stem) > count]
    known = vocabulary()
    return min(readings or [stem], key=lambda reading: known.get(reading, 1 << 30) if is_word(reading) else 1 << 30)
