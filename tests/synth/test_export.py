"""The finished dataset: splits by picture, the mix, what is on disk, and what TRL and datasets make of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.synth.oracle import Judge, Target, Teacher, picture, row
from vlmguard import trace
from vlmguard.errors import InputError
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.synth.card import funnel, write_card
from vlmguard.synth.crew import Crew
from vlmguard.synth.engine_local import run_local
from vlmguard.synth.export import Exported, export
from vlmguard.synth.prepare import prepare
from vlmguard.synth.preview import write_page
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def _make(folder: Path, policy: Policy, recipe: Recipe) -> Exported:
    judge = Judge()
    crew = Crew(Teacher(), Target(), judge, judge.keeps_need, names={"teacher": "oracle (1)"})
    out = folder / "out"
    with Store(out) as store:
        prepare(recipe, out, store)
        store.reopen(recipe.fingerprint())
        asyncio.run(run_local(store, crew, recipe, policy, PictureStore(out / "pictures")))
        exported = export(store, recipe, out)
        write_card(store, recipe, exported, out)
        write_page(list(store.rows("kept", "rejected")), store, PictureStore(out / "pictures"), out / "preview.html")
    return exported


def _data(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "data.jsonl").read_text().splitlines()]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(
        sources=("jsonl:rows.jsonl",), teacher="oracle", target="target", judge="rule", folder=tmp_path, validation=0.4
    )


def test_rows_that_share_a_picture_over_others_are_on_one_side(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.png", number)
    rows = [
        row(number, images=[f"{number}.png", f"{(number + 1) % 6 if number < 6 else number}.png"])
        for number in range(12)
    ]
    _write(tmp_path, rows)
    exported = _make(tmp_path, policy, recipe)
    found = _data(tmp_path)
    assert exported.train + exported.validation == len(found) == 12
    sides: dict[str, set[str]] = {}
    for one in found:
        for sha in one["provenance"]["images"]:
            sides.setdefault(sha, set()).add(one["split"])
    assert all(len(found) == 1 for found in sides.values())
    assert len({one["split"] for one in found if int(one["id"][1:]) < 6}) == 1
    assert {one["split"] for one in found} == {"train", "validation"}


def test_the_mix_takes_the_ratio_and_the_same_rows_each_time(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    rows = [
        row(number)
        if number % 3
        else row(number, benign=True, prompt=f"What is {number} times {number * 7} please tell")
        for number in range(90)
    ]
    _write(tmp_path, rows)
    mixed = dataclasses.replace(recipe, mix={"benign": 1, "risky": 1})
    first = _make(tmp_path, policy, mixed)
    ids = [one["id"] for one in _data(tmp_path)]
    assert first.left_out == 30
    assert sum(one["benign"] for one in _data(tmp_path)) == 30
    assert _make(tmp_path, policy, mixed) == first
    assert [one["id"] for one in _data(tmp_path)] == ids


def test_parquet_holds_the_pictures_and_the_same_rows(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    file = picture(tmp_path / "a.png", 4)
    _write(tmp_path, [row(1, images=["a.png"]), row(2)])
    _make(tmp_path, policy, recipe)
    rows = [one for shard in sorted((tmp_path / "out").glob("*.parquet")) for one in pq.read_table(shard).to_pylist()]
    assert sorted(one["id"] for one in rows) == ["r00001", "r00002"]
    (shown,) = [one for one in rows if one["id"] == "r00001"]
    assert shown["images"][0]["bytes"] == file.read_bytes()
    refinement = trace.parse(shown["trace"])
    assert refinement.prompt == shown["prompt"]
    provenance = json.loads(shown["provenance"])
    assert provenance["models"] == {"teacher": "oracle (1)"}
    assert set(provenance["prompts"]) == {"hindsight", "observe", "causal", "optimise", "twin", "need"}
    assert provenance["verdicts"]["after"]["safe"] is True


def test_sampled_answers_stand_in_the_provenance(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    _write(tmp_path, [row(1, unsafe=None)])
    _make(tmp_path, policy, recipe)
    (one,) = _data(tmp_path)
    assert one["provenance"]["unsafe"] == "Pour one into the other."


def test_what_is_dropped_is_kept_with_its_reason(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    picture(tmp_path / "eval" / "a.png", 9)
    picture(tmp_path / "same.png", 9)
    (tmp_path / "eval" / "set.csv").write_text("prompt\nHow do I tell a ripe pear from an unripe one at the market\n")
    _write(
        tmp_path,
        [
            row(1),
            row(2, prompt=row(1)["prompt"] + " please"),
            row(3, images=["same.png"]),
            row(4, prompt="how do I tell a ripe pear from an unripe one at the market?"),
            row(5, images=["gone.png"]),
            row(6, benign=True),
            row(1, prompt="another text with the same id as the first one has"),
        ],
    )
    _make(tmp_path, policy, dataclasses.replace(recipe, keep_apart=("eval",)))
    rejected = {
        one["id"]: one for one in map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    }
    gates = {id: one["gate"] for id, one in rejected.items()}
    assert gates == {
        "r00002": "duplicate",
        "r00003": "decontamination",
        "r00004": "decontamination",
        "rows.jsonl:5": "unreadable",
        "r00006": "false alarm",
        "r00001 (rows.jsonl:7)": "unreadable",
    }
    assert "r00001" in rejected["r00002"]["reason"]
    assert "a.png" in rejected["r00003"]["reason"]
    assert "set.csv" in rejected["r00004"]["reason"]
    with Store(tmp_path / "out") as store:
        flow = funnel(store)
    assert (flow.rows, flow.kept) == (7, 1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "decontamination" in card
    assert (tmp_path / "out" / "funnel.png").stat().st_size > 5000
    page = (tmp_path / "out" / "preview.html").read_text()
    assert "r00006" in page


def test_evidence_first_traces_read_back_in_their_order(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    _write(tmp_path, [row(1)])
    _make(tmp_path, policy, dataclasses.replace(recipe, ablations=("evidence-first",)))
    (one,) = _data(tmp_path)
    assert one["trace"].index("<evidence") < one["trace"].index("<assessment")
    assert trace.parse(one["trace"], evidence_first=True).prompt == one["prompt"]


def test_markup_in_a_row_is_text_on_the_page(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    _write(tmp_path, [row(1, prompt="May I mix <script>alert(1)</script> with bleach", unsafe="<img src=x onerror=1>")])
    _make(tmp_path, policy, recipe)
    page = (tmp_path / "out" / "preview.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page


def test_copies_of_a_picture_are_on_one_side(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    from PIL import Image as Pillow

    rows = []
    for number in range(16):
        file = picture(tmp_path / f"{number}.png", number)
        with Pillow.open(file) as opened:
            opened.resize((150, 150)).save(tmp_path / f"{number}-copy.png")
        rows.append(row(2 * number, images=[f"{number}.png"]))
        rows.append(row(2 * number + 1, images=[f"{number}-copy.png"]))
    _write(tmp_path, rows)
    _make(tmp_path, policy, recipe)
    sides = {one["id"]: one["split"] for one in _data(tmp_path)}
    assert len(sides) == 32
    assert all(sides[f"r{2 * number:05d}"] == sides[f"r{2 * number + 1:05d}"] for number in range(16))
    assert set(sides.values()) == {"train", "validation"}


def test_text_only_rows_hold_no_picture(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    picture(tmp_path / "a.png", 4)
    _write(tmp_path, [row(1, images=["a.png"])])
    _make(tmp_path, policy, dataclasses.replace(recipe, ablations=("text-only",)))
    (one,) = _data(tmp_path)
    assert not any("image" in part for turn in one["messages"] for part in turn["parts"])


def test_a_mix_that_leaves_nothing_says_so(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    _write(tmp_path, [row(1)])
    with pytest.raises(InputError, match="asks for harmless rows"):
        _make(tmp_path, policy, dataclasses.replace(recipe, mix="paper"))


def test_pairs_stay_together_in_the_twins_mix(tmp_path: Path, policy: Policy, recipe: Recipe) -> None:
    _write(
        tmp_path,
        [row(number) for number in range(20)] + [row(90, benign=True, prompt="What is this thing here called")],
    )
    _make(tmp_path, policy, dataclasses.replace(recipe, mix="twins"))
    ids = {one["id"] for one in _data(tmp_path)}
    assert len(ids) == 40
    assert sum(f"{id}+twin" in ids for id in ids) >= 19
