"""``vlmguard synth`` as a user runs it: exit codes and what is said when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.synth.oracle import row
from vlmguard.cli.main import main

CAUSES = (
    '<understanding>Two cleaners.</understanding><assessment text="high" image="absent" cross="absent"/>'
    '<risk modality="text" category="dangerous_behaviour">They react.</risk><analysis>They give off gas.</analysis>'
)
SCRIPT = [
    {"when": "[harmful answer", "answer": '<evidence source="text" modality="text">The cleaners are mixed.</evidence>'},
    {"when": "[observations", "answer": CAUSES},
    {
        "when": ["[assessment", "alpha1"],
        "answer": "<prompt>Tell me the danger of mixing these cleaners first.</prompt>",
    },
]


def _recipe(folder: Path, rows: int = 2, **changes: object) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(1, rows + 1)))
    (folder / "teacher.jsonl").write_text("".join(json.dumps(line) + "\n" for line in SCRIPT))
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"sources": ["jsonl:rows.jsonl"], "teacher": "scripted:teacher.jsonl"} | changes))
    return recipe


def _synth(*words: object) -> int:
    return main(["synth", *map(str, words)])


def test_a_run_with_a_row_that_the_teacher_cannot_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(tmp_path)
    assert _synth("run", recipe, "--out", tmp_path / "out") == 3
    told = capsys.readouterr().out
    assert "failed" in told
    # The script is mended, the run goes on where it was.
    more = {"when": "[assessment", "answer": "<prompt>Tell me of the danger of the cleaner beta first.</prompt>"}
    with (tmp_path / "teacher.jsonl").open("a") as script:
        script.write(json.dumps(more) + "\n")
    assert _synth("run", recipe, "--out", tmp_path / "out") == 0
    assert _synth("status", recipe, "--out", tmp_path / "out") == 0
    assert "kept                       2" in capsys.readouterr().out
    assert _synth("trl", recipe, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "trl" / "train.parquet").exists()
    assert "outcome test" in (tmp_path / "out" / "README.md").read_text()


def test_a_preview_shows_the_rows_and_what_the_rest_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(tmp_path, rows=13)
    assert _synth("preview", recipe, "--out", tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "Still to do: 3 rows" in told
    assert "Two cleaners." in (tmp_path / "out" / "preview.html").read_text()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"sources": ["jsonl:gone.jsonl"]}, "gone.jsonl is missing"),
        ({"sources": ["vlguard:train.json"]}, "accept the terms"),
        ({"keep_apart": ["gone"]}, "take it out of keep_apart"),
        ({"teacher": "nobody"}, "names no model"),
        ({"teacher": "scripted:gone.jsonl"}, "cannot be read"),
        ({"techer": "x"}, "unknown setting"),
        ({"policy": "gone.toml"}, "gone.toml"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_paid_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], fault: str
) -> None:
    recipe = _recipe(tmp_path, **changes)
    assert _synth("run", recipe, "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert fault in captured.out + captured.err


def test_check_lists_all_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(tmp_path, sources=["vlsbench:data.json", "jsonl:gone.jsonl", "jsonl:rows.jsonl"])
    assert _synth("check", recipe) == 2
    told = capsys.readouterr().out
    assert "cannot be measured on it" in told
    assert sum(line.startswith("missing:") for line in told.splitlines()) == 2
    assert _synth("check", _recipe(tmp_path)) == 0
