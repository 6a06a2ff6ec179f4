"""The gateway's cost, everything compared in one run.

    python -m benchmarks.gateway [--rounds 5] [--requests 1000] [--only text plain streams latency pictures open soak]

One core is the gateway's, the other is shared by the load and a model's server that costs next to nothing. In each round every
subject is measured once, in turn; a ratio is formed within a round, and its mean over the rounds is printed with a 95 % interval.
"text" are lists of words, which the scorer's fast pass hardly ever settles; "plain" are requests as people make them. What share
of each goes to the encoder is printed. LiteLLM's proxy (no guardrail) takes part where it has its environment:
``make build/litellm/.installed``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gateway import load, servers
from benchmarks.gateway.servers import Server
from vlmguard.rewriters import scorer
from vlmguard.rewriters.scorer import EmbeddedScorer

GATEWAY_CORE, OTHER_CORE = 0, 1
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def measure(server: Server, kind: str, n: int, concurrency: int, rate: float, seed: int) -> dict[str, Any]:
    """One run of the load against a server, in a process on the other core."""
    command = ["taskset", "-c", str(OTHER_CORE), sys.executable, "-m", "benchmarks.gateway.load"]
    command += [str(server.port), kind, str(n), str(concurrency), str(rate), str(seed)]
    done = subprocess.run(command, capture_output=True, cwd=servers.ROOT, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["bad"]:
        raise SystemExit(f"{server.name}: {found['bad']} of {n} answers were not 200")
    return found


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = _T95.get(len(values), 2.0) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2f} ± {half:.2f}"


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def throughput(subjects: dict[str, Server], kind: str, n: int, rounds: int) -> dict[str, list[float]]:
    """Requests per second of each subject in each round, and per second on the processor. The slow one gets fewer requests."""
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    per_cpu: dict[str, list[float]] = {name: [] for name in subjects}
    for round in range(rounds):
        for name, server in subjects.items():
            some = n // 4 if name == "litellm" else n
            before = server.cpu_seconds
            found = measure(server, kind, some, 32, 0, round)
            per_cpu[name].append(some / max(0.01, server.cpu_seconds - before))
            rates[name].append(some / found["seconds"])
    print(f"\n## {kind}: 32 connections, n = {rounds} rounds × {n} requests (litellm {n // 4})")
    print("            requests/s          requests per CPU second   vlmguard is, by time; by CPU time")
    for name, values in rates.items():
        line = f"{name:10} {interval(values):>20} {interval(per_cpu[name]):>20}"
        if name != "vlmguard":
            by_time, by_cpu = (_over(of["vlmguard"], of[name]) for of in (rates, per_cpu))
            line += f"      {by_time} × {name}; {by_cpu} ×"
        print(line)
    return rates


def _over(mine: Sequence[float], theirs: Sequence[float]) -> str:
    return interval([a / b for a, b in zip(mine, theirs, strict=True)])


def reach(kind: str, n: int = 400) -> None:
    """How far the scorer reads the texts, and what one of those that reach the encoder costs."""
    loaded = EmbeddedScorer()._load()
    dice = load.random.Random(f"{kind} 0")
    texts = [load.plain(dice) if kind == "plain" else load.text(dice) for _ in range(n)]
    words = loaded.fast.logits(texts)
    left = [
        (text, float(logit)) for text, logit in zip(texts, words, strict=True) if logit >= loaded.calibration.settled
    ]
    whole = 0
    started = time.process_time()
    for text, logit in left:
        glance = scorer._glance(loaded, text, logit)
        if glance.early >= loaded.calibration.settled_early:
            scorer._finish(loaded, glance)
            whole += 1
    each = (time.process_time() - started) / max(1, len(left)) * 1000
    print(
        f"\n{kind}: {len(left)} of {n} texts go to the encoder, {whole} of them to its end: {each:.1f} ms of processor time for one"
    )


def latency(subjects: dict[str, Server], rate: float, n: int, rounds: int, kind: str = "text") -> None:
    """What vlmguard adds at a fixed rate, to the upstream alone and to the bare pass-through."""
    names = ("upstream", "bare", "vlmguard")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for round in range(rounds):
        for name in names:
            values = measure(subjects[name], kind, n, 32, rate, 100 + round)["latencies"]
            found[name].append({"p50": quantile(values, 0.5) * 1000, "p99": quantile(values, 0.99) * 1000})
    print(f"\n## {kind}: latency at {rate:.0f} requests/s, n = {rounds} rounds × {n} requests")
    for share in ("p50", "p99"):
        over = {
            name: interval(
                [mine[share] - theirs[share] for mine, theirs in zip(found["vlmguard"], found[name], strict=True)]
            )
            for name in names[:2]
        }
        print(
            f"{share}: vlmguard adds {over['upstream']} ms to the upstream, {over['bare']} ms to the bare pass-through"
        )


def pictures(subjects: dict[str, Server], n: int) -> None:
    """Added p50 by count and size, each picture seen before (judging it the first time is docs/performance.md's)."""
    print(f"\n## pictures seen before: added p50 in ms over the upstream alone, one request at a time, n = {n} each")
    print("count ×  size      bare   vlmguard   p95 vlmguard")
    for count in (1, 4):
        for size in (10_000, 100_000, 1_000_000):
            kind = f"{count}x{size}"
            measure(subjects["vlmguard"], kind, 1, 1, 0, 1)
            at: dict[str, list[float]] = {
                name: measure(subjects[name], kind, n, 1, 0, 2)["latencies"]
                for name in ("upstream", "bare", "vlmguard")
            }
            base = quantile(at["upstream"], 0.5)
            bare, ours, high = (
                (quantile(at[name], share) - base) * 1000
                for name, share in (("bare", 0.5), ("vlmguard", 0.5), ("vlmguard", 0.95))
            )
            print(f"{count:5} × {size // 1000:4} kB {bare:8.1f} {ours:10.1f} {high:14.1f}", flush=True)


async def open_streams(server: Server, many: int) -> None:
    """Memory while so many streams are open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    before = server.resident
    writers = []
    for number in range(many):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(load.request(server.port, load.body("held", load.random.Random(number), [])))
        await reader.readuntil(b"data: ")
        writers.append(writer)
    now = server.resident
    print(f"\n## {many} open streams: {now / 1e6:.0f} MB in all ({before / 1e6:.0f} MB before the first)")
    for writer in writers:
        writer.close()


def soak(server: Server, database: Path, seconds: float) -> None:
    """Mixed load: memory flat, no row lost, no 5xx of our own."""
    sizes: list[float] = []
    sent = 0
    started = time.monotonic()
    number = 0
    while time.monotonic() - started < seconds:
        for kind, n, concurrency in (("text", 400, 16), ("stream", 200, 16), ("1x100000", 40, 4), ("4x10000", 40, 4)):
            number += 1
            measure(server, kind, n, concurrency, 0, 1000 + number)
            sent += n
        sizes.append(server.resident / 1e6)
    time.sleep(1)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (kept,) = connection.execute("select count(*) from vlmguard_decisions").fetchone()
    third = max(1, len(sizes) // 3)
    print(
        f"\n## mixed load for {time.monotonic() - started:.0f} s: {sent} requests, all answered 200; {kept} rows in the audit"
    )
    peaks = [max(part or [0]) for part in (sizes[:third], sizes[third : 2 * third], sizes[2 * third :])]
    print("memory in MB, peak of each third:", ", ".join(f"{peak:.0f}" for peak in peaks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600, help="of the mixed load")
    parser.add_argument("--only", nargs="*", default=["text", "plain", "streams", "latency", "pictures", "open"])
    parser.add_argument("--rewriter", default="embedded")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(servers.model(OTHER_CORE, folder))
        guarded = stack.enter_context(
            servers.vlmguard(GATEWAY_CORE, folder, upstream.port, "--rewriter", arguments.rewriter)
        )
        subjects = {
            "upstream": upstream,
            "bare": stack.enter_context(servers.bare(GATEWAY_CORE, folder, upstream.port)),
            "vlmguard": guarded,
        }
        if servers.LITELLM.exists() and {"text", "plain"} & set(arguments.only):
            subjects["litellm"] = stack.enter_context(servers.litellm(GATEWAY_CORE, folder, upstream.port))
        print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for server in subjects.values():
            measure(server, "text", 40, 4, 0, 999)  # warm

        def fresh() -> Server:
            return stack.enter_context(servers.vlmguard(GATEWAY_CORE, folder, upstream.port))

        rates = {"text": 45.0, "plain": 85.0}
        for kind in rates:
            if kind in arguments.only:
                reach(kind)
                found = throughput(subjects, kind, arguments.requests, arguments.rounds)["vlmguard"]
                rates[kind] = statistics.fmean(found) / 2

        def streams() -> None:
            some = {name: server for name, server in subjects.items() if name != "litellm"}
            for kind in ("stream", "plain-stream"):
                throughput(some, kind, arguments.requests, arguments.rounds)

        def delays() -> None:
            for kind, rate in rates.items():
                latency(subjects, rate, arguments.requests, arguments.rounds, kind)

        steps: dict[str, Callable[[], object]] = {
            "streams": streams,
            "latency": delays,
            "pictures": lambda: pictures(subjects, 60),
            "open": lambda: asyncio.run(open_streams(fresh(), 2000)),
            "soak": lambda: soak(guarded, next(folder.glob("*.db")), arguments.seconds),
        }
        for name, step in steps.items():
            if name in arguments.only:
                step()
                sys.stdout.flush()


if __name__ == "__main__":
    main()
