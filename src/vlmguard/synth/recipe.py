"""A synthesis recipe: what a run is made of, read from YAML, checked before anything is paid for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError
from vlmguard.recipe_file import read_recipe

MIXES: Mapping[str, Mapping[str, float]] = {
    "paper": {"benign": 977, "risky": 8904},
    "twins": {"benign": 1, "risky": 1},
}
"""Ratios of benign to risky rows. ``paper`` is VLMGuard-R1's; ``twins`` writes a harmless twin for every risky row, since with
10 % benign rows a rewriter learns that most requests are risky."""

ABLATIONS = ("no-hindsight", "no-causal", "evidence-first", "text-only")
"""What can be left out or turned round, to see what it is worth."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a run. Paths are relative to the recipe's folder."""

    sources: tuple[str, ...]
    """Specs such as ``vlguard:VLGuard/train.json``."""
    teacher: str
    """Model spec of the teacher (the paper's is InternVL2.5-38B)."""
    target: str = ""
    """Model spec of the target: samples the missing unsafe answers and takes the outcome test. "" leaves both out."""
    judge: str = ""
    """Model spec of the judge: confirms answers, the kept need and the outcome. "" leaves these gates out."""
    policy: str = ""
    seed: int = 0
    best_of: int = 1
    """Rewrites sampled per row; the first that passes every gate with the safest answer is kept."""
    temperature: float = 0.7
    """Of the rewrites beyond the first, which is greedy."""
    ablations: tuple[str, ...] = ()
    mix: str | Mapping[str, float] = ""
    """A name of ``MIXES``, a ratio ``{benign: 1, risky: 3}``, or "" for all rows as they are."""
    keep_apart: tuple[str, ...] = ()
    """Files or folders of evaluation sets: rows that repeat their pictures or texts are dropped."""
    validation: float = 0.05
    """Share of the groups that go into the validation split."""
    concurrency: int = 64
    """Rows under way at a time."""
    folder: Path = field(default=Path(), compare=False)
    """Where the recipe lies."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("the recipe names no source")
        if not self.teacher:
            raise InputError("the recipe names no teacher: no row gets through the three stages without one")
        if self.judge and not self.target:
            raise InputError("the recipe names a judge and no target: without a target there is no answer to judge")
        for word in self.ablations:
            if word not in ABLATIONS:
                raise InputError(f"{word!r} is no ablation; these are: {', '.join(ABLATIONS)}")
        if isinstance(self.mix, str) and self.mix and self.mix not in MIXES:
            raise InputError(f"{self.mix!r} is no mix; these are: {', '.join(MIXES)}, or a ratio of benign and risky")
        if not isinstance(self.mix, str):
            _check_ratio(self.mix)
        if not 0 <= self.temperature <= 2:
            raise InputError("temperature is a number from 0 to 2")
        if self.best_of < 1 or self.concurrency < 1:
            raise InputError("best_of and concurrency start at 1")
        if not 0 <= self.validation < 1:
            raise InputError("validation is a share from 0 to below 1")

    @property
    def writes_twins(self) -> bool:
        """Whether a harmless twin is written for each risky row."""
        return self.mix == "twins"

    @property
    def ratio(self) -> Mapping[str, float] | None:
        """Benign to risky, or ``None`` for rows as they come."""
        return MIXES[self.mix] if isinstance(self.mix, str) and self.mix else self.mix or None

    def fingerprint(self) -> str:
        """Digest of everything that decides what a row becomes. How fast and where is not part of it."""
        form = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in ("folder", "concurrency", "validation", "mix")
        } | {"twins": self.writes_twins}
        return hashlib.sha256(json.dumps(form, sort_keys=True, default=str).encode()).hexdigest()


def _check_ratio(mix: Mapping[str, Any]) -> None:
    shares = list(mix.values())
    numbers = all(isinstance(share, int | float) and not isinstance(share, bool) for share in shares)
    if (
        set(mix) != {"benign", "risky"}
        or not numbers
        or not all(0 <= share < math.inf for share in shares)
        or not any(shares)
    ):
        raise InputError(
            "a mix is a ratio of 'benign' and 'risky', two numbers that are not below 0, one of them above"
        )


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file. Raises ``InputError`` with the key and the reason."""
    return read_recipe(path, Recipe, "synth")
