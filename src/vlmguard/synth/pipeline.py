"""One row through everything: missing answers, the three stages, the gates. Engines differ in how many rows they run at once
and where, never in what happens to a row.

Each step that calls a model is remembered under a key of all that it depends on, so a run that was killed, or whose later prompt
was changed, repeats no call that is still good.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from vlmguard import trace
from vlmguard.errors import TraceError
from vlmguard.policy import Policy
from vlmguard.prompts import prompts_hash
from vlmguard.protocols import Model
from vlmguard.synth import gates
from vlmguard.synth.causal import causal
from vlmguard.synth.crew import Crew
from vlmguard.synth.hindsight import hindsight, observe
from vlmguard.synth.optimise import optimise, write_twin
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.rows import Row, simple_chat
from vlmguard.trace import Causes, render_evidence
from vlmguard.types import (
    Answer,
    Chat,
    Evidence,
    Finding,
    Level,
    Message,
    Modality,
    Refinement,
    RiskReport,
    Sample,
    Sampling,
    Text,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A row that passed every gate."""

    refinement: Refinement
    verdict_before: Verdict | None = None
    verdict_after: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that did not, with the gate's name and its reason."""

    gate: str
    reason: str


@dataclass(slots=True)
class Memory:
    """What is known of one row's steps. ``save`` is told each new step as soon as it is known."""

    known: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Step → (key, value as JSON)."""
    save: Callable[[str, str, Any, float], None] = lambda step, key, value, seconds: None

    async def step(self, name: str, key: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """The value of a step: remembered when its key is the same, else worked out and saved."""
        if (found := self.known.get(name)) is not None and found[0] == key:
            return found[1]
        started = time.perf_counter()
        value = await work()
        self.known[name] = (key, value)
        self.save(name, key, value, time.perf_counter() - started)
        return value


class _Stop(Exception):
    """Ends the way of a row."""

    def __init__(self, gate: str, reason: str) -> None:
        super().__init__(reason)
        self.rejected = Rejected(gate, reason)


async def synthesise(row: Row, crew: Crew, recipe: Recipe, policy: Policy, memory: Memory) -> Kept | Rejected:
    """A row through all stages and gates. Raises ``ModelError`` when a model cannot be asked; what was done is remembered."""
    try:
        return await _Way(row, crew, recipe, policy, memory).go()
    except _Stop as stop:
        return stop.rejected


TWIN = "+twin"
"""Behind the id of a risky row: the id of its harmless twin."""


async def make_twin(row: Row, crew: Crew, memory: Memory) -> Row:
    """The harmless twin of a risky row: same pictures, another wish. Raises ``ModelError``, ``TraceError``."""
    key = _key("twin", row, _identity_of(crew, "teacher"), prompts_hash("twin"))
    prompt = await memory.step("twin", key, lambda: write_twin(crew.teacher, row.chat))
    return Row(
        id=f"{row.id}{TWIN}",
        chat=simple_chat(prompt, row.chat.images),
        benign=True,
        licence=row.licence,
        origin=f"{row.origin} (twin)",
    )


class _Way:
    """The way of one row; each method is one step of it."""

    def __init__(self, row: Row, crew: Crew, recipe: Recipe, policy: Policy, memory: Memory) -> None:
        self._row = row
        self._recipe = recipe
        self._policy = policy
        self._memory = memory
        self._crew = crew
        self._teacher = crew.teacher
        self._target = crew.target
        self._sampling = Sampling(max_tokens=800, seed=recipe.seed)

    async def go(self) -> Kept | Rejected:
        if self._row.benign:
            return await self._benign()
        self._row = await self._with_answers()
        before = await self._before()
        evidence = await self._evidence()
        causes = await self._causes(evidence)
        self._gate_trace(evidence, causes)
        return await self._best_rewrite(evidence, causes, before)

    async def _benign(self) -> Kept:
        causes = await self._causes(())
        self._gate_trace((), causes)
        return Kept(Refinement(causes.understanding, causes.report))

    # -- answers

    async def _with_answers(self) -> Row:
        row = self._row
        if "no-hindsight" in self._recipe.ablations:
            return row
        safe = row.safe if row.safe is not None else await self._sample_safe()
        unsafe = row.unsafe if row.unsafe is not None else await self._sample_unsafe()
        if safe.split() == unsafe.split():
            raise _Stop("answers", "the safe and the unsafe answer do not differ")
        await self._confirm(safe, expected=True, given=row.safe is not None)
        await self._confirm(unsafe, expected=False, given=row.unsafe is not None)
        return replace(row, safe=safe, unsafe=unsafe)

    async def _sample_safe(self) -> str:
        """The teacher's answer under the policy's static safety prompt."""
        prompt = self._policy.say(self._policy.safety_prompt, "en")
        chat = Chat((Message("system", (Text(prompt),)), *self._row.chat.messages))
        key = _key("safe", self._row, self._identity("teacher"), prompt, self._recipe.seed)
        return str(await self._memory.step("answer.safe", key, lambda: self._say(self._teacher, chat)))

    async def _sample_unsafe(self) -> str:
        if self._target is None:
            raise _Stop("answers", "it has no unsafe answer, and the recipe names no target to sample one from")
        return await self._target_answer(self._row.chat, "answer.unsafe")

    async def _target_answer(self, chat: Chat, step: str) -> str:
        assert self._target is not None
        target = self._target
        key = _key("target", chat, self._identity("target"), self._recipe.seed)
        return str(await self._memory.step(step, key, lambda: self._say(target, chat)))

    async def _say(self, model: Model, chat: Chat) -> str:
        return (await model.generate(chat, self._sampling)).text

    async def _confirm(self, answer: str, *, expected: bool, given: bool) -> None:
        """A sampled answer is what it was sampled for. Without a judge the source's word and the sampling's are taken."""
        if given or self._crew.judge is None:
            return
        # The unsafe one is the raw answer, which the outcome test judges, too: once is enough.
        verdict = await self._judged(self._row.chat, answer, "judge.safe" if expected else "judge.raw")
        if verdict.safe is not expected:
            found = {True: "safe", False: "unsafe", None: "not judged"}[verdict.safe]
            raise _Stop("answers", f"the answer sampled as {'safe' if expected else 'unsafe'} is {found}")

    async def _judged(self, chat: Chat, answer: str, step: str) -> Verdict:
        judge = self._crew.judge
        assert judge is not None
        sample = Sample(self._row.id, chat, harmful=not self._row.benign, category=self._row.category)
        key = _key("judge", chat, answer, judge.name, self._identity("judge"))

        async def work() -> Any:
            verdict = await judge(sample, Answer(answer))
            return [verdict.judge, verdict.safe, verdict.helpful, verdict.refused, verdict.safety, verdict.rationale]

        return Verdict(*await self._memory.step(step, key, work))

    # -- the three stages

    async def _evidence(self) -> tuple[Evidence, ...]:
        blind = "no-hindsight" in self._recipe.ablations
        name = "observe" if blind else "hindsight"
        answers = () if blind else (self._row.safe, self._row.unsafe)
        key = _key(name, self._row, *answers, self._identity("teacher"), prompts_hash(name), self._recipe.seed)

        async def work() -> Any:
            found = await (observe if blind else hindsight)(self._teacher, self._row, self._sampling)
            return render_evidence(found)

        return trace.parse_evidence(await self._graded("hindsight", key, work))

    async def _causes(self, evidence: tuple[Evidence, ...]) -> Causes:
        if "no-causal" in self._recipe.ablations and not self._row.benign:
            return self._plain_causes(evidence)
        key = _key(
            "causal", self._row, render_evidence(evidence), self._identity("teacher"), prompts_hash("causal"),
            self._policy.hash, self._recipe.seed,
        )  # fmt: skip

        async def work() -> Any:
            causes = await causal(self._teacher, self._row.chat, evidence, self._policy, self._sampling)
            return trace.render_causes(causes)

        return trace.parse_causes(await self._graded("causal", key, work))

    def _plain_causes(self, evidence: tuple[Evidence, ...]) -> Causes:
        """The ablation without causal analysis: the source's category, where the evidence lies, and no reasoning."""
        category = self._policy.category(self._row.category or "other").id
        found = {item.modality for item in evidence}
        levels = {
            modality: Finding(Level.MEDIUM, category, "The evidence shows it.")
            if modality in found
            else Finding(Level.NONE)
            for modality in Modality
        }
        pictures = bool(self._row.chat.images)
        report = RiskReport(
            levels[Modality.TEXT],
            levels[Modality.IMAGE] if pictures else None,
            levels[Modality.CROSS] if pictures else None,
        )
        return Causes("A request with a risk.", report, "The evidence shows the risk.")

    async def _rewrite(self, causes: Causes, attempt: int) -> str:
        sampling = Sampling(
            max_tokens=600,
            temperature=self._recipe.temperature if attempt else 0.0,
            seed=self._recipe.seed + attempt,
        )
        key = _key(
            "optimise", self._row, trace.render_causes(causes), self._identity("teacher"), prompts_hash("optimise"),
            self._policy.hash, sampling.temperature, sampling.seed,
        )  # fmt: skip

        async def work() -> Any:
            return await optimise(self._teacher, self._row.chat, causes, self._policy, sampling)

        return str(await self._graded(f"optimise.{attempt}", key, work))

    async def _graded(self, name: str, key: str, work: Callable[[], Awaitable[Any]]) -> str:
        """A stage whose output breaks the grammar ends the row's way, and is not asked again at the next run."""

        async def guarded() -> Any:
            try:
                return [await work(), None]
            except TraceError as error:
                return [None, str(error)]

        value, broken = await self._memory.step(name, key, guarded)
        if broken is not None:
            raise _Stop("grammar", f"{name.split('.', maxsplit=1)[0]}: {broken}")
        return str(value)

    # -- gates

    def _gate_trace(self, evidence: tuple[Evidence, ...], causes: Causes) -> None:
        if found := gates.decision(causes.report, self._policy, benign=self._row.benign):
            raise _Stop(*found)
        traced = [
            causes.understanding,
            causes.analysis,
            *(item.observation for item in evidence),
            *(finding.rationale for _, finding in causes.report if finding is not None),
        ]
        answers = [answer for answer in (self._row.safe, self._row.unsafe) if answer is not None]
        if reason := gates.leakage(traced, self._row.chat, answers):
            raise _Stop("leakage", reason)
        if reason := gates.grounding(evidence, self._row.chat):
            raise _Stop("grounding", reason)

    async def _best_rewrite(
        self, evidence: tuple[Evidence, ...], causes: Causes, before: Verdict | None
    ) -> Kept | Rejected:
        """Best of k: of the rewrites that pass every gate the one with the safest answer; else the last one's reason."""
        best: Kept | None = None
        last = Rejected("outcome", "no rewrite was tried")
        for attempt in range(self._recipe.best_of):
            try:
                kept = await self._try_rewrite(evidence, causes, before, attempt)
            except _Stop as stop:
                last = stop.rejected
                continue
            if best is None or _safety(kept) > _safety(best):
                best = kept
            if kept.verdict_after is None or kept.verdict_after.safety in (None, 10.0):
                break
        return best or last

    async def _try_rewrite(
        self, evidence: tuple[Evidence, ...], causes: Causes, before: Verdict | None, attempt: int
    ) -> Kept:
        prompt = await self._rewrite(causes, attempt)
        if reason := gates.rewrite_checks(self._row.chat, prompt, self._policy):
            raise _Stop("checks", reason)
        await self._gate_need(prompt, attempt)
        try:
            refinement = Refinement(causes.understanding, causes.report, evidence, causes.analysis, prompt)
        except ValueError as error:
            raise _Stop("grammar", str(error)) from error
        if before is None:
            return Kept(refinement)
        after = await self._after(prompt, attempt)
        if reason := gates.outcome(after):
            raise _Stop("outcome", reason)
        return Kept(refinement, before, after)

    async def _gate_need(self, prompt: str, attempt: int) -> None:
        need = self._crew.need
        if need is None:
            return

        async def work() -> Any:
            return await need(self._row.chat, prompt)

        key = _key("need", self._row, prompt, self._identity("judge"), prompts_hash("need"))
        kept = await self._memory.step(f"need.{attempt}", key, work)
        if kept is not True:
            raise _Stop(
                "need", "it loses the user's need" if kept is False else "whether the need is kept was not judged"
            )

    # -- the outcome test: with the rewrite the target's answer is to be safe and helpful; without it it was not

    async def _before(self) -> Verdict | None:
        """The verdict on the target's answer to the original, before anything is paid for a rewrite; ``None`` without a test."""
        if self._target is None or self._crew.judge is None:
            return None
        sampled = "answer.unsafe" in self._memory.known
        raw = await self._target_answer(self._row.chat, "answer.unsafe" if sampled else "answer.raw")
        before = await self._judged(self._row.chat, raw, "judge.raw")
        if before.safe is None:
            raise _Stop("outcome", "the answer to the original was not judged")
        if before.safe and before.helpful:
            raise _Stop("nothing to mend", "the target answers the original safely and helpfully")
        return before

    async def _after(self, prompt: str, attempt: int) -> Verdict:
        chat = self._row.chat
        mended = await self._target_answer(chat.with_prompt(chat.last_user_turn, prompt), f"answer.{attempt}")
        return await self._judged(chat, mended, f"judge.{attempt}")

    def _identity(self, role: str) -> str:
        return _identity_of(self._crew, role)


def _identity_of(crew: Crew, role: str) -> str:
    return crew.identities.get(role, "")


def _safety(kept: Kept) -> float:
    verdict = kept.verdict_after
    return 10.0 if verdict is None or verdict.safety is None else verdict.safety


def _key(*parts: Any) -> str:
    """Digest of all that a step depends on."""
    return hashlib.sha256(json.dumps([_identity(part) for part in parts]).encode()).hexdigest()


def _identity(part: Any) -> Any:
    match part:
        case Row():
            return part.chat.prefix_hash(len(part.chat.messages) - 1)
        case Chat():
            return part.prefix_hash(len(part.messages) - 1)
        case _:
            return part
