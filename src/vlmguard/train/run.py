"""The folder of a run: what it was made of, how far it is, and where its parts lie.

RUN/recipe.json  the settings · run.json  versions, fingerprints, state · metrics.jsonl · tensorboard/ · samples.jsonl ·
error_rows.jsonl · checkpoints/checkpoint-N · model/  the rewriter (``local:RUN`` serves it) · README.md and plots
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmguard import __version__

MODEL = "model"
STATE = "run.json"
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    model: Path
    """The adapter, or the whole weights, with the processor and its chat template."""
    steps: int
    loss: float
    """Mean over the run."""
    error_rows: int
    """Rows that could not be trained on; ``error_rows.jsonl`` says why."""
    held_out: dict[str, float] = field(default_factory=dict)
    """The last evaluation."""


def versions() -> dict[str, str]:
    """What a run was made with."""
    found = {"python": platform.python_version(), "vlmguard": __version__}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def write_json(file: Path, form: Any) -> None:
    """Whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(json.dumps(form, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    fresh.replace(file)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to write into that comes to ``place`` only when all is written and on the disk; else it goes away."""
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        settle(fresh)
        shutil.rmtree(place, ignore_errors=True)
        fresh.replace(place)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def settle(folder: Path) -> None:
    """Waits until all files of a folder are on the disk. Raises ``OSError`` when it does not take them."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
