"""Before a model is asked: sources are read, what repeats an evaluation set or an earlier row is put aside, pictures are kept.

A preparation is done again when its sources, or the evaluation sets, are other files than before. Rows that it brings anew are to
be done, rows that it brings no more go, and all others keep what became of them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from vlmguard.errors import InputError, VlmguardError
from vlmguard.pictures import PictureStore
from vlmguard.synth.duplicates import Index, dhash, index_folder, minhash
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.rows import Row, to_json
from vlmguard.synth.sources import BadRow, open_source
from vlmguard.synth.store import Store, StoreError

_COMMIT_EVERY = 500
_LEAST_WORDS = 5
"""Of a text that may count as an evaluation set's: 'What is this?' stands in all of them."""
_APART = "apart.sqlite"


def check(recipe: Recipe) -> list[str]:
    """All that the recipe's sources and evaluation sets lack, each with how to get it."""
    sources = [open_source(spec, recipe.folder) for spec in recipe.sources]
    missing = [problem for source in sources for problem in source.check()]
    missing += [
        f"{recipe.folder / place} does not exist: name a file or folder of the evaluation set, or take it out of keep_apart"
        for place in recipe.keep_apart
        if not (recipe.folder / place).exists()
    ]
    return missing


def warnings(recipe: Recipe) -> list[str]:
    """What the recipe's user has to know."""
    return [source.warning for spec in recipe.sources if (source := open_source(spec, recipe.folder)).warning]


def prepare(
    recipe: Recipe,
    folder: Path,
    store: Store,
    tick: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Fills the store with the recipe's rows. One that was killed begins anew.

    Raises ``InputError`` when a source lacks something, ``StoreError`` when the disk does not take what is written.
    """
    if problems := check(recipe):
        raise InputError("the sources are not complete:\n" + "\n".join(f"- {problem}" for problem in problems))
    mark = _mark(recipe)
    if store.meta("prepared") == mark:
        return
    generation = int(store.meta("generation") or 0) + 1
    store.set_meta("generation", str(generation))
    try:
        _Door(recipe, folder, store, generation).let_in(tick, tell)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{folder} cannot be written: {error}; free space, run again") from error
    store.drop_others(generation)
    store.set_meta("prepared", mark)


def _mark(recipe: Recipe) -> str:
    """Digest of what a preparation reads: specs, and the size and time of every file behind them."""
    places = [recipe.folder / spec.partition(":")[2] for spec in recipe.sources]
    places += [recipe.folder / place for place in recipe.keep_apart]
    files = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for place in places
        for file in ([place] if place.is_file() else sorted(place.rglob("*")))
        if file.is_file()
    ]
    text_only = "text-only" in recipe.ablations
    return hashlib.sha256(json.dumps([recipe.sources, recipe.keep_apart, text_only, files]).encode()).hexdigest()


class _Door:
    """Lets rows in, one by one, or says why not."""

    def __init__(self, recipe: Recipe, folder: Path, store: Store, generation: int) -> None:
        self._recipe = recipe
        self._store = store
        self._generation = generation
        self._folder = folder
        self._pictures = PictureStore(folder / "pictures")
        self._ids: set[str] = set()

    def let_in(self, tick: Callable[[], None], tell: Callable[[str], None]) -> None:
        """All rows of all sources."""
        for name in (_APART, "duplicates.sqlite"):
            for leftover in self._folder.glob(f"{name}*"):
                leftover.unlink()
        with Index(self._folder / _APART) as apart, Index(self._folder / "duplicates.sqlite") as seen:
            for place in self._recipe.keep_apart:
                pictures, texts = index_folder(apart, self._recipe.folder / place)
                tell(f"kept apart from {place}: {pictures} pictures, {texts} texts")
            self._store.begin()
            for number, row in enumerate(self._rows(), start=1):
                self._admit(row, apart, seen)
                tick()
                if number % _COMMIT_EVERY == 0:
                    self._store.commit()
                    self._store.begin()
            self._store.commit()

    def _rows(self) -> Iterator[Row | BadRow]:
        for spec in self._recipe.sources:
            for row in open_source(spec, self._recipe.folder).rows():
                yield row.without_images() if "text-only" in self._recipe.ablations and isinstance(row, Row) else row

    def _admit(self, row: Row | BadRow, apart: Index, seen: Index) -> None:
        if isinstance(row, BadRow):
            self._refuse(row.origin, row.origin, "unreadable", row.reason)
        elif row.id in self._ids:
            self._refuse(row.id, row.origin, "unreadable", "its id stands in an earlier row")
        else:
            try:
                self._judge(row, apart, seen)
            except VlmguardError as error:  # a picture whose header is good and whose rest is not
                self._refuse(row.id, row.origin, "unreadable", f"{type(error).__name__}: {error}")

    def _judge(self, row: Row, apart: Index, seen: Index) -> None:
        hashes = [dhash(image) for image in row.chat.images]
        words = " ".join(message.text for message in row.chat.messages)
        if reason := repeats(apart, hashes, words):
            self._refuse(row.id, row.origin, "decontamination", reason)
            return
        clusters = [_cluster(seen, bits) for bits in hashes]
        signature = minhash(words, " ".join(clusters))
        if match := seen.find_text(signature):
            self._refuse(row.id, row.origin, "duplicate", f"it repeats {match.known} (distance {match.distance:.2f})")
            return
        seen.add_text(signature, row.id)
        self._ids.add(row.id)
        body = to_json(row, self._pictures) | {"clusters": clusters}
        self._store.add(row.id, body, self._generation)

    def _refuse(self, id: str, origin: str, gate: str, reason: str) -> None:
        name, number = id, 1
        while name in self._ids:
            number += 1
            name = f"{id} ({origin})" if number == 2 else f"{id} ({origin}, {number})"
        self._ids.add(name)
        self._store.add(name, {"origin": origin}, self._generation, gate=gate, reason=reason)


def repeats(apart: Index, hashes: list[bytes], words: str) -> str:
    """What of an evaluation set a row repeats, or ""."""
    for bits in hashes:
        if match := apart.find_image(bits):
            return f"its picture is {match.known} of an evaluation set ({match.distance:.0f} of 256 bits differ)"
    if len(words.split()) >= _LEAST_WORDS and (match := apart.find_text(minhash(words))):
        return f"its text is {match.known} of an evaluation set (distance {match.distance:.2f})"
    return ""


def open_apart(folder: Path) -> Index:
    """The evaluation sets that a preparation in ``folder`` kept apart from: twins must pass them, too."""
    return Index(folder / _APART)


def _cluster(seen: Index, bits: bytes) -> str:
    """The name of the pictures that this one is about the same as; a new one makes a name."""
    if match := seen.find_image(bits):
        return match.known
    seen.add_image(bits, bits.hex())
    return bits.hex()
