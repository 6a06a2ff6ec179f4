"""The little that is needed between ASGI and the gateway: reading a body under a cap and a clock, answering, headers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
TEXT = (b"content-type", b"text/plain; charset=utf-8")


class Refused(Exception):
    """A request that gets an error from us and goes no further."""

    def __init__(self, status: int, message: str, kind: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.headers = tuple(headers)


class Room:
    """The bytes of bodies that may be held at one time, in all and of each caller.

    Args:
        most: in all.
        share: of each caller, so that no one's slow bodies keep everybody else waiting.
    """

    def __init__(self, most: int, share: int) -> None:
        self._most = most
        self._share = share
        self._held: Counter[str] = Counter()

    def take(self, owner: str, size: int) -> None:
        """Raises ``Refused`` when there is no room."""
        if self._held.total() + size > self._most or self._held[owner] + size > self._share:
            ends = [(b"retry-after", b"1"), (b"connection", b"close")]
            raise Refused(503, "the requests under way fill the memory: try again later", "overloaded", ends)
        self._held[owner] += size

    def give_back(self, owner: str, size: int) -> None:
        self._held[owner] -= size


class ClientGone(Exception):
    """The client left before it was answered."""


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a header that may stand once. Raises ``Refused`` when it stands twice."""
    found = [value for key, value in headers if key == name]
    if len(found) > 1:
        raise Refused(400, f"the header {name.decode()} stands {len(found)} times: send it once", "bad_header")
    return found[0] if found else None


async def read_body(
    receive: Receive, headers: Headers, most: int, seconds: float, hold: Callable[[int], None] = lambda size: None
) -> bytes:
    """The whole request body. ``hold`` is told of every piece's size, and may refuse it.

    Raises ``Refused`` when it is too large or too slow, ``ClientGone``.
    """
    declared = header(headers, b"content-length")
    if declared is not None and int(declared) > most:
        raise _too_large(most)
    pieces: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > most:
                    raise _too_large(most)
                hold(len(pieces[-1]))
                more = message.get("more_body", False)
    except TimeoutError:
        raise _too_slow(seconds) from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(most: int) -> Refused:
    # Closed, since what is still to come of the body is not read.
    return Refused(413, f"the body is larger than {most:,} bytes", "too_large", [(b"connection", b"close")])


def _too_slow(seconds: float) -> Refused:
    message = f"the body did not arrive within {seconds:g} seconds"
    return Refused(408, message, "too_slow", [(b"connection", b"close")])


def to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
