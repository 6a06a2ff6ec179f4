"""Streams, an upstream's errors, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest
from aiohttp import web

from tests.gateway.kit import (
    HARMLESS,
    Received,
    Running,
    Upstream,
    gateway,
    metric,
    on_thread,
    speak,
    wait_until,
)


async def test_a_stream_passes_piece_by_piece_and_is_never_held_back(guarded: Running, upstream: Upstream) -> None:
    went_on = threading.Event()

    async def slowly(request: web.Request, received: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(b"data: %d\n\n" % number)
            # The next piece is not even made before the client has this one.
            await asyncio.get_running_loop().run_in_executor(None, went_on.wait, 20)
            went_on.clear()
        return response

    upstream.handler = slowly
    got = []
    async with httpx.AsyncClient(timeout=20) as client:
        body = {"messages": [{"role": "user", "content": HARMLESS}], "stream": True}
        async with client.stream("POST", f"{guarded.base}/chat/completions", json=body) as response:
            async for piece in response.aiter_raw():
                got.append(piece)
                went_on.set()
    assert got == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


@pytest.mark.parametrize("answering", [False, True])
def test_a_client_that_leaves_is_felt_by_the_upstream(guarded: Running, upstream: Upstream, answering: bool) -> None:
    arrived, left = threading.Event(), threading.Event()

    async def endless(request: web.Request, received: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            if answering:
                await response.prepare(request)
                await response.write(b"data: 0\n\n")
            arrived.set()
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            left.set()
            raise
        return response

    upstream.handler = endless
    with socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2]))) as raw:
        body = json.dumps({"messages": [{"role": "user", "content": HARMLESS}], "stream": True})
        raw.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert arrived.wait(20)
        assert not left.is_set()
    assert left.wait(20)
    wait_until(lambda: metric(guarded.get("/metrics").text, "vlmguard_requests_total", status="499") == 1 or answering)


def test_an_upstreams_error_keeps_status_body_and_headers(guarded: Running, upstream: Upstream) -> None:
    async def fail(request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(
            status=429,
            body=b'{"error": {"message":"slow down"}}',
            headers={"retry-after": "7", "x-vlmguard-outcome": "lie"},
        )

    upstream.handler = fail
    answer = guarded.chat(HARMLESS)
    assert (answer.status_code, answer.content) == (429, b'{"error": {"message":"slow down"}}')
    assert answer.headers["retry-after"] == "7"
    assert answer.headers.get_list("x-vlmguard-outcome") == ["forward"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_upstream_that_redirects_takes_nobody_round_the_guard(
    guarded: Running, upstream: Upstream, status: int
) -> None:
    async def redirect(request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=status, headers={"location": "http://127.0.0.1:9/v1/chat/completions"})

    upstream.handler = redirect
    answer = guarded.chat(HARMLESS)
    assert (answer.status_code, "location" in answer.headers) == (502, False)
    assert "set upstream to where it points" in answer.json()["error"]["message"]
    wait_until(lambda: guarded.get("/readyz").status_code == 503)
    assert "redirects" in guarded.get("/readyz").json()["failed"]["upstream"]


@pytest.mark.parametrize("line", [b"600 Strange", b"999 Stranger", b"101 Switching Protocols\r\nupgrade: websocket"])
def test_a_status_that_no_client_can_take_is_an_error_of_the_upstreams(tmp_path: Path, line: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + line + b"\r\ncontent-length: 2\r\n\r\nhi")
        await reader.read()  # until the gateway hangs up
        writer.close()
        await writer.wait_closed()

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()

    with on_thread(serving) as port, gateway(tmp_path, f"http://127.0.0.1:{port}/v1") as running:
        answered = running.chat(HARMLESS)
        assert (answered.status_code, answered.json()["error"]["code"]) == (502, "upstream_failed")
        assert f"status {line[:3].decode()}" in answered.json()["error"]["message"]
        assert running.get("/healthz").status_code == 200


def test_an_upstream_that_is_not_there_is_told_in_the_dialects_shape(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with gateway(tmp_path, f"http://127.0.0.1:{port}/v1") as running:
        answer = running.post("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": HARMLESS}]})
        assert answer.status_code == 502
        assert (answer.json()["type"], answer.json()["error"]["code"]) == ("error", "upstream_failed")
        ready = running.get("/readyz")
        assert ready.status_code == 503
        assert list(ready.json()["failed"]) == ["upstream"]
        assert running.get("/healthz").status_code == 200


def test_an_answer_that_breaks_off_is_seen_to_break_off(guarded: Running, upstream: Upstream) -> None:
    async def break_off(request: web.Request, received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: half")
        assert request.transport is not None
        request.transport.close()
        return response

    upstream.handler = break_off
    with pytest.raises(httpx.RemoteProtocolError):
        guarded.chat(HARMLESS)


def test_a_silent_upstream_is_given_up(tmp_path: Path, upstream: Upstream) -> None:
    async def silent(request: web.Request, received: Received) -> web.StreamResponse:
        await asyncio.sleep(20)
        return await speak(request, received)

    with gateway(tmp_path, upstream.url, upstream_seconds="0.3") as running:
        upstream.handler = silent
        assert running.chat(HARMLESS).status_code == 504
    (tmp_path / "ready").mkdir()
    with gateway(tmp_path / "ready", upstream.url, deadline="0.3") as running:
        assert "did not answer" in running.get("/readyz").json()["failed"]["upstream"]
