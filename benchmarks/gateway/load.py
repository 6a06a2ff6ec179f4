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


_PLAIN = (
    "Please help me write a {tone} {form} to my {whom}. It should mention the {thing} and the {other}, thank them for the {third}, "
    "and say that we will meet in {place} in {month}.",
    "I am planning a weekend in {place} in {month} with my {whom}. We like the {thing} and the {other}. Which sights would you "
    "suggest, and how much time does each take?",
    "What is the difference between a {thing} and a {other}? Explain it in a {tone} way to my {whom}, with one example from "
    "{place}, and end with a question about the {third}.",
    "Summarize in three sentences what one should know before buying a {thing} in {place}. My {whom} already owns a {other}, so "
    "compare the two, and keep it {tone}. It is for {month}.",
    "Give me five ideas for a {tone} {form} about a {thing} that is lost in {place} in {month} and found again by my {whom}, who "
    "was looking for a {other} and a {third}.",
)
_FILLED = {
    "tone": "short friendly formal funny warm polite simple cheerful",
    "form": "letter poem speech postcard story toast message song",
    "whom": "neighbour sister teacher grandfather colleague landlord daughter team",
    "month": "January February March April May June July August September October November December",
    "place": "Lisbon Vienna Kyoto Toronto Nairobi Bergen Lima Sydney Prague Dublin Oslo Boston",
}


def plain(dice: random.Random, characters: int = 200) -> str:
    """A request as people make them, like no other."""
    words = {name: dice.choice(values.split()) for name, values in _FILLED.items()}
    things = dict(zip(("thing", "other", "third"), dice.sample(_WORDS, 3), strict=True))
    return dice.choice(_PLAIN).format(**words, **things)[:characters]


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
    """A request: ``text``, ``plain``, each also as ``stream`` and ``plain-stream``, ``held``, or pictures as ``COUNTxBYTES``."""
    words = plain(dice) if kind.startswith("plain") else text(dice)
    content: Any = (
        words
        if not pictures
        else [{"type": "text", "text": words}, *({"type": "image_url", "image_url": {"url": url}} for url in pictures)]
    )
    if kind == "held":
        content = f"hold this stream open: {words}"
    value = {"model": "m", "messages": [{"role": "user", "content": content}]}
    if kind in ("stream", "plain-stream", "held"):
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
