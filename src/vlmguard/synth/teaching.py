"""How a stage speaks to the teacher: the template as system turn, the request and all else as quoted material.

Marks around quoted material are an HMAC of it, so whoever wrote it could not know them; they are the same in every run, so calls
can be cached and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from vlmguard.errors import ModelError, TraceError
from vlmguard.protocols import Model
from vlmguard.rewriters.quoting import quote
from vlmguard.types import Chat, Image, Message, Part, Sampling, Text

KEY = b"vlmguard synthesis"
"""The material is not the adversary's to adapt to: reproducible marks serve better than secret ones."""


def teacher_chat(system: str, chat: Chat, sections: Sequence[tuple[str, str]] = ()) -> Chat:
    """What the teacher gets: the template, the request with its pictures in place, and further sections."""
    parts: list[Part] = []
    number = 0
    for message in chat.messages:
        for part in message.parts:
            if isinstance(part, Image):
                number += 1
                parts += [Text(f"image {number}:"), part]
        parts.append(Text(quote(f"{message.role} turn", message.text, KEY)))
    parts += [Text(quote(title, content, KEY)) for title, content in sections]
    return Chat((Message("system", (Text(system),)), Message("user", tuple(parts))))


T = TypeVar("T")


async def ask(teacher: Model, chat: Chat, sampling: Sampling, read: Callable[[str], T]) -> T:
    """The teacher's answer, read; one repair attempt that shows it the error.

    Raises ``TraceError`` when the second try fails too, ``ModelError`` when the teacher cannot be asked.
    """
    first = await teacher.generate(chat, sampling)
    try:
        return read(first.text)
    except TraceError as error:
        problem = error
    if not first.text.strip():
        raise ModelError("the teacher answered with nothing")
    repair = (
        Message("assistant", (Text(first.text),)),
        Message("user", (Text(f"That cannot be read: {problem}. Write the elements again, whole, and nothing else."),)),
    )
    second = await teacher.generate(Chat((*chat.messages, *repair)), sampling)
    return read(second.text)
