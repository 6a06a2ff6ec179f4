"""The finished dataset on disk: JSON Lines and sharded Parquet with the pictures inside, splits by group, TRL's rows.

Splits go by picture: rows that share one, directly or over other rows, are on the same side. The mix keeps every row of the scarcer
kind and as many of the other as the ratio allows, chosen by the hash of their ids, so the same rows at every export.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vlmguard import trace
from vlmguard.dataset import training_rows
from vlmguard.errors import InputError, MissingExtraError
from vlmguard.jsonl import Appender
from vlmguard.pictures import PictureStore
from vlmguard.synth.pipeline import TWIN
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.rows import from_json, text_key
from vlmguard.synth.store import FAILED, KEPT, REJECTED, Store, Stored, StoreError
from vlmguard.types import Chat, Refinement

ROWS_PER_SHARD = 2_000
BYTES_PER_SHARD = 200_000_000
"""Of pictures: what is held in memory until a shard is written, and well below what a column of Parquet takes."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    train: int
    validation: int
    left_out: int
    """Rows that passed every gate and did not fit the mix."""
    rejected: int


def export(store: Store, recipe: Recipe, folder: Path) -> Exported:
    """Writes ``data.jsonl``, ``{train,validation}-NNNNN.parquet``, ``rejected.jsonl`` and ``failed.jsonl`` into ``folder``, anew
    each time.

    Raises ``InputError`` when the mix leaves nothing, ``StoreError`` when the disk does not take what is written.
    """
    try:
        return _export(store, recipe, folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error}; free space, run again") from error


def _export(store: Store, recipe: Recipe, folder: Path) -> Exported:
    pictures = PictureStore(folder / "pictures")
    for old in (*folder.glob("*.parquet"), *(folder / f"{name}.jsonl" for name in ("data", "rejected", "failed"))):
        old.unlink(missing_ok=True)
    rejected = _write_reasons(store, REJECTED, folder / "rejected.jsonl")
    _write_reasons(store, FAILED, folder / "failed.jsonl")
    chosen = _Mix(store, recipe)
    groups = _groups(store)
    shards = {name: _Shards(folder, name) for name in ("train", "validation")}
    with Appender(folder / "data.jsonl") as out:
        for stored in store.rows(KEPT):
            if not chosen.takes(stored):
                continue
            group = groups.of(stored, pictures)
            split = "validation" if _share(group) < recipe.validation else "train"
            row = _row(stored, recipe, store, group, split)
            out.append(row)
            shards[split].add(row, pictures)
    for shard in shards.values():
        shard.close()
    return Exported(shards["train"].count, shards["validation"].count, chosen.left_out, rejected)


def _write_reasons(store: Store, state: str, file: Path) -> int:
    """Rows of one state with why they are in it; returns how many."""
    count = 0
    with Appender(file) as out:
        for stored in store.rows(state):
            origin = stored.body.get("origin")
            out.append({"id": stored.id, "gate": stored.gate, "reason": stored.reason, "origin": origin})
            count += 1
    return count


def _row(stored: Stored, recipe: Recipe, store: Store, group: str, split: str) -> dict[str, Any]:
    """A row of the dataset. The two answers are provenance: no rewriter may be shown them."""
    assert stored.result is not None
    body = stored.body
    steps = store.steps(stored.id)
    refinement = trace.parse(stored.result["trace"])
    return {
        "id": stored.id,
        "messages": body["messages"],
        "benign": body["benign"],
        "category": refinement.report.worst.category,
        "trace": render(refinement, recipe),
        "prompt": refinement.prompt,
        "split": split,
        "group": group,
        "provenance": {
            "origin": body["origin"],
            "licence": body["licence"],
            "source_category": body["category"],
            "images": _image_hashes(body),
            "safe": _answer(body, steps, "safe"),
            "unsafe": _answer(body, steps, "unsafe"),
            **stored.result["made_by"],
            "seconds": {step: round(seconds, 3) for step, seconds in store.step_seconds(stored.id).items()},
            "verdicts": {"before": stored.result["before"], "after": stored.result["after"]},
        },
    }


def _answer(body: dict[str, Any], steps: dict[str, tuple[str, Any]], kind: str) -> str | None:
    """The source's answer, or the sampled one."""
    if body[kind] is not None or body["benign"]:
        return body[kind]  # type: ignore[no-any-return]
    return str(steps[f"answer.{kind}"][1]) if f"answer.{kind}" in steps else None


def render(refinement: Refinement, recipe: Recipe) -> str:
    """The trace that a rewriter is trained to say, in the recipe's order."""
    if "evidence-first" in recipe.ablations:
        return trace.render(refinement, evidence_first=True)
    return trace.render(refinement)


def _image_hashes(body: dict[str, Any]) -> list[str]:
    """SHA-256 of the pictures: their names in the store."""
    return [
        Path(part["image"]).stem for message in body.get("messages", ()) for part in message["parts"] if "image" in part
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Mix and splits


class _Mix:
    """Which of the kept rows fit the ratio of benign to risky."""

    def __init__(self, store: Store, recipe: Recipe) -> None:
        self.left_out = 0
        self._below: dict[bool, float] = {True: 1.0, False: 1.0}
        ratio = recipe.ratio
        if ratio is None:
            return
        have: dict[bool, list[float]] = {True: [], False: []}
        for stored in store.rows(KEPT):
            have[bool(stored.body["benign"])].append(_pair_share(stored.id))
        wanted = {True: ratio["benign"], False: ratio["risky"]}
        for kind, word in ((True, "harmless"), (False, "risky")):
            if wanted[kind] and not have[kind] and have[not kind]:
                raise InputError(
                    f"the mix asks for {word} rows, and none was kept: change the recipe's mix (nothing is lost), or add {word} rows"
                )
        scale = min(len(have[kind]) / share for kind, share in wanted.items() if share > 0)
        for kind, shares in have.items():
            most = round(scale * wanted[kind])
            if most < len(shares):
                self._below[kind] = sorted(shares)[most]

    def takes(self, stored: Stored) -> bool:
        """Whether a row is part of the dataset; counts those that are not."""
        taken = _pair_share(stored.id) < self._below[bool(stored.body["benign"])]
        self.left_out += not taken
        return taken


def _pair_share(id: str) -> float:
    """The same for a row and its twin, so that pairs stay together as far as the ratio allows."""
    return _share(f"mix {id.removesuffix(TWIN)}")


def _share(name: str) -> float:
    """A number in [0, 1) that a name alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


class _Groups:
    """Union-find over clusters of near-duplicate pictures: rows that share one belong together."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, names: Iterable[str]) -> None:
        """Makes all of them one group."""
        first = ""
        for name in names:
            root = self.find(name)
            if first and root != first:
                self._parent[max(first, root)] = min(first, root)
                first = min(first, root)
            first = first or root

    def find(self, name: str) -> str:
        """The group's name."""
        root = name
        while (above := self._parent.get(root, root)) != root:
            root = above
        while (above := self._parent.get(name, name)) != root:
            self._parent[name], name = root, above
        return root

    def of(self, stored: Stored, pictures: PictureStore) -> str:
        """The group of a row: its pictures' (near-duplicates are one), or its words' where it has none."""
        clusters = stored.body["clusters"]
        return self.find(clusters[0])[:32] if clusters else text_key(from_json(stored.body, pictures))[:32]


def _groups(store: Store) -> _Groups:
    groups = _Groups()
    for stored in store.rows(KEPT):
        groups.join(stored.body["clusters"])
    return groups


# ---------------------------------------------------------------------------------------------------------------------
# Parquet


class _Shards:
    """Parquet files of one split, a bounded number of rows in memory."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        self._split = split
        self._rows: list[dict[str, Any]] = []
        self._number = 0
        self._bytes = 0
        self.count = 0

    def add(self, row: dict[str, Any], pictures: PictureStore) -> None:
        """Takes a row, with its pictures' bytes."""
        names = [part["image"] for message in row["messages"] for part in message["parts"] if "image" in part]
        images = [{"bytes": pictures.path(name).read_bytes(), "path": name} for name in names]
        flat = {key: row[key] for key in ("id", "benign", "category", "trace", "prompt", "group")}
        flat |= {"messages": json.dumps(row["messages"], ensure_ascii=False), "images": images}
        flat |= {"licence": row["provenance"]["licence"], "origin": row["provenance"]["origin"]}
        flat |= {"provenance": json.dumps(row["provenance"], ensure_ascii=False)}
        self._rows.append(flat)
        self.count += 1
        self._bytes += sum(len(image["bytes"]) for image in images)
        if len(self._rows) == ROWS_PER_SHARD or self._bytes >= BYTES_PER_SHARD:
            self._write()

    def close(self) -> None:
        """Writes the last shard."""
        if self._rows:
            self._write()

    def _write(self) -> None:
        pyarrow, parquet = _arrow()
        table = pyarrow.Table.from_pylist(self._rows, schema=_schema(pyarrow))
        name = self._folder / f"{self._split}-{self._number:05d}.parquet"
        fresh = name.with_suffix(".new")
        parquet.write_table(table, fresh, compression="zstd", row_group_size=256)
        fresh.replace(name)
        self._number += 1
        self._rows, self._bytes = [], 0


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("writing Parquet", "synth") from error
    return pyarrow, pyarrow.parquet


def _schema(pyarrow: Any) -> Any:
    text = pyarrow.string()
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
    return pyarrow.schema(
        [
            ("id", text), ("benign", pyarrow.bool_()), ("category", text), ("trace", text), ("prompt", text),
            ("group", text), ("messages", text), ("images", pyarrow.list_(image)), ("licence", text), ("origin", text),
            ("provenance", text),
        ]
    )  # fmt: skip


def export_trl(folder: Path, rewriter_input: Callable[[Chat], Chat]) -> int:
    """Writes ``trl/{train,validation}.parquet``; returns how many rows. Loads with ``datasets.load_dataset("parquet", …)``."""
    pyarrow, parquet = _arrow()
    text = pyarrow.string()
    part = pyarrow.struct([("type", text), ("text", text)])
    turns = pyarrow.list_(pyarrow.struct([("role", text), ("content", pyarrow.list_(part))]))
    images = pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)]))
    schema = pyarrow.schema([("id", text), ("prompt", turns), ("completion", turns), ("images", images)])
    count = 0
    rows = training_rows(folder, rewriter_input)
    (folder / "trl").mkdir(exist_ok=True)
    files = {name: folder / "trl" / f"{name}.parquet" for name in ("train", "validation")}
    writers = {
        name: parquet.ParquetWriter(file.with_suffix(".new"), schema, compression="zstd")
        for name, file in files.items()
    }
    try:
        for chunk in iter(lambda: list(islice(rows, 64)), []):
            for name, writer in writers.items():
                held = [{key: row[key] for key in schema.names} for row in chunk if row["split"] == name]
                if held:
                    writer.write_table(pyarrow.Table.from_pylist(held, schema=schema))
            count += len(chunk)
    finally:
        for writer in writers.values():
            writer.close()
    for file in files.values():
        file.with_suffix(".new").replace(file)
    return count
