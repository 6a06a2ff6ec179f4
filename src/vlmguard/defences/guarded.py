"""vlmguard as a defence: the Guard refines the chat, the target answers what the Guard lets through."""

from __future__ import annotations

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
    """

    def __init__(self, guard: Guard, name: str, fingerprint: str, *, rewriter_calls: int = 0) -> None:
        self.name = name
        self.fingerprint = f"vlmguard:{fingerprint}:{guard.policy.hash}"
        self.calls = (0, 1 + rewriter_calls)
        self._guard = guard

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The answer to the refined chat, or the policy's notice where it is blocked. Raises ``GuardError``."""
        bill = Bill()
        with paying(bill), Stopwatch() as watch:
            guarded = await self._guard.refine(chat)
        # A rewriter's model tells its own seconds, which may be those of a kept answer; the rest, without queues, is work here.
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
