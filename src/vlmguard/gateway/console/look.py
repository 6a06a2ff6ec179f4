"""Kept requests looked at again: read from the audit's raw bodies, judged anew, and their pictures shown.

The audit keeps what was decided, and of a request its body at most; evidence, report and rewrite are made again from that.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import PIL.Image

from vlmguard.errors import ImageError
from vlmguard.gateway.app import Gateway
from vlmguard.gateway.audit_store import Row
from vlmguard.gateway.console import diff
from vlmguard.gateway.judge import Terms
from vlmguard.guard import Guard
from vlmguard.images import views
from vlmguard.perception.sight import Eyes, Sight
from vlmguard.policy import Policy
from vlmguard.protocols import Rewriter
from vlmguard.types import Chat, Guarded, Image, Message, Text
from vlmguard.wire import Request

_SIDE = 720
"""Pixels of a thumbnail's longer side."""
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What was read at one place of a picture."""

    points: str
    """Of an SVG polygon, in pixels of the picture."""
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture and what was read in it."""

    name: str
    width: int
    height: int
    shapes: tuple[Shape, ...]
    unread: str | None
    uncoded: str | None
    frames: int
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message before and after."""

    role: str
    before: str
    after: str | None
    """``None``: left as it was."""
    runs: list[diff.Run] | None
    added: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """A request judged again."""

    guarded: Guarded = field(repr=False)
    turns: tuple[Turn, ...]
    pictures: tuple[Seen, ...]
    same: bool
    """Whether policy and weights are those of the receipt."""
    remote: int
    """Pictures that only their address was kept of."""


def terms_of(gateway: Gateway, row: Row) -> Terms:
    """Under what a row's request would be judged today."""
    config = gateway.config
    route = next((route for route in config.routes if route.path == row["route"]), None)
    key = next((key for key in config.keys if key.id == row["owner"]), None)
    return Terms.of(config, route, key)


class Looker:
    """Judges for the console: one request at a time, so that the gateway's own have the machine.

    Args:
        gateway: whose rewriters judge.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._turnstile = asyncio.Semaphore(1)
        self._guards: dict[str, Guard] = {}
        self._eyes: Eyes | None = None

    def guard(self, terms: Terms) -> Guard:
        """One of the console's own: what it remembers tells no caller what others have asked."""
        if (guard := self._guards.get(terms.policy)) is None:
            rewriter, policy = self._gateway.judge.of(terms)
            guard = self._guards[terms.policy] = Guard(rewriter, policy, key=self._gateway.secrets.hash_key)
        return guard

    async def judge(self, chat: Chat, guard: Guard) -> Guarded:
        """Raises ``VlmguardError``, ``TimeoutError``."""
        async with self._turnstile, asyncio.timeout(_SECONDS):
            return await guard.refine(chat)

    async def again(self, request: Request, row: Row, receipt: dict[str, object]) -> Again:
        """Judges a kept request again. Raises ``VlmguardError``, ``TimeoutError``."""
        guard = self.guard(terms_of(self._gateway, row))
        guarded = await self.judge(request.chat, guard)
        pictures = await self.pictures(request.chat, guard.rewriter)
        turns = await asyncio.to_thread(compare, request.chat, guarded.chat)
        same = (receipt.get("policy"), receipt.get("weights")) == (guard.policy.hash, guarded.receipt.weights)
        return Again(guarded, turns, pictures, same, len(request.remote))

    async def pictures(self, chat: Chat, rewriter: Rewriter) -> tuple[Seen, ...]:
        """What was read in each picture of a chat, with the eyes of who judged where it has any."""
        if not chat.images:
            return ()
        eyes = getattr(rewriter, "eyes", None)
        if not isinstance(eyes, Eyes):
            eyes = self._eyes = self._eyes or Eyes(threads=1)
        async with self._turnstile:
            return await asyncio.to_thread(lambda: tuple(_seen(image, eyes) for image in chat.images))

    async def thumbnail(self, image: Image) -> bytes:
        """A PNG of a picture's first frame. Raises ``ImageError``."""
        async with self._turnstile:
            return await asyncio.to_thread(thumbnail, image)

    def proposed(self, policy: Policy) -> Guard:
        """A guard by a policy that is not in force. Raises ``VlmguardError``."""
        return Guard(self._gateway.judge.judging_by(policy), policy)


def thumbnail(image: Image) -> bytes:
    """Drawn anew from the pixels, so that nothing of the file but what it shows reaches a browser. Raises ``ImageError``."""
    picture = PIL.Image.fromarray(next(iter(views(image))))
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _seen(image: Image, eyes: Eyes) -> Seen:
    sight = eyes.look(image)
    try:
        height, width = next(iter(views(image))).shape[:2]
    except ImageError:
        width, height = image.width, image.height
    unread, uncoded = (None if reason is None else reason.value for reason in (sight.unread, sight.uncoded))
    shapes = tuple(_shapes(sight))
    return Seen(image.path, width, height, shapes, unread, uncoded, image.frames, len(image.data))


def _shapes(sight: Sight) -> Iterator[Shape]:
    for line in sight.lines:
        yield Shape(_points(line.box), line.text, "words")
    for code in sight.codes:
        yield Shape(_points(code.box), code.text, code.format)


def _points(box: tuple[tuple[float, float], ...]) -> str:
    return " ".join(f"{x:.0f},{y:.0f}" for x, y in box)


def compare(before: Chat, after: Chat | None) -> tuple[Turn, ...]:
    """Every turn as it came and as it would be sent; ``after`` is ``None`` where nothing is sent."""
    if after is None or after is before:
        return tuple(Turn(message.role, message.text, None, None) for message in before.messages)
    added = len(after.messages) - len(before.messages)
    turns = [Turn(message.role, "", message.text, None, added=True) for message in after.messages[:added]]
    for old, new in zip(before.messages, after.messages[added:], strict=True):
        turns.append(_turn(old, new))
    return tuple(turns)


def _turn(old: Message, new: Message) -> Turn:
    if old.parts == new.parts:
        return Turn(old.role, old.text, None, None)
    after = "\n".join(part.text for part in new.parts if isinstance(part, Text) and part.text)
    return Turn(old.role, old.text, after, diff.words(old.text, after))
