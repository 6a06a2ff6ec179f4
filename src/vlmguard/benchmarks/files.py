"""Reading a benchmark's files: lists and tables with their hash, pictures that stay inside the folder, rows that are broken."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
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
        self.wrong: list[tuple[str, str]] = []
        """(id, reason) of entries that are no rows at all."""

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
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.folder / names[0]} is no JSON ({error}): download it again") from error

    def table(self, *names: str) -> list[dict[str, str]]:
        """The rows of a CSV file, as what stands under its titles. Raises ``InputError``."""
        try:
            text = self.read(*names).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.folder / names[0]} is not UTF-8: download it again") from error
        try:
            return [dict(row) for row in csv.DictReader(io.StringIO(text))]
        except csv.Error as error:
            raise InputError(f"{self.folder / names[0]} is no table ({error}): download it again") from error

    def entries(self, value: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, entry) of a list or a mapping of objects; other entries go into ``wrong``. Raises ``InputError`` for anything else."""
        if isinstance(value, dict):
            pairs = [(str(key), entry) for key, entry in value.items()]
        elif isinstance(value, list):
            pairs = [(str(number), entry) for number, entry in enumerate(value)]
        else:
            raise InputError(f"{name} is neither a list nor a mapping: is it another file?")
        for key, entry in pairs:
            if isinstance(entry, dict):
                yield key, entry
            else:
                self.wrong.append((f"{name} {key}", f"{name}: entry {key} is no object"))

    def listed(self, value: Any, where: str) -> list[Any]:
        """A list inside an entry; anything else that is there goes into ``wrong``."""
        if value is None or isinstance(value, list):
            return value or []
        self.wrong.append((where, f"{where}: a list is expected, not {json.dumps(value)[:80]}"))
        return []

    def picture_file(self, *names: str) -> Path:
        """The first of the pictures that is there. Raises ``InputError``, also for a path that leaves the folder."""
        for name in names:
            file = real_path(self.folder / name)
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


def real_path(file: Path) -> Path:
    """Where a path leads. Raises ``InputError`` for one that no file can have."""
    try:
        found = file.resolve()
        found.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)[:80]!r}… is no path that a file can have ({error.__class__.__name__})") from error
    return found


def readable(text: str) -> str:
    """The text with a question mark for each half of a character (a lone surrogate), which can neither be stored nor sent."""
    return text.encode("utf-8", "replace").decode()


def ask(prompt: str, *images: Image) -> Chat:
    """One turn of the user's, pictures first as most models are trained. Raises ``InputError``."""
    if not isinstance(prompt, str):
        raise InputError(f"the question is a text, not {json.dumps(prompt)[:80]}")
    parts: list[Part] = [*images, Text(readable(prompt), "/prompt")]
    return Chat((Message("user", tuple(parts)),))


def guarded(id: str, make: Callable[[], Sample]) -> Sample | Broken:
    """The sample, under its row's id, or why its row cannot be read."""
    try:
        return _storable(id, make())
    except (LookupError, TypeError, AttributeError, ValueError, OSError, RecursionError) as error:
        return Broken(id, f"the row is not as expected ({type(error).__name__}: {error})")
    except VlmguardError as error:
        return Broken(id, str(error))


def _storable(id: str, sample: Sample) -> Sample:
    """What a set wrote as a number or a list where a text is expected, as text."""
    return replace(
        sample,
        id=id,
        category=None if sample.category is None else _text(sample.category),
        reference=_text(sample.reference),
        choices=tuple(map(_text, sample.choices)),
        group=_text(sample.group),
        hazard=_text(sample.hazard),
    )


def _text(value: Any) -> str:
    return readable("" if value is None else str(value))
