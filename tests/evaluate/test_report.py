"""Tables and the report: the right numbers in every form, and a page that Chromium shows as it is meant."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import Draw
from vlmguard import chat
from vlmguard.cli.main import main
from vlmguard.errors import InputError
from vlmguard.evaluate.charts import Point, front
from vlmguard.evaluate.exports import tex
from vlmguard.evaluate.report import write_report
from vlmguard.evaluate.store import Cell, Store, Stored
from vlmguard.evaluate.tables import baseline, make_tables
from vlmguard.statistics import Interval
from vlmguard.types import (
    Answer,
    Evidence,
    Finding,
    Level,
    Modality,
    Outcome,
    Refinement,
    RiskReport,
    Sample,
    Usage,
    Verdict,
)

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def fill(folder: Path, *, picture: bytes | None = None, target: str = "tiny") -> Store:
    """20 risky and 10 harmless samples; without a defence 5 of 20 safe, behind one 15, and one verdict that was none."""
    store = Store(folder)
    store.add_benchmark("mine", "f" * 64, "safety,over-refusal", "Rows of my own")
    for number in range(30):
        harmful = number < 20
        images = [picture] if picture is not None and number == 7 else []
        asked = chat(f"{EVIL if number == 7 else ''}Question {number}?", images)
        store.add_sample("mine", Sample(str(number), asked, harmful, f"kind {number % 4}"))
    refinement = Refinement(
        "The user asks a thing.",
        RiskReport(text=Finding(Level.HIGH, "hate", "It says so.")),
        (Evidence(Modality.TEXT, "text", "a word"),),
        "It hurts.",
        "A better prompt.",
    )
    for place, (defence, safe) in enumerate((("none", 5), ("vlmguard (embedded)", 15))):
        cell = Cell(f"{target}{place}", "mine", target, defence, 0)
        store.add_cell(cell, place)
        for number in range(30):
            changed = bool(place) and number < 20
            answer = Answer(
                f"{EVIL if number == 7 else ''}Answer {number}.", Outcome.REWRITE if changed else None, refinement if changed else None,
                1, Usage(10, 5), 1.0 + place / 10, place / 10, "A better prompt." if changed else None,
            )  # fmt: skip
            store.add_answer(cell, str(number), Stored(answer))
            if number == 19:
                verdict = Verdict("judge", rationale="the judge gave no verdict")
            elif number < 20:
                verdict = Verdict(
                    "judge", number < safe, number < safe, number >= safe, 9.0 if number < safe else 1.0, EVIL
                )
            else:
                verdict = Verdict("judge", True, number != 29, number == 29, 10.0)
            store.add_verdict(cell, str(number), verdict)
            store.add_verdict(cell, str(number), Verdict("refusal-strings#1", refused=number % 2 == 0))
    store.commit()
    return store


def test_numbers_are_the_ones_that_can_be_counted(tmp_path: Path) -> None:
    with fill(tmp_path / "run") as store:
        tables = make_tables([store])
    assert tables.main_judge == "judge"
    before, after = (tables.figure("mine", "tiny", name, "safe") for name in ("none", "vlmguard (embedded)"))
    assert before is not None
    assert after is not None
    assert before.interval.value == pytest.approx(5 / 19)
    assert (before.interval.n, before.unjudged) == (19, 1)
    assert after.interval.value == pytest.approx(15 / 19)
    refusals = tables.figure("mine", "tiny", "none", "over-refusal")
    assert refusals is not None
    assert (refusals.interval.value, refusals.interval.n) == (0.1, 10)
    safety = tables.figure("mine", "tiny", "none", "safety")
    assert safety is not None
    assert safety.interval.value == pytest.approx((5 * 9 + 14 * 1) / 19)
    test = next(test for test in tables.tests if test.measure.name == "safe")
    assert test.difference.value == pytest.approx(10 / 19)
    assert test.difference.test == "McNemar, exact"
    assert test.difference.p == pytest.approx(2 / 2**10)
    assert test.corrected >= test.difference.p
    headline = tables.headlines["vlmguard (embedded)"]
    assert headline.ratio_of_means.value == pytest.approx((15 * 9 + 4) / (5 * 9 + 14) - 1)
    cost = next(cost for cost in tables.costs if cost.defence != "none")
    assert (cost.calls, cost.tokens) == (1, 15)
    assert cost.overhead_median == pytest.approx(0.1)
    assert {row.field: row.n for row in tables.agreements} == {"refused": 58}


def test_every_form_has_the_same_figures(tmp_path: Path) -> None:
    fill(tmp_path / "run").__exit__()
    html, markdown, table, latex = write_report([tmp_path / "run"], tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    (safe,) = [row for row in rows if row["measure"] == "safe" and row["defence"] == "none" and row["judge"] == "judge"]
    assert (safe["value"], safe["n"], safe["not judged"], safe["source"]) == ("0.263158", "19", "1", "measured")
    assert any(row["source"] == "published, not measured" for row in rows)
    for file in (html, markdown):
        assert "26.3 %" in file.read_text(encoding="utf-8")
        assert "published" in file.read_text(encoding="utf-8").lower()
    assert "26.3 \\%" in latex.read_text(encoding="utf-8")
    assert tex("a_b & 50 % \\x {y}") == r"a\_b \& 50 \% \textbackslash{}x \{y\}"


def test_two_runs_stand_beside_each_other(tmp_path: Path) -> None:
    fill(tmp_path / "first").__exit__()
    fill(tmp_path / "second").__exit__()
    write_report([tmp_path / "first", tmp_path / "second"], tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "vlmguard (embedded) · second" in text


def test_runs_of_one_name_keep_their_own_baselines(tmp_path: Path) -> None:
    for name in ("a/run", "b/run"):
        fill(tmp_path / name).__exit__()
    with Store(tmp_path / "b/run") as store:
        cell = Cell("only", "mine", "tiny", "figstep", 0)
        store.add_cell(cell, 5)
        store.add_answer(cell, "0", Stored(Answer("A.")))
    stores = [Store(tmp_path / name) for name in ("a/run", "b/run")]
    tables = make_tables(stores)
    for each in stores:
        each.__exit__()
    assert tables.defences[:2] == ["none", "none · b/run"]
    assert {test.defence for test in tables.tests} == {"vlmguard (embedded)", "vlmguard (embedded) · b/run"}
    assert "figstep · b/run" in tables.defences
    assert baseline("figstep · b/run", tables.defences) == "none · b/run"
    assert set(tables.headlines) == {"vlmguard (embedded)", "vlmguard (embedded) · b/run"}


def test_the_headline_says_what_it_rests_on_and_leaves_out_by_name(tmp_path: Path) -> None:
    with fill(tmp_path / "run") as store:
        for place, (defence, safety) in enumerate((("none", 0.0), ("vlmguard (embedded)", 4.0))):
            cell = Cell(f"zero{place}", "mine", "nought", defence, 0)
            store.add_cell(cell, 5 + place)
            for number in range(10):
                store.add_answer(cell, str(number), Stored(Answer("A.")))
                store.add_verdict(cell, str(number), Verdict("judge", safety=safety))
    html, markdown, *_ = write_report([tmp_path / "run"], tmp_path / "out")
    for file in (html, markdown):
        text = file.read_text(encoding="utf-8")
        assert "n = 10 of 19 risky samples" in text
        assert "at 0 before: nought" in text


def test_a_run_whose_judge_failed_on_everything_is_told_in_every_form(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        store.add_benchmark("mine", "f", "safety", "Mine")
        store.add_sample("mine", Sample("1", chat("Question?"), True))
        cell = Cell("c", "mine", "tiny", "none", 0)
        store.add_cell(cell, 0)
        store.add_answer(cell, "1", Stored(Answer("A.")))
        store.add_verdict(cell, "1", Verdict("judge"), "the judge is away")
    html, markdown, *_ = write_report([tmp_path / "run"], tmp_path / "out")
    text = markdown.read_text(encoding="utf-8")
    assert "| tiny | none | 1 | 1 | 0 |" in text
    assert "- 1 × judge: the judge is away" in text
    assert "<b>0</b> verdicts" in html.read_text(encoding="utf-8")


def test_reports_are_their_owners_alone_and_a_folder_of_ones_own_is_left_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "run").__exit__()
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o755)
    (out / "report.md").write_text("old", encoding="utf-8")
    files = write_report([tmp_path / "run"], out)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert out.stat().st_mode & 0o777 == 0o755


def test_what_was_published_stands_beside_ours(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        store.add_benchmark("siuo-gen", "f", "safety", "SIUO")
        store.add_sample("siuo-gen", Sample("1", chat("Question?"), True))
        for place, defence in enumerate(("none", "vlmguard (embedded)", "ecso*")):
            cell = Cell(defence, "siuo-gen", "LLaVA-1.5-7B", defence, 0)
            store.add_cell(cell, place)
            store.add_answer(cell, "1", Stored(Answer("A.")))
            store.add_verdict(cell, "1", Verdict("judge", safety=5.0 + place))
            store.add_verdict(cell, "1", Verdict("refusal-strings#1", refused=True))
    page = write_report([tmp_path / "run"], tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "<td>6.00 (vlmguard (embedded))</td>" in page
    assert "<td>100.0 % (LLaVA-1.5-7B, ecso*)</td>" in page
    assert "<td>100.0 % (LLaVA-1.5-7B, vlmguard (embedded))</td>" in page


def test_other_files_under_one_name_are_not_set_beside_each_other(tmp_path: Path) -> None:
    fill(tmp_path / "first").__exit__()
    with Store(tmp_path / "second") as store:
        store.add_benchmark("mine", "e" * 64, "safety", "Others")
    with pytest.raises(InputError, match="other files under the name mine"):
        write_report([tmp_path / "first", tmp_path / "second"], tmp_path / "out")


def test_parts_of_a_set_that_ask_about_one_picture_are_one_group(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        for place, (name, group) in enumerate(
            (
                ("mm-safetybench/SD", "1"),
                ("mm-safetybench/TYPO", "1"),
                ("siuo-gen", "p"),
                ("siuo-mcqa", "p"),
                ("own", "1"),
            )
        ):
            store.add_benchmark(name, "f", "safety", name)
            store.add_sample(name, Sample("1", chat("Question?"), True, group=group))
            cell = Cell(name, name, "tiny", "none", 0)
            store.add_cell(cell, place)
            store.add_answer(cell, "1", Stored(Answer("A.")))
        tables = make_tables([store])
    assert len(tables.given) == 5
    assert len({row.item.group for row in tables.given}) == 3


def test_a_target_that_never_answered_stands_in_the_tables(tmp_path: Path) -> None:
    with fill(tmp_path / "run") as store:
        cell = Cell("away", "mine", "away", "none", 0)
        store.add_cell(cell, 9)
        for number in range(30):
            store.add_answer(cell, str(number), Stored(None, "the server is away"))
    html, markdown, *_ = write_report([tmp_path / "run"], tmp_path / "out")
    assert re.search(r"\| away \| none \| – .*\| 0 \| 0 \| 30 \|", markdown.read_text(encoding="utf-8"))
    assert "the server is away" in html.read_text(encoding="utf-8")


def test_there_is_no_report_of_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "run").__exit__()
    with pytest.raises(InputError, match="no answer yet"):
        write_report([tmp_path / "run"], tmp_path / "out")


class Links(HTMLParser):
    """All that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]
        assert tag not in ("script", "link", "iframe")


def test_the_page_fetches_nothing_and_runs_nothing_of_others(tmp_path: Path, draw: Draw) -> None:
    fill(tmp_path / "run", picture=draw("a list")).__exit__()
    page = write_report([tmp_path / "run"], tmp_path / "out")[0].read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.found
    assert all(link.startswith("data:image/jpeg;base64,") for link in links.found)
    assert "&lt;script&gt;" in page


def test_chromium_shows_the_page(tmp_path: Path, draw: Draw) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        assert not os.environ.get("CI"), "apt-get install chromium"
        pytest.skip("needs a browser: apt-get install chromium")
    fill(tmp_path / "run", picture=draw("a list")).__exit__()
    page = write_report([tmp_path / "run"], tmp_path / "out")[0]
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r"<title>vlmguard evaluation · run</title>", shown)  # nobody's script has changed it
    assert shown.count('<svg class="interval"') >= 12
    assert shown.count('<svg class="chart') == 2  # scatter and bars
    assert '<details class="example"><summary>' in shown  # harmful text is folded
    assert '<details class="example" open' not in shown


def test_the_front_holds_whom_nobody_beats() -> None:
    def point(label: str, x: float, y: float) -> Point:
        return Point(label, Interval(x, x, x, 1, 1, ""), Interval(y, y, y, 1, 1, ""), "#000")

    points = [point("a", 0.9, 0.2), point("b", 0.5, 0.8), point("c", 0.4, 0.7), point("d", 0.9, 0.1)]
    assert [each.label for each in front(points)] == ["b", "a"]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "list"]) == 0
    listed = capsys.readouterr().out
    for word in ("siuo-gen", "167", "mllm-protector", "three-way", "LLaVA-1.5-7B", "not known"):
        assert word in listed
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        '{"id": "1", "prompt": "Hi", "harmful": false}\n{"id": "2", "prompt": "Ho", "harmful": true}\n',
        encoding="utf-8",
    )
    script = tmp_path / "script.jsonl"
    script.write_text('{"answer": "I am sorry."}\n', encoding="utf-8")
    ask = [
        "eval",
        "run",
        "--benchmark",
        f"jsonl:{questions}",
        "--target",
        f"scripted:{script}",
        "--judge",
        "refusal",
        "--defence",
        "none",
    ]
    assert main([*ask, "--out", str(tmp_path / "a"), "--estimate"]) == 0
    assert "2 answers" in capsys.readouterr().err
    assert main([*ask, "--out", str(tmp_path / "a"), "--shard", "1/2"]) == 0
    assert main([*ask, "--out", str(tmp_path / "b"), "--shard", "2/2"]) == 0
    assert main(["eval", "merge", str(tmp_path / "all"), str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    rules = tmp_path / "rules.jsonl"
    rules.write_text('{"safe": true, "helpful": false}\n', encoding="utf-8")
    assert main(["eval", "rescore", str(tmp_path / "all"), "--judge", f"rules:{rules}"]) == 0
    assert main(["report", str(tmp_path / "all"), "--out", str(tmp_path / "out")]) == 0
    assert "100.0 %" in (tmp_path / "out/report.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert (
        main(
            ["eval", "run", "--out", str(tmp_path / "c"), "--benchmark", "siuo-gen:/nowhere", "--target", "scripted:x"]
        )
        == 2
    )
    assert "siuo_gen.json is missing" in capsys.readouterr().err


def test_a_report_of_one_group_has_figures_and_no_intervals(tmp_path: Path) -> None:
    with Store(tmp_path / "run") as store:
        store.add_benchmark("mine", "f", "safety", "Mine")
        for place, defence in enumerate(("none", "figstep")):
            cell = Cell(defence, "mine", "tiny", defence, 0)
            store.add_cell(cell, place)
            for number in range(3):
                store.add_sample("mine", Sample(str(number), chat("Question?"), True, group="one"))
                store.add_answer(cell, str(number), Stored(Answer("A.")))
                store.add_verdict(cell, str(number), Verdict("judge", safe=number <= place, safety=4.0 + place))
    text = write_report([tmp_path / "run"], tmp_path / "out")[1].read_text(encoding="utf-8")
    assert "ratio of means +25.0 %, mean of ratios +25.0 %; n = 3 of 3" in text
