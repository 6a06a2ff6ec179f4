"""Defences that are words: none at all, a plain safety prompt, FigStep's, AdaShield-S. One call, no other part.

The prompts of FigStep (Gong et al., arXiv 2311.05608) and AdaShield-S (Wang et al., arXiv 2403.09513) are their authors'. Ours say
the same in our own words, so their rows are marked; with the authors' prompt in a file they carry the plain name.
"""

from __future__ import annotations

import hashlib

from vlmguard.defences.cost import Bill
from vlmguard.prompts import load_prompt
from vlmguard.protocols import Model
from vlmguard.types import Answer, Chat, Message, Outcome, Part, Sampling, Text

SUBSTITUTE = "*"
"""Behind the name of a defence that has another part than its paper's."""


class NoDefence:
    """The target as it is: what every gain is measured from."""

    name = "none"
    fingerprint = "none"

    calls = (1, 1)

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The target's own answer."""
        bill = Bill()
        completion = await bill.of(model).generate(chat, sampling)
        return bill.answer(completion.text, last=completion.seconds)


class SystemPrompt:
    """A prompt before the chat, as a system turn.

    Args:
        name: for reports.
        prompt: the words.
    """

    calls = (1, 1)

    def __init__(self, name: str, prompt: str) -> None:
        self.name = name
        self._prompt = prompt
        self.fingerprint = f"system:{hashlib.sha256(prompt.encode()).hexdigest()}"

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The answer under the prompt."""
        bill = Bill()
        sent = Chat((Message("system", (Text(self._prompt),)), *chat.messages))
        completion = await bill.of(model).generate(sent, sampling)
        return bill.answer(completion.text, last=completion.seconds, outcome=Outcome.DEGRADED)


class PrependedPrompt:
    """A prompt in the user's turn, before their words, as AdaShield has it."""

    calls = (1, 1)

    def __init__(self, name: str, prompt: str) -> None:
        self.name = name
        self._prompt = prompt
        self.fingerprint = f"prepended:{hashlib.sha256(prompt.encode()).hexdigest()}"

    async def __call__(self, chat: Chat, model: Model, sampling: Sampling, /) -> Answer:
        """The answer to the longer prompt."""
        bill = Bill()
        sent = before(chat, self._prompt)
        completion = await bill.of(model).generate(sent, sampling)
        return bill.answer(
            completion.text, last=completion.seconds, outcome=Outcome.DEGRADED, prompt=sent.messages[-1].text
        )


def before(chat: Chat, prompt: str) -> Chat:
    """The chat with a prompt before the words of the user's last turn."""
    turn = chat.last_user_turn
    return chat.with_prompt(turn, f"{prompt}\n\n{chat.messages[turn].text}")


def without_pictures(chat: Chat) -> Chat:
    """The words alone."""

    def words(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(part for part in parts if isinstance(part, Text))

    return Chat(tuple(Message(message.role, words(message.parts)) for message in chat.messages))


def figstep(prompt: str | None = None) -> SystemPrompt:
    """FigStep's defence: a system prompt that speaks of words in pictures."""
    return SystemPrompt(marked("figstep-defence", prompt), prompt or load_prompt("defence_figstep"))


def adashield_s(prompt: str | None = None) -> PrependedPrompt:
    """AdaShield-S: a static prompt that has picture and words examined step by step before the answer."""
    return PrependedPrompt(marked("adashield-s", prompt), prompt or load_prompt("defence_adashield"))


def safety_prompt(prompt: str | None = None) -> SystemPrompt:
    """A plain safety prompt: the row that every cleverer defence has to beat."""
    return SystemPrompt("safety-prompt", prompt or load_prompt("defence_safety"))


def marked(name: str, *parts: object) -> str:
    """The plain name where all parts of the paper's own are given, else the marked one."""
    return name if all(part is not None for part in parts) else f"{name}{SUBSTITUTE}"
