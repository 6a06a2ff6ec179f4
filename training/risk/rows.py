"""Owns the rows that the risk scorer is trained and measured on: reading, groups, and which side of the split each is on.

The blind set is not for this package: what reads rows here refuses it by its name and by its ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLIND_FILE = "blind.jsonl"
BLIND_ID = "blind-"
REGISTERS = ("chat", "homework", "professional", "slang", "typos")
KINDS = ("request", "wrapped", "needs_picture", "image_text", "composed", "document_order")
INTENTS = ("do", "about", "neither")
LONGEST = 6_000
"""Characters of an outside row; longer ones are left out."""

EVERYDAY = "dolly-1k"
"""The outside source of everyday requests."""
TRAINED = frozenset({EVERYDAY, "advbench", "hb-advtrain", "maliciousinstruct"})
"""The outside sources that are trained on. All others are held out, so that a figure on them counts."""


class BlindRowsError(ValueError):
    """Somebody pointed training, tuning or checking at the blind set."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text and what is known of it."""

    id: str
    text: str
    categories: tuple[str, ...]
    """Empty for a harmless text."""
    intent: str
    """One of ``INTENTS``; "" where nobody said."""
    group: str
    """Twins share it."""
    source: str
    file: str
    language: str = "en"
    register: str = "chat"
    kind: str = "request"
    harmful: bool = False

    @property
    def is_ordinary(self) -> bool:
        """Everyday traffic: neither a twin nor about harm."""
        return not self.harmful and (self.file.startswith("ordinary") or self.source == EVERYDAY)

    @property
    def is_everyday(self) -> bool:
        """What thresholds are set by: ordinary, English, and with no harm in it, so without the grim prose among the ordinary rows."""
        return self.is_ordinary and self.language == "en" and self.intent == "neither"


def read_objects(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises ``BlindRowsError`` for the blind set, whatever it is called."""
    if file.name == BLIND_FILE:
        raise BlindRowsError(f"{file} is the blind set: it is measured once per released model, never read here")
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if str(row.get("id", "")).startswith(BLIND_ID):
                raise BlindRowsError(f"{file} holds rows of the blind set ({row['id']})")
            yield row


def own_files(folder: Path) -> list[Path]:
    """The files of this project's rows, without the blind set."""
    return [file for file in sorted(folder.glob("*.jsonl")) if file.name != BLIND_FILE]


def own_rows(folder: Path) -> list[Row]:
    """This project's rows."""
    return [own_row(row, file.stem) for file in own_files(folder) for row in read_objects(file)]


def own_row(row: dict[str, Any], file: str) -> Row:
    """One of this project's rows, from its JSON form."""
    categories = tuple(row["categories"])
    return Row(
        row["id"],
        row["text"],
        categories,
        row["intent"],
        f"{file}:{group_of(row['id'])}",
        "own",
        file,
        row["language"],
        row["register"],
        row["kind"],
        harmful=bool(categories),
    )


def group_of(row_id: str) -> str:
    """Twins are told by ids that differ only in the last letter."""
    return row_id.rstrip("abcdefgh")


def outside_rows(file: Path) -> list[Row]:
    """The rows that are trained on: their source is one of ``TRAINED`` and their licence allows weights that ship."""
    rows = (row for row in read_objects(file) if row["source"] in TRAINED and row["may_train_shipped_weights"])
    return [outside_row(row) for row in rows if len(row["prompt"]) <= LONGEST]


def measured_rows(file: Path, most: int = 200) -> list[Row]:
    """Rows of the sources that nothing is trained on, so many of each source and label, the same every time."""
    found: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in read_objects(file):
        if row["source"] not in TRAINED and len(row["prompt"]) <= LONGEST:
            made = outside_row(row)
            found[made.source, made.harmful].append(made)
    return [row for rows in found.values() for row in sorted(rows, key=lambda row: _digest(row.id))[:most]]


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def outside_row(row: dict[str, Any]) -> Row:
    """A row of a public set."""
    source, text, harmful = row["source"], row["prompt"], row["label"] != "benign"
    opening = " ".join(re.findall(r"\w+", text.lower())[:8])
    intent = "do" if harmful else "neither" if source == EVERYDAY else ""
    return Row(row["id"], text, (), intent, f"{source}:{opening}", source, source, harmful=harmful)


def side(group: str) -> str:
    """train 80 % · calibrate 10 % · test 10 %, by the group's name alone, so that it never changes. Outside everyday requests
    go 50, 30, 20: thresholds need more of them than training does."""
    number = int(_digest(group), 16) % 10
    calibrate, test = (5, 8) if group.startswith(f"{EVERYDAY}:") else (8, 9)
    return "train" if number < calibrate else "calibrate" if number < test else "test"


def sides(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by side. Twins are never split."""
    split: dict[str, list[Row]] = {"train": [], "calibrate": [], "test": []}
    for row in rows:
        split[side(row.group)].append(row)
    return split


def twins(rows: Sequence[Row]) -> list[int]:
    """Places of the rows whose group holds both a harmful and a harmless text."""
    labels: dict[str, set[bool]] = defaultdict(set)
    for row in rows:
        labels[row.group].add(row.harmful)
    return [at for at, row in enumerate(rows) if len(labels[row.group]) == 2]
