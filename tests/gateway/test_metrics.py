from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vlmguard.gateway import metrics
from vlmguard.gateway.metrics import Metrics


def values(text: bytes) -> dict[str, float]:
    """Sample → value, as Prometheus reads it: ``name{label=value,…}``."""
    return {
        f"{sample.name}{{{','.join(f'{key}={value}' for key, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_what_was_observed_is_told() -> None:
    told = Metrics(["hate", "privacy"])
    told.observe_request(
        "/v1/messages", "rewrite", ["hate", "hate", "privacy", "odd"], 200, {"guard": 3.0, "read": 0.1}
    )
    told.observe_request("/v1/messages", "rewrite", [], 200, {"guard": 3000.0})
    told.observe_request("/v1/messages", "block", ["hate"], 403, {})
    told.cache(True)
    told.cache(False)
    told.cache(False)
    told.queue_depth(7)
    with told.in_flight():
        found = values(told.render())
    assert found["vlmguard_requests_total{outcome=rewrite,route=/v1/messages,status=200}"] == 2
    assert found["vlmguard_requests_total{outcome=block,route=/v1/messages,status=403}"] == 1
    assert found["vlmguard_findings_total{category=hate}"] == 2
    assert found["vlmguard_findings_total{category=privacy}"] == 1
    assert found["vlmguard_findings_total{category=other}"] == 1
    assert found["vlmguard_stage_seconds_count{stage=guard}"] == 2
    assert found["vlmguard_stage_seconds_sum{stage=guard}"] == pytest.approx(3.003)
    assert found["vlmguard_stage_seconds_bucket{le=0.004,stage=guard}"] == 1
    assert found["vlmguard_stage_seconds_bucket{le=0.002,stage=guard}"] == 0
    assert found["vlmguard_cache_total{result=hit}"] == 1
    assert found["vlmguard_cache_total{result=miss}"] == 2
    assert found["vlmguard_audit_queue{}"] == 7
    assert found["vlmguard_in_flight{}"] == 1
    assert values(told.render())["vlmguard_in_flight{}"] == 0


def test_words_of_a_clients_cannot_fill_the_memory() -> None:
    told = Metrics()
    for number in range(500):
        told.observe_request(f"/{number}", "forward", [f"word{number}"], 200, {f"stage{number}": 1.0})
    found = values(told.render())
    assert found["vlmguard_requests_total{outcome=forward,route=other,status=200}"] == 500 - 64
    assert found["vlmguard_findings_total{category=other}"] == 500 - 64
    assert found["vlmguard_stage_seconds_count{stage=other}"] == 500 - 64


def test_a_request_that_breaks_is_under_way_no_more() -> None:
    told = Metrics()
    with pytest.raises(RuntimeError), told.in_flight():
        raise RuntimeError
    assert values(told.render())["vlmguard_in_flight{}"] == 0


WORKER = textwrap.dedent(
    """
    import sys
    from vlmguard.gateway.metrics import Metrics
    told = Metrics()
    for _ in range(int(sys.argv[1])):
        told.observe_request("/v1/messages", "forward", ["hate"], 200, {"guard": 2.0})
    told.queue_depth(5)
    with told.in_flight():
        print("ready", flush=True)
        for line in sys.stdin:
            print(told.render().decode() + "end", flush=True)
    """
)


def start(count: int, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(count)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def ask(worker: subprocess.Popen[str]) -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    lines = iter(worker.stdout.readline, "end\n")
    return values("".join(lines).encode())


def test_any_of_several_workers_tells_the_numbers_of_all_even_after_one_was_killed() -> None:
    with metrics.shared() as folder:
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)
        workers = [start(count, folder) for count in (1, 10, 100)]
        for worker in workers:
            found = ask(worker)
            assert found["vlmguard_requests_total{outcome=forward,route=/v1/messages,status=200}"] == 111
            assert found["vlmguard_findings_total{category=hate}"] == 111
            assert found["vlmguard_stage_seconds_count{stage=guard}"] == 111
            assert found["vlmguard_stage_seconds_bucket{le=0.002,stage=guard}"] == 111
            assert found["vlmguard_audit_queue{}"] == 15
            assert found["vlmguard_in_flight{}"] == 3
        workers[2].send_signal(signal.SIGKILL)
        workers[2].communicate()
        workers.append(start(1000, folder))
        found = ask(workers[0])
        assert found["vlmguard_requests_total{outcome=forward,route=/v1/messages,status=200}"] == 1111
        assert found["vlmguard_audit_queue{}"] == 15
        assert found["vlmguard_in_flight{}"] == 3
        for worker in workers:
            worker.communicate()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    assert not folder.exists()


def test_a_folder_that_was_named_already_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with metrics.shared() as folder:
        assert folder == tmp_path
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path)


def test_a_folder_that_is_named_too_late_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker would tell its own numbers as those of all."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="before the process starts"):
        Metrics()


def test_the_text_is_of_the_version_that_is_announced() -> None:
    assert re.search(r"^# TYPE vlmguard_requests_total counter$", Metrics().render().decode(), re.MULTILINE)
    assert metrics.CONTENT_TYPE.startswith("text/plain; version=0.0.4")
