"""A batch over many pictures, and one that is killed again and again. Short in `make test`, long in `make soak`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

REFINE = [sys.executable, "-m", "vlmguard.cli.main", "refine"]
MOST_MEGABYTES = 700.0
FLAT_MEGABYTES = 60.0
"""How much more the second half of a run may hold than the first."""


def command(folder: Path, workers: int) -> list[str]:
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    return [*REFINE, "--batch", str(source), "--out", str(out), "--workers", str(workers)]


def ids(folder: Path) -> list[int]:
    return [json.loads(line)["id"] for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def write_rows(folder: Path, count: int, pictures: int) -> None:
    rng = random.Random(count)
    for number in range(pictures):
        picture = Pictures.new(
            "RGB", (rng.randint(200, 1200), rng.randint(200, 1200)), (200, rng.randint(120, 255), 230)
        )
        pen = ImageDraw.Draw(picture)
        for line in range(rng.randint(0, 5)):
            pen.text((12, 12 + 40 * line), f"line {line} of {number}", fill="black", font=ImageFont.load_default(24))
        picture.save(folder / f"{number}.jpg")
    rows = [
        {"id": number, "prompt": f"What is {number}?", "images": [f"{number}.jpg"] if number < pictures else []}
        for number in range(count)
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("count", [12, pytest.param(1_000, marks=pytest.mark.soak)])
def test_a_batch_of_many_pictures_holds_no_more_memory_at_its_end(tmp_path: Path, count: int) -> None:
    write_rows(tmp_path, count, count)
    run = psutil.Popen(command(tmp_path, 1))
    peaks = [0.0, 0.0]
    out = tmp_path / "out.jsonl"
    while run.poll() is None:
        half = int(out.exists() and out.read_bytes().count(b"\n") >= count // 2)
        for child in run.children(recursive=True):
            try:
                peaks[half] = max(peaks[half], child.memory_info().rss / 1e6)
            except psutil.Error:
                continue
        time.sleep(0.2)
    assert run.wait() == 0
    assert ids(tmp_path) == list(range(count))
    assert 0 < max(peaks) <= MOST_MEGABYTES
    assert count < 100 or peaks[1] <= peaks[0] + FLAT_MEGABYTES


@pytest.mark.parametrize(("count", "kills"), [(60, 2), pytest.param(2_000, 25, marks=pytest.mark.soak)])
def test_a_batch_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, count: int, kills: int) -> None:
    write_rows(tmp_path, count, count // 4)
    rng = random.Random(kills)
    for _ in range(kills):
        run = subprocess.Popen(command(tmp_path, 2), start_new_session=True)
        # From before the first row to after the last one.
        time.sleep(rng.uniform(0.2, 6.0))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert subprocess.run(command(tmp_path, 2), check=False).returncode == 0
    assert ids(tmp_path) == list(range(count))
