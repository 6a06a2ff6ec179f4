"""Answers on disk, found again by everything that they depend on (architecture, decision 9)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from vlmguard.errors import InputError
from vlmguard.models.wrapper import close
from vlmguard.protocols import Model
from vlmguard.types import Chat, Completion, Sampling, Usage

_PRUNED_EVERY = 512
"""Answers written between two looks at how many there are."""


def question_key(identity: str, chat: Chat, sampling: Sampling, tenant: str = "") -> str:
    """Hex digest of everything an answer depends on: the model with its weights and adapter (``identity``), the whole chat
    with the hashes of its pictures (a rewriter's holds policy, prompts and grammar in words), sampling, seed, which of
    several samples it is, and the tenant, who never gets another's answers.
    """
    parts = {
        "identity": identity,
        "chat": chat.prefix_hash(len(chat.messages) - 1),
        "sampling": asdict(sampling),
        "tenant": tenant,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Cache:
    """A model that answers a question it answered before from disk. Answers are whole, and only whole ones are kept.

    The folder holds what models said of users' words: it is made for its owner alone. Several processes may share it.

    Args:
        model: who is asked.
        folder: where answers are kept.
        identity: the model, its weights and its adapter, in words or hashes.
        tenant: whose answers these are.
        most: answers that are kept; beyond, those not used for longest go.
    """

    def __init__(self, model: Model, folder: Path, identity: str, *, tenant: str = "", most: int = 200_000) -> None:
        self._model = model
        self._folder = folder
        self._identity = identity
        self._tenant = tenant
        self._most = most
        self._written = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the cache {folder} cannot be used: {error.strerror}; name a folder") from error

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The kept answer, or a new one."""
        file = self._file(question_key(self._identity, chat, sampling, self._tenant))
        if (known := await asyncio.to_thread(_read, file)) is not None:
            return known
        completion = await self._model.generate(chat, sampling)
        if completion.finish_reason != "length":
            await asyncio.to_thread(self._keep, file, completion)
        return completion

    async def forget(self, chat: Chat, sampling: Sampling, /) -> None:
        """Drops a kept answer that was of no use: whoever asks again gets a new one."""
        file = self._file(question_key(self._identity, chat, sampling, self._tenant))
        await asyncio.to_thread(file.unlink, missing_ok=True)

    async def close(self) -> None:
        """Closes the model inside."""
        await close(self._model)

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _keep(self, file: Path, completion: Completion) -> None:
        """An answer that cannot be kept is an answer all the same."""
        name = ""
        try:
            file.parent.mkdir(mode=0o700, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=file.parent, suffix=".new")
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                json.dump(asdict(completion), opened, ensure_ascii=True)
            Path(name).replace(file)  # all or nothing, also for another process that reads it now
        except OSError:
            if name:
                Path(name).unlink(missing_ok=True)
            return
        self._written += 1
        if self._written % _PRUNED_EVERY == 0:
            self._prune()

    def _prune(self) -> None:
        files = []
        for file in self._folder.glob("??/*.json"):
            with suppress(OSError):  # another process may prune, too
                files.append((file.stat().st_mtime, file))
        for _, file in sorted(files)[: max(0, len(files) - self._most)]:
            file.unlink(missing_ok=True)


def _read(file: Path) -> Completion | None:
    """What is kept; a file that is no answer is as good as none."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        completion = Completion(**{**kept, "usage": Usage(**kept["usage"])})
        os.utime(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return completion
