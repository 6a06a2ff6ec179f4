"""The path of a request: the vendors' own clients, what reaches the model's server, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.kit import FORBIDDEN, HARMFUL, HARMLESS, SAID, Running, Upstream, gateway


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream().running() as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path, upstream: Upstream) -> Iterator[Running]:
    with gateway(tmp_path, upstream.url) as running:
        yield running


def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url=running.base, max_retries=0)


def test_openai_chat(guarded: Running, upstream: Upstream) -> None:
    with client(guarded) as openai_client:
        raw = openai_client.chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": HARMLESS}]
        )
    assert raw.parse().choices[0].message.content == SAID
    assert raw.headers["x-vlmguard-outcome"] == "forward"
    assert upstream.last.header("authorization") == "Bearer k"
