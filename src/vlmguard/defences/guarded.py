"""vlmguard as a defence: the Guard refines the chat, the target answers what the Guard lets through."""

from __future__ import annotations

import asyncio

from vlmguard.defences.cost import Bill, Stopwatch, paying
from vlmguard.guard import Guard
from vlmguard.protocols import Model
from vlmguard.types import Answer, Chat, Outcome, Sampling


class Guarded:
    """The Guard before the target.

    Args:
        guard: with its rewriter and policy.
        name: for reports: which rewriter.
        fingerprint: of the rewriter: its model or weights.
        rewriter_calls: at most, of the rewriter's model.
        at_once: chats that are judged at a time. Judging in this process takes the cores that others wait for, and what a
            chat waits for them is not the defence's own time.
    """

    def __init__(self, guard: Guard, name: str, fingerprint: str, *, rewriter_calls: int = 0, at_once: int = 1) -> None:
        self.name = name
        self.fingerprint = f"vlmguard:{fingerprint}:{guard.policy.hash}"
        self.calls = (0, 1 + rewriter_calls)
        self._guard = guard
        self._slots = asyncio.Semaphore(at_once)

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The answer to the refined chat, or the policy's notice where it is blocked. Raises ``GuardError``."""
        bill = Bill()
        async with self._slots:
            with paying(bill), Stopwatch() as watch:
                guarded = await self._guard.refine(chat)
        # A rewriter's model tells its own seconds, which may be those of a kept answer; the rest is work in this process.
        bill.work(max(0.0, watch.seconds - bill.waited))
        if guarded.chat is None:
            return bill.answer(guarded.notice or "", outcome=Outcome.BLOCK, refinement=guarded.refinement)
        completion = await bill.of(model).generate(guarded.chat, sampling)
        changed = guarded.chat is not chat and guarded.outcome is Outcome.REWRITE
        return bill.answer(
            completion.text,
            last=completion.seconds,
            outcome=guarded.outcome,
            refinement=guarded.refinement,
            prompt=guarded.chat.prompt if changed else None,
        )

    async def close(self) -> None:
        """Gives back what the rewriter holds."""
        await self._guard.close()
