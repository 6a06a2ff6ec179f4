"""Owns words that are spelled so that a reader, but not a list of words, knows them: s p a c e d, l33t, sp-lit, maskedrun.

Every function gives ``Passage``s, like ``encodings``: a stretch of the text and what it says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice, product

from vlmguard.language import detect
from vlmguard.perception.lettering import letter_model
from vlmguard.perception.lookalikes import without_accents
from vlmguard.perception.passages import Passage
from vlmguard.perception.wordlike import WORD, common_words, is_word, segment, sense, vocabulary

_MOST_TRIED = 2_000
"""Candidates of a kind that are tried in one text: a page of ordinary text has none."""

# ---------------------------------------------------------------------------------------------------------------------
# Letters apart

_MARK = r"[ \t\u00a0.,:;_*~|/\\+·•=-]"
_GAP = rf"{_MARK}{{1,4}}"
_APART = re.compile(rf"(?<![^\W_])[^\W_](?:(?:{_GAP})[^\W_]){{3,}}(?![^\W_])")
_TWO_APART = re.compile(rf"{_MARK}[^\W_]{_GAP}[^\W_]{_MARK}")
"""What every row of letters apart holds, and most texts do not."""
_COLUMN = re.compile(r"(?<![^\W_])[^\W_](?:[ \t]{0,2}\n[ \t]{0,2}[^\W_]){3,}(?![^\W_])")
_SPELLING = re.compile(
    r"\b(?:spell|spelled|spelt|spelling|pronounce|letters?|acronym|initials|stands for|abbreviat)", re.IGNORECASE
)


def read_apart(text: str) -> Iterator[Passage]:
    """``h o w  t o``, ``h-o-w``, letters one below the other. Wider gaps part words; else the row of letters is cut."""
    rows = _APART.finditer(text) if _TWO_APART.search(text) else ()
    columns = _COLUMN.finditer(text) if "\n" in text else ()
    for match in islice(chain(rows, columns), _MOST_TRIED):
        said = _joined(match[0])
        if said is None:
            continue
        words = said.split()
        letters = sum(map(len, words))
        # Signs and titles are set wide: W E L C O M E
        marks = set(re.sub(r"[^\W_]", "", match[0]))
        acronym = marks == {"."} and len(words) == 1
        small = sum(letter != letter.upper() for letter in match[0])
        typeset = small <= 0.2 * letters and (marks <= set(" \t\n\u00a0") or acronym)
        about_letters = _SPELLING.search(text[max(0, match.start() - 200) : match.end() + 100])
        hidden = (
            letters >= 4
            and not typeset
            and not about_letters
            and (len(words) > 1 or letters > 4 or "\n" not in match[0])
        )
        yield Passage(match.start(), match.end(), said, hidden)


def _joined(run: str) -> str | None:
    letters = re.findall(r"[^\W_]", run)
    if len({letter.lower() for letter in letters}) < 3 or sum(map(str.isdigit, letters)) > 0.5 * len(letters):
        return None
    gaps = re.findall(r"(?<=[^\W_])[\W_]+(?=[^\W_])", run)
    usual, _ = Counter(gaps).most_common(1)[0]
    said = letters[0]
    for gap, letter in zip(gaps, letters[1:], strict=True):
        said += ("" if gap == usual else " ") + letter
    for reading in (said, read_digits(said)):
        if sense(reading) >= 0.75 and not _only_letters(reading):
            return reading
    together = read_digits("".join(letters))
    if not together.isalpha():
        return None
    if is_word(together) and len(together) > 3:
        return together
    words = segment(together) if len(together) > 5 else None
    return " ".join(words) if words else None


def _only_letters(said: str) -> bool:
    return max(map(len, said.split()), default=0) < 3


# ---------------------------------------------------------------------------------------------------------------------
# Digits and signs for letters

_LEET = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b", "9": "g", "2": "z", "@": "a",
    "$": "s", "!": "il", "|": "li", "€": "e", "£": "l", "¢": "c", "¥": "y", "+": "t", "§": "s", "ß": "b",
}  # fmt: skip
_DRAWN = (
    ("|-|", "h"), ("|_|", "u"), ("|\\|", "n"), ("\\/\\/", "w"), ("/\\/\\", "m"), ("|\\/|", "m"), ("/\\", "a"), ("\\/", "v"),
    ("|)", "d"), ("|<", "k"), ("|3", "b"), ("[]", "o"), ("><", "x"), ("}{", "h"), ("|=", "f"), ("()", "o"),
)  # fmt: skip
_LEET_TOKEN = re.compile(r"(?<![^\s\"'“”‘’(\[{,.;:?_*-])[A-Za-z0-9@$!|€£¢¥+§ß]{2,24}(?![^\s\"'“”‘’)\]},.;:?!_*-])")
_MEASURE = re.compile(
    r"[$€£]?\d+[a-z]{1,3}|[A-Z]{1,4}\d{1,4}[A-Z]?|\$?\d[\d.,]*\+?|[A-Z]\d[A-Z]\d?|\d+[A-Z]{1,3}|[A-Za-z]{2,}!+",
    re.ASCII,
)
_MISREAD = frozenset("0158|")
"""Digits that a reader of pictures takes for letters, and the other way round, without anybody's intent."""
_SHORT_WORDS = "a an at as is it if in on of to do me go no be or so we my us by i you"
_SHORT = frozenset(_SHORT_WORDS.split())


def read_leet(text: str) -> Iterator[Passage]:
    """``h0w t0 m4k3``: one passage from the first to the last such word."""
    drawn = text
    if "|" in text or "\\/" in text:
        for sign, letter in _DRAWN:
            drawn = drawn.replace(sign, letter)
        if drawn != text and not sense(drawn) > sense(text) + 0.2:
            drawn = text
    found: list[tuple[int, int, str]] = []
    for match in islice(_LEET_TOKEN.finditer(drawn), 400_000):
        token = match[0]
        if token.isalpha() or token.isdigit() or len(found) > _MOST_TRIED:
            continue
        word = _unleet(token)
        if word:
            found.append((match.start(), match.start() + len(token.rstrip("!")), word))
    if drawn != text:
        said = _with(drawn, found)
        yield Passage(0, len(text), said, sense(said) >= 0.6)
        return
    if not found:
        return
    signs = {sign for start, end, _ in found for sign in text[start:end].lower() if sign in _LEET}
    spelled = sum(len(word) > 2 for _, _, word in found)
    start, end = found[0][0], found[-1][1]
    short = len(found) > 1 and (end - start) < 60 * len(found)
    said = _with(text[start:end], [(one - start, other - start, word) for one, other, word in found])
    if short:
        start, end = _line_around(text, start, end)
        said = text[start : found[0][0]] + said + text[found[-1][1] : end]
        said = _CUT_LEET.sub(_rejoin_leet, said)
        said = _BESIDE_LEET.sub(lambda match: _unleet(match[0], among_others=True) or match[0], said)
        if len(found) > 2:
            said = _BESIDE_LEET.sub(lambda match: _likeliest(match[0]) or match[0], said)
    many = spelled > 2 or (spelled > 1 and not signs <= _MISREAD)
    yield Passage(start, end, said, short and many and not (signs <= _MISREAD and said.isupper()))


_BESIDE_LEET = re.compile(r"(?<![\w@!+$])[@!+$\w]{1,24}(?![\w@!+$])")


_CUT_LEET = re.compile(r"(?<![\w@!+$])([@$\w]{2,12}) ([@$\w]{2,8})(?![\w@!+$])")


def _rejoin_leet(match: re.Match[str]) -> str:
    """``d35cr 1b3``: a reader puts a gap before a slim digit."""
    if _unleet(match[1]) or _unleet(match[2]) or is_word(match[1]) or is_word(match[2]):
        return match[0]
    return _unleet(match[1] + match[2]) or match[0]


def _likeliest(token: str) -> str | None:
    """What a token spells beside several that are words: words run together, or a name that no list has."""
    if token.isalpha() or token.isdigit() or len(token) < 6 or sum(one in _LEET for one in token.lower()) < 2:
        return None
    choices = [_LEET.get(letter, letter) for letter in token.lower()]
    readings = ["".join(letters) for letters in islice(product(*choices), 64)]
    readings = [reading for reading in readings if reading.isalpha()]
    model = letter_model()
    best = min(readings, key=lambda reading: model.cost(" ", reading), default=None)
    return " ".join(segment(best) or [best]) if best else None


def _line_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The clause around a stretch; a picture breaks its lines anywhere."""
    left = max(text.rfind(mark, max(0, start - 80), start) for mark in '.:;"')
    right = min(
        (at for mark in '.:;"' if (at := text.find(mark, end, end + 80)) >= 0), default=min(len(text), end + 80)
    )
    start = left + 1 if left >= 0 else max(0, start - 80)
    while end < len(text) and right < len(text) and text[right].isalnum():
        right += 1
    while start > 0 and text[start - 1].isalnum():
        start -= 1
    return start, right


def _with(text: str, found: list[tuple[int, int, str]]) -> str:
    pieces: list[str] = []
    end = 0
    for start, stop, word in found:
        pieces += (text[end:start], word)
        end = stop
    return "".join(pieces) + text[end:]


def _unleet(token: str, among_others: bool = False) -> str | None:
    """The word that a token of letters, digits and signs spells, or ``None``.

    ``among_others``: beside words that are spelled so, a number or a measure (``4nd``, ``70``) may be one of them.
    """
    bare = token.rstrip("!+|")
    if len(bare) < 3 and (among_others or (len(bare) == 2 and any(map(str.isalpha, bare)))):
        return _unleet_short(bare)
    if bare.isalpha() or len(bare) < 3:
        return None
    if not among_others and (not any(map(str.isalpha, token)) or _MEASURE.fullmatch(bare)):
        return None
    choices = [_LEET.get(letter, letter) for letter in bare.lower()]
    readings = ("".join(letters) for letters in islice(product(*choices), 16))
    known = vocabulary()
    words = [reading for reading in readings if is_word(reading)]
    return min(words, key=lambda word: known.get(word, 1 << 30)) if words else None


def _unleet_short(token: str) -> str | None:
    """``70`` is "to" and ``4`` is "a" beside words that are spelled so; ``2`` is heard as "to"."""
    token = token.lower()
    if token == "2":
        return "to"
    if token.isalpha():
        return None
    choices = [_LEET.get(letter, letter) for letter in token]
    return next((word for letters in product(*choices) if (word := "".join(letters)) in _SHORT), None)


def read_digits(token: str) -> str:
    """The likeliest letters for the digits and signs in ``token``."""
    return re.sub(r"[^\s]+", lambda match: _unleet(match[0]) or match[0], token)


# ---------------------------------------------------------------------------------------------------------------------
# Words cut in pieces

_CUT_MARK = r"[.\-_*~·•|+^`,;:!?$#\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]"
_CUT = re.compile(rf"(?<![\w@./\\#'’-])[^\W\d_]{{1,12}}(?:{_CUT_MARK}{{1,2}}[^\W\d_]{{1,12}}){{1,8}}(?![\w@/\\(='’-])")
_CUT_ONCE = re.compile(rf"{_CUT_MARK}[^\W\d_]")
_USUAL_MARKS = frozenset(".-_,;:!?|+`$#")
_HYPHENATED = re.compile(r"([^\W\d_]{2,20})-[ \t]{0,2}\n[ \t]{0,8}([^\W\d_]{2,20})")
_BREAK = re.compile(r"-[ \t]{0,2}\n")
_FRAGMENTS = re.compile(r"(?<![\w'’-])[a-z]{1,6}(?: [a-z]{1,6}){1,40}(?![\w'’-])")


def read_cut(text: str) -> Iterator[Passage]:
    """``bo.mb``, ``ex-plo-sive``, ``b*o*m*b``: joined where the whole is a word and the pieces are not.

    One such word with a usual mark may be a name, a slip or code; two, or one in three pieces, are meant.
    """
    if not _CUT_ONCE.search(text):
        return
    found: list[Passage] = []
    meant = 0
    for match in islice(_CUT.finditer(text), _MOST_TRIED):
        pieces = re.split(r"[\W\d_]+", match[0])
        whole = "".join(pieces)
        if len(whole) > 3 and is_word(whole) and not all(map(is_word, pieces)) and not _honest_cut(match[0], pieces):
            found.append(Passage(match.start(), match.end(), whole, True))
            marks = {letter for letter in match[0] if not letter.isalpha()}
            meant += 2 if not marks <= _USUAL_MARKS or (len(pieces) > 2 and "_" not in marks) else 1
    spelled = len({passage.text.lower() for passage in found})
    dense = len(WORD.findall(text)) < 60 * len(found)
    hidden = (spelled > 1 or meant > spelled) and meant > 1 and dense and not _SPELLING.search(text[:4_000])
    for passage in found:
        yield Passage(passage.start, passage.end, passage.text, hidden)


def _honest_cut(run: str, pieces: list[str]) -> bool:
    """``re-enter``, ``e-mail``, ``T-shirt``, ``s.replace``: a prefix, a letter, or a name of a program before a mark."""
    marks = {letter for letter in run if not letter.isalpha()}
    if marks == {"."} and run.isupper() and max(map(len, pieces)) == 1:
        return True
    prefix = marks <= {"-"} and (pieces[0].lower() in _PREFIXES or len(pieces[-1]) == 1) and len(pieces) == 2
    return (
        prefix
        or all(len(piece) > 3 and is_word(piece) for piece in pieces)
        or (marks <= set("._") and max(map(len, pieces)) > 4)
    )


_PREFIX_WORDS = (
    "re e co pre pro anti non un de bi mid sub mis semi multi inter over under out up on off by x o a post ex self"
)
_PREFIXES = frozenset(_PREFIX_WORDS.split())


def read_hyphenated(text: str) -> Iterator[Passage]:
    """Words divided at the end of a line."""
    if not _BREAK.search(text):
        return
    for match in islice(_HYPHENATED.finditer(text), _MOST_TRIED):
        whole = match[1] + match[2]
        if is_word(whole) and not (is_word(match[1]) and is_word(match[2])):
            yield Passage(match.start(), match.end(), whole, False)


def read_fragments(text: str) -> Iterator[Passage]:
    """``ma ke a bo mb``: neighbouring pieces that are no words joined to words. Needs two of them."""
    known = common_words()
    for match in islice(_FRAGMENTS.finditer(text), _MOST_TRIED):
        pieces = match[0].split()
        if sum(piece not in known for piece in pieces) < 2 or 2 * sum(len(piece) == 1 for piece in pieces) > len(
            pieces
        ):
            continue  # single letters are ``read_apart``'s: cut here and there they make other words
        joined = _rejoined(pieces)
        gained = sum(" " not in piece and piece not in pieces for piece in joined)
        if gained and sense(" ".join(joined)) >= max(0.85, sense(match[0]) + 0.15):
            yield Passage(match.start(), match.end(), " ".join(joined), gained > 1)


def _rejoined(pieces: list[str]) -> list[str]:
    words: list[str] = []
    at = 0
    while at < len(pieces):
        for count in (4, 3, 2):
            group = pieces[at : at + count]
            whole = "".join(group)
            if len(group) == count and len(whole) > 2 and is_word(whole) and sum(map(is_word, group)) < count:
                words.append(whole)
                at += count
                break
        else:
            words.append(pieces[at])
            at += 1
    return words


_LITERAL = r"(?:\"[^\"\n]{0,60}\"|'[^'\n]{0,60}'|“[^”\n]{0,60}”)"
_SUM = re.compile(
    rf"(?:{_LITERAL}|[A-Za-z_]\w{{0,20}})(?:[ \t]{{0,3}}(?:\+|\.\.|&|\|\||~|<>)[ \t]{{0,3}}(?:{_LITERAL}|[A-Za-z_]\w{{0,20}})){{1,60}}"
)
_LITERALS = re.compile(_LITERAL)
_TERM = re.compile(rf"{_LITERAL}|[A-Za-z_]\w*")
_NAMED = re.compile(
    rf"(?<![\w.])(?:let |var |const |\$|string |str )?([A-Za-z_]\w{{0,20}})[ \t]{{0,3}}(?:=|:=|:|is|be)[ \t]{{0,3}}({_LITERAL})"
)


def read_sums(text: str) -> Iterator[Passage]:
    """``"bo" + "mb"``, and ``a + b`` after ``a = "bo"; b = "mb"``."""
    if not _LITERALS.search(text):
        return
    names = {match[1]: match[2][1:-1] for match in islice(_NAMED.finditer(text), _MOST_TRIED)}
    for match in islice(_SUM.finditer(text), _MOST_TRIED // 8):
        terms = _TERM.findall(match[0])
        if not any(term[0] in "\"'“" or term in names for term in terms):
            continue
        parts = [term[1:-1] if term[0] in "\"'“" else names.get(term, "") for term in terms]
        whole = "".join(parts)
        if not all(parts) or len(whole) < 3:
            continue
        said = whole if sense(whole) >= 0.6 else " ".join(segment(whole) or []) if whole.isalpha() else ""
        said = said or (" ".join(parts) if sense(" ".join(parts)) >= 0.6 else "")
        if said:
            cut = sum(len(word) > 3 and is_word(word) and word not in parts for word in said.split())
            yield Passage(match.start(), match.end(), said, cut > 0 and not all(map(_is_prose, parts)))


def _is_prose(part: str) -> bool:
    return all(map(is_word, WORD.findall(part)))


# ---------------------------------------------------------------------------------------------------------------------
# Words run together, letters left out, repeated or accented

_MOST_CUT = 4_000
"""Letters of one text that are looked at for words run together."""
_LONG = re.compile(r"(?<![\w@./\\:=-])#?[^\W\d_]{9,200}(?![\w@/\\=-]|\.\w)")


def read_together(text: str) -> Iterator[Passage]:
    """``stepstomake``: cut into words. Readers of pictures lose spaces, and so do hashtags.

    A rare or misspelled word falls into shorter ones as well, so a run has to be long, or much of the text, or a hashtag.
    """
    budget = _MOST_CUT
    for match in islice(_LONG.finditer(text), 400_000):
        tag, run = match[0][0] == "#", match[0].lstrip("#")
        if not (tag or len(run) > 13 or 5 * len(run) > len(text)) or is_word(run) or not run.isascii():
            continue
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", run) if not (run.islower() or run.isupper()) else None
        if not words or not all(map(is_word, words)):
            budget -= len(run)
            if budget < 0:
                return
            words = segment(run)
        enough = 2 if tag or 2 * len(run) > len(text) else 3
        if (
            words
            and len(words) >= enough
            and all(len(word) > 1 or word in "aAI" for word in words)
            and all(map(is_word, words))
        ):
            yield Passage(match.start(), match.end(), " ".join(words), False)


_MASKED = re.compile(r"(?<![\w*#])[A-Za-z]{1,12}(?:[*#?•_%-][*#?•]{0,3}[A-Za-z]{1,12}){1,2}(?![\w*#])")


def read_masked(text: str) -> Iterator[Passage]:
    """``b*mb``: the most frequent word that fits. Of the first few; everyday censoring is no attempt to hide."""
    for match in islice(_MASKED.finditer(text), 24):
        if not re.search(r"[*#•]", match[0]) or re.search("[-_?%]", match[0]):
            continue
        pattern = re.compile(re.sub(r"[*#•]", ".", re.escape(match[0].lower()).replace("\\*", "*").replace("\\#", "#")))
        word = next((word for word in _by_length().get(len(match[0]), ()) if pattern.fullmatch(word)), None)
        if word:
            yield Passage(match.start(), match.end(), word, False)


@cache
def _by_length() -> dict[int, list[str]]:
    words: dict[int, list[str]] = {}
    for word in islice(vocabulary(), 25_000):
        words.setdefault(len(word), []).append(word)
    return words


def read_stretched(text: str) -> Iterator[Passage]:
    """``booomb``: letters three times or more become one or two."""
    for match in islice(re.finditer(r"(?<!\w)[A-Za-z]{4,60}(?!\w)", text) if _REPEATED.search(text) else (), 400_000):
        if _REPEATED.search(match[0]):
            for by in (r"\1\1", r"\1"):
                word = _REPEATED.sub(by, match[0])
                if len(word) > 2 and is_word(word):
                    yield Passage(match.start(), match.end(), word, False)
                    break


_REPEATED = re.compile(r"([A-Za-z])\1{2,}")
_ACCENTED = re.compile(r"[\u00c0-\u024f\u1e00-\u1eff]")


def read_accented(text: str) -> Iterator[Passage]:
    """``hòw tó màkè``: English under accents that no English has. Only where most words carry them."""
    if len(text) > 60_000 or not _ACCENTED.search(text) or detect(text) not in ("en", "und"):
        return
    for match in re.finditer(r"[^.!?\n]{6,2000}", text):
        tokens = WORD.findall(match[0])
        accented = [token for token in tokens if not token.isascii()]
        if len(accented) < 3 or 2 * len(accented) < len(tokens):
            continue
        bare = without_accents(match[0])
        spelled = sum(is_word(without_accents(token)) for token in accented)
        if spelled >= 0.8 * len(accented) and sense(bare) >= 0.85 and sense(match[0]) < 0.5:
            yield Passage(match.start(), match.end(), bare, True)


# ---------------------------------------------------------------------------------------------------------------------


_LINE_START = re.compile(r"^[ \t]*(?:[-*•]\s+|\d{1,2}[.)]\s*)?([^\W\d_])(?=[^\n]{2})", re.MULTILINE)


def read_acrostic(text: str) -> Iterator[Passage]:
    """The first letters of six lines or more, where they fall into words of some length."""
    if len(text) > 20_000 or text.count("\n") < 5:
        return
    lines = list(_LINE_START.finditer(text))
    if not 6 <= len(lines) <= 200:
        return
    initials = "".join(match[1] for match in lines).lower()
    words = [initials] if is_word(initials) else segment(initials)
    if words and sum(map(len, words)) >= 3.4 * len(words):
        yield Passage(0, len(text), " ".join(words), False)
