"""Checks the rows of the risk scorer: form, balance, near-duplicates, and overlap with test sets. Needs datasketch.

    python -m training.risk.check [--rows data/risk] [--against FILE_OR_FOLDER ...] [--table]

Near-duplicates are found by MinHash over runs of three words; at most three rows of one label may share a template. ``--against``
names public test sets (JSON, JSON lines, CSV, text): not one row may repeat a text of theirs, nearly or by eight words in a row.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.risk.rows import INTENTS, KINDS, REGISTERS, Row, own_files, own_row, read_objects, twins
from vlmguard.policy import load_policy

FIELDS = {
    "id": str, "text": str, "categories": list, "intent": str, "register": str, "language": str, "kind": str
}  # fmt: skip
MOST_OF_A_TEMPLATE = 3
LEAST_TWINS = 0.5
LEAST_HARMFUL = 50
"""Of a category, but of ``other``, which is what the others leave."""
ALIKE = 0.7
"""Jaccard similarity of word triples from which two texts are one template."""
OVERLAP = 0.6
RUN = 8
"""Words in a row that no row may share with a test set."""
_ID = re.compile(r"[a-z]{2}-\d{4}[a-h]\Z")
_WORD = re.compile(r"\w+")
_PERMUTATIONS = 64


def form_problems(file: str, objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the form of the rows of one file."""
    known = set(load_policy().categories)
    seen: set[str] = set()
    for number, row in enumerate(objects, start=1):
        where = f"{file}:{number}"
        wrong = [name for name, kind in FIELDS.items() if not isinstance(row.get(name), kind)]
        if wrong or set(row) != set(FIELDS):
            yield f"{where}: fields must be {', '.join(FIELDS)}"
            continue
        if not _ID.match(row["id"]) or row["id"] in seen:
            yield f"{where}: the id {row['id']!r} is not of the form ab-0001a, or is taken"
        seen.add(row["id"])
        if not row["text"].strip() or row["text"] != row["text"].strip():
            yield f"{where}: the text is empty or has space around it"
        if any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in row["text"]):
            yield f"{where}: control characters in the text"
        if unknown := set(row["categories"]) - known:
            yield f"{where}: no category of the policy: {', '.join(sorted(map(str, unknown)))}"
        if bool(row["categories"]) != (row["intent"] == "do"):
            yield f"{where}: a row has categories if, and only if, its intent is 'do'"
        for name, allowed in (("intent", INTENTS), ("register", REGISTERS), ("kind", KINDS)):
            if row[name] not in allowed:
                yield f"{where}: {name} {row[name]!r} is none of {', '.join(allowed)}"


def balance_problems(rows: Sequence[Row]) -> Iterator[str]:
    """Where the rows as a whole lean to one side."""
    share = len(twins(rows)) / max(1, len(rows))
    if share < LEAST_TWINS:
        yield f"only {share:.0%} of the rows are twins, at least {LEAST_TWINS:.0%} must be"
    harmful = Counter(name for row in rows for name in row.categories)
    for name in sorted(set(load_policy().categories) - {"other"}):
        if harmful[name] < LEAST_HARMFUL:
            yield f"{name}: {harmful[name]} harmful rows, at least {LEAST_HARMFUL} are needed"


def folded(text: str) -> str:
    """Letters and digits in lower case, single spaces."""
    return " ".join(_WORD.findall(text.lower()))


def shingles(text: str) -> set[str]:
    """Runs of three words; of a text of fewer words the text itself; of one without spaces, runs of four characters."""
    words = folded(text).split()
    if len(words) < 3 and len(text) > 24:
        return {text[at : at + 4] for at in range(len(text) - 3)}
    return {" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))}


def clusters(texts: Sequence[str], alike: float = ALIKE) -> list[list[int]]:
    """Places of texts that are alike, in groups of two and more."""
    from datasketch import MinHash, MinHashLSH

    sets = [shingles(text) for text in texts]
    index = MinHashLSH(threshold=alike, num_perm=_PERMUTATIONS)
    parents = list(range(len(texts)))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    for at, some in enumerate(sets):
        sketch = MinHash(num_perm=_PERMUTATIONS)
        sketch.update_batch([shingle.encode() for shingle in some])
        for other in index.query(sketch):
            if len(some & sets[other]) >= alike * len(some | sets[other]):
                parents[root(at)] = root(other)
        index.insert(at, sketch)
    found: dict[int, list[int]] = defaultdict(list)
    for at in range(len(texts)):
        found[root(at)].append(at)
    return [places for places in found.values() if len(places) > 1]


def template_problems(rows: Sequence[Row]) -> Iterator[str]:
    """Templates that too many rows of one label share."""
    for places in clusters([row.text for row in rows]):
        for harmful in (True, False):
            same = [rows[at].id for at in places if rows[at].harmful is harmful]
            if len(same) > MOST_OF_A_TEMPLATE:
                yield f"{len(same)} {'harmful' if harmful else 'harmless'} rows of one template: {', '.join(same[:6])}"


def texts_of(path: Path) -> Iterator[str]:
    """All texts of five words and more in a file or a folder of test sets."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.suffix in (".json", ".jsonl", ".csv", ".tsv", ".txt") and file.is_file():
            yield from (text for text in _strings(file) if len(folded(text).split()) >= 5)


def _strings(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8", errors="replace")
    match file.suffix:
        case ".csv" | ".tsv":
            for row in csv.reader(text.splitlines(), delimiter="\t" if file.suffix == ".tsv" else ","):
                yield from row
        case ".txt":
            yield from text.splitlines()
        case ".jsonl":
            for line in filter(str.strip, text.split("\n")):
                yield from _leaves(json.loads(line))
        case _:
            yield from _leaves(json.loads(text))


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)


def overlap_problems(rows: Sequence[Row], tests: Sequence[str]) -> Iterator[str]:
    """Rows that repeat a text of a test set."""
    runs: dict[str, int] = {}
    sets = [shingles(text) for text in tests]
    holders: dict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(tests):
        for run in _runs(text):
            runs.setdefault(run, at)
        for shingle in sets[at]:
            holders[shingle].append(at)
    for row in rows:
        shared = next((run for run in _runs(row.text) if run in runs), None)
        if shared is not None:
            yield f"{row.id} shares {RUN} words in a row with a test set: {shared!r}"
            continue
        some = shingles(row.text)
        near = Counter(at for shingle in some for at in holders.get(shingle, ()))
        for at, count in near.most_common(1):
            if count >= OVERLAP * len(some | sets[at]):
                yield f"{row.id} is nearly a text of a test set: {tests[at][:80]!r}"


def _runs(text: str) -> Iterator[str]:
    words = folded(text).split()
    for at in range(len(words) - RUN + 1):
        yield " ".join(words[at : at + RUN])


def table(rows: Sequence[Row]) -> str:
    """How many rows there are of each category, intent, register, language, kind and length."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        words = len(row.text.split())
        counts["file × intent"][f"{row.file} · {row.intent}"] += 1
        counts["register"][row.register] += 1
        counts["language"][row.language] += 1
        counts["kind"][row.kind] += 1
        counts["words"][
            "1-4"
            if words < 5
            else "5-12"
            if words < 13
            else "13-30"
            if words < 31
            else "31-60"
            if words < 61
            else "61-"
        ] += 1
        for name in row.categories:
            counts["category"][name] += 1
    lines = [f"{len(rows)} rows, {len({row.group for row in rows})} groups, {len(twins(rows))} of them in twins"]
    for title, found in counts.items():
        lines.append(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(found.items())))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="test sets: files or folders")
    parser.add_argument("--table", action="store_true", help="print how many rows there are of each kind")
    arguments = parser.parse_args()
    problems: list[str] = []
    rows: list[Row] = []
    for file in own_files(arguments.rows):
        objects = list(read_objects(file))
        found = list(form_problems(file.name, objects))
        problems += found
        if not found:
            rows += [own_row(row, file.stem) for row in objects]
    problems += balance_problems(rows)
    problems += template_problems(rows)
    tests = [text for path in arguments.against for text in texts_of(path)]
    problems += overlap_problems(rows, tests)
    if arguments.table:
        print(table(rows))
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(rows)} rows against {len(tests)} texts of test sets: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
