"""The guard: a chat in, what may be sent out. Applies the policy to what a rewriter found, and writes the receipt.

Every turn of the user's and every tool result is judged in the light of what came before it. Clients resend earlier turns
in their original words, so a turn that was rewritten once is rewritten again: from a cache by the prefix of the chat, or
judged anew (architecture, decision 2).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

from vlmguard.checks import check_rewrite
from vlmguard.errors import ChatError, GuardError, VlmguardError
from vlmguard.language import detect
from vlmguard.policy import Action, DefinitionAction, Policy, Rule, ToolAction, load_policy
from vlmguard.protocols import Closing, Concurrent, Rewriter
from vlmguard.receipts import aspects, make_receipt, unjudged
from vlmguard.rewriters.compose import neutralise_tool_result
from vlmguard.rewriters.orders import orders_in_definition, read_definitions
from vlmguard.types import (
    JUDGED_ROLES,
    Aspect,
    Chat,
    Evidence,
    Finding,
    Guarded,
    Judgement,
    Level,
    Message,
    Modality,
    Mode,
    Outcome,
    Part,
    Reason,
    Refinement,
    Review,
    RiskReport,
    Text,
)

BESIDE = -1
"""In the place of a turn: what stands beside the turns decided, or whose they are."""
REMOVED = "[This message was removed.]"
"""What takes the place of an earlier turn that was blocked, so that one bad turn does not end the conversation."""
_ORDER_READER = "order reader"
_ARGUMENTS = ("/arguments", "/input", "/code")
"""Ends of the places where a model's turn holds what it asked of a tool, which other words would break."""
_GRAVITY = (Outcome.FORWARD, Outcome.UNGUARDED, Outcome.DEGRADED, Outcome.REWRITE, Outcome.BLOCK)


@dataclass(frozen=True, slots=True)
class _Decision:
    """What the policy says of one turn."""

    turn: int
    review: Review
    outcome: Outcome
    text: str | None
    """The words to put in the turn's place; ``None`` leaves it as it is."""
    degraded: bool


class Guard:
    """Judges chats and refines their prompts.

    Args:
        rewriter: who judges. The default is the embedded one: offline, no GPU, blind to scenes, and saying so.
        policy: what is allowed and what to do about the rest. The default is the packaged policy.
        mode: ``Mode.MONITOR`` judges and records, and changes nothing.
        key: for the content hashes in receipts. Without one they can be guessed for short prompts.
        remembered: how many judged prefixes are kept, so that a conversation is not judged anew at every turn.
        on_turn: told of every turn whether it was remembered.
    """

    def __init__(
        self,
        rewriter: Rewriter | None = None,
        policy: Policy | None = None,
        *,
        mode: Mode = Mode.ENFORCE,
        key: bytes = b"",
        remembered: int = 1024,
        on_turn: Callable[[bool], None] | None = None,
    ) -> None:
        self.policy = policy or load_policy()
        self.rewriter = rewriter or _embedded(self.policy)
        self.mode = mode
        self._key = key
        self._reviews: OrderedDict[tuple[str, ...], Review] = OrderedDict()
        self._remembered = remembered
        self._orders: OrderedDict[bytes, str | None] = OrderedDict()
        """What was found in definitions, by their digest: clients send the same ones with every request."""
        self._on_turn = on_turn or (lambda known: None)

    async def refine(self, chat: Chat) -> Guarded:
        """Judges a chat. A benign one comes back as the very same object.

        Raises:
            ChatError: there is no turn of the user's, or nothing in it.
            GuardError: the chat could not be judged. Nothing was let through; the caller decides.
        """
        _require_content(chat)
        decisions = await self._decide_all(chat)
        rows = _definitions(chat)
        order = await self._order_in([tool.text for tool, row in zip(chat.tools, rows, strict=True) if row.judged_by])
        decisions += self._decide_beside(chat, decisions[-1].review, rows, order)
        intended = max((decision.outcome for decision in decisions), key=_GRAVITY.index)
        outcome = intended if self.mode is Mode.ENFORCE else Outcome.FORWARD
        gravest = max(decisions, key=lambda decision: (_GRAVITY.index(decision.outcome), decision.turn))
        sent = self._apply(chat, decisions, outcome)
        receipt = make_receipt(
            review=gravest.review,
            judgements=(*rows, *_account(chat, decisions)),
            mode=self.mode,
            outcome=outcome,
            intended=intended,
            policy=self.policy.hash,
            prompts=next((decision.review.prompts for decision in decisions if decision.review.prompts), ""),
            sent=sent,
            key=self._key,
            failure=next((decision.review.failure for decision in decisions if decision.review.failure), None),
        )
        notice = self.policy.say(self.policy.notice, detect(chat.prompt)) if outcome is Outcome.BLOCK else None
        return Guarded(sent, outcome, gravest.review.refinement, receipt, notice, gravest.turn)

    async def close(self) -> None:
        """Gives back what the rewriter holds: connections, files, weights."""
        if isinstance(self.rewriter, Closing):
            await self.rewriter.close()

    async def _decide_all(self, chat: Chat) -> list[_Decision]:
        """Every judged turn. The newest comes first: what is read in its pictures serves the others, which then may go on
        side by side where the rewriter waits for a model.
        """
        turns = [turn for turn, message in enumerate(chat.messages) if message.role in self.policy.judged]
        newest = await self._decide(chat, turns[-1])
        if len(turns) == 1:
            return [newest]
        slots = asyncio.Semaphore(self.rewriter.turns_at_once if isinstance(self.rewriter, Concurrent) else 1)

        async def decide(turn: int) -> _Decision:
            async with slots:
                return await self._decide(chat, turn)

        try:
            async with asyncio.TaskGroup() as group:
                earlier = [group.create_task(decide(turn)) for turn in turns[:-1]]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [*(task.result() for task in earlier), newest]

    async def _order_in(self, definitions: list[str]) -> str | None:
        """The first order in definitions of tools. New ones are read on a thread, so that other requests have their turn."""
        digests = {text: sha256(text.encode()).digest() for text in definitions}
        orders = {text: self._orders[digest] for text, digest in digests.items() if digest in self._orders}
        if new := [text for text in digests if text not in orders]:
            orders |= await asyncio.to_thread(lambda: {text: orders_in_definition(text) for text in new})
        for text, digest in digests.items():
            self._orders[digest] = orders[text]
            self._orders.move_to_end(digest)
        while len(self._orders) > self._remembered:
            self._orders.popitem(last=False)
        return next((order for text in definitions if (order := orders[text]) is not None), None)

    def _decide_beside(
        self, chat: Chat, newest: Review, rows: tuple[Judgement, ...], order: str | None
    ) -> Iterator[_Decision]:
        """What the policy says of that which no rewriter is asked about: definitions of tools, turns of others.

        Args:
            rows: who read the definitions.
            order: the first one found in them.
        """
        if rows:
            yield from self._decide_definitions(replace(newest, judgements=rows), order)
        said = self.policy.unjudged[Reason.ROLE]
        if said is not Rule.FORWARD and any(message.role not in self.policy.judged for message in chat.messages):
            outcome = Outcome.BLOCK if said is Rule.BLOCK else Outcome.DEGRADED
            yield _Decision(BESIDE, newest, outcome, None, outcome is Outcome.DEGRADED)

    def _decide_definitions(self, review: Review, order: str | None) -> Iterator[_Decision]:
        if order is not None:
            review = replace(review, refinement=_ordering(order))
        acts = order is not None and self.policy.decide(review.refinement.report) is not Action.FORWARD
        rule = self._rule(review)
        action = self.policy.tool_definitions
        if rule is Rule.BLOCK or (
            acts and (action is DefinitionAction.BLOCK or self.policy.decide(review.refinement.report) is Action.BLOCK)
        ):
            yield _Decision(BESIDE, review, Outcome.BLOCK, None, False)
        elif rule is Rule.DEGRADE or (acts and action is DefinitionAction.DEGRADE):
            yield _Decision(BESIDE, review, Outcome.DEGRADED, None, True)

    async def _decide(self, chat: Chat, turn: int) -> _Decision:
        review = await self._review(chat, turn)
        action = self.policy.decide(review.refinement.report)
        rule = self._rule(review)
        if action is Action.BLOCK or rule is Rule.BLOCK:
            return _blocked(chat, turn, review)
        text: str | None = None
        degraded = rule is Rule.DEGRADE
        if action is Action.REWRITE:
            message = chat.messages[turn]
            if message.role not in JUDGED_ROLES:
                text = REMOVED if _is_words(message.parts) else None
                degraded = degraded or text is None
            elif message.role == "user":
                text = self._refined(chat.until(turn), review)
            elif self.policy.tool_results is ToolAction.BLOCK:
                return _blocked(chat, turn, review)
            elif self.policy.tool_results is ToolAction.NEUTRALISE:
                text = neutralise_tool_result(message.text, self.policy, detect(chat.prompt)) if message.text else None
                # A picture cannot be quoted as data: the safety prompt says what to make of words in it.
                degraded = degraded or bool(message.images)
        if text is not None:
            return _Decision(turn, review, Outcome.REWRITE, text, degraded)
        return _Decision(turn, review, Outcome.DEGRADED if degraded else Outcome.FORWARD, None, degraded)

    async def _review(self, chat: Chat, turn: int) -> Review:
        """The rewriter's word on one turn, remembered by everything that it could depend on."""
        prefix = chat.until(turn)
        # Receipts name places on the wire, and the same words may stand at other places in another dialect.
        key = (chat.prefix_hash(turn), *(part.path for part in prefix.messages[-1].parts))
        if (known := self._reviews.get(key)) is not None:
            self._reviews.move_to_end(key)
            self._on_turn(True)
            return known
        self._on_turn(False)
        try:
            review = await self.rewriter.refine(prefix)
        except VlmguardError as error:
            raise GuardError(f"the request could not be judged: {error}") from error
        except Exception as error:
            raise GuardError(
                f"the rewriter broke ({type(error).__name__}: {error}); nothing was let through: report this"
            ) from error
        _require_full_account(prefix.messages[-1], review)
        if review.failure is not None:
            return review  # the better tier may be back at the next request
        self._reviews[key] = review
        if len(self._reviews) > self._remembered:
            self._reviews.popitem(last=False)
        return review

    def _rule(self, review: Review) -> Rule:
        """The strictest rule for what was not judged."""
        rules = {self.policy.unjudged[row.unjudged] for row in review.judgements if row.unjudged is not None}
        return next((rule for rule in (Rule.BLOCK, Rule.DEGRADE) if rule in rules), Rule.FORWARD)

    def _refined(self, chat: Chat, review: Review) -> str:
        prompt = review.refinement.prompt
        if prompt is None:
            worst = review.refinement.report.worst
            raise GuardError(
                f"the rewriter found {worst.category} ({worst.level}) and proposed no rewrite; nothing was let through"
            )
        try:
            check_rewrite(chat, prompt, self.policy)
        except VlmguardError as error:
            raise GuardError(f"the refined prompt was not sent: {error}") from error
        return prompt

    def _apply(self, chat: Chat, decisions: list[_Decision], outcome: Outcome) -> Chat | None:
        if outcome is Outcome.BLOCK:
            return None
        if outcome in (Outcome.FORWARD, Outcome.UNGUARDED):
            return chat
        for decision in decisions:
            if decision.text is not None:
                chat = chat.with_prompt(decision.turn, decision.text)
        if any(decision.degraded for decision in decisions):
            chat = self.with_safety_prompt(chat)
        return chat

    def with_safety_prompt(self, chat: Chat) -> Chat:
        """The chat behind the policy's static safety prompt, as a system turn before all others."""
        prompt = self.policy.say(self.policy.safety_prompt, detect(chat.prompt))
        return replace(chat, messages=(Message("system", (Text(prompt),)), *chat.messages))


def _blocked(chat: Chat, turn: int, review: Review) -> _Decision:
    """The newest turn of the user's blocks the request. An earlier one was blocked when it came, and clients send it again with
    all that follows: its words are taken out, where it is nothing but words."""
    answered = any(message.role == "assistant" for message in chat.messages[turn : chat.last_user_turn])
    if answered and _is_words(chat.messages[turn].parts):
        return _Decision(turn, review, Outcome.REWRITE, REMOVED, False)
    return _Decision(turn, review, Outcome.BLOCK, None, False)


def _is_words(parts: tuple[Part, ...]) -> bool:
    """Whether other words can stand in the place of these: not in that of a picture, nor of what a tool was asked."""
    return all(isinstance(part, Text) and not part.path.endswith(_ARGUMENTS) for part in parts)


def _definitions(chat: Chat) -> tuple[Judgement, ...]:
    """Who reads the definitions of tools: for orders, and for nothing else."""
    return tuple(
        Judgement(tool.path, Aspect.TEXT, judged_by=_ORDER_READER)
        if is_read
        else Judgement(tool.path, Aspect.TEXT, unjudged=Reason.BUDGET)
        for tool, is_read in zip(chat.tools, read_definitions([tool.text for tool in chat.tools]), strict=True)
    )


def _ordering(order: str) -> Refinement:
    return Refinement(
        "The request defines tools, and the definition of one turns the assistant against its user.",
        RiskReport(
            text=Finding(Level.HIGH, "prompt_injection", "The definition of a tool gives orders that no tool needs.")
        ),
        (Evidence(Modality.TEXT, "tool definition", f'it says "{order.replace(chr(34), chr(39))}"'),),
    )


def _embedded(policy: Policy) -> Rewriter:
    from vlmguard.rewriters.embedded import EmbeddedRewriter

    return EmbeddedRewriter(policy)


def _require_content(chat: Chat) -> None:
    message = chat.messages[chat.last_user_turn]
    if not message.text.strip() and all(isinstance(part, Text) for part in message.parts):
        raise ChatError("the prompt is empty and no picture comes with it: there is nothing to judge")


def _require_full_account(message: Message, review: Review) -> None:
    """A rewriter that says nothing of a part has not judged it: that must not pass as judged."""
    accounted = {(row.path, row.aspect) for row in review.judgements}
    for part in message.parts:
        for aspect in aspects(part):
            if (part.path, aspect) not in accounted:
                raise GuardError(f"the rewriter did not account for the {aspect} of {part.path or 'a part'}")


def _account(chat: Chat, decisions: list[_Decision]) -> tuple[Judgement, ...]:
    """A row for every aspect of every part of the chat, in the order of the chat."""
    by_turn = {decision.turn: decision.review.judgements for decision in decisions if decision.turn != BESIDE}
    rows: list[Judgement] = []
    for turn, message in enumerate(chat.messages):
        rows.extend(by_turn.get(turn) or (row for part in message.parts for row in unjudged(part, Reason.ROLE)))
    return tuple(rows)
