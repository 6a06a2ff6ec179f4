"""The folder of a run: what it was made of, how far it is, and where its parts lie.

run.json        the recipe, versions, fingerprints, state, and in the end the figures
model/          the rewriter, which ``local:RUN`` serves: the adapter or whole weights, with the processor and its chat template
metrics.jsonl · tensorboard/ · samples.jsonl     what was logged, and what was said to held-out rows
lengths.npz · error_rows.jsonl                   tokens of every row, and rows that were not trained on
checkpoints/checkpoint-N                         whole ones only
README.md · *.png                                the model card and its plots
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmguard import __version__
from vlmguard.errors import InputError

MODEL = "model"
STATE = "run.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
BOARD = "tensorboard"
LENGTHS = "lengths.npz"
ERROR_ROWS = "error_rows.jsonl"
_PATIENCE = 8.0
"""Seconds: the workers of a run that was killed hold its lock until they notice."""
_LOCK = ".lock"
_BEFORE_STATE = (_LOCK, f".{STATE}.new")
"""What a run that was stopped at once leaves."""
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
_MUST_STAY = {
    "stage": "what is trained",
    "recipe_identity": "the recipe",
    "dataset_fingerprint": "the dataset",
    "policy_hash": "the policy",
    "prompts_hash": "the rewriter's prompts",
    "base_fingerprint": "the base model",
}
"""What a run that goes on must have in common with how it began."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    model: Path
    """The adapter, or the whole weights, with the processor and its chat template."""
    steps: int
    loss: float
    """The last that was logged."""
    error_rows: int
    """Rows that could not be trained on; ``error_rows.jsonl`` says why."""
    held_out: dict[str, float] = field(default_factory=dict)
    """The last evaluation: the names of ``held_out.figures`` and their values."""


def versions() -> dict[str, str]:
    """What a run was made with."""
    found = {"python": platform.python_version(), "vlmguard": __version__}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def read_state(out: Path) -> dict[str, Any]:
    """What ``run.json`` says. Raises ``InputError`` when the folder holds no run."""
    file = out / STATE
    if not file.is_file():
        raise InputError(f"{out} holds no training run")
    try:
        form = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}): give another --out") from error
    if not isinstance(form, dict) or "state" not in form:
        raise InputError(f"{file} does not tell of a training run: give another --out")
    return form


def claim(out: Path) -> None:
    """Makes the folder of a run, where it is not there. What lies in it is deleted and overwritten only if it is a run's.

    Raises ``InputError`` when it cannot be written, or holds other things and no run.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be the folder of a run ({error.strerror}): give another --out") from error
    refuse_others(out)


def refuse_others(out: Path) -> None:
    """Raises ``InputError`` when a folder that is there cannot be read, or holds other things and no run. Writes nothing."""
    try:
        found = sorted(place.name for place in out.iterdir()) if out.exists() else []
    except OSError as error:
        raise InputError(f"{out} cannot be the folder of a run ({error.strerror}): give another --out") from error
    others = [name for name in found if name not in _BEFORE_STATE]
    if others and STATE not in found:
        named = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise InputError(f"{out} holds other things ({named}) and no training run: give an --out that is new or empty")


def begin(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a new run in ``out``, or of the one there, which goes on.

    Args:
        out: folder of the run.
        facts: what it is made of; the values of ``_MUST_STAY`` among them.

    Raises:
        InputError: the run there is finished, or is another one.
    """
    if not (out / STATE).exists():
        out.mkdir(parents=True, exist_ok=True)
        state = {"state": "running", "begun": _now(), **facts, "versions": versions()}
        write_json(out / STATE, state)
        return state
    state = read_state(out)
    if state["state"] == "finished":
        raise InputError(f"{out} holds a finished run: give another --out")
    changed = [word for key, word in _MUST_STAY.items() if state.get(key) != facts.get(key)]
    if changed:
        raise InputError(f"{out} holds a run that began otherwise ({', '.join(changed)} changed): give another --out")
    return state


def finish(out: Path, state: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Writes that the run is over, and what came of it."""
    done = {**state, **figures, "state": "finished", "ended": _now()}
    write_json(out / STATE, done)
    return done


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps a second run out of a claimed folder; a lock that a killed run held is free again. Raises ``InputError``."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("w")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): give another --out") from error
    with lock as held:
        until = time.monotonic() + _PATIENCE
        while not _locked(fcntl, held):
            if time.monotonic() > until:
                raise InputError(f"another run works in {out}: wait for it, or give another --out")
            time.sleep(0.2)
        yield


def _locked(fcntl: Any, file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_json(file: Path, form: Any) -> None:
    """Whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(json.dumps(form, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    fresh.replace(file)


def staged(place: Path) -> Path:
    """An empty folder beside ``place`` to write into; ``publish`` gives it its name."""
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def publish(fresh: Path, place: Path) -> None:
    """Waits until all is on the disk, and only then lets a folder be seen. Raises ``OSError``."""
    settle(fresh)
    shutil.rmtree(place, ignore_errors=True)
    fresh.replace(place)


def settle(folder: Path) -> None:
    """Waits until all files of a folder are on the disk. Raises ``OSError`` when it does not take them."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
