"""The command as a whole process, and the memory of a batch. Needs psutil.

    python benchmarks/process.py [--images 1000]

Times `vlmguard refine "hello"` (aim: at most 0.6 s) beside a bare `python -c pass`, interleaved; the same picture again through
the content-hash cache (aim: at most 1 ms); and a batch over many drawn pictures of different sizes, whose workers' memory is
watched (aim: at most 700 MB each, flat: the second half's peak beside the first half's).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image, ImageDraw, ImageFont

REFINE = [sys.executable, "-m", "vlmguard.cli.main", "refine"]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def whole_process(rounds: int) -> dict[str, float]:
    bare, refine = [], []
    for _ in range(rounds):
        bare.append(seconds([sys.executable, "-c", "pass"]))
        refine.append(seconds([*REFINE, "hello"]))
    return {
        "rounds": rounds,
        "python": statistics.median(bare),
        "refine": statistics.median(refine),
        "refine worst": max(refine),
    }


def picture(folder: Path, number: int, rng: random.Random) -> str:
    size = rng.randint(200, 1400), rng.randint(200, 1400)
    image = Image.new("RGB", size, tuple(rng.randint(120, 255) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for line in range(rng.randint(0, 6)):
        pen.text(
            (10, 10 + line * 40), f"line {line} of picture {number}", fill="black", font=ImageFont.load_default(24)
        )
    name = f"{number}.jpg"
    image.save(folder / name)
    return name


def same_picture_again(folder: Path) -> dict[str, float]:
    from vlmguard.images import read_image
    from vlmguard.perception.sight import Eyes

    eyes, image = Eyes(), read_image((folder / "0.jpg").read_bytes())
    started = time.perf_counter()
    eyes.look(image)
    first = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(1000):
        eyes.look(image)
    return {"first ms": first * 1e3, "again ms": (time.perf_counter() - started)}


def batch_memory(folder: Path, count: int) -> dict[str, float]:
    rows = [{"id": number, "prompt": "What is this?", "images": [f"{number}.jpg"]} for number in range(count)]
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    started = time.perf_counter()
    run = psutil.Popen([*REFINE, "--batch", str(source), "--out", str(out)])
    peaks = [0.0, 0.0]
    while run.poll() is None:
        done = out.read_bytes().count(b"\n") if out.exists() else 0
        half = int(done >= count // 2)
        for child in run.children(recursive=True):
            try:
                peaks[half] = max(peaks[half], child.memory_info().rss / 1e6)
            except psutil.Error:
                continue
        time.sleep(0.1)
    took = time.perf_counter() - started
    return {"images": count, "peak MB first half": peaks[0], "peak MB second half": peaks[1], "images/s": count / took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    rng = random.Random(0)
    report = {"whole process, seconds (median)": whole_process(arguments.rounds)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(arguments.images):
            picture(folder, number, rng)
        report["the same picture again"] = same_picture_again(folder)
        report["batch, one picture a row"] = batch_memory(folder, arguments.images)
    out = Path(__file__).parent / "out" / "process.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1))
    for title, figures in report.items():
        print(title, {key: round(value, 4) for key, value in figures.items()})


if __name__ == "__main__":
    main()
