"""What the embedded perception gets out of one picture: its words, its codes, and what it could not look at.

Pictures are known by the hash of their bytes, so one that comes again (a conversation resends all of them at every turn)
costs a look-up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from vlmguard.errors import ImageError
from vlmguard.images import DEFAULT_LIMITS, Limits, unseen_frames, views
from vlmguard.perception.codes import Code, read_codes
from vlmguard.perception.ocr import Line, TextReader
from vlmguard.types import Image, Reason


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen in a picture. Scenes are never judged here, whatever this holds."""

    lines: tuple[Line, ...] = ()
    codes: tuple[Code, ...] = ()
    unread: Reason | None = None
    """Why words in it may have gone unread, the gravest reason where there are several; ``None`` when all was read."""
    uncoded: Reason | None = None
    """The same for codes."""

    @property
    def text(self) -> str:
        """The words, line by line."""
        return "\n".join(line.text for line in self.lines)


_GRAVEST = (Reason.UNREADABLE, Reason.BUDGET, Reason.SCRIPT)


class Eyes:
    """Looks at pictures: text and codes, in every frame and on every ground that transparency allows.

    Args:
        reader: reads the words; shared between threads.
        limits: frames and pixels that one picture may cost.
        remembered: how many pictures are kept by hash. A ``Sight`` holds words, not pixels.
    """

    def __init__(
        self,
        reader: TextReader | None = None,
        *,
        threads: int = 2,
        limits: Limits = DEFAULT_LIMITS,
        remembered: int = 4096,
    ) -> None:
        self._reader = reader or TextReader(threads=threads)
        self._limits = limits
        self._known: OrderedDict[str, Sight] = OrderedDict()
        self._remembered = remembered
        self._lock = threading.Lock()

    def look(self, image: Image) -> Sight:
        """Never raises for a damaged picture: that is a ``Sight`` with the reason ``unreadable``."""
        with self._lock:
            if (known := self._known.get(image.sha256)) is not None:
                self._known.move_to_end(image.sha256)
                return known
        sight = self._look(image)
        with self._lock:
            self._known[image.sha256] = sight
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        return sight

    def _look(self, image: Image) -> Sight:
        lines: list[Line] = []
        shown: set[str] = set()
        codes: dict[str, Code] = {}
        unread: set[Reason] = set()
        uncoded: set[Reason] = set()
        if unseen_frames(image, self._limits):
            unread.add(Reason.BUDGET)
            uncoded.add(Reason.BUDGET)
        try:
            for pixels in views(image, self._limits):
                reading = self._reader.read(pixels)
                # What another view showed comes once; within a view a line that stands twice was written twice.
                lines += [line for line in reading.lines if line.text not in shown]
                shown.update(line.text for line in reading.lines)
                unread.update(Reason(gap.reason) for gap in reading.unread)
                for code in read_codes(pixels):
                    codes.setdefault(code.text, code)
        except ImageError:
            unread.add(Reason.UNREADABLE)
            uncoded.add(Reason.UNREADABLE)
        return Sight(tuple(lines), tuple(codes.values()), _gravest(unread), _gravest(uncoded))


def _gravest(reasons: set[Reason]) -> Reason | None:
    return next((reason for reason in _GRAVEST if reason in reasons), None)
