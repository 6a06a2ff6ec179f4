"""``runs/sample.sh``: the whole path, and its exit code when the traces are no traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("pyarrow", reason="the dataset is written as Parquet: pip install 'vlmguard[synth]'")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    environment = {**os.environ, "OUT": str(folder), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "runs/sample.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_measures_what_it_promises(out: Path) -> None:
    found = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert found["synth"]["rows"] == found["synth"]["kept"] == 64
    assert (found["valid_traces"]["value"], found["valid_traces"]["n"]) == (1.0, 64)
    assert found["trained_in_this_run"] is False
    assert found["decisions"].keys() == {"rewriter", "majority", "words_alone_at_best", "pictures_alone_at_best"}
    assert found["decisions"]["majority"]["value"] == pytest.approx(42 / 64)
    safe = {row["defence"]: row for row in found["defences"] if row["measure"] == "safe and helpful"}
    assert (safe["none"]["value"], safe["vlmguard (rewriter.jsonl)"]["value"]) == (0.0, 1.0)
    assert safe["none"]["low"] is not None
    assert (out / "eval/report.html").exists()


def test_broken_traces_end_with_1(out: Path, tmp_path: Path) -> None:
    script = tmp_path / "broken.jsonl"
    script.write_text('{"answer": "I would rather not."}\n', encoding="utf-8")
    command = [
        sys.executable, "runs/sample_metrics.py", "--data", str(out / "data"), "--evaluation", str(out / "eval"), "--rows",
        "recipes/sample/rows.jsonl", "--rewriter", f"scripted:{script}", "--out", str(tmp_path / "metrics.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "fewer than 95%" in done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["valid_traces"]["value"] == 0
