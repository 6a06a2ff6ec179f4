"""Every answer says what became of the request; a request that brought content leaves a receipt, also when it was refused unread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web

from tests.gateway.kit import HARMLESS, Received, Running, Upstream, gateway, metric, send_raw, speak, wait_until
from vlmguard.gateway.keys import hash_key

KEYS = f'[keys.a]\nhash = "{hash_key("a-key")}"\nrequests_per_minute = 2\n'
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": HARMLESS}]}


def outcome(answer: httpx.Response) -> str:
    assert len(answer.headers["x-vlmguard-id"]) == 32
    return str(answer.headers["x-vlmguard-outcome"])


def test_what_was_refused_unread_has_a_receipt(tmp_path: Path, upstream: Upstream) -> None:
    toml = 'pass_through = ["POST /v1/embeddings"]\n[limits]\nbody_bytes = 200\nbody_seconds = 0.5\n'
    with gateway(tmp_path, upstream.url, toml=toml) as running:
        paths = ("/v1/chat/completions", "/v1/messages", "/beta/litellm_basic_guardrail_api", "/v1/embeddings")
        for path in paths:
            large = running.post(path, {"x": "x" * 200})
            assert (large.status_code, outcome(large)) == (413, "block")
            receipt = running.receipt(large)
            assert (receipt["outcome"], receipt["failure"]) == ("block", "refused: too_large")
            assert receipt["sent"] is None
            assert receipt["judgements"] == [
                {"path": "", "aspect": "content", "judged_by": None, "unjudged": "unreadable"}
            ]
        for headers, status, failure in (
            ({"content-type": "text/plain"}, 415, "wrong_type"),
            ({"content-type": "application/json", "content-encoding": "gzip"}, 400, "unknown_encoding"),
        ):
            answer = httpx.post(f"{running.base}/responses", content=b"{}", headers=headers)
            assert (answer.status_code, outcome(answer)) == (status, "block")
            assert running.receipt(answer)["failure"] == f"refused: {failure}"
        bad = running.post("/beta/litellm_basic_guardrail_api", {"input_type": "x"})
        assert (bad.status_code, running.receipt(bad)["failure"]) == (400, "refused: bad_request")
    assert not upstream.received


def test_what_was_refused_before_anybody_is_known_says_so(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        assert outcome(running.chat(HARMLESS)) == "refused"
        for _ in range(2):
            assert outcome(running.chat(HARMLESS, authorization="Bearer a-key")) == "forward"
        limited = running.chat(HARMLESS, authorization="Bearer a-key")
        assert (limited.status_code, outcome(limited)) == (429, "refused")
    with gateway(tmp_path, upstream.url) as running:
        assert outcome(running.get("/v1/chat/completions")) == "refused"
        assert outcome(running.post("/v1/files", BODY)) == "refused"
        assert outcome(running.post("/v1/chat/completions", BODY, host="evil.example")) == "refused"


def test_where_nothing_was_to_judge_the_outcome_is_none(guarded: Running, upstream: Upstream) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/metrics", "/v1/models"):
        assert outcome(guarded.get(path)) == "none"

    async def fail(request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=500)

    upstream.handler = fail
    assert outcome(guarded.get("/v1/models")) == "none"
    assert metric(guarded.get("/metrics").text, "vlmguard_requests_total", outcome="none", status="500") == 1


def test_what_is_not_ready_and_who_left_were_refused_nothing(tmp_path: Path) -> None:
    with gateway(tmp_path, "http://127.0.0.1:9/v1") as running:
        unready = running.get("/readyz")
        assert (unready.status_code, outcome(unready)) == (503, "none")
        running.scripted.seconds = 20
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20) as raw:
            raw.sendall(_ask())
            wait_until(lambda: running.scripted.judged)
        wait_until(
            lambda: metric(running.get("/metrics").text, "vlmguard_requests_total", outcome="none", status="499") == 1
        )


def test_a_question_of_litellms_about_an_answer_has_a_receipt(guarded: Running) -> None:
    answer = guarded.post("/beta/litellm_basic_guardrail_api", {"input_type": "response", "texts": ["Hello."]})
    assert (answer.json(), outcome(answer)) == ({"action": "NONE"}, "unguarded")
    assert guarded.receipt(answer)["outcome"] == "unguarded"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost : x\r\n\r\n", b"400"),
        (b"\x16\x03\x01", b"400"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", b"408"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 80_000, b"431"),
    ],
)
def test_what_is_no_request_is_refused_in_the_same_form(
    tmp_path: Path, upstream: Upstream, data: bytes, status: bytes
) -> None:
    with gateway(tmp_path, upstream.url, toml="[limits]\nheader_seconds = 0.5\n") as running:
        answer = send_raw(running, data)
    assert answer.split(b" ")[1] == status
    assert b"\r\nx-vlmguard-outcome: refused\r\n" in answer
    assert b"\r\nx-vlmguard-id: " in answer


def test_a_refusal_that_cannot_be_kept_is_a_failure_of_its_own(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(
        tmp_path, upstream.url, toml="[audit]\nqueue = 1\nwhen_full = 'fail'\nflush_seconds = 60\n"
    ) as running:
        answers = [running.post("/v1/responses", b"{}", content_type="text/plain") for _ in range(3)]
        assert {answer.status_code for answer in answers} <= {415, 503}
        for answer in answers:
            assert (outcome(answer), answer.json()["error"]["code"]) in [
                ("block", "wrong_type"),
                ("refused", "audit_failed"),
            ]


# ---------------------------------------------------------------------------------------------------------------------
# What Java's client sends by default, and what a full memory says


@pytest.mark.parametrize("pieces", [1, 2, 3, 400])
@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_a_request_that_offers_http_2_is_served_as_it_is(
    guarded: Running, upstream: Upstream, name: bytes, pieces: int
) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": f"{HARMLESS}\r\nUpgrade: h2c"}]}).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nhost: localhost\r\nHTTP2-Settings: "
        b"AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n%b: h2c\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % (name, len(body))
    ) + body
    with socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2])), timeout=20) as raw:
        for number in range(pieces):
            raw.sendall(request[len(request) * number // pieces : len(request) * (number + 1) // pieces])
            time.sleep(0.002 if pieces > 3 else 0.05)
        answer = raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        # And the connection is none that is taken for another protocol.
        raw.sendall(request)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert upstream.last.body == body
    assert not {"upgrade", "http2-settings", "ignored", "connection"} & {key for key, _ in upstream.last.headers}


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_a_body_that_speaks_of_an_upgrade_keeps_its_bytes(tmp_path: Path, upstream: Upstream, cut: int) -> None:
    body = b"a\r\nUpgrade: h2c\r\n\r\nb\r\nupgrade"
    head = (
        b"POST /v1/audio HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nUpgrade: h2c\r\nconnection: close\r\n\r\n"
    )
    request = head % len(body) + body
    with gateway(tmp_path, upstream.url, toml='pass_through = ["POST /v1/audio"]') as running:
        at = len(request) - len(body) + cut
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20) as raw:
            for piece in (request[:at], request[at:]):
                raw.sendall(piece)
                time.sleep(0.05)
            assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert upstream.last.body == body


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_head_that_is_cut_in_its_blank_line_ends_where_it_ends(tmp_path: Path, upstream: Upstream, cut: int) -> None:
    body = b"--x\r\nUpgrade: h2c\r\nfoo: bar\r\n\r\nabc\r\n"
    head = b"POST /v1/audio HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nignored: kept\r\n\r\n" % len(body)
    with (
        gateway(tmp_path, upstream.url, toml='pass_through = ["POST /v1/audio"]') as running,
        socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20) as raw,
    ):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (head[:-cut], head[-cut:] + body):
            raw.sendall(piece)
            time.sleep(0.05)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert upstream.last.body == body
    assert upstream.last.header("ignored") == "kept"


_OFFER = b"connection: upgrade\r\nupgrade: h2c\r\n"


def _ask(more: bytes = b"", prompt: str = HARMLESS) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": prompt}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return head + more + b"content-length: %d\r\n\r\n" % len(body) + body


def test_requests_in_one_packet_are_served_in_turn_whatever_they_offer(guarded: Running, upstream: Upstream) -> None:
    asks = [
        _ask(),
        _ask(_OFFER + b"ignored: kept\r\n", "two"),
        _ask(_OFFER, "three"),
        _ask(b"connection: close\r\n", "four"),
    ]
    answer = send_raw(guarded, b"".join(asks))
    assert answer.count(b"HTTP/1.1 200 ") == 4
    assert [one.json["messages"][0]["content"] for one in upstream.received[-4:]] == [HARMLESS, "two", "three", "four"]
    assert upstream.received[-3].header("ignored") == "kept"


def test_a_tunnel_is_refused(guarded: Running, upstream: Upstream) -> None:
    before = len(upstream.received)
    answer = send_raw(guarded, b"CONNECT a.example:1 HTTP/1.1\r\nhost: localhost\r\n\r\n" + _ask())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert len(upstream.received) == before


def test_fields_behind_a_body_are_no_headers_of_the_request(guarded: Running, upstream: Upstream) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": HARMLESS}]}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer one\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n"
    ) % (len(body), body)
    trailers = b"authorization: Bearer two\r\ncookie: a=b\r\ncontent-encoding: gzip\r\nx-foo: 1\r\nx-last: 1\r\n\r\n"
    answer = send_raw(guarded, head + trailers + _ask(b"connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    for received in upstream.received[-2:]:
        assert not {"cookie", "content-encoding", "x-foo", "x-last"} & {name for name, _ in received.headers}
    assert upstream.received[-2].header("authorization") == "Bearer one"
    assert upstream.received[-1].header("authorization") is None


@pytest.mark.parametrize(
    "start",
    [
        b"\r\nupgrade",
        b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nupgrade",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-a: ",
    ],
)
def test_what_comes_to_nothing_is_cut_after_64_kib(guarded: Running, start: bytes) -> None:
    filler = b"\r\n" * 4096 if start == b"\r\n" else b" " * 8192
    sent = 0

    def pump(raw: socket.socket) -> None:
        nonlocal sent
        raw.sendall(start)
        while sent < 64 << 20:
            sent += raw.send(filler)

    with (
        socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2])), timeout=20) as raw,
        pytest.raises((BrokenPipeError, ConnectionResetError)),
    ):
        pump(raw)
    assert sent < 16 << 20  # what the system's own buffers take
    assert guarded.get("/healthz").status_code == 200


def test_what_would_not_fit_into_memory_is_told_to_come_back(tmp_path: Path, upstream: Upstream) -> None:
    toml = "[limits]\nbody_bytes = 100_000\nheld_bytes = 150_000\n"
    with gateway(tmp_path, upstream.url, toml=toml) as running:
        running.scripted.seconds = 3
        words = "word " * 16_000
        first = threading.Thread(target=lambda: running.chat(words + "one"))
        first.start()
        wait_until(lambda: running.scripted.judged)
        full = running.chat(words + "two")
        assert (full.status_code, full.headers["retry-after"], full.json()["error"]["code"]) == (503, "1", "overloaded")
        assert running.receipt(full)["failure"] == "refused: overloaded"
        chunked = httpx.post(
            f"{running.base}/chat/completions",
            content=iter([b"x" * 30_000] * 3),
            headers={"content-type": "application/json"},
        )
        assert chunked.status_code == 503
        assert running.chat(HARMLESS).status_code == 200  # what fits goes on
        first.join()
        running.scripted.seconds = 0
        for number in range(4):  # what was held is given back, by answers and by refusals
            assert running.chat(words + str(number)).status_code == 200


def test_no_keys_slow_bodies_keep_the_others_waiting(tmp_path: Path, upstream: Upstream) -> None:
    words = "word " * 12_000
    toml = "[limits]\nbody_bytes = 100_000\nheld_bytes = 240_000\n" + "".join(
        f'[keys.{name}]\nhash = "{hash_key(name)}"\n' for name in ("one", "two")
    )
    with gateway(tmp_path, upstream.url, toml=toml) as running:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer one\r\n"
        kind = b"content-type: application/json\r\ncontent-length: 99000\r\n\r\n"
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        with contextlib.ExitStack() as slow:
            for _ in range(3):
                slow.enter_context(socket.create_connection(address, timeout=20)).sendall(head + kind + b"x" * 70_000)
            wait_until(lambda: running.chat(words, authorization="Bearer one").status_code == 503)
            assert running.chat(words, authorization="Bearer two").status_code == 200
        wait_until(lambda: running.chat(words, authorization="Bearer one").status_code == 200)


def test_a_body_is_held_until_the_upstream_has_it_and_no_longer(tmp_path: Path, upstream: Upstream) -> None:
    release = threading.Event()
    begun = threading.Event()

    async def slow(request: web.Request, received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        begun.set()
        await asyncio.get_running_loop().run_in_executor(None, release.wait, 20)
        return response

    toml = "[limits]\nbody_bytes = 100_000\nheld_bytes = 100_000\n"
    with gateway(tmp_path, upstream.url, toml=toml) as running:
        upstream.handler = slow
        words = "word " * 16_000
        first = threading.Thread(target=lambda: running.chat(words))
        first.start()
        assert begun.wait(20)
        upstream.handler = speak
        try:
            assert running.chat(words).status_code == 200  # the answer of the first is still under way
        finally:
            release.set()
            first.join()
