from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.world import write_dataset
from vlmguard.errors import InputError
from vlmguard.policy import load_policy
from vlmguard.train.rows import open_rows

GONE = object()
_PART = [{"role": "user", "parts": [{"image": 3}]}]


def write(folder: Path, second: bytes) -> Path:
    """A dataset whose second row is that."""
    write_dataset(folder)
    lines = (folder / "data.jsonl").read_bytes().splitlines()
    (folder / "data.jsonl").write_bytes(b"\n".join([lines[0], second, *lines[2:]]) + b"\n")
    return folder


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        *((key, GONE, key) for key in ("id", "split", "trace", "benign", "messages")),
        ("split", "test", "train or validation, not 'test'"),
        ("benign", "false", "true or false, not 'false'"),
        ("trace", 3, "'trace' is text"),
        ("messages", [], "list of turns"),
        ("messages", [{"role": "wizard", "parts": []}], "a turn of 'messages'"),
        ("messages", [{"role": ["user"], "parts": []}], "a turn of 'messages'"),
        ("messages", ["hello"], "a turn of 'messages'"),
        ("messages", _PART, "a turn of 'messages'"),
        ("messages", [{"role": "assistant", "parts": [{"text": "Hi."}]}], "no turn of the user's"),
        ("id", "train-0", "another row has this id"),
    ],
)  # fmt: skip
def test_a_damaged_row_is_told_with_its_line(key: str, value: Any, error: str, tmp_path: Path) -> None:
    row = json.loads((write_dataset(tmp_path / "whole") / "data.jsonl").read_text().splitlines()[1])
    row = {name: kept for name, kept in row.items() if name != key} | ({} if value is GONE else {key: value})
    told = r"data\.jsonl, line 2" + (f", row {row['id']}" if "id" in row else "") + ".*" + error
    with pytest.raises(InputError, match=told):
        open_rows(write(tmp_path / "data", json.dumps(row).encode()), load_policy())


@pytest.mark.parametrize("line", [b"[]", b"null", b"{", b'{"id": "\xff"}'])
def test_what_is_no_row(line: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.jsonl, line 2: "):
        open_rows(write(tmp_path / "data", line), load_policy())


def test_places_are_right_behind_blank_lines(tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "data") / "data.jsonl"
    file.write_bytes(b"\n" + file.read_bytes().replace(b"\n", b"\n\r\n"))
    rows = open_rows(tmp_path / "data", load_policy())["train"]
    assert [rows[index].id for index in range(len(rows))] == [f"train-{number}" for number in range(5)]
