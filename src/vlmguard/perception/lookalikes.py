"""Owns characters that look like others, or like nothing: undone here one character or one word at a time.

``plain`` gives a text in ordinary letters. Honest use is told from disguise by the company a character keeps: a Cyrillic
letter is a disguise inside a Latin word, not in a Russian one; a joiner belongs in Hindi, Persian and emoji.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from vlmguard.perception.wordlike import WORD, is_word, sense, words_in


@dataclass(frozen=True, slots=True)
class Plain:
    """A text in ordinary letters."""

    text: str
    methods: tuple[str, ...] = ()
    """What was undone: ``zero-width``, ``confusables``, …"""
    hidden: bool = False
    """Whether any of it looks like an attempt to hide."""
    payloads: tuple[tuple[str, str], ...] = ()
    """(method, text) of words carried by characters that show nothing."""


_Step = Callable[[str], tuple[str, bool]]
"""Text → (text, whether it looks like an attempt to hide)."""


def plain(text: str) -> Plain:
    """``text`` without disguised, invisible and piled-up characters. Linear in its length."""
    if text.isascii() and not _CONTROL.search(text):
        return Plain(text)
    payloads = tuple(_payloads(text))
    methods: list[str] = []
    hidden = bool(payloads)
    for method, step in _STEPS:
        new, hides = step(text)
        if new != text:
            methods.append(method)
            hidden = hidden or hides
            text = new
    return Plain(text, tuple(methods), hidden, payloads)


# ---------------------------------------------------------------------------------------------------------------------
# Characters that show nothing

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SILENT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_HARMLESS = re.compile("[\u00ad\ufe0e\ufe0f\u2028\u2029\x0b\x0c\x85\x00]")
"""Soft hyphens, emoji style, line breaks: left by honest programs."""
_MOST_LOOKED_AT = 500
_EMOJI = frozenset("\u200d\ufe0e\ufe0f")
_LINE_BREAKS = frozenset("\u2028\u2029\x0b\x0c\x85")
_SPELLING = frozenset("\u200b\u200c\u200d")
_JOINED = re.compile("[\u0600-\u06ff\u0700-\u08ff\u0900-\u0dff\u0e00-\u109f\u1780-\u17ff\ufb50-\ufeff]")
"""Scripts in which joiners and break opportunities are spelling."""
_EMOJI_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{2,8}\U000e007f")
_TAGS = re.compile("[\U000e0020-\U000e007e]{3,4096}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,4096}")
_BITS = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff]{16,40000}")


def _payloads(text: str) -> Iterator[tuple[str, str]]:
    for match in _TAGS.finditer(_EMOJI_FLAG.sub("", text)):
        yield "tag characters", "".join(chr(ord(letter) - 0xE0000) for letter in match[0])
    for match in _SELECTORS.finditer(text):
        data = bytes(ord(letter) - 0xFE00 if letter < "\uff00" else ord(letter) - 0xE0100 + 16 for letter in match[0])
        if said := _worded(data):
            yield "variation selectors", said
    for match in _BITS.finditer(text):
        if said := _from_bits(match[0]):
            yield "zero-width bits", said


def _worded(data: bytes) -> str:
    try:
        said = data.decode()
    except UnicodeDecodeError:
        return ""
    return said if words_in(said) or (len(said) > 3 and not said.isascii()) else ""


def _from_bits(run: str) -> str:
    letters = sorted(set(run))
    for one, other in ((one, other) for one in letters for other in letters if one != other):
        bits = "".join("1" if letter == one else "0" for letter in run if letter in (one, other))
        data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))
        if said := _worded(data):
            return said
    return ""


def _without_silent(text: str) -> tuple[str, bool]:
    """Hiding is what stands inside words and makes two non-words of one word."""
    hides, looked = False, 0

    def seen(match: re.Match[str]) -> str:
        nonlocal hides, looked
        start, end, run = match.start(), match.end(), match[0]
        before, after = text[start - 1 : start], text[end : end + 1]
        if set(run) <= _SPELLING and (_JOINED.match(before) or _JOINED.match(after)):
            return run
        if set(run) <= _EMOJI and not (before.isalnum() or after.isalnum()):
            return run
        if set(run) & _LINE_BREAKS:
            return "\n"
        if not hides and looked < _MOST_LOOKED_AT and before.isalpha() and after.isalpha() and _HARMLESS.sub("", run):
            looked += 1
            hides = _splits_word(text, start, end)
        return ""

    return _SILENT.sub(seen, text), hides


def _splits_word(text: str, start: int, end: int) -> bool:
    """Whether the parts on both sides make a word together and are none apart."""
    before, after = text[max(0, start - 60) : start], text[end : end + 60]
    near, far = _letters_before(before), _letters_after(after)
    whole = _letters_before(_SILENT.sub("", before)) + _letters_after(_SILENT.sub("", after))
    if whole.isascii():
        apart = len(near) > 2 and len(far) > 2 and is_word(near) and is_word(far)
        return is_word(whole) and len(whole) > 1 and not apart
    return len(near) <= 2 and len(far) <= 2 and len(whole) > 3


def _letters_before(text: str) -> str:
    count = 0
    while count < len(text) and text[-1 - count].isalpha():
        count += 1
    return text[len(text) - count :]


def _letters_after(text: str) -> str:
    return _letters_before(text[::-1])[::-1]


_OVERRIDE = re.compile("[\u202e\u202d]([^\u202c\u202d\u202e\n]{1,4000})\u202c?")


def _as_displayed(text: str) -> tuple[str, bool]:
    """What a right-to-left override shows reversed is reversed."""
    if "\u202e" not in text:
        return text, False
    hides = False

    def shown(match: re.Match[str]) -> str:
        nonlocal hides
        if match[0][0] != "\u202e":
            return match[1]
        turned = match[1][::-1]
        if words_in(turned) > words_in(match[1]):
            hides = True
            return turned
        return match[1]

    return _OVERRIDE.sub(shown, text), hides


# ---------------------------------------------------------------------------------------------------------------------
# Marks piled on letters

_PILE = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f]+")


def _without_piles(text: str) -> tuple[str, bool]:
    """Marks that no language puts there: more than two on a letter, or such as belong to no letter (strokes)."""
    if not _PILE.search(text):
        return text, False
    text = unicodedata.normalize("NFC", text)
    removed = 0

    def kept(match: re.Match[str]) -> str:
        nonlocal removed
        run = match[0]
        before = text[match.start() - 1 : match.start()]
        if before and not before.isalpha() and run in ("\u20e3", "\u20e0"):
            return ""
        if len(run) <= 2 and not any("\u0332" <= mark <= "\u0338" or mark >= "\u20d0" for mark in run):
            return run
        removed += 1
        return ""

    new = _PILE.sub(kept, text)
    if removed < 3:
        return text, False
    # Beside piles, single marks are noise as well.
    bare = _PILE.sub("", unicodedata.normalize("NFD", new))
    return (bare, True) if words_in(bare) > words_in(new) else (new, True)


def without_accents(text: str) -> str:
    """``text`` with accents, strokes and hooks taken off its Latin letters."""
    bare = unicodedata.normalize("NFC", _PILE.sub("", unicodedata.normalize("NFD", text)))
    return bare.translate(_stroked())


@cache
def _stroked() -> Mapping[int, str]:
    """Latin letters "with" something that Unicode does not decompose: ø, ł, đ, ƀ, …"""
    table: dict[int, str] = {}
    for first, last in ((0xC0, 0x24F), (0x250, 0x2AF), (0x1D00, 0x1DBF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF)):
        for code in range(first, last + 1):
            match = re.match(r"LATIN (SMALL|CAPITAL) LETTER ([A-Z]) WITH ", unicodedata.name(chr(code), ""))
            if match and not unicodedata.decomposition(chr(code)):
                table[code] = match[2] if match[1] == "CAPITAL" else match[2].lower()
    return table


# ---------------------------------------------------------------------------------------------------------------------
# Letters drawn in another way: mathematical, circled, squared, small capitals, regional

_SMALL_CAPITALS = dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯǫʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnopqqrstuvwyz", strict=True))
_PHONETIC = frozenset("ɢʜɪʟɴʀʏʙɑɡɩʋıɾʀ")
"""Letters that phonetic transcription has as well."""
_DRAWN_OTHERWISE = dict(zip("ɑɡıɩʋꞌⅼϲ", "agiiv'lc", strict=True))


@cache
def _drawn() -> Mapping[str, str]:
    table = {**_SMALL_CAPITALS, **_DRAWN_OTHERWISE}
    for first, last in ((0x1F110, 0x1F189), (0x249C, 0x24B5)):
        for code in range(first, last + 1):
            match = re.search(r"LATIN (SMALL|CAPITAL) LETTER ([A-Z])$", unicodedata.name(chr(code), ""))
            if match:
                table[chr(code)] = match[2].lower()
    return table


@cache
def _folded(letter: str) -> str:
    """What compatibility makes of a letter or a number; other characters as they are."""
    drawn = _drawn().get(letter)
    if drawn is not None:
        return drawn
    folded = unicodedata.normalize("NFKC", letter)
    return folded if any(map(str.isalnum, folded)) and letter not in "ªº" and len(folded) <= 3 else letter


_DRAWN = re.compile(
    r"[\u00b2-\u00b9\u0250-\u02ff\u0131\u01eb\u03f2\u1d00-\u1dbf\u2070-\u209f\u2100-\u2149\u2160-\u217f\u249c-\u24e9\u2c7c\u2c7d"
    r"\ua720-\ua7ff\U0001d400-\U0001d7ff\U0001f110-\U0001f189]"
)
_WIDE = re.compile(
    "[\ufb00-\ufb4f\ufb50-\ufdff\ufe70-\ufefc\uff01-\uff9f\uffe0-\uffe6\u3000\u01c4-\u01cc\u01f1-\u01f3\u0132\u0133]+"
)


def _unwidened(text: str) -> tuple[str, bool]:
    """Full-width letters, ligatures, Arabic presentation forms: typography."""

    def narrow(match: re.Match[str]) -> str:
        return "".join(
            folded if len(folded := unicodedata.normalize("NFKC", letter)) <= 4 else letter for letter in match[0]
        )

    return _WIDE.sub(narrow, text), False


def _redrawn(text: str) -> tuple[str, bool]:
    """Mathematical, circled, squared, superscript and small-capital letters where they spell words."""
    spelled: list[str] = []

    def letters(run: str) -> str:
        if len(run) > _LONGEST_WORD:
            return "".join(map(_folded, run))
        folded = "".join(map(_folded, run))
        changed = (
            sum(one != other for one, other in zip(run, folded, strict=False)) if len(folded) == len(run) else len(run)
        )
        phonetic = sum(letter in _PHONETIC for letter in run)
        if phonetic == changed and phonetic < 0.6 * len(run) and not _all_single_story(run):
            return run
        if len(folded) > 2 and folded.isalpha() and is_word(folded):
            spelled.append(folded)
        elif len(folded) > 2 and not all(map(is_word, WORD.findall(folded))):
            return folded if changed > 0.5 * len(run) else run
        return folded

    pieces: list[str] = []
    end = 0
    for match in _DRAWN.finditer(text):
        if match.start() >= end:
            start, stop = _word_around(text, match.start(), match.end(), end)
            pieces += (text[end:start], letters(text[start:stop]))
            end = stop
    new = "".join(pieces) + text[end:]
    if not spelled:
        return (new, False) if words_in(new) > words_in(text) else (text, False)
    return new, len(spelled) > 1 or len(spelled[0]) > 3


def _all_single_story(run: str) -> bool:
    """``mɑke``: only the letters that differ by a typeface, in a word that is otherwise spelled."""
    folded = "".join(map(_folded, run))
    return len(run) > 3 and set(run) & _PHONETIC <= set("ɑɡı") and is_word(folded)


_REGIONAL = re.compile("[\U0001f1e6-\U0001f1ff](?:[\u200b\u200c\u200d\u2060 ]?[\U0001f1e6-\U0001f1ff])+")
_ONE_REGIONAL = re.compile("[\U0001f1e6-\U0001f1ff]")


def _without_regional(text: str) -> tuple[str, bool]:
    """Regional letters that spell words and not flags."""
    hides = False

    def spelled(match: re.Match[str]) -> str:
        nonlocal hides
        runs = re.split(r"  +", match[0])
        words = ["".join(_letter(letter) for letter in run if letter > "\U0001f1e5") for run in runs]
        if not any(len(word) > 2 and is_word(word) for word in words):
            letters = "".join(words)
            separated = match[0].count(" ") >= len(letters) - 1 and len(letters) > 3
            return letters if separated and sense(letters) > 0.8 else match[0]
        hides = True
        return " ".join(words)

    new = _REGIONAL.sub(spelled, text)
    return (_ONE_REGIONAL.sub(lambda match: _letter(match[0]), new), True) if hides else (new, False)


def _letter(regional: str) -> str:
    return chr(ord(regional) - 0x1F1E6 + 97)


# ---------------------------------------------------------------------------------------------------------------------
# Letters of another alphabet that look the same

_LATIN_LOOKS: dict[str, str] = {}
for _letters, _looks in (
    ("авгеёкмнопрстухьѕіїјһԁԛԝԍѵӏшщпҽҫӓӧҝ", "abreekmhonpctyxbsiijhdqwgvlwwnecaok"),
    ("АВЕЁЗКМНОРСТУХЅІЇЈҺԚԜԌѴӀҮИЯЬ", "ABEE3KMHOPCTYXSIIJHQWGVIYNRB"),
    ("αβγεηικνορσςτυχωϳάέήίόύώλ", "abyenikvopostuxwjaenioowl"),
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧΆΈΉΊΌΎ", "ABEZHIKMNOPTYXAEHIOY"),
    ("օսհոցզքՕՏԼՍ", "ouhngqpOSLU"),
    ("ᎠᎡᎢᎪᎫᎳᎷᎬᎻᎽᎶᏃᏎᏒᏔᏙᏚᏞᏟᏢᏴᏮᏦ", "DRTAJWMEHYGZ4RWVSLCPBbK"),
    ("ꓐꓑꓒꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "BPdDTGKJCZFMNLSRVHWXYAEIOU"),
):
    _LATIN_LOOKS.update(zip(_letters, _looks, strict=True))
_LATIN = str.maketrans(_LATIN_LOOKS)
_CYRILLIC = str.maketrans("aceopxyikmtBHKMTAECOPXYi", "асеорхуикмтВНКМТАЕСОРХУі")
_FOREIGN = "\u0370-\u03ff\u0400-\u052f\u0531-\u058f\u13a0-\u13ff\ua4d0-\ua4f7"
_MIXED = re.compile(rf"[A-Za-z][{_FOREIGN}]|[{_FOREIGN}][A-Za-z]")
_SHORT_MIXED = re.compile(rf"(?<!\w)(?:[A-Za-z][{''.join(_LATIN_LOOKS)}]|[{''.join(_LATIN_LOOKS)}][A-Za-z])(?!\w)")
_SAME = "аеіјорсухѕһԁԛԝӏАВЕЅІЈКМНОРСТУХҮοѵιναΑΒΕΖΗΙΚΜΝΟΡΤΥΧօսհոՕᎪᎫᎳᎷᎬᎻᎠᎢᎡ"
"""Those that look the same, not only alike."""
_LOOKALIKE_WORD = re.compile(rf"(?<!\w)[{_SAME}]{{1,24}}(?!\w)")
_FOREIGN_WORD = re.compile(rf"[{_FOREIGN}]+")
_LONGEST_WORD = 64


def _without_lookalikes(text: str) -> tuple[str, bool]:
    """Words that mix alphabets are put into the one they are in; whole words only where the text around is Latin."""
    if not _FOREIGN_WORD.search(text):
        return text, False
    pieces: list[str] = []
    end, told = 0, 0.0
    for match in _MIXED.finditer(text):
        if match.start() < end:
            continue
        start, stop = _word_around(text, match.start(), match.end(), end)
        word = text[start:stop]
        new = _in_one_alphabet(word)
        if new is None:
            pieces += (text[end:start], word)
            end = stop
            continue
        pieces += (text[end:start], new)
        # A letter of the wrong alphabet in one Cyrillic word is a slip of the keyboard.
        told += 1 if new.isascii() else 0.5
        end = stop
    new_text = "".join(pieces) + text[end:]
    if told >= 1:
        new_text = _SHORT_MIXED.sub(lambda match: match[0].translate(_LATIN), new_text)
    new_text, whole = _without_whole_lookalikes(new_text, told)
    return new_text, told + whole >= 1


def _word_around(text: str, start: int, stop: int, floor: int) -> tuple[int, int]:
    """The word that holds ``text[start:stop]``, not reaching before ``floor`` and at most ``_LONGEST_WORD`` long."""
    longest = min(len(text), start + _LONGEST_WORD)
    floor = max(floor, start - _LONGEST_WORD)
    while start > floor and (text[start - 1].isalnum() or _DRAWN.match(text[start - 1])):
        start -= 1
    while stop < longest and (text[stop].isalnum() or _DRAWN.match(text[stop])):
        stop += 1
    return start, stop


def _in_one_alphabet(word: str) -> str | None:
    """The word in Latin, or in Cyrillic, or ``None`` where mixing is honest (μm, USBкабель) or makes no sense."""
    letters = [letter for letter in word if letter.isalpha()]
    latin = word.translate(_LATIN)
    if latin.isascii() and len(letters) > 2:
        known = is_word(latin)
        mostly_latin = sum(letter.isascii() for letter in letters) * 2 > len(letters)
        switches = len(_MIXED.findall(word))
        if known or (mostly_latin and len(letters) > 4 and (switches > 1 or _inside(word))):
            return latin
    native = [letter for letter in letters if "\u0400" <= letter <= "\u052f"]
    own = [letter for letter in native if letter not in _LATIN_LOOKS or letter in "вгнкпшьи"]
    foreign = [letter for letter in letters if letter.isascii()]
    if own and len(native) > len(foreign) and all(ord(letter) in _CYRILLIC for letter in foreign) and foreign:
        return word.translate(_CYRILLIC)
    return None


def _inside(word: str) -> bool:
    """Whether the foreign letters stand inside, not as a suffix or prefix of their own (COVIDом, αGal)."""
    return word[0].isascii() and word[-1].isascii()


def _without_whole_lookalikes(text: str, told: float) -> tuple[str, int]:
    foreign = _FOREIGN_WORD.findall(text)
    latin = sum(len(word) for word in WORD.findall(text) if word.isascii())
    if not foreign or latin <= sum(map(len, foreign)):
        return text, 0
    matches = list(_LOOKALIKE_WORD.finditer(text))
    known = {match[0] for match in matches if len(match[0]) > 2 and is_word(match[0].translate(_LATIN))}
    sure = sum(len(word) > 3 for word in known) or len(known) > 1
    if told < 1 and not (sure and len(matches) >= 0.8 * len(foreign) and words_in(text) > 2):
        return text, 0

    def put(match: re.Match[str]) -> str:
        latin_word = match[0].translate(_LATIN)
        return latin_word if is_word(latin_word) else match[0]

    return _LOOKALIKE_WORD.sub(put, text), len(known)


_STEPS: tuple[tuple[str, _Step], ...] = (
    ("bidi override", _as_displayed),
    ("zero-width", _without_silent),
    ("combining marks", _without_piles),
    ("regional letters", _without_regional),
    ("full-width", _unwidened),
    ("letter shapes", _redrawn),
    ("confusables", _without_lookalikes),
)
