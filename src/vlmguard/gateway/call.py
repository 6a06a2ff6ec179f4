"""One request on its way through the gateway: who makes it, how it is answered, and whether the client is still there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp

from vlmguard.gateway.asgi import JSON, ClientGone, Headers, Receive, Send, to_json
from vlmguard.gateway.config import Key
from vlmguard.gateway.upstream import response_headers
from vlmguard.types import Receipt

GONE = 499
"""What the log and the metrics say of a request whose client left: nobody gets to see it."""


@dataclass(slots=True, eq=False)
class Call:
    """A request, and what became of it so far."""

    id: str
    method: str
    path: str
    query: bytes
    headers: Headers
    receive: Receive
    send: Send
    key: Key | None = None
    used_header: bytes | None = None
    """The header in which the caller's key stood."""
    body: bytes = field(default=b"", repr=False)
    held: int = 0
    """Bytes that were counted for the body."""
    status: int = 0
    """Of the answer, as soon as it is known."""
    has_begun: bool = False
    """Whether the answer is on its way, so that no other can be given."""
    outcome: str = ""
    intended: str = ""
    categories: tuple[str, ...] = ()
    stages: dict[str, float] = field(default_factory=dict)
    undecided: bool = False
    """Whether it brings content for a model and nothing was decided about it yet."""
    started: float = field(default_factory=time.perf_counter)

    @property
    def owner(self) -> str:
        return "" if self.key is None else self.key.id

    def decided(self, receipt: Receipt, categories: tuple[str, ...], stages: dict[str, float]) -> None:
        """Notes what was decided, for the answer's headers and the metrics."""
        self.outcome, self.intended = receipt.outcome.value, receipt.intended_outcome.value
        self.categories, self.stages = categories, stages
        self.undecided = False

    @property
    def told(self) -> str:
        """The outcome as headers and metrics tell it: of a request about which nothing was decided, too."""
        return self.outcome or ("none" if self.status < 400 or self.status == GONE else "refused")

    def _marks(self) -> Headers:
        marks = [(b"x-vlmguard-id", self.id.encode()), (b"x-vlmguard-outcome", self.told.encode())]
        if self.intended != self.outcome:
            marks.append((b"x-vlmguard-intended-outcome", self.intended.encode()))
        return marks

    async def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends status and headers."""
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *self._marks()]})
        self.has_begun = True

    async def write(self, body: bytes, *, more: bool) -> None:
        """Sends a piece of the body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(
        self, status: int, body: bytes, kind: tuple[bytes, bytes] = JSON, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Sends a whole answer."""
        await self.begin(status, [kind, (b"content-length", str(len(body)).encode()), *headers])
        await self.write(body, more=False)

    async def answer_json(self, status: int, value: object) -> None:
        await self.answer(status, to_json(value))


class Connected:
    """While this is entered, the task is cancelled when the client leaves, which then is a ``ClientGone``."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.get_running_loop().create_task(self._wait())
        return self

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    @property
    def is_gone(self) -> bool:
        return self._gone

    def release(self) -> None:
        """The client may leave from now on: what is still to do does not depend on it."""
        self._watch.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientGone from error


async def relay(call: Call, response: aiohttp.ClientResponse, connected: Connected) -> None:
    """Passes an upstream's answer on, piece by piece as it comes; an answer that breaks off is seen to break off."""
    await call.begin(response.status, response_headers(response.raw_headers))
    try:
        async for piece in response.content.iter_any():
            await call.write(piece, more=True)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        # Without an end the server cuts the connection, so that half an answer cannot pass for a whole one.
        raise BrokenOff(type(error).__name__) from error
    connected.release()
    await call.write(b"", more=False)


class BrokenOff(Exception):
    """The upstream broke off within its answer."""
