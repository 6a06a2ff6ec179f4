"""A gateway with the console on and real traffic in it, and a real browser to look with."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import PIL.Image

from tests.gateway.kit import Running, Upstream, gateway, missing, wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OPS, APP = "vg-ops-" + "o" * 40, "vg-app-" + "a" * 40
"""Keys: the one sees everybody's decisions, the other its own."""
RECEIPT_KEY = "the receipt key of the console's tests"


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = f'[keys.ops]\nhash = "{hash_of(OPS)}"\nsees_all = true\n[keys.app]\nhash = "{hash_of(APP)}"\n'


@contextlib.contextmanager
def console(folder: Path, upstream: Upstream, *, keyed: bool = True, **flags: Any) -> Iterator[Running]:
    given: dict[str, Any] = {"console": True, "audit__raw": True, "receipt_key": RECEIPT_KEY, **flags}
    with gateway(folder, upstream.url, **{"toml": KEYS if keyed else "", **given}) as running:
        yield running


def png(width: int, height: int, colour: str = "teal") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def with_pictures(prompt: str, *pictures: bytes) -> dict[str, Any]:
    """A chat completion's body."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(picture).decode()}}
        for picture in pictures
    ]
    content = [*parts, {"type": "text", "text": prompt}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


def send(running: Running, prompt: str, key: str = OPS) -> str:
    """A request through the gateway; returns its id once it is in the audit."""
    return sent(running, {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}, key)


def sent(running: Running, body: Any, key: str = OPS) -> str:
    response = running.post("/v1/chat/completions", body, authorization=f"Bearer {key}")
    id = response.headers["x-vlmguard-id"]
    with Visitor(running, key) as visitor:
        wait_until(lambda: visitor.get(f"/console/decisions/{id}").status_code == 200)
    return id


class Visitor:
    """A browser's part in HTTP, without one: cookies, and the token of the forms."""

    def __init__(self, running: Running, key: str | None = None) -> None:
        self.client = httpx.Client(base_url=running.url, timeout=60)
        if key is not None:
            answer = self.post("/console/login", key=key)
            assert answer.status_code == 303, answer.text

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    @property
    def token(self) -> str:
        page = self.get("/console/try")
        if page.status_code == 303:
            page = self.get("/console/login")
        found = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
        assert found, page.text
        return found[1]

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        return self.client.post(path, data={"token": self.token, **fields}, headers=headers or {})


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    if not CHROMIUM.exists():
        missing("Chromium is not installed: .ci/chromium installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        try:
            yield running
        finally:
            running.close()
