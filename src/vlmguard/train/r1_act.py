"""Rows after R1-Act (arXiv 2508.00324): understanding, assessment with its reason, and then to stop or to go on, in few words.

About a thousand such rows are the first, cheap way to a rewriter. What is kept and what goes: docs/decisions/0018.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmguard import trace
from vlmguard.dataset import PICTURES, ROWS, checked_rows
from vlmguard.errors import InputError, TraceError
from vlmguard.pictures import PictureStore
from vlmguard.types import Evidence, Refinement

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[。！？])\s*(?=\S)")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    benign: int
    risky: int
    validation: int


def shorten(refinement: Refinement) -> Refinement:
    """The same verdict in few words.

    What is forwarded stops behind its assessment. What is not goes on: the reasons, one piece of evidence of the gravest modality,
    the first sentence of the analysis, and the whole prompt, since that is what the target is sent.
    """
    if refinement.prompt is None:
        return Refinement(refinement.understanding, refinement.report)
    analysis = _SENTENCE_END.split(refinement.analysis, maxsplit=1)[0].strip()
    return Refinement(
        refinement.understanding, refinement.report, (_weightiest(refinement),), analysis, refinement.prompt
    )


def _weightiest(refinement: Refinement) -> Evidence:
    """The first piece of evidence of the gravest modality that has one."""
    levels = {modality: 0 if finding is None else int(finding.level) for modality, finding in refinement.report}
    return max(refinement.evidence, key=lambda item: levels[item.modality])


def choose(ids: Sequence[tuple[str, bool]], count: int, benign: float, seed: int) -> set[str]:
    """Ids of ``count`` rows with that share of benign ones, drawn by their hash. ``ids``: (id, whether it is benign).

    Raises ``InputError`` when there are too few of either kind.
    """
    chosen: set[str] = set()
    wanted = {True: round(count * benign), False: count - round(count * benign)}
    for kind, word in ((True, "benign"), (False, "risky")):
        have = sorted((id for id, is_benign in ids if is_benign is kind), key=lambda id: _draw(seed, id))
        if len(have) < wanted[kind]:
            raise InputError(
                f"{count} rows with {benign:.0%} benign ones need {wanted[kind]} {word} training rows, and the dataset has"
                f" {len(have)}: ask for fewer rows, or another share"
            )
        chosen.update(have[: wanted[kind]])
    return chosen


def write_rows(folder: Path, out: Path, *, count: int = 1000, benign: float = 0.3, seed: int = 0) -> Written:
    """A dataset of short rows from one of ``vlmguard synth``, for ``vlmguard train sft``. Its validation rows are all kept.

    Raises ``InputError`` when ``folder`` holds no dataset or too few rows, or ``out`` is not empty.
    """
    if count < 1 or not 0 <= benign <= 1:
        raise InputError("rows are 1 or more, the benign share a number from 0 to 1")
    try:
        empty = not out.exists() or not any(out.iterdir())
    except OSError as error:
        raise InputError(f"{out} cannot be a dataset's folder ({error.strerror}): name another one") from error
    if not empty:
        raise InputError(f"{out} is not empty: name another folder")
    ids = [(row["id"], row["benign"]) for _, row in checked_rows(folder) if row["split"] == "train"]
    chosen = choose(ids, count, benign, seed)
    have, give = PictureStore(folder / PICTURES), PictureStore(out / PICTURES)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}): name another folder") from error
    counts = {"benign": 0, "risky": 0, "validation": 0}
    fresh = out / f".{ROWS}.new"
    with fresh.open("w", encoding="utf-8") as written:
        for row in _shortened(folder, chosen):
            for picture in _pictures(row):
                have.get(picture)  # it is what its name says
                _link(have.path(picture), give.path(picture))
            kind = "validation" if row["split"] != "train" else "benign" if row["benign"] else "risky"
            counts[kind] += 1
            written.write(json.dumps(row, ensure_ascii=False) + "\n")
    fresh.replace(out / ROWS)
    return Written(**counts)


def _shortened(folder: Path, chosen: set[str]) -> Iterator[dict[str, Any]]:
    for _, row in checked_rows(folder):
        if row["split"] == "train" and row["id"] not in chosen:
            continue
        try:
            short = shorten(trace.parse(row["trace"]))
        except TraceError as error:
            raise InputError(f"row {row['id']} cannot be shortened, since its trace is none: {error}") from error
        yield row | {"trace": trace.render(short)}


def _pictures(row: dict[str, Any]) -> list[str]:
    return [part["image"] for message in row["messages"] for part in message["parts"] if "image" in part]


def _link(source: Path, place: Path) -> None:
    """The picture under another name, or a copy where the disk does not do that."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:
        try:
            shutil.copyfile(source, place)
        except OSError as error:
            raise InputError(f"the picture {source} cannot be copied: {error.strerror}") from error


def _draw(seed: int, id: str) -> str:
    return hashlib.sha256(f"{seed} {id}".encode()).hexdigest()
