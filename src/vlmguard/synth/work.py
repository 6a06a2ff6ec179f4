"""The unit of work that every engine runs: a row's JSON in, what became of it as JSON out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from vlmguard import trace
from vlmguard.errors import ModelError, TraceError
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.prompts import prompts_hash
from vlmguard.synth.crew import Crew, OutageError
from vlmguard.synth.pipeline import Kept, Memory, Rejected, make_twin, synthesise
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.rows import Row, from_json, to_json
from vlmguard.synth.store import FAILED, KEPT, REJECTED, StoreError
from vlmguard.types import Verdict

Save = Callable[[str, str, Any, float], None]
"""step, key, value, seconds."""


async def work(
    body: dict[str, Any],
    known: dict[str, tuple[str, Any]],
    crew: Crew,
    recipe: Recipe,
    policy: Policy,
    pictures: PictureStore,
    save: Save,
) -> dict[str, Any]:
    """``{"state", "gate", "reason", "result", "twin"}`` of one row; ``twin`` is another row that is to be done, or ``None``.

    A row that cannot be worked on has ``failed``, whatever is wrong with it: it must not end the run. Raises ``OutageError``,
    when it is a model that answers nobody, and ``StoreError``.
    """
    try:
        row = from_json(body, pictures)
        memory = Memory(known, save)
        ended = await synthesise(row, crew, recipe, policy, memory)
        if isinstance(ended, Rejected):
            return _ended(REJECTED, ended.gate, ended.reason)
        wanted = recipe.writes_twins and not row.benign
        twin = await _twin(row, crew, memory, body, pictures) if wanted else None
        return _ended(KEPT, result=_form(ended) | {"made_by": made_by(crew, recipe)}, twin=twin)
    except (OutageError, StoreError):
        raise
    except Exception as error:
        return _ended(FAILED, reason=f"{type(error).__name__}: {error}")


async def _twin(
    row: Row, crew: Crew, memory: Memory, body: dict[str, Any], pictures: PictureStore
) -> dict[str, Any] | None:
    """A twin is a bonus: where the teacher writes none that can be read, or cannot be asked for it, the row itself stands."""
    try:
        made = await make_twin(row, crew, memory)
    except OutageError:
        raise
    except (TraceError, ModelError):
        return None
    return to_json(made, pictures) | {"clusters": body.get("clusters", [])}


def made_by(crew: Crew, recipe: Recipe) -> dict[str, Any]:
    """Who and what made a row, as it was when it was made."""
    return {
        "models": dict(crew.names),
        "seed": recipe.seed,
        "ablations": list(recipe.ablations),
        "prompts": {name: prompts_hash(name)[:16] for name in PROMPTS},
    }


def run_fingerprint(crew: Crew, recipe: Recipe, policy: Policy) -> str:
    """Digest of everything that decides what a row becomes: settings, models with their weights, prompts, policy."""
    parts = [
        recipe.fingerprint(),
        policy.hash,
        sorted(crew.identities.items()),
        "" if crew.judge is None else crew.judge.name,
        prompts_hash(*PROMPTS),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


PROMPTS = ("hindsight", "observe", "causal", "optimise", "twin", "need")
"""The templates of the synthesis. A judge's own is part of its name."""


def _ended(
    state: str,
    gate: str = "",
    reason: str = "",
    result: dict[str, Any] | None = None,
    twin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {"state": state, "gate": gate, "reason": reason, "result": result, "twin": twin}


def _form(kept: Kept) -> dict[str, Any]:
    return {
        "trace": trace.render(kept.refinement),
        "before": _verdict(kept.verdict_before),
        "after": _verdict(kept.verdict_after),
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "judge": verdict.judge,
        "safe": verdict.safe,
        "helpful": verdict.helpful,
        "refused": verdict.refused,
        "safety": verdict.safety,
        "rationale": verdict.rationale,
    }
