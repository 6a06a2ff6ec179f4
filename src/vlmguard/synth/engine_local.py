"""The local engine: asyncio, many rows under way in one process, every step committed as it is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from vlmguard.errors import ModelError, VlmguardError
from vlmguard.policy import Policy
from vlmguard.synth.pictures import PictureStore
from vlmguard.synth.pipeline import Crew
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store, StoreError
from vlmguard.synth.work import failed, work

Tick = Callable[[dict[str, Any]], None]
"""Told what became of each row."""


async def run_local(
    store: Store,
    crew: Crew,
    recipe: Recipe,
    policy: Policy,
    pictures: PictureStore,
    *,
    tick: Tick = lambda ended: None,
    patience: float = 7200.0,
) -> None:
    """Works through all pending rows.

    Raises:
        ModelError: a model could not be asked for ``patience`` seconds. What was done is kept.
        StoreError: the disk does not take what is written.
    """
    rows = store.pending()
    outage = _Outage(patience)

    async def worker() -> None:
        for id, body in rows:
            ended = await _one(id, body, store, crew, recipe, policy, pictures, outage)
            _finish(store, id, ended)
            tick(ended)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(recipe.concurrency):
                group.create_task(worker())
    except ExceptionGroup as stopped:
        raise stopped.exceptions[0] from stopped


async def _one(
    id: str,
    body: dict[str, Any],
    store: Store,
    crew: Crew,
    recipe: Recipe,
    policy: Policy,
    pictures: PictureStore,
    outage: _Outage,
) -> dict[str, Any]:
    def save(step: str, key: str, value: Any, seconds: float) -> None:
        store.save_step(id, step, key, value, seconds)

    tries = 0
    while True:
        try:
            ended = await work(body, store.steps(id), crew, recipe, policy, pictures, save)
        except ModelError as error:
            if await outage.met(error):
                continue
            tries += 1
            if tries == _TRIES:
                return failed(error)
        except StoreError:
            raise
        except (VlmguardError, ValueError, ArithmeticError, LookupError, TypeError) as error:
            return failed(error)  # a poison row: it must not end the run
        else:
            outage.over()
            return ended


_TRIES = 2
"""Of a row whose model fails while others get through: then it is the row."""


class _Outage:
    """Tells a row that cannot be answered from a model that answers nobody; in an outage all wait, one probes."""

    _ENOUGH = 8
    """Failures in a row, over all rows, that make an outage."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._failures = 0
        self._since: float | None = None
        self._delay = 1.0
        self._turn = asyncio.Lock()

    def over(self) -> None:
        """A row got through."""
        self._failures, self._since, self._delay = 0, None, 1.0

    def _begun(self) -> float | None:
        return self._since

    async def met(self, error: ModelError) -> bool:
        """Counts a failure. In an outage waits for the turn to probe and says True: try the same row again."""
        self._failures += 1
        if self._failures < self._ENOUGH:
            return False
        self._since = self._since or time.monotonic()
        async with self._turn:
            since = self._begun()
            if since is None:  # it ended while we waited
                return True
            if time.monotonic() - since > self._patience:
                raise ModelError(
                    f"no row got through for {self._patience:.0f} s, the last error: {error}. "
                    "What was done is kept: mend the model's server and run again"
                ) from error
            await asyncio.sleep(self._delay)
            self._delay = min(60.0, self._delay * 2)
        return True


def _finish(store: Store, id: str, ended: dict[str, Any]) -> None:
    """A row and its twin in one transaction."""
    store.begin()
    store.finish(id, ended["state"], gate=ended["gate"], reason=ended["reason"], result=ended["result"])
    if ended["twin"] is not None:
        store.add(ended["twin"]["id"], ended["twin"])
    store.spend(
        calls=ended["calls"], prompt_tokens=ended["prompt_tokens"], completion_tokens=ended["completion_tokens"]
    )
    store.commit()
