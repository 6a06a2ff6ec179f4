"""The whole path with a real model behind a real server: ``transformers serve`` and a tiny LLaVA that was taught two colours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_llava
from vlmguard.cli.main import main


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The spec of a tiny LLaVA behind ``transformers serve``."""
    folder = tmp_path_factory.mktemp("llava")
    subprocess.run(
        [sys.executable, "-m", "tests.tiny_llava", str(folder)], check=True, timeout=300, capture_output=True
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "hub").mkdir()
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [
        str(Path(sys.executable).with_name("transformers")), "serve", str(folder / "base"), "--device", "cpu", "--host", "127.0.0.1",
        "--port", str(port),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).read()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.3)
        yield f"llava=endpoint:http://127.0.0.1:{port}/v1#{folder / 'base'}"
    finally:
        server.terminate()
        server.wait(30)


def test_a_real_target_sees_the_pictures(served: str, tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(tiny_llava.picture(colour))
    rows = [
        {"id": colour, "prompt": tiny_llava.COLOUR, "images": [f"{colour}.png"], "harmful": False, "reference": colour}
        for colour in ("red", "blue")
    ]
    rows.append({"id": "greeting", "prompt": tiny_llava.GREETING, "harmful": False, "reference": "what can I do"})
    file = tmp_path / "colours.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [
        "eval", "run", "--out", str(tmp_path / "out"), "--benchmark", f"jsonl:{file}", "--target", served, "--judge", "match",
        "--judge", "refusal", "--defence", "none", "--defence", "vlmguard:embedded", "--max-tokens", "16", "--concurrency", "1",
    ]  # fmt: skip
    assert main(command) == 0
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "| llava | none | 0.0 %" not in report
    assert report.count("100.0 % [43.9, 100.0]") >= 2  # all three are right, without and behind the guard
