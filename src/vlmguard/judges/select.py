"""The table of judges, and how one is named: ``refusal``, ``choice``, ``match``, ``rules:FILE``, ``RUBRIC:SPEC``, ``guard:SPEC``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlmguard.errors import InputError
from vlmguard.judges.guard_model import GuardModelJudge
from vlmguard.judges.model import ModelJudge
from vlmguard.judges.programmatic import ChoiceJudge, MatchJudge, RulesJudge
from vlmguard.judges.refusal import RefusalJudge
from vlmguard.judges.rubrics import RUBRICS
from vlmguard.protocols import Judge, Model

Open = Callable[[str], tuple[Model, str]]
"""A model's spec → the model as it is to be asked, and its name."""

PLAIN: dict[str, Callable[[], Judge]] = {"refusal": RefusalJudge, "choice": ChoiceJudge, "match": MatchJudge}
JUDGES: dict[str, str] = {
    "refusal": "DSR: refusal strings, case-folded",
    "choice": "the letter of a multiple choice",
    "match": "the reference stands in the answer",
    "rules:FILE": "rules from a file of JSON lines",
    "three-way:SPEC": "a model: unsafe, refused, safe and helpful, with a score from 0 to 10",
    "paper:SPEC": "a model: safety 0–10 and helpfulness %, as VLMGuard-R1 has it (the words are ours)",
    "siuo:SPEC": "a model: safe and effective, as SIUO has it (the words are ours)",
    "reference:SPEC": "a model: how right beside a reference (MM-Vet; the words are ours)",
    "guard:SPEC": "a guard model that says safe or unsafe",
}


def make_judge(spec: str, open_model: Open, *, key: bytes = b"vlmguard judge") -> Judge:
    """The judge of a spec. Raises ``InputError``, ``MissingExtraError``, ``ModelError``."""
    kind, _, rest = spec.partition(":")
    if kind in PLAIN and not rest:
        return PLAIN[kind]()
    if kind == "rules" and rest:
        return RulesJudge(Path(rest))
    if kind in RUBRICS and rest:
        model, name = open_model(rest)
        return ModelJudge(model, name, kind, key=key)
    if kind == "guard" and rest:
        model, name = open_model(rest)
        return GuardModelJudge(model, name)
    raise InputError(f"{spec!r} names no judge: there are {', '.join(JUDGES)}")
