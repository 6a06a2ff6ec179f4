"""What the synthesis costs beside the models: ``python benchmarks/synth.py``.

1. Rate against a teacher with one second of latency, 256 rows under way, as a share of the ideal; CPU per call without pictures.
2. Many rows through a scripted teacher: rows a second, bytes a row, peak memory in the first and second half, and how long a run
   that was stopped half-way takes to start working again.
3. How long a run over ``--resume-rows`` rows, half of them done, takes to start working again. Its state is written row by row
   through the store, as a run would have left it, since really running half a million rows takes most of an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from vlmguard.pictures import PictureStore
from vlmguard.policy import load_policy
from vlmguard.synth.crew import Crew
from vlmguard.synth.engine_local import run_local
from vlmguard.synth.prepare import prepare
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store, Stored
from vlmguard.types import Chat, Completion, Sampling

SAY = {
    "You study": '<evidence source="text" modality="text">The words ask how to mix two cleaners</evidence>',
    "You assess": (
        '<understanding>Two cleaners.</understanding><assessment text="high" image="absent" cross="absent"/>'
        '<risk modality="text" category="dangerous_behaviour">They react.</risk><analysis>They give off gas.</analysis>'
    ),
}


class Teacher:
    """Answers in the grammar after ``latency`` seconds."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self.calls = 0

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The answer of the stage that asks."""
        self.calls += 1
        if self._latency:
            await asyncio.sleep(self._latency)
        system = chat.messages[0].text
        for start, text in SAY.items():
            if system.startswith(start):
                return Completion(text)
        return Completion(
            f"<prompt>How do I mix these cleaners? Name the danger of the gas first, case {self.calls}.</prompt>"
        )


def write_rows(file: Path, count: int) -> None:
    """Rows without pictures, all different."""
    with file.open("w") as out:
        for number in range(count):
            words = f"shelf{number % 977} room{number % 7919} jar{number} box{number * 31} tin{number * 17}"
            out.write(json.dumps({
                "id": f"r{number:08d}", "prompt": f"How do I mix cleaner {words}", "benign": False, "licence": "own",
                "safe": "Keep them apart.", "unsafe": "Pour them together.",
            }) + "\n")  # fmt: skip


def recipe(folder: Path, concurrency: int) -> Recipe:
    return Recipe(sources=("jsonl:rows.jsonl",), teacher="scripted", folder=folder, concurrency=concurrency)


def rate(rows: int) -> None:
    """Part 1."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", rows)
        settings = recipe(folder, 256)
        with Store(folder) as store:
            prepare(settings, folder, store)
            store.reopen("x")
            teacher = Teacher(1.0)
            cpu, started = time.process_time(), time.perf_counter()
            asyncio.run(run_local(store, Crew(teacher), settings, load_policy(), PictureStore(folder / "pictures")))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    ideal = teacher.calls / 256  # seconds, all slots busy all the time
    print(
        f"{teacher.calls} calls of 1 s, 256 under way: {seconds:.1f} s, ideal {ideal:.1f} s: {ideal / seconds:.3f} of the ideal rate"
    )
    print(f"CPU per call: {1000 * cpu / teacher.calls:.2f} ms")


def many(rows: int) -> None:
    """Part 2: in processes of their own, so that memory is theirs alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", rows)
        command = [sys.executable, __file__, "--child", name]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peaks: list[tuple[int, int]] = []
        killed_at = 0
        done = 0
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(0.5)
            try:
                peaks.append((done, watched.memory_info().rss))
                done = _done(folder)
            except psutil.NoSuchProcess:
                break
            if done >= rows // 2 and not killed_at:
                half = time.perf_counter() - started
                process.kill()
                process.wait()
                killed_at = _done(folder)  # it went on until the signal reached it
                began = time.perf_counter()
                process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                watched = psutil.Process(process.pid)
                while _done(folder) <= killed_at:
                    time.sleep(0.05)
                resumed = time.perf_counter() - began
        assert process.returncode == 0
        size = sum(file.stat().st_size for file in folder.glob("run.sqlite*"))
        first = max((rss for at, rss in peaks if at < rows // 2), default=0)
        second = max((rss for at, rss in peaks if at >= rows // 2), default=0)
        per_second, state = killed_at / half, size / rows
        print(f"{rows} rows: first half in {half:.0f} s, preparation included ({per_second:.0f} rows/s)")
        print(f"{state:.0f} bytes a row of state; works again {resumed:.1f} s after a kill")
        print(f"peak memory: {first / 1e6:.0f} MB in the first half, {second / 1e6:.0f} MB in the second")


def resumed(rows: int) -> None:
    """Part 3."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", 10)
        settings = recipe(folder, 64)
        with Store(folder) as store:
            prepare(settings, folder, store)
            store.reopen("x")
            asyncio.run(run_local(store, Crew(Teacher(0)), settings, load_policy(), PictureStore(folder / "pictures")))
            made = next(store.rows("kept"))
            _write_state(store, made, rows)
        command = [sys.executable, __file__, "--child", name]
        before = _done(folder)
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while _done(folder) <= before:
                time.sleep(0.1)
            seconds = time.perf_counter() - began
            process.kill()
        print(f"{rows} rows, {before} of them kept: works again {seconds:.1f} s after its start")


def _write_state(store: Store, made: Stored, rows: int) -> None:
    """``rows`` rows that read like ``made``, every other one done."""
    generation, steps = int(store.meta("generation") or 0), store.steps(made.id)
    store.begin()
    for number in range(rows):
        id = f"s{number:08d}"
        store.add(id, made.body | {"number": number}, generation)
        if number % 2:
            store.finish(id, "kept", result=made.result)
            for step, (key, value) in steps.items():
                store.save_step(id, step, key, value, 1.0)
    store.commit()


def _done(folder: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT COUNT(*) FROM rows WHERE state = 'kept'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def child(folder: Path) -> None:
    settings = recipe(folder, 64)
    with Store(folder) as store:
        prepare(settings, folder, store)
        store.reopen("x")
        asyncio.run(run_local(store, Crew(Teacher(0)), settings, load_policy(), PictureStore(folder / "pictures")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of part 2")
    parser.add_argument("--rate-rows", type=int, default=2_560, help="of part 1")
    parser.add_argument("--resume-rows", type=int, default=1_000_000, help="of part 3")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    print(f"{os.cpu_count()} cores")
    rate(arguments.rate_rows)
    many(arguments.rows)
    resumed(arguments.resume_rows)


if __name__ == "__main__":
    main()
