"""A preparation follows its files: rows that are new, changed, gone, or kept apart after all."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.synth.oracle import Teacher, drawing, picture, row
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.synth.crew import Crew
from vlmguard.synth.engine_local import run_local
from vlmguard.synth.prepare import prepare
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(sources=("jsonl:rows.jsonl",), teacher="oracle", folder=tmp_path)


def _write(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> None:
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")


def _run(folder: Path, recipe: Recipe, policy: Policy, teacher: Teacher) -> dict[str, tuple[str, str]]:
    out = folder / "out"
    with Store(out) as store:
        prepare(recipe, out, store)
        store.reopen("x")
        asyncio.run(run_local(store, Crew(teacher), recipe, policy, PictureStore(out / "pictures")))
        return {one.id: (one.state, one.gate) for one in store.rows("kept", "rejected", "failed", "pending")}


def test_rows_come_change_and_go(tmp_path: Path, recipe: Recipe, policy: Policy) -> None:
    teacher = Teacher()
    _write(tmp_path, [row(1), row(2), row(3)])
    assert set(_run(tmp_path, recipe, policy, teacher)) == {"r00001", "r00002", "r00003"}
    _write(tmp_path, [row(2), row(3, prompt="May I mix quite another cleaner with that here"), row(4)])
    asked = teacher.asked["hindsight"]
    assert _run(tmp_path, recipe, policy, teacher) == dict.fromkeys(("r00002", "r00003", "r00004"), ("kept", ""))
    assert teacher.asked["hindsight"] == asked + 2


def test_an_evaluation_set_that_is_named_later_keeps_its_rows_out(
    tmp_path: Path, recipe: Recipe, policy: Policy
) -> None:
    teacher = Teacher()
    _write(tmp_path, [row(1), row(2)])
    _run(tmp_path, recipe, policy, teacher)
    _write(tmp_path, [{"text": row(2)["prompt"]}], "eval.jsonl")
    apart = dataclasses.replace(recipe, keep_apart=("eval.jsonl",))
    assert _run(tmp_path, apart, policy, teacher)["r00002"] == ("rejected", "decontamination")
    asked = teacher.asked["hindsight"]
    assert _run(tmp_path, recipe, policy, teacher)["r00002"] == ("kept", "")
    assert teacher.asked["hindsight"] == asked  # what was paid for is still there


def test_another_source_takes_the_place_of_the_first(tmp_path: Path, recipe: Recipe, policy: Policy) -> None:
    _write(tmp_path, [row(1)])
    _write(tmp_path, [row(2)], "more.jsonl")
    _run(tmp_path, recipe, policy, Teacher())
    more = dataclasses.replace(recipe, sources=("jsonl:more.jsonl",))
    assert set(_run(tmp_path, more, policy, Teacher())) == {"r00002"}


def test_a_hostile_row_does_not_end_the_preparation(tmp_path: Path, recipe: Recipe, policy: Policy) -> None:
    (tmp_path / "cut.png").write_bytes(drawing(3)[:200])
    picture(tmp_path / "good.png", 3)
    os.mkfifo(tmp_path / "pipe.png")
    rows = [
        row(1, images=["cut.png"]),
        row(2, images=["pipe.png"]),
        row(3, id="\ud800"),
        row(4, safe=5),
        row(5, prompt="mix \x00 \u202e " + "long " * 50_000),
        row(6, id="../../etc/passwd"),
        row(7, images=["good.png"]),
        row(7, prompt="the same id with other words about mixing"),
    ]
    _write(tmp_path, rows)
    states = _run(tmp_path, recipe, policy, Teacher())
    gates = {id: gate for id, (_, gate) in states.items()}
    assert gates.pop("r00001") == "unreadable"
    assert [gate for id, gate in gates.items() if id.startswith("rows.jsonl")] == ["unreadable"] * 3
    assert states["../../etc/passwd"] == ("kept", "")
    assert states["r00007"] == ("kept", "")
    assert states["r00007 (rows.jsonl:8)"] == ("rejected", "unreadable")
    assert len(states) == len(rows)
    assert states["r00005"][0] in ("kept", "rejected")
