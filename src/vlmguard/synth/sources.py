"""Sources of raw material → ``Row``s. Each knows its shape, its licence, and what to do when something is missing.

A source is named by a spec, ``NAME:PATH``: ``vlguard:data/VLGuard/train.json``, ``spa-vl:data/SPA-VL``, ``jsonl:mine.jsonl``.
``check`` looks at all that a run would need *before* a single model call is paid for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlmguard.errors import InputError, MissingExtraError, VlmguardError
from vlmguard.images import DEFAULT_LIMITS
from vlmguard.jsonl import read_lines
from vlmguard.synth.rows import Row, chat_from_messages, image_from_bytes, simple_chat
from vlmguard.types import Image


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read: counted and written down, never the end of a run."""

    origin: str
    reason: str


class Source(Protocol):
    """Where rows come from."""

    @property
    def warning(self) -> str:
        """What its user has to know, or ""."""
        ...

    def check(self) -> list[str]:
        """All that is missing, each with how to get it; empty when the source can be read."""
        ...

    def rows(self) -> Iterator[Row | BadRow]:
        """The rows, in the same order at every reading, one at a time in memory."""
        ...


@dataclass(frozen=True, slots=True)
class VLGuard:
    """VLGuard's train.json with the folder ``train`` of pictures beside it (MIT-like research licence, gated).

    A safe picture gives a benign row (``safe_instruction``) and a risky one (``unsafe_instruction``), an unsafe picture a risky
    one (``instruction``). The answers to risky ones are refusals, so the safe answer is there and the unsafe one is sampled.
    """

    path: Path
    warning: str = ""
    licence = "VLGuard (CC BY-NC-SA 4.0; pictures under their own)"

    def check(self) -> list[str]:
        get = "accept the terms of ys-zong/VLGuard on its hub page, download train.json and unpack train.zip beside it"
        problems = _missing_file(self.path, get)
        if not problems and not self._pictures.is_dir():
            problems.append(f"{self._pictures} is missing: {get}")
        if not problems:
            problems += _missing_keys(_first(_json_list(self.path)), ("id", "image", "safe", "instr-resp"), self.path)
        if not problems:
            problems += _missing_pictures(
                (self._pictures / str(_get(entry, "image")) for entry in _json_list(self.path)), get
            )
        return problems

    @property
    def _pictures(self) -> Path:
        return self.path.parent / "train"

    def rows(self) -> Iterator[Row | BadRow]:
        for entry in _json_list(self.path):
            yield from _guarded(f"vlguard:{_get(entry, 'id')}", lambda entry=entry: self._rows(entry))

    def _rows(self, entry: dict[str, Any]) -> Iterator[Row]:
        image = _picture_file(self._pictures, entry["image"])
        for pair in entry["instr-resp"]:
            kind = next(key for key in ("safe_instruction", "unsafe_instruction", "instruction") if key in pair)
            benign = kind == "safe_instruction"
            yield Row(
                id=f"vlguard-{entry['id']}-{kind.removesuffix('_instruction')}",
                chat=simple_chat(pair[kind], (image,)),
                benign=benign,
                licence=self.licence,
                origin=f"vlguard:{entry['id']}",
                safe=pair["response"],
                category=None if benign else entry.get("harmful_subcategory") or entry.get("harmful_category"),
            )


@dataclass(frozen=True, slots=True)
class VLSBench:
    """VLSBench's data.json with its pictures. It has no answers: both are sampled."""

    path: Path
    licence = "VLSBench (CC BY-NC-ND 4.0)"
    warning: str = (
        "VLSBench is a test set: a rewriter trained on it cannot be measured on it any more. The paper did train on it."
    )

    def check(self) -> list[str]:
        get = "download Foreshhh/vlsbench and name its data.json; the pictures stand beside it in imgs/"
        problems = _missing_file(self.path, get)
        if not problems:
            problems += _missing_keys(
                _first(_json_list(self.path)), ("instruction_id", "instruction", "image_path"), self.path
            )
        if not problems:
            folder = self.path.parent
            problems += _missing_pictures(
                (folder / str(_get(entry, "image_path")) for entry in _json_list(self.path)), get
            )
        return problems

    def rows(self) -> Iterator[Row | BadRow]:
        for entry in _json_list(self.path):
            yield from _guarded(f"vlsbench:{_get(entry, 'instruction_id')}", lambda entry=entry: self._rows(entry))

    def _rows(self, entry: dict[str, Any]) -> Iterator[Row]:
        yield Row(
            id=f"vlsbench-{entry['instruction_id']}",
            chat=simple_chat(entry["instruction"], (_picture_file(self.path.parent, entry["image_path"]),)),
            benign=False,
            licence=self.licence,
            origin=f"vlsbench:{entry['instruction_id']}",
            category=entry.get("sub_category") or entry.get("category"),
        )


@dataclass(frozen=True, slots=True)
class Preferences:
    """A folder (or file) of Parquet with a question, a picture and answers: SPA-VL and BeaverTails-V. Of a folder only the
    files that belong to no test or validation split.

    Either ``chosen`` and ``rejected`` (the safe and the unsafe answer), or one ``response`` with ``is_response_safe``.
    """

    name: str
    path: Path
    licence: str
    get: str
    warning: str = ""

    def check(self) -> list[str]:
        files = _parquet_files(self.path)
        if not files:
            return [f"{self.path} holds no Parquet file of a training split: {self.get}"]
        problems = []
        for file in files:
            columns = set(_parquet(file).schema_arrow.names)
            missing = [name for name in ("question", "image") if name not in columns]
            if not {"chosen", "rejected"} <= columns and not {"response", "is_response_safe"} <= columns:
                missing.append("chosen and rejected (or response and is_response_safe)")
            if missing:
                problems.append(f"{file} lacks {', '.join(missing)}; it has {', '.join(sorted(columns))}")
        return problems

    def rows(self) -> Iterator[Row | BadRow]:
        for file in _parquet_files(self.path):
            place = file.relative_to(self.path.parent).with_suffix("").as_posix()
            for number, entry in enumerate(parquet_rows(file)):
                origin = f"{self.name}:{place}:{number}"
                yield from _guarded(origin, lambda entry=entry, origin=origin: iter((self._row(entry, origin),)))

    def _row(self, entry: dict[str, Any], origin: str) -> Row:
        safe, unsafe = entry.get("chosen"), entry.get("rejected")
        if "response" in entry:
            is_safe = str(entry["is_response_safe"]).lower() in ("yes", "true", "1")
            safe, unsafe = (entry["response"], None) if is_safe else (None, entry["response"])
        return Row(
            id=origin.replace(":", "-").replace("/", "-"),
            chat=simple_chat(entry["question"], (_embedded_picture(entry["image"], self.path, origin),)),
            benign=False,
            licence=self.licence,
            origin=origin,
            safe=safe,
            unsafe=unsafe,
            category=entry.get("category") or entry.get("class3") or entry.get("class2") or entry.get("class1"),
        )


@dataclass(frozen=True, slots=True)
class Generic:
    """JSON Lines or Parquet of our own shape (docs/synth.md):

    ``{"id", "prompt" | "messages", "images": [paths] , "benign": bool, "safe", "unsafe", "category", "licence"}``
    """

    path: Path
    warning: str = ""

    def check(self) -> list[str]:
        problems = _missing_file(self.path, "name a .jsonl or .parquet file (docs/synth.md has the shape)")
        if not problems and self.path.suffix not in (".jsonl", ".parquet"):
            problems.append(f"{self.path} ends neither in .jsonl nor in .parquet")
        return problems

    def rows(self) -> Iterator[Row | BadRow]:
        for number, entry in self._entries():
            origin = f"{self.path.name}:{number}"
            yield from _guarded(origin, lambda entry=entry, origin=origin: iter((self._row(entry, origin),)))

    def _entries(self) -> Iterator[tuple[int, Any]]:
        if self.path.suffix == ".parquet":
            yield from enumerate(parquet_rows(self.path))
            return
        yield from read_lines(self.path)

    def _row(self, entry: Any, origin: str) -> Row:
        if isinstance(entry, bytes):
            entry = json.loads(entry)
        if not isinstance(entry, dict):
            raise InputError("a row is a JSON object")
        unknown = entry.keys() - _FIELDS
        if unknown:
            raise InputError(f"unknown field {min(unknown)!r}; the fields are {', '.join(sorted(_FIELDS))}")
        if not isinstance(entry.get("benign"), bool):
            raise InputError('a row says whether it is harmless: "benign": true or false')
        pictures = tuple(_embedded_picture(image, self.path.parent, origin) for image in entry.get("images") or ())
        chat = (
            chat_from_messages(entry["messages"], pictures)
            if entry.get("messages") is not None
            else simple_chat(_string(entry, "prompt"), pictures)
        )
        return Row(
            id=_string(entry, "id"),
            chat=chat,
            benign=entry["benign"],
            licence=_string(entry, "licence"),
            origin=origin,
            safe=entry.get("safe"),
            unsafe=entry.get("unsafe"),
            category=entry.get("category"),
        )


_HELD_OUT = re.compile(r"(?:^|[/_-])(?:test|eval|valid|dev)", re.IGNORECASE)
_FIELDS = frozenset({"id", "prompt", "messages", "images", "benign", "safe", "unsafe", "category", "licence"})


def open_source(spec: str, folder: Path = Path()) -> Source:
    """The source that ``NAME:PATH`` names; a relative path is relative to ``folder``. Raises ``InputError``."""
    name, _, place = spec.partition(":")
    path = folder / place
    match name:
        case "vlguard" if place:
            return VLGuard(path)
        case "vlsbench" if place:
            return VLSBench(path)
        case "spa-vl" if place:
            return Preferences(
                name, path, "SPA-VL (CC BY 4.0)", "download sqrti/SPA-VL and name the folder of its training Parquet"
            )
        case "beavertails-v" if place:
            get = "download PKU-Alignment/BeaverTails-V and name the folder of a category's training Parquet"
            return Preferences(name, path, "BeaverTails-V (CC BY-NC 4.0)", get)
        case "jsonl" | "parquet" if place:
            return Generic(path)
    raise InputError(f"{spec!r} names no source: it is {', '.join(SOURCES)}, each followed by ':' and a path")


SOURCES = ("vlguard", "spa-vl", "beavertails-v", "vlsbench", "jsonl", "parquet")


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _guarded(origin: str, make: Any) -> Iterator[Row | BadRow]:
    """The rows of one entry, or why there are none."""
    try:
        yield from make()
    except (VlmguardError, KeyError, TypeError, ValueError, StopIteration, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        yield BadRow(origin, f"{type(error).__name__}: {reason}")


def _get(entry: Any, key: str) -> Any:
    return entry.get(key, "?") if isinstance(entry, dict) else "?"


def _string(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or (not value and key != "prompt"):
        raise InputError(f"a row needs {key!r}, a string")
    return value


def _missing_file(path: Path, get: str) -> list[str]:
    return [] if path.is_file() else [f"{path} is missing: {get}"]


def _missing_keys(entry: Any, keys: tuple[str, ...], path: Path) -> list[str]:
    missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
    return [f"the first entry of {path} lacks {', '.join(missing)}: is it the right file?"] if missing else []


def _first(entries: Iterator[Any]) -> Any:
    return next(entries, None)


def _json_list(path: Path) -> Iterator[Any]:
    """The entries of a JSON list. These files are tens of megabytes: read whole."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(entries, list):
        raise InputError(f"{path} is no JSON list")
    yield from entries


def _missing_pictures(paths: Iterator[Path], get: str) -> list[str]:
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return []
    return [f"{len(missing)} picture(s) are missing, the first is {missing[0]}: {get}"]


def _picture_file(folder: Path, name: str) -> Image:
    """A picture in ``folder``. A path that leads out of it is refused: who wrote the file may not be who runs it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"the picture {name!r} does not lie in {folder}: put pictures into the source's folder")
    if not path.is_file():
        raise InputError(f"the picture {path} is missing or no regular file")
    try:
        with path.open("rb") as file:
            data = file.read(DEFAULT_LIMITS.max_bytes + 1)
    except OSError as error:
        raise InputError(f"the picture {path} cannot be read: {error.strerror}") from error
    return image_from_bytes(data, path.name)


def _embedded_picture(value: Any, folder: Path, origin: str) -> Image:
    """A picture as Parquet holds it (``{"bytes", "path"}`` or bytes), or a path relative to ``folder``."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if data:
            return image_from_bytes(data, origin)
        value = path
    if isinstance(value, bytes):
        return image_from_bytes(value, origin)
    if isinstance(value, str) and value:
        return _picture_file(folder if folder.is_dir() else folder.parent, value)
    raise InputError("the row has no picture")


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*.parquet") if not _HELD_OUT.search(file.relative_to(path).as_posix()))


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet", "synth") from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, a few at a time in memory."""
    for batch in _parquet(path).iter_batches(batch_size=64):
        yield from batch.to_pylist()
