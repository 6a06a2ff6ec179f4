"""Held-out rewriting, measured by really generating: what a rewriter in training says to validation rows.

It is asked as serving asks it (``models.local.model_inputs``, greedy), and its answers are read as serving reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmguard.errors import InputError, RewriteError, TraceError
from vlmguard.models.local import model_inputs
from vlmguard.policy import Policy
from vlmguard.rewriters.model import read_trace
from vlmguard.statistics import Interval, share
from vlmguard.train.rows import Row, Rows, read_own_trace
from vlmguard.types import Level, Modality, Refinement

_SLACK = 48
"""Tokens that an answer may run past the longest trace of the dataset."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was said to one row, and what it was worth."""

    id: str
    prompt: str
    expected: str
    said: str
    benign: bool
    valid: bool
    """Whether it is a trace that serving would take: ``rewriters.model.read_trace``, at the first attempt."""
    decided: bool
    """Whether it forwards or rewrites as the dataset's trace does. What is no trace decides nothing right."""
    forwarded: bool
    levels: Mapping[str, bool]
    """Modality → whether its level is the dataset's; only those that the dataset's trace judges."""
    group: str


def judge(row: Row, said: str, policy: Policy) -> Rewritten:
    """Compares an answer with the dataset's trace. Raises ``InputError`` when that is none."""
    try:
        wanted, evidence_first = read_own_trace(row.said)
    except TraceError as error:
        raise InputError(f"row {row.id} cannot be compared with, since its trace is none: {error}") from error
    try:
        found: Refinement | None = read_trace(row.chat, said, policy, evidence_first=evidence_first)
    except (TraceError, RewriteError):
        found = None
    return Rewritten(
        id=row.id,
        prompt=row.chat.prompt,
        expected=row.said,
        said=said,
        benign=row.benign,
        valid=found is not None,
        decided=found is not None and (found.prompt is None) == (wanted.prompt is None),
        forwarded=found is not None and found.prompt is None,
        levels={
            modality.value: found is not None and _level(found, modality) is finding.level
            for modality, finding in wanted.report
            if finding is not None
        },
        group=row.group,
    )


def _level(refinement: Refinement, modality: Modality) -> Level | None:
    finding = dict(refinement.report)[modality]
    return None if finding is None else finding.level


def figures(rewritten: Sequence[Rewritten]) -> dict[str, Interval]:
    """Shares with their intervals; a share of nothing is left out.

    ``valid`` traces · ``decisions`` as the dataset's · ``forwarded_benign`` · ``rewritten_risky`` · ``level_text``, ``level_image``,
    ``level_cross``: agreement with the dataset's levels.
    """
    found = {
        "valid": [(one.valid, one.group) for one in rewritten],
        "decisions": [(one.decided, one.group) for one in rewritten],
        "forwarded_benign": [(one.forwarded, one.group) for one in rewritten if one.benign],
        "rewritten_risky": [(one.valid and not one.forwarded, one.group) for one in rewritten if not one.benign],
    }
    for modality in Modality:
        name = modality.value
        found[f"level_{name}"] = [(one.levels[name], one.group) for one in rewritten if name in one.levels]
    return {
        name: share([right for right, _ in rows], [group for _, group in rows]) for name, rows in found.items() if rows
    }


def rewrite(model: Any, processor: Any, rows: Sequence[Row], most: int, *, together: bool = False) -> Iterator[str]:
    """Answers of at most ``most`` tokens to rows, asked at once; ``together``: in step with the other processes."""
    import torch

    inputs = model_inputs(processor, [row.asked for row in rows]).to(model.device)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=most, do_sample=False, use_cache=True, synced_gpus=together)
    for tokens in output:
        yield processor.decode(tokens[length:], skip_special_tokens=True)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Validation rows, evenly spread over all, and how they are asked."""

    rows: Rows
    processor: Any
    most_tokens: int
    """Of an answer."""
    at_once: int
    """Rows in a batch."""

    def measure(self, model: Any, process: int = 0, processes: int = 1, *, together: bool = False) -> list[Rewritten]:
        """Generates for this process's part of the rows. Each has the same number of them, so some may come twice."""
        each = -(-len(self.rows) // processes)
        numbers = [(process + step * processes) % len(self.rows) for step in range(each)]
        found: list[Rewritten] = []
        for start in range(0, each, self.at_once):
            rows = [self.rows[number] for number in numbers[start : start + self.at_once]]
            answers = rewrite(model, self.processor, rows, self.most_tokens, together=together)
            found += [judge(row, said, self.rows.policy) for row, said in zip(rows, answers, strict=True)]
        return found


def held_out(rows: Rows, processor: Any, *, most: int, longest_trace: int, at_once: int) -> HeldOut | None:
    """``most`` of the rows; ``None`` where there are none."""
    chosen = _spread(len(rows), most)
    return HeldOut(rows.only(chosen), processor, longest_trace + _SLACK, at_once) if chosen else None


def measurable(rows: Rows, most: int) -> set[str]:
    """The names of the ``figures`` that ``most`` of the rows, whose traces are some, will have."""
    found: set[str] = set()
    for number in _spread(len(rows), most):
        form = rows.form(number)
        wanted, _ = read_own_trace(form["trace"])
        found |= {"valid", "decisions", "forwarded_benign" if form["benign"] else "rewritten_risky"}
        found |= {f"level_{modality.value}" for modality, finding in wanted.report if finding is not None}
    return found


def _spread(rows: int, most: int) -> list[int]:
    """Evenly over all."""
    count = min(most, rows)
    return [number * rows // count for number in range(count)]
