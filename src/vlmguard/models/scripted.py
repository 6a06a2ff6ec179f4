"""A model that says what it was told to say: for tests, demonstrations and runs without a model. Public."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmguard.errors import InputError, ModelError
from vlmguard.jsonl import read_lines
from vlmguard.types import Chat, Completion, Sampling, Usage


class ScriptedModel:
    """Answers from a list, in turn, or by a function of the chat. ``asked`` keeps every chat it was given, and ``said``
    counts the pieces that were streamed.
    """

    def __init__(self, answers: Sequence[str] | Callable[[Chat], str]) -> None:
        self._answers = answers if callable(answers) else iter(tuple(answers))
        self.asked: list[Chat] = []
        self.said = 0

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
        """The next answer, a word at a time, with the space that follows it."""
        completion = await self.generate(chat, sampling)
        for word in re.findall(r"\S+\s*|\s+", completion.text):
            self.said += 1
            yield word


@dataclass(frozen=True, slots=True)
class Script:
    """The answers of a script file."""

    rows: tuple[tuple[tuple[str, ...], str], ...]
    """(all that the question holds, the answer)."""
    fingerprint: str
    """Hash of the file."""

    def answer(self, chat: Chat) -> str:
        """The answer of the first row whose words stand in the chat. Raises ``ModelError`` when there is none."""
        words = "\n".join(message.text for message in chat.messages if message.role != "system")
        for when, answer in self.rows:
            if all(word in words for word in when):
                return answer
        raise ModelError("no row of the script fits the question: add a row without 'when', which fits them all")


def read_script(file: Path) -> Script:
    """A script: JSON lines, each ``{"answer": …}`` or ``{"when": words of the question, or a list of such, "answer": …}``.

    Raises ``InputError`` with the line.
    """
    try:
        rows = tuple(_row(file, number, line) for number, line in read_lines(file))
        fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"the script {file} cannot be read: {error.strerror or error}") from error
    if not rows:
        raise InputError(f'the script {file} is empty: a line is {{"answer": …}}')
    return Script(rows, fingerprint)


def _row(file: Path, number: int, line: bytes) -> tuple[tuple[str, ...], str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{file}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict) or not row.keys() <= {"when", "answer"} or not isinstance(row.get("answer"), str):
        raise InputError(f'{file}:{number}: a line is {{"answer": …}} or {{"when": …, "answer": …}}')
    when = row.get("when", [])
    words = [when] if isinstance(when, str) else when
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{file}:{number}: 'when' is a text that the question has to hold, or a list of texts")
    return tuple(words), row["answer"]
