"""Turns drafts (twins written in plain text) into rows of data/risk, with ids that never change.

    python -m training.risk.drafts FOLDER [--rows data/risk]
    python -m training.risk.drafts FOLDER --blind data/risk/blind.jsonl    the blind set, made once, by another author

A draft's first line holds its defaults, ``@category=<id> register=chat kind=request lang=en``; then come groups with a blank
line between them. A line is ``!`` (asks to do harm), ``?`` (asks about harm) or ``.`` (neither), settings of its own in braces
where it has some, and the text, in which ``\\n`` stands for a line break. Groups whose texts are all rows already are left out, so that
the command can be run again when drafts grow.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.risk.rows import BLIND_ID, INTENTS, KINDS, REGISTERS, own_files, read_objects
from vlmguard.policy import load_policy

INTENT_OF = {"!": "do", "?": "about", ".": "neither"}
FILES = {"labels": "image_text", "carriers": "needs_picture", "document_orders": "prompt_injection"}
"""Where topics go that are no category's."""
_LINE = re.compile(r"([!?.])\s*(?:\{([^{}]*)\})?\s+(.+)")
_LETTERS = "abcdefgh"
_MOST_TWINS = 4


@dataclass(frozen=True, slots=True)
class Draft:
    """One text of a draft."""

    text: str
    categories: tuple[str, ...]
    intent: str
    register: str
    language: str
    kind: str


class DraftError(ValueError):
    """A line that is no draft; the message has file and line."""


def read_drafts(file: Path, known: frozenset[str]) -> Iterator[list[Draft]]:
    """The groups of a draft. ``known``: categories. Raises ``DraftError``."""
    defaults: dict[str, str] = {}
    group: list[Draft] = []
    for number, raw in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.strip()
        if line.startswith("@"):
            defaults = _settings(line[1:])
        elif line and not line.startswith("#"):
            try:
                group.append(_draft(line, defaults, known))
            except ValueError as error:
                raise DraftError(f"{file}:{number}: {error}") from error
        elif group and not line:
            yield from _apart(group)
            group = []
    yield from _apart(group)


def _apart(group: list[Draft]) -> Iterator[list[Draft]]:
    """The group itself; a list of harmless texts, or of more than twins are told apart by letters, is no group but as many of one."""
    if len(group) > len(_LETTERS) or (len(group) > _MOST_TWINS and not any(draft.categories for draft in group)):
        yield from ([draft] for draft in group)
    elif group:
        yield group


def _settings(words: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words.split() if "=" in word)


def _draft(line: str, defaults: dict[str, str], known: frozenset[str]) -> Draft:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("a line is '!', '?' or '.', a space, and the text")
    settings = defaults | _settings(match[2] or "")
    intent = INTENT_OF[match[1]]
    categories = tuple(settings["category"].split(",")) if intent == "do" else ()
    register = {"typo": "typos"}.get(settings["register"], settings["register"])
    for word, words in ((register, REGISTERS), (settings["kind"], KINDS), (intent, INTENTS)):
        if word not in words:
            raise ValueError(f"{word!r} is none of {', '.join(words)}")
    if unknown := set(categories) - known:
        raise ValueError(f"no category of the policy: {', '.join(sorted(unknown))}")
    return Draft(match[3].replace("\\n", "\n"), categories, intent, register, settings["lang"], settings["kind"])


def add(group: list[Draft], file: Path, number: int, prefix: str) -> int:
    """Appends a group to a file of rows."""
    with file.open("a", encoding="utf-8") as out:
        for letter, draft in zip(_LETTERS, group, strict=False):
            row: dict[str, Any] = {
                "id": f"{prefix}-{number:04d}{letter}",
                "text": draft.text,
                "categories": list(draft.categories),
                "intent": draft.intent,
                "register": draft.register,
                "language": draft.language,
                "kind": draft.kind,
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(group)


def write_blind(folder: Path, file: Path, known: frozenset[str]) -> int:
    """The blind set, of all drafts in a folder; returns how many rows it has. It is written once and not added to."""
    if file.exists():
        raise SystemExit(f"{file} exists: a blind set does not change")
    number = rows = 0
    for draft in sorted(folder.rglob("*.txt")):
        for group in read_drafts(draft, known):
            number += 1
            rows += add(group[: len(_LETTERS)], file, number, BLIND_ID.rstrip("-"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--blind", type=Path, help="make the blind set instead")
    arguments = parser.parse_args()
    if arguments.blind:
        known = frozenset(load_policy().categories)
        print(write_blind(arguments.folder, arguments.blind, known), "rows")
        return
    objects = {file.stem: list(read_objects(file)) for file in own_files(arguments.rows)}
    prefixes = {name: rows[0]["id"].split("-")[0] for name, rows in objects.items()}
    last = {name: max(int(row["id"].split("-")[1].rstrip(_LETTERS)) for row in rows) for name, rows in objects.items()}
    known = frozenset(load_policy().categories)
    seen = {row["text"] for rows in objects.values() for row in rows}
    added: Counter[str] = Counter()
    for draft in sorted(arguments.folder.rglob("*.txt")):
        name = FILES.get(draft.stem, draft.stem)
        try:
            groups = list(read_drafts(draft, known))
        except DraftError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        for group in groups:
            fresh = [item for item in group if item.text not in seen]
            if len(fresh) < len(group) or len(group) > len(_LETTERS) or name not in last:
                if fresh:
                    print(f"left out: {draft.name}: {fresh[0].text[:60]!r}", file=sys.stderr)
                continue
            seen |= {item.text for item in group}
            last[name] += 1
            added[name] += add(group, arguments.rows / f"{name}.jsonl", last[name], prefixes[name])
    print(dict(added), "in all", sum(added.values()))


if __name__ == "__main__":
    main()
