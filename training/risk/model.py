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

from training.risk.augment import augmented, fillers_of
from training.risk.rows import INTENTS, Row

MOST_TOKENS = 128
"""Of a text, in training and in serving; a longer text is read in pieces."""
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the base model's safetensors file: the package's author field is a placeholder, so the hash is what is trusted."""
CATEGORY_SHARE, INTENT_SHARE, EARLY_SHARE = 0.3, 0.3, 0.3
"""Weights of the losses beside harm's; the last is of all the early heads together."""
EARLY_HEADS = (1, 2)
"""Layers after which a small head must tell harm, too, so that an exit there has something to go by. The heads themselves do not ship: the
exit's is fitted when the weights are made (``served``)."""
RISE = 50
"""Steps until the rate is full."""
TOLD_WELL = 0.1
"""Cross-entropy of the harm head below which a text teaches little; about 2.2 logits on the right side."""


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
    fall: float = 1.0
    """The rate falls to nothing over this last share of the steps; 0: it stays, for a stage that another goes on from."""
    average: float = 0.998
    """Of the running mean of the weights, a step; it is the mean that is kept. 0: the last weights are."""
    rest: float = 0.5
    """The chance that a group whose texts were all told well the last time sits an epoch out."""
    others: float = 0.5
    """Share of the groups in other languages than English that an epoch takes: the bars are English's, and they are long."""
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
        self.early = nn.ModuleList(
            nn.Sequential(nn.Dropout(recipe.dropout), nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 1))
            for _ in EARLY_HEADS
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.both(input_ids, attention_mask)[0]

    def both(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits, and the early heads': (batch, len(EARLY_HEADS))."""
        found = self.inner(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        pooled = mean_state(found.last_hidden_state, attention_mask)
        early = [
            head(mean_state(found.hidden_states[depth], attention_mask))
            for depth, head in zip(EARLY_HEADS, self.early, strict=True)
        ]
        return torch.cat([self.harm(pooled), self.intent(pooled), self.kind(pooled)], dim=1), torch.cat(early, dim=1)

    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Parameter groups with the rate of each layer."""
        heads = [p for some in (self.harm, self.intent, self.kind, self.early) for p in some.parameters()]
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


def mean_state(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, width) → (batch, width), over the tokens that ``mask`` has."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def tokenizer_of(base: Path) -> Any:
    """The base model's tokenizer."""
    return AutoTokenizer.from_pretrained(base)


def batches(
    rows: Sequence[Row], lengths: Sequence[int], recipe: Recipe, rng: random.Random, told: np.ndarray
) -> Iterator[list[int]]:
    """Places of the rows of each batch: whole groups, of about one length, without those that sit this epoch out. ``told``: (rows,)
    the loss of each when it was seen last."""
    groups: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        groups[row.group].append(at)
    for name in list(groups):
        well, foreign = told[groups[name]].max() < TOLD_WELL, rows[groups[name][0]].language != "en"
        if (well and rng.random() < recipe.rest) or (foreign and rng.random() >= recipe.others):
            del groups[name]
    order = sorted(groups.values(), key=lambda group: max(lengths[at] for at in group) * rng.uniform(0.8, 1.25))
    held: list[list[int]] = [[]]
    for group in order:
        if len(held[-1]) >= recipe.batch:
            held.append([])
        held[-1].extend(group)
    rng.shuffle(held)
    yield from held


def loss_of(
    logits: torch.Tensor, early: torch.Tensor, rows: Sequence[Row], places: dict[str, int], recipe: Recipe
) -> torch.Tensor:
    """Harm + category + intent + the ranking of twins + harm as the early heads tell it."""
    harm = logits[:, 0]
    truth = torch.tensor([recipe.smoothing + (1 - 2 * recipe.smoothing) * row.harmful for row in rows])
    loss = nn.functional.binary_cross_entropy_with_logits(harm, truth)
    loss = loss + EARLY_SHARE * nn.functional.binary_cross_entropy_with_logits(early, truth[:, None].expand_as(early))
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


def harm_losses(harm: torch.Tensor, rows: Sequence[Row]) -> np.ndarray:
    """(texts,) how wrong the harm head is about each."""
    sign = torch.tensor([-1.0 if row.harmful else 1.0 for row in rows])
    return np.asarray(nn.functional.softplus(sign * harm).numpy())


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
        begun = torch.load(start, weights_only=True)
        _take(model, begun.get("last", begun["state"]))
    mean = RunningMean(model, recipe.average)
    optimiser = torch.optim.AdamW(model.groups(recipe), weight_decay=0.01, fused=True)
    places = {name: at for at, name in enumerate(categories)}
    fillers = fillers_of(rows)
    rates = [group["lr"] for group in optimiser.param_groups]
    told = np.full(len(rows), np.inf)
    started, step, seen, total = time.monotonic(), 0, 0, 0.0
    for epoch in range(recipe.epochs):
        model.train()
        texts = [augmented(row.text, rng, fillers, recipe.disguised) for row in rows]
        coded = tokenizer(texts, truncation=True, max_length=MOST_TOKENS)["input_ids"]
        chosen_batches = list(batches(rows, [len(ids) for ids in coded], recipe, rng, told))
        for number, chosen in enumerate(chosen_batches):
            done = (epoch + number / len(chosen_batches)) / recipe.epochs
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * pace(step, done, recipe)
            some = [rows[at] for at in chosen]
            with torch.autocast("cpu", torch.bfloat16):  # 1.6 times as fast where the processor has it
                logits, early = forward_in_parts(model, [coded[at] for at in chosen])
            loss = loss_of(logits.float(), early.float(), some, places, recipe)
            told[chosen] = harm_losses(logits.detach().float()[:, 0], some)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            mean.update(model)
            step, seen, total = step + 1, seen + len(some), total + loss.item()
            if step % 25 == 0:
                took = time.monotonic() - started
                print(
                    f"step {step}, {done:.0%}  loss {total / 25:.3f}  {seen / took:.0f} rows/s  {took:.0f} s",
                    flush=True,
                )
                total = 0.0
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
            kept = {
                "state": mean.weights,
                "last": model.state_dict(),
                "categories": list(categories),
                "rows": len(rows),
            }
            torch.save(kept, keep)
    model.load_state_dict(mean.weights)
    return model.eval()


def _take(model: Scorer, state: dict[str, torch.Tensor]) -> None:
    """The weights of a checkpoint; one from before there were early heads may lack those, and nothing else."""
    strange = model.load_state_dict(state, strict=False)
    lacking = [name for name in strange.missing_keys if not name.startswith("early.")]
    if lacking or strange.unexpected_keys:
        raise SystemExit(f"the checkpoint is of another network: {[*lacking, *strange.unexpected_keys]}")


def pace(step: int, done: float, recipe: Recipe) -> float:
    """The share of the full rate at a step, when a share ``done`` of all is behind: a short rise, level, and a fall in a line."""
    falling = (1 - done) / recipe.fall if recipe.fall else 1.0
    return min(1.0, (step + 1) / RISE) * min(1.0, max(0.02, falling))


class RunningMean:
    """The mean of a model's weights over the last steps, about 1 / (1 - ``keep``) of them: it generalises better than the last
    weights do, at the price of one addition a step."""

    def __init__(self, model: nn.Module, keep: float) -> None:
        self._keep = keep
        self._steps = 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes one step's weights in; the first steps count for more, so that where it began is forgotten."""
        self._steps += 1
        fresh = 1 - min(self._keep, self._steps / (self._steps + 10))
        for name, value in model.state_dict().items():
            held = self.weights[name]
            if held.is_floating_point():
                held.lerp_(value, fresh)
            else:
                held.copy_(value)


def forward_in_parts(
    model: Scorer, coded: Sequence[Sequence[int]], parts: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """(texts, …) logits, and the early heads'. Short and long texts go apart, so that few tokens are padding."""
    order = sorted(range(len(coded)), key=lambda at: len(coded[at]))
    size = -(-len(order) // parts)
    found = []
    for start in range(0, len(order), size):
        some = [coded[at] for at in order[start : start + size]]
        longest = max(map(len, some))
        ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in some])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in some])
        found.append(model.both(ids, mask))
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat([one for one, _ in found])[back], torch.cat([one for _, one in found])[back]


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
