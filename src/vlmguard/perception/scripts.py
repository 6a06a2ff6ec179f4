"""Lines that are plainly writing, but not in a script that the recogniser knows (Latin, Chinese, Japanese).

Such a line is found with full confidence, looks like a line of letters, and yet no pose of it reads well: most of its
characters are guesses, not one or two of them. Pictures without text do not pass all three at once.
"""

import unicodedata
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from vlmguard.perception.detection import Pixels
from vlmguard.perception.poses import Attempt
from vlmguard.perception.recognition import cut_out

_FOUND = 0.9  # score of a region that is surely a line of something
_LONG = 6.0  # times its height; shorter rows of drawings look like words
_VERY_LONG = 9.0  # nothing but writing (and bar codes) is found in such shapes, so the ground may be lively
_GUESSED = 0.87  # median probability of characters; known scripts have more even where a line is damaged
_GUESSED_AMONG_READ = 0.72  # the same for a line beside many that were read: print fails in places, scripts seldom mix
_AMONG_READ = 0.1  # share of all text, by length, below which a doubtful line stands beside many that were read
_DOUBTED = 0.9  # mean probability of a long line of look-alikes
_LOOK_ALIKE = 0.97
_SENTENCE = 12  # letters from which on such a line is long
_GREEK = 0.4  # share of Greek letters; the recogniser knows those of formulas, not the accented ones of words
_ORNAMENT = 0.4  # share of characters that are no Latin letters; rows of asterisks are no sentence
_REPEATED = 4  # times that each of them stands there
_ONE_INK = (
    0.35  # how far ink strays from the line between ground and ink, as a share; a row of drawings has many colours
)
_STROKES = (1.7, 3.6)  # strokes crossed per stretch as long as the line is high
_RIM = 0.1  # share of ink in the top and bottom rows; more belongs to frames
_CRISP = 4.0  # distance of ink and ground in their deviations
_LEVEL_STROKES = 0.3  # differences down the columns over those along the rows; bar codes have hardly any


def unknown_scripts(pixels: Pixels, attempts: list[Attempt]) -> list[Attempt]:
    """Return the attempts at writing that was not understood."""
    strange = [attempt for attempt in attempts if _is_strange(attempt) and _looks_written(pixels, attempt)]
    written = sum(attempt.region.size[0] for attempt in attempts if attempt.sure)
    if sum(attempt.region.size[0] for attempt in strange) < _AMONG_READ * written:
        return [attempt for attempt in strange if _certainty(attempt) < _GUESSED_AMONG_READ]
    return strange


def _is_strange(attempt: Attempt) -> bool:
    region, text = attempt.region, attempt.read.text
    if region.score < _FOUND or region.size[0] < _LONG * region.size[1] or is_ornament(text):
        return False
    sentence = attempt.letters >= _SENTENCE or region.size[0] >= _VERY_LONG * region.size[1]
    look_alike = sentence and attempt.worth < _DOUBTED and attempt.read.typical < _LOOK_ALIKE
    return _certainty(attempt) < _GUESSED or look_alike or _is_greek(text)


def _certainty(attempt: Attempt) -> float:
    """How sure the typical character is, or how far the characters fill the line, whichever is less."""
    return min(attempt.read.typical, attempt.worth / attempt.read.confidence) if attempt.letters else 0.0


def is_ornament(text: str) -> bool:
    """A row of one sign, of which a reader makes one look-alike or a few, over and over."""
    counts = Counter(text.replace(" ", ""))
    signs = {sign: count for sign, count in counts.items() if not ("A" <= sign.upper() <= "Z")}
    total = sum(signs.values())
    return counts.total() >= _SENTENCE and total >= _ORNAMENT * counts.total() and total >= _REPEATED * len(signs)


def without_look_alikes(text: str) -> str:
    """A line with its ornament in asterisks, whatever letters the reader took for them."""
    return "".join(sign if sign.isascii() else "*" for sign in text) if is_ornament(text) else text


def _is_greek(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    greek = sum(unicodedata.name(letter, "").startswith("GREEK") for letter in letters)
    return len(letters) >= _SENTENCE and greek >= _GREEK * len(letters)


def _looks_written(pixels: Pixels, attempt: Attempt) -> bool:
    import cv2

    grey = cv2.cvtColor(cut_out(pixels, attempt.corners, 1.0), cv2.COLOR_RGB2GRAY)
    signed = grey.astype(np.int16)
    if np.abs(np.diff(signed, axis=0)).mean() < _LEVEL_STROKES * np.abs(np.diff(signed, axis=1)).mean():
        return False
    if attempt.region.size[0] >= _VERY_LONG * attempt.region.size[1]:
        return True
    _, mask = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    ink: NDArray[np.bool_] = mask > 0
    ink = ~ink if ink.mean() > 0.5 else ink
    if not ink.any():
        return False
    height = ink.shape[0]
    body = ink[height // 5 : -height // 5]
    crossed = float((body[:, 1:] != body[:, :-1]).sum(axis=1).mean()) / 2 * height / ink.shape[1]
    deviation = np.sqrt(grey[ink].var() * ink.mean() + grey[~ink].var() * (1 - ink.mean()))
    distance = abs(float(grey[ink].mean()) - float(grey[~ink].mean())) / (float(deviation) + 1)
    return _STROKES[0] <= crossed <= _STROKES[1] and float(ink[[0, -1]].mean()) <= _RIM and distance >= _CRISP
