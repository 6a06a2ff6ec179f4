"""A synthesis run as a process of its own, for tests that kill it: ``python -m tests.synth.worker FOLDER DELAY``.

Each call of the teacher is written to ``calls.log`` before it answers.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.synth.oracle import Judge, Target, Teacher
from vlmguard.pictures import PictureStore
from vlmguard.policy import load_policy
from vlmguard.synth.crew import Crew
from vlmguard.synth.engine_local import run_local
from vlmguard.synth.export import export
from vlmguard.synth.prepare import prepare
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store
from vlmguard.types import Chat, Completion, Sampling


class Logging(Teacher):
    """A teacher that takes its time and keeps a log."""

    def __init__(self, log: Path, delay: float) -> None:
        super().__init__()
        self._log = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._delay = delay

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        await asyncio.sleep(self._delay)
        before = set(self.asked)
        completion = await super().generate(chat, sampling)
        (stage,) = [name for name in self.asked if name not in before and ": " in name] or ["again"]
        os.write(self._log, f"{stage}\n".encode())
        return completion


def recipe(folder: Path) -> Recipe:
    return Recipe(
        sources=("jsonl:rows.jsonl",), teacher="oracle", target="target", judge="rule", folder=folder, concurrency=8
    )


def main() -> None:
    folder, delay = Path(sys.argv[1]), float(sys.argv[2])
    settings, out = recipe(folder), folder / "out"
    judge = Judge()
    with Store(out) as store:
        prepare(settings, out, store)
        store.reopen(settings.fingerprint())
        crew = Crew(Logging(folder / "calls.log", delay), Target(), judge, judge.keeps_need)
        asyncio.run(run_local(store, crew, settings, load_policy(), PictureStore(out / "pictures")))
        export(store, settings, out)


if __name__ == "__main__":
    main()
