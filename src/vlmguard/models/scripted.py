"""A model that says what it was told to say: for tests, demonstrations and runs without a model. Public."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from vlmguard.errors import ModelError
from vlmguard.types import Chat, Completion, Sampling, Usage


class ScriptedModel:
    """Answers from a list, in turn, or by a function of the chat. ``asked`` keeps every chat it was given."""

    def __init__(self, answers: Sequence[str] | Callable[[Chat], str]) -> None:
        self._answers = answers if callable(answers) else iter(tuple(answers))
        self.asked: list[Chat] = []

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The next answer. Raises ``ModelError`` when the script has come to its end."""
        self.asked.append(chat)
        if callable(self._answers):
            text = self._answers(chat)
        else:
            try:
                text = next(self._answers)
            except StopIteration:
                raise ModelError(f"the script has no answer left (it was asked {len(self.asked)} times)") from None
        return Completion(text, usage=Usage(len(chat.prompt.split()), len(text.split())))

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """The next answer, a word at a time."""
        completion = await self.generate(chat, sampling)
        for word in completion.text.split(" "):
            yield word + " "
