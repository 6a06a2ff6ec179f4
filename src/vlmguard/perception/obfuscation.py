"""Owns the readings of a text that someone wrote so that a reader, but not a filter, understands it.

``decode`` gives the readings that deserve to be judged beside the original: characters first (``lookalikes``), then words
(``respelling``), codes and ciphers (``encodings``) and the prompt's own word table (``substitution``), one inside another up
to three levels. A reading is given only where it makes more sense than what stands there (``wordlike``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vlmguard.perception import ciphers, encodings, mending, respelling
from vlmguard.perception.ciphers import wordless_regions
from vlmguard.perception.lookalikes import plain
from vlmguard.perception.passages import Passage
from vlmguard.perception.substitution import substitute, substitutions
from vlmguard.perception.wordlike import WORD, sense

__all__ = ["View", "decode", "substitute", "substitutions"]


@dataclass(frozen=True, slots=True)
class View:
    """Another reading of a text."""

    text: str
    method: str
    """What was undone, outermost first, joined by " > ": ``base64``, ``zero-width``, ``hex > rot13``."""
    hidden: bool
    """Whether writing it that way looks like an attempt to hide; ``False`` is mere normalisation."""
    deeper: bool = False
    """Whether it is disguised once more, beyond the depth to which disguises are undone."""


_DEPTH = 3
_MOST_VIEWS = 12
_MOST_READ = 200_000
"""Characters of a text that are read."""
_WHOLE = 4_000
"""Characters up to which a view is the whole text with the passages read in place; of a longer one only the passages
with what stands around them."""
_AROUND = 200
_LONGEST_VIEW = 20_000
_FINAL = frozenset(("missing spaces", "masked letters", "repeated letters", "line break", "word order", "acrostic"))
"""Readings that hold no further code: they are made of words already."""
_OF_BYTES = frozenset(("base64", "base32", "hex", "binary", "character codes"))
_Reader = Callable[[str], Iterable[Passage]]

_DIGITS = "0123456789"
_READERS: tuple[tuple[str, _Reader, str], ...] = (
    ("base64", mending.read_torn_base64, ""),
    ("base64", encodings.read_base64, ""),
    ("base32", mending.read_torn_base32, ""),
    ("base32", encodings.read_base32, ""),
    ("hex", mending.read_torn_hex, _DIGITS),
    ("hex", encodings.read_hex, ""),
    ("binary", mending.read_torn_bits, "01"),
    ("binary", encodings.read_binary, "01"),
    ("character codes", mending.read_torn_decimals, _DIGITS),
    ("character codes", encodings.read_codes, _DIGITS),
    ("escapes", encodings.read_escapes, r"%&\="),
    ("morse", encodings.read_morse, ""),
    ("spelled letters", encodings.read_spelled, ""),
    ("spacing", respelling.read_apart, ""),
    ("leetspeak", respelling.read_leet, _DIGITS + "@$!|+\\"),
    ("concatenation", respelling.read_sums, "\"'"),
    ("split words", respelling.read_cut, ""),
    ("split words", respelling.read_fragments, ""),
    ("line break", respelling.read_hyphenated, ""),
    ("pig latin", ciphers.read_pig_latin, ""),
    ("rot47", ciphers.read_rot47, ""),
    ("word order", ciphers.read_backward_order, ""),
    ("missing spaces", respelling.read_together, ""),
    ("masked letters", respelling.read_masked, "*#"),
    ("repeated letters", respelling.read_stretched, ""),
    ("accents", respelling.read_accented, ""),
    ("acrostic", respelling.read_acrostic, ""),
)
"""What is undone, who reads it, and the signs of which an ASCII text holds one where there is something to read ("": any)."""


def decode(text: str, table: Mapping[str, str] | None = None) -> tuple[View, ...]:
    """The decoded readings of ``text``, attempts to hide first; empty when there is nothing to decode.

    At most ``_MOST_VIEWS`` readings of a bounded length, in time linear in the text's length up to ``_MOST_READ``; of a longer
    text the beginning and the end are read. Never raises.

    Args:
        text: anything.
        table: words to the words they stand for (see ``substitutions``).
    """
    if len(text) > _MOST_READ:
        text = f"{text[: _MOST_READ * 3 // 4]}\n{text[-_MOST_READ // 4 :]}"
    views: dict[str, View] = {}
    for view in _views(text, table or {}, _DEPTH):
        key = " ".join(view.text.split())
        if key and key != " ".join(text.split()):
            known = views.setdefault(key, view)
            if (view.hidden, view.deeper) > (known.hidden, known.deeper):
                views[key] = view
        if len(views) >= 3 * _MOST_VIEWS:
            break
    return tuple(sorted(views.values(), key=lambda view: not view.hidden)[:_MOST_VIEWS])


def _views(text: str, table: Mapping[str, str], depth: int) -> Iterator[View]:
    if depth == 0:
        return
    cleaned = plain(text)
    base, methods, hidden = text, "", False
    if cleaned.methods and _words(cleaned.text) != _words(text):
        base, methods, hidden = cleaned.text, "+".join(cleaned.methods), cleaned.hidden
        yield View(base, methods, hidden)
    for method, said in cleaned.payloads:
        yield View(said, method, hidden=True)
        yield from _inside(said, method, True, table, depth)
    if table and (replaced := substitute(base, table)) != base:
        yield View(replaced, _chain(methods, "substitution"), hidden or _is_disguise(base, replaced))
    for method, passages in _readings(base):
        for view, deserves in _as_views(base, method, passages):
            chained = View(view.text, _chain(methods, view.method), hidden or view.hidden)
            if deserves:
                yield chained
            if method in _FINAL:
                continue
            if depth == 1 and _hides_more(view.text):
                yield replace(chained, deeper=True)
            yield from _inside(view.text, chained.method, chained.hidden, table, depth)


def _hides_more(text: str) -> bool:
    """Whether a reading is itself another's disguise; of bytes that are a text, what that says may be disguised again."""
    return any(passage.hidden or method in _OF_BYTES for method, passages in _readings(text) for passage in passages)


def _inside(text: str, method: str, hidden: bool, table: Mapping[str, str], depth: int) -> Iterator[View]:
    for view in _views(text, table, depth - 1):
        yield replace(view, method=_chain(method, view.method), hidden=hidden or view.hidden)


def _chain(outer: str, inner: str) -> str:
    return f"{outer} > {inner}" if outer else inner


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def _is_disguise(text: str, replaced: str) -> bool:
    """Whether a table changed so many words that the text was written to be read with it."""
    before, after = text.split(), replaced.split()
    changed = len(set(before) - set(after))
    return changed >= 3 and changed >= 0.2 * len(before)


def _readings(text: str) -> Iterator[tuple[str, list[Passage]]]:
    signs = set(text) if text.isascii() else None
    for method, reader, needed in _READERS:
        if needed and signs is not None and signs.isdisjoint(needed):
            continue
        if passages := list(reader(text)):
            yield method, passages
    regions = wordless_regions(text)
    if not regions:
        return
    if shifted := list(ciphers.read_shifted(regions)):
        yield "letter shift", shifted
    # Each stretch has up to three readings; those of one kind make a view together.
    kinds: dict[int, list[Passage]] = {}
    seen: dict[int, int] = {}
    for passage in ciphers.read_reversed(text, regions):
        kind = seen.get(passage.start, 0)
        seen[passage.start] = kind + 1
        kinds.setdefault(kind, []).append(passage)
    for passages in kinds.values():
        yield "reversed", passages


def _as_views(text: str, method: str, passages: list[Passage]) -> Iterator[tuple[View, bool]]:
    """The text with its passages read in place, and the passages alone where the rest is more than a few words.

    With each: whether it deserves to be judged. Bytes that are a text without words may still hold another code.
    """
    passages = _apart(passages)
    hidden = any(passage.hidden for passage in passages)
    placed = _placed(text, passages)
    alone = "\n".join(passage.text for passage in passages)[:_LONGEST_VIEW]
    deserves = sense(alone) >= 0.3 or not alone.isascii()
    if method == "acrostic":
        yield View(alone, method, hidden), deserves
        return
    yield View(placed, method, hidden), deserves
    if any(len(WORD.findall(passage.text)) >= 3 for passage in passages) and len(placed) > len(alone) + 40:
        yield View(alone, method, hidden), deserves


def _apart(passages: list[Passage]) -> list[Passage]:
    """Sorted, and without those that overlap an earlier one."""
    kept: list[Passage] = []
    for passage in sorted(passages, key=lambda passage: (passage.start, -passage.end)):
        if not kept or passage.start >= kept[-1].end:
            kept.append(passage)
    return kept


def _placed(text: str, passages: list[Passage]) -> str:
    whole = len(text) <= _WHOLE
    pieces: list[str] = []
    end, length = 0, 0
    for passage in passages:
        between = text[end : passage.start]
        if not whole and len(between) > 2 * _AROUND:
            between = f"{text[end : end + _AROUND] if end else ''}\n{between[-_AROUND:]}"
        pieces += (between, passage.text)
        length += len(between) + len(passage.text)
        end = passage.end
        if length > _LONGEST_VIEW:
            break
    pieces.append(text[end:] if whole else text[end : end + _AROUND])
    return "".join(pieces)[:_LONGEST_VIEW]
