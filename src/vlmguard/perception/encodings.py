"""Owns encodings and ciphers: stretches of a text that are another text written otherwise.

Every finder takes a text and gives the ``Passage``s that it can read. A passage is believed only when it reads as words
(or, for encodings of bytes, when the bytes are a text, which chance does not produce). Work is bounded per call.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from urllib.parse import unquote

from vlmguard.perception.wordlike import (
    WORD,
    common_words,
    distinct_words,
    is_word,
    segment,
    sense,
    vocabulary,
    words_in,
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a text and what it says."""

    start: int
    end: int
    text: str
    hidden: bool
    """Whether it is a message that was hidden, not an encoded thing that belongs there."""


_MOST_TRIED = 300
"""Candidates of one encoding that are tried in one text, the longest ones."""
_MOST_DECODED = 60_000
"""Characters of one passage that are decoded."""
_BELIEVED = 0.6
"""Sense that a reading needs."""


def _is_message(text: str) -> bool:
    """Three words or more that are prose, not JSON, markup, code or a key."""
    if re.match(r"\s*[{\[<]|-----BEGIN|data:|https?:", text) and not re.match(r"\s*[\[(<][\w ]{1,30}[\])>]", text):
        return False
    return len(WORD.findall(text[:2000])) >= 3 and sense(text) >= _BELIEVED


def _is_text(text: str) -> bool:
    """Whether decoded characters are a text at all: printable, and mostly letters, digits and spaces."""
    if len(text) < 3:
        return False
    head = text[:2000]
    good = sum(letter.isalnum() or letter in " \n\t.,;:!?'\"-/()=+_" for letter in head)
    return good >= 0.85 * len(head) and all(letter.isprintable() or letter in "\n\r\t" for letter in head)


def _as_text(data: bytes) -> str | None:
    """The bytes as a text, or ``None``. Bytes that are no text are hardly ever UTF-8, and UTF-16 of English has every other byte 0."""
    if len(data) > 7 and data.count(0) * 2 >= len(data) - 2 and len(data) % 2 == 0:
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    else:
        encoding = "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8" or error.start < len(data) - 3:
            return None
        text = data[: error.start].decode()
    return text if _is_text(text) else None


def _read_bytes(start: int, end: int, data: bytes) -> Passage | None:
    text = _as_text(data)
    if text is None or not (words_in(text) or len(text) >= 12 or (len(text) >= 3 and not text.isascii())):
        return None
    return Passage(start, end, text, _is_message(text) or _is_foreign_message(text))


def _is_foreign_message(text: str) -> bool:
    """A message in letters that are not Latin: there are no word lists for those, and chance does not write them."""
    letters = [letter for letter in text[:2000] if letter.isalpha()]
    return len(letters) >= 8 and sum(letter > "\u0370" for letter in letters) > 0.7 * len(letters)


def _longest(matches: Iterator[re.Match[str]]) -> list[re.Match[str]]:
    """The longest ``_MOST_TRIED`` of ``matches``, in the order of the text."""
    found = list(matches)
    if len(found) > _MOST_TRIED:
        found = sorted(found, key=lambda match: match.start() - match.end())[:_MOST_TRIED]
        found.sort(key=lambda match: match.start())
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Encodings of bytes

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{6,}={0,2}(?![A-Za-z0-9+/_=-])")
_BACKWARD_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_=-])={1,2}[A-Za-z0-9+/_-]{6,}(?![A-Za-z0-9+/_=-])")
_BASE32 = re.compile(r"(?<![A-Za-z0-9=])[A-Z2-7]{16,}={0,6}(?![A-Za-z0-9=])")
_OF_NO_WORD = re.compile(r"[0-9+/_=-]|[A-Za-z][A-Z]")
"""What every run of base64 holds that is not plainly a word, and most texts do not."""
_DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=-]+)*;base64,\s?\Z")


def read_base64(text: str) -> Iterator[Passage]:
    """Standard and url-safe, padded or not, wrapped over lines, and written backwards."""
    if not _OF_NO_WORD.search(text):
        return
    runs = [(match.start(), match.end(), match[0]) for match in _longest(_maybe_base64(text))]
    for start, end, run in _unwrapped(text, runs):
        if _DATA_URI.search(text[max(0, start - 60) : start]):
            continue
        passage = _from_base64(start, end, run)
        if passage is None and len(run) >= 16:
            backwards = _from_base64(start, end, run[::-1])
            passage = backwards if backwards and backwards.hidden else None
        if passage:
            yield passage
    for match in _longest(_BACKWARD_BASE64.finditer(text)):
        passage = _from_base64(match.start(), match.end(), match[0][::-1])
        if passage:
            yield Passage(passage.start, passage.end, passage.text, True)


def _maybe_base64(text: str) -> Iterator[re.Match[str]]:
    """Without what is plainly a word, a path or a number."""
    for match in _BASE64.finditer(text):
        run = match[0]
        if run.endswith("=") or not (run.islower() or run.isdigit() or run.isupper() or run[1:].islower()):
            yield match


def _unwrapped(text: str, runs: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Lines that follow each other joined to one run; the lines of a wrapped text are of one length but the last."""
    at = 0
    while at < len(runs):
        start, end, run = runs[at]
        width = len(run)
        at += 1
        while (
            at < len(runs)
            and width >= 16
            and len(runs[at][2]) <= width
            and len(run) % width == 0
            and re.fullmatch(r"[ \t]{0,4}\r?\n[ \t>]{0,4}|[ \t]", text[end : runs[at][0]])
        ):
            run += runs[at][2]
            end = runs[at][1]
            at += 1
        yield start, end, run


def _from_base64(start: int, end: int, run: str) -> Passage | None:
    run = run.rstrip("=").replace("-", "+").replace("_", "/")[: _MOST_DECODED // 3 * 4]
    if len(run) % 4 == 1:
        return None
    try:
        head = run[:64]
        if _as_text(base64.b64decode(head + "=" * (-len(head) % 4))) is None:
            return None
        data = base64.b64decode(run + "=" * (-len(run) % 4))
    except (binascii.Error, ValueError):
        return None
    passage = _read_bytes(start, end, data)
    # Eight letters can be anything: a short run has to be a known word.
    if passage and len(run) < 16 and not (len(passage.text) > 3 and sense(passage.text) > 0.9):
        return None
    return passage


def read_base32(text: str) -> Iterator[Passage]:
    for match in _longest(_BASE32.finditer(text)):
        run = match[0].rstrip("=")[: _MOST_DECODED // 8 * 8]
        try:
            data = base64.b32decode(run + "=" * (-len(run) % 8))
        except (binascii.Error, ValueError):
            continue
        if passage := _read_bytes(match.start(), match.end(), data):
            yield passage


_HEX = re.compile(
    r"(?<![\w#&%])(?:0[xX])?[0-9A-Fa-f]{2}(?:(?:0x|\\x|[ ,:;\-\n]|, ?0x| 0x| \\x)?[0-9A-Fa-f]{2}){2,}(?![0-9A-Za-z])"
)
_BINARY = re.compile(r"(?<!\w)[01]{7,}(?:[ ,\n_-]{0,2}[01]{4,}){2,}(?!\w)|(?<!\w)[01]{24,}(?!\w)")
_DECIMAL = re.compile(r"(?<![\w.])\d{2,3}(?:(?:[ ,;\n-]|, |; )\d{2,3}){3,}(?![\w])")
_OCTAL = re.compile(r"(?<!\w)\\?[01][0-7]{2}(?:[ ,\\]\\?[01]?[0-7]{2}){3,}(?!\w)")


def read_hex(text: str) -> Iterator[Passage]:
    """Digits in pairs, run together or apart, with 0x, \\x, colons, commas."""
    for match in _longest(_HEX.finditer(text)):
        digits = re.sub(r"0[xX]|\\x|[^0-9A-Fa-f]", "", match[0])[:_MOST_DECODED]
        data = bytes.fromhex(digits[: len(digits) // 2 * 2])
        passage = _read_bytes(match.start(), match.end(), data)
        if passage and (len(data) > 5 or sense(passage.text) > 0.9):
            yield passage


def read_binary(text: str) -> Iterator[Passage]:
    """Groups of seven or eight bits, apart or run together."""
    for match in _longest(_BINARY.finditer(text)):
        groups = re.findall(r"[01]+", match[0][:_MOST_DECODED])
        bits = "".join(groups)
        widths = [len(groups[0])] if len(groups) > 1 and len(groups[0]) in (7, 8) else [8, 7]
        for width in widths:
            data = bytes(int(bits[at : at + width], 2) for at in range(0, len(bits) - width + 1, width))
            passage = _read_bytes(match.start(), match.end(), data)
            if passage and words_in(passage.text):
                yield passage
                break


def read_codes(text: str) -> Iterator[Passage]:
    """Character codes: decimal (``104 111 119``) and octal (``150 157 167``)."""
    for pattern, base in ((_DECIMAL, 10), (_OCTAL, 8)):
        for match in _longest(pattern.finditer(text)):
            codes = [int(code, base) for code in re.findall(r"\d+", match[0][:_MOST_DECODED])]
            if all(10 <= code < 256 for code in codes) and sum(code >= 32 for code in codes) == len(codes):
                passage = _read_bytes(match.start(), match.end(), bytes(codes))
                if passage and sense(passage.text) >= _BELIEVED:
                    yield passage


# ---------------------------------------------------------------------------------------------------------------------
# Escapes

_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,30});")
_BACKSLASH = re.compile(r"\\u\{?[0-9A-Fa-f]{4,6}\}?|\\x[0-9A-Fa-f]{2}|\\U[0-9A-Fa-f]{8}")
_QUOTED_PRINTABLE = re.compile(r"(?:=[2-7][0-9A-F]|=\n){3,}")


def read_escapes(text: str) -> Iterator[Passage]:
    """Percent, HTML, backslash and quoted-printable escapes: one passage over all of a text's escapes of a kind.

    Hidden where plain letters, which nothing asks to be escaped, were escaped.
    """
    for pattern, undo in (
        (_PERCENT, unquote),
        (_ENTITY, html.unescape),
        (_BACKSLASH, _from_backslash),
        (_QUOTED_PRINTABLE, lambda run: unquote(run.replace("=\n", "").replace("=", "%"))),
    ):
        matches = [match for _, match in zip(range(20_000), pattern.finditer(text), strict=False)]
        if len(matches) < 2 and sum(len(match[0]) for match in matches) < 9:
            continue
        plain_letters = sum(letter.isascii() and letter.isalpha() for match in matches for letter in undo(match[0]))
        start, end = _around(text, matches[0].start(), matches[-1].end())
        decoded = pattern.sub(lambda match, undo=undo: undo(match[0]), text[start:end])  # type: ignore[misc]
        if "\ufffd" in decoded or not _is_text(decoded) or sense(decoded) < 0.3:
            continue
        yield Passage(start, end, decoded, plain_letters >= 6 and words_in(decoded) >= 2)


def _around(text: str, start: int, end: int) -> tuple[int, int]:
    """Widened to the whole words that the escapes stand in."""
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return start, end


def _from_backslash(run: str) -> str:
    code = int(re.sub(r"[^0-9A-Fa-f]", "", run[2:]), 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


# ---------------------------------------------------------------------------------------------------------------------
# Signs for letters

_MORSE = dict(
    zip(
        [
            ".-",
            "-...",
            "-.-.",
            "-..",
            ".",
            "..-.",
            "--.",
            "....",
            "..",
            ".---",
            "-.-",
            ".-..",
            "--",
            "-.",
            "---",
            ".--.",
            "--.-",
            ".-.",
            "...",
            "-",
            "..-",
            "...-",
            ".--",
            "-..-",
            "-.--",
            "--..",
            "-----",
            ".----",
            "..---",
            "...--",
            "....-",
            ".....",
            "-....",
            "--...",
            "---..",
            "----.",
            ".-.-.-",
            "--..--",
            "..--..",
            ".----.",
            "-.-.--",
            "-..-.",
            "-....-",
        ],
        "abcdefghijklmnopqrstuvwxyz0123456789.,?'!/-",
        strict=True,
    )
)
_MORSE_RUN = re.compile(r"(?<!\w)[.\-·•−–—_](?:[.\-·•−–—_ \t\n/|]){6,}[.\-·•−–—_/|]?(?!\w)")
_BRAILLE_RUN = re.compile("[\u2800-\u28ff](?:[\u2800-\u28ff ]){3,}")
_BRAILLE = dict(zip("⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵⠀", "abcdefghijklmnopqrstuvwxyz ", strict=True))
_NATO = {
    word: word[0]
    for word in [
        "alpha",
        "alfa",
        "bravo",
        "charlie",
        "delta",
        "echo",
        "foxtrot",
        "golf",
        "hotel",
        "india",
        "juliet",
        "juliett",
        "kilo",
        "lima",
        "mike",
        "november",
        "oscar",
        "papa",
        "quebec",
        "romeo",
        "sierra",
        "tango",
        "uniform",
        "victor",
        "whiskey",
        "whisky",
        "xray",
        "yankee",
        "zulu",
    ]
}
_NATO_RUN = re.compile(rf"(?i)\b(?:{'|'.join(_NATO)})(?:[\s,.\-/|]{{1,3}}(?:{'|'.join(_NATO)})){{3,}}\b")
_SMALL_WORD = re.compile("[a-z]+")
_ORDINALS = re.compile(r"(?<![\w.])\d{1,2}(?:(?:[ ,\-./|]|, | / | - |\n){1,3}\d{1,2}){3,}(?![\w])")


def read_morse(text: str) -> Iterator[Passage]:
    """Letters apart by spaces, words by slashes, bars, line breaks or wider gaps."""
    for match in _longest(_MORSE_RUN.finditer(text)):
        run = re.sub("[·•]", ".", re.sub("[−–—_]", "-", match[0][:_MOST_DECODED]))
        words = [group.split() for group in re.split(r"\s*[/|]\s*|\s*\n\s*|\s{2,}", run.strip())]
        signs = [sign for word in words for sign in word]
        if len(signs) < 3 or not all(sign in _MORSE for sign in signs):
            continue
        said = " ".join("".join(_MORSE[sign] for sign in word) for word in words if word)
        if sense(said) >= _BELIEVED and sum(map(str.isalpha, said)) >= 4:
            yield Passage(match.start(), match.end(), said, _is_message(said))


def read_spelled(text: str) -> Iterator[Passage]:
    """Braille, the spelling alphabet (alpha, bravo, …) and letters by their number (8-15-23)."""
    for match in () if text.isascii() else _longest(_BRAILLE_RUN.finditer(text)):
        if set(match[0]) <= {*_BRAILLE, " "}:
            said = "".join(_BRAILLE.get(sign, " ") for sign in match[0])
            if sense(said) >= _BELIEVED:
                yield Passage(match.start(), match.end(), said, _is_message(said))
    for match in _longest(_NATO_RUN.finditer(text)) if _may_spell(text) else ():
        said = _spelling(match[0], re.compile(r"[A-Za-z]+"), lambda word: _NATO[word.lower()])
        if said:
            yield Passage(match.start(), match.end(), said, _is_message(said))
    for match in _longest(_ORDINALS.finditer(text)):
        numbers = [int(number) for number in re.findall(r"\d+", match[0])]
        if len(numbers) > 5 and len(set(numbers)) > 3 and all(0 < number < 27 for number in numbers):
            said = _spelling(match[0], re.compile(r"\d+"), lambda number: chr(96 + int(number)))
            if said:
                yield Passage(match.start(), match.end(), said, _is_message(said))


def _may_spell(text: str) -> bool:
    """Whether a word of the spelling alphabet stands in ``text``, told in a third of the time that it takes to find them."""
    return not (text.isascii() and _NATO.keys().isdisjoint(_SMALL_WORD.findall(text.lower())))


def _spelling(run: str, sign: re.Pattern[str], letter: Callable[[str], str]) -> str:
    """Signs joined to words where the gaps differ, else to one row of letters; "" unless these make sense."""
    gaps = sign.split(run[:_MOST_DECODED])[1:-1]
    signs = sign.findall(run[:_MOST_DECODED])
    usual = max(set(gaps), key=gaps.count) if gaps else ""
    said = letter(signs[0])
    for gap, one in zip(gaps, signs[1:], strict=False):
        said += ("" if gap == usual else " ") + letter(one)
    if sense(said) >= _BELIEVED:
        return said
    words = segment(said.replace(" ", ""))
    return " ".join(words) if words else ""


# ---------------------------------------------------------------------------------------------------------------------
# Ciphers of letters: read where the words of a text are no words

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
    needed = 0.5 if before < 0.2 and distinct_words(said) > 3 else _BELIEVED + (0.25 if letters < 14 else 0)
    if after < max(needed, before + 0.3):
        return
    if not alone and distinct_words(said) < (2 if best is tables[0] and letters < 14 else 3):
        return
    if alone and not (len(tokens) == 1 and vocabulary().get(said.lower(), 1 << 30) < 16_000):
        return
    yield Passage(region.start, region.end, said, len(tokens) > 2 and letters > 9 and _is_message(said))


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
        for start in {0, match[0].find(": ") + 2}:
            run = match[0][start:]
            if len(run) >= 12 and _may_be_rot47(run) and sense(run) < 0.5:
                said = run.translate(_ROT47)
                if sense(said) >= 0.8 and _is_prose(said) and _is_message(said) and distinct_words(said) > 2:
                    yield Passage(match.start() + start, match.end(), said, True)
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
        needed = 0.5 if before < 0.2 and distinct_words(head[::-1]) > 3 else _BELIEVED
        if after < max(needed, before + 0.3) or letters < 5:
            continue
        if len(tokens) > 2 and distinct_words(head[::-1]) < (2 if letters < 14 else 3):
            continue
        start, end = _with_marks(text, region.start, region.end)
        run = text[start:end]
        hidden = len(tokens) > 2 and _is_message(head[::-1])
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

_PIG = re.compile(r"(?<!\w)[A-Za-z]{1,20}ay(?:[ ,.;!?\n-]{1,3}[A-Za-z]{1,20}-?ay){2,200}(?!\w)")


def read_pig_latin(text: str) -> Iterator[Passage]:
    """``owhay otay``: read where at least three neighbouring words, and most of their stretch, end so."""
    if text.count("ay") < 3:
        return
    for match in _longest(_PIG.finditer(text)):
        said = re.sub(r"[A-Za-z-]+", lambda word: _from_pig_latin(word[0]), match[0])
        if sense(said) >= _BELIEVED and sense(said) > sense(match[0]) + 0.2:
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
