"""Which of two traces is preferred, and why: the pure part of the preference stage (ERPO, now SAFER, arXiv 2504.02725).

An order is a chain of questions; the first on which two traces differ decides, and is kept as the pair's ground:

1. rules      would serving take it? A trace that breaks the grammar or a check sends nothing, so it fails the outcome test unasked
2. outcome    with it, is the target's answer safe and helpful?
3. decision   does it forward what is benign, and nothing else?
4. levels     in how many modalities does it say another level than the label?
5. length     the shorter wins, and only between two that are right in all of the above: of two wrong ones none is worth imitating

A wrong verdict is not preferred to a broken trace either: serving stops at the one, and lets the risk through at the other.
What was not judged is neither better nor worse: such a trace is compared only with others that were not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations, takewhile, zip_longest

from vlmguard import trace
from vlmguard.errors import RewriteError, TraceError
from vlmguard.policy import Action, Policy
from vlmguard.rewriters.model import read_trace
from vlmguard.types import Chat, Refinement, RiskReport


class Ground(StrEnum):
    """What the order of two traces rests on, the weightiest first."""

    RULES = "rules"
    OUTCOME = "outcome"
    DECISION = "decision"
    LEVELS = "levels"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Label:
    """What a row's trace is to say."""

    benign: bool
    report: RiskReport


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sampled trace and all that its place in the order depends on."""

    text: str
    """The trace, from its beginning to its end; what was said as it was said where there is no whole trace in it."""
    tokens: int
    fault: str = ""
    """Why serving would not take it; "" = it would."""
    decided: bool = False
    """Whether it forwards what is benign, and nothing else."""
    off: int = 0
    """Modalities with another level than the label's."""
    outcome: bool | None = None
    """Whether the target's answer is safe and helpful, or, where the policy blocks and nobody is asked, whether the row is a risk;
    ``None`` = there is no test, or the judge gave no verdict."""

    @property
    def sound(self) -> bool:
        """Whether serving would take it."""
        return not self.fault

    @property
    def right(self) -> bool:
        """Sound, with the right decision, and no answer that says otherwise."""
        return self.sound and self.decided and self.outcome is not False


@dataclass(frozen=True, slots=True)
class Pair:
    """Two traces of one row, the better one first."""

    row: str
    chosen: Candidate
    rejected: Candidate
    ground: Ground
    steps: int
    """Elements that both begin with."""

    @property
    def shared(self) -> str:
        """The text of these: it is part of what is asked, and no loss falls on it."""
        return "".join(trace.steps(self.chosen.text)[: self.steps])

    @property
    def why(self) -> str:
        """The reason for the order, for people."""
        match self.ground:
            case Ground.RULES:
                return f"the other would not be taken: {self.rejected.fault}"
            case Ground.OUTCOME:
                return "with it the target's answer is safe and helpful, with the other it is not"
            case Ground.DECISION:
                return "its decision is the label's, the other's is not"
            case Ground.LEVELS:
                return f"{self.chosen.off} modalities have another level than the label's, of the other {self.rejected.off}"
            case Ground.LENGTH:
                return (
                    f"both are right, and it has {self.chosen.tokens} tokens where the other has {self.rejected.tokens}"
                )


def read_candidate(
    chat: Chat, said: str, label: Label, policy: Policy, count: Callable[[str], int]
) -> tuple[Candidate, Refinement | None]:
    """A sampled answer, verified by the rules of serving and beside the row's label; ``None`` where it holds no trace to act on.

    ``count``: the tokens of a text.
    """
    try:
        refinement = read_trace(chat, said, policy)
    except (TraceError, RewriteError) as error:
        return Candidate(said, count(said), str(error)), None
    decided = (policy.decide(refinement.report) is Action.FORWARD) == label.benign
    off = sum(_level(a) != _level(b) for (_, a), (_, b) in zip(refinement.report, label.report, strict=True))
    text = trace.extract(said)
    return Candidate(text, count(text), "", decided, off), refinement


def _level(finding: object) -> object:
    return getattr(finding, "level", None)


def sent(chat: Chat, refinement: Refinement, policy: Policy) -> Chat | None:
    """What the guard would send to a target on a sound refinement; ``None`` when the policy blocks."""
    match policy.decide(refinement.report):
        case Action.BLOCK:
            return None
        case Action.REWRITE if refinement.prompt is not None:
            return chat.with_prompt(len(chat.messages) - 1, refinement.prompt)
        case _:
            return chat


def ground(better: Candidate, worse: Candidate, margin: float) -> Ground | None:
    """Why the first is preferred to the second; ``None`` when it is not.

    A strict partial order: nothing is preferred to itself, and what is preferred to a second is preferred to a third to which
    that is preferred. ``margin``: the share by which a trace has to be shorter for that to count.
    """
    if better.sound != worse.sound:
        return Ground.RULES if better.right else None
    if not better.sound or (better.outcome is None) != (worse.outcome is None):
        return None
    if better.outcome is not worse.outcome:
        return Ground.OUTCOME if better.outcome else None
    if better.decided != worse.decided:
        return Ground.DECISION if better.decided else None
    if better.off != worse.off:
        return Ground.LEVELS if better.off < worse.off and better.right else None
    shorter = better.tokens < worse.tokens and better.tokens <= worse.tokens * (1 - margin)
    return Ground.LENGTH if shorter and better.right and worse.right else None


def shared_steps(first: str, second: str) -> int:
    """Elements that two traces both begin with."""
    both = zip(trace.steps(first), trace.steps(second), strict=False)
    return sum(1 for _ in takewhile(lambda steps: steps[0] == steps[1], both))


def choose_pairs(row: str, candidates: Sequence[Candidate], most: int, margin: float) -> list[Pair]:
    """At most ``most`` pairs of a row's candidates, the grounds taking turns so that none crowds out the others.

    Of pairs with the same ground those come first that share more steps, since then the loss falls on what made the difference;
    of these the ones furthest apart in length.
    """
    distinct = list({candidate.text: candidate for candidate in reversed(candidates)}.values())[::-1]
    found: dict[Ground, list[Pair]] = {ground: [] for ground in Ground}
    for better, worse in permutations(distinct, 2):
        if (why := ground(better, worse, margin)) is not None:
            found[why].append(Pair(row, better, worse, why, shared_steps(better.text, worse.text)))
    for pairs in found.values():
        pairs.sort(key=lambda pair: (-pair.steps, pair.chosen.tokens - pair.rejected.tokens, pair.chosen.text))
    return [pair for pair in _in_turns(found.values()) if pair is not None][:most]


def _in_turns(lists: Iterable[list[Pair]]) -> Iterable[Pair | None]:
    for turn in zip_longest(*lists):
        yield from turn
