"""What the model rewriter itself costs, the model's own time left out. Needs psutil.

    python benchmarks/rewriters.py [--rounds 400] [--waves 10]

Overhead: one refinement with a model that answers at once, from the chat to the review, the encoding of the request for an
endpoint included (aims: at most 3 ms at the median for text, 10 ms with a picture of 1 MB). A picture that is new to the
process and one that it has seen are timed apart.

Concurrency: 256 refinements at a time against a server in another process that waits a second before each answer, by real HTTP
and streaming (aims: at least 90 % of the ideal rate, at most 1 ms of CPU a call, memory that does not grow). Beside it, in the same
run, the floor: aiohttp alone with the same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable

import aiohttp
import psutil
from PIL import Image as Pictures

from vlmguard import Guard, chat, load_policy
from vlmguard.models.endpoint import EndpointModel, _chunks
from vlmguard.models.spec import ModelSettings
from vlmguard.rewriters.model import ModelRewriter
from vlmguard.rewriters.quoting import rewriter_chat
from vlmguard.rewriters.select import make_rewriter
from vlmguard.types import Chat, Completion, Message, Sampling, Text

AT_ONCE = 256
LATENCY = 1.0
VERDICT = '<understanding>The user asks something harmless.</understanding>\n<assessment text="none" image="{0}" cross="{0}"/>\n<forward/>'

ANSWER = VERDICT.format("absent")
EVENTS = -(-len(ANSWER) // 4)


class Instant:
    """Answers at once, after encoding the request as an endpoint would be sent it."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._endpoint = EndpointModel("http://127.0.0.1:1/v1", "m")

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        async for _ in _chunks(self._endpoint._body(chat, sampling, stream=True)):
            pass
        return Completion(self._answer)


def picture(bytes_: int, seed: int) -> bytes:
    """Noise, which does not compress: a PNG of about so many bytes."""
    side = int((bytes_ / 3) ** 0.5)
    file = io.BytesIO()
    Pictures.frombytes("RGB", (side, side), random.Random(seed).randbytes(side * side * 3)).save(file, "PNG")
    return file.getvalue()


async def overhead(rounds: int) -> list[tuple[str, list[float]]]:
    """Milliseconds of each refinement, the three kinds in turn."""
    policy = load_policy()
    text = ModelRewriter(Instant(VERDICT.format("absent")), policy)
    seen = ModelRewriter(Instant(VERDICT.format("none")), policy)
    pictures = [picture(1_000_000, seed) for seed in range(12)]
    print(f"pictures of {statistics.mean(map(len, pictures)) / 1e6:.2f} MB on average")
    again = chat("What does this show, and is it any good?", [pictures[0]])
    kinds: dict[str, Callable[[int], tuple[ModelRewriter, Chat]]] = {
        "text": lambda number: (text, chat(f"What is the capital of country number {number}, and why?")),
        "a picture it has seen": lambda number: (seen, again),
        "a new picture": lambda number: (
            ModelRewriter(Instant(VERDICT.format("none")), policy),
            chat("What does this show?", [pictures[number % len(pictures)]]),
        ),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 20):
        for kind, make in kinds.items():
            rewriter, asked = make(number)
            started = time.perf_counter()
            await rewriter.refine(asked)
            if number >= 20:
                times[kind].append((time.perf_counter() - started) * 1000)
    return list(times.items())


def median_interval(values: list[float]) -> tuple[float, float]:
    """95 % for the median, from order statistics."""
    ordered, n = sorted(values), len(values)
    half = 1.96 * n**0.5 / 2
    return ordered[max(0, int(n / 2 - half))], ordered[min(n - 1, int(n / 2 + half) + 1)]


def serve(port: multiprocessing.Queue[int], apart: float) -> None:
    """The server: reads a request, waits, and streams a verdict four characters at a time, ``apart`` seconds between them;
    then it waits for the client to close.
    """
    pieces = [ANSWER[at : at + 4] for at in range(0, len(ANSWER), 4)]
    events = [
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}).encode() + b"\n\n"
        for piece in pieces
    ]
    if not apart:
        events = [b"".join(events)]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            await asyncio.sleep(LATENCY - apart * len(events))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            for event in events:
                writer.write(event)
                await asyncio.sleep(apart)
            await reader.read(1)  # until the client closes
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2048)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def concurrency(port: int, waves: int) -> dict[str, float]:
    """Waves of refinements, ``AT_ONCE`` always under way."""
    policy = load_policy()
    settings = ModelSettings(concurrency=AT_ONCE, deadline=60)
    guard = Guard(make_rewriter(f"endpoint:http://127.0.0.1:{port}/v1#m", policy, settings=settings), policy)
    figures = await timed(guard.refine, waves)
    await guard.close()
    return figures


async def bare(port: int, waves: int) -> dict[str, float]:
    """The same questions by aiohttp alone, bytes in and bytes out, closed at the end of the verdict: the floor."""
    policy, encoder = load_policy(), EndpointModel(f"http://127.0.0.1:{port}/v1", "m")
    body = b"".join(encoder._body(rewriter_chat(chat("x"), policy, b""), Sampling(), stream=True))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

        async def ask(_: Chat) -> None:
            async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", data=body) as response:
                read = b""
                async for piece in response.content.iter_any():
                    read += piece
                    if read.count(b"data:") >= EVENTS:
                        break
                response.close()

        return await timed(ask, waves)


async def timed(ask: Callable[[Chat], Awaitable[object]], waves: int) -> dict[str, float]:
    process = psutil.Process(os.getpid())
    numbers = iter(range(10**9))
    memory: list[int] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            number = next(numbers)
            await ask(Chat((Message("user", (Text(f"What is the capital of country number {number}?"),)),)))
            if number % AT_ONCE == 0:
                memory.append(process.memory_info().rss)

    await asyncio.gather(*(worker(1) for _ in range(AT_ONCE)))  # modules and caches are warm
    memory.clear()
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker(waves) for _ in range(AT_ONCE)))
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    calls = AT_ONCE * waves
    return {
        "calls": calls,
        "rate": calls / wall,
        "cpu": cpu / calls * 1000,
        "first": max(memory[: len(memory) // 2]) / 1e6,
        "second": max(memory[len(memory) // 2 :]) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--waves", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for kind, values in asyncio.run(overhead(arguments.rounds)):
        low, high = median_interval(values)
        ninety_five = sorted(values)[int(len(values) * 0.95)]
        print(
            f"{kind:24} p50 {statistics.median(values):.2f} ms [{low:.2f}, {high:.2f}]  p95 {ninety_five:.2f}  n {len(values)}"
        )
    for how, apart in (("at once", 0.0), ("a token every 20 ms", 0.02)):
        report(how, apart, arguments.waves)


def report(how: str, apart: float, waves: int) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    server = context.Process(target=serve, args=(queue, apart), daemon=True)
    server.start()
    try:
        port = queue.get(timeout=60)
        floor, ours = asyncio.run(bare(port, waves)), asyncio.run(concurrency(port, waves))
    finally:
        server.terminate()
    ideal = AT_ONCE / LATENCY
    print(f"{AT_ONCE} at a time, the verdict {how}, n {ours['calls']}, {ideal:.0f} a second possible:")
    for who, figures in (("aiohttp alone", floor), ("refinements", ours)):
        print(
            f"  {who:14} {figures['rate']:.0f} a second ({figures['rate'] / ideal:.0%}), {figures['cpu']:.2f} ms CPU a call;"
            f" memory {figures['first']:.0f} MB in the first half, {figures['second']:.0f} in the second"
        )


if __name__ == "__main__":
    main()
