"""Structured logs with request ids, and without user content.

What our own code logs is words of ours and the fields named beside them. Of an exception its type and where it was raised are
told, not its message, which may quote a request; of other libraries' messages the first line, without what they put into it.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

_TRUSTED = ("vlmguard", "uvicorn.error")
"""Loggers that put no words of a client's into their messages. (Uvicorn's does for web sockets, which are turned off.)"""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_MOST_FRAMES = 12

_request_id: ContextVar[str] = ContextVar("request_id", default="")


@contextmanager
def request_id(id: str) -> Iterator[None]:
    """Everything logged inside carries this id: the receipt's."""
    token = _request_id.set(id)
    try:
        yield
    finally:
        _request_id.reset(token)


def configure(level: str = "info", json: bool = False, stream: TextIO | None = None) -> None:
    """Sends the process's logs to standard error, each on a line of its own; JSON when ``json``.

    Replaces the handlers that were there. Servers' access logs are turned off: they hold addresses with what clients put there.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if json else Lines())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = not name.endswith(".access")
    for name in ("uvicorn.access", "aiohttp.access"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def _told(record: logging.LogRecord) -> dict[str, Any]:
    """What is said of a record, in the order in which it is read."""
    told: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _message(record),
    }
    if id := _request_id.get():
        told["request_id"] = id
    # A name with a line before it is a library's own note (Ray marks every record of a process that it is loaded in).
    told.update({name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"})
    if record.exc_info and record.exc_info[0] is not None:
        told["error"] = record.exc_info[0].__name__
        told["frames"] = _frames(record.exc_info[1])
    return told


def _message(record: logging.LogRecord) -> str:
    if any(record.name == name or record.name.startswith(f"{name}.") for name in _TRUSTED):
        return record.getMessage()
    return str(record.msg).partition("\n")[0]


def _frames(error: BaseException | None) -> list[str]:
    """Where it was raised, innermost last: file, line and function, no source and no values."""
    found = traceback.extract_tb(error.__traceback__ if error else None)[-_MOST_FRAMES:]
    return [f"{frame.filename.rpartition('/site-packages/')[2]}:{frame.lineno} {frame.name}" for frame in found]


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, logger, message, request_id, the fields given by ``extra``, error, frames."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_told(record), default=str)


class Lines(logging.Formatter):
    """The same for a person. One line, whatever the values hold."""

    def format(self, record: logging.LogRecord) -> str:
        told = _told(record)
        head = f"{told.pop('time')} {told.pop('level').upper():7} {told.pop('logger')}: {told.pop('message')}"
        rest = "".join(f" {name}={value}" for name, value in told.items())
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in head + rest)
