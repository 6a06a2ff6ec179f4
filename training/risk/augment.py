"""Owns the disguises that training texts wear now and then: what a person does to get past a filter, and what honest haste does.
What the scorer undoes before it reads (characters that look alike or show nothing) needs none.

Each takes a text and a random source and keeps the meaning. Both labels are dressed alike, so that a disguise proves nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from training.risk.rows import Row

_LEET = str.maketrans("aeiost", "431057")
_NEIGHBOURS = dict(
    zip(
        "qwertyuiopasdfghjklzxcvbnm",
        ["wa", "qe", "wr", "et", "ry", "tu", "yi", "uo", "ip", "o", "qsz", "adw", "sfe", "dgr", "fht", "gjy", "hku",
         "jli", "ko", "xa", "zc", "xv", "cb", "vn", "bm", "n"],
        strict=True,
    )
)  # fmt: skip
_FRAMES = (
    "{}",
    "Please answer the following: {}",
    "{} Answer in one paragraph.",
    "My question: {}",
    "hey, quick one. {} thanks!",
    '"{}"',
    "Translate to French: {}",
    "Q: {}\nA:",
    "{} Be brief and use bullet points.",
    "I'm writing this on my phone, sorry. {}",
)


def typos(text: str, rng: random.Random, share: float = 0.06) -> str:
    """Letters swapped, dropped, doubled or mistaken for their neighbour on the keyboard."""
    letters = list(text)
    for _ in range(max(1, int(share * len(letters)))):
        at = rng.randrange(len(letters))
        if not letters[at].isalpha():
            continue
        match rng.randrange(4):
            case 0 if at + 1 < len(letters) and letters[at + 1].isalpha():
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
            case 1:
                letters[at] = ""
            case 2:
                letters[at] *= 2
            case _:
                letters[at] = rng.choice(_NEIGHBOURS.get(letters[at].lower(), letters[at]))
        letters = list("".join(letters)) or list(text)
    return "".join(letters)


def spaced(text: str, rng: random.Random) -> str:
    """Some long words with a space or a full stop between their letters."""
    mark = rng.choice((" ", " ", ".", "-"))
    return _some_words(text, rng, mark.join, least=4, share=0.3)


def glued(text: str, rng: random.Random) -> str:
    """Some spaces left out."""
    return re.sub(" ", lambda _: "" if rng.random() < 0.15 else " ", text)


def leet(text: str, rng: random.Random) -> str:
    """Digits for letters, in some words or in all."""
    return _some_words(text, rng, lambda word: word.translate(_LEET), least=3, share=rng.choice((0.4, 1.0)))


def split_words(text: str, rng: random.Random) -> str:
    """A space inside some words."""

    def cut(word: str) -> str:
        at = rng.randrange(1, len(word))
        return f"{word[:at]} {word[at:]}"

    return _some_words(text, rng, cut, least=5, share=0.3)


def framed(text: str, rng: random.Random) -> str:
    """Put in a phrase that changes nothing."""
    return rng.choice(_FRAMES).format(text)


def bare(text: str, rng: random.Random) -> str:
    """Without capitals and stops, as typed on a telephone."""
    return re.sub(r"[.,;:!?'\"]", "", text).lower()


def _some_words(text: str, rng: random.Random, change: Callable[[str], str], least: int, share: float) -> str:
    return re.sub(
        r"[^\W\d_]+",
        lambda match: change(match[0]) if len(match[0]) >= least and rng.random() < share else match[0],
        text,
    )


DISGUISES: tuple[Callable[[str, random.Random], str], ...] = (
    typos,
    typos,
    spaced,
    glued,
    leet,
    split_words,
    framed,
    framed,
    bare,
)


PADDED = 0.4
"""Share of the disguised texts that stand among others instead."""
_PADDED_WORDS = 85
"""Of a padded text, so that most is still read at once."""


def fillers_of(rows: Sequence[Row]) -> list[str]:
    """What texts are padded with: English ones that ask for nothing bad, a quarter of them *about* harm."""
    short = [row for row in rows if not row.harmful and row.language == "en" and 4 <= len(row.text.split()) <= 40]
    plain = [row.text for row in short if row.intent == "neither"]
    return plain + [row.text for row in short if row.intent == "about"][: len(plain) // 3]


def padded(text: str, rng: random.Random, fillers: Sequence[str]) -> str:
    """Among harmless texts that have nothing to do with it, as a window over a long text is: its first and last may be cut."""
    some, words = [text], len(text.split())
    for filler in rng.sample(fillers, k=4):
        words += len(filler.split())
        if words > _PADDED_WORDS:
            break
        some.insert(rng.randrange(len(some) + 1), filler)
    if some[0] is not text and rng.random() < 0.5:
        some[0] = " ".join(some[0].split()[rng.randrange(3) :])
    if some[-1] is not text and rng.random() < 0.5:
        some[-1] = " ".join(some[-1].split()[: rng.randrange(2, 12)])
    return rng.choice((" ", " ", "\n", "\n\n")).join(some)


def augmented(text: str, rng: random.Random, fillers: Sequence[str], chance: float) -> str:
    """``text`` as it is, or with ``chance`` disguised or padded."""
    if not text.strip() or rng.random() >= chance:
        return text
    if rng.random() < PADDED:
        return padded(text, rng, fillers)
    return rng.choice(DISGUISES)(text, rng) or text
