"""Every row put through what the trainer feeds, once, before anything is trained: lengths, and rows that cannot be trained on.

A row that is too long, whose trace is none or holds what the tokenizer reads as its own, is an error row and never a shorter one.
Rows whose pictures are missing or damaged stop the run: then the dataset is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmguard.errors import InputError, TraceError, VlmguardError
from vlmguard.jsonl import Appender, read_rows
from vlmguard.models.local import model_inputs
from vlmguard.models.special_tokens import special_token_in
from vlmguard.train.rows import Row, Rows, example, read_own_trace

Numbers = npt.NDArray[np.int32]
IGNORED = -100
"""The label of a token that is not learned."""
_COMPARED = 16
"""Rows whose tokens are compared with those of serving."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """One row."""

    index: int
    id: str
    asked: int = 0
    """Tokens of the prompt, those of the pictures among them."""
    said: int = 0
    """Tokens that are learned: the trace and the end of the turn."""
    images: int = 0
    error: str = ""
    """Why it cannot be trained on."""
    broken: bool = False
    """Whether the dataset is to blame as a whole: a picture is missing or damaged."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """All rows of a split: a few bytes each."""

    asked: Numbers
    said: Numbers
    images: Numbers
    """One number a row."""
    errors: tuple[Measured, ...]
    """The rows that cannot be trained on."""

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """Indices of the rows that can be trained on."""
        return np.setdiff1d(np.arange(len(self.asked)), [row.index for row in self.errors])

    @property
    def most_said(self) -> int:
        """Tokens of the longest trace."""
        return int(self.said[self.kept].max(initial=0))

    @property
    def tokens(self) -> int:
        """Of one pass over the rows."""
        return int((self.asked + self.said)[self.kept].sum())

    def lines(self) -> list[str]:
        """For people."""
        kept = self.kept
        head = f"{len(kept):,} rows, {self.tokens:,} tokens a pass"
        if self.errors:
            head += f"; {len(self.errors):,} error rows are left out, the first: {self.errors[0].id}: {self.errors[0].error}"
        told = (("tokens asked", self.asked), ("tokens learned", self.said), ("pictures", self.images))
        return [head, *(f"{name}: {_spread(values[kept])}" for name, values in told)]


def _spread(values: Numbers) -> str:
    if not len(values):
        return "none"
    low, middle, high, most = (int(value) for value in np.percentile(values, (0, 50, 95, 100), method="higher"))
    return f"{low:,} to {most:,}, median {middle:,}, 95 % up to {high:,}"


class Probe:
    """Puts rows through the collator of the trainer, one by one.

    Args:
        rows: what is measured.
        collator: the trainer's own.
        processor: the base model's.
        longest: most tokens of a row.
        ends: tokens that end a generation.
    """

    def __init__(self, rows: Rows, collator: Any, processor: Any, longest: int, ends: Sequence[int]) -> None:
        self._rows = rows
        self._collator = collator
        self._processor = processor
        self._longest = longest
        self._ends = frozenset(ends)
        self._pictures = _picture_tokens(processor)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Measured:
        """Raises ``InputError`` when training would feed other tokens than serving does."""
        try:
            row = self._rows[index]
            made = example(row, self._processor)
        except VlmguardError as error:
            return Measured(index, self._rows.form(index)["id"], error=str(error), broken=True)
        if word := special_token_in(self._processor, row.said):
            return Measured(index, row.id, error=f"its trace holds {word}, which the tokenizer reads as its own")
        if reason := _no_trace(row.said):
            return Measured(index, row.id, error=reason)
        images = len(made["images"])
        batch = self._collator([made])
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        learned = labels != IGNORED
        said = int(learned.sum())
        found = Measured(index, row.id, len(ids) - said, said, images)
        if self._pictures & set(labels[learned].tolist()):
            return replace(found, error="a token of a picture would be learned")
        if index < _COMPARED:
            self._compare(row, ids[~learned].tolist(), labels[learned].tolist())
        if len(ids) > self._longest:
            return replace(found, error=f"it has {len(ids):,} tokens, and {self._longest:,} fit")
        return found

    def _compare(self, row: Row, fed: list[int], learned: list[int]) -> None:
        served = model_inputs(self._processor, [row.asked])["input_ids"][0].tolist()
        if served != fed:
            at = next(
                (n for n, (a, b) in enumerate(zip(served, fed, strict=False)) if a != b), min(len(served), len(fed))
            )
            raise InputError(
                f"row {row.id}: from token {at} on training would feed other tokens than serving ({len(fed)} and"
                f" {len(served)}): the chat template writes a turn otherwise when an answer follows"
            )
        if self._ends and not self._ends & set(learned):
            ends = self._processor.tokenizer.convert_ids_to_tokens(sorted(self._ends))
            raise InputError(
                f"no token that ends a generation ({', '.join(ends)}) is learned: the chat template closes the assistant's turn"
                " with another one, and the rewriter would never stop; give a template that ends with it, or mend"
                " generation_config.json"
            )


def _no_trace(said: str) -> str:
    """Why a row has nothing to learn from; nothing is the empty string."""
    try:
        read_own_trace(said)
    except TraceError as error:
        return f"its trace is none: {error}"
    return ""


def without_traces(rows: Rows) -> tuple[Measured, ...]:
    """The rows that nothing can be compared with, since their traces are none."""
    found = (
        Measured(index, form["id"], error=_no_trace(form["trace"]))
        for index, form in enumerate(map(rows.form, range(len(rows))))
    )
    return tuple(row for row in found if row.error)


def _picture_tokens(processor: Any) -> frozenset[int]:
    """What stands for a picture in a prompt."""
    names = ("image_token_id", "video_token_id", "boi_token_id", "eoi_token_id")
    places = (
        processor,
        processor.tokenizer,
    )  # some families name in one of them what stands before the pictures are put in
    found = (getattr(place, name, None) for place in places for name in names)
    return frozenset(int(value) for value in found if value is not None)


def measure(probe: Probe, *, workers: int = 0, advance: Callable[[int], None] = lambda steps: None) -> Lengths:
    """All rows, in ``workers`` processes. Raises ``InputError`` when pictures are missing."""
    from torch.utils.data import DataLoader

    numbers = np.zeros((3, len(probe)), dtype=np.int32)
    errors: list[Measured] = []
    for row in DataLoader(probe, batch_size=None, num_workers=workers):
        numbers[:, row.index] = row.asked, row.said, row.images
        if row.error:
            errors.append(row)
        advance(1)
    if broken := [row for row in errors if row.broken]:
        shown = "; ".join(f"{row.id}: {row.error}" for row in broken[:_SHOWN])
        raise InputError(f"the dataset is broken in {len(broken):,} of {len(probe):,} rows: {shown}")
    return Lengths(numbers[0], numbers[1], numbers[2], tuple(errors))


def write_lengths(lengths: Lengths, numbers: Path, errors: Path, validation: Sequence[Measured] = ()) -> None:
    """The numbers of the training rows as NumPy's ``.npz``, and the error rows of both splits with their reasons, a line each."""
    errors.unlink(missing_ok=True)
    with Appender(errors) as out:
        for split, rows in (("train", lengths.errors), ("validation", validation)):
            for row in rows:
                tokens = row.asked + row.said
                out.append({"id": row.id, "split": split, "reason": row.error, "tokens": tokens, "row": row.index})
    fresh = numbers.with_name(f"new.{numbers.name}")
    np.savez(fresh, asked=lengths.asked, said=lengths.said, images=lengths.images)
    fresh.replace(numbers)


def read_lengths(numbers: Path, errors: Path) -> tuple[Lengths, tuple[Measured, ...]]:
    """The inverse: the training rows, and the error rows for validation."""
    with np.load(numbers) as kept:
        asked, said, images = (kept[name] for name in ("asked", "said", "images"))
    found: dict[str, list[Measured]] = {"train": [], "validation": []}
    for form in read_rows(errors):
        found[form.get("split", "train")].append(Measured(form["row"], form["id"], error=form["reason"]))
    return Lengths(asked, said, images, tuple(found["train"])), tuple(found["validation"])
