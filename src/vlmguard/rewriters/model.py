"""The model rewriter: any vision-language model that reads the chat and its pictures, reasons in the trace grammar, and
refines the prompt (VLMGuard-R1). At its best with a model trained for it; any that follows instructions will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vlmguard import trace
from vlmguard.checks import check_kept, check_rewrite
from vlmguard.errors import RewriteError, TraceError
from vlmguard.models.whole import Until
from vlmguard.models.wrapper import close, forget, streams
from vlmguard.policy import Action, Policy
from vlmguard.prompts import fill
from vlmguard.protocols import Model
from vlmguard.receipts import aspects
from vlmguard.rewriters.quoting import DEFAULT_BUDGET, PROMPTS, Budget, Question, ask, disarm_controls, rearm
from vlmguard.rewriters.steering import steers_rewriter
from vlmguard.types import (
    JUDGED_ROLES,
    Chat,
    Image,
    Judgement,
    Level,
    Message,
    Modality,
    Opaque,
    Part,
    Reason,
    Refinement,
    Review,
    RiskReport,
    Sampling,
    Text,
)

SAMPLING = Sampling(max_tokens=1536)
"""A verdict takes some forty tokens, a refinement a few hundred; the rest is for models that think first."""
_SHOWN_AGAIN = 6_000
"""Characters of a broken trace that its writer is shown again."""


class ModelRewriter:
    """Asks a model, reads its trace, and holds what it says to the checks.

    Args:
        model: who judges. One that streams is stopped as soon as its trace is complete, so a harmless chat costs a few
            dozen tokens.
        policy: categories and rules, told to the model at run time.
        name: of the model, in receipts.
        weights: hash of its weights where there is one, in receipts.
        key: makes the marks around quoted data unguessable.
        budget: how much of a conversation it is shown.
        sampling: how it generates.
        evidence_first: it was trained to give its evidence before its assessment (an ablation).
    """

    turns_at_once = 8

    def __init__(
        self,
        model: Model,
        policy: Policy,
        *,
        name: str = "model",
        weights: str = "",
        key: bytes = b"",
        budget: Budget = DEFAULT_BUDGET,
        sampling: Sampling = SAMPLING,
        evidence_first: bool = False,
    ) -> None:
        self._model = Until(model, trace.TraceReader) if streams(model) else model
        self._policy = policy
        self._judge = f"model {name}"
        self._weights = weights or name
        self._key = key
        self._budget = budget
        self._sampling = sampling
        self._evidence_first = evidence_first

    async def refine(self, chat: Chat, /) -> Review:
        """Judges the last turn of ``chat`` in the light of the whole.

        Raises:
            ModelError: the model could not be asked.
            TraceError: what it said is no trace, also at the second attempt.
            RewriteError: its refined prompt breaks a check, also at the second attempt.
        """
        question = ask(chat, self._policy, self._key, self._budget)
        refinement = await self._refinement(chat, question)
        contested = _is_steered(chat)
        rows = tuple(self._account(chat.messages[-1], question, contested))
        return Review(refinement, rows, "model", self._weights, PROMPTS)

    async def close(self) -> None:
        """Closes the model."""
        await close(self._model)

    # -----------------------------------------------------------------------------------------------------------------
    # Asking

    async def _refinement(self, chat: Chat, question: Question) -> Refinement:
        """What the model finds, at the first attempt or at the second, which is shown the error of the first.

        Answers that led nowhere are not kept by any cache: the same chat would fail for ever.
        """
        answer, cut = await self._ask(question.chat)
        try:
            return self._read(chat, answer, cut)
        except (TraceError, RewriteError) as error:
            repair = _repair(question.chat, answer, error)
        answer, cut = await self._ask(repair)
        try:
            return self._read(chat, answer, cut)
        except (TraceError, RewriteError) as error:
            for asked in (question.chat, repair):
                await forget(self._model, asked, self._sampling)
            raise type(error)(f"{error} (at the second attempt)") from error

    async def _ask(self, chat: Chat) -> tuple[str, bool]:
        completion = await self._model.generate(chat, self._sampling)
        return completion.text, completion.finish_reason == "length"

    # -----------------------------------------------------------------------------------------------------------------
    # Reading

    def _read(self, chat: Chat, answer: str, cut: bool) -> Refinement:
        try:
            return read_trace(chat, answer, self._policy, evidence_first=self._evidence_first)
        except TraceError as error:
            if cut:
                raise TraceError(
                    f"{error}; the answer was cut off after {self._sampling.max_tokens} tokens: raise max_tokens"
                ) from error
            raise

    # -----------------------------------------------------------------------------------------------------------------
    # The account

    def _account(self, message: Message, question: Question, contested: bool) -> Iterator[Judgement]:
        """A row for every aspect of the newest turn, and those for what was left out of the turns before."""
        left_out = {(row.path, row.aspect): row for row in question.left_out}
        for part in message.parts:
            for aspect in aspects(part):
                gap = _gap(part) or (Reason.CONTESTED if contested else None)
                row = Judgement(part.path, aspect, unjudged=gap) if gap else Judgement(part.path, aspect, self._judge)
                yield left_out.pop((part.path, aspect), row)
        yield from left_out.values()


def read_trace(chat: Chat, answer: str, policy: Policy, *, evidence_first: bool = False) -> Refinement:
    """What a model's answer says of the last turn of ``chat``, held to all that serving and training hold it to.

    Raises:
        TraceError: it is no trace, or no verdict on this chat.
        RewriteError: its refined prompt breaks a check.
    """
    refinement = _rearmed(trace.parse(trace.extract(answer), evidence_first=evidence_first))
    refinement = _without_pictures(refinement) if not chat.images else refinement
    _check(chat, refinement, policy)
    return refinement


def _check(chat: Chat, refinement: Refinement, policy: Policy) -> None:
    """What a trace must keep to beyond the grammar, to be the verdict on this chat."""
    message, report = chat.messages[-1], refinement.report
    if trace.is_refusal(refinement.understanding):
        raise TraceError("the rewriter refused to judge: that is a failure and no verdict")
    if message.text.strip() and report.text is None:
        raise TraceError("<assessment> says that there is no text, and there is")
    if message.images and report.image is None:
        raise TraceError("<assessment> says that there is no picture, and there is")
    if message.images and message.text.strip() and report.cross is None:
        raise TraceError("<assessment> leaves out what words and pictures mean together (cross)")
    _check_sources(chat, refinement)
    if message.role != "user" or policy.decide(report) is not Action.REWRITE:
        return
    if refinement.prompt is None:
        worst = report.worst
        raise TraceError(f"<forward/> follows a risk that is to be rewritten ({worst.category}, {worst.level})")
    check_rewrite(chat, refinement.prompt, policy)
    check_kept(chat, refinement)


def _gap(part: Part) -> Reason | None:
    """What a model that is shown a part does not see of it."""
    match part:
        case Text():
            return None
        case Image():
            return Reason.BUDGET if part.frames > 1 else None  # models look at the first frame
        case Opaque():
            return part.reason or Reason.OPAQUE


def _is_steered(chat: Chat) -> bool:
    """Whether words of the chat speak to the rewriter itself: its verdict then counts for nothing, be it a "harmless" or a
    rewrite that was put into its mouth.

    Turns are read alone and as one, since a sign can be split over them.
    """
    texts = [message.text for message in chat.messages if message.role in JUDGED_ROLES]
    return any(map(steers_rewriter, (*texts, " ".join(texts), "".join(texts)) if len(texts) > 1 else texts))


def _repair(asked: Chat, answer: str, error: Exception) -> Chat:
    """The question once more, with what was said and what is wrong with it."""
    said = Message("assistant", (Text(disarm_controls(answer[:_SHOWN_AGAIN]) or "(nothing)"),))
    return Chat((*asked.messages, said, Message("user", (Text(fill("repair", error=disarm_controls(str(error)))),))))


def _rearmed(refinement: Refinement) -> Refinement:
    """With words as the user wrote them, where the model quotes what it was shown disarmed."""
    return Refinement(
        rearm(refinement.understanding),
        RiskReport(
            *(finding and replace(finding, rationale=rearm(finding.rationale)) for _, finding in refinement.report)
        ),
        tuple(replace(item, observation=rearm(item.observation)) for item in refinement.evidence),
        rearm(refinement.analysis),
        None if refinement.prompt is None else rearm(refinement.prompt),
    )


def _without_pictures(refinement: Refinement) -> Refinement:
    """Of a chat without any: what models call ``none`` there is ``absent``."""
    report = refinement.report
    for modality, finding in ((Modality.IMAGE, report.image), (Modality.CROSS, report.cross)):
        if finding is not None and finding.level > Level.NONE:
            raise TraceError(f"<assessment> finds a risk in {modality.value}, and the chat has no picture")
    return replace(refinement, report=replace(report, image=None, cross=None))


def _check_sources(chat: Chat, refinement: Refinement) -> None:
    """Evidence speaks of pictures and turns that there are."""
    for item in refinement.evidence:
        kind, _, number = item.source.partition(" ")
        most = {"image": len(chat.images), "turn": len(chat.messages)}.get(kind)
        if most is not None and number.isdecimal() and not 1 <= int(number) <= most:
            raise TraceError(f"<evidence> speaks of {item.source}, and there {f'are {most}' if most else 'is none'}")
