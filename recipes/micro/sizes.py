"""How large a run is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from recipes.micro.lessons import Steps

REWRITER = "idefics3"
"""The family that rewriters are trained from."""


@dataclass(frozen=True, slots=True)
class Size:
    """Splits × seeds × targets × arms, and how long each thing is taught."""

    families: tuple[str, ...]
    """Of targets. The first takes the outcome test in the synthesis, the others no part in making a rewriter; ``REWRITER`` is one of
    them.
    """
    splits: tuple[int, ...]
    seeds: int
    core: tuple[str, ...]
    """Trained arms of every split and seed."""
    ablations: tuple[str, ...]
    """Trained arms of every split, with the first seed only."""
    steps: Steps
    rewriter_steps: int
    each: int
    """Phrasings of a pair that rewriters and targets are trained on."""
    pairs: int | None = None
    """Of the held-out pairs that are asked about; ``None`` = all that balance."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Those with a rewriter of their own."""
        return (*self.core, *self.ablations)

    @property
    def hindsights(self) -> tuple[bool, ...]:
        """The datasets of a split: with hindsight, and without where an arm asks for it."""
        return (True, False) if "no_hindsight" in self.arms else (True,)

    def seeds_of(self, arm: str) -> range:
        """Seeds that an arm is trained with."""
        return range(self.seeds if arm in self.core else 1)

    @property
    def trained(self) -> Iterator[tuple[str, int, int]]:
        """(arm, split, seed) of every rewriter."""
        return ((arm, split, seed) for arm in self.arms for split in self.splits for seed in self.seeds_of(arm))


_FULL = Size(
    families=("llava", "idefics3", "gemma3"),
    splits=(0, 1, 2),
    seeds=2,
    core=("vlmguard", "text_only"),
    ablations=("no_understanding", "evidence_first", "no_hindsight"),
    steps=Steps(sight=300, captions=150, answers=450),
    rewriter_steps=300,
    each=4,
)
SIZES = {
    "full": _FULL,
    "split": replace(_FULL, splits=(1,), seeds=1),
    "quick": replace(_FULL, families=("llava", "idefics3"), splits=(0,), seeds=1, ablations=()),
    "test": Size(
        families=("idefics3",),
        splits=(0,),
        seeds=1,
        core=("vlmguard",),
        ablations=(),
        steps=Steps(sight=160, captions=40, answers=140),
        rewriter_steps=70,
        each=1,
        pairs=8,
    ),
}
"""``split`` is one that was not looked at while the world was made. ``test`` is the whole way at its smallest: what it measures says
nothing."""
