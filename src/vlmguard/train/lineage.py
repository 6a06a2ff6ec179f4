"""What a rewriter was trained on before, by the ``run.json`` of its run and of the runs that one began with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmguard.dataset import fingerprint
from vlmguard.errors import InputError
from vlmguard.policy import Policy
from vlmguard.train.rows import Rows, open_rows
from vlmguard.train.run import STATE, read_state
from vlmguard.train.stage import Tell


def check_unseen(model: Path, held_out: Rows, dataset: str, policy: Policy, tell: Tell) -> None:
    """That a rewriter was not trained on the rows that it is to be measured on, as far as its runs tell.

    Rows are the same where their conversations are; whoever trained on a dataset of the same fingerprint has the same held-out rows.
    What cannot be looked into is told.

    Args:
        model: folder of a run; of anything else nothing is known.
        held_out: the rows to measure on.
        dataset: the fingerprint of their dataset.
        policy: what rows are read with.
        tell: takes lines for people.

    Raises:
        InputError: it was trained on some of them.
    """
    for run, state in _runs(model):
        if state.get("dataset_fingerprint") == dataset:
            continue
        recipe = state.get("recipe") or {}
        folder = Path(str(recipe.get("dataset", "")))
        try:
            if fingerprint(folder) != state.get("dataset_fingerprint"):
                raise InputError("it changed since")
            taught = _conversations(open_rows(folder, policy)["train"])
        except (InputError, OSError) as error:
            tell(
                f"{run} was trained on another dataset ({folder}), which cannot be looked into ({error}): if held-out rows of this one"
                " are among its training rows, what is measured on them is worth nothing"
            )
            continue
        asked = _conversations(held_out)
        if seen := asked & taught:
            raise InputError(
                f"{len(seen)} of {len(asked)} validation rows are training rows of {run}, which the rewriter comes from: what is"
                " measured on them would be worth nothing. Train it on this dataset, or give the dataset that it was trained on"
            )


def _runs(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The run in a folder, the one that it began with, and so on."""
    seen: set[Path] = set()
    while (folder / STATE).is_file() and folder not in seen:
        seen.add(folder)
        state = read_state(folder)
        yield folder, state
        folder = Path(str(state.get("base", "")))


def _conversations(rows: Rows) -> set[str]:
    return {json.dumps(rows.form(index)["messages"], sort_keys=True) for index in range(len(rows))}
