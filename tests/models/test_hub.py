"""Names of models that nobody has: told at once, by a real server in the hub's place or none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlmguard.errors import ModelError
from vlmguard.models.hub import check_known

ASK = "import sys; from vlmguard.models.hub import check_known; check_known(sys.argv[1])"


def ask(name: str, folder: Path, **environment: str) -> str:
    """What is said of a name, in a process of its own: the hub's library reads its environment once."""
    given = {**os.environ, "HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-c", ASK, name], env=given, capture_output=True, text=True, timeout=100, check=False
    )
    assert "Retrying" not in done.stderr
    return done.stderr.strip().rpartition("\n")[2]


@pytest.fixture
def hub() -> Iterator[str]:
    """A hub that has one model, and trouble with another."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known, broken = self.path.endswith("/nobody/known"), self.path.endswith("/nobody/broken")
            self.send_response(200 if known else 500 if broken else 404)
            if not known and not broken:
                self.send_header("X-Error-Code", "RepoNotFound")
            body = b'{"id": "nobody/known"}' if known else b"{}"
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_a_hub_has_and_has_not(hub: str, tmp_path: Path) -> None:
    assert ask("nobody/known", tmp_path, HF_ENDPOINT=hub) == ""
    assert ask("nobody/broken", tmp_path, HF_ENDPOINT=hub) == ""  # the loaders will say it
    assert "no folder nobody/typo, and the hub shows no such model" in ask("nobody/typo", tmp_path, HF_ENDPOINT=hub)


def test_no_hub_to_ask(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    said = ask("nobody/nothing", tmp_path, HF_ENDPOINT=nobody)
    assert "the hub cannot be reached" in said
    assert "hf download nobody/nothing" in said
    said = ask("nobody/nothing", tmp_path, HF_ENDPOINT=nobody, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids to ask the hub" in said
    kept = tmp_path / "models--nobody--nothing/snapshots/0"
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    (tmp_path / "models--nobody--nothing/refs").mkdir()
    (tmp_path / "models--nobody--nothing/refs/main").write_text("0")
    assert ask("nobody/nothing", tmp_path, HF_ENDPOINT=nobody, HF_HUB_OFFLINE="1") == ""


@pytest.mark.parametrize("name", ["./typo", "../typo", "/nowhere/typo", "~/typo", "a/b/typo", "a\\typo", "typo/"])
def test_what_can_only_be_a_folder_is_not_looked_for_at_a_hub(name: str) -> None:
    with pytest.raises(ModelError, match=r"there is no folder .*, and no model of a hub is called so"):
        check_known(name)


def test_folders_are_known_and_files_are_told(tmp_path: Path) -> None:
    check_known(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is a file: give the folder"):
        check_known(str(tmp_path / "model.safetensors"))
