"""SHIELD-style reframing (Ren et al., arXiv 2510.13190): a classifier names the category of a request; then it is blocked, reframed by
a safety prompt for that category, or forwarded. Nothing is trained and the user's words stay.

The classifier is a model asked with our policy's categories, and the prompts are our policy's, so the row is called
``shield-style`` and never SHIELD.
"""

from __future__ import annotations

import re

from vlmguard.defences.cost import Bill
from vlmguard.defences.prompted import before
from vlmguard.language import detect
from vlmguard.policy import Policy
from vlmguard.prompts import fill, prompts_hash
from vlmguard.protocols import Model
from vlmguard.rewriters.quoting import quote
from vlmguard.types import Answer, Chat, Image, Message, Outcome, Sampling, Text

_CHOICE = re.compile(r"[\s*`\"'-]*(block|reframe|forward)(?:[\s:,-]+([a-z_]+))?[\s*`\"'.]*", re.IGNORECASE)


class ShieldStyle:
    """Classify, then block, reframe or forward.

    Args:
        policy: categories, guidance and the notice of a block.
        classifier: who names action and category; ``None`` asks the target itself.
        identity: of the classifier, for caches.
    """

    name = "shield-style"

    calls = (1, 2)

    def __init__(self, policy: Policy, classifier: Model | None = None, identity: str = "target") -> None:
        self._policy = policy
        self._classifier = classifier
        self._rules = "\n".join(f"- {category.id}: {category.rule}" for category in policy.categories.values())
        self.fingerprint = f"shield:{identity}:{policy.hash}:{prompts_hash('defence_shield')}"

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The answer to the chat as the classifier's action leaves it. What cannot be read as an action is reframed."""
        bill = Bill()
        action, category = await self._classify(bill.of(self._classifier or model), chat)
        language = detect(chat.prompt)
        if action == "block":
            return bill.answer(self._policy.say(self._policy.notice, language), outcome=Outcome.BLOCK)
        sent = chat
        if action == "reframe":
            known = self._policy.categories.get(category)
            guidance = self._policy.say(known.guidance if known else self._policy.safety_prompt, language)
            sent = before(chat, guidance)
        completion = await bill.of(model).generate(sent, sampling)
        reframed = action == "reframe"
        return bill.answer(
            completion.text,
            last=completion.seconds,
            outcome=Outcome.REWRITE if reframed else Outcome.FORWARD,
            prompt=sent.prompt if reframed else None,
        )

    async def _classify(self, model: Model, chat: Chat) -> tuple[str, str]:
        pictures = [part for part in chat.messages[chat.last_user_turn].parts if isinstance(part, Image)]
        asked = Chat(
            (
                Message("system", (Text(fill("defence_shield", rules=self._rules)),)),
                Message("user", (*pictures, Text(quote("request", chat.prompt, b"defence")))),
            )
        )
        found = _CHOICE.fullmatch((await model.generate(asked, Sampling(max_tokens=24))).text)
        return (found[1].lower(), (found[2] or "").lower()) if found else ("reframe", "")
