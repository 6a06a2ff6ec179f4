"""What tests share: pictures drawn on the spot, and a scorer whose judgement a test can foretell."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from vlmguard.policy import Policy, load_policy
from vlmguard.rewriters.embedded import EmbeddedRewriter

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=3_000)
settings.load_profile("untimed")
"""No test is timed: how long one takes says more of the machine's other work than of the code."""

Draw = Callable[..., bytes]


class WordScorer:
    """A scorer for logic: a text that holds one of the words has its category, with certainty."""

    fingerprint = "words"

    def __init__(self, words: dict[str, str]) -> None:
        self._words = words
        self.asked: list[str] = []

    def score(self, texts: Sequence[str], /) -> list[dict[str, float]]:
        self.asked.extend(texts)
        return [{category: 0.95 for word, category in self._words.items() if word in text.lower()} for text in texts]


@pytest.fixture
def draw() -> Draw:
    """Draws words, a line each, on a plain ground; returns the file's bytes."""

    def make(text: str, *, size: int = 32, kind: str = "PNG", ground: str = "white", ink: str = "black") -> bytes:
        lines = text.split("\n")
        picture = Pictures.new("RGB", (640, 60 + (size + 16) * len(lines)), ground)
        pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
        for number, line in enumerate(lines):
            pen.text((30, 30 + number * (size + 16)), line, fill=ink, font=font)
        file = io.BytesIO()
        picture.save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def policy() -> Policy:
    return load_policy()


@pytest.fixture
def words() -> WordScorer:
    return WordScorer({"bomb": "indiscriminate_weapons", "forge": "non_violent_crimes", "hurt": "violent_crimes"})


@pytest.fixture
def embedded(policy: Policy, words: WordScorer) -> EmbeddedRewriter:
    return EmbeddedRewriter(policy, scorer=words, threads=1)


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with ``base`` and ``adapter`` (tests/tiny_llava.py), built once for all workers of a run."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "tiny_llava"
    with FileLock(shared / "tiny_llava.lock"):
        if not (folder / "adapter").exists():
            subprocess.run([sys.executable, "-m", "tests.tiny_llava", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def tiny_families(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with an untrained model of each of ``tiny_families.FAMILIES``, built once for all workers of a run."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "tiny_families"
    with FileLock(shared / "tiny_families.lock"):
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "tests.tiny_families", str(folder)], check=True, capture_output=True)
    return folder
