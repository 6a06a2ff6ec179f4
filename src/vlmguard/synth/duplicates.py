"""Near-duplicates: of evaluation sets (decontamination) and within the set itself.

Pictures by dHash (256 gradient signs of a 17 × 16 grey thumbnail) within a Hamming distance, compared with every known one: a
million take 32 MB and some milliseconds. Texts by MinHash over word shingles above a Jaccard similarity, looked up by bands. The
index lies on disk in SQLite.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmguard.errors import InputError, MissingExtraError
from vlmguard.images import views
from vlmguard.types import Image

HAMMING = 20
"""Bits of 256 in which two pictures may differ and still count as the same: a resize or a JPEG differs in 0–12."""
JACCARD = 0.7
"""Share of word shingles from which on two texts count as the same."""
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
        self._bits = np.frombuffer(b"".join(bits for bits, _ in known), dtype=np.uint64).reshape(-1, 4)
        self._fresh: list[bytes] = []

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
        self._names.append(name)
        self._fresh.append(bits)
        if len(self._fresh) > max(64, len(self._bits) // 8):
            self._bits, self._fresh = self._all(), []

    def find_image(self, bits: bytes) -> Match | None:
        """The nearest known picture within ``HAMMING`` bits."""
        if not self._names:
            return None
        known = self._all() if self._fresh else self._bits
        distances = np.bitwise_count(known ^ np.frombuffer(bits, dtype=np.uint64)).sum(axis=1)
        best = int(distances.argmin())
        distance = int(distances[best])
        return Match("image", self._names[best], float(distance)) if distance <= HAMMING else None

    def _all(self) -> npt.NDArray[np.uint64]:
        fresh = np.frombuffer(b"".join(self._fresh), dtype=np.uint64).reshape(-1, 4)
        return np.concatenate([self._bits, fresh])

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


def index_folder(index: Index, folder: Path) -> int:
    """Makes every picture and text under a folder of an evaluation set known; returns how many there were.

    Pictures by their kind; texts from .jsonl, .json, .csv, .txt and .parquet: every string of three words or more.
    """
    from vlmguard.images import read_image

    if not folder.exists():
        raise InputError(f"{folder} does not exist: name the folder of an evaluation set")
    count = 0
    for file in sorted(path for path in ([folder] if folder.is_file() else folder.rglob("*")) if path.is_file()):
        if file.suffix.lower() in _PICTURES:
            index.add_image(dhash(read_image(file.read_bytes(), file.name)), file.name)
            count += 1
            continue
        for text, place in _texts(file):
            index.add_text(minhash(text), f"{file.name}:{place}")
            count += 1
    if not count:
        raise InputError(f"{folder} holds neither pictures nor texts to keep apart from")
    return count


_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


def _texts(file: Path) -> Iterator[tuple[str, int]]:
    import csv
    import json

    match file.suffix.lower():
        case ".jsonl":
            values: Iterable[Any] = (json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip())
        case ".json":
            loaded = json.loads(file.read_text("utf-8"))
            values = loaded if isinstance(loaded, list) else [loaded]
        case ".csv":
            with file.open(encoding="utf-8", newline="") as opened:
                values = list(csv.reader(opened))
        case ".txt":
            values = file.read_text("utf-8").splitlines()
        case ".parquet":
            from vlmguard.synth.sources import parquet_rows

            values = parquet_rows(file)
        case _:
            return
    for place, value in enumerate(values, start=1):
        for text in _strings(value):
            if len(_WORD.findall(text)) >= _SHINGLE:
                yield text, place


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
