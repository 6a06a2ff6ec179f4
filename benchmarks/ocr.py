"""Speed of the text reader beside plain rapidocr, with character error rate and line recall in the same table.

    python benchmarks/ocr.py [--rounds 7] [--threads 2] [--font FILE.ttf]

Both read the same drawn pictures in turn, warm, in one process, so that a ratio of medians means something on a noisy
machine. Aims: 0.7 × for a small picture with five lines, 0.35 × for a photograph without text and for a dense page, at a
character error rate of at most 0.05. "recall" counts drawn lines that some line read matches but for a tenth of its
letters; "false" counts lines read where none was drawn. The table is kept in benchmarks/out/ocr.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

from vlmguard.perception.ocr import TextReader

Pixels = NDArray[np.uint8]
WORDS = (
    "the quick brown fox jumps over a lazy dog while seven other animals watch from behind the fence and write down every "
    "step of their plan before noon reaches village market where people trade apples bread cheese honey for coins tools"
).split()


@dataclass(frozen=True, slots=True)
class Case:
    """A picture and what was written in it."""

    name: str
    pixels: Pixels
    lines: tuple[str, ...]
    aim: float | None
    """The largest ratio of the reader's median time to rapidocr's; None: no aim."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one case."""

    name: str
    rounds: int
    seconds: float
    rapidocr_seconds: float
    ratio: float
    """Of the medians."""
    aim: float | None
    error_rate: float | None
    rapidocr_error_rate: float | None
    recall: float | None
    rapidocr_recall: float | None
    false: int
    rapidocr_false: int


def cases(font: ImageFont.FreeTypeFont | None) -> list[Case]:
    """The pictures of the table."""
    rng = random.Random(1)
    return [
        written("512² five lines", (512, 512), 5, 24, rng, font, aim=0.7),
        Case("1024² photograph-like, no text", scenery(1024, 1024, 3), (), 0.35),
        Case("1024² photograph-like, smooth, no text", scenery(1024, 1024, 8, roughness=0.4), (), 0.35),
        written("2048×1500 dense page", (1500, 2048), 62, 22, rng, font, aim=0.35),
        written("1024² small print, 12 px", (1024, 1024), 20, 12, rng, font),
        upside_down(written("1024² upside down", (1024, 1024), 12, 24, rng, font)),
        mirrored(written("1024² mirrored", (1024, 1024), 12, 24, rng, font)),
        written("1024² six grey levels", (1024, 1024), 12, 28, rng, font, ink=224, ground=230),
    ]


def written(
    name: str,
    size: tuple[int, int],
    lines: int,
    height: int,
    rng: random.Random,
    font: ImageFont.FreeTypeFont | None,
    *,
    ink: int = 20,
    ground: int = 250,
    aim: float | None = None,
) -> Case:
    """Draw lines of words as wide as the picture, evenly spaced."""
    face = font.font_variant(size=height) if font else ImageFont.load_default(height)
    picture = Image.new("RGB", size, (ground, ground, ground))
    pen = ImageDraw.Draw(picture)
    texts: list[str] = []
    for number in range(lines):
        text = rng.choice(WORDS).capitalize()
        while pen.textlength(f"{text} {max(WORDS, key=len)}.", font=face) < size[0] - 80:
            text = f"{text} {rng.choice(WORDS)}"
        texts.append(f"{text}.")
        pen.text((40, 16 + number * (size[1] - 32) // lines), texts[-1], font=face, fill=(ink, ink, ink))
    return Case(name, np.asarray(picture), tuple(texts), aim)


def upside_down(case: Case) -> Case:
    """The same picture, turned by 180 degrees."""
    return Case(case.name, np.ascontiguousarray(case.pixels[::-1, ::-1]), case.lines, case.aim)


def mirrored(case: Case) -> Case:
    """The same picture, as a mirror shows it."""
    return Case(case.name, np.ascontiguousarray(case.pixels[:, ::-1]), case.lines, case.aim)


def scenery(width: int, height: int, seed: int, roughness: float = 0.7) -> Pixels:
    """Something like a photograph: clouds of colour at every scale, shapes with soft and hard rims, grain."""
    rng = np.random.default_rng(seed)
    ground = np.full((height, width, 3), rng.uniform(60, 180, 3), np.float32)
    for octave in range(1, 9):
        grid = rng.normal(0, 60 * roughness ** (octave - 1), (2**octave, 2**octave, 3)).astype(np.float32)
        ground += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    for number in range(18):
        shape = np.zeros((height, width), np.float32)
        x, y = (int(v) for v in rng.uniform(0, [width, height]))
        axes = (int(rng.uniform(0.02, 0.2) * width), int(rng.uniform(0.01, 0.1) * height))
        cv2.ellipse(shape, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
        shape = np.asarray(cv2.GaussianBlur(shape, (0, 0), 6) if number % 2 else shape, np.float32)
        ground += shape[..., None] * 0.8 * (rng.uniform(0, 255, 3).astype(np.float32) - ground)
    return np.asarray((ground + rng.normal(0, 3, ground.shape)).clip(0, 255), np.uint8)


def distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def letters(text: str) -> str:
    return "".join(text.lower().split())


def error_rate(read: Sequence[str], drawn: Sequence[str]) -> float | None:
    """Character errors of the whole picture, in order, per character drawn."""
    truth = letters(" ".join(drawn))
    return distance(letters(" ".join(read)), truth) / len(truth) if truth else None


def recall(read: Sequence[str], drawn: Sequence[str]) -> float | None:
    """Share of drawn lines that a line read matches but for a tenth of the letters."""
    found = [letters(line) for line in read]
    hits = [any(distance(letters(line), f) <= len(letters(line)) / 10 for f in found) for line in drawn]
    return statistics.fmean(hits) if hits else None


def measured(case: Case, reader: TextReader, rapid: Callable[[Pixels], list[str]], rounds: int) -> Row:
    """Read the case with both in turn; the first round warms up and does not count."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        read = [line.text for line in reader.read(case.pixels).lines]
        between = time.perf_counter()
        read_by_rapid = rapid(case.pixels)
        theirs.append(time.perf_counter() - between)
        ours.append(between - started)
    mine, plain = statistics.median(ours[1:]), statistics.median(theirs[1:])
    return Row(
        name=case.name,
        rounds=rounds,
        seconds=mine,
        rapidocr_seconds=plain,
        ratio=mine / plain,
        aim=case.aim,
        error_rate=error_rate(read, case.lines),
        rapidocr_error_rate=error_rate(read_by_rapid, case.lines),
        recall=recall(read, case.lines),
        rapidocr_recall=recall(read_by_rapid, case.lines),
        false=0 if case.lines else len(read),
        rapidocr_false=0 if case.lines else len(read_by_rapid),
    )


def printed(row: Row) -> str:
    def pair(a: float | None, b: float | None) -> str:
        return "      –      " if a is None or b is None else f"{a:6.3f} {b:6.3f}"

    aim = "" if row.aim is None else f"≤ {row.aim:.2f} {'ok' if row.ratio <= row.aim else 'MISSED'}"
    return (
        f"{row.name:40} {row.seconds:7.3f} {row.rapidocr_seconds:7.3f}  {row.ratio:5.2f} {aim:13} "
        f"{pair(row.error_rate, row.rapidocr_error_rate)}  {pair(row.recall, row.rapidocr_recall)}  "
        f"{row.false:3} {row.rapidocr_false:3}"
    )


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of the reader; rapidocr takes all cores, as it comes")
    parser.add_argument("--font", type=Path, help="a font file; Pillow's own where none is given")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    reader, plain = TextReader(threads=asked.threads), RapidOCR()

    def rapid(pixels: Pixels) -> list[str]:
        return list(plain(np.ascontiguousarray(pixels[:, :, ::-1])).txts or [])

    font = ImageFont.truetype(asked.font, 24) if asked.font else None
    print(f"{'':40} seconds rapidocr ratio aim            error rate      recall         false")
    rows: list[Row] = []
    for case in cases(font):
        rows.append(measured(case, reader, rapid, asked.rounds))
        print(printed(rows[-1]), flush=True)
    out = Path(__file__).parent / "out" / "ocr.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
