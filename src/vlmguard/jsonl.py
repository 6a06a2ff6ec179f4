"""Files of one JSON value a line: read row by row, appended so that a kill loses at most the row being written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1, one at a time in memory."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.rstrip(b"\r\n")


def read_rows(path: Path) -> Iterator[Any]:
    """The values of a file written by ``Appender``."""
    for _, line in read_lines(path):
        yield json.loads(line)


def mend(path: Path) -> None:
    """Cuts off a last line that a kill left half-written."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            cut = file.read(end - start).rfind(b"\n")
            if cut >= 0:
                file.truncate(start + cut + 1)
                return
            end = start
        file.truncate(0)


class Appender:
    """Appends rows to a file. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        mend(path)
        self._file = path.open("ab")

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: Any) -> None:
        """Writes one row through to the operating system."""
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        self._file.write(text.encode(errors="backslashreplace") + b"\n")  # a lone surrogate as its JSON escape
        self._file.flush()
