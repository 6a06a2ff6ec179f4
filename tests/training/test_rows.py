from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.risk.rows import BlindRowsError, measured_rows, outside_rows, own_rows, read_objects, side, sides, twins

FOLDER = Path(__file__).parents[2] / "data" / "risk"


def row(name: str, text: str = "How do I do it?", *categories: str) -> dict[str, object]:
    intent = "do" if categories else "neither"
    return {
        "id": name,
        "text": text,
        "categories": list(categories),
        "intent": intent,
        "register": "chat",
        "language": "en",
        "kind": "request",
    }


def write(file: Path, *rows: dict[str, object]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


def test_the_blind_set_is_refused_by_name_and_by_content(tmp_path: Path) -> None:
    blind = write(tmp_path / "blind.jsonl", row("bl-0001a"))
    with pytest.raises(BlindRowsError):
        list(read_objects(blind))
    renamed = write(tmp_path / "more.jsonl", row("aa-0001a"), row("blind-0001a"))
    with pytest.raises(BlindRowsError):
        own_rows(tmp_path)
    renamed.unlink()
    write(tmp_path / "privacy.jsonl", row("pv-0001a"))
    assert [found.id for found in own_rows(tmp_path)] == ["pv-0001a"]


def test_no_group_is_split_between_sides() -> None:
    rows = own_rows(FOLDER)
    split = sides(rows)
    where: dict[str, set[str]] = {}
    for name, some in split.items():
        for one in some:
            where.setdefault(one.group, set()).add(name)
    assert all(len(names) == 1 for names in where.values())
    assert len(split["train"]) > 7 * len(split["calibrate"]) > 0 < len(split["test"])


def test_twins_are_groups_of_both_labels(tmp_path: Path) -> None:
    file = write(
        tmp_path / "privacy.jsonl",
        row("pv-0001a", "x", "privacy"),
        row("pv-0001b"),
        row("pv-0002a"),
        row("pv-0003a", "y", "hate"),
    )
    assert twins(own_rows(file.parent)) == [0, 1]


def test_the_split_never_changes() -> None:
    found = {number: side(f"privacy:pv-{number:04d}") for number in range(1, 40)}
    assert [number for number, name in found.items() if name == "test"] == [10, 11, 14, 22]
    assert [number for number, name in found.items() if name == "calibrate"] == [15, 24, 36]


def test_everyday_requests_go_to_calibration_more_often() -> None:
    found = [side(f"dolly-1k:{number}") for number in range(1000)]
    assert [round(found.count(name) / 100) for name in ("train", "calibrate", "test")] == [5, 3, 2]


def test_only_some_outside_sources_are_trained_on(tmp_path: Path) -> None:
    outside = [
        {"id": f"{source}-1", "source": source, "may_train_shipped_weights": allowed, "label": label, "prompt": source}
        for source, allowed, label in (
            ("dolly-1k", True, "benign"),
            ("advbench", True, "harmful"),
            ("advbench", False, "harmful"),
            ("beavertails", False, "mostly-harmful"),
            ("harmbench-standard", True, "harmful"),
        )
    ]
    file = write(tmp_path / "text.jsonl", *outside)
    assert [(found.source, found.intent) for found in outside_rows(file)] == [
        ("dolly-1k", "neither"),
        ("advbench", "do"),
    ]
    assert {found.source for found in measured_rows(file)} == {"beavertails", "harmbench-standard"}
