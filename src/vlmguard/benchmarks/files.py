"""Reading a benchmark's files: lists and tables with their hash, pictures that stay inside the folder, rows that are broken."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError, VlmguardError
from vlmguard.images import read_image
from vlmguard.types import Broken, Chat, Image, Message, Part, Sample, Text


class Files:
    """The folder of one benchmark. What was read of lists and tables goes into ``fingerprint``.

    Args:
        folder: where the user put it.
        get: how it is got, for messages.
    """

    def __init__(self, folder: Path, get: str) -> None:
        self.folder = folder
        self.get = get
        self._texts: dict[str, bytes] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the lists and tables that were read."""
        digest = hashlib.sha256()
        for name in sorted(self._texts):
            digest.update(f"{name}\0{hashlib.sha256(self._texts[name]).hexdigest()}\n".encode())
        return digest.hexdigest()

    def read(self, *names: str) -> bytes:
        """The first of the files that is there. Raises ``InputError``."""
        for name in names:
            if name in self._texts:
                return self._texts[name]
            file = self.folder / name if name else self.folder
            if file.is_file():
                self._texts[name] = file.read_bytes()
                return self._texts[name]
        raise InputError(f"{self.folder / names[0]} is missing: {self.get}")

    def json(self, *names: str) -> Any:
        """The JSON of the first of the files that is there. Raises ``InputError``."""
        try:
            return json.loads(self.read(*names))
        except ValueError as error:
            raise InputError(f"{self.folder / names[0]} is no JSON ({error}): download it again") from error

    def table(self, *names: str) -> list[dict[str, str]]:
        """The rows of a CSV file, as what stands under its titles. Raises ``InputError``."""
        try:
            text = self.read(*names).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.folder / names[0]} is not UTF-8: download it again") from error
        return [dict(row) for row in csv.DictReader(io.StringIO(text))]

    def picture_file(self, *names: str) -> Path:
        """The first of the pictures that is there. Raises ``InputError``, also for a path that leaves the folder."""
        for name in names:
            file = (self.folder / name).resolve()
            if not file.is_relative_to(self.folder.resolve()):
                raise InputError(f"the picture {name!r} stands outside of {self.folder}")
            if file.is_file():
                return file
        raise InputError(f"the picture {self.folder / names[0]} is missing: {self.get}")

    def picture(self, *names: str) -> Image:
        """The first of the pictures that is there, checked. Raises ``InputError``."""
        file = self.picture_file(*names)
        try:
            return read_image(file.read_bytes(), "/images/0")
        except VlmguardError as error:
            raise InputError(f"{file.name}: {error}") from error


def ask(prompt: str, *images: Image) -> Chat:
    """One turn of the user's, pictures first as most models are trained."""
    parts: list[Part] = [*images, Text(prompt, "/prompt")]
    return Chat((Message("user", tuple(parts)),))


def guarded(id: str, make: Callable[[], Sample]) -> Sample | Broken:
    """The sample, or why its row cannot be read."""
    try:
        return make()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return Broken(id, f"the row is not as expected ({type(error).__name__}: {error})")
    except VlmguardError as error:
        return Broken(id, str(error))


def each(entries: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(key, entry) of a list or a mapping. Raises ``InputError`` for anything else."""
    if isinstance(entries, dict):
        yield from ((str(key), entry) for key, entry in entries.items())
    elif isinstance(entries, list):
        yield from ((str(number), entry) for number, entry in enumerate(entries))
    else:
        raise InputError(f"{name} is neither a list nor a mapping: is it another file?")
