"""Measures released weights on the blind set: once per released model, and nothing is chosen by it.

    python -m training.risk.blind [--file data/risk/blind.jsonl] [--weights src/vlmguard/rewriters/weights] [--out FILE.json]

This is the only program that reads the set; everything else in this package refuses it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.risk.check import overlap_problems
from training.risk.export import report, served_scores, slices
from training.risk.measures import ACTS, share
from training.risk.rows import Row, own_row, own_rows


def read(file: Path) -> list[Row]:
    """The blind rows."""
    with file.open(encoding="utf-8") as lines:
        return [own_row(json.loads(line), "blind") for line in lines]


def by_category(scores: np.ndarray, rows: list[Row]) -> Iterator[tuple[str, str]]:
    """Per category: harmful rows flagged, and the harmless twins of such rows."""
    for category in sorted({name for row in rows for name in row.categories}):
        groups = {row.group for row in rows if category in row.categories}
        for label, harmful in (("harmful", True), ("harmless twins", False)):
            places = [
                at
                for at, row in enumerate(rows)
                if row.group in groups and row.harmful is harmful and (not harmful or category in row.categories)
            ]
            yield f"{label} · category {category}", share(int((scores[places] >= ACTS).sum()), len(places))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("data/risk/blind.jsonl"))
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--weights", type=Path, default=Path("src/vlmguard/rewriters/weights"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = read(arguments.file)
    scores = served_scores(arguments.weights, [row.text for row in rows])
    table = report(scores, rows) | dict(by_category(scores, rows))
    harmless = [
        at for at, row in enumerate(rows) if not row.harmful and at not in set(slices(rows).get("harmless · twins", []))
    ]
    table["harmless · no twin"] = share(int((scores[harmless] >= ACTS).sum()), len(harmless))
    near = list(overlap_problems(rows, [row.text for row in own_rows(arguments.rows)]))
    table["rows that are near a training row"] = str(len(near))
    text = json.dumps(table, indent=1, ensure_ascii=False)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
