"""The unit of work that every engine runs: a row's JSON in, what became of it as JSON out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlmguard import trace
from vlmguard.errors import TraceError
from vlmguard.policy import Policy
from vlmguard.synth.pictures import PictureStore
from vlmguard.synth.pipeline import Crew, Kept, Memory, make_twin, synthesise
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.rows import from_json, to_json
from vlmguard.synth.store import FAILED, KEPT, REJECTED
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
    """``{"state", "gate", "reason", "result", "twin", "calls", "prompt_tokens", "completion_tokens"}`` of one row.

    Raises ``ModelError`` when a model cannot be asked: whether that is the row's fault the engine decides.
    """
    memory = Memory(known, save)
    row = from_json(body, pictures)
    ended = await synthesise(row, crew, recipe, policy, memory)
    twin = None
    if recipe.writes_twins and not row.benign:
        try:
            twin = to_json(await make_twin(row, crew, recipe, memory), pictures) | {"twin": True}
        except TraceError:
            twin = None  # a twin is a bonus: the row itself stands
    spent = {
        "calls": memory.calls,
        "prompt_tokens": memory.prompt_tokens,
        "completion_tokens": memory.completion_tokens,
    }
    if isinstance(ended, Kept):
        return {"state": KEPT, "gate": "", "reason": "", "result": _form(ended), "twin": twin, **spent}
    return {"state": REJECTED, "gate": ended.gate, "reason": ended.reason, "result": None, "twin": twin, **spent}


def failed(error: BaseException) -> dict[str, Any]:
    """The same shape for a row that could not be worked on."""
    return {
        "state": FAILED,
        "gate": "",
        "reason": f"{type(error).__name__}: {error}",
        "result": None,
        "twin": None,
        "calls": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }


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
