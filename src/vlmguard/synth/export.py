"""The finished dataset on disk: JSON Lines and sharded Parquet with the pictures inside, splits by group, TRL's rows.

Splits go by picture: rows that share one, directly or over other rows, are on the same side. The mix keeps every row of the scarcer
kind and as many of the other as the ratio allows, chosen by the hash of their ids, so the same rows at every export.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmguard import trace
from vlmguard.errors import MissingExtraError
from vlmguard.jsonl import Appender, read_rows
from vlmguard.prompts import prompts_hash
from vlmguard.synth.pictures import PictureStore
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.rows import from_json, text_key
from vlmguard.synth.store import KEPT, REJECTED, Store, Stored
from vlmguard.types import Chat, Image, Message, Refinement, Text

ROWS_PER_SHARD = 2_000
"""At 100 KB a picture a shard has about 200 MB."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    train: int
    validation: int
    left_out: int
    """Rows that passed every gate and did not fit the mix."""
    rejected: int


def export(store: Store, recipe: Recipe, folder: Path) -> Exported:
    """Writes ``data.jsonl``, ``{train,validation}-NNNNN.parquet`` and ``rejected.jsonl`` into ``folder``, anew each time."""
    pictures = PictureStore(folder / "pictures")
    for old in (*folder.glob("*.parquet"), folder / "data.jsonl", folder / "rejected.jsonl"):
        old.unlink(missing_ok=True)
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
    rejected = 0
    with Appender(folder / "rejected.jsonl") as out:
        for stored in store.rows(REJECTED):
            out.append(
                {"id": stored.id, "gate": stored.gate, "reason": stored.reason, "origin": stored.body.get("origin")}
            )
            rejected += 1
    return Exported(shards["train"].count, shards["validation"].count, chosen.left_out, rejected)


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
            "teacher": recipe.teacher,
            "target": recipe.target,
            "judge": recipe.judge,
            "seed": recipe.seed,
            "ablations": list(recipe.ablations),
            "prompts": {name: prompts_hash(name)[:16] for name in ("hindsight", "causal", "optimise")},
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
            have[bool(stored.body["benign"])].append(_share(f"mix {stored.id}"))
        wanted = {True: ratio["benign"], False: ratio["risky"]}
        scale = min(len(have[kind]) / share for kind, share in wanted.items() if share > 0)
        for kind, shares in have.items():
            most = round(scale * wanted[kind])
            if most < len(shares):
                self._below[kind] = sorted(shares)[most]

    def takes(self, stored: Stored) -> bool:
        """Whether a row is part of the dataset; counts those that are not."""
        taken = _share(f"mix {stored.id}") < self._below[bool(stored.body["benign"])]
        self.left_out += not taken
        return taken


def _share(name: str) -> float:
    """A number in [0, 1) that a name alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


class _Groups:
    """Union-find over picture hashes: rows that share one belong together."""

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
        """The group of a row: its pictures', or its words' where it has none."""
        hashes = _image_hashes(stored.body)
        return self.find(hashes[0]) if hashes else text_key(from_json(stored.body, pictures))


def _groups(store: Store) -> _Groups:
    groups = _Groups()
    for stored in store.rows(KEPT):
        groups.join(_image_hashes(stored.body))
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
        if len(self._rows) == ROWS_PER_SHARD:
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
        self._rows = []


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


def training_rows(folder: Path, rewriter_input: Callable[[Chat], Chat]) -> Iterator[dict[str, Any]]:
    """TRL's ``prompt``/``completion``/``images`` rows of an exported dataset.

    ``rewriter_input`` turns a chat into the rewriter's input: the very function that serving uses.
    """
    pictures = PictureStore(folder / "pictures")
    for row in read_rows(folder / "data.jsonl"):
        body = row | {"licence": "", "origin": "", "safe": None, "unsafe": None}
        chat = rewriter_input(from_json(body, pictures).chat)
        yield {
            "id": row["id"],
            "split": row["split"],
            "prompt": [{"role": message.role, "content": _contents(message)} for message in chat.messages],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": row["trace"]}]}],
            "images": [{"bytes": image.data, "path": None} for image in chat.images],
        }


def _contents(message: Message) -> list[dict[str, str]]:
    return [
        {"type": "image", "text": ""} if isinstance(part, Image) else {"type": "text", "text": part.text}
        for part in message.parts
        if isinstance(part, Image | Text)
    ]


def export_trl(folder: Path, rewriter_input: Callable[[Chat], Chat]) -> int:
    """Writes ``trl/{train,validation}.parquet``; returns how many rows. Loads with ``datasets.load_dataset("parquet", …)``."""
    pyarrow, parquet = _arrow()
    text = pyarrow.string()
    part = pyarrow.struct([("type", text), ("text", text)])
    turns = pyarrow.list_(pyarrow.struct([("role", text), ("content", pyarrow.list_(part))]))
    images = pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)]))
    schema = pyarrow.schema([("id", text), ("prompt", turns), ("completion", turns), ("images", images)])
    (folder / "trl").mkdir(exist_ok=True)
    files = {name: folder / "trl" / f"{name}.parquet" for name in ("train", "validation")}
    writers = {name: parquet.ParquetWriter(file, schema, compression="zstd") for name, file in files.items()}
    count = 0
    for row in training_rows(folder, rewriter_input):
        writers[row.pop("split")].write_table(pyarrow.Table.from_pylist([row], schema=schema))
        count += 1
    for writer in writers.values():
        writer.close()
    return count
