"""Owns the network in the form that ships: one text at a time, in two halves with an exit between them. Needs torch and onnx.

The lower half (token embeddings, ``EARLY`` layers) ends in a small head that settles most harmless texts; the upper half reads the
rest to the end. The arithmetic is the trained network's. Without a batch it needs no mask and no padding, and query, key and value are one
product, so that fewer and larger operations remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.risk.model import MOST_TOKENS, Scorer
from training.risk.rows import INTENTS, Row

LAYERS = 6
EARLY = 2
"""Layers of the lower half: one is too few to tell, three settle little more (docs/decisions/0009)."""
HARMFUL_WEIGHT = 3.0
"""A harmful text let through costs more than a harmless one that is read to the end."""


class Block(nn.Module):
    """One layer over the (1, t, width) states of a text."""

    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        attention = layer.attention
        parts = [attention.self.query, attention.self.key, attention.self.value]
        width = parts[0].in_features
        self.heads, self.each = heads, width // heads
        self.asked = nn.Linear(width, 3 * width)
        weights, biases = [part.weight.data for part in parts], [part.bias.data for part in parts]
        scale = self.each**-0.5  # of the products of query and key, taken into the query
        self.asked.weight.data = torch.cat([weights[0] * scale, *weights[1:]])
        self.asked.bias.data = torch.cat([biases[0] * scale, *biases[1:]])
        self.told, self.norm = attention.output.dense, attention.output.LayerNorm
        self.wide, self.narrow, self.last = layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        asked = self.asked(states).reshape(-1, 3 * self.heads, self.each).transpose(0, 1)
        query, key, value = asked.split(self.heads)
        seen = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value
        states = self.norm(states + self.told(seen.transpose(0, 1).reshape(1, -1, self.heads * self.each)))
        return self.last(states + self.narrow(nn.functional.gelu(self.wide(states))))  # type: ignore[no-any-return]


class Lower(nn.Module):
    """(1, t) token ids → (1, t, width) states after ``EARLY`` layers and the (1,) logit of the exit."""

    def __init__(self, whole: Scorer, exit_head: nn.Module) -> None:
        super().__init__()
        inner = whole.inner
        self.words = inner.embeddings.word_embeddings
        self.norm = inner.embeddings.LayerNorm
        places = (
            inner.embeddings.position_embeddings.weight.data + inner.embeddings.token_type_embeddings.weight.data[0]
        )
        self.register_buffer("places", places[:MOST_TOKENS].clone())
        self.blocks = nn.ModuleList(blocks(whole)[:EARLY])
        self.exit = exit_head

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """(1, t, width)."""
        states: torch.Tensor = self.norm(self.words(ids) + self.places[: ids.shape[1]])  # type: ignore[index]
        for block in self.blocks:
            states = block(states)
        return states

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.states(ids)
        return states, self.exit(states.mean(1))[:, 0]


class Upper(nn.Module):
    """(1, t, width) states of the lower half → (1, 2 + categories) logits: harm, intent (asks to do harm against the rest),
    categories."""

    def __init__(self, whole: Scorer) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks(whole)[EARLY:])
        self.harm, self.intent, self.kind = whole.harm, whole.intent, whole.kind

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            states = block(states)
        pooled = states.mean(1)
        asked = self.intent(pooled)
        intent = asked[:, :1] - torch.logsumexp(asked[:, 1:], dim=1, keepdim=True)
        assert asked.shape[1] == len(INTENTS)
        return torch.cat([self.harm(pooled), intent, self.kind(pooled)], dim=1)


def blocks(whole: Scorer) -> list[Block]:
    """The layers, from the lowest."""
    return [Block(layer, whole.inner.config.num_attention_heads) for layer in whole.inner.encoder.layer]


@torch.inference_mode()
def early_means(model: Scorer, tokenizer: Any, texts: Sequence[str], batch: int = 64) -> torch.Tensor:
    """(texts, width): the mean state of each text after ``EARLY`` layers."""
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    found = torch.zeros(len(texts), model.inner.config.hidden_size)
    kept = model.inner.encoder.layer
    model.inner.encoder.layer = kept[:EARLY]
    try:
        for chosen in (order[at : at + batch] for at in range(0, len(order), batch)):
            coded = tokenizer(
                [texts[at] for at in chosen], padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
            )
            mask = coded["attention_mask"]
            with torch.autocast("cpu", torch.bfloat16):
                states = model.inner(input_ids=coded["input_ids"], attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).float()
            found[chosen] = (states.float() * weight).sum(1) / weight.sum(1)
    finally:
        model.inner.encoder.layer = kept
    return found


def fit_exit(means: torch.Tensor, harmful: Sequence[bool], epochs: int = 12, seed: int = 0) -> nn.Module:
    """The head of the exit, trained on states that stay as they are: (n, width) → (n, 1) logits."""
    torch.manual_seed(seed)
    middle, spread = means.mean(0), means.std(0) + 1e-5
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(means.shape[1], 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, 1))
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.05)
    truth, scaled = torch.tensor(harmful, dtype=torch.float32), (means - middle) / spread
    for _ in range(epochs):
        for chosen in torch.randperm(len(means)).split(128):
            logits = head(scaled[chosen])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits, truth[chosen], pos_weight=torch.tensor(HARMFUL_WEIGHT)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    first = head[1]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():  # the scaling goes into the first product
        first.bias -= first.weight @ (middle / spread)
        first.weight /= spread
    return head.eval()


def exit_of(model: Scorer, tokenizer: Any, rows: Sequence[Row]) -> nn.Module:
    """The exit's head for a model, from rows that it was trained on."""
    return fit_exit(early_means(model, tokenizer, [row.text for row in rows]), [row.harmful for row in rows])


def write_halves(model: Scorer, exit_head: nn.Module, out: Path) -> None:
    """early.onnx and late.onnx: int8 per channel; the heads, which are small, stay as they are."""
    lower, upper = Lower(model, exit_head).eval(), Upper(model).eval()
    ids = torch.tensor([[101, *range(2000, 2010), 102]])
    with torch.no_grad():
        states, _ = lower(ids)
    _check(model, upper, states, ids)
    _write(lower, ids, out / "early.onnx", ["ids"], ["states", "early"], heads="/exit/")
    _write(upper, states, out / "late.onnx", ["states"], ["logits"], heads=("/harm/", "/intent/", "/kind/"))


def _check(model: Scorer, upper: Upper, states: torch.Tensor, ids: torch.Tensor) -> None:
    """That the two halves say what the trained network says."""
    with torch.no_grad():
        whole, halves = model(ids, torch.ones_like(ids)), upper(states)
    if not torch.allclose(whole[:, 0], halves[:, 0], atol=1e-3):
        raise SystemExit(f"the two halves differ from the network: {halves[:, 0]} against {whole[:, 0]}")


def _write(
    half: nn.Module,
    example: torch.Tensor,
    file: Path,
    inputs: list[str],
    outputs: list[str],
    heads: str | tuple[str, ...],
) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = file.with_suffix(".whole.onnx")
    torch.onnx.export(
        half,
        (example,),
        str(whole),
        input_names=inputs,
        output_names=outputs,
        opset_version=17,
        dynamo=False,
        dynamic_axes={name: {1: "t"} for name in (*inputs, *outputs) if name in ("ids", "states")},
    )
    kept = [node.name for node in onnx.load(str(whole)).graph.node if node.name.startswith(heads)]
    quantize_dynamic(
        str(whole),
        str(file),
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,  # seven bits: processors without VNNI would saturate at eight and score otherwise
        nodes_to_exclude=kept,
    )
    whole.unlink()
