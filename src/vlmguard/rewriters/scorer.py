"""The embedded risk scorer: texts in, calibrated risk per category out. onnxruntime and tokenizers, no torch.

A compact encoder (all-MiniLM-L6-v2, int8) under two heads trained by training/risk/train.py: does this text ask for harm, and in
which category. A long text is read sentence by sentence and the worst counts. docs/risk-scorer.md has the data,
the figures and the known failures.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmguard.errors import VlmguardError

LANGUAGES = frozenset({"en"})
"""Those in which it was measured to be usable. A text in another is ``unjudged: language``, and flagged all the same where it
scores high: docs/risk-scorer.md has the recall per language."""

WHOLE = 62
"""Tokens of a text that is read at once, as in training."""
LEAST_WORDS = 8
"""A longer text is read sentence by sentence, so that one harmful sentence is not lost among others; shorter ones together."""
LEAST_CHARACTERS = 48
"""So many at least, too: it bounds how many pieces a text has."""
_BREAK = re.compile(r"(?<=[.!?؟।])\s+|(?<=[。！？])|\n+")
_LEAST = 0.01
_RUNNER_UP = 0.2
"""How likely a category must be, as a share of the likeliest, to be named."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: Any
    tokenizer: Any
    heads: dict[str, npt.NDArray[np.float32]]
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
        """SHA-256 over the hashes of all weight files, as the card states them and loading checks them."""
        hashes = json.dumps(self._card["sha256"], sort_keys=True)
        return hashlib.sha256(hashes.encode()).hexdigest()

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
        whole: list[int] = loaded.tokenizer.encode(text).ids
        if len(whole) <= WHOLE + 2:
            yield whole
            return
        for piece in _pieces(text):
            start, *inner, end = loaded.tokenizer.encode(piece).ids
            for at in range(0, max(1, len(inner)), WHOLE):
                yield [start, *inner[at : at + WHOLE], end]

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
    import io

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
    with np.load(io.BytesIO(blobs["heads.npz"]), allow_pickle=False) as arrays:
        heads = {name: arrays[name] for name in arrays.files}
    return _Loaded(session, tokenizer, heads, tuple(card["categories"]), float(card["scale"]), float(card["shift"]))


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; a stop inside a number ends none."""
    return [part.strip() for part in _BREAK.split(text) if part.strip()]


def _pieces(text: str) -> Iterator[str]:
    """Sentences; those of a few words together with the next."""
    held = ""
    for sentence in sentences(text):
        held = f"{held} {sentence}".strip()
        if len(held) >= LEAST_CHARACTERS and len(held.split()) >= LEAST_WORDS:
            yield held
            held = ""
    if held:
        yield held


def _run(loaded: _Loaded, windows: list[list[int]]) -> npt.NDArray[np.float32]:
    """(windows, 1 + categories) logits. One at a time: the int8 encoder scales by what is in a batch, and a text's score must
    not depend on its company."""
    rows = []
    for window in windows:
        ids = np.array([window], dtype=np.int64)
        found = loaded.session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        rows.append(_heads(loaded.heads, found))
    return np.concatenate(rows)


def _heads(heads: dict[str, npt.NDArray[np.float32]], x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    harm = np.maximum(x @ heads["w1"] + heads["b1"], 0) @ heads["w2"] + heads["b2"]
    return np.concatenate([harm, x @ heads["kind_w"] + heads["kind_b"]], axis=1)


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
