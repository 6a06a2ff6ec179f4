"""Owns the network: a compact encoder, mean-pooled, under three heads (harm, category, intent), and its losses. Needs torch."""

from __future__ import annotations

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from training.risk.augment import augmented
from training.risk.rows import INTENTS, Row

MOST_TOKENS = 128
"""Of a text, in training and in serving; a longer text is read in pieces."""
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the base model's safetensors file: the package's author field is a placeholder, so the hash is what is trusted."""
CATEGORY_SHARE, INTENT_SHARE = 0.3, 0.3
"""Weights of the losses beside harm's."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train."""

    epochs: int = 4
    rate: float = 1.2e-4
    """Of the top layer; each layer below learns by ``decay`` of the one above."""
    decay: float = 0.85
    head_rate: float = 1e-3
    batch: int = 64
    margin: float = 2.0
    """Logits by which a harmful twin is to stand above its harmless one."""
    ranking: float = 0.5
    """Weight of that wish."""
    disguised: float = 0.3
    """Share of the texts that wear a disguise."""
    dropout: float = 0.1
    smoothing: float = 0.02
    seed: int = 0
    still: int = 0
    """So many of the lowest layers, and the token embeddings, stay as they are; -1: nothing does."""
    scratch: bool = False
    """Forget the base model's weights: what its size alone is worth."""
    frozen: bool = False
    """Train the heads only."""


class Scorer(nn.Module):
    """Texts as token ids → (batch, 1 + intents + categories) logits: harm, intents, categories."""

    def __init__(self, base: Path, categories: Sequence[str], recipe: Recipe) -> None:
        super().__init__()
        if hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest() != BASE_SHA256:
            raise SystemExit(f"{base} does not hold the base model whose hash is pinned")
        self.inner = AutoModel.from_pretrained(base, attn_implementation="eager", add_pooling_layer=False)
        if recipe.scratch:
            self.inner.apply(self.inner._init_weights)
        self.inner.requires_grad_(not recipe.frozen)
        if recipe.still >= 0 and not recipe.scratch:
            self.inner.embeddings.requires_grad_(False)
            self.inner.encoder.layer[: recipe.still].requires_grad_(False)
        width = self.inner.config.hidden_size
        self.harm = nn.Sequential(
            nn.Dropout(recipe.dropout), nn.Linear(width, 256), nn.GELU(), nn.Dropout(recipe.dropout), nn.Linear(256, 1)
        )
        self.intent = nn.Linear(width, len(INTENTS))
        self.kind = nn.Linear(width, len(categories))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.cat([self.harm(pooled), self.intent(pooled), self.kind(pooled)], dim=1)

    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Parameter groups with the rate of each layer."""
        heads = [*self.harm.parameters(), *self.intent.parameters(), *self.kind.parameters()]
        found: list[dict[str, Any]] = [{"params": heads, "lr": recipe.head_rate}]
        if recipe.frozen:
            return found
        layers = self.inner.encoder.layer
        for depth, layer in enumerate(reversed(layers)):
            found.append({"params": list(layer.parameters()), "lr": recipe.rate * recipe.decay**depth})
        lowest = recipe.rate * recipe.decay ** len(layers)
        found.append({"params": list(self.inner.embeddings.parameters()), "lr": lowest})
        for group in found:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
        return [group for group in found if group["params"]]


def tokenizer_of(base: Path) -> Any:
    """The base model's tokenizer."""
    return AutoTokenizer.from_pretrained(base)


def batches(rows: Sequence[Row], lengths: Sequence[int], recipe: Recipe, rng: random.Random) -> Iterator[list[int]]:
    """Places of the rows of each batch: whole groups, of about one length."""
    groups: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        groups[row.group].append(at)
    order = sorted(groups.values(), key=lambda group: max(lengths[at] for at in group) * rng.uniform(0.8, 1.25))
    held: list[list[int]] = [[]]
    for group in order:
        if len(held[-1]) >= recipe.batch:
            held.append([])
        held[-1].extend(group)
    rng.shuffle(held)
    yield from held


def loss_of(logits: torch.Tensor, rows: Sequence[Row], places: dict[str, int], recipe: Recipe) -> torch.Tensor:
    """Harm + category + intent + the ranking of twins."""
    harm = logits[:, 0]
    truth = torch.tensor([recipe.smoothing + (1 - 2 * recipe.smoothing) * row.harmful for row in rows])
    loss = nn.functional.binary_cross_entropy_with_logits(harm, truth)
    asked = torch.tensor([INTENTS.index(row.intent) if row.intent else -100 for row in rows])
    if (asked >= 0).any():
        loss = loss + INTENT_SHARE * nn.functional.cross_entropy(logits[:, 1 : 1 + len(INTENTS)], asked)
    named = [at for at, row in enumerate(rows) if row.categories]
    if named:
        wanted = torch.zeros(len(named), logits.shape[1] - 1 - len(INTENTS))
        for line, at in enumerate(named):
            for name in rows[at].categories:
                wanted[line, places[name]] = 1.0
        kinds = logits[named, 1 + len(INTENTS) :]
        loss = loss + CATEGORY_SHARE * nn.functional.cross_entropy(kinds, wanted / wanted.sum(1, keepdim=True))
    above, below = _pairs(rows)
    if above and recipe.ranking:
        loss = loss + recipe.ranking * nn.functional.softplus(recipe.margin - (harm[above] - harm[below])).mean()
    return loss


def _pairs(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        groups[row.group].append(at)
    above: list[int] = []
    below: list[int] = []
    for group in groups.values():
        for one in group:
            for other in group:
                if rows[one].harmful and not rows[other].harmful:
                    above.append(one)
                    below.append(other)
    return above, below


def fit(
    base: Path,
    rows: Sequence[Row],
    categories: Sequence[str],
    recipe: Recipe,
    start: Path | None = None,
    keep: Path | None = None,
) -> Scorer:
    """A trained scorer, kept in ``keep`` after every epoch. ``start``: a checkpoint to go on from."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    tokenizer = tokenizer_of(base)
    model = Scorer(base, categories, recipe)
    if start is not None:
        model.load_state_dict(torch.load(start, weights_only=True)["state"])
    optimiser = torch.optim.AdamW(model.groups(recipe), weight_decay=0.01)
    places = {name: at for at, name in enumerate(categories)}
    fillers = [row.text for row in rows if row.is_ordinary and 4 <= len(row.text.split()) <= 16]
    steps = recipe.epochs * len(rows) // recipe.batch
    rates = [group["lr"] for group in optimiser.param_groups]
    started, step, seen, total = time.monotonic(), 0, 0, 0.0
    for _ in range(recipe.epochs):
        model.train()
        texts = [augmented(row.text, rng, fillers, recipe.disguised) for row in rows]
        coded = tokenizer(texts, truncation=True, max_length=MOST_TOKENS)["input_ids"]
        for chosen in batches(rows, [len(ids) for ids in coded], recipe, rng):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (step + 1) / (0.06 * steps)) * max(0.02, 1 - step / steps)
            some = [rows[at] for at in chosen]
            with torch.autocast("cpu", torch.bfloat16):  # 1.6 times as fast where the processor has it
                logits = forward_in_parts(model, [coded[at] for at in chosen])
            loss = loss_of(logits.float(), some, places, recipe)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step, seen, total = step + 1, seen + len(some), total + loss.item()
            if step % 25 == 0:
                took = time.monotonic() - started
                print(f"step {step}/{steps}  loss {total / 25:.3f}  {seen / took:.0f} rows/s  {took:.0f} s", flush=True)
                total = 0.0
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"state": model.state_dict(), "categories": list(categories), "rows": len(rows)}, keep)
    return model.eval()


def forward_in_parts(model: Scorer, coded: Sequence[Sequence[int]], parts: int = 3) -> torch.Tensor:
    """(texts, …) logits. Short and long texts go apart, so that few tokens are padding."""
    order = sorted(range(len(coded)), key=lambda at: len(coded[at]))
    size = -(-len(order) // parts)
    found = []
    for start in range(0, len(order), size):
        some = [coded[at] for at in order[start : start + size]]
        longest = max(map(len, some))
        ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in some])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in some])
        found.append(model(ids, mask))
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(found)[back]


@torch.inference_mode()
def logits_of(model: Scorer, tokenizer: Any, texts: Sequence[str], batch: int = 64) -> np.ndarray:
    """(texts, 1 + intents + categories), each text cut at ``MOST_TOKENS``."""
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    found: np.ndarray | None = None
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        coded = tokenizer(
            [texts[number] for number in chosen],
            padding=True,
            truncation=True,
            max_length=MOST_TOKENS,
            return_tensors="pt",
        )
        some = model(coded["input_ids"], coded["attention_mask"]).numpy()
        if found is None:
            found = np.zeros((len(texts), some.shape[1]), dtype=np.float32)
        found[chosen] = some
    assert found is not None
    return found
