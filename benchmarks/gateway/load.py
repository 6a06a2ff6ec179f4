"""The load: distinct prompts over raw sockets from a process of its own, so that little of a core goes to making it.

``python -m benchmarks.gateway.load PORT KIND N CONCURRENCY RATE SEED`` prints seconds and latencies as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

_WORDS = (Path(__file__).parents[2] / "src" / "vlmguard" / "perception" / "words_en.txt").read_text().split()
_OPENINGS = (
    "Please explain in simple words what the following have to do with each other:",
    "Write a short and friendly letter to a neighbour that mentions",
    "Make a table that compares these things by price, weight and age:",
    "Which of these would you take along on a holiday by the sea, and why?",
    "Translate the following list into French and sort it by length:",
)


def text(dice: random.Random, characters: int = 200) -> str:
    """A prompt like no other."""
    words = f"{dice.choice(_OPENINGS)} " + ", ".join(dice.choices(_WORDS, k=characters // 5))
    return words[:characters]


def picture(size: int, number: int) -> str:
    """A picture of about ``size`` bytes as a data: URL; the same for the same number."""
    import numpy as np
    from PIL import Image

    # Noise does not compress: its pixels are its bytes, nearly.
    side = max(8, int((size / 3) ** 0.5))
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def body(kind: str, dice: random.Random, pictures: list[str]) -> bytes:
    """A request: ``text``, ``stream``, ``held``, or pictures as ``COUNTxBYTES``."""
    words = text(dice)
    content: Any = (
        words
        if not pictures
        else [{"type": "text", "text": words}, *({"type": "image_url", "image_url": {"url": url}} for url in pictures)]
    )
    if kind == "held":
        content = f"hold this stream open: {words}"
    value = {"model": "m", "messages": [{"role": "user", "content": content}]}
    if kind in ("stream", "held"):
        value["stream"] = True
    return json.dumps(value).encode()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """One request over a kept connection; its status."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        await reader.readuntil(b"0\r\n\r\n")
    else:
        await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
    return int(head[9:12])


def request(port: int, content: bytes) -> bytes:
    lines = ("POST /v1/chat/completions HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json")
    head = "\r\n".join((*lines, "authorization: Bearer sk-bench", f"content-length: {len(content)}", "", ""))
    return head.encode() + content


async def run(port: int, kind: str, n: int, concurrency: int, rate: float, seed: int) -> dict[str, Any]:
    """``rate`` 0: as fast as they are answered. Else requests come at that rate, and waiting for a connection counts."""
    dice = random.Random(f"{kind} {seed}")
    pictures = []
    if kind[0].isdigit():
        images, size = map(int, kind.split("x"))
        pictures = [picture(size, number) for number in range(images)]
    requests = [request(port, body(kind, dice, pictures)) for _ in range(n)]
    numbers = count()
    latencies: list[float] = []
    bad = 0
    started = time.perf_counter()

    async def work() -> None:
        nonlocal bad
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        while (number := next(numbers)) < n:
            due = started + number / rate if rate else time.perf_counter()
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            bad += await ask(reader, writer, requests[number]) != 200
            latencies.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return {"seconds": time.perf_counter() - started, "latencies": latencies, "bad": bad}


if __name__ == "__main__":
    port, kind, n, concurrency, rate, seed = sys.argv[1:]
    print(json.dumps(asyncio.run(run(int(port), kind, int(n), int(concurrency), float(rate), int(seed)))))
