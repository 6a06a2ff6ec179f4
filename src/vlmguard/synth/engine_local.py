"""The local engine: asyncio, many rows under way in one process, every step committed as it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.synth.crew import Crew, patient
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import KEPT, Store
from vlmguard.synth.work import work

Tick = Callable[[dict[str, Any]], None]
"""Told what became of each row."""
TwinDoor = Callable[[dict[str, Any]], tuple[str, str]]
"""(gate, reason) of a twin that may not come in, else ("", "")."""


def open_door(twin: dict[str, Any]) -> tuple[str, str]:
    del twin
    return "", ""


async def run_local(
    store: Store,
    crew: Crew,
    recipe: Recipe,
    policy: Policy,
    pictures: PictureStore,
    *,
    tick: Tick = lambda ended: None,
    tell: Callable[[str], None] = lambda line: None,
    door: TwinDoor = open_door,
    patience: float = 7200.0,
    most: int | None = None,
) -> None:
    """Works through all pending rows and the twins that come of them, or through ``most`` rows spread over all.

    Raises:
        OutageError: a model answered nobody for ``patience`` seconds. What was done is kept.
        StoreError: the disk does not take what is written.
    """
    crew_waited_for = patient(crew, patience, tell)

    async def worker(rows: Iterator[tuple[str, dict[str, Any]]]) -> None:
        for id, body in rows:
            ended = await work(body, store.steps(id), crew_waited_for, recipe, policy, pictures, _saver(store, id))
            finish(store, id, ended, crew.meter.take(), door)
            tick(ended)

    async def drain(rows: Iterator[tuple[str, dict[str, Any]]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(recipe.concurrency):
                    group.create_task(worker(rows))
        except ExceptionGroup as stopped:
            raise stopped.exceptions[0] from stopped

    if most is not None:
        await drain(iter(store.spread(most)))
        return
    while store.has_pending():  # twins of the rows that were under way when the others had none left
        await drain(store.pending())


def _saver(store: Store, id: str) -> Callable[[str, str, Any, float], None]:
    def save(step: str, key: str, value: Any, seconds: float) -> None:
        store.save_step(id, step, key, value, seconds)

    return save


def finish(store: Store, id: str, ended: dict[str, Any], spent: dict[str, int], door: TwinDoor = open_door) -> None:
    """A row, its twin and what was spent, in one transaction."""
    store.begin()
    store.finish(id, ended["state"], gate=ended["gate"], reason=ended["reason"], result=ended["result"])
    if ended["twin"] is not None and ended["state"] == KEPT:
        store.add_twin(ended["twin"]["id"], ended["twin"], *door(ended["twin"]))
    store.spend(**spent)
    store.commit()
