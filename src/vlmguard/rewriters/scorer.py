"""The embedded risk scorer: texts in, calibrated risk per category out. onnxruntime and tokenizers, no torch.

Two passes. Hashed n-grams (``ngrams``) settle what is plainly harmless in a fraction of a millisecond; a compact encoder
(all-MiniLM-L6-v2, fine-tuned end to end by training/risk, int8) reads the rest. Of a long text the n-grams pick the passages
that the encoder reads, and the worst counts, less what the worst of so many would show by chance. docs/risk-scorer.md has the
data, the figures and the known failures.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmguard.errors import VlmguardError
from vlmguard.perception.lookalikes import plain
from vlmguard.rewriters.ngrams import FastPass

LANGUAGES = frozenset({"en"})
"""Those in which it was measured to be usable. A text in another is ``unjudged: language``, and flagged all the same where it
scores high: docs/risk-scorer.md has the recall per language."""

WHOLE = 126
"""Tokens of a text that is read at once, as in training."""
LEAST_WORDS = 8
"""Of a passage of a longer text: shorter sentences go together with the next."""
LEAST_CHARACTERS = 48
"""So many at least, too: it bounds how many passages a text has."""
MOST_SENTENCES, MOST_WINDOWS = 20, 8
"""Passages of a long text that the encoder reads: the likeliest, as the fast pass ranks them."""
WINDOW_WORDS = 80
"""Of a window, which sees what no sentence says alone; the next one starts half way."""
_MOST_EXPLAINED = 60
"""Words that an explanation weighs one by one; of a longer text the riskiest passage is explained."""
_BREAK = re.compile(r"(?<=[.!?؟।])\s+|(?<=[。！？])|\n+")
_LEAST = 0.01
_RUNNER_UP = 0.2
"""How likely a category must be, as a share of the likeliest, to be named."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Calibration:
    """From logits to what is told. Measured by training/risk/export.py on rows that nothing was trained on."""

    scale: float
    shift: float
    intent: float
    """Weight of the intent head (does the text ask to do harm, rather than about it or neither) beside the harm head's 1."""
    words: float
    """The same for the fast pass, which sees spellings that the encoder's vocabulary cuts up."""
    settled: float
    """Below this logit of the fast pass a text is plainly harmless."""
    settled_passage: float
    """The same for a passage of a long text."""
    doubt: float
    """Taken off the logit of the worst of ``n`` passages that the fast pass did not settle, times log(n)."""

    def logit(self, harm: float, intent: float, words: float) -> float:
        """What the two heads and the fast pass say together."""
        return harm + self.intent * intent + self.words * words

    def risk(self, logit: float, passages: int = 1) -> float:
        """Probability of harm for the worst logit of so many doubtful passages."""
        told = self.scale * (logit - self.doubt * math.log(passages)) + self.shift
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, told))))


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the encoder makes of a text."""

    logit: float
    kinds: Logits
    """(categories,)"""


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: Any
    tokenizer: Any
    fast: FastPass
    categories: tuple[str, ...]
    calibration: Calibration


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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the card: the hashes of all weight files, which loading checks, and the calibration."""
        return hashlib.sha256(json.dumps(self._card, sort_keys=True).encode()).hexdigest()

    def score(self, texts: Sequence[str], /) -> list[dict[str, float]]:
        """Per text: category → probability; the highest is the probability that the text asks for harm at all."""
        loaded = self._load()
        return [_score(loaded, plain(text).text) for text in texts]

    def explain(self, text: str, /) -> list[tuple[str, float]]:
        """The words of ``text`` and their share in its risk: how far the logit falls when a word, alone or with a neighbour, is
        left out, over the sum of all such falls. Of a long text, those of its riskiest passage. Runs the encoder twice a word."""
        loaded = self._load()
        said = plain(text).text
        words = said.split()
        if len(words) > _MOST_EXPLAINED:
            read, _ = _skim(loaded, said)
            riskiest = max(read, key=lambda passage: _read(loaded, passage).logit, default="")
            words = riskiest.split()[:_MOST_EXPLAINED]
        if not words:
            return []
        falls = _falls(loaded, words)
        total = sum(falls)
        return [(word, round(fall / total, 4) if total else 0.0) for word, fall in zip(words, falls, strict=True)]

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _open(self._folder, self._card, self._threads)
            return self._loaded


# ---------------------------------------------------------------------------------------------------------------------
# Reading


_FEW_WORDS = 8
"""Up to so many words n-grams know too little to settle anything; the encoder reads them in two milliseconds."""


def _score(loaded: _Loaded, text: str) -> dict[str, float]:
    if not text.strip():
        return {}
    if (tokens := _whole(loaded, text)) is not None:
        words = float(loaded.fast.logits([text])[0])
        if len(text.split()) > _FEW_WORDS and words < loaded.calibration.settled:
            return {}
        return _risks(loaded, _weighed(loaded, _run(loaded, tokens), words), 1)
    read, doubtful = _skim(loaded, text)
    if not read:
        return {}
    readings = [_read(loaded, passage) for passage in read]
    return _risks(loaded, max(readings, key=lambda reading: reading.logit), doubtful)


def _whole(loaded: _Loaded, text: str) -> list[int] | None:
    """The tokens of a text that is read at once; ``None`` of one that has more. Very many characters settle it uncounted, and
    one of few is read at once whatever it falls into."""
    if len(text) > 20 * WHOLE:
        return None
    tokens: list[int] = loaded.tokenizer.encode(text).ids
    return tokens if len(text) <= WHOLE or len(tokens) <= WHOLE + 2 else None


def _skim(loaded: _Loaded, text: str) -> tuple[list[str], int]:
    """The passages of a long text that the encoder is to read, and how many sentences the fast pass does not settle. What is
    said again counts once, and a window not at all: neither adds to what chance shows."""
    sentence, window = list(dict.fromkeys(_passages(text))), list(dict.fromkeys(_windows(text)))
    logits = loaded.fast.logits(sentence + window)
    read: list[str] = []
    for passages, found, most in (
        (sentence, logits[: len(sentence)], MOST_SENTENCES),
        (window, logits[len(sentence) :], MOST_WINDOWS),
    ):
        order = np.argsort(-found, kind="stable")[:most]
        read += [passages[at] for at in order if found[at] >= loaded.calibration.settled_passage]
    return read, max(1, int((logits[: len(sentence)] >= loaded.calibration.settled_passage).sum()))


def _read(loaded: _Loaded, text: str) -> _Reading:
    return _weighed(loaded, _encode(loaded, text), float(loaded.fast.logits([text])[0]))


def _weighed(loaded: _Loaded, found: Logits, words: float) -> _Reading:
    """What the encoder found and the fast pass together."""
    return _Reading(loaded.calibration.logit(float(found[0]), float(found[1]), words), found[2:])


def _encode(loaded: _Loaded, text: str) -> Logits:
    """(2 + categories,) logits of a text, as much of it as is read at once: harm, intent, categories."""
    return _run(loaded, loaded.tokenizer.encode(text).ids)


def _run(loaded: _Loaded, tokens: list[int]) -> Logits:
    """The encoder, over one text at a time: int8 scales by what is in a batch, and a text's score must not depend on its
    company."""
    if len(tokens) > WHOLE + 2:
        tokens = [*tokens[: WHOLE + 1], tokens[-1]]
    row = np.array([tokens], dtype=np.int64)
    found: Logits = loaded.session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})[0][0]
    return found


def _falls(loaded: _Loaded, words: list[str]) -> list[float]:
    """How far the logit falls without each word. A pair shares its fall: of two words that say the same, each alone counts for
    nothing."""
    whole = _read(loaded, " ".join(words)).logit
    falls = [0.0] * len(words)
    for size in (1, 2):
        for at in range(len(words) - size + 1):
            fall = max(0.0, whole - _read(loaded, " ".join(words[:at] + words[at + size :])).logit)
            for place in range(at, at + size):
                falls[place] += fall / size
    return falls


def _risks(loaded: _Loaded, reading: _Reading, passages: int) -> dict[str, float]:
    harm = loaded.calibration.risk(reading.logit, passages)
    if harm < _LEAST:
        return {}
    # Relative to the likeliest category, which so carries the whole probability of harm.
    kinds = np.exp(reading.kinds - reading.kinds.max())
    return {
        name: round(harm * float(share), 4)
        for name, share in zip(loaded.categories, kinds, strict=True)
        if share >= _RUNNER_UP and harm * share >= _LEAST
    }


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; a stop inside a number ends none."""
    return [part.strip() for part in _BREAK.split(text) if part.strip()]


def _passages(text: str) -> Iterator[str]:
    """Sentences; those of a few words together with the next, and those without end in pieces."""
    held = ""
    for sentence in sentences(text):
        held = f"{held} {sentence}".strip()
        if len(held) >= LEAST_CHARACTERS and len(held.split()) >= LEAST_WORDS:
            yield from _cut(held)
            held = ""
    if held:
        yield from _cut(held)


def _cut(passage: str, words: int = WINDOW_WORDS, characters: int = 600) -> Iterator[str]:
    """A passage in pieces that can be read at once."""
    if len(passage) <= characters:
        yield passage
        return
    parts = passage.split()
    for at in range(0, len(parts), words):
        piece = " ".join(parts[at : at + words])
        for start in range(0, len(piece), characters):
            yield piece[start : start + characters]


def _windows(text: str) -> Iterator[str]:
    words = text.split()
    for at in range(0, max(1, len(words) - WINDOW_WORDS // 2), WINDOW_WORDS // 2):
        window = " ".join(words[at : at + WINDOW_WORDS])
        yield window[:1200]


# ---------------------------------------------------------------------------------------------------------------------
# Loading


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
    with np.load(io.BytesIO(blobs["fast.npz"]), allow_pickle=False) as arrays:
        fast = FastPass(arrays["weights"].astype(np.float32), float(arrays["bias"]))
    return _Loaded(session, tokenizer, fast, tuple(card["categories"]), Calibration(**card["calibration"]))
