"""What is measured, each a process pinned to a core: the model's server, a bare pass-through, vlmguard, LiteLLM's proxy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LITELLM = ROOT / "build" / "litellm" / "bin" / "litellm"
CHUNKS = 20
HELD = b"hold this stream open"
"""A prompt whose stream does not end by itself."""

_ANSWER = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"Hello."}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_ANSWER), _ANSWER)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"tok "},"finish_reason":null}]}\n\n'
)
_CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Model(asyncio.Protocol):
    """A model's server as cheap as can be, so that what is before it is measured."""

    def __init__(self) -> None:
        self._read = b""
        self._lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    def data_received(self, data: bytes) -> None:
        self._read = self._read + data if self._read else data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._read) < end + 4 + length:
                return
            body, self._read = self._read[end + 4 : end + 4 + length], self._read[end + 4 + length :]
            if b'"stream": true' in body or b'"stream":true' in body:
                self._transport.write(_STREAM)
                self._say(CHUNKS, HELD in body)
            else:
                self._transport.write(_WHOLE)

    def _say(self, left: int, held: bool) -> None:
        """A piece each turn of the loop, as a model gives them."""
        if self._lost:
            return
        if left or held:
            self._transport.write(_CHUNK)
            later = asyncio.get_running_loop()
            _ = later.call_later(1, self._say, 0, True) if held else later.call_soon(self._say, left - 1, False)
        else:
            self._transport.write(_DONE)


async def serve_model(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def serve_bare(port: int, upstream: str) -> None:
    """The least that a gateway can do: raw ASGI, the same server and the same client as vlmguard, nothing looked at."""
    import aiohttp
    import uvicorn

    session: Any = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] == "lifespan":
            await receive()
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await session.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        pieces = []
        while True:
            message = await receive()
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = b"".join(pieces)
        headers = {"content-type": "application/json", "content-length": str(len(body))}

        async def slices() -> Any:
            for at in range(0, len(body), 1 << 18):
                yield body[at : at + (1 << 18)]

        url = upstream + scope["path"].removeprefix("/v1")
        async with session.request(
            scope["method"], url, data=slices() if len(body) > 1 << 20 else body, headers=headers
        ) as response:
            kept = [(n, v) for n, v in response.raw_headers if n.lower() in (b"content-type", b"content-length")]
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
            async for piece in response.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    uvicorn.run(
        app, host="127.0.0.1", port=port, log_level="error", access_log=False, http="httptools", ws="none", backlog=4096
    )


@dataclass(frozen=True)
class Server:
    """A running process and where it listens."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def cpu_seconds(self) -> float:
        """Time on a processor so far, of all threads: what stays true on a machine that others use as well."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@contextlib.contextmanager
def running(name: str, core: int, command: list[str], port: int, folder: Path, **environment: str) -> Iterator[Server]:
    """The process of ``command`` on one core, from when it answers to the end of the block."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 180
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{(folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield Server(name, port, process)
    finally:
        process.terminate()
        process.wait(60)


def _answers(port: int) -> bool:
    for path in ("/healthz", "/health/liveliness", "/v1/models"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            continue
    return False


def model(core: int, folder: Path) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    return running(
        "upstream",
        core,
        [sys.executable, "-m", "benchmarks.gateway.servers", "model", str(port)],
        port,
        folder,
        PYTHONPATH=str(ROOT),
    )


def bare(core: int, folder: Path, upstream: int) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.gateway.servers", "bare", str(port), f"http://127.0.0.1:{upstream}/v1"]
    return running("bare", core, command, port, folder, PYTHONPATH=str(ROOT))


def vlmguard(core: int, folder: Path, upstream: int, *arguments: str) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    database = tempfile.mktemp(suffix=".db", dir=folder)
    command = [
        *(sys.executable, "-m", "vlmguard.cli.main", "serve", "--upstream", f"http://127.0.0.1:{upstream}/v1"),
        *("--port", str(port), "--threads", "1", "--log-level", "warning", "--audit", f"sqlite:{database}", *arguments),
    ]
    return running("vlmguard", core, command, port, folder)


def litellm(core: int, folder: Path, upstream: int) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    (folder / "litellm.yaml").write_text(
        "model_list:\n  - model_name: m\n"
        f'    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{upstream}/v1", api_key: x}}\n'
    )
    command = [
        str(LITELLM),
        "--config",
        "litellm.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--telemetry",
        "False",
    ]
    return running(
        "litellm",
        core,
        command,
        port,
        folder,
        LITELLM_MASTER_KEY="sk-bench",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_LOG="ERROR",
    )


if __name__ == "__main__":
    if sys.argv[1] == "model":
        asyncio.run(serve_model(int(sys.argv[2])))
    else:
        serve_bare(int(sys.argv[2]), sys.argv[3])
