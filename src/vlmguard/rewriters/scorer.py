"""The embedded risk scorer: texts in, calibrated risk per category out. onnxruntime and tokenizers, no torch.

Three passes, each of which settles what is plainly harmless to it. Hashed n-grams (``ngrams``) take a tenth of a millisecond; the two
lower layers of a compact encoder (all-MiniLM-L6-v2, fine-tuned end to end by training/risk, int8) glance at the rest; the upper four
read what is still in doubt to the end. Of a long text the passes pick the passages that are read, and the worst counts, less what the worst
of so many would show by chance. docs/risk-scorer.md has the data, the figures and the known failures.
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
from vlmguard.rewriters.wordpieces import WordPieces

LANGUAGES = frozenset({"en"})
"""Those in which it was measured to be usable. A text in another is ``unjudged: language``, and flagged all the same where it
scores high: docs/risk-scorer.md has the recall per language."""

WHOLE = 126
"""Tokens of a text that is read at once, as in training."""
LEAST_WORDS = 8
"""Of a passage of a longer text: shorter sentences go together with the next."""
LEAST_CHARACTERS = 48
"""So many at least, too: it bounds how many passages a text has."""
GLANCED_SENTENCES, GLANCED_WINDOWS = 64, 12
"""Passages of a long text that the encoder's lower half looks at: the likeliest, as the fast pass ranks them."""
MOST_SENTENCES, MOST_WINDOWS = 20, 6
"""Of these, the likeliest so far, that are read to the end."""
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
    early_words: float
    """Weight of the fast pass beside the exit's 1."""
    settled_early: float
    """Below this logit, of the exit and the fast pass together, a text needs no further reading."""
    settled_early_passage: float
    """The same for a passage of a long text."""
    doubt: float
    """Taken off the logit of the worst of ``n`` passages that the exit did not settle, times log(n)."""

    def logit(self, harm: float, intent: float, words: float) -> float:
        """What the two heads and the fast pass say together."""
        return harm + self.intent * intent + self.words * words

    def risk(self, logit: float, passages: float = 1) -> float:
        """Probability of harm for the worst logit of so many doubtful passages."""
        told = self.scale * (logit - self.doubt * math.log(passages)) + self.shift
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, told))))


@dataclass(frozen=True, slots=True)
class _Glance:
    """What the fast pass and the encoder's lower half make of a text."""

    text: str
    words: float
    """Logit of the fast pass."""
    early: float
    """Logit of the exit and the fast pass together."""
    states: Logits
    """(1, tokens, width), where the upper half goes on."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the whole encoder makes of a text."""

    logit: float
    kinds: Logits
    """(categories,)"""


@dataclass(frozen=True, slots=True)
class _Loaded:
    lower: Any
    upper: Any
    tokens: WordPieces
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
            found = _worst_of(loaded, _skim(loaded, said))
            words = found[0].text.split()[:_MOST_EXPLAINED] if found else []
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
"""Up to so many words are always read to the end: n-grams and two layers know too little of them, and it takes two milliseconds."""


def _score(loaded: _Loaded, text: str) -> dict[str, float]:
    if not text.strip():
        return {}
    if (ids := _whole(loaded, text)) is not None:
        words = float(loaded.fast.logits([text])[0])
        many = len(text.split()) > _FEW_WORDS
        if many and words < loaded.calibration.settled:
            return {}
        glance = _glance(loaded, text, words, ids)
        if many and glance.early < loaded.calibration.settled_early:
            return {}
        return _risks(loaded, _finish(loaded, glance), 1)
    found = _worst_of(loaded, _skim(loaded, text))
    return _risks(loaded, found[1], found[2]) if found else {}


def _whole(loaded: _Loaded, text: str) -> list[int] | None:
    """The tokens of a text that is read at once; ``None`` of one that has more. Very many characters settle it uncounted, and
    one of few is read at once whatever it falls into."""
    if len(text) > 20 * WHOLE:
        return None
    tokens = loaded.tokens(text)
    return tokens if len(text) <= WHOLE or len(tokens) <= WHOLE + 2 else None


@dataclass(frozen=True, slots=True)
class _InDoubt:
    """The passages of one kind that neither pass settles."""

    glances: list[_Glance]
    """The likeliest come first; so many as were looked at."""
    n: float
    """How many there are in the whole text, by what share of those looked at are in doubt."""


def _skim(loaded: _Loaded, text: str) -> tuple[_InDoubt, _InDoubt]:
    """The sentences of a long text, and its windows, that neither pass settles. What is said again counts once."""
    sentences, windows = list(dict.fromkeys(_passages(text))), list(dict.fromkeys(_windows(text)))
    logits = loaded.fast.logits(sentences + windows)
    return (
        _in_doubt(loaded, sentences, logits[: len(sentences)], GLANCED_SENTENCES),
        _in_doubt(loaded, windows, logits[len(sentences) :], GLANCED_WINDOWS),
    )


def _in_doubt(loaded: _Loaded, passages: list[str], words: npt.NDArray[np.float64], most: int) -> _InDoubt:
    """Looks at so many passages at most, those that the fast pass finds likeliest."""
    order = np.argsort(-words, kind="stable")
    unsettled = order[words[order] >= loaded.calibration.settled_passage]
    glances = [_glance(loaded, passages[at], float(words[at])) for at in unsettled[:most]]
    doubtful = [glance for glance in glances if glance.early >= loaded.calibration.settled_early_passage]
    n = len(doubtful) * len(unsettled) / max(1, len(glances))
    return _InDoubt(sorted(doubtful, key=lambda glance: -glance.early), max(1.0, n))


def _worst_of(loaded: _Loaded, skimmed: tuple[_InDoubt, _InDoubt]) -> tuple[_Glance, _Reading, float] | None:
    """The passage that counts, how it reads, and among how many in doubt of its kind it is the worst. Sentences and windows are
    discounted apart: windows mix what has nothing to do with each other, and must not hide a sentence."""
    found = [
        (glance, _finish(loaded, glance), kind.n)
        for kind, most in zip(skimmed, (MOST_SENTENCES, MOST_WINDOWS), strict=True)
        for glance in kind.glances[:most]
    ]
    doubt = loaded.calibration.doubt
    return max(found, key=lambda one: one[1].logit - doubt * math.log(one[2]), default=None)


def _read(loaded: _Loaded, text: str) -> _Reading:
    """A text, read to the end whatever the other passes say."""
    return _finish(loaded, _glance(loaded, text, float(loaded.fast.logits([text])[0])))


def _glance(loaded: _Loaded, text: str, words: float, ids: list[int] | None = None) -> _Glance:
    """The lower half, over as much of a text as is read at once. One text at a time: the int8 encoder scales by what is in a batch,
    and a text's score must not depend on its company.

    ``ids``: the text's tokens, where they were counted before.
    """
    if ids is None:
        ids = loaded.tokens(text)
    if len(ids) > WHOLE + 2:
        ids = [*ids[: WHOLE + 1], ids[-1]]
    states, early = loaded.lower.run(None, {"ids": np.array([ids], dtype=np.int64)})
    return _Glance(text, words, float(early[0]) + loaded.calibration.early_words * words, states)


def _finish(loaded: _Loaded, glance: _Glance) -> _Reading:
    """The upper half: harm, intent, categories."""
    found: Logits = loaded.upper.run(None, {"states": glance.states})[0][0]
    return _Reading(loaded.calibration.logit(float(found[0]), float(found[1]), glance.words), found[2:])


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


def _risks(loaded: _Loaded, reading: _Reading, passages: float) -> dict[str, float]:
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
    lower, upper = (
        onnxruntime.InferenceSession(blobs[name], options, providers=["CPUExecutionProvider"])
        for name in ("early.onnx", "late.onnx")
    )
    tokenizer = Tokenizer.from_str(blobs["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with np.load(io.BytesIO(blobs["fast.npz"]), allow_pickle=False) as arrays:
        fast = FastPass(arrays["weights"].astype(np.float32), float(arrays["bias"]))
    return _Loaded(
        lower, upper, WordPieces(tokenizer), fast, tuple(card["categories"]), Calibration(**card["calibration"])
    )
