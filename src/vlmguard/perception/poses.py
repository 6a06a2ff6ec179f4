"""Which way a line runs: as it stands, turned by quarters, mirrored. Decided by reading it, and by the lines beside it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from vlmguard.perception.detection import Pixels, Quad, Region
from vlmguard.perception.recognition import Recognised, Recogniser, cut_out, ink_rows
from vlmguard.perception.wordlike import sense

_SURE = 0.94  # from this confidence on no other pose is tried
_TELLING = 5  # letters; a shorter word reads well in several poses ("TOOT")
_PROBES = 6  # doubtful lines that are read in every pose before the picture's pose is voted on
_NOTHING = 0.15  # confidence; writing in a wrong pose still looks like letters
_FOUND = 0.85  # score of a region that is turned all the same
_A_WORD = 3  # squarish regions of like height; one turned letter or two alone say nothing
_ALIKE = 1.6
_HOPELESS = 0.25  # below, a second reading is not worth its time
_SEARCHED = 32  # doubtful lines of a picture that are read in every pose
_FAVOUR = 0.08  # confidence that the pose of the picture's sure lines is worth
_WORDS = 8  # letters from which on a line should hold words
_NO_SENSE = 0.35
_WORDLESS = 3  # sure lines without words that are read in every pose: the others follow the picture's
_WORDY = 0.1  # confidence that words are worth
_LOOSE = 0.75  # a box whose ink fills less of its height is drawn tighter before its second reading
_SPARSE = 0.4  # letters per stretch as long as the line is high; fewer is no text, however sure the network is

Pose = tuple[int, bool]
"""Quarter turns from a region's own angle, and whether it is mirrored."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A region as read in one pose."""

    region: Region
    turn: int
    mirrored: bool
    read: Recognised

    @property
    def corners(self) -> Quad:
        """From the text's own top-left on."""
        return self.region.corners(self.turn, self.mirrored)

    @property
    def letters(self) -> int:
        """Characters without spaces."""
        return len(self.read.text.replace(" ", ""))

    @property
    def worth(self) -> float:
        """Confidence, less where a long stretch is said to hold few letters, 0..1."""
        stretches = max(1.0, self.region.size[0] / self.region.size[1] - 1)
        return self.read.confidence * min(1.0, self.letters / (_SPARSE * stretches))

    @property
    def sure(self) -> bool:
        """Whether no other pose needs to be tried."""
        return self.worth >= _SURE

    @property
    def is_wordless(self) -> bool:
        """Whether it is Latin letters that make no words: a mirrored line may read well ("sdsod" for "bobs")."""
        letters = sum(map(str.isalpha, self.read.text))
        return letters >= _WORDS and 2 * letters > self.letters and sense(self.read.text) < _NO_SENSE

    @property
    def says(self) -> float:
        """How much of it is words, 0..1; of a few letters nothing is held."""
        return sense(self.read.text) if self.letters >= _TELLING else 0.0


def read_regions(recogniser: Recogniser, pixels: Pixels, regions: list[Region]) -> list[Attempt]:
    """Read every region in the pose in which it reads best."""
    best = _tried(recogniser, pixels, ((region, (0, False)) for region in regions))
    doubtful = sorted((k for k, attempt in enumerate(best) if not attempt.sure), key=lambda k: -_promise(regions[k]))
    likely = [k for k in doubtful if _may_be_turned(best[k], regions)]
    probes, rest = likely[:_PROBES], likely[_PROBES:_SEARCHED]
    wordless = sorted((k for k, a in enumerate(best) if a.sure and a.is_wordless), key=lambda k: -best[k].letters)
    _search(recogniser, pixels, best, probes + wordless[:_WORDLESS])
    frame = _vote(best)
    if frame is not None:
        unlike = [k for k in doubtful if k not in probes and _pose_in(regions[k], frame) != (0, False)]
        unlike += [k for k, a in enumerate(best) if a.sure and _says_little(a) and _frame(a) != frame]
        again = _tried(recogniser, pixels, ((regions[k], _pose_in(regions[k], frame)) for k in unlike))
        for k, attempt in zip(unlike, again, strict=True):
            best[k] = max(best[k], attempt, key=lambda a: _worth(a, frame))
    _search(recogniser, pixels, best, [k for k in rest if not best[k].sure], frame)
    return _read_again(recogniser, pixels, best)


def _may_be_turned(attempt: Attempt, regions: list[Region]) -> bool:
    """Whether a doubtful region may be writing in another pose; most of what a photograph brings is not."""
    region = attempt.region
    if attempt.read.confidence < _NOTHING and region.score < _FOUND:
        return False
    if not region.is_squarish:
        return True
    alike = (
        max(r.size[1], region.size[1]) <= _ALIKE * min(r.size[1], region.size[1]) for r in regions if r.is_squarish
    )
    return sum(alike) >= _A_WORD


def _read_again(recogniser: Recogniser, pixels: Pixels, best: list[Attempt]) -> list[Attempt]:
    """Read doubtful lines once more: in a tighter box, with all their columns, in full precision."""
    doubtful = [k for k in range(len(best)) if _HOPELESS < best[k].worth < _SURE and not best[k].region.is_squarish]
    closer = [replace(best[k], region=_tight(pixels, best[k].region)) for k in doubtful]
    cuts = [cut_out(pixels, attempt.corners, squeeze=1.0) for attempt in closer]
    second = [replace(a, read=read) for a, read in zip(closer, recogniser.read(cuts, carefully=True), strict=True)]
    for k, attempt in zip(doubtful, second, strict=True):
        best[k] = max(best[k], attempt, key=lambda a: a.worth)
    return best


def _tight(pixels: Pixels, region: Region) -> Region:
    top, bottom = ink_rows(cut_out(pixels, region.corners()))
    if bottom - top >= _LOOSE:
        return region
    height = region.size[1] * min(1.0, (bottom - top) * 1.3)
    shift = region.size[1] * ((top + bottom) / 2 - 0.5)
    x, y = region.centre
    centre = (x - shift * float(np.sin(region.angle)), y + shift * float(np.cos(region.angle)))
    return replace(region, centre=centre, size=(region.size[0], height))


def _search(
    recogniser: Recogniser,
    pixels: Pixels,
    best: list[Attempt],
    which: list[int],
    frame: "tuple[int, bool] | None" = None,
) -> None:
    tasks = [(k, pose) for k in which for pose in _poses(best[k].region)]
    tried = _tried(recogniser, pixels, ((best[k].region, pose) for k, pose in tasks))
    for (k, _), attempt in zip(tasks, tried, strict=True):
        best[k] = max(best[k], attempt, key=lambda a: _worth(a, frame))


def _poses(region: Region) -> list[Pose]:
    """All but the pose as it stands. A letter or two may stand on any side, but mirrored they tell nothing."""
    if region.is_squarish:
        return [(1, False), (2, False), (3, False)]
    return [(0, True), (2, False), (2, True)]


def _tried(recogniser: Recogniser, pixels: Pixels, tasks: Iterable[tuple[Region, Pose]]) -> list[Attempt]:
    tasks = list(tasks)
    cuts = [cut_out(pixels, region.corners(*pose)) for region, pose in tasks]
    return [Attempt(region, *pose, read) for (region, pose), read in zip(tasks, recogniser.read(cuts), strict=True)]


def _promise(region: Region) -> float:
    return region.score * min(region.size[0] / region.size[1], 12.0)


def _frame(attempt: Attempt) -> tuple[int, bool]:
    """The reading direction in the picture, in quarters, and whether it is mirrored."""
    along = attempt.corners[1] - attempt.corners[0]
    return round(float(np.arctan2(along[1], along[0])) / (np.pi / 2)) % 4, attempt.mirrored


def _pose_in(region: Region, frame: tuple[int, bool]) -> Pose:
    """The pose of a region that reads in a frame's direction, as far as its longer side allows."""
    quarter, mirrored = frame
    turn = (quarter - round(region.angle / (np.pi / 2)) + (2 if mirrored else 0)) % 4
    if turn % 2 and not region.is_squarish:
        turn = 0
    return turn, mirrored


def _says_little(attempt: Attempt) -> bool:
    return len(attempt.read.text) <= _TELLING or attempt.is_wordless


def _vote(attempts: list[Attempt]) -> tuple[int, bool] | None:
    votes: Counter[tuple[int, bool]] = Counter()
    for attempt in attempts:
        if attempt.sure and len(attempt.read.text) >= _TELLING:
            votes[_frame(attempt)] += len(attempt.read.text) // (4 if attempt.is_wordless else 1)
    return votes.most_common(1)[0][0] if votes else None


def _worth(attempt: Attempt, frame: tuple[int, bool] | None) -> float:
    usual = frame if frame is not None else (0, False)
    return attempt.worth + (_FAVOUR if _frame(attempt) == usual else 0.0) + _WORDY * attempt.says
