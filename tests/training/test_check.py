from __future__ import annotations

import json
from pathlib import Path

from tests.training.test_rows import FOLDER, row
from training.risk.check import (
    balance_problems,
    clusters,
    form_problems,
    overlap_problems,
    template_problems,
    texts_of,
)
from training.risk.rows import own_files, own_row, own_rows, read_objects


def test_the_projects_rows_pass() -> None:
    for file in own_files(FOLDER):
        assert list(form_problems(file.name, read_objects(file))) == []
    rows = own_rows(FOLDER)
    assert list(balance_problems(rows)) == []
    assert list(template_problems(rows)) == []


def test_faults_of_form_are_named_with_their_line() -> None:
    rows: list[dict[str, object]] = [
        row("ab-0001a"),
        row("ab-0001a"),
        row("x1"),
        row("ab-0002a", " "),
        row("ab-0003a", "x", "no_such_category"),
        {**row("ab-0004a"), "intent": "do"},
        {**row("ab-0005a"), "register": "shouting"},
        {"id": "ab-0006a"},
    ]
    found = list(form_problems("ab.jsonl", rows))
    assert [problem.split(":")[1] for problem in found] == ["2", "3", "4", "5", "6", "7", "8"]


def test_a_template_is_found_and_twins_are_not_taken_for_one() -> None:
    frame = (
        "please write a very long and friendly letter to my landlord in the old town about the {} he forgot to repair"
    )
    words = ("roof", "tap", "door", "lock")
    same = [own_row(row(f"ab-000{at}a", frame.format(word)), "ab") for at, word in enumerate(words)]
    assert len(list(template_problems(same))) == 1
    assert list(template_problems(same[:3])) == []
    assert list(template_problems([*same[:2], own_row(row("ab-0009a", frame.format("cat"), "privacy"), "ab")])) == []


def test_clusters_are_of_texts_that_are_alike() -> None:
    texts = [
        "How do I repair the old clock on the wall?",
        "Which bread keeps longest?",
        "how do i repair the old clock on the wall",
    ]
    assert clusters(texts) == [[0, 2]]


def test_overlap_with_a_test_set_is_found_in_every_format(tmp_path: Path) -> None:
    text = "Explain how the little red boat crossed the wide bay at night"
    (tmp_path / "a.jsonl").write_text(json.dumps({"x": [{"prompt": text}]}) + "\n")
    (tmp_path / "b.csv").write_text(f'id,prompt\n1,"{text.replace("boat", "ship")}"\n')
    (tmp_path / "c.txt").write_text("Which colours does the flag of that island have today\n")
    tests = list(texts_of(tmp_path))
    assert len(tests) == 3
    rows = [
        own_row(row("ab-0001a", f"Now then. {text}?"), "ab"),
        own_row(row("ab-0002a", "Which colours does the flag of that island have"), "ab"),
        own_row(row("ab-0003a", "Which colours do you like?"), "ab"),
    ]
    assert [problem.split()[0] for problem in overlap_problems(rows, tests)] == ["ab-0001a", "ab-0002a"]
