"""The Ray engine: the same rows through Ray Data, on as many machines as the cluster has (extra: ray).

The driver alone writes the store. Steps come back with their row, so a kill loses the rows that were under way; they are asked
again. The pictures' folder must be reachable from every machine under the same path.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vlmguard.errors import MissingExtraError
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.synth.crew import Crew, OutageError, patient
from vlmguard.synth.engine_local import Tick, TwinDoor, finish, open_door
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store
from vlmguard.synth.work import work

_PER_DATASET = 10_000
"""Rows handed to Ray at a time: each hand-over costs seconds, and the driver holds them in memory."""
_PER_BATCH = 32


def run_ray(
    store: Store,
    recipe: Recipe,
    policy: Policy,
    folder: Path,
    crew: Callable[[Recipe], Crew],
    *,
    tick: Tick = lambda ended: None,
    door: TwinDoor = open_door,
    patience: float = 7200.0,
    actors: int | None = None,
) -> None:
    """Works through all pending rows. ``crew`` is called once in each actor. Starts a local Ray where none runs.

    Raises ``MissingExtraError``, ``StoreError``, and ``OutageError`` when a model answered an actor nothing for ``patience``
    seconds; rows that waited for it stay pending.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("the Ray engine", "ray") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
    while chunk := list(islice(_tasks(store), _PER_DATASET)):  # twins come in meanwhile
        blocks = max(1, min(len(chunk) // _PER_BATCH, 4 * actors))
        rows = ray.data.from_items(chunk, override_num_blocks=blocks)
        done = rows.map_batches(
            _Worker,
            fn_constructor_args=(crew, recipe, policy, folder.resolve(), patience),
            batch_size=_PER_BATCH,
            compute=ray.data.ActorPoolStrategy(size=min(actors, blocks)),
        )
        away = ""
        for row in done.iter_rows():
            ended = json.loads(row["ended"])
            for step, key, value, seconds in ended.pop("steps"):
                store.save_step(row["id"], step, key, value, seconds)
            if "outage" in ended:
                away = ended["outage"]
                continue
            finish(store, row["id"], ended, ended.pop("spent"), door)
            tick(ended)
        if away:
            raise OutageError(away)


def _tasks(store: Store) -> Iterator[dict[str, str]]:
    for id, body in store.pending():
        yield {"id": id, "task": json.dumps({"body": body, "known": store.steps(id)})}


class _Worker:
    """An actor of the cluster: rows in, what became of them out, a batch at a time all at once."""

    def __init__(
        self, crew: Callable[[Recipe], Crew], recipe: Recipe, policy: Policy, folder: Path, patience: float
    ) -> None:
        self._crew = patient(crew(recipe), patience, lambda line: None)
        self._recipe = recipe
        self._policy = policy
        self._pictures = PictureStore(folder / "pictures")

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        ended = await asyncio.gather(*(self._one(json.loads(task)) for task in batch["task"]))
        yield {"id": list(batch["id"]), "ended": [json.dumps(one) for one in ended]}

    async def _one(self, task: dict[str, Any]) -> dict[str, Any]:
        steps: list[tuple[str, str, Any, float]] = []
        known = {step: (key, value) for step, (key, value) in task["known"].items()}

        def save(step: str, key: str, value: Any, seconds: float) -> None:
            steps.append((step, key, value, seconds))

        try:
            ended = await work(task["body"], known, self._crew, self._recipe, self._policy, self._pictures, save)
        except OutageError as error:
            return {"outage": str(error), "steps": steps}
        return ended | {"steps": steps, "spent": self._crew.meter.take()}
