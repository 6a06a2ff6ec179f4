"""Lines that are plainly writing, but not in a script that the recogniser knows (Latin, Chinese, Japanese).

Such a line is found with full confidence, looks like a line of letters, and yet no pose of it reads well: most of its
characters are guesses, not one or two of them. Pictures without text do not pass all three at once.
"""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from vlmguard.perception.detection import Pixels
from vlmguard.perception.poses import Attempt
from vlmguard.perception.recognition import cut_out

_FOUND = 0.9  # score of a region that is surely a line of something
_LONG = 6.0  # times its height; shorter rows of drawings look like words
_GUESSED = 0.87  # median probability of characters; known scripts have more even where a line is damaged
_DOUBTED = 0.9  # mean probability of a long line of look-alikes
_LOOK_ALIKE = 0.97
_SENTENCE = 12  # letters from which on such a line is long
_KNOWN_GREEK = 0.4  # share of Greek letters; the recogniser knows those of formulas, not the accented ones of words
_STROKES = (1.7, 3.6)  # strokes crossed per stretch as long as the line is high
_RIM = 0.1  # share of ink in the top and bottom rows; more belongs to frames and bars
_CRISP = 4.0  # distance of ink and ground in their deviations


def is_unknown_script(pixels: Pixels, attempt: Attempt) -> bool:
    """Tell whether the region holds writing that was not understood."""
    region, read = attempt.region, attempt.read
    if region.score < _FOUND or region.size[0] < _LONG * region.size[1]:
        return False
    guessed = (min(read.typical, attempt.worth) < _GUESSED and read.typical < _LOOK_ALIKE) or attempt.letters == 0
    look_alike = attempt.letters >= _SENTENCE and attempt.worth < _DOUBTED and read.typical < _LOOK_ALIKE
    return (guessed or look_alike or _is_greek(read.text)) and _looks_written(cut_out(pixels, attempt.corners, 1.0))


def _is_greek(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    greek = sum(unicodedata.name(letter, "").startswith("GREEK") for letter in letters)
    return len(letters) >= _SENTENCE and greek >= _KNOWN_GREEK * len(letters)


def _looks_written(cut: Pixels) -> bool:
    import cv2

    grey = cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY)
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
