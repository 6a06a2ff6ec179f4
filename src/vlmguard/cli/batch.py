"""``vlmguard refine --batch``: a file of rows through the guard, on all cores, resumable, one bad row never the end.

In:  ``{"id", "prompt", "images": [paths relative to the file]}`` or ``{"id", "messages": [OpenAI chat messages]}``
Out: what ``refine --json`` prints, plus ``id``; or ``{"id", "error": {"type", "message", "line"}}``.
Rows are written in the order of the input. A run that was stopped goes on where it was: what stands in the output, by id
(or by line, where a row has no usable id), is not done again.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError, VlmguardError
from vlmguard.jsonl import Appender, mend, read_lines, read_rows
from vlmguard.types import Chat, Message, Mode, Text

_AHEAD = 4
"""Rows per worker that are under way: enough to keep workers busy, few enough to hold little memory."""

Row = dict[str, Any]
Id = str | int


@dataclass(slots=True)
class _Done:
    """What an earlier run left in the output."""

    ids: set[Id] = field(default_factory=set)
    lines: set[int] = field(default_factory=set)
    """Input lines whose errors were written."""
    errors: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    line: int
    id: Id | None
    body: bytes
    error: Row | None = None
    """Set when the row is known to be bad before any worker sees it."""


def refine_file(source: Path, out: Path, *, policy: Path | None, monitor: bool, workers: int | None) -> int:
    """Refines every row of ``source`` into ``out``; returns how many rows of ``out`` are errors. Raises ``InputError``."""
    if not source.is_file():
        raise InputError(f"{source} is not a file")
    if out.exists() and out.samefile(source):
        raise InputError("--out names the input itself; name another file")
    done = _read_done(out)
    workers = workers or os.cpu_count() or 1
    settings = (source.resolve().parent, policy, monitor)
    _start_worker(*settings, check_only=True)
    try:
        with Appender(out) as appender, _progress(source) as advance:
            for row in _refine_rows(_tasks(source, done), workers, settings):
                appender.append(row)
                done.errors += "error" in row
                advance(1)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}; what was written stays, run again to go on") from error
    return done.errors


def _read_done(out: Path) -> _Done:
    done = _Done()
    if not out.exists():
        return done
    try:
        mend(out)
        for row in read_rows(out):
            if error := row.get("error"):
                done.errors += 1
                done.lines.add(error["line"])
            elif row["id"] is not None:
                done.ids.add(row["id"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{out} exists and is not the output of a batch: name another file") from error
    return done


def _tasks(source: Path, done: _Done) -> Iterator[_Task]:
    """The rows that are still to be done, told apart by id; bad ones carry their error."""
    seen: set[Id] = set()
    for line, body in read_lines(source):
        task = _read_task(line, body, seen)
        if task.id is not None:
            seen.add(task.id)
        if line in done.lines or (task.error is None and task.id in done.ids):
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
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        return _Task(line, None, body, _error_row(None, line, InputError("a row needs an id: a string or an integer")))
    if identity in seen:
        return _Task(line, identity, body, _error_row(identity, line, InputError("the id stands in an earlier row")))
    return _Task(line, identity, body)


def _error_row(identity: Id | None, line: int, error: Exception) -> Row:
    return {"id": identity, "error": {"type": type(error).__name__, "message": str(error), "line": line}}


# ---------------------------------------------------------------------------------------------------------------------
# Workers


def _refine_rows(tasks: Iterator[_Task], workers: int, settings: tuple[Path, Path | None, bool]) -> Iterator[Row]:
    """The rows in the order of the tasks, a bounded number under way at a time."""
    pool = _Pool(workers, settings)
    pending: deque[tuple[_Task, Future[Row] | None]] = deque()
    try:
        for task in tasks:
            pending.append((task, None if task.error else pool.submit(task)))
            if len(pending) >= workers * _AHEAD:
                yield pool.result(*pending.popleft())
        while pending:
            yield pool.result(*pending.popleft())
    finally:
        pool.close()


class _Pool:
    """Worker processes; when one dies, its rows are tried once more alone, so that only the deadly one is lost."""

    def __init__(self, workers: int, settings: tuple[Path, Path | None, bool]) -> None:
        self._workers = workers
        self._settings = settings
        self._executor = self._start(workers)

    def _start(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=self._settings
        )

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


_worker: tuple[Any, Path] | None = None
"""The guard of this process and the folder that image paths are relative to."""


def _start_worker(folder: Path, policy: Path | None, monitor: bool, check_only: bool = False) -> None:
    global _worker  # noqa: PLW0603  # one guard per process, made before its first row
    from vlmguard.guard import Guard
    from vlmguard.policy import load_policy
    from vlmguard.rewriters.embedded import EmbeddedRewriter

    loaded = load_policy(policy)
    if check_only:
        return
    # One core each: the processes share the machine among themselves.
    rewriter = EmbeddedRewriter(loaded, threads=1)
    _worker = Guard(rewriter, loaded, mode=Mode.MONITOR if monitor else Mode.ENFORCE, remembered=16), folder


def _work(task: _Task) -> Row:
    from vlmguard.json_form import guarded_form

    assert _worker is not None
    guard, folder = _worker
    started = time.perf_counter()
    try:
        chat = _read_chat(task.body, folder)
        guarded = asyncio.run(guard.refine(chat))
    except (VlmguardError, OSError, ValueError, MemoryError, RecursionError) as error:
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
    prompt, names = row.get("prompt", ""), row.get("images", [])
    if not isinstance(prompt, str):
        raise InputError("prompt is a string")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("images is a list of paths")
    pictures = tuple(load_picture(folder / name) for name in names)
    return Chat((Message("user", (Text(prompt, "/prompt"), *pictures)),))


def _progress(source: Path) -> Any:
    from vlmguard.cli.panel import progress

    return progress(sum(1 for _ in read_lines(source)), "refining")
