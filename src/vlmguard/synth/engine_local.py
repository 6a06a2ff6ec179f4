"""The local engine: asyncio, many rows under way in one process, every step committed as it is done."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from itertools import islice
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
    most: int | None = None,
) -> None:
    """Works through all pending rows, or the first ``most`` of them.

    Raises:
        ModelError: a model could not be asked for ``patience`` seconds. What was done is kept.
        StoreError: the disk does not take what is written.
    """
    rows = islice(store.pending(), most)
    outage = _Outage(patience)

    async def worker() -> None:
        for id, body in rows:
            ended = await _one(id, body, store, crew, recipe, policy, pictures, outage)
            finish(store, id, ended)
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

    trouble = outage.trouble()
    while True:
        try:
            ended = await work(body, store.steps(id), crew, recipe, policy, pictures, save)
        except ModelError as error:
            if not await trouble.is_worth_another_try(error):
                return failed(error)
        except StoreError:
            raise
        except (VlmguardError, ValueError, ArithmeticError, LookupError, TypeError) as error:
            return failed(error)  # a poison row: it must not end the run
        else:
            outage.got_through()
            return ended


FIRST_DELAY = 1.0
"""Seconds before a row is tried again; each next time twice as long, up to a minute."""


class _Outage:
    """Tells a row that its model cannot answer from a model that answers nobody.

    Args:
        patience: seconds that nobody may get through before the run stops.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.through = 0
        self.last = time.monotonic()

    def got_through(self) -> None:
        """A row came to its end."""
        self.through += 1
        self.last = time.monotonic()

    def trouble(self) -> _Trouble:
        """For one row."""
        return _Trouble(self)


class _Trouble:
    """What one row met."""

    _TRIES = 2

    def __init__(self, outage: _Outage) -> None:
        self._outage = outage
        self._through: int | None = None
        self._tries = 0
        self._delay = FIRST_DELAY

    async def is_worth_another_try(self, error: ModelError) -> bool:
        """Waits, and says True, as long as it may be the model. It is the row when the model says so, or when it failed twice
        while others got through. Raises ``ModelError`` when nobody got through for too long.
        """
        self._tries += 1
        if not error.transient:
            return False
        if self._through is None:
            self._through = self._outage.through
        elif self._tries >= self._TRIES and self._outage.through > self._through:
            return False
        away = time.monotonic() - self._outage.last
        if away > self._outage.patience:
            raise ModelError(
                f"no row got through for {away:.0f} s, the last error: {error}. "
                "What was done is kept: mend the model's server and run again"
            ) from error
        await asyncio.sleep(self._delay * (0.5 + random.random()))
        self._delay = min(60.0, self._delay * 2)
        return True


def finish(store: Store, id: str, ended: dict[str, Any]) -> None:
    """A row and its twin in one transaction."""
    store.begin()
    store.finish(id, ended["state"], gate=ended["gate"], reason=ended["reason"], result=ended["result"])
    if ended["twin"] is not None:
        store.add(ended["twin"]["id"], ended["twin"])
    store.spend(
        calls=ended["calls"], prompt_tokens=ended["prompt_tokens"], completion_tokens=ended["completion_tokens"]
    )
    store.commit()
