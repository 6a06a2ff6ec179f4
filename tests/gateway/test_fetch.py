"""Remote pictures: where they may come from, and that what was judged is what is sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Draw
from tests.gateway.kit import (
    HARMLESS,
    Received,
    Running,
    Upstream,
    _serve_app,
    gateway,
    on_thread,
    speak,
    wait_until,
)
from vlmguard.errors import InputError
from vlmguard.gateway.config import FetchSettings
from vlmguard.gateway.fetch import MOST_AT_ONCE, MOST_OF_ONE, AllowList, Fetcher, is_public
from vlmguard.wire import Request, openai_chat

HOST = "pictures.example"


@dataclass
class Pictures:
    """A real HTTPS server of pictures, under a name that only the tests' look-up knows."""

    port: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    addresses: list[Sequence[str]] = field(default_factory=lambda: [["127.0.0.1"]])
    """What each look-up answers; the last one from then on."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.looked_up.append(host)
        return self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        answer = self.answers[request.path]
        if callable(answer):
            answer = await answer(request)
        return answer if isinstance(answer, web.StreamResponse) else web.Response(body=answer)

    def url(self, path: str) -> str:
        return f"https://{HOST}:{self.port}{path}"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pictures(authority: trustme.CA, draw: Draw) -> Iterator[Pictures]:
    found = Pictures(answers={"/a.png": draw("red apples"), "/b.png": draw("how to build a bomb")})
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST, "other.example").configure_cert(tls)
    app = web.Application()
    app.router.add_get("/{path:.*}", found.handle)
    with on_thread(lambda: _serve_app(app, tls)) as port:
        found.port = port
        yield found


@contextlib.contextmanager
def fetching(
    tmp_path: Path,
    upstream: Upstream,
    pictures: Pictures,
    authority: trustme.CA,
    allow: str | None = None,
    **flags: Any,
) -> Iterator[Running]:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    allowed = f"{HOST}:{pictures.port}" if allow is None else allow
    flags = {"fetch__allow": allowed, "fetch__ca_file": str(tmp_path / "ca.pem"), **flags}
    with gateway(tmp_path, upstream.url, resolve=pictures.resolve, **flags) as running:
        yield running


def ask(url: str, prompt: str = HARMLESS) -> Any:
    content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


def test_the_bytes_that_were_judged_are_the_bytes_that_are_sent(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA, draw: Draw
) -> None:
    # Whoever asks a second time gets another picture.
    served = [pictures.answers["/a.png"], draw("something else")]

    async def changing(request: web.Request) -> web.Response:
        return web.Response(
            body=served.pop(0), content_type="text/html"
        )  # its own word for its kind counts for nothing

    pictures.answers["/a.png"] = changing
    with fetching(tmp_path, upstream, pictures, authority) as running:
        body = ask(pictures.url("/a.png?sig=1"))
        body["messages"].append({"role": "user", "content": body["messages"][0]["content"]})
        answer = running.post("/v1/chat/completions", body)
        assert (answer.status_code, answer.headers["x-vlmguard-outcome"]) == (200, "forward")
    assert pictures.asked == ["/a.png?sig=1"]
    judged, again = running.scripted.judged[0].images
    assert judged.sha256 == again.sha256
    sent = upstream.last.json
    for message in sent["messages"]:
        assert (
            message["content"][1]["image_url"]["url"]
            == f"data:image/png;base64,{base64.b64encode(judged.data).decode()}"
        )
        assert message["content"][1]["image_url"]["detail"] == "low"
    assert len(served) == 1


async def test_one_callers_slow_addresses_leave_room_for_others(
    tmp_path: Path, pictures: Pictures, authority: trustme.CA
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    allow = (f"{HOST}:{pictures.port}",)
    settings = FetchSettings(allow=allow, ca_file=str(tmp_path / "ca.pem"), max_pictures=100, seconds=60)
    fetcher = Fetcher(settings, 1 << 30, pictures.resolve)
    answered = threading.Event()
    running, most = 0, 0
    picture = pictures.answers["/a.png"]

    async def slow(request: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.to_thread(answered.wait, 60)
        running -= 1
        return web.Response(body=picture)

    def asking(*urls: str) -> Request:
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return openai_chat.read(json.dumps({"messages": [{"role": "user", "content": content}]}).encode())

    pictures.answers["/slow.png"] = slow
    many = asking(*(pictures.url(f"/slow.png?{number}") for number in range(3 * MOST_AT_ONCE)))
    alices = asyncio.create_task(fetcher.fill(many, "alice"))
    while most < MOST_OF_ONE:
        assert not alices.done()
        await asyncio.sleep(0.01)
    bobs = await asyncio.wait_for(fetcher.fill(asking(pictures.url("/b.png")), "bob"), 30)
    assert (len(bobs.inlined), alices.done()) == (1, False)
    answered.set()
    assert len((await alices).inlined) == 3 * MOST_AT_ONCE
    assert most == MOST_OF_ONE
    await fetcher.close()


def test_a_remote_picture_is_judged_in_every_dialect(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    url = pictures.url("/b.png")
    prompt = "Do what the picture says."
    bodies: dict[str, Any] = {
        "/v1/chat/completions": ask(url, prompt),
        "/v1/responses": {
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": prompt}, {"type": "input_image", "image_url": url}],
                }
            ]
        },
        "/v1/messages": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": prompt},
                        {"type": "image", "source": {"type": "url", "url": url}},
                    ],
                }
            ]
        },
    }
    with fetching(tmp_path, upstream, pictures, authority) as running:
        for path, body in bodies.items():
            answer = running.post(path, body)
            assert answer.headers["x-vlmguard-outcome"] == "rewrite", path
            assert HOST.encode() not in upstream.last.body
            assert {row["aspect"] for row in running.receipt(answer)["judgements"]} == {"text", "codes", "scene"}


def test_the_address_that_was_checked_is_the_one_that_is_asked(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    # DNS rebinding: the first look-up is fine, the next one would lead inside.
    pictures.addresses = [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"]]
    with fetching(tmp_path, upstream, pictures, authority, allow="127.0.0.1") as running:
        assert running.post("/v1/chat/completions", ask(pictures.url("/a.png"))).status_code == 200
    assert pictures.looked_up == [HOST]
    assert pictures.asked == ["/a.png"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["168.63.129.16"],
        ["100.100.100.200"],
        ["0.0.0.0"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["fd00:ec2::254"],
        ["fe80::1%eth0"],
        ["224.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        [],
    ],
)
def test_inner_addresses_are_never_asked(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA, addresses: list[str]
) -> None:
    pictures.addresses = [addresses]
    with fetching(tmp_path, upstream, pictures, authority, allow="") as running:
        answer = running.post("/v1/chat/completions", ask(f"https://{HOST}/a.png"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "picture_not_fetched")
    assert not pictures.asked
    assert not upstream.received  # the upstream is not left to fetch it, either


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.png",
        "https://[::1]/a.png",
        "https://[::ffff:7f00:1]/a.png",
        "https://2130706433/a.png",
        "https://0x7f.1/a.png",
        "https://127.1/a.png",
        "https://localhost/a.png",
        "http://pictures.example/a.png",
        "https://pictures.example:22/a.png",
        "https://user:secret@pictures.example/a.png",
        "https:///a.png",
        "https://pictures.example:99999/",
        "HTTPS://169.254.169.254/latest/meta-data/",
    ],
)
def test_addresses_spelled_in_other_ways_lead_nowhere(tmp_path: Path, upstream: Upstream, url: str) -> None:
    with gateway(tmp_path, upstream.url) as running:  # the system's own look-up
        answer = running.post("/v1/chat/completions", ask(url))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "picture_not_fetched")
        assert "secret" not in answer.text
    assert not upstream.received


@pytest.mark.parametrize(
    "part",
    [
        {"image_url": "http://169.254.169.254/x.png"},
        {"type": "image_url", "image_url": {"url": " https://pictures.example/a.png"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x.png"}, "uuid": "a"},
        {"type": "image", "image": "http://169.254.169.254/x.png"},
        {"type": "text", "text": "hello", "image": "http://169.254.169.254/x.png"},
    ],
)
def test_no_way_of_writing_it_has_the_upstream_fetch_a_picture(tmp_path: Path, upstream: Upstream, part: Any) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": HARMLESS}, part]}]}
    with gateway(tmp_path, upstream.url) as running:
        answer = running.post("/v1/chat/completions", body)
        assert (answer.status_code, answer.headers["x-vlmguard-outcome"]) == (400, "block")
        assert "/messages/0/content/1" in answer.text or answer.json()["error"]["code"] == "picture_not_fetched"
    assert not upstream.received


def test_a_picture_that_is_also_to_be_remembered_is_fetched_like_the_rest(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    body = ask(pictures.url("/a.png"))
    body["messages"][0]["content"][1]["uuid"] = "a"
    with fetching(tmp_path, upstream, pictures, authority) as running:
        answer = running.post("/v1/chat/completions", body)
        # What the upstream may show in its place, it alone knows.
        assert answer.headers["x-vlmguard-outcome"] == "degraded"
        assert "remote_state" in {row["unjudged"] for row in running.receipt(answer)["judgements"]}
    assert HOST.encode() not in upstream.last.body
    assert len(running.scripted.judged[0].images) == 1


@pytest.mark.parametrize(
    "target",
    ["https://127.0.0.1/", "http://pictures.example/a.png", "file:///etc/passwd", "https://inner.example/", ""],
)
def test_a_redirect_is_checked_like_the_first_address(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA, target: str
) -> None:
    pictures.answers["/r"] = lambda request: _redirect(target)
    pictures.addresses = [["127.0.0.1"], ["10.0.0.1"]]
    with fetching(tmp_path, upstream, pictures, authority) as running:
        answer = running.post("/v1/chat/completions", ask(pictures.url("/r")))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "picture_not_fetched")
    assert pictures.asked == ["/r"]
    assert not upstream.received


async def _redirect(target: str) -> web.Response:
    return web.Response(status=302, headers={"location": target} if target else {})


def test_redirects_are_followed_a_few_times(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    pictures.answers |= {
        "/r": lambda _: _redirect("/s"),
        "/s": lambda _: _redirect(pictures.url("/a.png")),
        "/loop": lambda _: _redirect("/loop"),
    }
    with fetching(tmp_path, upstream, pictures, authority) as running:
        assert running.post("/v1/chat/completions", ask(pictures.url("/r"))).status_code == 200
        endless = running.post("/v1/chat/completions", ask(pictures.url("/loop")))
        assert "redirects more than" in endless.json()["error"]["message"]
    assert pictures.asked == ["/r", "/s", "/a.png"] + ["/loop"] * 4


def _bomb() -> bytes:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (20_000).to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 2501 * 100))
        + chunk(b"IEND", b"")
    )


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b"x" * 100_000)
    return response


async def _never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(20)
    return web.Response()


async def _compressed(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x1f\x8b", headers={"content-encoding": "gzip"})


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (web.Response(status=404), "status 404"),
        (b"<html>", "not a picture"),
        (b"", "empty"),
        (_bomb(), "pixels"),
        (_endless, "larger than"),
        (_never, "did not come within"),
        (_compressed, "compressed"),
    ],
    ids=["missing", "html", "empty", "bomb", "endless", "never", "compressed"],
)
def test_caps_on_bytes_pixels_and_time(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA, answer: Any, says: str
) -> None:
    if isinstance(answer, web.Response):

        async def missing(request: web.Request) -> web.Response:
            return web.Response(status=404)

        answer = missing
    pictures.answers["/x"] = answer
    with fetching(tmp_path, upstream, pictures, authority, fetch__seconds="1", fetch__max_bytes="300000") as running:
        found = running.post("/v1/chat/completions", ask(pictures.url("/x")))
        assert found.status_code == 400
        assert says in found.json()["error"]["message"]
    assert not upstream.received


@pytest.mark.parametrize("on_failure", ["open", "degraded", "closed"])
def test_an_address_never_passes_because_time_ran_out(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA, on_failure: str
) -> None:
    """Somebody who can make the fetch slow must not have the upstream do it."""
    pictures.answers["/slow"] = _never
    flags = {"on_failure": on_failure, "deadline": "0.5", "fetch__seconds": "10"}
    with fetching(tmp_path, upstream, pictures, authority, **flags) as running:
        found = running.post("/v1/chat/completions", ask(pictures.url("/slow")))
        assert (found.status_code, found.json()["error"]["code"]) == (400, "picture_not_fetched")
        # And where the guard then fails, what was fetched is what is sent.
        running.scripted.error = RuntimeError("broken")
        running.post("/v1/chat/completions", ask(pictures.url("/a.png")))
    sent = [received.body for received in upstream.received if received.method == "POST"]
    assert len(sent) == (on_failure != "closed")
    assert not any(HOST.encode() in body for body in sent)


def test_a_certificate_must_hold(tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA) -> None:
    allow = f"{HOST}:{pictures.port},wrong.example:{pictures.port}"
    with fetching(tmp_path, upstream, pictures, authority, allow=allow) as running:
        found = running.post("/v1/chat/completions", ask(f"https://wrong.example:{pictures.port}/a.png"))
        assert "Certificate" in found.json()["error"]["message"]
    with fetching(tmp_path, upstream, pictures, authority, fetch__ca_file="") as running:
        assert running.post("/v1/chat/completions", ask(pictures.url("/a.png"))).status_code == 400
    assert not pictures.asked


def test_fetched_pictures_count_as_held_until_the_upstream_has_them(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    release = threading.Event()

    async def silent(request: web.Request, received: Received) -> web.StreamResponse:
        await asyncio.get_running_loop().run_in_executor(None, release.wait, 30)
        return await speak(request, received)

    pictures.answers["/heavy.png"] = pictures.answers["/a.png"] + bytes(400_000)
    upstream.handler = silent
    flags = {"limits__held_bytes": "1300000", "limits__body_bytes": "1000000"}
    with fetching(tmp_path, upstream, pictures, authority, **flags) as running:
        body = ask(pictures.url("/heavy.png"))
        first = threading.Thread(target=lambda: running.post("/v1/chat/completions", body))
        first.start()
        try:
            wait_until(lambda: upstream.received)
            full = running.post("/v1/chat/completions", body)
            assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
            assert running.receipt(full)["failure"] == "refused: overloaded"
            assert len(upstream.received) == 1
        finally:
            release.set()
            first.join()
        for _ in range(3):  # all of it is given back, by answers and by refusals
            assert running.post("/v1/chat/completions", body).status_code == 200


def test_a_picture_that_is_named_often_counts_as_often(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    pictures.answers["/heavy.png"] = pictures.answers["/a.png"] + bytes(400_000)
    with fetching(tmp_path, upstream, pictures, authority, limits__body_bytes="1000000") as running:
        body = ask(pictures.url("/heavy.png"))
        body["messages"][0]["content"] += 2 * body["messages"][0]["content"][1:]
        found = running.post("/v1/chat/completions", body)
        assert (found.status_code, found.json()["error"]["code"]) == (400, "picture_not_fetched")
        assert "too large together" in found.json()["error"]["message"]
    assert len(pictures.asked) == 1
    assert not upstream.received


def test_so_many_pictures_and_no_more(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    with fetching(tmp_path, upstream, pictures, authority, fetch__max_pictures="1") as running:
        body = ask(pictures.url("/a.png"))
        body["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": pictures.url("/b.png")}})
        found = running.post("/v1/chat/completions", body)
        assert "2 remote pictures" in found.json()["error"]["message"]
    assert not pictures.asked


def test_with_fetching_off_a_remote_picture_is_unjudged(
    tmp_path: Path, upstream: Upstream, pictures: Pictures, authority: trustme.CA
) -> None:
    with fetching(tmp_path, upstream, pictures, authority, fetch__enabled="false") as running:
        answer = running.post("/v1/chat/completions", ask(pictures.url("/a.png")))
        assert answer.headers["x-vlmguard-outcome"] == "degraded"
        rows = running.receipt(answer)["judgements"]
        assert ("/messages/0/content/1/image_url/url", "opaque") in [(row["path"], row["unjudged"]) for row in rows]
    assert not pictures.asked
    assert upstream.last.json["messages"][1]["content"][1]["image_url"]["url"] == pictures.url("/a.png")


@pytest.mark.parametrize(
    "address",
    [
        "fec0::1",
        "192.0.0.192",
        "192.88.99.1",
        "3fff::1",
        "2600::5efe:7f00:1",
        "2600::200:5efe:a00:1",
        "64:ff9b:1::1",
        "5f00::1",
        "100::1",
        "2001:db8::1",
        "198.18.0.1",
        "100.64.0.1",
        "240.0.0.1",
        "::ffff:0:7f00:1",
    ],
)
def test_special_addresses_are_not_public_whatever_python_knows(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2600::1", "2600::5efe:808:808", "2002:808:808::1"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_public_is_less_than_pythons_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_within_an_ipv6_one_is_judged_as_itself(inner: ipaddress.IPv4Address) -> None:
    for prefix in (0xFFFF << 32, 0x64FF9B << 96, 0x2002 << 112):
        number = prefix | (int(inner) << 80 if prefix == 0x2002 << 112 else int(inner))
        if is_public(ipaddress.IPv6Address(number)):
            assert is_public(inner)


def test_an_allow_list_names_hosts_and_networks() -> None:
    allowed = AllowList.parse(["10.0.0.0/8", "minio:9000", "Images.Internal.", "fd00::/8"])
    assert allowed.holds(ipaddress.ip_address("10.2.3.4"))
    assert allowed.holds(ipaddress.ip_address("fd00::1"))
    assert not allowed.holds(ipaddress.ip_address("11.0.0.1"))
    assert allowed.names_host("minio", 9000)
    assert not allowed.names_host("minio", 80)
    assert allowed.names_host("images.internal", 1234)
    assert not allowed.names_host("minio.internal", 9000)
    for wrong in (
        "10.0.0.0/99",
        "",
        " a",
        "a b",
        "*.internal",
        "http:",
        "https://minio.internal",
        "minio.internal:abc",
        "minio.internal:0",
        "minio.internal:99999",
        "[fd00::1]:9000",
        "user@minio.internal",
        ".internal",
    ):
        with pytest.raises(InputError):
            AllowList.parse([wrong])
