"""What else is served beside the judged paths: health, metrics, receipts; and the limits on who may ask how much."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from aiohttp import web

from tests.gateway.kit import (
    HARMFUL,
    HARMLESS,
    Received,
    Running,
    Upstream,
    gateway,
    metric,
    send_raw,
    wait_until,
)
from vlmguard.gateway import audit


def test_a_path_that_the_configuration_names_passes_and_is_marked(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml='pass_through = ["POST /v1/embeddings"]') as running:
        answer = running.post("/v1/embeddings", {"input": "x"})
        assert (answer.status_code, answer.headers["x-vlmguard-outcome"]) == (200, "unguarded")
        assert running.receipt(answer)["judgements"] == [
            {"path": "", "aspect": "content", "judged_by": None, "unjudged": "opaque"}
        ]
        assert running.post("/v1/files", {}).status_code == 404
    assert [received.path for received in upstream.received if received.path != "/v1/models"] == ["/v1/embeddings"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/V1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat/%63ompletions",
        "/v1/models/../chat/completions",
        "/v1/models/..%2fchat/completions",
        "/v1/chat/completions%00",
        "/v1/chat/completions;x",
        "/v1/models/../../../etc/passwd",
        "/receipts/../v1/models",
        "/chat/completions",
        "/",
        "*",
    ],
)
def test_no_other_spelling_of_a_path_leads_anywhere(guarded: Running, upstream: Upstream, path: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": HARMFUL}]})
    answer = send_raw(
        guarded,
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode(),
    )
    assert answer.split(b" ", 2)[1] in (b"404", b"405", b"400")
    assert not upstream.received


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_other_methods_are_refused(guarded: Running, upstream: Upstream, method: str) -> None:
    answer = httpx.request(method, f"{guarded.base}/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert not upstream.received


def test_health_and_readiness_are_really_tried(guarded: Running, upstream: Upstream) -> None:
    assert guarded.get("/healthz").json() == {"alive": True}
    assert guarded.get("/readyz").json() == {"ready": True, "failed": {}}
    assert upstream.last.path == "/v1/models"

    async def fail(request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=503)

    upstream.handler = fail
    wait_until(lambda: guarded.get("/readyz").status_code == 503)
    assert guarded.get("/readyz").json()["failed"] == {"upstream": "the upstream answers with status 503"}


def test_what_a_rewriter_holds_is_given_back(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url) as running:
        assert not running.scripted.closed
    assert running.scripted.closed


def test_metrics_and_logs_hold_numbers_and_no_words_of_users(
    tmp_path: Path, upstream: Upstream, capfd: pytest.CaptureFixture[str]
) -> None:
    with gateway(tmp_path, upstream.url, log_level="debug") as running:
        assert running.chat(HARMFUL + " zebrafinch").headers["x-vlmguard-outcome"] == "rewrite"
        running.scripted.error = RuntimeError("zebrafinch")
        running.chat("zebrafinch")
        running.get("/v1/zebrafinch")
        text = running.get("/metrics").text
    assert metric(text, "vlmguard_requests_total", route="/v1/chat/completions", outcome="rewrite", status="200") == 1
    assert metric(text, "vlmguard_findings_total", category="indiscriminate_weapons") == 1
    assert metric(text, "vlmguard_stage_seconds_count", stage="guard") == 2
    assert metric(text, "vlmguard_cache_total", result="miss") == 2
    assert metric(text, "vlmguard_requests_total", route="other", outcome="refused") == 1
    logged = capfd.readouterr().err
    assert "RuntimeError" in logged
    assert "request_id=" in logged
    assert "zebrafinch" not in text + logged


def test_every_answer_has_an_id_and_a_receipt_is_readable_at_once(guarded: Running) -> None:
    for _ in range(20):
        answer = guarded.chat(HARMLESS)
        receipt = guarded.receipt(answer)
        assert receipt["id"] == answer.headers["x-vlmguard-id"]
    assert [(row["path"], row["judged_by"]) for row in receipt["judgements"]] == [
        ("/messages/0/content", "risk scorer")
    ]
    assert guarded.get("/receipts/" + "0" * 32).status_code == 404
    assert guarded.get("/nothing").headers["x-vlmguard-id"]


def test_a_receipt_is_signed_and_holds_the_keyed_hash_of_the_very_bytes_sent(
    tmp_path: Path, upstream: Upstream
) -> None:
    from vlmguard.receipts import content_hash, read_key, verify

    secret = "s" * 32
    with gateway(tmp_path, upstream.url, receipt_key=secret) as running:
        for prompt in (HARMLESS, HARMFUL):
            receipt = running.receipt(running.chat(prompt))
            assert verify(receipt, [read_key(secret)])
            assert receipt["sent"] == content_hash(upstream.last.body, read_key(secret))


def test_what_is_answered_without_a_judgement_does_not_count_as_refused(guarded: Running) -> None:
    guarded.get("/healthz")
    guarded.get("/v1/nothing")
    told = guarded.get("/metrics").text
    assert metric(told, "vlmguard_requests_total", route="/healthz", outcome="none", status="200") == 1
    assert metric(told, "vlmguard_requests_total", outcome="refused", status="200") == 0
    assert metric(told, "vlmguard_requests_total", outcome="refused", status="404") == 1


def test_decisions_that_are_lost_at_the_end_are_told(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_CLOSE_SECONDS", 0.2)
    with gateway(tmp_path, upstream.url) as running:
        other = sqlite3.connect(tmp_path / "audit.db")
        other.execute("BEGIN IMMEDIATE")
        assert running.chat(HARMLESS).status_code == 200
    other.close()
    assert "1 decisions were NOT written" in str(running.launcher.failure)


def test_limits_answer_in_the_dialects_shape(tmp_path: Path, upstream: Upstream) -> None:
    toml = "[limits]\nbody_bytes = 1000\nbody_seconds = 0.5\n"
    with gateway(tmp_path, upstream.url, toml=toml) as running:
        large = running.chat("x" * 1000)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
        chunked = httpx.post(
            f"{running.base}/chat/completions",
            content=iter([b"x" * 600] * 3),
            headers={"content-type": "application/json"},
        )
        assert chunked.status_code == 413
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
        assert send_raw(running, head).startswith(b"HTTP/1.1 408 ")
    assert not upstream.received


def test_slow_and_endless_headers_are_cut_off(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml="[limits]\nheader_seconds = 0.4\n") as running:
        answer = send_raw(running, b"")
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert answer.endswith(b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        started = time.monotonic()
        assert send_raw(running, b"POST /v1/chat/completions HTTP/1.1\r\nhost: l").startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 10
    with gateway(tmp_path, upstream.url) as running:
        endless = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: " + b"a" * 100_000
        assert send_raw(running, endless).startswith(b"HTTP/1.1 431 ")
        # Behind a request that is still being answered, too.
        body = json.dumps({"messages": [{"role": "user", "content": HARMLESS}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        running.scripted.seconds = 5
        received = b""
        with contextlib.suppress(ConnectionError):  # it may be cut within what we send
            received = send_raw(running, (head + body).encode() + endless)
        assert received == b""
        assert running.get("/healthz").status_code == 200


def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path, upstream: Upstream) -> None:
    left = threading.Event()

    async def endless(request: web.Request, received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        except (ConnectionError, asyncio.CancelledError):
            left.set()
            raise

    upstream.handler = endless
    with (
        gateway(tmp_path, upstream.url, toml="[limits]\nwrite_seconds = 0.5\n") as running,
        socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as raw,
    ):
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert left.wait(30)  # while our end is still open, and reads nothing
        wait_until(lambda: metric(running.get("/metrics").text, "vlmguard_requests_total", status="499") == 1)


def test_too_many_requests_at_once_are_told_to_come_back(tmp_path: Path, upstream: Upstream) -> None:
    held = threading.Event()

    async def hold(request: web.Request, received: Received) -> web.StreamResponse:
        held.set()
        await asyncio.sleep(30)
        return web.Response()

    upstream.handler = hold
    with gateway(tmp_path, upstream.url, toml="[limits]\nin_flight = 1\n") as running:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as raw:
            raw.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert held.wait(20)
            answer = running.chat(HARMLESS)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert running.get("/healthz").status_code == 200  # busy is alive
        wait_until(lambda: running.get("/v1/nothing").status_code == 404)
