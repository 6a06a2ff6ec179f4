"""``vlmguard refine --batch``: a file of rows through the guard, on all cores, resumable, one bad row never the end.

In:  ``{"id", "prompt", "images": [paths relative to the file]}`` or ``{"id", "messages": [OpenAI chat messages]}``
Out: what ``refine --json`` prints, plus ``id``; or ``{"id", "error": {"type", "message", "line"}}``.
Rows are written in the order of the input. A run that was stopped goes on where it was: rows whose id stands in the output are
not done again; error rows are, and so an input that was mended, or a picture that was missing, is not lost.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vlmguard.errors import GuardError, InputError
from vlmguard.jsonl import Appender, read_lines
from vlmguard.policy import Policy, load_policy
from vlmguard.protocols import Rewriter
from vlmguard.types import Chat, Message, Mode, Text

_AHEAD = 4
"""Rows per worker that are under way: enough to keep workers busy, few enough to hold little memory."""
_LAST_WORDS = 5.0
"""Seconds to wait for a dead process's exit code."""

Row = dict[str, Any]
Id = str | int


@dataclass(frozen=True, slots=True)
class _Task:
    line: int
    id: Id | None
    body: bytes
    error: Row | None = None
    """Set when the row is known to be bad before any worker sees it."""


def refine_file(
    source: Path,
    out: Path,
    *,
    policy: Path | None,
    monitor: bool,
    workers: int | None,
    asked: Asked | None = None,
) -> int:
    """Refines every row of ``source`` into ``out``; returns how many rows of ``out`` are errors. Raises ``InputError``.

    ``workers`` are processes, or with ``asked``, the rewriter that asks a model, rows at a time in this one.
    """
    if not source.is_file():
        raise InputError(f"{source} is not a file")
    if out.exists() and out.samefile(source):
        raise InputError("--out names the input itself; name another file")
    loaded = load_policy(policy)
    mode = Mode.MONITOR if monitor else Mode.ENFORCE
    done = _read_done(out, loaded.hash, mode, asked.name if asked else EMBEDDED)
    folder = source.resolve().parent
    errors = 0
    pool: _Pool | _Waiting
    if asked is None:
        _check_weights(loaded)
        pool = _Pool(workers or os.cpu_count() or 1, (folder, policy, monitor))
    else:
        pool = _Waiting(workers or _WAITING, asked, loaded, mode, folder)
    try:
        with Appender(out) as appender, _progress(source) as advance:
            for row in _refine_rows(_tasks(source, done), pool):
                appender.append(row)
                errors += "error" in row
                advance(1)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}; what was written stays, run again to go on") from error
    return errors


@dataclass(frozen=True, slots=True)
class Asked:
    """A rewriter that asks a model: its name in the rows, and how to make it."""

    name: str
    make: Callable[[Policy], Rewriter]


EMBEDDED = "embedded"
_WAITING = 32
"""Rows under way where a model is asked: they wait for it and cost little here."""


def _check_weights(policy: Policy) -> None:
    """A scorer that cannot load fails the run at its start, and not every row."""
    from vlmguard.rewriters.embedded import EmbeddedRewriter

    EmbeddedRewriter(policy, threads=1)


def _read_done(out: Path, policy: str, mode: Mode, rewriter: str) -> set[Id]:
    """The ids that an earlier run judged. Its error rows are taken out of the file, to be tried again.

    Nothing in a file is touched before all of it is known to be the output of a batch under the same policy, mode and
    rewriter.
    """
    if not out.exists():
        return set()
    try:
        whole, _, rest = out.read_bytes().rpartition(b"\n")
        rows = [json.loads(line) for line in whole.splitlines() if line.strip()]
        if not all(isinstance(row, dict) and "id" in row and ("error" in row or "receipt" in row) for row in rows):
            raise ValueError("a line is no row of a batch")
        if rest.strip() and not rest.startswith(_ROW_START[: len(rest)]):
            raise ValueError("it ends in something else")
        judged = [row for row in rows if "error" not in row]
        made = {(row["receipt"]["policy"], row["receipt"]["mode"], row.get("rewriter", EMBEDDED)) for row in judged}
        others = made - {(policy, mode.value, rewriter)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out} exists and is not the output of a batch: name another file") from error
    if others:
        raise InputError(
            f"{out} was made under another policy or mode, or by another rewriter: name another file, or use the same"
        )
    if len(judged) < len(rows):
        _rewrite(out, judged)
    return {row["id"] for row in judged}


_ROW_START = b'{"id":'
"""What every row begins with, also one that a kill left half-written."""


def _rewrite(out: Path, rows: list[Row]) -> None:
    """All or nothing: a kill leaves the old file or the new one."""
    fresh = out.with_name(f"{out.name}.new")
    fresh.unlink(missing_ok=True)
    with Appender(fresh) as appender:
        for row in rows:
            appender.append(row)
    fresh.replace(out)


def _tasks(source: Path, done: set[Id]) -> Iterator[_Task]:
    """The rows that are still to be done, told apart by id; bad ones carry their error."""
    seen: set[Id] = set()
    for line, body in read_lines(source):
        task = _read_task(line, body, seen)
        if task.id is not None:
            seen.add(task.id)
        if task.error is None and task.id in done:
            continue
        yield task


def _read_task(line: int, body: bytes, seen: set[Id]) -> _Task:
    try:
        row = json.loads(body)
    except (ValueError, RecursionError) as error:
        return _Task(line, None, body, _error_row(None, line, InputError(f"not JSON: {error}")))
    if not isinstance(row, dict):
        return _Task(line, None, body, _error_row(None, line, InputError("a row is a JSON object")))
    identity = row.get("id")
    if not _is_id(identity):
        return _Task(line, None, body, _error_row(None, line, InputError("a row needs an id: a string or an integer")))
    if identity in seen:
        return _Task(line, identity, body, _error_row(identity, line, InputError("the id stands in an earlier row")))
    return _Task(line, identity, body)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)  # no Unicode: no file could hold it
    return isinstance(value, int) and not isinstance(value, bool)


def _error_row(identity: Id | None, line: int, error: Exception) -> Row:
    return {"id": identity, "error": {"type": type(error).__name__, "message": str(error), "line": line}}


# ---------------------------------------------------------------------------------------------------------------------
# Workers


def _refine_rows(tasks: Iterator[_Task], pool: _Pool | _Waiting) -> Iterator[Row]:
    """The rows in the order of the tasks, a bounded number under way at a time."""
    pending: deque[tuple[_Task, Future[Row] | None]] = deque()
    try:
        for task in tasks:
            pending.append((task, None if task.error else pool.submit(task)))
            if len(pending) >= pool.ahead:
                yield pool.result(*pending.popleft())
        while pending:
            yield pool.result(*pending.popleft())
    finally:
        pool.close()


class _Pool:
    """Worker processes; when one dies, its rows are tried once more alone, so that only the deadly one is lost."""

    def __init__(self, workers: int, settings: tuple[Path, Path | None, bool]) -> None:
        self.ahead = workers * _AHEAD
        self._workers = workers
        self._settings = settings
        self._executor = self._start(workers)

    def _start(self, workers: int) -> ProcessPoolExecutor:
        """A pool of which a worker has started. Raises ``GuardError``: a worker that cannot start is no row's fault."""
        executor = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=self._settings
        )
        started = executor.submit(_why_not_started)
        processes = list((getattr(executor, "_processes", None) or {}).values())
        try:
            reason = started.result()
        except BrokenProcessPool:
            reason = _how_ended(processes)
        if reason is not None:
            executor.shutdown(wait=False, cancel_futures=True)
            raise GuardError(f"a worker could not start: {reason}")
        return executor

    def submit(self, task: _Task) -> Future[Row]:
        try:
            return self._executor.submit(_work, task)
        except BrokenProcessPool:
            self._executor = self._start(self._workers)
            return self._executor.submit(_work, task)

    def result(self, task: _Task, future: Future[Row] | None) -> Row:
        if future is None:
            assert task.error is not None
            return task.error
        try:
            return future.result()
        except BrokenProcessPool:
            return self._alone(task)

    def _alone(self, task: _Task) -> Row:
        with self._start(1) as executor:
            try:
                return executor.submit(_work, task).result()
            except BrokenProcessPool:
                return _error_row(task.id, task.line, MemoryError("the worker died on this row (out of memory?)"))

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


class _Waiting:
    """Rows side by side in one event loop, for a rewriter that waits for a model more than it works."""

    def __init__(self, rows: int, asked: Asked, policy: Policy, mode: Mode, folder: Path) -> None:
        from vlmguard.guard import Guard

        self.ahead = rows
        self._name = asked.name
        self._guard = Guard(asked.make(policy), policy, mode=mode)
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, task: _Task) -> Future[Row]:
        return asyncio.run_coroutine_threadsafe(self._refine(task), self._loop)

    def result(self, task: _Task, future: Future[Row] | None) -> Row:
        if future is None:
            assert task.error is not None
            return task.error
        return future.result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _refine(self, task: _Task) -> Row:
        row = await _refine_row(task, self._guard, self._folder)
        return row if "error" in row else {"id": row.pop("id"), "rewriter": self._name, **row}

    async def _end(self) -> None:
        """Whoever stopped the run early leaves rows behind that nobody waits for."""
        rows = asyncio.all_tasks() - {asyncio.current_task()}
        for row in rows:
            row.cancel()
        await asyncio.gather(*rows, return_exceptions=True)
        await self._guard.close()


def _exit_code(process: BaseProcess) -> int | None:
    """Waits for what the pool's own thread may have fetched from the system first: until it has noted it, nobody else knows it."""
    latest = time.monotonic() + _LAST_WORDS
    process.join(timeout=_LAST_WORDS)
    while process.exitcode is None and time.monotonic() < latest:
        time.sleep(0.01)
    return process.exitcode


def _how_ended(processes: list[BaseProcess]) -> str:
    """Why processes died that could not tell."""
    codes = [code for code in map(_exit_code, processes) if code]
    if not codes:
        return "its process ended without a word"
    if codes[0] < 0:
        name = signal.Signals(-codes[0]).name if -codes[0] in set(signal.Signals) else str(-codes[0])
        memory = ", as the system does when memory runs out: try --workers 1" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with exit code {codes[0]}; what it wrote stands above"


_not_started: str | None = None
"""Why the guard of this process could not be made."""
_worker: tuple[Any, Path] | None = None
"""The guard of this process and the folder that image paths are relative to."""


def _start_worker(folder: Path, policy: Path | None, monitor: bool) -> None:
    global _worker, _not_started  # noqa: PLW0603  # one guard per process, made before its first row
    try:
        _worker = _make_guard(policy, monitor), folder
    except BaseException as error:  # an initializer that raises ends the pool without a reason
        _not_started = f"{type(error).__name__}: {error}"


def _why_not_started() -> str | None:
    return _not_started


def _make_guard(policy: Path | None, monitor: bool) -> Any:
    from vlmguard.guard import Guard
    from vlmguard.rewriters.embedded import EmbeddedRewriter

    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")  # as in main.quiet_decoders
    _end_with(os.getppid())
    loaded = load_policy(policy)
    # One core each: the processes share the machine among themselves.
    rewriter = EmbeddedRewriter(loaded, threads=1)
    return Guard(rewriter, loaded, mode=Mode.MONITOR if monitor else Mode.ENFORCE, remembered=16)


def _end_with(parent: int) -> None:
    """A worker whose parent was killed has nobody to work for; the pool alone would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(task: _Task) -> Row:
    assert _worker is not None
    return asyncio.run(_refine_row(task, *_worker))


async def _refine_row(task: _Task, guard: Any, folder: Path) -> Row:
    from vlmguard.json_form import guarded_form

    started = time.perf_counter()
    try:
        chat = _read_chat(task.body, folder)
        guarded = await guard.refine(chat)
    except Exception as error:  # whatever a row brings about, it must not end the run
        return _error_row(task.id, task.line, error)
    return {"id": task.id, **guarded_form(chat, guarded, (time.perf_counter() - started) * 1000)}


def _read_chat(body: bytes, folder: Path) -> Chat:
    from vlmguard.cli.refine import load_picture

    row = json.loads(body)
    if "messages" in row:
        from vlmguard.wire.openai_chat import read

        if "prompt" in row or "images" in row:
            raise InputError("a row has either messages, or prompt and images")
        return read(body).chat
    _refuse_misspelt(row)
    prompt, names = row.get("prompt", ""), row.get("images", [])
    if not isinstance(prompt, str):
        raise InputError("prompt is a string")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("images is a list of paths")
    pictures = tuple(load_picture(folder / name) for name in names)
    return Chat((Message("user", (Text(prompt, "/prompt"), *pictures)),))


def _refuse_misspelt(row: Row) -> None:
    """Fields of the user's own may stand in a row; one that was meant for us must not be passed over."""
    for key in row.keys() - {"id", "prompt", "images"}:
        near = difflib.get_close_matches(key.lower(), ("prompt", "images", "messages"), n=1, cutoff=0.7)
        if near and near[0] not in row:
            raise InputError(f"unknown field {key!r}; did you mean {near[0]!r}?")


def _progress(source: Path) -> Any:
    from vlmguard.cli.panel import progress

    return progress(sum(1 for _ in read_lines(source)), "refining")
