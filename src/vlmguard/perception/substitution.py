"""Owns word-substitution tables: reading one out of a prompt in the many ways people write it, and applying it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

_MOST_ENTRIES = 200
_MOST_CHARACTERS = 60_000
_QUOTES = "\"'`“”‘’«»„*"
_WORD = r"[^\W_](?:[\w-]|['’](?=\w)){0,30}"
_ITEM = rf"{_WORD}(?: {_WORD}){{0,3}}"
"""Up to four words."""
# Every run of spaces and quotes below has an end: without one, a text of nothing else takes the square of its length.
_Q = rf"[{_QUOTES}]{{0,6}}"
_GAP = r"\s{1,40}"
_PAD = r"\s{0,40}"
_BLANKS = r"[ \t]{0,40}"
_QUOTED = rf"[{_QUOTES}]{{1,3}}{_PAD}({_ITEM}){_PAD}[{_QUOTES}]{{1,3}}"
_SAYS_MEANS = (
    r"means|mean|meaning|stands for|stand for|represents|represent|denotes|refers to|is code for|is short for|is really|"
    r"is actually|signifies|equals|actually is|in reality is|is to be read as|should be read as|is read as|reads as|"
    r"must be read as|is replaced by|is replaced with|is substituted by|is substituted with|becomes|translates to|maps to|"
    r"corresponds to|is the code word for|is a code word for|is a codeword for|significa|representa|quiere decir|equivale a|"
    r"bedeutet|steht für|signifie|représente|veut dire|代表|表示|意思是|指的是|का मतलब|का अर्थ|يعني|تعني|يرمز إلى"
)
_ARROW = r"(?:->|=>|-->|==>|→|⇒|⟶|↔|<->|<=>|:=|==?|≙|≡|\||:|⇔|>)"
_Pairs = Iterable[tuple[str, str]]


class _Phrase:
    """A pattern, written in small letters, that finds words in any. An ASCII prompt is put into small letters first: that takes a
    third of the time, and what is found is told in small letters anyway."""

    def __init__(self, pattern: str) -> None:
        self._small = re.compile(pattern)
        self._any = re.compile(pattern, re.IGNORECASE)

    def find(self, prompt: str) -> Iterator[re.Match[str]]:
        return self._small.finditer(prompt.lower()) if prompt.isascii() else self._any.finditer(prompt)


_QUOTED_PAIR = _Phrase(rf"{_QUOTED}{_PAD}(?:{_ARROW}|(?:{_SAYS_MEANS})){_PAD}{_QUOTED}")
_MEANS = _Phrase(rf"\s(?:{_SAYS_MEANS})\s")
"""What every match of ``_BARE_MEANS`` holds, and most texts do not: it is found in a tenth of the time."""
_BARE_MEANS = _Phrase(
    rf"(?:(?:where|let|if|and|word|says?|term|that|,|;){_GAP})?{_Q}(?P<a>{_WORD}){_Q}"
    rf"{_GAP}(?:{_SAYS_MEANS}){_GAP}(?:the word{_GAP}|the term{_GAP})?{_Q}(?P<b>{_WORD})"
)
_REPLACE = _Phrase(
    rf"\b(?:replac(?:e|ing)|substitut(?:e|ing)|swap(?:ping)?|exchang(?:e|ing)|chang(?:e|ing)|switch(?:ing)?|turn(?:ing)?|"
    rf"read(?:ing)?|interpret(?:ing)?|treat(?:ing)?|understand(?:ing)?|decod(?:e|ing)|translat(?:e|ing)|reemplaza|sustituye|"
    rf"ersetze|remplacez?){_GAP}"
    rf"(?:(?:the |every |all |each |any |la |el |das |le )?(?:words?|terms?|occurrences? of|instances? of|palabra|wort|mot){_GAP})?"
    rf"{_Q}(?P<a>{_WORD}){_Q}{_GAP}(?:with|by|as|to|for|into|por|con|durch|par|mit){_GAP}"
    rf"(?:the words?{_GAP})?{_Q}(?P<b>{_WORD}){_Q}"
    rf"(?P<more>(?:{_PAD}(?:,|;|and|y|und|et){{1,3}}{_GAP}{_Q}{_WORD}{_Q}{_GAP}(?:with|by|as|to|for|into|por|"
    rf"durch|par|mit){_GAP}{_Q}{_WORD}{_Q}){{0,20}})"
)
_MORE = _Phrase(
    rf"{_Q}({_WORD}){_Q}{_GAP}(?:with|by|as|to|for|into|por|durch|par|mit){_GAP}{_Q}"
    rf"({_WORD})"
)
_INSTEAD = _Phrase(
    rf"\b(?:say|says|use|write|read|put|type){_GAP}{_Q}(?P<b>{_WORD}){_Q}{_GAP}"
    rf"(?:instead of|in place of|for|whenever you see|when you see|when i say){_GAP}{_Q}(?P<a>{_WORD})"
)
_WHEN_SAY = _Phrase(
    rf"\b(?:when|whenever|if|where){_GAP}(?:i|you|it|the (?:image|picture|text)){_GAP}(?:says?|writes?|mentions?|sees?|reads?|uses?){_GAP}"
    rf"(?:the word{_GAP})?{_Q}(?P<a>{_WORD}){_Q}{_PAD},?{_PAD}(?:i|you|it)?{_PAD}(?:really{_GAP}|actually{_GAP})?"
    rf"(?:means?|read|think|understand|say){_GAP}{_Q}(?P<b>{_WORD})"
)
_LET_BE = _Phrase(
    rf"\b(?:let|call|define|sea|sei|soit){_GAP}{_Q}(?P<a>{_WORD}){_Q}{_PAD}(?:be|as|to be|to mean|mean|=)?"
    rf"{_GAP}(?:the word{_GAP})?[{_QUOTES}]{{1,6}}{_PAD}(?P<b>{_ITEM}){_PAD}[{_QUOTES}]|"
    rf"\b(?:let|define){_GAP}{_Q}(?P<c>{_WORD}){_Q}{_GAP}(?:be|mean|stand for|as){_GAP}"
    rf"(?:the word{_GAP}|an?{_GAP}|the{_GAP})?{_Q}(?P<d>{_WORD})"
)
_LINE_PAIR = re.compile(
    rf"^{_BLANKS}(?:[-*•]{_GAP}|\(?\d{{1,2}}[.)]{_GAP})?\|?{_BLANKS}{_Q}({_ITEM}){_Q}{_BLANKS}(?:{_ARROW}|[-–—](?=\s)|\t){_BLANKS}"
    rf"{_Q}({_ITEM}){_Q}{_BLANKS}\|?{_BLANKS}[,;.]?{_BLANKS}$",
    re.MULTILINE,
)
_INLINE_PAIR = re.compile(
    rf"(?<![\w=<>]){_Q}({_WORD}){_Q}{_PAD}(?:->|=>|-->|→|⇒|⟶|↔|=){_PAD}"
    rf"{_Q}((?!\d){_WORD})(?={_PAD}(?:[{_QUOTES},;.)\]}}]|\n|$|and\b))",
    re.IGNORECASE,
)
_POINTING = re.compile("[=>→⇒⟶↔]")
"""What every match of ``_INLINE_PAIR`` holds."""
_BRACES = re.compile(r"\{[^{}]{3,8000}\}")
_HEADINGS = frozenset(
    [
        "word",
        "code",
        "meaning",
        "original",
        "replacement",
        "replace",
        "term",
        "key",
        "value",
        "from",
        "to",
        "real",
        "actual",
        "say",
        "means",
        "word1",
        "word2",
        "codeword",
        "substitute",
        "substitution",
        "replaced",
        "plain",
        "cipher",
    ]
)
_SAID = frozenset(
    [
        "i",
        "you",
        "he",
        "she",
        "it",
        "we",
        "they",
        "this",
        "that",
        "what",
        "which",
        "who",
        "and",
        "or",
        "the",
        "a",
        "an",
        "to",
        "is",
        "are",
        "be",
    ]
)
_LETTER = re.compile(r"[^\W\d_]")
_DIRECTION = re.compile(
    r"\boriginal\b|\bin either direction\b|\bswapp?(?:ed|ing)?\b|\breplac|\bsubstitut|\bsustit|\bersetz|\brempla",
    re.I,
)


def substitutions(prompt: str) -> Mapping[str, str]:
    """The word replacements that ``prompt`` declares: word as it stands in a text → word that is meant, lower case.

    Reads "'pizza' means 'guide'", "replace sweet with effective", JSON and Python tables, ``A = B`` lines, arrows, Markdown
    tables, "let X be Y", "when I say X read Y". Where the direction is unclear both are given, the written one first
    (a word never gets two meanings). Empty when there is no table.
    """
    prompt = prompt[:_MOST_CHARACTERS]
    table: dict[str, str] = {}
    back: dict[str, str] = {}
    for written, meant in (*_stated(prompt), *_tabled(prompt)):
        one, other = _clean(written), _clean(meant)
        if (
            not _LETTER.search(one)
            or not _LETTER.search(other)
            or one == other
            or one in _SAID
            or (other in _HEADINGS and one in _HEADINGS)
        ):
            continue
        if len(table) >= _MOST_ENTRIES:
            break
        table.setdefault(one, other)
        back.setdefault(other, one)
    if table and (_DIRECTION.search(prompt) or len(table) > 1):
        for meant, written in back.items():
            if meant not in _SAID:
                table.setdefault(meant, written)
    return table


def _clean(word: str) -> str:
    return " ".join(word.strip(_QUOTES + " \t.,;:").lower().split())


def _stated(prompt: str) -> _Pairs:
    """Replacements said in a sentence."""
    for match in _WHEN_SAY.find(prompt):
        yield match["a"], match["b"]
    for match in _QUOTED_PAIR.find(prompt):
        yield match[1], match[2]
    for match in _REPLACE.find(prompt):
        yield match["a"], match["b"]
        for more in _MORE.find(match["more"]):
            yield more[1], more[2]
    for match in _INSTEAD.find(prompt):
        yield match["a"], match["b"]
    for match in _LET_BE.find(prompt):
        yield (match["a"], match["b"]) if match["a"] else (match["c"], match["d"])
    if any(_MEANS.find(prompt)):
        for match in _BARE_MEANS.find(prompt):
            yield match["a"], match["b"]


def _tabled(prompt: str) -> _Pairs:
    """Replacements in braces, on lines of their own, or as ``a=b, c=d``."""
    for match in _BRACES.finditer(prompt):
        yield from _braced(match[0])
    lines = list(_LINE_PAIR.finditer(prompt))
    # One "Name: value" line is a form, a heading or a label; a table has several.
    if len(lines) > 1 or (lines and _strong(lines[0][0])):
        for match in lines:
            yield match[1], match[2]
    inline = list(_INLINE_PAIR.finditer(prompt)) if _POINTING.search(prompt) else []
    if len(inline) > 1 or (inline and _strong(inline[0][0])):
        for match in inline:
            yield match[1], match[2]


def _strong(pair: str) -> bool:
    return any(arrow in pair for arrow in ("->", "=>", "→", "⇒", "⟶", "="))


def _braced(text: str) -> _Pairs:
    """A JSON or Python table, also one that lacks quotes."""
    try:
        value = json.loads(re.sub(r"[“”„']", '"', text))
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        yield from ((key, word) for key, word in value.items() if isinstance(word, str))
        return
    for part in re.split(r"[,;\n{}]", text):
        key, mark, word = part.partition(":")
        if not mark:
            key, mark, word = part.partition("=")
        if mark and re.fullmatch(_ITEM, _clean(key)) and re.fullmatch(_ITEM, _clean(word)):
            yield key, word


def aligned(lines: Sequence[str], prompt: str) -> tuple[Mapping[str, str], frozenset[int]]:
    """A table without signs, as a picture shows one: rows of two words, or cells of one word that follow each other.

    A word that is used elsewhere (in ``prompt`` or another line) stands beside one that is not. Returns the table and the
    numbers of the lines that it is made of; two pairs at least, else nothing.
    """
    cells = [[_clean(word) for word in line.split()] for line in lines]
    prose = [word for row in cells if len(row) > 2 for word in row]
    used = {*prose, *map(_clean, prompt.split())}
    table: dict[str, str] = {}
    rows: set[int] = set()
    pairs = [(number, number, row[0], row[1]) for number, row in enumerate(cells) if len(row) == 2]
    pairs += [
        (number, number + 1, row[0], after[0])
        for number, (row, after) in enumerate(pairwise(cells))
        if len(row) == len(after) == 1
    ]
    for first, last, one, other in pairs:
        written, meant = (one, other) if one in used else (other, one)
        beside = written in used and meant not in used and written not in _SAID and first not in rows
        if beside and _LETTER.search(meant) and table.setdefault(written, meant) == meant:
            rows |= {first, last}
    return (table, frozenset(rows)) if len(table) > 1 else ({}, frozenset())


def substitute(text: str, table: Mapping[str, str]) -> str:
    """``text`` with every whole word that ``table`` knows replaced once, keeping capitals. Longest entries first."""
    entries = {key.lower(): word for key, word in table.items() if key}
    if not entries or not text:
        return text
    keys = sorted(entries, key=len, reverse=True)[: 4 * _MOST_ENTRIES]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, keys))})(?!\w)", re.IGNORECASE)

    def meant(match: re.Match[str]) -> str:
        word = entries.get(match[0].lower(), match[0])
        if match[0].isupper() and len(match[0]) > 1:
            return word.upper()
        return word[:1].upper() + word[1:] if match[0][:1].isupper() else word

    return pattern.sub(meant, text)
