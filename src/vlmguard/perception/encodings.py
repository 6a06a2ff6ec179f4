"""Owns encodings: stretches of a text that are the bytes or the signs of another text.

Every finder takes a text and gives the ``Passage``s that it can read. A passage is believed only when it reads as words
(or, for encodings of bytes, when the bytes are a text, which chance does not produce). Work is bounded per call.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from vlmguard.perception.passages import BELIEVED, Passage, is_message, longest
from vlmguard.perception.wordlike import (
    segment,
    sense,
    words_in,
)

_MOST_DECODED = 60_000
"""Characters of one passage that are decoded."""


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
    return Passage(start, end, text, is_message(text) or _is_foreign_message(text))


def _is_foreign_message(text: str) -> bool:
    """A message in letters that are not Latin: there are no word lists for those, and chance does not write them."""
    letters = [letter for letter in text[:2000] if letter.isalpha()]
    return len(letters) >= 8 and sum(letter > "\u0370" for letter in letters) > 0.7 * len(letters)


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
    runs = [(match.start(), match.end(), match[0]) for match in longest(_maybe_base64(text))]
    for start, end, run in _unwrapped(text, runs):
        if _DATA_URI.search(text[max(0, start - 60) : start]):
            continue
        passage = _from_base64(start, end, run)
        if passage is None and len(run) >= 16:
            backwards = _from_base64(start, end, run[::-1])
            passage = backwards if backwards and backwards.hidden else None
        if passage:
            yield passage
    for match in longest(_BACKWARD_BASE64.finditer(text)):
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
    for match in longest(_BASE32.finditer(text)):
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
    for match in longest(_HEX.finditer(text)):
        digits = re.sub(r"0[xX]|\\x|[^0-9A-Fa-f]", "", match[0])[:_MOST_DECODED]
        data = bytes.fromhex(digits[: len(digits) // 2 * 2])
        passage = _read_bytes(match.start(), match.end(), data)
        if passage and (len(data) > 5 or sense(passage.text) > 0.9):
            yield passage


def read_binary(text: str) -> Iterator[Passage]:
    """Groups of seven or eight bits, apart or run together."""
    for match in longest(_BINARY.finditer(text)):
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
        for match in longest(pattern.finditer(text)):
            codes = [int(code, base) for code in re.findall(r"\d+", match[0][:_MOST_DECODED])]
            if all(10 <= code < 256 for code in codes) and sum(code >= 32 for code in codes) == len(codes):
                passage = _read_bytes(match.start(), match.end(), bytes(codes))
                if passage and sense(passage.text) >= BELIEVED:
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
    for match in longest(_MORSE_RUN.finditer(text)):
        run = re.sub("[·•]", ".", re.sub("[−–—_]", "-", match[0][:_MOST_DECODED]))
        words = [group.split() for group in re.split(r"\s*[/|]\s*|\s*\n\s*|\s{2,}", run.strip())]
        signs = [sign for word in words for sign in word]
        if len(signs) < 3 or not all(sign in _MORSE for sign in signs):
            continue
        said = " ".join("".join(_MORSE[sign] for sign in word) for word in words if word)
        if sense(said) >= BELIEVED and sum(map(str.isalpha, said)) >= 4:
            yield Passage(match.start(), match.end(), said, is_message(said))


def read_spelled(text: str) -> Iterator[Passage]:
    """Braille, the spelling alphabet (alpha, bravo, …) and letters by their number (8-15-23)."""
    for match in () if text.isascii() else longest(_BRAILLE_RUN.finditer(text)):
        if set(match[0]) <= {*_BRAILLE, " "}:
            said = "".join(_BRAILLE.get(sign, " ") for sign in match[0])
            if sense(said) >= BELIEVED:
                yield Passage(match.start(), match.end(), said, is_message(said))
    for match in longest(_NATO_RUN.finditer(text)) if _may_spell(text) else ():
        said = _spelling(match[0], re.compile(r"[A-Za-z]+"), lambda word: _NATO[word.lower()])
        if said:
            yield Passage(match.start(), match.end(), said, is_message(said))
    for match in longest(_ORDINALS.finditer(text)):
        numbers = [int(number) for number in re.findall(r"\d+", match[0])]
        if len(numbers) > 5 and len(set(numbers)) > 3 and all(0 < number < 27 for number in numbers):
            said = _spelling(match[0], re.compile(r"\d+"), lambda number: chr(96 + int(number)))
            if said:
                yield Passage(match.start(), match.end(), said, is_message(said))


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
    if sense(said) >= BELIEVED:
        return said
    words = segment(said.replace(" ", ""))
    return " ".join(words) if words else ""
