"""The tiered rewriter: the embedded one decides the clear cases in milliseconds, a model that sees reasons about the rest.

One deadline holds for both. When the model fails, the embedded tier's review stands in for it and says so (``failure``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vlmguard.errors import RewriteError, VlmguardError
from vlmguard.models.deadline import within
from vlmguard.models.wrapper import close
from vlmguard.policy import Action, Policy
from vlmguard.protocols import Rewriter
from vlmguard.types import (
    Aspect,
    Chat,
    Evidence,
    Finding,
    Judgement,
    Level,
    Message,
    Reason,
    Review,
    RiskReport,
    Text,
)


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """Where the first tier's word is final. docs/rewriters.md says what each point costs and catches."""

    clear_below: float = 0.1
    """A chat without pictures whose every score is lower ends at the first tier: forwarded."""
    sure_from: float = 0.85
    """A finding with this score ends at the first tier: rewritten or blocked. Orders in pictures and tool results count
    as 0.9 and more."""
    deadline: float = 20.0
    """Seconds for both tiers together."""
    contest: bool = True
    """What the first tier would act on and the model finds harmless is ``unjudged: contested`` (behind the safety prompt,
    says the default policy); else the model is believed."""
    fallback: bool = True
    """Whether the first tier's review stands in for a model that fails; else the failure is the guard's."""


class TieredRewriter:
    """Embedded first, then the model.

    Args:
        first: the embedded rewriter.
        model: a rewriter that sees.
        policy: what counts as acting on a finding.
        points: where the first tier's word is final.
    """

    turns_at_once = 4

    def __init__(
        self, first: Rewriter, model: Rewriter, policy: Policy, points: OperatingPoints = OperatingPoints()
    ) -> None:
        self._first = first
        self._model = model
        self._policy = policy
        self._points = points

    async def refine(self, chat: Chat, /) -> Review:
        """Judges the last turn of ``chat`` in the light of the whole."""
        started = asyncio.get_running_loop().time()
        first = await self._first.refine(chat)
        if self.is_final(chat, first):
            return first
        left = self._points.deadline - (asyncio.get_running_loop().time() - started)
        try:
            async with within(left, "the model tier"):
                second = await self._model.refine(chat)
                again = await self._judge_rewrite(first, second, chat)
        except Exception as error:
            if not self._points.fallback:
                raise
            told = str(error) if isinstance(error, VlmguardError) else f"{type(error).__name__}: {error}"
            return replace(first, failure=f"the model tier failed, the embedded tier stands in: {told}")
        return self._combined(chat.messages[-1], first, second, again)

    async def close(self) -> None:
        """Closes both tiers."""
        await close(self._first)
        await close(self._model)

    def is_final(self, chat: Chat, first: Review) -> bool:
        """Whether the first tier's review of a chat ends the matter."""
        report = first.refinement.report
        if any(
            self._acts(finding) and (finding.score or 0.0) >= self._points.sure_from for finding in _findings(report)
        ):
            return True
        if chat.images or any(row.unjudged is not None for row in first.judgements):
            return False
        return all(
            finding.level is Level.NONE and (finding.score or 0.0) < self._points.clear_below
            for finding in _findings(report)
        )

    def _acts(self, finding: Finding) -> bool:
        return finding.level > Level.NONE and self._policy.action(finding) is not Action.FORWARD

    async def _judge_rewrite(self, first: Review, second: Review, chat: Chat) -> bool:
        """Whether the first tier would act on the model's refined prompt as well: then it mends nothing.

        Raises ``RewriteError`` for one that asks for something grave which nobody found: it is not the user's.
        """
        if second.refinement.prompt is None or chat.messages[-1].role != "user":
            return False
        again = await self._first.refine(Chat((Message("user", (Text(second.refinement.prompt),)),)))
        found = {finding.category for review in (first, second) for finding in _findings(review.refinement.report)}
        known = {self._policy.category(category).id for category in found if category is not None}
        for finding in _findings(again.refinement.report):
            if (
                self._acts(finding)
                and (finding.score or 0.0) >= self._points.sure_from
                and self._policy.category(finding.category or "").id not in known
            ):
                raise RewriteError(
                    f"the model's refined prompt is itself a risk ({finding.category}) that nobody found"
                )
        return any(map(self._acts, _findings(again.refinement.report)))

    # -----------------------------------------------------------------------------------------------------------------
    # Two reviews → one

    def _combined(self, message: Message, first: Review, second: Review, again: bool) -> Review:
        """The model's findings and prompt, the scores and observations of both, and who judged what."""
        refinement = replace(
            second.refinement,
            report=_with_scores(second.refinement.report, first.refinement.report),
            evidence=_merged(second.refinement.evidence, first.refinement.evidence),
        )
        contested = (
            self._points.contest
            and any(map(self._acts, _findings(first.refinement.report)))
            and (again or not any(map(self._acts, _findings(second.refinement.report))))
        )
        paths = {part.path for part in message.parts} if contested else set()
        return Review(
            refinement,
            tuple(_accounted(first, second, paths)),
            "model",
            f"{first.weights}+{second.weights}",
            second.prompts,
        )


def _findings(report: RiskReport) -> list[Finding]:
    return [finding for _, finding in report if finding is not None]


def _with_scores(report: RiskReport, measured: RiskReport) -> RiskReport:
    def with_score(finding: Finding | None, beside: Finding | None) -> Finding | None:
        return finding if finding is None or beside is None else replace(finding, score=beside.score)

    return RiskReport(
        with_score(report.text, measured.text),
        with_score(report.image, measured.image),
        with_score(report.cross, measured.cross),
    )


def _merged(evidence: tuple[Evidence, ...], more: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    return tuple(dict.fromkeys((*evidence, *more)))


def _accounted(first: Review, second: Review, contested: set[str]) -> Iterator[Judgement]:
    """Who of the two judged each aspect; what neither did keeps the model's reason, since it saw more."""
    rows = {(row.path, row.aspect): row for row in first.judgements}
    for row in second.judgements:
        known = rows.pop((row.path, row.aspect), None)
        if row.path in contested and row.aspect in (Aspect.TEXT, Aspect.CODES):
            yield Judgement(row.path, row.aspect, unjudged=Reason.CONTESTED)
        elif known is None or known.judged_by is None or row.unjudged is Reason.CONTESTED:
            yield row
        elif row.judged_by is None:
            yield known
        else:
            yield replace(row, judged_by=f"{known.judged_by}, {row.judged_by}")
    yield from rows.values()
