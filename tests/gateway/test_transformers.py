"""``transformers serve`` as the upstream: a real server with a real (tiny) model in it. Needs the extra ``serving``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.gateway.kit import FORBIDDEN, HARMFUL, HARMLESS, gateway, missing, wait_until
from vlmguard.policy import load_policy

COMMAND = Path(os.environ.get("TRANSFORMERS_COMMAND", Path(sys.executable).with_name("transformers")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Base URL of the server and the name of its model."""
    if not COMMAND.exists():
        missing("transformers serve is not installed: pip install 'vlmguard[local,serving]'")
    folder = tmp_path_factory.mktemp("tiny")
    script = Path(__file__).with_name("tiny_llama.py")
    subprocess.run([COMMAND.with_name("python"), script, folder], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(COMMAND), "serve", str(folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or _lives(port), 180)
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.terminate()
            process.wait(30)


def _lives(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_real_model_answers_whole_and_in_pieces(tmp_path: Path, model: tuple[str, str]) -> None:
    upstream, name = model
    with (
        gateway(tmp_path, upstream) as running,
        openai.OpenAI(api_key="k", base_url=running.base, timeout=120) as client,
    ):
        assert running.get("/readyz").status_code == 200
        for prompt, outcome in ((HARMLESS, "forward"), (HARMFUL, "rewrite")):
            messages: Any = [{"role": "user", "content": prompt}]
            whole = client.chat.completions.with_raw_response.create(model=name, messages=messages, max_tokens=8)
            assert whole.headers["x-vlmguard-outcome"] == outcome
            usage = whole.parse().usage
            assert usage is not None
            assert 1 <= usage.completion_tokens <= 8
            assert usage.prompt_tokens > len(prompt)
            pieces = list(client.chat.completions.create(model=name, messages=messages, max_tokens=8, stream=True))
            assert len(pieces) > 1
        blocked = client.chat.completions.create(model=name, messages=[{"role": "user", "content": FORBIDDEN}])
        assert blocked.choices[0].message.content == load_policy().notice["en"]


def test_its_own_errors_come_through(tmp_path: Path, model: tuple[str, str]) -> None:
    upstream, _ = model
    with gateway(tmp_path, upstream) as running:
        body = {"model": "/no/such/model", "messages": [{"role": "user", "content": HARMLESS}]}
        ours = running.post("/v1/chat/completions", body)
        theirs = httpx.post(f"{upstream}/chat/completions", json=body, timeout=60)
        assert ours.status_code == theirs.status_code >= 400
        assert ours.content == theirs.content
        assert ours.headers["x-vlmguard-outcome"] == "forward"
