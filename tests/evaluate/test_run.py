"""The runner against a real endpoint: what it stores, and that nothing is lost or asked twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Draw
from tests.evaluate.conftest import Endpoint
from vlmguard.cli.evaluate import _line as progress_line
from vlmguard.cli.main import main
from vlmguard.errors import InputError, VlmguardError
from vlmguard.evaluate.crew import Spend, open_crew
from vlmguard.evaluate.plan import Plan, load_plan, make_plan
from vlmguard.evaluate.run import Progress, chosen, judge_again, read_shard, run
from vlmguard.evaluate.store import Store
from vlmguard.evaluate.tables import make_tables
from vlmguard.judges.refusal import RefusalJudge


@pytest.fixture
def plan(endpoint: Endpoint, questions: Path, rules: Path, tmp_path: Path) -> Plan:
    care = tmp_path / "care.txt"
    care.write_text("Take care.", encoding="utf-8")
    return Plan(
        (f"jsonl:{questions}",),
        (f"tiny=endpoint:{endpoint.url}#m",),
        defences=("none", {"kind": "safety-prompt", "prompt": str(care)}),
        judges=(f"rules:{rules}", "refusal"),
        concurrency=4,
    )


async def go(plan: Plan, folder: Path, shard: tuple[int, int] = (1, 1)) -> Progress:
    progress = Progress()
    with Store(folder) as store:
        crew = open_crew(plan, store)
        try:
            await run(plan, crew, store, progress, shard)
        finally:
            await crew.close()
    return progress


def rows(folder: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "run.sqlite") as db:
        found = db.execute(sql).fetchall()
    db.close()
    return found


async def test_everything_is_asked_judged_and_stored(plan: Plan, tmp_path: Path) -> None:
    progress = await go(plan, tmp_path / "out")
    assert (progress.total, progress.answers, progress.verdicts, progress.errors) == (24, 24, 48, 0)
    found = rows(
        tmp_path / "out",
        "SELECT c.defence, s.harmful, v.safe, v.refused, a.calls, a.prompt_tokens FROM answers a JOIN cells c ON c.key = a.cell"
        " JOIN samples s ON s.id = a.sample JOIN verdicts v ON v.cell = a.cell AND v.sample = a.sample AND v.judge LIKE 'rules%'",
    )
    assert len(found) == 24
    assert {row for row in found if row[0] == "none"} == {("none", 1, 0, 0, 1, 7), ("none", 0, 1, 0, 1, 7)}
    assert {row[2:4] for row in found if row[0] == "safety-prompt"} == {(1, 1)}
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0


async def test_a_second_run_asks_nothing(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    await go(plan, tmp_path / "out")
    asked = len(endpoint.asked)
    progress = await go(plan, tmp_path / "out")
    assert (progress.total, len(endpoint.asked)) == (0, asked)


async def test_another_defence_asks_only_what_is_new(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    await go(replace(plan, defences=("none",)), tmp_path / "out")
    assert len(endpoint.asked) == 12
    await go(plan, tmp_path / "out")
    assert len(endpoint.asked) == 24


async def test_a_response_is_kept_across_cells(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    """The embedded guard forwards these, so its answers are the ones without a defence, and are not paid for again."""
    await go(replace(plan, defences=("none", "vlmguard:embedded")), tmp_path / "out")
    assert len(endpoint.asked) == 12


async def test_seeds_are_answers_of_their_own_and_one_group(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    await go(replace(plan, defences=("none",), seeds=(0, 1, 2), temperature=0.7), tmp_path / "out")
    assert len(endpoint.asked) == 36
    with Store(tmp_path / "out", make=False) as store:
        tables = make_tables([store])
    figure = tables.figure("questions", "tiny", "none", "safe")
    assert figure is not None
    assert (figure.interval.n, figure.interval.groups) == (18, 6)


async def test_other_files_under_the_same_name_are_refused(plan: Plan, questions: Path, tmp_path: Path) -> None:
    await go(plan, tmp_path / "out")
    questions.write_text('{"id": "q0", "prompt": "Another?"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="not those that this run was begun with"):
        await go(plan, tmp_path / "out")


async def test_an_endpoint_that_is_away_is_waited_for(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.failing = 503

    async def come_back() -> None:
        await asyncio.sleep(3)
        endpoint.failing = None

    progress, _ = await asyncio.gather(go(plan, tmp_path / "out"), come_back())
    assert (progress.answers, progress.errors) == (24, 0)
    assert rows(tmp_path / "out", "SELECT count(*) FROM answers WHERE error IS NOT NULL") == [(0,)]


async def test_patience_ends_in_error_rows_that_are_asked_again(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.failing = 503
    progress = await go(replace(plan, patience=0.0), tmp_path / "out")
    assert progress.errors == 24
    assert rows(tmp_path / "out", "SELECT count(*), sum(error IS NOT NULL) FROM answers") == [(24, 24)]
    endpoint.failing = None
    progress = await go(plan, tmp_path / "out")
    assert (progress.total, progress.errors) == (24, 0)
    assert rows(tmp_path / "out", "SELECT count(*), sum(error IS NOT NULL) FROM answers") == [(24, 0)]


async def test_a_rewriter_that_is_away_is_waited_for_like_a_target(
    plan: Plan, endpoint: Endpoint, tmp_path: Path
) -> None:
    """It comes back and says no trace: that will not pass, so these are error rows, and none for the outage."""
    endpoint.failing = 503

    async def come_back() -> None:
        await asyncio.sleep(3)
        endpoint.failing = None

    guarded = replace(plan, defences=("none", f"vlmguard:endpoint:{endpoint.url}#rewriter"))
    progress, _ = await asyncio.gather(go(guarded, tmp_path / "out"), come_back())
    assert (progress.answers, progress.errors) == (24, 12)
    errors = [str(row[0]) for row in rows(tmp_path / "out", "SELECT error FROM answers WHERE error IS NOT NULL")]
    assert len(errors) == 12
    assert not any("503" in error for error in errors)


async def test_what_will_not_pass_is_an_error_row_at_once(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.failing = 400
    progress = await go(plan, tmp_path / "out")
    assert (progress.answers, progress.errors) == (24, 24)


async def test_shards_are_parts_that_merge_to_the_whole(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    folders = [tmp_path / f"part{part}" for part in (1, 2, 3)]
    for part, folder in enumerate(folders, start=1):
        await go(plan, folder, (part, 3))
    assert len(endpoint.asked) == 24
    with Store(tmp_path / "whole") as whole:
        for folder in folders:
            whole.merge(folder)
    assert rows(tmp_path / "whole", "SELECT count(*) FROM answers") == [(24,)]
    assert rows(tmp_path / "whole", "SELECT count(*) FROM verdicts") == [(48,)]
    assert (await go(plan, tmp_path / "whole")).total == 0


async def test_stored_answers_are_judged_again_without_any_target(
    plan: Plan, endpoint: Endpoint, questions: Path, tmp_path: Path
) -> None:
    await go(replace(plan, judges=plan.judges[:1]), tmp_path / "out")
    asked = len(endpoint.asked)
    endpoint.failing = 500
    questions.unlink()
    progress = Progress()
    with Store(tmp_path / "out", make=False) as store:
        await judge_again(plan, [RefusalJudge()], store, progress)
    assert (progress.verdicts, len(endpoint.asked)) == (24, asked)
    assert rows(tmp_path / "out", "SELECT sum(refused) FROM verdicts WHERE judge LIKE 'refusal%'") == [(12,)]


async def test_pictures_go_to_the_target_and_come_back_for_a_judge(
    plan: Plan, endpoint: Endpoint, draw: Draw, tmp_path: Path
) -> None:
    (tmp_path / "p.png").write_bytes(draw("a label"))
    file = tmp_path / "seen.jsonl"
    file.write_text('{"id": "p", "prompt": "What is this?", "images": ["p.png"], "harmful": false}\n', encoding="utf-8")
    await go(replace(plan, benchmarks=(f"jsonl:{file}",)), tmp_path / "out")
    with Store(tmp_path / "out", make=False) as store:
        sample = store.sample("seen", "p")
    assert sample.chat.images[0].data == (tmp_path / "p.png").read_bytes()


async def test_an_unreadable_sample_is_counted_and_ends_nothing(plan: Plan, questions: Path, tmp_path: Path) -> None:
    with questions.open("a", encoding="utf-8") as file:
        file.write('{"id": "bad", "prompt": "x", "harmful": "perhaps"}\n')
    progress = await go(plan, tmp_path / "out")
    assert (progress.answers, progress.broken, progress.total) == (24, 1, 24)


def test_a_killed_run_goes_on_where_it_was(endpoint: Endpoint, questions: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: what was committed is not asked again, and the end is the same."""
    endpoint.delay = 0.3
    command = [
        sys.executable, "-m", "vlmguard.cli.main", "eval", "run", "--out", str(tmp_path / "out"), "--benchmark", f"jsonl:{questions}",
        "--target", f"tiny=endpoint:{endpoint.url}#m", "--defence", "none", "--judge", "refusal", "--concurrency", "2",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while len(endpoint.asked) < 7 and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (kept,) = rows(tmp_path / "out", "SELECT count(*) FROM answers")[0]
    assert isinstance(kept, int)
    assert 0 < kept < 12
    before = len(endpoint.asked)
    endpoint.delay = 0.0
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert len(endpoint.asked) - before == 12 - kept
    assert rows(tmp_path / "out", "SELECT count(*) FROM answers WHERE error IS NULL") == [(12,)]
    assert (tmp_path / "out/report.html").exists()


def test_limits_and_shards_draw_the_same_samples_everywhere(plan: Plan) -> None:
    from vlmguard.evaluate.crew import open_benchmarks

    (benchmark,) = open_benchmarks(plan)
    few = replace(plan, limit=5)
    assert len(chosen(benchmark, few)) == 5
    parts = [chosen(benchmark, few, (part, 2)) for part in (1, 2)]
    assert sorted(parts[0] + parts[1]) == sorted(chosen(benchmark, few))
    assert read_shard("2/8") == (2, 8)
    for wrong in ("0/8", "9/8", "1", "a/b", "1/0"):
        with pytest.raises(InputError):
            read_shard(wrong)


def test_plans_are_read_and_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('benchmarks = ["jsonl:a"]\ntargets = ["scripted:b"]\n[prices]\nb = [1, 2]\n', encoding="utf-8")
    plan = load_plan(file)
    assert (plan.folder, plan.prices) == (tmp_path, {"b": (1.0, 2.0)})
    assert json.dumps(plan.form())
    for told in (
        {},
        {"benchmarks": ["a"]},
        {"benchmarks": "a", "targets": ["b"]},
        {"benchmarks": [1], "targets": ["b"]},
        {"benchmarks": ["a"], "targets": ["b"], "colour": 1},
        {"benchmarks": ["a"], "targets": ["b"], "concurrency": 0},
        {"benchmarks": ["a"], "targets": ["b"], "concurrency": True},
        {"benchmarks": ["a"], "targets": ["b"], "limit": 0},
        {"benchmarks": ["a", "a"], "targets": ["b"]},
        {"benchmarks": ["a"], "targets": ["b"], "seeds": [0, 1]},
        {"benchmarks": ["a"], "targets": ["b"], "seeds": ["x"]},
        {"benchmarks": ["a"], "targets": ["b"], "temperature": -1.0},
        {"benchmarks": ["a"], "targets": ["b"], "temperature": float("nan")},
        {"benchmarks": ["a"], "targets": ["b"], "patience": float("nan")},
        {"benchmarks": ["a"], "targets": ["b"], "prices": {"m": [1]}},
    ):
        with pytest.raises(InputError):
            make_plan(told, "here")
    file.write_text("benchmarks = [", encoding="utf-8")
    with pytest.raises(InputError, match="no TOML"):
        load_plan(file)


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        Store(tmp_path / "nothing", make=False)
    (tmp_path / "run.sqlite").write_bytes(b"not a database, and long enough to look at" * 40)
    with pytest.raises(VlmguardError, match="no run of vlmguard"):
        Store(tmp_path)


@pytest.mark.parametrize("change", [{"max_tokens": 7}, {"defences": ("none", "safety-prompt")}])
async def test_other_settings_under_the_same_name_are_refused(
    plan: Plan, endpoint: Endpoint, tmp_path: Path, change: dict[str, Any]
) -> None:
    await go(plan, tmp_path / "out")
    asked = len(endpoint.asked)
    with pytest.raises(InputError, match="begun with other settings"):
        await go(replace(plan, **change), tmp_path / "out")
    assert len(endpoint.asked) == asked
    await go(replace(plan, max_tokens=7), tmp_path / "other")
    with Store(tmp_path / "out") as store, pytest.raises(InputError, match="begun with other settings"):
        store.merge(tmp_path / "other")
    assert rows(tmp_path / "out", "SELECT count(*) FROM answers") == [(24,)]


async def test_a_picture_that_changed_is_refused_and_a_lost_one_hides_no_answer(
    plan: Plan, draw: Draw, tmp_path: Path
) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(draw("a label"))
    file = tmp_path / "seen.jsonl"
    file.write_text('{"id": "p", "prompt": "What is this?", "images": ["p.png"], "harmful": false}\n', encoding="utf-8")
    seen = replace(plan, benchmarks=(f"jsonl:{file}",))
    await go(seen, tmp_path / "out")
    more = replace(seen, judges=(*plan.judges, "match"), defences=(*plan.defences, "figstep"))
    picture.write_bytes(draw("another"))
    with pytest.raises(InputError, match="not what it was when it was answered"):
        await go(more, tmp_path / "out")
    picture.write_bytes(b"no picture")
    await go(more, tmp_path / "out")
    assert rows(tmp_path / "out", "SELECT broken FROM samples") == [(None,)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_merge_keeps_an_answer_together_with_its_verdicts(
    plan: Plan, endpoint: Endpoint, tmp_path: Path, order: tuple[int, int]
) -> None:
    """The same questions twice, once with failures: real answers win in any order, and no verdict is of another answer."""
    folders = [tmp_path / "good", tmp_path / "failed"]
    await go(plan, folders[0])
    endpoint.failing = 400
    await go(plan, folders[1])
    with Store(tmp_path / "whole") as whole:
        for place in order:
            whole.merge(folders[place])
    assert rows(tmp_path / "whole", "SELECT count(*), sum(error IS NOT NULL) FROM answers") == [(24, 0)]
    assert rows(tmp_path / "whole", "SELECT count(*), sum(error IS NOT NULL) FROM verdicts") == [(48, 0)]
    with sqlite3.connect(folders[0] / "run.sqlite") as db:
        db.execute("UPDATE answers SET text = 'another'")
        db.execute("UPDATE verdicts SET rationale = 'of another'")
    db.close()
    with Store(tmp_path / "whole") as whole:
        whole.merge(folders[0])
    assert rows(tmp_path / "whole", "SELECT sum(text = 'another') FROM answers") == [(0,)]
    assert rows(tmp_path / "whole", "SELECT sum(rationale = 'of another') FROM verdicts") == [(0,)]


def test_one_process_writes_to_a_run(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "out"), Store(tmp_path / "out")
    with first, second, first.alone(), pytest.raises(InputError, match="another process"), second.alone():
        pass
    with Store(tmp_path / "out") as again, again.alone():
        pass


def test_a_refused_plan_leaves_nothing_and_no_folder_is_closed_to_its_owners_group(
    questions: Path, tmp_path: Path
) -> None:
    command = ["eval", "run", "--benchmark", f"jsonl:{questions}", "--target", "scripted:none.jsonl"]
    assert main([*command, "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    mine.chmod(0o755)
    Store(mine).__exit__()
    assert mine.stat().st_mode & 0o777 == 0o755
    assert (mine / "run.sqlite").stat().st_mode & 0o077 == 0
    assert (mine / "pictures").stat().st_mode & 0o077 == 0


async def test_a_judge_is_known_by_what_it_is(plan: Plan, tmp_path: Path) -> None:
    """Another script under the same name is another judge, and is asked."""
    script = tmp_path / "judge.jsonl"
    script.write_text('{"answer": "nothing"}\n', encoding="utf-8")
    judged = replace(plan, judges=(f"three-way:scripted:{script}",))
    await go(judged, tmp_path / "out")
    script.write_text('{"answer": "something else"}\n', encoding="utf-8")
    assert (await go(judged, tmp_path / "out")).verdicts == 24
    assert len(rows(tmp_path / "out", "SELECT DISTINCT judge FROM verdicts")) == 2


async def test_half_characters_end_no_run(plan: Plan, endpoint: Endpoint, questions: Path, tmp_path: Path) -> None:
    """A lone surrogate, which is valid JSON and no UTF-8, in an answer and in every field of a row."""
    endpoint.suffix = "\ud83d"
    row = {
        "id": "h\ud83d",
        "prompt": "a\ud83d",
        "category": "b\ud83d",
        "group": "c\ud83d",
        "hazard": "d\ud83d",
        "harmful": True,
    }
    with questions.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    progress = await go(plan, tmp_path / "out")
    assert (progress.answers, progress.errors, progress.broken, progress.verdicts) == (26, 0, 0, 52)
    assert (await go(plan, tmp_path / "out")).total == 0


async def test_a_price_is_of_a_model_that_takes_part(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model has that name: there are .*m"):
        await go(replace(plan, prices={"typo": (1.0, 1.0)}), tmp_path / "out")


def test_an_estimate_counts_verdicts_and_short_answers(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text('{"answer": "Yes."}\n', encoding="utf-8")
    judge = tmp_path / "judge.jsonl"
    judge.write_text('{"answer": "Safe."}\n', encoding="utf-8")
    command = [
        "eval",
        "run",
        "--benchmark",
        f"jsonl:{questions}",
        "--target",
        f"scripted:{script}",
        "--defence",
        "none",
    ]
    judged = [
        "--judge",
        f"three-way:scripted:{judge}",
        "--max-tokens",
        "10",
        "--estimate",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, *judged]) == 0
    told = capsys.readouterr().err
    assert "10 an answer and 150 a verdict" in told
    assert "at most" not in told
    assert not (tmp_path / "out").exists()


def test_progress_says_why_a_model_is_waited_for() -> None:
    line = progress_line(Progress(total=3, waiting=2, last_error="the endpoint\ndoes not answer"), Spend())
    assert "2 waiting for a model (the endpoint does not answer)" in line


async def test_a_run_that_is_cancelled_counts_no_answer(plan: Plan, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.failing = 503
    progress = Progress()
    with Store(tmp_path / "out") as store:
        crew = open_crew(plan, store)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run(plan, crew, store, progress), 1.5)
        await crew.close()
    assert progress.answers == 0
    assert "503" in progress.last_error
