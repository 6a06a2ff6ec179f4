from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_llava import FORWARD, PAIR_TRACE
from tests.train.world import ROWS, write_dataset
from vlmguard.errors import InputError
from vlmguard.policy import load_policy
from vlmguard.train.held_out import figures, judge, measurable
from vlmguard.train.measure import without_traces
from vlmguard.train.rows import Rows, open_rows


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return open_rows(write_dataset(tmp_path / "data"), load_policy())["train"]


def test_an_answer_is_valid_only_if_serving_would_take_it(rows: Rows) -> None:
    risky = rows[0]
    own = judge(risky, PAIR_TRACE, rows.policy)
    assert own.valid
    assert own.decided
    assert not own.forwarded
    for answer in (
        FORWARD.format("absent"),  # a trace, and not of a chat with a picture
        PAIR_TRACE.replace("image 1", "image 7"),
        "no trace at all",
    ):
        said = judge(risky, answer, rows.policy)
        assert not said.valid
        assert not said.decided
        assert not said.forwarded


def test_a_row_without_a_trace_is_named(rows: Rows) -> None:
    with pytest.raises(InputError, match="row train-0 cannot be compared"):
        judge(replace(rows[0], said="no trace at all"), PAIR_TRACE, rows.policy)


def test_what_can_be_measured_is_what_is(rows: Rows) -> None:
    for most in range(len(rows) + 1):
        chosen = [rows[number * len(rows) // most] for number in range(most)]
        assert measurable(rows, most) == set(figures([judge(row, row.said, rows.policy) for row in chosen]))


def test_rows_without_a_trace_are_found(tmp_path: Path) -> None:
    broken = (ROWS[0], ("Hm?", None, "no trace at all", True))
    rows = open_rows(write_dataset(tmp_path / "data", rows=broken), load_policy())["train"]
    (found,) = without_traces(rows)
    assert (found.index, found.id) == (1, "train-1")
    assert "its trace is none" in found.error
