"""Near-duplicates: of evaluation sets (decontamination) and within the set itself.

Pictures by dHash (256 gradient signs of a 17 × 16 grey thumbnail) within a Hamming distance, compared with every known one: a
million take 32 MB and some milliseconds. Texts by MinHash over word shingles above a Jaccard similarity, looked up by bands. The
index lies on disk in SQLite.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmguard.errors import ImageError, InputError, MissingExtraError
from vlmguard.images import read_image, views
from vlmguard.synth.sources import parquet_rows
from vlmguard.types import Image

HAMMING = 20
"""Bits of 256 in which two pictures may differ and still count as the same: a resize or a JPEG differs in 0–12."""
JACCARD = 0.7
"""Share of word shingles from which on two texts count as the same."""
_TELLING = 3
"""A picture that is mostly flat (a page with a few words) sets few bits, so fewer may differ: a third of those that are set."""
_FLAT = 2
"""Grey levels that neighbouring cells have to differ by: in flat parts the noise of a JPEG would flip the sign."""
_PERMUTATIONS = 64
_TEXT_BANDS = 16
"""Of 4 rows each: texts at Jaccard 0.7 share one with probability 0.99, at 0.3 with 0.12 (then compared in full)."""
_SHINGLE = 3
_MOST_COMPARED = 256
"""Of the items that share a band: templates make some bands crowded, and a duplicate shares several."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Match:
    """What something was found to repeat."""

    what: str
    """``image`` or ``text``."""
    known: str
    """The name under which the other one was added."""
    distance: float
    """Bits that differ, or 1 − Jaccard (estimated)."""


def dhash(image: Image) -> bytes:
    """32 bytes: for each of 16 × 16 cells of the first view whether its right neighbour is clearly brighter."""
    import PIL.Image

    pixels = next(views(image))
    grey = PIL.Image.fromarray(pixels).convert("L").resize((17, 16), PIL.Image.Resampling.LANCZOS)
    values = np.asarray(grey, dtype=np.int16)
    return np.packbits((values[:, 1:] > values[:, :-1] + _FLAT).ravel()).tobytes()


def bound(one: bytes, other: bytes) -> int:
    """How many bits two hashes may differ in."""
    telling = max(int.from_bytes(bits, "big").bit_count() for bits in (one, other))
    return min(HAMMING, telling // _TELLING)


def minhash(text: str, context: str = "") -> npt.NDArray[np.uint32]:
    """(64,) signature of the text's word shingles, case aside; a text shorter than a shingle is one shingle.

    Texts of different ``context`` share nothing: the same question about two pictures is two rows.
    """
    words = _WORD.findall(text.casefold())
    shingles = {" ".join((context, *words[at : at + _SHINGLE])) for at in range(max(1, len(words) - _SHINGLE + 1))}
    signature = _minhash(_PERMUTATIONS)
    signature.update_batch([shingle.encode() for shingle in shingles])
    return signature.hashvalues.astype(np.uint32)  # type: ignore[no-any-return]


def _minhash(permutations: int) -> Any:
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise MissingExtraError("finding near-duplicates", "synth") from error
    return MinHash(num_perm=permutations, permutations=_permutations(permutations), scheme=_SCHEME)


_SCHEME = "affine32"


@lru_cache(maxsize=1)
def _permutations(permutations: int) -> Any:
    """Drawn once: making them anew for each text would cost more than the text."""
    from datasketch import MinHash

    return MinHash(num_perm=permutations, scheme=_SCHEME).permutations


class Index:
    """An on-disk index of pictures and texts. Use as a context manager."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self._database = sqlite3.connect(path)
        self._database.executescript(_SCHEMA)
        known = self._database.execute("SELECT bits, name FROM images ORDER BY id").fetchall()
        self._names = [str(name) for _, name in known]
        self._bits = np.zeros((max(64, 2 * len(known)), 4), dtype=np.uint64)
        for place, (bits, _) in enumerate(known):
            self._bits[place] = np.frombuffer(bits, dtype=np.uint64)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes through and lets go of the file."""
        self._database.commit()
        self._database.close()

    def add_image(self, bits: bytes, name: str) -> None:
        """Makes a picture known."""
        self._database.execute("INSERT INTO images (bits, name) VALUES (?, ?)", (bits, name))
        if len(self._names) == len(self._bits):
            self._bits = np.concatenate([self._bits, np.zeros_like(self._bits)])
        self._bits[len(self._names)] = np.frombuffer(bits, dtype=np.uint64)
        self._names.append(name)

    def find_image(self, bits: bytes) -> Match | None:
        """The nearest known picture within the bound of both."""
        if not self._names:
            return None
        ours = np.frombuffer(bits, dtype=np.uint64)
        distances = np.bitwise_count(self._bits[: len(self._names)] ^ ours).sum(axis=1)
        best = int(distances.argmin())
        distance = int(distances[best])
        return (
            Match("image", self._names[best], float(distance))
            if distance <= bound(bits, self._bits[best].tobytes())
            else None
        )

    def add_text(self, signature: npt.NDArray[np.uint32], name: str) -> None:
        """Makes a text known."""
        cursor = self._database.execute(
            "INSERT INTO texts (signature, name) VALUES (?, ?)", (signature.tobytes(), name)
        )
        row = cursor.lastrowid
        self._database.executemany(
            "INSERT INTO text_bands VALUES (?, ?)", [(band, row) for band in _text_bands(signature)]
        )

    def find_text(self, signature: npt.NDArray[np.uint32]) -> Match | None:
        """The most similar known text above ``JACCARD``."""
        known = self._candidates(_text_bands(signature))
        if not known:
            return None
        stack = np.frombuffer(b"".join(other for other, _ in known), dtype=np.uint32).reshape(len(known), -1)
        similarities = (stack == signature).mean(axis=1)
        best = int(similarities.argmax())
        similarity = float(similarities[best])
        return Match("text", known[best][1], round(1 - similarity, 3)) if similarity >= JACCARD else None

    def _candidates(self, bands: list[int]) -> list[tuple[bytes, str]]:
        marks = ", ".join("?" * len(bands))
        return self._database.execute(
            "SELECT signature, name FROM texts WHERE id IN"
            f" (SELECT item FROM text_bands WHERE band IN ({marks}) LIMIT {_MOST_COMPARED})",
            bands,
        ).fetchall()


_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, bits BLOB NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS texts (id INTEGER PRIMARY KEY, signature BLOB NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS text_bands (band INTEGER NOT NULL, item INTEGER NOT NULL, PRIMARY KEY (band, item)) WITHOUT ROWID;
"""


def _text_bands(signature: npt.NDArray[np.uint32]) -> list[int]:
    rows = signature.reshape(_TEXT_BANDS, -1)
    return [
        int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=7, salt=bytes([place])).digest(), "big")
        for place, row in enumerate(rows)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation sets


def index_folder(index: Index, folder: Path) -> tuple[int, int]:
    """Makes every picture and text under a folder of an evaluation set known; returns how many (pictures, texts) there were.

    Pictures by their kind, and those inside Parquet; texts from .jsonl, .json, .csv, .txt and .parquet: every string of three
    words or more. Raises ``InputError`` for a file that cannot be read, and for a folder that holds neither.
    """
    if not folder.exists():
        raise InputError(f"{folder} does not exist: name the folder of an evaluation set")
    pictures = texts = 0
    for file in sorted(path for path in ([folder] if folder.is_file() else folder.rglob("*")) if path.is_file()):
        try:
            for what, place in _contents(file):
                if isinstance(what, str):
                    if len(_WORD.findall(what)) >= _SHINGLE:
                        index.add_text(minhash(what), f"{file.name}:{place}")
                        texts += 1
                else:
                    index.add_image(dhash(read_image(what, file.name)), f"{file.name}:{place}" if place else file.name)
                    pictures += 1
        except (ImageError, ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{file} of an evaluation set cannot be read: {error}") from error
    if not pictures and not texts:
        raise InputError(f"{folder} holds neither pictures nor texts to keep apart from")
    return pictures, texts


_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


def _contents(file: Path) -> Iterator[tuple[str | bytes, int]]:
    """Texts and pictures' bytes of a file, with their row from 1 (0: the whole file)."""
    suffix = file.suffix.lower()
    if suffix in _PICTURES:
        yield file.read_bytes(), 0
        return
    for place, value in enumerate(_values(file, suffix), start=1):
        for item in _leaves(value):
            yield item, place


def _values(file: Path, suffix: str) -> Iterable[Any]:
    match suffix:
        case ".jsonl":
            return (json.loads(line) for line in file.read_text("utf-8").split("\n") if line.strip())
        case ".json":
            loaded = json.loads(file.read_text("utf-8"))
            return loaded if isinstance(loaded, list) else [loaded]
        case ".csv":
            with file.open(encoding="utf-8", newline="") as opened:
                return list(csv.reader(opened))
        case ".txt":
            return file.read_text("utf-8").splitlines()
        case ".parquet":
            return parquet_rows(file)
        case _:
            return ()


def _leaves(value: Any) -> Iterator[str | bytes]:
    if isinstance(value, str | bytes) and value:
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if not (key == "path" and value.get("bytes")):  # the name that Parquet keeps beside a picture's bytes
                yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
