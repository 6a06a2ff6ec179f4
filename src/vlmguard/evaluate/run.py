"""The runner: asks targets behind defences, has the answers judged, writes down each as it comes, goes on where it was stopped.

Answers and verdicts have workers of their own, so that a slow judge does not keep targets idle. A model that is away is waited for;
what cannot be answered becomes an error row, and the run goes on. The same run started again asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vlmguard.benchmarks.select import Folder
from vlmguard.errors import InputError, ModelError, VlmguardError
from vlmguard.evaluate.crew import Crew, Target
from vlmguard.evaluate.plan import Plan
from vlmguard.evaluate.store import Cell, Store, Stored
from vlmguard.protocols import Defence, Judge, Selective
from vlmguard.types import Answer, Broken, Sample, Sampling, Verdict

_COMMIT_EVERY = 0.25
_LONGEST_WAIT = 60.0
"""Seconds between two attempts at a model that is away."""

T = TypeVar("T")


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    total: int = 0
    """Answers to be had in this process."""
    answers: int = 0
    verdicts: int = 0
    errors: int = 0
    broken: int = 0
    """Rows of benchmarks that could not be read."""
    waiting: int = 0
    """Calls that wait for a model that is away."""
    last_error: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / max(1e-9, time.monotonic() - self.started)

    @property
    def left(self) -> float:
        """Seconds, at the rate so far."""
        return (self.total - self.answers) / self.rate if self.answers else float("inf")


@dataclass(frozen=True, slots=True)
class Job:
    """One sample in one cell, and what is still missing of it."""

    sample: Sample
    cell: Cell
    target: Target
    defence: Defence
    sampling: Sampling
    answered: bool
    judges: tuple[Judge, ...]


def read_shard(written: str) -> tuple[int, int]:
    """``i/n`` → (i, n), i from 1. Raises ``InputError``."""
    part, slash, parts = written.partition("/")
    if not slash or not part.isdecimal() or not parts.isdecimal() or not 1 <= int(part) <= int(parts):
        raise InputError(f"--shard is i/n with i from 1 to n, such as 1/8, not {written!r}")
    return int(part), int(parts)


def chosen(benchmark: Folder, plan: Plan, shard: tuple[int, int] = (1, 1)) -> list[str]:
    """The samples of a benchmark that this process asks, in the benchmark's order: by their hash, so the same everywhere."""
    ids = benchmark.ids()
    hashes = {id: int.from_bytes(hashlib.sha256(f"{benchmark.name}\0{id}".encode()).digest()[:8]) for id in ids}
    if plan.limit is not None:
        drawn = set(sorted(ids, key=hashes.__getitem__)[: plan.limit])
        ids = [id for id in ids if id in drawn]
    part, parts = shard
    return [id for id in ids if hashes[id] % parts == part - 1]


def check(plan: Plan, crew: Crew, store: Store) -> None:
    """Raises ``InputError`` where the run was begun with other data or settings. Writes nothing."""
    for benchmark in crew.benchmarks:
        store.check_benchmark(benchmark.name, benchmark.fingerprint)
        for cell, *_ in crew.cells(plan, benchmark):
            store.check_cell(cell)


async def run(plan: Plan, crew: Crew, store: Store, progress: Progress, shard: tuple[int, int] = (1, 1)) -> None:
    """Everything that is missing. Raises ``InputError`` where the run was begun with other data or settings."""
    check(plan, crew, store)
    async with _Works(plan, store, progress) as works:
        await works.feed(_todo(plan, crew, store, progress, shard))


async def judge_again(plan: Plan, judges: Sequence[Judge], store: Store, progress: Progress) -> None:
    """Has stored answers judged: no benchmark, no target and no defence is needed."""
    async with _Works(plan, store, progress) as works:
        for cell in store.cells():
            answered = store.answered(cell)
            missing = {judge.name: answered - store.judged(cell, judge.name) for judge in judges}
            for id in sorted(set().union(*missing.values())):
                sample = await asyncio.to_thread(store.sample, cell.benchmark, id)
                lacking = tuple(judge for judge in judges if id in missing[judge.name] and _applies(judge, sample))
                if lacking:
                    progress.total += 1
                    await works.judge(sample, cell, store.answer(cell, id), lacking)
                    progress.answers += 1


Todo = tuple[Folder, str, list[tuple[Cell, Target, Defence, Sampling, bool, tuple[Judge, ...]]]]


def _todo(plan: Plan, crew: Crew, store: Store, progress: Progress, shard: tuple[int, int]) -> list[Todo]:
    """Sample by sample, so that its pictures are read once for all cells."""
    made: list[Todo] = []
    position = 0
    for benchmark in crew.benchmarks:
        measures = ",".join(measure.value for measure in benchmark.card.measures)
        store.add_benchmark(benchmark.name, benchmark.fingerprint, measures, benchmark.card.title)
        cells = crew.cells(plan, benchmark)
        answered, judged = {}, {}
        for cell, *_ in cells:
            store.add_cell(cell, position)
            position += 1
            answered[cell.key] = store.answered(cell)
            judged[cell.key] = [(judge, store.judged(cell, judge.name)) for judge in crew.judges]
        for id in chosen(benchmark, plan, shard):
            missing = []
            for cell, target, defence, sampling in cells:
                has = id in answered[cell.key]
                lacking = tuple(judge for judge, known in judged[cell.key] if id not in known)
                if not has or lacking:
                    missing.append((cell, target, defence, sampling, has, lacking))
                    progress.total += not has
            if missing:
                made.append((benchmark, id, missing))
    store.commit()
    return made


def _applies(judge: Judge, sample: Sample) -> bool:
    return judge.applies(sample) if isinstance(judge, Selective) else True


class _Works:
    """Workers for answers, workers for verdicts, and one who commits."""

    def __init__(self, plan: Plan, store: Store, progress: Progress) -> None:
        self._plan = plan
        self._store = store
        self._progress = progress
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(2 * plan.concurrency)
        self._verdicts: asyncio.Queue[tuple[Sample, Cell, Answer, tuple[Judge, ...]]] = asyncio.Queue(
            2 * plan.concurrency
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._crash: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when a worker broke, which is a bug of ours or a full disk: nobody may wait for it then."""

    async def __aenter__(self) -> _Works:
        for _ in range(self._plan.concurrency):
            self._tasks += [asyncio.create_task(self._answers()), asyncio.create_task(self._judgements())]
        self._tasks.append(asyncio.create_task(self._commits()))
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._crash.done():
            self._crash.set_exception(error)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._until(self._jobs.join())
                await self._until(self._verdicts.join())
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._crash.done():
                self._crash.exception()  # it was told, or gives way to the error that ends the run
            self._store.commit()

    async def _until(self, waited: Coroutine[Any, Any, None]) -> None:
        """Waits, unless a worker breaks: its error is raised here."""
        task = asyncio.create_task(waited)
        try:
            await asyncio.wait((task, self._crash), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if self._crash.done():
            self._crash.result()

    async def feed(self, todo: Sequence[Todo]) -> None:
        """Queues what is missing; pictures are read as their turn comes."""
        for benchmark, id, missing in todo:
            sample = await asyncio.to_thread(benchmark.read, id)
            if isinstance(sample, Broken):
                self._store.add_broken(benchmark.name, id, sample.reason)
                self._progress.broken += 1
                self._progress.total -= sum(not answered for *_, answered, _ in missing)
                continue
            self._store.add_sample(benchmark.name, sample)
            for cell, target, defence, sampling, answered, lacking in missing:
                judges = tuple(judge for judge in lacking if _applies(judge, sample))
                if not answered or judges:
                    await self._put(self._jobs, Job(sample, cell, target, defence, sampling, answered, judges))

    async def judge(self, sample: Sample, cell: Cell, answer: Answer, judges: tuple[Judge, ...]) -> None:
        """Queues an answer for its judges."""
        await self._put(self._verdicts, (sample, cell, answer, judges))

    async def _put(self, queue: asyncio.Queue[T], item: T) -> None:
        """Waits for room; a broken worker is raised and not waited for."""
        if queue.full():
            await self._until(queue.put(item))
        else:
            queue.put_nowait(item)

    async def _answers(self) -> None:
        while True:
            job = await self._jobs.get()
            answer = self._store.answer(job.cell, job.sample.id) if job.answered else await self._answer(job)
            if answer is not None and job.judges:
                await self._verdicts.put((job.sample, job.cell, answer, job.judges))
            self._jobs.task_done()

    async def _answer(self, job: Job) -> Answer | None:
        try:
            answer = await self._patiently(lambda: job.defence(job.sample.chat, job.target.model, job.sampling))
        except VlmguardError as error:
            self._store.add_answer(job.cell, job.sample.id, Stored(None, str(error)))
            self._failed(error)
            self._progress.answers += 1
            return None
        self._store.add_answer(job.cell, job.sample.id, Stored(answer))
        self._progress.answers += 1
        return answer

    async def _judgements(self) -> None:
        while True:
            sample, cell, answer, judges = await self._verdicts.get()
            for judge in judges:
                await self._judgement(judge, sample, cell, answer)
            self._verdicts.task_done()

    async def _judgement(self, judge: Judge, sample: Sample, cell: Cell, answer: Answer) -> None:
        try:
            verdict = await self._patiently(lambda: judge(sample, answer))
        except VlmguardError as error:
            self._store.add_verdict(cell, sample.id, Verdict(judge.name), str(error))
            self._failed(error)
            return
        self._store.add_verdict(cell, sample.id, verdict)
        self._progress.verdicts += 1

    def _failed(self, error: VlmguardError) -> None:
        self._progress.errors += 1
        self._progress.last_error = str(error)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer or an error that will not pass. Raises ``VlmguardError``."""
        until = time.monotonic() + self._plan.patience
        wait = 1.0
        while True:
            try:
                return await call()
            except VlmguardError as error:
                if not _passes(error) or time.monotonic() + wait > until:
                    raise
                self._progress.last_error = str(error)
            self._progress.waiting += 1
            try:
                await asyncio.sleep(wait)
            finally:
                self._progress.waiting -= 1
            wait = min(2 * wait, _LONGEST_WAIT)

    async def _commits(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(_COMMIT_EVERY)
                self._store.commit()


def _passes(error: BaseException) -> bool:
    """Whether asking again may help: somewhere in the chain stands a transient failure of a model."""
    return any(isinstance(cause, ModelError) and cause.transient for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
