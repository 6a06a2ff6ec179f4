"""Runs that are killed, starved of their model, poisoned or short of disk; and the same rows from both engines."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.synth.oracle import Judge, Target, Teacher, picture, row
from tests.synth.worker import recipe as recipe_of
from vlmguard.errors import ModelError
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.synth import crew as crew_of
from vlmguard.synth.crew import Crew
from vlmguard.synth.engine_local import run_local
from vlmguard.synth.export import export
from vlmguard.synth.prepare import prepare
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store, StoreError
from vlmguard.types import Answer, Chat, Completion, Sample, Sampling, Verdict


def _rows(folder: Path, count: int) -> None:
    picture(folder / "a.png", 1)
    picture(folder / "b.png", 2)
    lines = []
    for number in range(count):
        changes: dict[str, Any] = {"images": ["a.png" if number % 2 else "b.png"]} if number % 3 == 0 else {}
        if number % 4 == 0:
            changes |= {"benign": True, "prompt": f"What is the name of bottle {number} on shelf {number * 31}"}
        lines.append(json.dumps(row(number, **changes)))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def _crew(teacher: Teacher | None = None) -> Crew:
    judge = Judge()
    return Crew(teacher or Teacher(), Target(), judge, judge.keeps_need)


def _run(folder: Path, policy: Policy, crew: Crew, recipe: Recipe | None = None, **options: Any) -> None:
    settings = recipe or recipe_of(folder)
    with Store(folder / "out") as store:
        prepare(settings, folder / "out", store)
        store.reopen(settings.fingerprint())
        asyncio.run(run_local(store, crew, settings, policy, PictureStore(folder / "out" / "pictures"), **options))
        export(store, settings, folder / "out")


def _dataset(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "data.jsonl").read_text().splitlines()]


def _states(folder: Path) -> Counter[str]:
    with Store(folder / "out") as store:
        return Counter(stored.state for stored in store.rows("kept", "rejected", "failed", "pending"))


def test_a_run_that_is_killed_again_and_again_does_every_row_once(tmp_path: Path) -> None:
    _rows(tmp_path, 60)
    command = [sys.executable, "-m", "tests.synth.worker", str(tmp_path), "0.02"]
    moments = random.Random(3)
    kills = 0
    for _ in range(12):
        process = subprocess.Popen(command)
        try:
            process.wait(0.4 + moments.random() * 1.2)
            assert process.returncode == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    else:
        subprocess.run(command, check=True)
    assert kills >= 1
    rows = _dataset(tmp_path)
    assert len(rows) == 60
    assert len({one["id"] for one in rows}) == 60
    # Calls that were under way at a kill may be asked again: at most 8 rows were, of each kill. All others once.
    calls = Counter((tmp_path / "calls.log").read_text().splitlines())
    assert sum(count - 1 for count in calls.values()) <= 8 * kills


def test_a_model_that_is_away_for_a_while_loses_nothing(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rows(tmp_path, 40)

    class Away(Teacher):
        until = time.monotonic() + 1.5

        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            if time.monotonic() < self.until:
                raise ModelError("the server does not answer", transient=True)
            return await super().generate(chat, sampling)

    monkeypatch.setattr(crew_of, "FIRST_DELAY", 0.1)
    _run(tmp_path, policy, _crew(Away()))
    assert _states(tmp_path) == {"kept": 40}


def test_patience_ends_and_what_was_done_is_kept(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _rows(tmp_path, 40)

    class Dying(Teacher):
        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            if self.asked.total() > 40:
                raise ModelError("the server does not answer", transient=True)
            return await super().generate(chat, sampling)

    monkeypatch.setattr(crew_of, "FIRST_DELAY", 0.05)
    with pytest.raises(ModelError, match="run again"):
        _run(tmp_path, policy, _crew(Dying()), patience=0.3)
    kept = _states(tmp_path)["kept"]
    assert kept > 0
    again = Teacher()
    _run(tmp_path, policy, _crew(again))
    assert _states(tmp_path) == {"kept": 40}
    assert again.asked["causal"] <= 40 - kept


def test_a_poison_row_fails_alone_and_is_tried_again_at_the_next_run(tmp_path: Path, policy: Policy) -> None:
    _rows(tmp_path, 30)

    class Choking(Teacher):
        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            words = " ".join(message.text for message in chat.messages)
            if "alpha1 " in words:
                raise ModelError("the context is too long")
            if "beta2" in words:
                raise ValueError("a bug of ours")
            return await super().generate(chat, sampling)

    _run(tmp_path, policy, _crew(Choking()))
    states = _states(tmp_path)
    assert states["failed"] >= 1
    assert states["kept"] == 30 - states["failed"]
    _run(tmp_path, policy, _crew())
    assert _states(tmp_path) == {"kept": 30}


def test_other_settings_do_rows_again_and_reuse_what_still_holds(tmp_path: Path, policy: Policy) -> None:
    import dataclasses

    _rows(tmp_path, 12)
    teacher = Teacher()
    _run(tmp_path, policy, _crew(teacher))
    asked = teacher.asked["hindsight"]
    _run(tmp_path, policy, _crew(teacher), dataclasses.replace(recipe_of(tmp_path), best_of=2))
    assert teacher.asked["hindsight"] == asked
    assert teacher.asked["optimise"] == 2 * asked
    assert _states(tmp_path) == {"kept": 12}


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    _rows(tmp_path, 300)
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))\n"
        "sys.argv = sys.argv[:3]\n"
        "from tests.synth.worker import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), "0"]
    full = subprocess.run([*command, "700000"], capture_output=True, text=True, check=False)
    assert full.returncode != 0
    assert "StoreError" in full.stderr
    assert "free space" in full.stderr
    roomy = subprocess.run([*command, "100000000"], capture_output=True, text=True, check=False)
    assert roomy.returncode == 0, roomy.stderr
    assert len(_dataset(tmp_path)) == 300


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    from vlmguard.errors import InputError

    with Store(tmp_path) as store:
        store.set_meta("version", "99")
    with pytest.raises(InputError, match="another version"):
        Store(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(InputError, match="not the state of a run"):
        Store(tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used for a run"):
        Store(tmp_path / "file")


def test_a_second_run_in_the_same_folder_is_kept_out(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from vlmguard.synth.store import Store; Store(Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with Store(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another run works in" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_database_that_another_program_holds_is_said(tmp_path: Path) -> None:
    import sqlite3

    with Store(tmp_path) as store:
        other = sqlite3.connect(tmp_path / "run.sqlite")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="end the other run"):
            store.set_meta("a", "b")
        other.close()


async def test_twins_of_the_last_rows_are_done(tmp_path: Path, policy: Policy) -> None:
    """A worker that finds no row left must not end the run for those whose rows still owe a twin."""

    class Slow(Teacher):
        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            await asyncio.sleep(0.02)
            return await super().generate(chat, sampling)

    rows = [row(0, benign=True, prompt="What is the name of this bottle"), *(row(number) for number in range(1, 11))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = settings_twins(recipe_of(tmp_path))
    with Store(tmp_path / "out") as store:
        prepare(settings, tmp_path / "out", store)
        store.reopen("x")
        await run_local(store, _crew(Slow()), settings, policy, PictureStore(tmp_path / "out" / "pictures"))
        assert store.counts() == {("kept", ""): 21}


async def test_a_judge_that_is_away_is_waited_for_though_others_get_through(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Judge):
        until = time.monotonic() + 1.0

        async def __call__(self, sample: Sample, answer: Answer, /) -> Verdict:
            if time.monotonic() < self.until:
                raise ModelError("the judge does not answer", transient=True)
            return await super().__call__(sample, answer)

    monkeypatch.setattr(crew_of, "FIRST_DELAY", 0.05)
    _rows(tmp_path, 40)
    settings = recipe_of(tmp_path)
    judge = Away()
    told: list[str] = []
    with Store(tmp_path / "out") as store:
        prepare(settings, tmp_path / "out", store)
        store.reopen("x")
        crew = Crew(Teacher(), Target(), judge, judge.keeps_need)
        await run_local(store, crew, settings, policy, PictureStore(tmp_path / "out" / "pictures"), tell=told.append)
        assert store.counts() == {("kept", ""): 40}
    assert told
    assert "judge does not answer" in told[0]


def make_crew(recipe: Recipe) -> Crew:
    """For Ray's actors, which import this module."""
    del recipe
    return _crew()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_ray_gives_the_same_rows_and_ids(tmp_path: Path, policy: Policy) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from vlmguard.synth.engine_ray import run_ray

    for name in ("local", "ray"):
        (tmp_path / name).mkdir()
        _rows(tmp_path / name, 70)
    settings = recipe_of(tmp_path / "ray")
    _run(tmp_path / "local", policy, _crew(), settings_twins(recipe_of(tmp_path / "local")))
    settings = settings_twins(settings)
    out = tmp_path / "ray" / "out"
    root = str(Path(__file__).parents[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    try:
        with Store(out) as store:
            prepare(settings, out, store)
            store.reopen(settings.fingerprint())
            run_ray(store, settings, policy, out, make_crew, actors=2)
            export(store, settings, out)
    finally:
        ray.shutdown()
    ours, theirs = _dataset(tmp_path / "local"), _dataset(tmp_path / "ray")
    for one in (*ours, *theirs):
        one["provenance"].pop("seconds")
    assert len(ours) > 70
    assert ours == theirs


def settings_twins(recipe: Recipe) -> Recipe:
    import dataclasses

    return dataclasses.replace(recipe, mix="twins")
