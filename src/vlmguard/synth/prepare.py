"""Before a model is asked: sources are read, what repeats an evaluation set or an earlier row is put aside, pictures are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vlmguard.errors import InputError
from vlmguard.synth.duplicates import Index, dhash, index_folder, minhash
from vlmguard.synth.pictures import PictureStore
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.rows import Row, to_json
from vlmguard.synth.sources import BadRow, open_source
from vlmguard.synth.store import Store

_COMMIT_EVERY = 500
_LEAST_WORDS = 5
"""Of a text that may count as an evaluation set's: 'What is this?' stands in all of them."""


def check(recipe: Recipe) -> list[str]:
    """All that the recipe's sources lack, each with how to get it."""
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


def prepare(recipe: Recipe, folder: Path, store: Store, tick: Callable[[], None] = lambda: None) -> None:
    """Fills the store with the recipe's rows, once. A preparation that was killed begins anew; rows already there stay.

    Raises ``InputError`` when a source lacks something, or a row's id comes twice.
    """
    mark = f"prepared:{recipe.sources}:{recipe.keep_apart}"
    if store.meta(mark) is not None:
        return
    if problems := check(recipe):
        raise InputError("the sources are not complete:\n" + "\n".join(f"- {problem}" for problem in problems))
    path = folder / "duplicates.sqlite"
    for leftover in folder.glob(f"{path.name}*"):
        leftover.unlink()
    pictures = PictureStore(folder / "pictures")
    with Index() as apart, Index(path) as seen:
        for place in recipe.keep_apart:
            index_folder(apart, recipe.folder / place)
        known: set[int] = set()
        store.begin()
        for number, row in enumerate(_rows(recipe), start=1):
            _admit(row, store, pictures, apart if recipe.keep_apart else None, seen, known)
            tick()
            if number % _COMMIT_EVERY == 0:
                store.commit()
                store.begin()
        store.commit()
    store.set_meta(mark, "yes")


def _rows(recipe: Recipe) -> Iterator[Row | BadRow]:
    for spec in recipe.sources:
        yield from open_source(spec, recipe.folder).rows()


def _admit(
    row: Row | BadRow, store: Store, pictures: PictureStore, apart: Index | None, seen: Index, known: set[int]
) -> None:
    if isinstance(row, BadRow):
        store.add(row.origin, {"origin": row.origin}, gate="unreadable", reason=row.reason)
        return
    if hash(row.id) in known:
        store.add(
            f"{row.id} ({row.origin})",
            {"origin": row.origin},
            gate="unreadable",
            reason="its id stands in an earlier row",
        )
        return
    known.add(hash(row.id))
    body = to_json(row, pictures)
    hashes = [dhash(image) for image in row.chat.images]
    words = " ".join(message.text for message in row.chat.messages)
    if apart is not None and (reason := _repeats(apart, hashes, words)):
        store.add(row.id, body, gate="decontamination", reason=reason)
        return
    if reason := _is_duplicate(seen, row, hashes, words):
        store.add(row.id, body, gate="duplicate", reason=reason)
        return
    store.add(row.id, body)


def _repeats(apart: Index, hashes: list[bytes], words: str) -> str:
    for bits in hashes:
        if match := apart.find_image(bits):
            return f"its picture is {match.known} of an evaluation set ({match.distance:.0f} of 256 bits differ)"
    if len(words.split()) >= _LEAST_WORDS and (match := apart.find_text(minhash(words))):
        return f"its text is {match.known} of an evaluation set (distance {match.distance:.2f})"
    return ""


def _is_duplicate(seen: Index, row: Row, hashes: list[bytes], words: str) -> str:
    """The same words about the same pictures. Makes the row known when it is none."""
    clusters = []
    for bits in hashes:
        match = seen.find_image(bits)
        if match is None:
            seen.add_image(bits, bits.hex())
        clusters.append(bits.hex() if match is None else match.known)
    signature = minhash(words, " ".join(clusters))
    if match := seen.find_text(signature):
        return f"it repeats {match.known} (distance {match.distance:.2f})"
    seen.add_text(signature, row.id)
    return ""
