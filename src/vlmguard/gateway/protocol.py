"""The server's side of a connection: uvicorn's, with clocks for clients that say or take nothing, and a cap on headers."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlmguard.gateway.config import LimitSettings

_log = logging.getLogger("vlmguard.gateway")
MOST_HEADERS = 64 * 1024
"""Bytes of a request line and its headers."""


_UPGRADE = re.compile(rb"(?<=\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_HALF_UPGRADE = re.compile(rb"\r(?:\n(?:u(?:p(?:g(?:r(?:a(?:d(?:e[ \t]*)?)?)?)?)?)?)?)?\Z", re.IGNORECASE)
_IGNORED = b"ignored"
"""As long as the name in whose place it goes, so that nothing behind it shifts."""


class Corked:
    """A transport that sends in one go what is written in one turn of the loop: head and body of an answer that is at hand.

    Nothing waits for more than that turn, so a stream's pieces leave as they come.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self.is_closing, self.abort = transport.is_closing, transport.abort
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        if not self._held:
            return
        held, self._held = self._held, []
        if len(held) == 1:
            self._transport.write(held[0])
        else:
            self._transport.writelines(held)

    def close(self) -> None:
        self.flush()
        self._transport.close()


class TimedProtocol(HttpToolsProtocol):
    """A connection whose client must say what it wants in time and briefly, and take what it is given."""

    def __init__(self, config: uvicorn.Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        limits: LimitSettings = config.app.config.limits  # type: ignore[union-attr]
        self._header_seconds, self._write_seconds = limits.header_seconds, limits.write_seconds
        self._stuck: asyncio.TimerHandle | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False
        self._head_bytes = 0
        self._kept = b""
        """The end of what came of a head, when it may be half the name of an offer."""
        self._offers = 0
        """Offers to speak another protocol in this request's head."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._unstick()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            # Cut and not closed: what is still to be written would never be taken.
            self._stuck = self.loop.call_later(self._write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._unstick()
        super().resume_writing()

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def data_received(self, data: bytes) -> None:
        if self._waiting is None and self._is_idle:
            self._start_clock()  # the first bytes of another request on a kept connection
        super().data_received(data if self._in_body else self._without_offers(data))
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEADERS and not self.transport.is_closing():
                self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def _without_offers(self, data: bytes) -> bytes:
        """A server may pass over an offer to speak another protocol (RFC 9110, 7.8), and Java's client makes one with every
        request. The parser does not: it takes the body for that protocol's. So it is not shown the offer."""
        data, self._kept = self._kept + data, b""
        end = data.find(b"\r\n\r\n")
        if end < 0 and (cut := _HALF_UPGRADE.search(data)) is not None:  # its name may be cut in two
            data, self._kept = data[: cut.start()], data[cut.start() :]
        if _UPGRADE.search(data, 0, len(data) if end < 0 else end) is None:
            return data
        head, rest = (data, b"") if end < 0 else (data[:end], data[end:])
        head, self._offers = _UPGRADE.subn(_IGNORED, head)
        return head + rest

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._stop_clock()
        if self._offers:
            self._offers = 0
            self.headers[:] = [pair for pair in self.headers if pair[0] != _IGNORED]
        super().on_headers_complete()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_clock(self) -> None:
        self._waiting = self.loop.call_later(self._header_seconds, self._too_late)

    def _stop_clock(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_late(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes, *, is_within: bool | None = None) -> None:
        """``is_within``: whether another answer is under way; else that is so as long as a request is."""
        self._stop_clock()
        if (
            is_within if is_within is not None else not self._is_idle
        ):  # within another answer there is no place to say it
            self.transport.abort()
            return
        id = os.urandom(16).hex()
        _log.info("a connection was refused: %s", status.decode(), extra={"request_id": id})
        marks = f"x-vlmguard-id: {id}\r\nx-vlmguard-outcome: refused\r\n".encode()
        self.transport.write(b"HTTP/1.1 %b\r\n%bcontent-length: 0\r\nconnection: close\r\n\r\n" % (status, marks))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's answer to what is no HTTP, in the form of ours."""
        begun = not self._is_idle and self.cycle.response_started
        self._refuse(b"400 Bad Request", is_within=begun)
