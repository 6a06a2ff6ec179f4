"""How a conversation is shown to a model rewriter: as quoted data between marks that nobody can guess.

``rewriter_chat`` builds the one input that training and serving share (architecture, "The trace"). The static part, with
the policy, comes first, so that servers can keep it; then the conversation; then a reminder, so that the last word is ours.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vlmguard import trace
from vlmguard.policy import Policy
from vlmguard.prompts import fill, prompts_hash
from vlmguard.receipts import unjudged
from vlmguard.types import JUDGED_ROLES, Chat, Image, Judgement, Message, Opaque, Part, Reason, Role, Text

PROMPTS = prompts_hash("rewriter", "conversation", "reminder", "repair")
"""Hash of all that a rewriter is asked with, beside the policy."""

_CONTROL = (
    r"\||/?(?:think(?:ing)?|s|pad|eos|bos|unk|image|video|img|image_soft_token|tool_call|tool_response)>"
    r"|/?SYS>|(?:start|end|begin)_of_|global-img>|(?:[a-z0-9]+_)+[a-z0-9]*>"
)
_ARMED = re.compile(rf"<(?=\\*(?:{_CONTROL}))|\[(?=\\*/?INST\])", re.IGNORECASE)
_DISARMED = re.compile(rf"<\\(?=\\*(?:{_CONTROL}))|\[\\(?=\\*/?INST\])", re.IGNORECASE)
"""What chat templates and tokenizers read as turns, pictures, thoughts and ends, wherever it stands."""


def disarm(text: str) -> str:
    """``text`` with a backslash inside whatever a chat template, a tokenizer or the trace grammar takes for its own."""
    return disarm_controls(trace.escape(text))


def disarm_controls(text: str) -> str:
    """``disarm`` for text that may speak the trace grammar: a rewriter's own words."""
    return _ARMED.sub(lambda found: f"{found[0]}\\", text)


def rearm(text: str) -> str:
    """The inverse of ``disarm`` for text that came through ``trace.parse``, which undoes the grammar's part itself."""
    return _DISARMED.sub(lambda found: found[0][:-1], text)


def quote(title: str, content: str, key: bytes) -> str:
    """Somebody's words as data for a model that teaches or judges: disarmed, between marks that stand in none of them."""
    mark = hmac.new(key, f"{title}\0{content}".encode(), "sha256").hexdigest()[:12]
    return f"[{title} {mark}]\n{disarm(content)}\n[/{title} {mark}]"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a conversation a rewriter is shown. What falls outside is ``unjudged: budget``."""

    characters: int = 48_000
    """Of all texts together; the newest turn comes first, then its forerunners back to the oldest."""
    images: int = 16
    """The newest."""
    image_bytes: int = 40_000_000


DEFAULT_BUDGET = Budget()


@dataclass(frozen=True, slots=True)
class Question:
    """What a rewriter is asked about a chat."""

    chat: Chat
    left_out: tuple[Judgement, ...]
    """Rows for what it is not shown, of the newest turn and of those before."""


_SPEAKERS: dict[Role, str] = {
    "user": "the user's",
    "tool": "a tool's result",
    "assistant": "the assistant's",
    "system": "the operator's",
    "developer": "the operator's",
}


def rewriter_chat(chat: Chat, policy: Policy, key: bytes, budget: Budget = DEFAULT_BUDGET) -> Chat:
    """The input of a model rewriter about the last turn of ``chat``: a system turn, and one of quoted data with the
    pictures in their places.
    """
    return ask(chat, policy, key, budget).chat


def ask(chat: Chat, policy: Policy, key: bytes, budget: Budget = DEFAULT_BUDGET) -> Question:
    """``rewriter_chat``, and what it leaves out."""
    digest = hmac.new(key, chat.prefix_hash(len(chat.messages) - 1).encode(), "sha256").hexdigest()
    mark = f"=={digest[:24]}"
    texts = _shown_texts(chat, budget.characters)
    images = _shown_images(chat, budget)
    newest = f"turn {len(chat.messages)}, the newest ({_SPEAKERS[chat.messages[-1].role]})"
    parts = [
        Text(fill("conversation", mark=mark, newest=newest)),
        *_quoted(chat, mark, texts, images),
        Text(f"{mark} end\n{fill('reminder', newest=newest)}"),
    ]
    system = Message("system", (Text(instructions(policy)),))
    return Question(Chat((system, Message("user", tuple(_joined(parts))))), tuple(_left_out(chat, texts, images)))


def instructions(policy: Policy) -> str:
    """The static part: task, grammar, examples, and the policy's categories with what counts and what a good answer does."""
    if (known := _instructions.get(policy.hash)) is None:
        rules = "\n".join(
            f"- {category.id}: {category.rule} A good answer: {category.guidance['en']}"
            for category in policy.categories.values()
        )
        known = fill("rewriter", rules=rules)
        if len(_instructions) >= 32:  # a server may have a policy per tenant
            _instructions.clear()
        _instructions[policy.hash] = known
    return known


_instructions: dict[str, str] = {}


def _quoted(chat: Chat, mark: str, texts: dict[tuple[int, int], str], images: frozenset[int]) -> Iterator[Part]:
    """Every turn: a line that names it, its words, and each picture behind a line with its number."""
    number = 0
    for turn, message in enumerate(chat.messages):
        yield Text(f"{mark} turn {turn + 1}: {message.role}")
        for place, part in enumerate(message.parts):
            match part:
                case Text():
                    shown = texts[turn, place]
                    if shown:
                        yield Text(disarm(shown))
                    if len(shown) < len(part.text):
                        yield Text(f"{mark} {len(part.text) - len(shown)} characters of this turn are left out")
                case Image():
                    number += 1
                    yield Text(f"{mark} image {number}{':' if number in images else ' is left out'}")
                    if number in images:
                        yield part
                case Opaque():
                    yield Text(f"{mark} something that cannot be shown: {disarm(part.kind)}")


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Neighbouring texts as one."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Text):
            lines.append(part.text)
            continue
        yield Text("\n".join(lines))
        lines = []
        yield part
    if lines:
        yield Text("\n".join(lines))


def _shown_texts(chat: Chat, characters: int) -> dict[tuple[int, int], str]:
    """(turn, place) → as much of each text as is shown: of one too long its beginning and its end."""
    shown: dict[tuple[int, int], str] = {}
    left = characters
    for turn in range(len(chat.messages) - 1, -1, -1):
        for place, part in enumerate(chat.messages[turn].parts):
            if isinstance(part, Text):
                text = part.text
                if len(text) > left:
                    text = f"{text[: (left + 1) // 2]}{text[len(text) - left // 2 :]}"
                shown[turn, place] = text
                left -= len(text)
    return shown


def _shown_images(chat: Chat, budget: Budget) -> frozenset[int]:
    """Numbers of the pictures that are shown, from 1: the newest."""
    images = chat.images
    shown: set[int] = set()
    size = 0
    for number in range(len(images), max(0, len(images) - budget.images), -1):
        size += len(images[number - 1].data)
        if size > budget.image_bytes:
            break
        shown.add(number)
    return frozenset(shown)


def _left_out(chat: Chat, texts: dict[tuple[int, int], str], images: frozenset[int]) -> Iterator[Judgement]:
    number = 0
    for turn, message in enumerate(chat.messages):
        for place, part in enumerate(message.parts):
            whole = True
            if isinstance(part, Text):
                whole = len(texts[turn, place]) == len(part.text)
            elif isinstance(part, Image):
                number += 1
                whole = number in images
            if not whole and message.role in JUDGED_ROLES:
                yield from unjudged(part, Reason.BUDGET)
