"""Who may call, with whose credentials the upstream is asked, and what smugglers get."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
from pathlib import Path

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.kit import HARMFUL, HARMLESS, Running, Upstream, gateway, send_raw
from vlmguard.gateway.config import Key
from vlmguard.gateway.keys import KeyRing, RateLimiter, hash_key, new_key

KEYS = f"""
[keys.alice]
hash = "{hash_key("a-key")}"
[keys.bob]
hash = "{hash_key("b-key")}"
requests_per_minute = 2
"""


def test_a_key_is_kept_as_its_hash_only() -> None:
    key, digest = new_key()
    ring = KeyRing([Key("bob", digest), Key("eve", hash_key("other"))])
    assert key not in repr(ring.__dict__)
    for headers, name in (
        ([(b"authorization", f"Bearer {key}".encode())], b"authorization"),
        ([(b"x-api-key", key.encode())], b"x-api-key"),
        ([(b"authorization", b"Bearer theirs"), (b"x-vlmguard-key", key.encode())], b"x-vlmguard-key"),
    ):
        found = ring.identify(headers)
        assert found is not None
        assert (found[0].id, found[1]) == ("bob", name)
    for wrong in (
        b"",
        b"Bearer ",
        b"Bearer x",
        f"Basic {key}".encode(),
        f"Bearer {digest}".encode(),
        f"Bearer {key}x".encode(),
    ):
        assert ring.identify([(b"authorization", wrong)]) is None


def test_without_a_known_key_nothing_is_answered(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        body = {"messages": [{"role": "user", "content": HARMLESS}]}
        for headers in ({}, {"authorization": "Bearer x"}, {"x_api_key": "x"}):
            for path in ("/v1/chat/completions", "/v1/files", "/beta/litellm_basic_guardrail_api"):
                assert running.post(path, body, **headers).status_code == 401
            for path in ("/v1/models", "/metrics", "/receipts/" + "0" * 32):
                assert running.get(path, **headers).status_code == 401
        assert running.get("/healthz").status_code == 200
        assert not upstream.received
        assert running.get("/metrics", authorization="Bearer a-key").status_code == 200


def test_credentials_are_the_gateways_or_passed_on_and_never_mixed(tmp_path: Path, upstream: Upstream) -> None:
    (tmp_path / "own").mkdir()
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        # The key for the gateway stands where the upstream's would: nothing of the kind goes on.
        running.chat(HARMLESS, authorization="Bearer a-key", x_api_key="theirs", cookie="c=1")
        assert not {"authorization", "x-api-key", "cookie"} & {name for name, _ in upstream.last.headers}
        # It stands by itself: the client's own credential for the upstream goes on.
        running.chat(HARMLESS, x_vlmguard_key="a-key", authorization="Bearer theirs")
        assert upstream.last.header("authorization") == "Bearer theirs"
        assert "a-key" not in str(upstream.last.headers)
    with gateway(tmp_path / "own", upstream.url, toml=KEYS, upstream_key="ours") as running:
        running.chat(HARMLESS, x_vlmguard_key="a-key", authorization="Bearer theirs", x_api_key="theirs", cookie="c=1")
        assert upstream.last.header("authorization") == "Bearer ours"
        assert not {"x-api-key", "cookie"} & {name for name, _ in upstream.last.headers}
        running.post("/v1/messages", {"messages": [{"role": "user", "content": HARMLESS}]}, x_api_key="a-key")
        assert upstream.last.header("x-api-key") == "ours"
        assert running.get("/v1/models", authorization="Bearer b-key").status_code == 200
        assert upstream.last.header("authorization") == "Bearer ours"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer a-key"},
        {"authorization": "Token  a-key"},
        {"x-api-key": "a-key"},
        {"api-key": "a-key"},
        {"x-goog-api-key": "b-key"},
        {"ocp-apim-subscription-key": "a-key"},
        {"x_vlmguard_key": "a-key"},
        {"x_vlmguard_outcome": "forward"},
    ],
)
def test_a_key_of_the_gateway_goes_on_in_no_header(tmp_path: Path, upstream: Upstream, headers: dict[str, str]) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        body = {"messages": [{"role": "user", "content": HARMLESS}]}
        sent = {"x-vlmguard-key": "a-key", "x-kept": "yes", **headers}
        assert httpx.post(f"{running.base}/chat/completions", json=body, headers=sent).status_code == 200
    names = {name for name, _ in upstream.last.headers}
    assert not names & set(headers)
    assert "-key" not in str([value for _, value in upstream.last.headers])
    assert upstream.last.header("x-kept") == "yes"


def test_what_an_underscore_makes_of_a_credential_does_not_replace_the_gateways(
    tmp_path: Path, upstream: Upstream
) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS, upstream_key="ours") as running:
        body = {"messages": [{"role": "user", "content": HARMLESS}]}
        sent = {"x-vlmguard-key": "a-key", "x_api_key": "theirs"}
        assert httpx.post(f"{running.base}/chat/completions", json=body, headers=sent).status_code == 200
    assert "theirs" not in str(upstream.last.headers)


def test_a_routes_own_upstream_gets_its_own_credential(tmp_path: Path, upstream: Upstream) -> None:
    with Upstream().running() as other:
        toml = f'[routes."/v1/messages"]\nupstream = "{other.url}"\nupstream_key = "theirs"\n'
        with gateway(tmp_path, upstream.url, toml=toml, upstream_key="ours") as running:
            running.post("/v1/messages", {"messages": [{"role": "user", "content": HARMLESS}]})
            running.chat(HARMLESS)
            assert running.get("/readyz").status_code == 200
        assert other.received[0].header("authorization") == "Bearer theirs"
        assert upstream.received[0].header("authorization") == "Bearer ours"
        assert other.last.path == upstream.last.path == "/v1/models"


def test_a_receipt_is_read_by_the_key_that_made_the_request(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        path = f"/receipts/{running.chat(HARMLESS, authorization='Bearer a-key').headers['x-vlmguard-id']}"
        assert running.get(path, authorization="Bearer a-key").status_code == 200
        other = running.get(path, authorization="Bearer b-key")
        unknown = running.get("/receipts/" + "0" * 32, authorization="Bearer b-key")
        assert (other.status_code, other.content) == (unknown.status_code, unknown.content)
        assert other.status_code == 404


def test_a_key_has_its_rate(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        statuses = [running.chat(HARMLESS, authorization="Bearer b-key").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = running.chat(HARMLESS, authorization="Bearer b-key")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert running.chat(HARMLESS, authorization="Bearer a-key").status_code == 200


def test_a_bucket_fills_evenly_and_never_over() -> None:
    now = 100.0
    limiter = RateLimiter({"a": 6, "b": 0}, clock=lambda: now)
    assert [limiter.seconds_to_wait("a") for _ in range(7)] == [0] * 6 + [10]
    assert limiter.seconds_to_wait("b") == 0
    now += 9.5
    assert limiter.seconds_to_wait("a") == 1
    now += 0.6
    assert [limiter.seconds_to_wait("a") for _ in range(2)] == [0, 10]
    now += 10_000
    assert [limiter.seconds_to_wait("a") for _ in range(7)] == [0] * 6 + [10]


def _take(file: str) -> int:
    limiter = RateLimiter({"a": 100}, file, clock=lambda: 5.0)
    return sum(not limiter.seconds_to_wait("a") for _ in range(80))


def test_workers_share_the_buckets() -> None:
    file = RateLimiter.make_file(1)
    try:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            assert sum(pool.map(_take, [file, file, file])) == 100
    finally:
        os.unlink(file)  # noqa: PTH108


# ---------------------------------------------------------------------------------------------------------------------
# Smuggling

BODY = json.dumps({"messages": [{"role": "user", "content": HARMFUL}]})
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    "request_text",
    [
        f"{HEAD}content-length: {len(BODY)}\r\ntransfer-encoding: chunked\r\n\r\n{BODY}",
        f"{HEAD}content-length: 5\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}",
        f"{HEAD}content-length: +{len(BODY)}\r\n\r\n{BODY}",
        f"{HEAD}transfer-encoding: xchunked\r\n\r\n{BODY}",
        f"{HEAD}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{BODY}",
        f"{HEAD}transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        f"{HEAD}x: a\r\n b\r\ncontent-length : {len(BODY)}\r\n\r\n{BODY}",
        f"{HEAD}x: a\x00b\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}",
        f"{HEAD}transfer-encoding: chunked\r\n\r\n-1\r\n{BODY}\r\n0\r\n\r\n",
    ],
)
def test_a_request_with_two_lengths_reaches_nobody(guarded: Running, upstream: Upstream, request_text: str) -> None:
    answer = send_raw(guarded, request_text.encode())
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 ")), answer
    assert not upstream.received


def test_a_second_request_behind_a_body_is_judged_like_any(guarded: Running, upstream: Upstream) -> None:
    two = f"{HEAD}content-length: {len(BODY)}\r\n\r\n{BODY}{HEAD}content-length: {len(BODY)}\r\nconnection: close\r\n\r\n{BODY}"
    answer = send_raw(guarded, two.encode())
    assert answer.count(b"x-vlmguard-outcome: rewrite") == 2
    assert [
        HARMFUL in received.body.decode() and received.json["messages"][0]["content"] == HARMFUL
        for received in upstream.received
    ] == [False, False]


def test_headers_that_two_readers_might_read_differently(guarded: Running, upstream: Upstream) -> None:
    for double in (
        "authorization: Bearer a\r\nauthorization: Bearer b",
        "content-type: text/plain",
        "host: 127.0.0.1",
        "x-api-key: a\r\nx-api-key: b",
    ):
        text = f"{HEAD}{double}\r\ncontent-length: {len(BODY)}\r\nconnection: close\r\n\r\n{BODY}"
        assert send_raw(guarded, text.encode()).startswith(b"HTTP/1.1 400 "), double
    assert not upstream.received


@pytest.mark.parametrize("query", [b"a=\xff", b"a=%ff&b=%00", b"a=<>\"'{}|\\^`", b"?", b"a#b", b"", b"a=1&a=2;c", b"%"])
def test_any_query_passes_as_it_is_or_is_refused(guarded: Running, upstream: Upstream, query: bytes) -> None:
    text = HEAD.encode().replace(b"completions ", b"completions?" + query + b" ")
    answer = send_raw(guarded, text + f"content-length: {len(BODY)}\r\nconnection: close\r\n\r\n{BODY}".encode())
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 ")), answer
    if answer.startswith(b"HTTP/1.1 200 "):
        assert upstream.last.raw_query == query.partition(b"#")[0].decode()


@pytest.mark.parametrize("value", [b"\xff\xfe", "ü".encode(), b"a" * 30_000, b"\x7f", b"a\tb"])
def test_any_header_passes_as_it_is_or_is_refused(guarded: Running, upstream: Upstream, value: bytes) -> None:
    text = (
        HEAD.encode()
        + b"x-odd: "
        + value
        + f"\r\ncontent-length: {len(BODY)}\r\nconnection: close\r\n\r\n{BODY}".encode()
    )
    answer = send_raw(guarded, text)
    assert not answer.startswith(b"HTTP/1.1 500 "), answer
    if answer.startswith(b"HTTP/1.1 200 "):
        assert upstream.last.header("x-odd") == value.decode("latin-1")
    else:
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert not upstream.received


def test_headers_of_the_connection_and_of_ours_do_not_go_on(guarded: Running, upstream: Upstream) -> None:
    answer = httpx.post(
        f"{guarded.base}/chat/completions",
        json={"messages": [{"role": "user", "content": HARMLESS}]},
        headers={
            "connection": "keep-alive, x-secret",
            "x-secret": "1",
            "te": "trailers",
            "proxy-authorization": "x",
            "x-vlmguard-outcome": "forward",
            "x-forwarded-for": "10.0.0.1",
            "forwarded": "for=10.0.0.1",
            "x-kept": "yes",
        },
    )
    assert answer.status_code == 200
    names = {name for name, _ in upstream.last.headers}
    assert not names & {
        "x-secret",
        "te",
        "proxy-authorization",
        "x-vlmguard-outcome",
        "x-forwarded-for",
        "forwarded",
        "connection",
    }
    assert upstream.last.header("x-kept") == "yes"
    assert upstream.last.header("host") == upstream.url.split("/")[2]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example@localhost", 421),
        ("localhost/evil", 421),
    ],
)
def test_a_page_that_had_its_name_changed_to_our_address_gets_nothing(
    guarded: Running, upstream: Upstream, host: str, status: int
) -> None:
    text = f"{HEAD.replace('host: localhost', f'host: {host}')}content-length: {len(BODY)}\r\nconnection: close\r\n\r\n{BODY}"
    assert send_raw(guarded, text.encode()).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "name",
    [
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-host",
        "content_type",
        "content_encoding",
        "x_original_url",
    ],
)
def test_a_header_that_makes_another_request_of_it_does_not_go_on(
    guarded: Running, upstream: Upstream, name: str
) -> None:
    text = f"{HEAD}{name}: /v1/files\r\nx-kept: yes\r\ncontent-length: {len(BODY)}\r\nconnection: close\r\n\r\n{BODY}"
    assert send_raw(guarded, text.encode()).startswith(b"HTTP/1.1 200 ")
    assert (upstream.last.header("x-kept"), upstream.last.header(name)) == ("yes", None)


def test_a_connection_header_takes_no_type_and_no_credential_away(guarded: Running, upstream: Upstream) -> None:
    named = "connection: close, content-type, Authorization, x-hop\r\nauthorization: Bearer theirs\r\nx-hop: 1\r\n"
    text = f"{HEAD}{named}content-length: {len(BODY)}\r\n\r\n{BODY}"
    assert send_raw(guarded, text.encode()).startswith(b"HTTP/1.1 200 ")
    assert upstream.last.header("content-type") == "application/json"
    assert upstream.last.header("authorization") == "Bearer theirs"
    assert upstream.last.header("x-hop") is None


def test_names_of_this_server_are_read_without_case(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml='allowed_hosts = ["Gateway.Internal"]') as running:
        for host in ("gateway.internal", "GATEWAY.internal:8080"):
            assert running.get("/v1/models", host=host).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://localhost.evil.example", "sec-fetch-site": "same-origin"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_page_of_another_site_sends_nothing_past_the_guard(
    tmp_path: Path, upstream: Upstream, headers: dict[str, str], status: int
) -> None:
    with gateway(tmp_path, upstream.url, toml='pass_through = ["POST /v1/embeddings"]', upstream_key="ours") as running:
        sent = {"content-type": "text/plain", **headers}
        answer = httpx.post(f"{running.base}/embeddings", content=b'{"input":"x"}', headers=sent)
        assert answer.status_code == status
    assert [received.path for received in upstream.received].count("/v1/embeddings") == (status == 200)


def test_what_is_wrong_inside_is_told_to_keys_only(tmp_path: Path) -> None:
    with gateway(tmp_path, "http://127.0.0.1:9/v1", toml=KEYS) as running:
        for headers in ({}, {"authorization": "Bearer unknown"}):
            asked = running.get("/readyz", **headers)
            assert (asked.status_code, list(asked.json()["failed"])) == (503, ["upstream"])
            assert "cannot be reached" not in asked.text
        assert "cannot be reached" in running.get("/readyz", x_vlmguard_key="a-key").json()["failed"]["upstream"]


def test_a_page_that_had_its_name_changed_learns_nothing_of_what_is_wrong(tmp_path: Path) -> None:
    with gateway(tmp_path, "http://127.0.0.1:9/v1") as running:
        assert "cannot be reached" in running.get("/readyz").text
        assert "cannot be reached" not in running.get("/readyz", host="evil.example").text


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": "session=a-key"},
        {"cookie": 'theme=dark; key="b-key"; x=1'},
        {"authorization": "Basic " + base64.b64encode(b"user:a-key").decode()},
        {"authorization": "Basic " + base64.b64encode(b"b-key:").decode().rstrip("=")},
        {"referer": "https://app.example/?api_key=a-key&x=1"},
        {"x-own": '{"key": "a-key"}'},
    ],
)
def test_a_key_inside_a_header_does_not_go_on(tmp_path: Path, upstream: Upstream, headers: dict[str, str]) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        body = {"messages": [{"role": "user", "content": HARMLESS}]}
        sent = {"x-vlmguard-key": "a-key", "x-kept": "a, b; c=d", **headers}
        assert httpx.post(f"{running.base}/chat/completions", json=body, headers=sent).status_code == 200
    assert not {name for name, _ in upstream.last.headers} & set(headers)
    assert upstream.last.header("x-kept") == "a, b; c=d"


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _escaped(text: str) -> str:
    return "".join(f"%{ord(letter):02x}" for letter in text)


MADE = f"vg-{'Ab1_-' * 8}xyz"
MADES_HASH = hash_key(MADE)


@pytest.mark.parametrize(
    "value",
    [
        f"Basic\t{_coded(f'u:{MADE}')}",
        "Basic " + base64.urlsafe_b64encode(f"u??>>:{MADE}".encode()).decode(),
        f"Basic {_coded(f'u:{_escaped(MADE)}')}",
        f"Basic {_coded(f'u:token{MADE}')}",
        f"auth={_coded(f'u:{MADE}')}",
        f'a=b; auth="Basic {_coded(f"u:{MADE}")}"',
        f"user_{MADE}",
        f"x.{MADE}.y",
        f"x.{MADE}",
        f"vg-{MADE}",
        "x.own-key.y",
        _escaped(_escaped(MADE)),
        _escaped(_escaped(_escaped("own-key"))),
        f"auth=Basic%20{_coded(f'u:{MADE}')}",
        f"auth=Basic+{_coded('u:own-key')}",
        f"auth=Basic%2520{_coded('u:own-key')}&b=1",
        f"auth=Basic%2B{_coded('u:own-key')}&b=1",
    ],
)
def test_a_key_is_found_however_it_is_wrapped(value: str) -> None:
    ring = KeyRing([Key("made", MADES_HASH), Key("own", hash_key("own-key"))])
    assert ring.holds_key(value.encode())
    for other in (Key("made", hash_key(new_key()[0])), Key("own", hash_key("own"))):
        assert not KeyRing([other]).holds_key(value.encode())


@given(st.binary(max_size=300))
def test_looking_for_a_key_breaks_on_nothing(value: bytes) -> None:
    assert not KeyRing([Key("made", MADES_HASH)]).holds_key(value)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
@pytest.mark.parametrize("query", ["api_key=a-key", "x=1&key=b%2Dkey", "a-key", "x=Bearer+a-key", "x=a-key;y=2"])
def test_a_key_in_the_query_is_refused_and_not_passed_on(
    tmp_path: Path, upstream: Upstream, path: str, query: str
) -> None:
    with gateway(tmp_path, upstream.url, toml='pass_through = ["POST /v1/embeddings"]\n' + KEYS) as running:
        body = {"messages": [{"role": "user", "content": HARMLESS}]}
        answer = running.post(f"{path}?{query}", body, x_vlmguard_key="a-key")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "key_in_query")
        assert "a-key" not in answer.text
        assert running.get(f"/v1/models?{query}", x_vlmguard_key="a-key").status_code == 400
        assert running.post("/v1/chat/completions?x=a", body, x_vlmguard_key="a-key").status_code == 200
    assert [received.raw_query for received in upstream.received] == ["x=a"]


def test_another_credential_in_a_basic_header_goes_on(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, toml=KEYS) as running:
        running.chat(HARMLESS, x_vlmguard_key="a-key", authorization="Basic dXNlcjpwYXNz", cookie="c=1")
    assert upstream.last.header("authorization") == "Basic dXNlcjpwYXNz"
    assert upstream.last.header("cookie") == "c=1"


def test_what_lies_below_a_guarded_path_goes_to_the_upstream_of_that_path(tmp_path: Path, upstream: Upstream) -> None:
    with Upstream().running() as other:
        toml = (
            'pass_through = ["POST /v1/messages/count_tokens", "POST /v1/messagesx"]\n'
            f'[routes."/v1/messages"]\nupstream = "{other.url}"\nupstream_key = "theirs"\n'
        )
        with gateway(tmp_path, upstream.url, toml=toml, upstream_key="ours") as running:
            assert running.post("/v1/messages/count_tokens", {}).headers["x-vlmguard-outcome"] == "unguarded"
            assert running.post("/v1/messagesx", {}).status_code == 200
        assert [(one.path, one.header("x-api-key")) for one in other.received] == [
            ("/v1/messages/count_tokens", "theirs")
        ]
        assert [(one.path, one.header("authorization")) for one in upstream.received] == [
            ("/v1/messagesx", "Bearer ours")
        ]
