"""Makes the weights that ship of one or more checkpoints (several are averaged), calibrates them, and reports.

    python -m training.risk.export build/risk/0.pt --base FOLDER_OF_MINILM --text text.jsonl \
        --out src/vlmguard/rewriters/weights --plot docs/risk-reliability.png

Writes early.onnx and late.onnx (int8), fast.npz, tokenizer.json, risk.json (categories, calibration, hashes), report.json (the tables of
docs/risk-scorer.md) and the reliability plot. Thresholds come from the calibration side, figures from the test side.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.risk.fastpass import fit_fast
from training.risk.measures import ACTS, auroc, auroc_interval, operating_point, share, summary
from training.risk.model import Recipe, Scorer, logits_of, tokenizer_of
from training.risk.rows import Row, measured_rows, sides, twins
from training.risk.served import EARLY, LAYERS, exit_of, write_halves
from training.risk.train import all_rows
from vlmguard.rewriters import scorer as serving
from vlmguard.rewriters.scorer import Calibration, EmbeddedScorer

LOST = 0.02
"""Share of the harmful texts which the encoder would flag that the fast pass and the exit may settle together."""
LOST_FAST = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.015)
"""What of it may go to the fast pass: the share is taken that makes everyday requests cheapest."""
EARLY_WORDS = 0.7
"""Weight of the fast pass beside the exit."""
INTENT, WORDS = 1.0, 0.75
"""Weights of the intent head and of the fast pass beside the harm head: worth half a point of AUROC on the calibration side."""
LENGTHS = (12, 40, 160)
"""Requests in the long texts that are made for calibration."""
SIZES = (3_000, 20_000, 100_000)
"""Characters of the stretches of prose beside them."""
MOST_DOUBT = 0.85
"""Taken off the calibrated logit, times log(n); more would hide a plain request among a dozen doubtful sentences."""


def averaged(files: Sequence[Path], base: Path) -> tuple[Scorer, list[str]]:
    """The mean of checkpoints that grew from the same base."""
    loaded = [torch.load(file, weights_only=True) for file in files]
    states = [one["state"] for one in loaded]
    mean = {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    model = Scorer(base, loaded[0]["categories"], Recipe())
    model.load_state_dict(mean)
    return model.eval(), loaded[0]["categories"]


def raw_logits(out: Path, texts: Sequence[str]) -> np.ndarray:
    """(texts, 4): harm, intent, the fast pass and the exit, through the very files that ship, each text as it is read at once."""
    loaded = _loaded(out)
    found = []
    for text in texts:
        said = serving.plain(text).text
        glance = serving._glance(loaded, said, 0.0)
        ends = loaded.upper.run(None, {"states": glance.states})[0][0]
        found.append((ends[0], ends[1], loaded.fast.logits([said])[0], glance.early))
    return np.array(found)


def platt(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Scale and shift that make probabilities of logits."""
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression(C=1e3).fit(logits[:, None], truth)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def settled(logits: np.ndarray, kept: np.ndarray, lost: float) -> float:
    """The fast pass's threshold below which at most a share ``lost`` of the texts ``kept`` stands."""
    return float(np.quantile(logits[kept], lost)) if kept.any() else -math.inf


def long_texts(rows: Sequence[Row], count: int, sentences: int, seed: int) -> list[str]:
    """Harmless texts of so many sentences and lines, drawn from everyday rows."""
    rng = random.Random(seed)
    plain = [row.text for row in rows if _asks_nothing_bad(row)]
    return ["".join(text + rng.choice((" ", "\n")) for text in rng.choices(plain, k=sentences)) for _ in range(count)]


def _asks_nothing_bad(row: Row) -> bool:
    return row.language == "en" and (row.is_ordinary or (row.kind == "image_text" and row.intent == "neither"))


def calibrate(out: Path, rows: Sequence[Row]) -> Calibration:
    """From the calibration side alone. ``risk.json`` must stand in ``out`` already, with any calibration."""
    raw = raw_logits(out, [row.text for row in rows])
    truth = np.array([row.harmful for row in rows])
    logits = raw @ np.array([1.0, INTENT, WORDS, 0.0])
    scale, shift = platt(logits, truth)
    acts = math.log(ACTS / (1 - ACTS))
    least = operating_point(logits, rows)
    print(f"Platt: 0.6 at logit {(acts - shift) / scale:.2f}; the operating point is {least:.2f}", flush=True)
    english = np.array([row.language == "en" for row in rows])
    flagged = truth & english & (logits >= least)
    early = raw @ np.array([0.0, 0.0, EARLY_WORDS, 1.0])
    everyday = np.array([row.is_everyday and len(row.text.split()) > serving._FEW_WORDS for row in rows])
    fast = min(LOST_FAST, key=lambda lost: _layers(raw[:, 2], early, flagged, everyday, lost))
    bars, exits = zip(
        *(_thresholds(raw[:, 2], early, flagged, fast * part, LOST * part) for part in (1, 0.5)), strict=True
    )
    layers = _layers(raw[:, 2], early, flagged, everyday, fast)
    print(f"the fast pass may lose {fast:.1%}: {layers:.2f} layers for an everyday request", flush=True)
    first = Calibration(scale, acts - scale * least, INTENT, WORDS, *bars, EARLY_WORDS, *exits, 0.0)
    _write_card(out, first)
    return replace(first, doubt=_doubt(out, rows, scale, least))


def _thresholds(
    words: np.ndarray, early: np.ndarray, flagged: np.ndarray, fast: float, lost: float
) -> tuple[float, float]:
    """Below which the fast pass settles a text, and below which the exit does, when they may lose ``fast`` and ``lost`` in all."""
    bar = settled(words, flagged, fast)
    return bar, settled(early, flagged & (words >= bar), (lost - fast) / (1 - fast))


def _layers(words: np.ndarray, early: np.ndarray, flagged: np.ndarray, everyday: np.ndarray, fast: float) -> float:
    """Layers that an everyday request runs through on average."""
    bar, exit_bar = _thresholds(words, early, flagged, fast, LOST)
    glanced = everyday & (words >= bar)
    finished = glanced & (early >= exit_bar)
    return float(EARLY * glanced.sum() + (LAYERS - EARLY) * finished.sum()) / max(1, int(everyday.sum()))


def _doubt(out: Path, rows: Sequence[Row], scale: float, least: float) -> float:
    """The smallest doubt under which 2 % of harmless long texts are flagged, or ``MOST_DOUBT``."""
    found = {
        name: [_worst(out, text) for text in texts]
        for name, texts in {
            **{f"{count} everyday requests": long_texts(rows, 15, count, count) for count in LENGTHS},
            **{f"{size // 1000} KB of prose": prose(15, size) for size in SIZES},
        }.items()
    }
    for told in np.linspace(0, MOST_DOUBT, 18):
        flagged = {
            name: [
                any(logit - told / scale * math.log(doubtful) >= least for logit, doubtful in passages)
                for passages in some
            ]
            for name, some in found.items()
        }
        if np.mean([flag for some in flagged.values() for flag in some]) <= 0.02:
            break
    print(
        "long harmless texts flagged:",
        {name: share(sum(some), len(some)) for name, some in flagged.items()},
        flush=True,
    )
    return float(told) / scale


def prose(count: int, size: int) -> list[str]:
    """Stretches of so many characters of the language reference that ships with Python: long texts that ask for nothing."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    step = (len(whole) - size) // count
    return [whole[at : at + size] for at in range(0, step * count, step)]


def _worst(out: Path, text: str) -> list[tuple[float, float]]:
    """The worst logit of a long text's sentences and of its windows, and among how many in doubt each is the worst."""
    loaded = _loaded(out)
    return [
        (max(serving._finish(loaded, glance).logit for glance in kind.glances[:most]), kind.n)
        for kind, most in zip(serving._skim(loaded, text), (serving.MOST_SENTENCES, serving.MOST_WINDOWS), strict=True)
        if kind.glances
    ]


_OPEN: dict[Path, Any] = {}


def _loaded(out: Path) -> Any:
    if out not in _OPEN:
        _OPEN[out] = EmbeddedScorer(out)._load()
    return _OPEN[out]


_UNKNOWN = Calibration(1.0, 0.0, 0.0, 0.0, -math.inf, -math.inf, 0.0, -math.inf, -math.inf, 0.0)


def _write_card(out: Path, calibration: Calibration, **more: Any) -> None:
    file = out / "risk.json"
    card = json.loads(file.read_text()) if file.exists() else {}
    hashes = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in ("early.onnx", "late.onnx", "fast.npz", "tokenizer.json")
    }
    card |= {"calibration": asdict(calibration), "sha256": hashes, **more}
    file.write_text(json.dumps(card, indent=1) + "\n")
    _OPEN.pop(out, None)


# ---------------------------------------------------------------------------------------------------------------------
# What is told of it


def served_scores(out: Path, texts: Sequence[str]) -> np.ndarray:
    """(texts,) what the scorer tells, fast pass and windows and all."""
    found = EmbeddedScorer(out).score(list(texts))
    return np.array([max(risks.values(), default=0.0) for risks in found])


def slices(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Name → places of the rows."""
    found: dict[str, list[int]] = defaultdict(list)
    paired = set(twins(rows))
    for at, row in enumerate(rows):
        label = "harmful" if row.harmful else "harmless"
        found[f"{label} · source {row.source}"].append(at)
        if row.is_ordinary:
            found["harmless · ordinary"].append(at)
        if row.is_everyday:
            found["harmless · everyday, English"].append(at)
        if row.source == "own":
            found[f"{label} · language {row.language}"].append(at)
            if row.language == "en":
                found[f"{label} · kind {row.kind}"].append(at)
                found[f"{label} · register {row.register}"].append(at)
                found[f"{label} · file {row.file}"].append(at)
                words = len(row.text.split())
                found[
                    f"{label} · length {'to 8' if words <= 8 else '9 to 25' if words <= 25 else 'over 25'} words"
                ].append(at)
                if not row.harmful:
                    found[f"harmless · intent {row.intent}"].append(at)
        if at in paired:
            found[f"{label} · twins"].append(at)
            if row.language == "en":
                found[f"{label} · twins, English"].append(at)
    return found


def passes(raw: np.ndarray, texts: Sequence[str], calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """(texts,) whether the fast pass settles each, and whether it or the exit does; ``raw`` is ``raw_logits``."""
    many = np.array([len(text.split()) > serving._FEW_WORDS for text in texts])
    quick = many & (raw[:, 2] < calibration.settled)
    return quick, quick | many & (raw[:, 3] + calibration.early_words * raw[:, 2] < calibration.settled_early)


def report(scores: np.ndarray, rows: Sequence[Row]) -> dict[str, str]:
    """The share flagged per slice, and how twins are ranked."""
    table = {
        name: share(int((scores[places] >= ACTS).sum()), len(places)) for name, places in sorted(slices(rows).items())
    }
    for name, kept in (("twins", lambda row: True), ("twins, English", lambda row: row.language == "en")):
        places = [at for at in twins(rows) if kept(rows[at])]
        some = [rows[at] for at in places]
        truth = np.array([row.harmful for row in some])
        value = auroc(scores[places][truth], scores[places][~truth])
        low, high = auroc_interval(scores[places], some)
        table[f"AUROC · {name}"] = f"{value:.3f} [{low:.3f}, {high:.3f}] (n = {len(places)})"
    return table


def plot(scores: np.ndarray, truth: np.ndarray, file: Path) -> None:
    """The reliability plot: of the texts told a risk of about x, the share that is harmful."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(0, 1, 11)
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(6, 7), height_ratios=(3, 1), sharex=True)
    above.plot((0, 1), (0, 1), color="grey", linestyle="--", label="perfect")
    middles, shares, errors = [], [], []
    for low, high in itertools.pairwise(edges):
        inside = (scores >= low) & (scores < high if high < 1 else scores <= high)
        if inside.sum() < 5:
            continue
        middles.append(scores[inside].mean())
        shares.append(truth[inside].mean())
        errors.append(1.96 * math.sqrt(max(1e-4, shares[-1] * (1 - shares[-1])) / inside.sum()))
    above.errorbar(middles, shares, yerr=errors, marker="o", capsize=3, label="held-out rows")
    above.axvline(ACTS, color="tab:red", linewidth=0.8, label="the policy acts")
    above.set_ylabel("share that is harmful")
    above.set_ylim(-0.02, 1.02)
    above.legend(loc="upper left")
    above.set_title(f"Risk scorer, {len(scores)} held-out rows ({int(truth.sum())} harmful)")
    below.hist(
        [scores[truth], scores[~truth]], bins=edges, label=("harmful", "harmless"), color=("tab:red", "tab:blue")
    )
    below.set_xlabel("score")
    below.set_ylabel("rows")
    below.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    rows = all_rows(arguments.rows, arguments.text)
    split = sides(rows)
    model, categories = averaged(arguments.checkpoints, arguments.base)
    tokenizer = tokenizer_of(arguments.base)
    write_halves(model, exit_of(model, tokenizer, split["train"]), out)
    shutil.copy(arguments.base / "tokenizer.json", out / "tokenizer.json")
    fast = fit_fast(split["train"])
    np.savez_compressed(out / "fast.npz", weights=fast.weights.astype(np.float16), bias=np.float32(fast.bias))
    (out / "risk.json").unlink(missing_ok=True)
    _write_card(out, _UNKNOWN, categories=categories, rows=len(rows))
    calibration = calibrate(out, split["calibrate"])
    _write_card(out, calibration)
    held = split["test"]
    texts = [row.text for row in held]
    truth = np.array([row.harmful for row in held])
    scores = served_scores(out, texts)
    table = report(scores, held)
    raw, weights = raw_logits(out, texts), np.array([1.0, calibration.intent, calibration.words, 0.0])
    least = (math.log(ACTS / (1 - ACTS)) - calibration.shift) / calibration.scale
    exact = logits_of(model, tokenizer, texts)[:, 0]
    table["harm head alone, float32"] = json.dumps(summary(exact, held, operating_point(exact, held)))
    table["harm head alone, int8"] = json.dumps(summary(raw[:, 0], held, operating_point(raw[:, 0], held)))
    table["heads and words, int8"] = json.dumps(summary(raw @ weights, held, least))
    table["as served"] = json.dumps(summary(scores, held, ACTS))
    quick, either = passes(raw, texts, calibration)
    for name in ("harmless · everyday, English", "harmful · source own", "harmful · twins", "harmless · twins"):
        places = slices(held)[name]
        table[f"settled by the fast pass · {name}"] = share(int(quick[places].sum()), len(places))
        table[f"settled by the fast pass or the exit · {name}"] = share(int(either[places].sum()), len(places))
    flagged = truth & (raw @ weights >= least) & np.array([row.language == "en" for row in held])
    table["lost by the passes, of what the encoder flags in English"] = share(
        int((flagged & either).sum()), int(flagged.sum())
    )
    if arguments.text:
        outside = measured_rows(arguments.text)
        found = served_scores(out, [row.text for row in outside])
        for name, places in sorted(slices(outside).items()):
            table[f"held-out source · {name}"] = share(int((found[places] >= ACTS).sum()), len(places))
    (out / "report.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(table, indent=1, ensure_ascii=False), json.dumps(asdict(calibration)))
    if arguments.plot:
        plot(scores, truth, arguments.plot)


if __name__ == "__main__":
    main()
