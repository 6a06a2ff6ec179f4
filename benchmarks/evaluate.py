"""How fast `vlmguard eval` is, against its bars.

    python benchmarks/evaluate.py                 # all three
    python benchmarks/evaluate.py --samples 2560  # shorter

1. Against an endpoint that takes 1 s for an answer, 256 in flight: the rate beside the ideal of 256 a second (bar: 95 %).
2. CPU of the runner for a sample without pictures, from reading it to the stored verdict (bar: 2 ms).
3. A report over 20,000 rows: seconds and megabytes (bars: 20 s, 15 MB).

The endpoint is a process of its own on this machine, so it takes CPU from the runner; that is counted against us.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

import aiohttp

from vlmguard.evaluate.crew import Crew, open_crew
from vlmguard.evaluate.plan import Plan
from vlmguard.evaluate.report import write_report
from vlmguard.evaluate.run import Progress, run
from vlmguard.evaluate.store import Cell, Store, Stored
from vlmguard.types import Answer, Chat, Message, Sample, Text, Usage, Verdict

IN_FLIGHT = 256
LATENCY = 1.0

SERVER = """
import asyncio, sys
from aiohttp import web
BODY = b'{"choices":[{"message":{"content":"A plain answer."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":4}}'
async def answer(request):
    await request.read()
    await asyncio.sleep(float(sys.argv[1]))
    return web.Response(body=BODY, content_type="application/json")
async def main():
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def main() -> None:
    """Prints the three figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5_120)
    parser.add_argument("--rows", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_runner(Path(folder), arguments.samples)
        measure_report(Path(folder), arguments.rows)


def measure_runner(folder: Path, samples: int) -> None:
    """Bars 1 and 2."""
    file = folder / "questions.jsonl"
    rows = ({"id": str(n), "prompt": f"What is {n} plus {n}?", "harmful": False} for n in range(samples))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(LATENCY)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        plan = Plan(
            (f"jsonl:{file}",),
            (f"endpoint:http://127.0.0.1:{port}/v1#plain",),
            defences=("none",),
            judges=("refusal",),
            concurrency=IN_FLIGHT,
        )
        with Store(folder / "run") as store:
            crew = open_crew(plan, store)
            progress = Progress()
            cpu, started = time.process_time(), time.perf_counter()
            asyncio.run(_run_and_close(run(plan, crew, store, progress), crew))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        bare = asyncio.run(_bare(f"http://127.0.0.1:{port}/v1/chat/completions", samples))
    finally:
        server.kill()
        server.wait()
    ideal = samples / IN_FLIGHT * LATENCY
    print(
        f"runner: {samples:,} samples, {IN_FLIGHT} in flight, {LATENCY:g} s latency: {seconds:.2f} s, {samples / seconds:.1f}/s ="
        f" {100 * ideal / seconds:.1f} % of the ideal rate (bar 95 %); {progress.errors} errors"
    )
    print(
        f"runner: a bare aiohttp loop on the same endpoint, now: {samples / bare:.1f}/s = {100 * ideal / bare:.1f} % of the ideal;"
        f" the runner has {100 * bare / seconds:.1f} % of its rate"
    )
    print(
        f"runner: {1000 * cpu / samples:.2f} ms CPU a sample without pictures (bar 2 ms); load {os.getloadavg()[0]:.1f}"
    )


async def _run_and_close(work: Awaitable[None], crew: Crew) -> None:
    await work
    await crew.close()


async def _bare(url: str, samples: int) -> float:
    """Seconds that workers which do nothing but ask need for as many answers: what this machine has to give at the moment."""
    left = iter(range(samples))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def work() -> None:
            for number in left:
                async with session.post(
                    url, json={"messages": [{"role": "user", "content": f"What is {number}?"}]}
                ) as response:
                    await response.json()

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - started


def measure_report(folder: Path, rows: int) -> None:
    """Bar 3: verdicts are drawn, so the figures in this report mean nothing."""
    defences = {"none": 0.5, "vlmguard (embedded)": 0.8, "safety-prompt": 0.7, "ecso*": 0.6}
    rng = random.Random(0)
    with Store(folder / "drawn") as store:
        store.add_benchmark("drawn", "0" * 64, "safety,over-refusal", "Drawn at random")
        samples = rows // len(defences)
        for number in range(samples):
            asked = Chat((Message("user", (Text(f"Question {number}: " + "words and more words " * 20),)),))
            store.add_sample(
                "drawn", Sample(str(number), asked, bool(number % 3), f"category {number % 13}", group=str(number // 2))
            )
        for place, (defence, safe) in enumerate(defences.items()):
            cell = Cell(f"cell{place}", "drawn", "nobody", defence, 0)
            store.add_cell(cell, place)
            for number in range(samples):
                answer = Answer(
                    "An answer of some length. " * 30,
                    usage=Usage(300, 200),
                    seconds=rng.random(),
                    overhead=rng.random() / 9,
                )
                store.add_answer(cell, str(number), Stored(answer))
                good = rng.random() < safe
                verdict = Verdict(
                    "drawn", good, good, rng.random() < 0.1, float(rng.randint(5, 10) if good else rng.randint(0, 5))
                )
                store.add_verdict(cell, str(number), verdict)
                store.add_verdict(
                    cell, str(number), Verdict("drawn too", rng.random() < safe, None, rng.random() < 0.1)
                )
    started, cpu = time.perf_counter(), time.process_time()
    files = write_report([folder / "drawn"], folder / "drawn")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    size = files[0].stat().st_size / 1e6
    print(
        f"report: {rows:,} rows, two judges: {seconds:.1f} s, {cpu:.1f} s of CPU (bar 20 s), {size:.2f} MB (bar 15 MB);"
        f" load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
