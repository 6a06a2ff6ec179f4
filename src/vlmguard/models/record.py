"""Every question and answer in a file of JSON lines, so that they can be scored again without asking again."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError, ModelError
from vlmguard.jsonl import Appender
from vlmguard.models.cache import question_key
from vlmguard.models.wrapper import close
from vlmguard.protocols import Model
from vlmguard.types import Chat, Completion, Image, Part, Sampling, Text

_ROW_START = b'{"time":'
"""What every recording begins with: another's file is not cut or added to."""


class Record:
    """A model whose questions and answers are written to ``file``, errors among them. Pictures stand there by hash.

    A row: ``{"time", "model", "key", "messages", "sampling", "answer", "finish_reason", "usage", "seconds"}``, where
    ``error`` takes the place of the answer when there was none. ``key`` is the one of the cache.
    """

    def __init__(self, model: Model, file: Path, identity: str, *, tenant: str = "") -> None:
        self._model = model
        self._identity = identity
        self._tenant = tenant
        self._file = file
        self._rows: Appender | None = None
        self._open()

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The answer, written down."""
        started = time.perf_counter()
        try:
            completion = await self._model.generate(chat, sampling)
        except ModelError as error:
            seconds = round(time.perf_counter() - started, 4)
            self._write(chat, sampling, {"error": str(error), "seconds": seconds})
            raise
        usage = {"prompt": completion.usage.prompt_tokens, "completion": completion.usage.completion_tokens}
        answer = {
            "answer": completion.text,
            "finish_reason": completion.finish_reason,
            "usage": usage,
            "seconds": round(completion.seconds, 4),
        }
        self._write(chat, sampling, answer)
        return completion

    async def close(self) -> None:
        """Closes the file and the model inside."""
        if self._rows is not None:
            self._rows.__exit__()
            self._rows = None
        await close(self._model)

    def _open(self) -> Appender:
        if self._rows is None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.touch(mode=0o600)
                with self._file.open("rb") as opened:
                    start = opened.read(len(_ROW_START))
                if start and not _ROW_START.startswith(start):
                    raise InputError(f"{self._file} exists and is no recording: name another file")
                self._rows = Appender(self._file)
            except OSError as error:
                raise InputError(f"{self._file} cannot be written: {error.strerror}; name another file") from error
        return self._rows

    def _write(self, chat: Chat, sampling: Sampling, outcome: dict[str, Any]) -> None:
        row = self._row(chat, sampling, outcome)
        try:
            self._open().append(row)
        except OSError as error:
            raise ModelError(f"the recording {self._file} cannot be written: {error.strerror}; free space") from error

    def _row(self, chat: Chat, sampling: Sampling, outcome: dict[str, Any]) -> dict[str, Any]:
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "model": self._identity,
            "key": question_key(self._identity, chat, sampling, self._tenant),
            "messages": [
                {"role": message.role, "parts": [_part_form(part) for part in message.parts]}
                for message in chat.messages
            ],
            "sampling": {
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "seed": sampling.seed,
                "stop": list(sampling.stop),
                "index": sampling.index,
            },
            **outcome,
        }


def _part_form(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"text": part.text}
        case Image():
            return {"image": part.sha256, "media_type": part.media_type, "size": [part.width, part.height]}
        case _:
            return {"opaque": part.kind}
