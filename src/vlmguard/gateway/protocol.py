"""The server's side of a connection: uvicorn's, with clocks for clients that say or take nothing, and a cap on headers."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlmguard.gateway.config import LimitSettings

_log = logging.getLogger("vlmguard.gateway")
MOST_HEADERS = 64 * 1024
"""Bytes in which neither a request's head nor more of its body comes to be: of heads, and of what follows a body."""


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
        self._in_head = self._in_body = self._moved = False
        self._body_bytes = 0
        """Of those that came last."""
        self._idle_bytes = 0
        """What came since a head was whole or a body grew."""
        self._trailers = 0
        """Fields that came behind this request's body."""

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
        self._unset_keepalive_if_required()
        self._moved, self._body_bytes = False, 0
        try:
            self._feed(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self.send_400_response("")
            return
        if not self._moved:
            self._idle_bytes += len(data)
        else:  # with the start of another head behind it, perhaps
            self._idle_bytes = len(data) - self._body_bytes if self._in_head else 0
        if self._idle_bytes > MOST_HEADERS and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large")

    def _feed(self, data: bytes) -> None:
        """A server may pass over an offer to speak another protocol (RFC 9110, 7.8), and Java's client makes one with every
        request. The parser does not: it stops behind such a head. So another parser is given the head without the offer, and
        what follows. Raises ``HttpParserError``."""
        rest = memoryview(data)  # of which nothing is copied, however many offers stand in it
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as stopped:
                head, rest = self._plain_head(), rest[stopped.args[0] :]
            else:
                return
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            self.parser.feed_data(head)

    def _plain_head(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("CONNECT asks for a tunnel")
        fields = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(fields))

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:  # a field behind the body: what was checked are those before it
            self._trailers += 1
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head, self._in_body, self._moved = False, True, True
        self._stop_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body, self._moved = False, True
        if self._trailers:
            _log.info("%d fields behind a request's body were left out", self._trailers)
            self._trailers = 0
        super().on_message_complete()

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
