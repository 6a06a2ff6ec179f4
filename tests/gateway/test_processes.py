"""The command as users run it: real processes, several workers, kills, a real PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from tests.gateway.kit import HARMLESS, Running, Upstream, _dashed, metric, wait_until
from tests.gateway.postgres import Postgres
from vlmguard.gateway.keys import hash_key

FLUSH_SECONDS = 1.0
"""The stated interval in these tests: long enough that a busy machine's own pauses do not decide them."""


class Command(Running):
    """A gateway in processes of its own."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process = process

    def __repr__(self) -> str:
        return f"Command({self.url})"

    def workers(self) -> list[int]:
        """Process ids of those that serve, without multiprocessing's own helper."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
                if "resource_tracker" not in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def kill(self) -> None:
        """Every process at once, without a word."""
        for process in (*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)):
            process.kill()
        self.process.wait(20)


@contextlib.contextmanager
def command(folder: Path, upstream: str, *arguments: str, toml: str = "", **environment: str) -> Iterator[Command]:
    """``vlmguard serve`` on a free port."""
    (folder / "vlmguard.toml").write_text(toml)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    log = folder / "gateway.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vlmguard.cli.main",
                "serve",
                "--upstream",
                upstream,
                "--port",
                str(port),
                *arguments,
            ],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=out,
            stderr=out,
        )
    running = Command(f"http://127.0.0.1:{port}", process)
    try:
        wait_until(lambda: process.poll() is not None or _lives(running), 60)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        process.terminate()
        process.wait(60)


def _lives(running: Command) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return running.get("/readyz").status_code == 200
    return False


def rows(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What ``vlmguard audit export`` gives."""
    done = subprocess.run(
        [sys.executable, "-m", "vlmguard.cli.main", "audit", "export", *arguments],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def ask_often(running: Command, stop: threading.Event, answered: dict[str, float], **headers: str) -> None:
    """Asks until told to stop; notes id and moment of each answer."""
    with httpx.Client(timeout=30, headers=_dashed(headers)) as client:
        while not stop.is_set():
            body = {"messages": [{"role": "user", "content": f"{HARMLESS} {random.random()}"}]}
            with contextlib.suppress(httpx.HTTPError):
                answer = client.post(f"{running.base}/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                answered[answer.headers["x-vlmguard-id"]] = time.monotonic()


def test_workers_share_audit_rates_and_metrics(tmp_path: Path, upstream: Upstream) -> None:
    toml = f'[keys.a]\nhash = "{hash_key("one")}"\nrequests_per_minute = 30\n[keys.b]\nhash = "{hash_key("two")}"\n'
    with command(tmp_path, upstream.url, "--workers", "2", "--log-level", "warning", toml=toml) as running:
        assert len(running.workers()) == 2
        # Many connections, so that both workers get some.
        answers = [running.chat(f"{HARMLESS} {n}", authorization="Bearer two") for n in range(40)]
        assert {answer.status_code for answer in answers} == {200}
        for answer in answers:
            assert running.receipt(answer, authorization="Bearer two")["id"] == answer.headers["x-vlmguard-id"]
        statuses = [running.chat(HARMLESS, authorization="Bearer one").status_code for _ in range(33)]
        assert statuses[:30] == [200] * 30
        assert 429 in statuses[30:]
        text = running.get("/metrics", authorization="Bearer two").text
        assert metric(
            text, "vlmguard_requests_total", route="/v1/chat/completions", status="200"
        ) == 40 + statuses.count(200)
    assert len(rows(tmp_path)) == 40 + statuses.count(200)


def test_a_worker_that_is_killed_is_started_again(tmp_path: Path, upstream: Upstream) -> None:
    with command(tmp_path, upstream.url, "--workers", "2", "--log-level", "warning") as running:
        first, second = running.workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: first not in running.workers() and len(running.workers()) == 2, 60)
        assert second in running.workers()
        wait_until(lambda: running.chat(HARMLESS).status_code == 200)


def test_asked_to_stop_it_finishes_what_it_has_begun(tmp_path: Path, upstream: Upstream) -> None:
    answered: dict[str, float] = {}
    stop = threading.Event()
    with command(tmp_path, upstream.url, "--log-level", "warning") as running:
        asking = threading.Thread(target=ask_often, args=(running, stop, answered))
        asking.start()
        wait_until(lambda: len(answered) > 20)
        running.process.terminate()
        assert running.process.wait(60) == 0
        stop.set()
        asking.join()
    assert answered.keys() <= {row["id"] for row in rows(tmp_path)}


def _lost_after_a_kill(folder: Path, upstream: str, seconds: float, *arguments: str, **environment: str) -> float:
    """The age, when everything was killed, of the oldest answered request of which the audit knows nothing. 0: none."""
    answered: dict[str, float] = {}
    stop = threading.Event()
    stated = {"VLMGUARD_AUDIT_FLUSH_SECONDS": str(FLUSH_SECONDS), **environment}
    with command(folder, upstream, "--log-level", "warning", *arguments, **stated) as running:
        asking = [threading.Thread(target=ask_often, args=(running, stop, answered)) for _ in range(3)]
        for thread in asking:
            thread.start()
        wait_until(lambda: len(answered) > 5)
        time.sleep(FLUSH_SECONDS + seconds)
        killed = time.monotonic()
        running.kill()
        stop.set()
        for thread in asking:
            thread.join()
        database = environment.get("VLMGUARD_AUDIT_URL", "sqlite:vlmguard-audit.db")
        kept = {row["id"] for row in rows(folder, "--database", database)}
        lost = [moment for id, moment in answered.items() if id not in kept and moment <= killed]
        assert len(kept & answered.keys()) >= 1
        return killed - min(lost, default=killed)


def test_a_kill_loses_at_most_one_flush_interval(tmp_path: Path, upstream: Upstream) -> None:
    assert _lost_after_a_kill(tmp_path, upstream.url, 1.0) <= FLUSH_SECONDS


def test_decisions_are_kept_in_postgresql_and_survive_a_kill(
    tmp_path: Path, upstream: Upstream, postgres: Postgres
) -> None:
    url = postgres.create()
    assert _lost_after_a_kill(tmp_path, upstream.url, 1.0, "--workers", "2", VLMGUARD_AUDIT_URL=url) <= FLUSH_SECONDS
    with command(tmp_path, upstream.url, "--log-level", "warning", "--audit", url) as running:
        answer = running.chat(HARMLESS)
        assert running.receipt(answer)["outcome"] == "forward"
        wait_until(
            lambda: postgres.psql(
                url, f"select outcome, status from vlmguard_decisions where id = '{answer.headers['x-vlmguard-id']}'"
            )
        )
        found = postgres.psql(
            url, f"select outcome, status from vlmguard_decisions where id = '{answer.headers['x-vlmguard-id']}'"
        )
        assert found.strip() == "forward|0"


def test_an_audit_that_cannot_be_written_stops_requests_and_not_in_silence(
    tmp_path: Path, upstream: Upstream, postgres: Postgres
) -> None:
    url = postgres.create()
    toml = "deadline = 2\n[audit]\nqueue = 2\n"
    with command(tmp_path, upstream.url, "--audit", url, "--log-level", "warning", toml=toml) as running:
        assert running.chat(HARMLESS).status_code == 200
        postgres.freeze()
        try:
            answers = [running.chat(f"{HARMLESS} {n}") for n in range(6)]
            assert running.get("/readyz").status_code == 503
        finally:
            postgres.thaw()
        refused = [answer for answer in answers if answer.status_code == 503]
        assert refused
        assert {answer.json()["error"]["code"] for answer in refused} == {"audit_failed"}
        passed = [answer.headers["x-vlmguard-id"] for answer in answers if answer.status_code == 200]
        wait_until(lambda: running.chat(HARMLESS).status_code == 200)
    kept = {row["id"] for row in rows(tmp_path, "--database", url)}
    assert set(passed) <= kept
    chats = [received for received in upstream.received if received.path == "/v1/chat/completions"]
    assert len(chats) == len(kept)  # what was refused never reached the upstream, and what did is on record


@pytest.mark.soak
def test_soak_a_hundred_kills_at_random_moments(tmp_path: Path, upstream: Upstream) -> None:
    kills = int(os.environ.get("SOAK_KILLS", "100"))
    dice = random.Random(7)
    lost = []
    for number in range(kills):
        folder = tmp_path / str(number)
        folder.mkdir()
        lost.append(_lost_after_a_kill(folder, upstream.url, dice.uniform(0, 1)))
    print(
        f"n={kills} kills: oldest answered request that was lost: max {max(lost):.3f} s, mean {sum(lost) / kills:.3f} s"
    )
    assert max(lost) <= FLUSH_SECONDS


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rows_that_are_lost_at_the_end_make_the_command_fail(
    tmp_path: Path, upstream: Upstream, postgres: Postgres, workers: str
) -> None:
    url = postgres.create()
    with command(tmp_path, upstream.url, "--audit", url, "--workers", workers, "--log-level", "error") as running:
        assert running.chat(HARMLESS).status_code == 200
        postgres.freeze()
        try:
            passed = [running.chat(f"{HARMLESS} {n}").status_code for n in range(3)]
            running.process.terminate()
            code = running.process.wait(90)
        finally:
            postgres.thaw()
    assert passed == [200] * 3
    assert code == 1
    assert "decisions were NOT written and are lost" in (tmp_path / "gateway.log").read_text()
