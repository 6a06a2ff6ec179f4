"""Owns codes as they come out of pictures: broken over lines anywhere, with letters taken for others, one lost or doubled.

The alphabet of a code is known and so is what it must decode to, so likely mistakes of a reader are undone by a bounded search
(a beam over the code, which weighs each mistake against how English the decoded letters are). What comes out is believed only
when it reads as words: chance does not decode to prose.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

from vlmguard.perception.lettering import letter_model
from vlmguard.perception.passages import Passage
from vlmguard.perception.wordlike import WORD, distinct_words, is_word, sense

_MOST_SEARCHED = 20_000
"""Characters of a text in which torn codes are looked for."""
_MOST_MENDED = 1_200
"""Characters of one code that are mended."""
_MOST_RUNS = 8
_LEAST = 14
"""Characters of a code: fewer hold no request."""
_BEAM = 24
_BROKEN = 14.0
"""Nats that a group costs which decodes to nothing printable."""
_LOST = 9.0
"""Nats of a sign that the reader lost or doubled."""
_HEAD = 96
_HOPELESS = 4.6
"""Nats a letter of the first ``_HEAD`` signs, beyond which they are no code: prose costs 2 to 3, and so many mistakes 1 more."""
_MARKER = "\ufffd"


@dataclass(frozen=True, slots=True)
class _Run:
    """Pieces of a code that follow each other, without what stood between them."""

    start: int
    end: int
    signs: str


# ---------------------------------------------------------------------------------------------------------------------
# Finding the pieces

_PIECE = re.compile(r"\S+")
_BASE64_PIECE = re.compile(r"[A-Za-z0-9+/_|-]{1,}={0,2}|={1,2}")
_HEX_SIGN = "0-9A-Fa-fOoQlIi|!SsGgqZz"
_HEX_PIECE = re.compile(rf"(?:0[xX]|\\x)?[{_HEX_SIGN}]{{1,}}(?:[:,-]?(?:0[xX]|\\x)?[{_HEX_SIGN}]{{2,}})*[,:-]?")
_BITS_PIECE = re.compile(r"[01OoQlI|]{1,}")
_BASE32_PIECE = re.compile(r"[A-Z0-9|]{1,}={0,6}|={1,6}")
_DECIMAL_PIECE = re.compile(r"\d{1,}[,;]?")


def _runs(text: str, piece: re.Pattern[str], mark: re.Pattern[str], opens: Callable[[str], bool]) -> Iterator[_Run]:
    """Rows of pieces, each beginning with one that ``opens``; padding ends a code. ``mark`` is in every piece that opens and in
    few texts: most are done with at one look."""
    if not mark.search(text, 0, _MOST_SEARCHED):
        return
    tokens = list(_PIECE.finditer(text[:_MOST_SEARCHED]))
    at = found = 0
    while at < len(tokens) and found < _MOST_RUNS:
        if not (piece.fullmatch(tokens[at][0]) and opens(tokens[at][0])):
            at += 1
            continue
        pieces = [tokens[at]]
        at += 1
        while at < len(tokens) and not pieces[-1][0].endswith("="):
            token = tokens[at][0]
            if not piece.fullmatch(token) or (is_word(token) and not _is_remainder(text, tokens[at])):
                break
            pieces.append(tokens[at])
            at += 1
        signs = "".join(one[0] for one in pieces)
        if len(signs) >= _LEAST:
            found += 1
            yield _Run(pieces[0].start(), pieces[-1].end(), signs)


def _is_remainder(text: str, token: re.Match[str]) -> bool:
    """The end of a code on a line of its own, which may look like a word: "dA", "a"."""
    alone = text[: token.start()].endswith("\n") and (text[token.end() : token.end() + 1] or "\n") == "\n"
    return alone and len(token[0]) < 5


def _opens_base64(token: str) -> bool:
    """Capitals and small letters mixed as no word has them."""
    turns = sum(one.islower() and other.isupper() for one, other in pairwise(token))
    return len(token) >= 8 and (turns >= 2 or (turns >= 1 and any(map(str.isdigit, token))))


def _opens_hex(token: str) -> bool:
    return any(map(str.isdigit, token))


def _opens_base32(token: str) -> bool:
    return len(token) >= (8 if any(map(str.isdigit, token)) else 12)


_TURN = re.compile(r"[a-z][A-Z]")
_DIGIT = re.compile(r"[0-9]")
_BIT = re.compile(r"[01]")
_EIGHT = re.compile(r"[A-Z0-9|=]{8}")
_TWO_DIGITS = re.compile(r"\d\d")


# ---------------------------------------------------------------------------------------------------------------------
# Base64

_MISTAKEN = (
    (1.0, ("lI1|", "O0o")),
    (2.0, ("cC", "kK", "pP", "sS", "uU", "vV", "wW", "xX", "zZ")),
    (
        3.0,
        ("S5s", "Z2z", "B8", "G6", "g9q", "jJ", "mM", "yY", "iI1lj", "tf", "T7", "VY", "ce", "nh", "QO0", "ao", "bh"),
    ),
)
"""Signs that a reader of pictures takes for each other, and what that costs in nats."""
_OF_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_DEAREST = 6.5
_PER_GROUP = 12


@lru_cache(maxsize=256)
def _taken_for(sign: str) -> tuple[tuple[float, str], ...]:
    """What a sign may have been, the likeliest first: itself where the alphabet has it."""
    costs: dict[str, float] = {sign: 0.0} if sign in _OF_BASE64 else {}
    for cost, groups in _MISTAKEN:
        for group in groups:
            if sign in group:
                for other in group:
                    if other in _OF_BASE64:
                        costs.setdefault(other, cost)
    return tuple(sorted((cost, other) for other, cost in costs.items()))


@lru_cache(maxsize=4096)
def _quads(signs: str) -> tuple[tuple[float, str], ...]:
    """What two to four signs may decode to: printable readings and their costs."""
    readings: dict[str, float] = {}
    for choice in product(*map(_taken_for, signs)):
        cost = sum(one for one, _ in choice)
        if cost > _DEAREST:
            continue
        code = "".join(sign for _, sign in choice)
        decoded = base64.b64decode(code + "=" * (-len(code) % 4))
        said = decoded.decode("latin-1")
        if decoded.isascii() and all(one.isprintable() or one == "\n" for one in said):
            readings[said] = min(cost, readings.get(said, cost))
    return tuple(sorted((cost, said) for said, cost in readings.items())[:_PER_GROUP])


def _base64_steps(signs: str, at: int, torn: bool) -> Iterator[tuple[int, float, str]]:
    group = signs[at : at + 4]
    if len(group) == 1:
        yield at + 1, _LOST, ""
        return
    readings = _quads(group)
    yield from ((at + len(group), cost, said) for cost, said in readings)
    if not readings:
        yield at + len(group), _BROKEN, _MARKER
    if torn and len(group) == 4:
        # One sign lost: the reader most often loses the second of two alike, else which one is anybody's guess.
        for place in range(3):
            doubled = group[: place + 1] + group[place] + group[place + 1 : 3]
            yield from ((at + 3, _LOST + cost, said) for cost, said in _quads(doubled)[:4])
        yield at + 3, _BROKEN + 2, _MARKER
        for place in range(5):
            without = signs[at : at + place] + signs[at + place + 1 : at + 5]
            if len(signs) >= at + 5:
                yield from ((at + 5, _LOST + cost, said) for cost, said in _quads(without)[:4])


def read_torn_base64(text: str) -> Iterator[Passage]:
    """Standard and url-safe alphabet, over any number of lines."""
    for run in _runs(text, _BASE64_PIECE, _TURN, _opens_base64):
        signs = run.signs.rstrip("=").replace("-", "+").replace("_", "/")
        plain = _decoded(signs)
        said = plain if plain and _is_prose(plain) else _mended(signs, _base64_steps)
        if said:
            yield Passage(run.start, run.end, said, True)


def _decoded(signs: str) -> str | None:
    try:
        return base64.b64decode(signs + "=" * (-len(signs) % 4), validate=True).decode()
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Hex, bits, base32

_DIGITS = {
    "O": "0", "o": "0", "Q": "0", "l": "1", "I": "1", "i": "1", "|": "1", "!": "1", "S": "5", "s": "5", "G": "6", "g": "9",
    "q": "9", "Z": "2", "z": "2",
}  # fmt: skip
"""Signs that hex does not have, and the digits that they were."""
_ALIKE_DIGITS = ("06", "08", "0d", "38", "56", "17", "6b", "8b", "ce", "ae", "94", "9g", "4a", "3e", "5e", "27")


@lru_cache(maxsize=64)
def _digit_for(sign: str) -> tuple[tuple[float, str], ...]:
    sure = _DIGITS.get(sign, sign).lower()
    choices = [(0.0, sure)]
    for pair in _ALIKE_DIGITS:
        if sure in pair:
            other = pair.replace(sure, "")
            if other in "0123456789abcdef":
                choices.append((4.0, other))
    return tuple(choices)


@lru_cache(maxsize=4096)
def _pairs(signs: str) -> tuple[tuple[float, str], ...]:
    readings: dict[str, float] = {}
    for choice in product(*map(_digit_for, signs)):
        said = chr(int("".join(sign for _, sign in choice), 16))
        cost = sum(one for one, _ in choice)
        if said.isascii() and (said.isprintable() or said == "\n"):
            readings[said] = min(cost, readings.get(said, cost))
    return tuple(sorted((cost, said) for said, cost in readings.items()))


def _hex_steps(signs: str, at: int, torn: bool) -> Iterator[tuple[int, float, str]]:
    pair = signs[at : at + 2]
    if len(pair) == 1:
        yield at + 1, _LOST, ""
        return
    readings = _pairs(pair)
    yield from ((at + 2, cost, said) for cost, said in readings)
    if not readings:
        yield at + 2, _BROKEN, _MARKER
    if torn:
        # One digit lost (all that it may have been), or one too many.
        for digit in "0123456789abcdef":
            alike = 0.0 if digit == pair[0] else 2.0
            for two, dear in ((pair[0] + digit, alike), (digit + pair[0], 2.0)):
                yield from (
                    (at + 1, _LOST + dear, said) for _, said in _pairs(two)[:1] if said.isalpha() or said == " "
                )
        if len(signs) >= at + 3:
            for three in (pair[0] + signs[at + 2], pair[1] + signs[at + 2]):
                yield from ((at + 3, _LOST + cost, said) for cost, said in _pairs(three)[:2])


def read_torn_hex(text: str) -> Iterator[Passage]:
    """Digits run together, in groups or in pairs, over any number of lines."""
    for run in _runs(text, _HEX_PIECE, _DIGIT, _opens_hex):
        signs = re.sub(r"0[xX]|\\x|[:,-]", "", run.signs)
        digits = sum(map(str.isdigit, signs))
        if len(signs) < _LEAST or not 0.4 * len(signs) <= digits < len(signs):
            continue
        if said := _mended(signs, _hex_steps):
            yield Passage(run.start, run.end, said, True)


def read_torn_bits(text: str) -> Iterator[Passage]:
    """Zeros and ones, of which a reader makes O and l, in eights or sevens."""
    for run in _runs(text, _BITS_PIECE, _BIT, lambda token: len(token) > 3 and ("0" in token or "1" in token)):
        bits = run.signs.translate(str.maketrans("OoQlI|", "000111"))
        for width in (8, 7):
            codes = [int(bits[at : at + width], 2) for at in range(0, len(bits) - width + 1, width)]
            said = "".join(map(chr, codes))
            if said.isascii() and _is_prose(said):
                yield Passage(run.start, run.end, said, True)
                break


_OF_BASE32 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_BASE32_MISTAKEN = (
    (1.0, ("O0", "I1l|", "B8")),
    (3.0, ("S5", "Z2", "G6", "QO", "DO", "VY", "IL", "T7", "GC", "PR", "EF", "UV", "MN")),
)


@lru_cache(maxsize=64)
def _capital_for(sign: str) -> tuple[tuple[float, str], ...]:
    costs = {sign: 0.0} if sign in _OF_BASE32 else {}
    for cost, groups in _BASE32_MISTAKEN:
        for group in groups:
            if sign in group:
                costs |= {other: cost for other in group if other in _OF_BASE32 and other not in costs}
    return tuple(sorted((cost, other) for other, cost in costs.items()))


@lru_cache(maxsize=4096)
def _eights(signs: str) -> tuple[tuple[float, str], ...]:
    choices = [(0.0, "")]
    for sign in signs:
        more = [(cost + dear, code + other) for cost, code in choices for dear, other in _capital_for(sign)]
        choices = sorted(choice for choice in more if choice[0] <= _DEAREST)[:200]
    readings: dict[str, float] = {}
    for cost, code in choices:
        decoded = base64.b32decode(f"{code:A<8}")[: len(code) * 5 // 8]
        said = decoded.decode("latin-1")
        if decoded.isascii() and all(one.isprintable() or one == "\n" for one in said):
            readings[said] = min(cost, readings.get(said, cost))
    return tuple(sorted((cost, said) for said, cost in readings.items())[:_PER_GROUP])


def _base32_steps(signs: str, at: int, torn: bool) -> Iterator[tuple[int, float, str]]:
    group = signs[at : at + 8]
    readings = _eights(group)
    yield from ((at + len(group), cost, said) for cost, said in readings)
    if not readings:
        yield at + len(group), _BROKEN, _MARKER
    if torn and len(group) == 8:
        for place in range(7):
            doubled = group[: place + 1] + group[place] + group[place + 1 : 7]
            yield from ((at + 7, _LOST + cost, said) for cost, said in _eights(doubled)[:4])
        for place in range(9):
            without = signs[at : at + place] + signs[at + place + 1 : at + 9]
            if len(signs) >= at + 9:
                yield from ((at + 9, _LOST + cost, said) for cost, said in _eights(without)[:4])


def read_torn_base32(text: str) -> Iterator[Passage]:
    """Over any number of lines; 0, 1 and 8, which its alphabet lacks, were O, I and B."""
    for run in _runs(text, _BASE32_PIECE, _EIGHT, _opens_base32):
        if said := _mended(run.signs.rstrip("="), _base32_steps):
            yield Passage(run.start, run.end, said, True)


def _decimal_steps(signs: str, at: int, torn: bool) -> Iterator[tuple[int, float, str]]:
    """Codes of two or three digits, with or without what parted them."""
    del torn
    for width in (2, 3):
        code = signs[at : at + width]
        if len(code) == width and code[0] != "0" and 32 <= int(code) < 127:
            yield at + width, 0.0, chr(int(code))
    if signs[at : at + 2] == "10":
        yield at + 2, 0.0, "\n"
    yield at + 1, _BROKEN, _MARKER


def read_torn_decimals(text: str) -> Iterator[Passage]:
    """Character codes in decimals: a reader of pictures loses the spaces between some of them."""
    for run in _runs(text, _DECIMAL_PIECE, _TWO_DIGITS, lambda token: len(token.strip(",;")) > 1):
        signs = re.sub(r"\D", "", run.signs)
        if len(signs) >= 2 * _LEAST and (said := _mended(signs, _decimal_steps)):
            yield Passage(run.start, run.end, said, True)


# ---------------------------------------------------------------------------------------------------------------------
# The search

_Steps = Callable[[str, int, bool], Iterator[tuple[int, float, str]]]
"""(code, place, whether signs may be missing) → (next place, cost, what the group says)."""


def _mended(signs: str, steps: _Steps) -> str | None:
    """The likeliest prose that a code was meant to be; ``None`` where it is none. Cheap mistakes are tried before dear ones."""
    signs = signs[:_MOST_MENDED]
    for torn in (False, True):
        cost, head = _likeliest(signs[:_HEAD], steps, torn)
        if cost > _HOPELESS * max(1, len(head)):
            continue
        said = head if len(signs) <= _HEAD else _likeliest(signs, steps, torn)[1]
        if _is_prose(said):
            return said
    return None


def _likeliest(signs: str, steps: _Steps, torn: bool) -> tuple[float, str]:
    model = letter_model()
    places: list[dict[str, tuple[float, str]]] = [{} for _ in range(len(signs) + 6)]
    places[0][""] = (0.0, "")
    for at in range(len(signs)):
        if not places[at]:
            continue
        ahead = list(steps(signs, at, torn))
        for before, (cost, text) in sorted(places[at].items(), key=lambda item: item[1][0])[:_BEAM]:
            for following, more, said in ahead:
                total = cost + more + model.cost(before, said)
                tail = (before + said)[-2:]
                known = places[following].get(tail)
                if known is None or total < known[0]:
                    places[following][tail] = (total, text + said)
        places[at] = {}
    ends = [state for place in places[len(signs) :] for state in place.values()]
    return min(ends, default=(0.0, ""))


def _is_prose(said: str) -> bool:
    """Words that make up most of the letters, and hardly a sign that prose does not have."""
    if len(said) < 8 or said.count(_MARKER) > 0.1 * len(said):
        return False
    prose = sum(one.isalpha() or one in " ,.!?'\"-:;()\n" or one.isdigit() for one in said)
    words = WORD.findall(said)
    if prose < 0.85 * len(said) or len(words) < 2:
        return False
    # A long name that no list has may be a third of a short request; but then the rest has to be several words.
    needed = 0.9 if (known := distinct_words(said)) < 3 else 0.7 if known < 4 else 0.5
    return sense(said) >= needed and len(said) >= 3.0 * len(words)
