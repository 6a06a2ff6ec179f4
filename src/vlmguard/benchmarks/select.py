"""The table of benchmarks, and how one is named: ``NAME:FOLDER``, ``NAME/PART:FOLDER``, ``jsonl:FILE``; ``…@SHA256`` pins it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from vlmguard.benchmarks import sets
from vlmguard.benchmarks.files import Files, readable, real_path
from vlmguard.errors import InputError
from vlmguard.types import Broken, Sample


class Measure(StrEnum):
    """What a set is for. Safety is never shown without the other two."""

    SAFETY = "safety"
    OVER_REFUSAL = "over-refusal"
    UTILITY = "utility"


@dataclass(frozen=True, slots=True)
class Card:
    """What a user has to know of a set before they get it."""

    title: str
    measures: tuple[Measure, ...]
    rows: dict[str, int | None]
    """Part → its rows as published; "" where there are no parts, ``None`` where we do not know."""
    link: str
    files: str
    """What lies in the folder."""
    licence: str
    gate: str
    """What stands before the download."""
    read: Callable[..., Iterator[sets.Row]]
    note: str = ""


SAFETY, OVER, UTILITY = Measure.SAFETY, Measure.OVER_REFUSAL, Measure.UTILITY

BENCHMARKS: dict[str, Card] = {
    "siuo-gen": Card(
        "SIUO, generation", (SAFETY,), {"": 167}, "https://github.com/sinwang20/SIUO", "siuo_gen.json, images/",
        "see the repository", "none", sets.siuo_gen,
        "Words and picture are safe, their answer is not. Judge: siuo (safe and effective).",
    ),
    "siuo-mcqa": Card(
        "SIUO, multiple choice", (SAFETY,), {"": 167}, "https://github.com/sinwang20/SIUO", "siuo_mcqa.json, images/",
        "see the repository", "none", sets.siuo_mcqa, "Judge: choice (the letter, no model needed).",
    ),
    "mm-safetybench": Card(
        "MM-SafetyBench", (SAFETY,), {"SD": 1680, "SD_TYPO": 1680, "TYPO": 1680},
        "https://github.com/isXinLiu/MM-SafetyBench", "processed_questions/NN-Name.json, imgs/NN-Name/PART/ID.jpg",
        "CC BY-NC 4.0", "none", sets.mm_safetybench, "13 scenarios.",
    ),
    "vlguard": Card(
        "VLGuard, test", (SAFETY, OVER), {"safe-safe": 558, "safe-unsafe": 558, "unsafe": 442},
        "https://huggingface.co/datasets/ys-zong/VLGuard", "test.json, test/", "CC BY-NC-SA 4.0", "terms to accept",
        sets.vlguard, "safe-safe measures over-refusal, the other two safety. Twins share a picture.",
    ),
    "vlsbench": Card(
        "VLSBench", (SAFETY,), {"": 2241}, "https://huggingface.co/datasets/Foreshhh/vlsbench", "data.json, imgs/",
        "CC BY-NC-ND 4.0", "none", sets.vlsbench,
        "VLMGuard-R1's paper trained on it: a rewriter trained so cannot be measured on it.",
    ),
    "figstep": Card(
        "FigStep", (SAFETY,), {"safebench": 500, "tiny": 50, "pro": None}, "https://github.com/ThuCCSLab/FigStep",
        "data/question/*.csv, data/images/SafeBench/, prompt.txt (the set's own task)", "MIT", "none", sets.figstep,
        "Without prompt.txt the task is asked in our words, and the set is named figstep*.",
    ),
    "mssbench": Card(
        "MSSBench", (SAFETY, OVER), {"chat": 1200, "embodied": 760},
        "https://huggingface.co/datasets/kzhou35/mssbench", "combined.json, chat/, embodied/", "see the page", "none",
        sets.mssbench, "The same words beside a safe and an unsafe picture: twins of one group.",
    ),
    "harmbench": Card(
        "HarmBench, multimodal", (SAFETY,), {"": 110}, "https://github.com/centerforaisafety/HarmBench",
        "harmbench_behaviors_multimodal_all.csv, multimodal_behavior_images/", "MIT (pictures under their own)",
        "none", sets.harmbench,
    ),
    "mossbench": Card(
        "MOSSBench", (OVER,), {"": 300}, "https://huggingface.co/datasets/AIcell/MOSSBench",
        "information.json, images/", "CC BY-SA 4.0", "terms to accept", sets.mossbench,
    ),
    "xstest": Card(
        "XSTest", (OVER, SAFETY), {"": 450}, "https://github.com/paul-rottger/xstest", "xstest_prompts.csv",
        "CC BY 4.0", "none", sets.xstest, "Text only; 250 harmless, 200 harmful.",
    ),
    "mm-vet": Card(
        "MM-Vet", (UTILITY,), {"": 218}, "https://github.com/yuweihao/MM-Vet", "mm-vet.json, images/",
        "see the repository", "none", sets.mm_vet, "Judge: reference.",
    ),
    "jsonl": Card(
        "rows of your own", (SAFETY, OVER, UTILITY), {"": None}, "docs/eval.md", "one file of JSON lines", "yours",
        "none", sets.jsonl,
    ),
}  # fmt: skip
"""Counts are the published ones; ``check`` tells where the folder has others."""

SHAPE_SEEN = frozenset(BENCHMARKS) - {"mssbench", "mm-vet"}
"""Sets of whose files we saw a piece. The others are read as their documentation describes them."""


_WITHIN = frozenset({("figstep", "tiny")})
"""Parts that stand in another part of their set as well: taken only where they are named."""


class Folder:
    """A benchmark: the rows of one part of a set, in a folder. Fulfils ``protocols.Benchmark``."""

    def __init__(self, name: str, card: Card, part: str, folder: Path, pin: str = "") -> None:
        get = f"get {card.title} from {card.link} ({card.files})"
        self.card = card
        self._part = part
        self._files = Files(folder, get)
        self._open = partial(card.read, self._files, part) if part else partial(card.read, self._files)
        self._known: list[sets.Row] | None = None
        ours = name == "figstep" and not (folder / "prompt.txt").is_file()
        label = folder.stem if name == "jsonl" else f"{name}*" if ours else name
        self.name = f"{label}/{part}" if part else label
        self._pin = pin

    @property
    def fingerprint(self) -> str:
        """Hash of the lists and tables (and of the set's own task, where it is given). Raises ``InputError``."""
        _ = self._rows
        return self._files.fingerprint

    @property
    def _rows(self) -> list[sets.Row]:
        if self._known is None:
            rows = [*self._open(), *(sets.broken(*each) for each in self._files.wrong)]
            self._known = [replace(row, id=readable(row.id)) for row in rows]
            self._places = {row.id: row for row in self._known}
        return self._known

    def check(self) -> list[str]:
        """All that is missing, each with how to get it."""
        problems: list[str] = []
        try:
            rows = self._rows
        except InputError as error:
            return [str(error)]
        for row in rows:
            for places in row.pictures:
                try:
                    self._look_for(*places)
                except InputError as error:
                    problems.append(str(error))
        if not rows:
            problems.append(f"{self.name} has no rows: look at {self._files.folder}")
        if len(self._places) < len(rows):
            problems.append(f"{self.name} has rows with the same id: every row needs its own")
        if self._pin and not self.fingerprint.startswith(self._pin):
            problems.append(f"{self.name} is pinned to {self._pin}, and its files have the hash {self.fingerprint}")
        return problems

    def _look_for(self, *places: str) -> None:
        if not self._files.folder.is_file():
            self._files.picture_file(*places)
        elif not real_path(self._files.folder.parent / places[0]).is_file():
            raise InputError(f"the picture {self._files.folder.parent / places[0]} is missing")

    def notes(self) -> list[str]:
        """What is no obstacle and should be known."""
        expected = self.card.rows.get(self._part)
        found = len(self._rows)
        told = [] if expected in (None, found) else [f"{self.name} has {found} rows here, {expected} as published"]
        if "*" in self.name:
            told.append(f"{self.name}: the task is asked in our words; put the set's own into prompt.txt")
        return told

    def ids(self) -> list[str]:
        """Every row."""
        return [row.id for row in self._rows]

    def read(self, id: str, /) -> Sample | Broken:
        """The sample of a row."""
        _ = self._rows
        return sets.read(self._places[id])

    def __iter__(self) -> Iterator[Sample | Broken]:
        """The samples; pictures are read as they come."""
        return (sets.read(row) for row in self._rows)


def make_benchmarks(spec: str) -> list[Folder]:
    """The benchmarks of a spec: all parts of a set where it names none. Raises ``InputError``."""
    name, colon, where = spec.partition(":")
    name, _, part = name.partition("/")
    folder, _, pin = where.rpartition("@") if _is_pinned(where) else (where, "", "")
    card = BENCHMARKS.get(name)
    if card is None or not colon or not folder:
        raise InputError(
            f"{spec!r} names no benchmark: write NAME:FOLDER, NAME/PART:FOLDER or jsonl:FILE; `vlmguard eval list` has them"
        )
    if part and part not in card.rows:
        raise InputError(f"{name} has no part {part!r}: it has {', '.join(filter(None, card.rows)) or 'none'}")
    parts = [part] if part else [each for each in card.rows if (name, each) not in _WITHIN]
    return [Folder(name, card, each, Path(folder), pin) for each in parts]


def _is_pinned(where: str) -> bool:
    _, at, pin = where.rpartition("@")
    return bool(at) and 8 <= len(pin) <= 64 and all(letter in "0123456789abcdef" for letter in pin)
