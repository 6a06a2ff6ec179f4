from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import strategies
from tests.train.padded import cases, write_dataset
from vlmguard import trace
from vlmguard.cli.main import main
from vlmguard.errors import InputError
from vlmguard.jsonl import read_rows
from vlmguard.policy import load_policy
from vlmguard.train.r1_act import choose, shorten, write_rows
from vlmguard.train.rows import open_rows
from vlmguard.types import Evidence, Finding, Level, Modality, Refinement, RiskReport


@settings(max_examples=60)
@given(strategies.refinements)
def test_a_short_trace_is_valid_and_says_the_same(refinement: Refinement) -> None:
    short = shorten(refinement)
    assert trace.parse(trace.render(short)) == short
    assert (short.understanding, short.report, short.prompt) == (
        refinement.understanding, refinement.report, refinement.prompt,
    )  # fmt: skip
    assert len(trace.render(short)) <= len(trace.render(refinement))
    assert shorten(short) == short
    assert len(short.evidence) == (refinement.prompt is not None)
    assert set(short.evidence) <= set(refinement.evidence)


def test_what_is_kept_is_what_weighs_most() -> None:
    high, low = (Finding(level, "privacy", "It tells where she lives.") for level in (Level.HIGH, Level.LOW))
    seen = [Evidence(Modality.TEXT, "text", "asks for it"), Evidence(Modality.IMAGE, "image 1", "shows an address")]
    refinement = Refinement(
        "A wish.", RiskReport(low, high), tuple(seen), "The address is private. Also, much more.", "Help."
    )
    assert shorten(refinement) == Refinement(
        "A wish.", RiskReport(low, high), (seen[1],), "The address is private.", "Help."
    )


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.floats(0, 1), st.integers())
def test_rows_are_drawn_in_the_share(benign: int, risky: int, count: int, share: float, seed: int) -> None:
    ids = [(f"b{number}", True) for number in range(benign)] + [(f"r{number}", False) for number in range(risky)]
    wanted = round(count * share)
    if benign < wanted or risky < count - wanted:
        with pytest.raises(InputError, match="training rows"):
            choose(ids, count, share, seed)
        return
    chosen = choose(ids, count, share, seed)
    assert len(chosen) == count
    assert sum(id.startswith("b") for id in chosen) == wanted
    assert choose(ids[::-1], count, share, seed) == chosen


def test_a_dataset_of_short_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_dataset(tmp_path / "data", cases())
    out = tmp_path / "short"
    command = ["train", "r1-act", str(folder), "--out", str(out), "--rows", "6", "--benign", "0.5"]
    assert main(command) == 0
    assert "3 benign and 3 risky" in capsys.readouterr().out
    rows = list(read_rows(out / "data.jsonl"))
    assert [row["split"] for row in rows].count("train") == 6
    opened = open_rows(out, load_policy())
    assert (len(opened["train"]), len(opened["validation"])) == (6, 16)
    for index in range(6):
        trace.parse(opened["train"][index].said)  # and its picture is there
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(InputError, match="need 90 benign"):
        write_rows(folder, tmp_path / "more", count=100, benign=0.9)
    (folder / "data.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(InputError, match="dataset has"):
        write_rows(folder, tmp_path / "less", count=10)


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/hostname", "aa/" + "0" * 64 + ".png"])
def test_only_pictures_of_the_dataset_are_linked(name: str, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", cases())
    (tmp_path / "evil.png").write_bytes(b"somebody's")
    (folder / "pictures/aa").mkdir(exist_ok=True)
    (folder / "pictures/aa" / ("0" * 64 + ".png")).write_bytes(b"another one")
    rows = list(read_rows(folder / "data.jsonl"))
    for row in rows:
        row["messages"][0]["parts"][:1] = [{"image": name}]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError):
        write_rows(folder, tmp_path / "deep/er/short", count=2)
    new = set(tmp_path.rglob("*")) - before
    assert {place.name for place in new} <= {"deep", "er", "short", ".data.jsonl.new"}


def test_what_cannot_be_written_or_shortened(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", cases())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be a dataset's folder"):
        write_rows(folder, tmp_path / "file", count=2)
    text = (folder / "data.jsonl").read_text()
    rows = [json.loads(line) | {"trace": "no trace at all"} for line in text.splitlines()]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"row .* cannot be shortened"):
        write_rows(folder, tmp_path / "short", count=2)
