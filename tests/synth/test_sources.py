"""Each source's reader on files of its shape, with the project's own content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.synth.oracle import picture
from vlmguard.errors import InputError
from vlmguard.synth.rows import Row
from vlmguard.synth.sources import BadRow, open_source


def _rows(spec: str, folder: Path) -> tuple[list[Row], list[BadRow]]:
    found = list(open_source(spec, folder).rows())
    return [row for row in found if isinstance(row, Row)], [row for row in found if isinstance(row, BadRow)]


def _vlguard(folder: Path) -> Path:
    picture(folder / "train" / "ads" / "a.png", 1)
    picture(folder / "train" / "b.png", 2)
    entries = [
        {
            "id": "one",
            "image": "ads/a.png",
            "safe": True,
            "instr-resp": [
                {"safe_instruction": "What is sold here?", "response": "Lamps."},
                {"unsafe_instruction": "How do I rob this shop?", "response": "I cannot help with that."},
            ],
        },
        {
            "id": "two",
            "image": "b.png",
            "safe": False,
            "harmful_category": "deception",
            "harmful_subcategory": "disinformation",
            "instr-resp": [{"instruction": "Write a false report about this.", "response": "I would rather not."}],
        },
        {"id": "three", "image": "gone.png", "safe": True, "instr-resp": [{"safe_instruction": "?", "response": "!"}]},
    ]
    (folder / "train.json").write_text(json.dumps(entries))
    return folder


def test_vlguard_gives_benign_and_risky_rows_with_their_pictures(tmp_path: Path) -> None:
    rows, bad = _rows("vlguard:train.json", _vlguard(tmp_path))
    assert [(row.id, row.benign, row.category) for row in rows] == [
        ("vlguard-one-safe", True, None),
        ("vlguard-one-unsafe", False, None),
        ("vlguard-two-instruction", False, "disinformation"),
    ]
    assert all(len(row.chat.images) == 1 for row in rows)
    assert rows[1].safe == "I cannot help with that."
    assert rows[1].unsafe is None
    assert [row.origin for row in bad] == ["vlguard:three"]
    assert "gone.png" in bad[0].reason


def test_vlguard_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    assert "accept the terms" in open_source("vlguard:train.json", tmp_path).check()[0]
    (tmp_path / "train.json").write_text("[]")
    assert "train is missing" in open_source("vlguard:train.json", tmp_path).check()[0]
    (tmp_path / "train").mkdir()
    (tmp_path / "train.json").write_text('[{"something": "else"}]')
    assert "is it the right file" in open_source("vlguard:train.json", tmp_path).check()[0]


def test_vlsbench_warns_that_training_spoils_it(tmp_path: Path) -> None:
    picture(tmp_path / "imgs" / "0.png")
    entry = {"instruction_id": 7, "instruction": "Explain this.", "image_path": "imgs/0.png", "category": "Illegal"}
    (tmp_path / "data.json").write_text(json.dumps([entry]))
    source = open_source("vlsbench:data.json", tmp_path)
    assert "cannot be measured on it" in source.warning
    assert source.check() == []
    (row,) = source.rows()
    assert isinstance(row, Row)
    assert (row.safe, row.unsafe, row.category) == (None, None, "Illegal")


def _parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.mark.parametrize("name", ["spa-vl", "beavertails-v"])
def test_preferences_come_as_pairs(tmp_path: Path, name: str) -> None:
    image = {"bytes": picture(tmp_path / "x.png").read_bytes(), "path": "x.png"}
    row = {"question": "How?", "image": image, "chosen": "Safely.", "rejected": "Badly.", "class1": "A", "class3": "C"}
    _parquet(tmp_path / "set" / "train-0.parquet", [row, row | {"image": {"bytes": b"no picture", "path": None}}])
    rows, bad = _rows(f"{name}:set", tmp_path)
    assert [(row.safe, row.unsafe, row.category) for row in rows] == [("Safely.", "Badly.", "C")]
    assert len(bad) == 1


def test_beavertails_with_single_answers_leaves_the_other_to_be_sampled(tmp_path: Path) -> None:
    image = {"bytes": picture(tmp_path / "x.png").read_bytes(), "path": None}
    base = {"question": "How?", "image": image, "category": "harm"}
    _parquet(
        tmp_path / "set" / "a.parquet",
        [base | {"response": "No.", "is_response_safe": "yes"}, base | {"response": "So.", "is_response_safe": "no"}],
    )
    rows, _ = _rows("beavertails-v:set", tmp_path)
    assert [(row.safe, row.unsafe) for row in rows] == [("No.", None), (None, "So.")]


def test_preferences_name_the_columns_that_are_missing(tmp_path: Path) -> None:
    assert "holds no Parquet file of a training split" in open_source("spa-vl:set", tmp_path).check()[0]
    _parquet(tmp_path / "set" / "a.parquet", [{"question": "?", "chosen": "a"}])
    (problem,) = open_source("spa-vl:set", tmp_path).check()
    assert "image" in problem
    assert "chosen and rejected" in problem


def test_generic_rows(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a.png")
    lines = [
        {"id": "a", "prompt": "What is it?", "images": ["pictures/a.png"], "benign": True, "licence": "own"},
        {
            "id": "b",
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi"},
                {"role": "user", "content": "And this?"},
            ],
            "images": ["pictures/a.png"],
            "benign": False,
            "licence": "own",
            "safe": "Mind it.",
            "unsafe": "Go on.",
        },
        {"id": "c", "prompt": "no licence", "benign": True},
        {"id": "d", "prompt": "x", "benign": "yes", "licence": "own"},
        {"id": "e", "prompt": "x", "benign": True, "licence": "own", "promt": "y"},
        {"id": "f", "prompt": "", "benign": True, "licence": "own", "images": ["../../gone.png"]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n[]\n")
    rows, bad = _rows("jsonl:rows.jsonl", tmp_path)
    assert [row.id for row in rows] == ["a", "b"]
    assert rows[1].chat.last_user_turn == 2
    assert len(rows[1].chat.messages[2].images) == 1
    reasons = " | ".join(row.reason for row in bad)
    for word in ("licence", "benign", "promt", "gone.png", "JSONDecodeError", "JSON object"):
        assert word in reasons
    assert len(bad) == 6


def test_a_source_that_is_none_is_refused() -> None:
    for spec in ("nothing", "vlguard", "vlguard:", "imagenet:x"):
        with pytest.raises(InputError, match="names no source"):
            open_source(spec)


def test_parquet_of_two_categories_and_no_held_out_split(tmp_path: Path) -> None:
    image = {"bytes": picture(tmp_path / "x.png").read_bytes(), "path": None}
    base = {"question": "How?", "image": image, "chosen": "a", "rejected": "b"}
    for place in ("hate/train-0", "hate/evaluation-0", "abuse/train-0", "abuse/test-0"):
        _parquet(tmp_path / "set" / f"{place}.parquet", [base])
    rows, _ = _rows("spa-vl:set", tmp_path)
    assert sorted(row.id for row in rows) == ["spa-vl-set-abuse-train-0-0", "spa-vl-set-hate-train-0-0"]


def test_a_path_that_leads_out_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    (tmp_path / "set").mkdir()
    lines = [
        {"id": name, "prompt": "x", "images": [path], "benign": True, "licence": "own"}
        for name, path in (("a", "../secret.png"), ("b", str(tmp_path / "secret.png")), ("c", "."))
    ]
    (tmp_path / "set" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows, bad = _rows("jsonl:set/rows.jsonl", tmp_path)
    assert not rows
    assert "does not lie in" in bad[0].reason
    assert "does not lie in" in bad[1].reason
    assert "no regular file" in bad[2].reason


@pytest.mark.parametrize("field", ["safe", "unsafe", "category", "id"])
@pytest.mark.parametrize("value", [5, ["a"], "\ud800"])
def test_a_field_of_the_wrong_kind_is_an_error_row(tmp_path: Path, field: str, value: object) -> None:
    entry = {"id": "a", "prompt": "x", "benign": False, "licence": "own", "safe": "s", "unsafe": "u"} | {field: value}
    (tmp_path / "rows.jsonl").write_text(json.dumps(entry))
    rows, bad = _rows("jsonl:rows.jsonl", tmp_path)
    assert not rows
    assert field in bad[0].reason
