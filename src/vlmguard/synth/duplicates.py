"""Near-duplicates: of evaluation sets (decontamination) and within the set itself.

Pictures by dHash (64 bits, gradient signs of a 9 × 8 grey thumbnail) within a Hamming distance; texts by MinHash over word
shingles above a Jaccard similarity. Both are looked up by bands: two pictures within ``bands - 1`` bits agree in one band at
least (pigeonhole), two similar texts very likely do. The index lies on disk in SQLite, so memory stays flat.
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

HAMMING = 6
"""Bits of 64 in which two pictures may differ and still count as the same: a resize or a JPEG differs in 0–4."""
JACCARD = 0.7
"""Share of word shingles from which on two texts count as the same."""
_IMAGE_BANDS = 8
"""Of 8 bits each: pictures up to 7 bits apart agree in one."""
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


def dhash(image: Image) -> int:
    """64 bits: whether each of 8 × 8 cells of the first view is darker than its right neighbour."""
    import PIL.Image

    pixels = next(views(image))
    grey = PIL.Image.fromarray(pixels).convert("L").resize((9, 8), PIL.Image.Resampling.LANCZOS)
    values = np.asarray(grey, dtype=np.int16)
    bits = (values[:, 1:] > values[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


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

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes through and lets go of the file."""
        self._database.commit()
        self._database.close()

    def add_image(self, bits: int, name: str) -> None:
        """Makes a picture known."""
        row = self._insert("INSERT INTO images (bits, name) VALUES (?, ?)", (bits.to_bytes(8, "big"), name))
        self._database.executemany(
            "INSERT INTO image_bands VALUES (?, ?)", [(band, row) for band in _image_bands(bits)]
        )

    def find_image(self, bits: int) -> Match | None:
        """The nearest known picture within ``HAMMING`` bits."""
        found = self._candidates("images", "image_bands", "bits", _image_bands(bits))
        near = [((int.from_bytes(known, "big") ^ bits).bit_count(), name) for known, name in found]
        distance, name = min(near, default=(HAMMING + 1, ""))
        return Match("image", name, float(distance)) if distance <= HAMMING else None

    def add_text(self, signature: npt.NDArray[np.uint32], name: str) -> None:
        """Makes a text known."""
        row = self._insert("INSERT INTO texts (signature, name) VALUES (?, ?)", (signature.tobytes(), name))
        self._database.executemany(
            "INSERT INTO text_bands VALUES (?, ?)", [(band, row) for band in _text_bands(signature)]
        )

    def find_text(self, signature: npt.NDArray[np.uint32]) -> Match | None:
        """The most similar known text above ``JACCARD``."""
        found = self._candidates("texts", "text_bands", "signature", _text_bands(signature))
        known = list(found)
        if not known:
            return None
        stack = np.frombuffer(b"".join(other for other, _ in known), dtype=np.uint32).reshape(len(known), -1)
        similarities = (stack == signature).mean(axis=1)
        best = int(similarities.argmax())
        similarity = float(similarities[best])
        return Match("text", known[best][1], round(1 - similarity, 3)) if similarity >= JACCARD else None

    def _insert(self, statement: str, values: tuple[object, ...]) -> int:
        return int(self._database.execute(statement, values).lastrowid or 0)

    def _candidates(self, table: str, bands: str, column: str, wanted: Iterable[int]) -> Iterator[tuple[bytes, str]]:
        values = list(wanted)
        marks = ", ".join("?" * len(values))
        yield from self._database.execute(
            f"SELECT {column}, name FROM {table} WHERE id IN (SELECT item FROM {bands} WHERE band IN ({marks}) LIMIT {_MOST_COMPARED})",
            values,
        )


_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, bits BLOB NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS texts (id INTEGER PRIMARY KEY, signature BLOB NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS image_bands (band INTEGER NOT NULL, item INTEGER NOT NULL, PRIMARY KEY (band, item)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS text_bands (band INTEGER NOT NULL, item INTEGER NOT NULL, PRIMARY KEY (band, item)) WITHOUT ROWID;
"""


def _image_bands(bits: int) -> list[int]:
    return [(place << 8) | ((bits >> (8 * place)) & 0xFF) for place in range(_IMAGE_BANDS)]


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
