"""A server that says the bytes it is told to, on a real socket: for everything that servers do wrong."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes | str, *, status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    """A whole answer."""
    data = body.encode() if isinstance(body, str) else body
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{more}\r\n"
    )
    return head.encode() + data


def said(text: str | None, *, finish: str = "stop", **message: Any) -> bytes:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return http(json.dumps({"choices": [choice], "usage": usage}))


def event(text: str | None = None, finish: str | None = None) -> bytes:
    """One event of a stream."""
    delta = {} if text is None else {"content": text}
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
    )


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def streamed(*pieces: str, finish: str = "stop") -> bytes:
    """A whole stream."""
    return STREAM_HEAD + b"".join(map(event, pieces)) + event(None, finish) + b"data: [DONE]\n\n"


def failed(status: str, message: str, **headers: str) -> bytes:
    """An error, as OpenAI spells it."""
    return http(json.dumps({"error": {"message": message, "type": "x"}}), status=status, **headers)


def reset(writer: asyncio.StreamWriter) -> None:
    """Breaks a connection the hard way: the other side sees a reset and no end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Upstream:
    """Gives its answers in turn, the last one again and again; keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers: Sequence[Answer] = answers
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.left = asyncio.Event()
        """Set when a client has gone before its answer was at its end."""
        self.url = ""

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def asked(self) -> list[Any]:
        """The bodies, read."""
        return [json.loads(body) for body in self.bodies]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line.split(":")[1]) for line in head.lower().split("\r\n") if line.startswith("content-length:")),
                0,
            )
            body = await reader.readexactly(length)
            answer = self._answers[min(len(self.heads), len(self._answers) - 1)]
            self.heads.append(head)
            self.bodies.append(body)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await self._until_gone(reader, answer(writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _until_gone(self, reader: asyncio.StreamReader, answering: Awaitable[None]) -> None:
        """Answers while the client is there."""
        answer = asyncio.ensure_future(answering)
        gone = asyncio.ensure_future(reader.read(1))
        done, _ = await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer not in done or isinstance(answer.exception(), ConnectionError):
            self.left.set()
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)
