"""The embedded risk scorer: texts in, calibrated risk per category out. onnxruntime and tokenizers, no torch.

A compact encoder (all-MiniLM-L6-v2, fine-tuned by training/risk/train.py, int8) with one head for "does this ask for harm" and
one for the category. Long texts are read in overlapping windows and the worst window counts. docs/risk-scorer.md has the data,
the figures and the known failures.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmguard.errors import VlmguardError

LANGUAGES = frozenset({"en", "es", "de", "fr"})
"""Those in which it was measured to be usable; a text in another is ``unjudged: language``."""

WINDOW = 110
"""Tokens read at once; it was trained on up to 128."""
STEP = 80
MOST_WINDOWS = 640
"""Of one text: about 200,000 characters. A longer text is sampled evenly over its length."""
_BATCH = 16
_LEAST = 0.01
_RUNNER_UP = 0.2
"""How likely a category must be, as a share of the likeliest, to be named."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: Any
    tokenizer: Any
    categories: tuple[str, ...]
    scale: float
    shift: float


class EmbeddedScorer:
    """Scores texts. Loads its weights when it is first asked; may be used from many threads.

    Args:
        folder: of the weights; the packaged ones by default.
        threads: cores that one call may use.
    """

    def __init__(self, folder: Path | None = None, *, threads: int = 1) -> None:
        self._folder = folder or Path(str(files("vlmguard.rewriters") / "weights"))
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._card = _read_card(self._folder)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights file, as its card states it and loading checks it."""
        return str(self._card["sha256"]["risk.onnx"])

    def score(self, texts: Sequence[str], /) -> list[dict[str, float]]:
        """Per text: category → probability; the highest is the probability that the text asks for harm at all."""
        loaded = self._load()
        windows: list[list[int]] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            for window in self._windows(loaded, text):
                windows.append(window)
                owners.append(owner)
        scores: list[dict[str, float]] = [{} for _ in texts]
        if not windows:
            return scores
        logits = _run(loaded, windows)
        for owner, row in zip(owners, logits, strict=True):
            found = _risks(loaded, row)
            if max(found.values(), default=0.0) > max(scores[owner].values(), default=0.0):
                scores[owner] = found
        return scores

    @staticmethod
    def _windows(loaded: _Loaded, text: str) -> Iterator[list[int]]:
        if not text.strip():
            return
        ids: list[int] = loaded.tokenizer.encode(text).ids
        start, end, inner = ids[0], ids[-1], ids[1:-1]
        if not inner:
            return
        starts = list(range(0, max(1, len(inner) - WINDOW + STEP), STEP))
        if len(starts) > MOST_WINDOWS:
            starts = [starts[round(at * (len(starts) - 1) / (MOST_WINDOWS - 1))] for at in range(MOST_WINDOWS)]
        for at in starts:
            yield [start, *inner[at : at + WINDOW], end]

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _open(self._folder, self._card, self._threads)
            return self._loaded


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((folder / "risk.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VlmguardError(
            f"the weights of the risk scorer are missing or damaged ({error}): reinstall vlmguard"
        ) from error
    return card


def _open(folder: Path, card: dict[str, Any], threads: int) -> _Loaded:
    import onnxruntime
    from tokenizers import Tokenizer

    blobs: dict[str, bytes] = {}
    for name, expected in card["sha256"].items():
        try:
            blobs[name] = (folder / name).read_bytes()
        except OSError as error:
            raise VlmguardError(f"the risk scorer's {name} is missing ({error}): reinstall vlmguard") from error
        if hashlib.sha256(blobs[name]).hexdigest() != expected:
            raise VlmguardError(f"the risk scorer's {name} is not the file that was released: reinstall vlmguard")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # keeps memory flat over texts of all lengths
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(blobs["risk.onnx"], options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_str(blobs["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return _Loaded(session, tokenizer, tuple(card["categories"]), float(card["scale"]), float(card["shift"]))


def _run(loaded: _Loaded, windows: list[list[int]]) -> npt.NDArray[np.float32]:
    """(windows, 1 + categories) logits. Windows of like length go together, so that little is padding."""
    order = sorted(range(len(windows)), key=lambda at: len(windows[at]))
    logits = np.zeros((len(windows), 1 + len(loaded.categories)), dtype=np.float32)
    for at in range(0, len(order), _BATCH):
        chosen = order[at : at + _BATCH]
        ids = np.zeros((len(chosen), max(len(windows[number]) for number in chosen)), dtype=np.int64)
        for row, number in enumerate(chosen):
            ids[row, : len(windows[number])] = windows[number]
        # 0 is the padding token of this vocabulary and stands for nothing else.
        feed = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
        logits[chosen] = loaded.session.run(None, feed)[0]
    return logits


def _risks(loaded: _Loaded, row: npt.NDArray[np.float32]) -> dict[str, float]:
    harm = 1 / (1 + math.exp(-(loaded.scale * float(row[0]) + loaded.shift)))
    if harm < _LEAST:
        return {}
    # Relative to the likeliest category, which so carries the whole probability of harm.
    kinds = np.exp(row[1:] - row[1:].max())
    return {
        name: round(harm * float(share), 4)
        for name, share in zip(loaded.categories, kinds, strict=True)
        if share >= _RUNNER_UP and harm * share >= _LEAST
    }
