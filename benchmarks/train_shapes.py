"""What a training step of a real size costs: ``python -m benchmarks.train_shapes --shape qwen2-vl-7b --train lora``.

A randomly initialised model of that shape, rows of random tokens with one picture of 448 × 448 each, bf16, AdamW; tokens per second of the
language model, peak memory, and the share of the GPU's peak that is used (MFU). It is the bare step, without a data pipeline: what of it is
lost around it, ``benchmarks.train`` shows.

    FLOPs of a step = tokens · (c·N + 3 · 2·L·d·T)  +  patches · 2·V

N weights of the language model's matrices (head among them, embedding not), c = 6 where they are trained (2 forward, 2 for the gradients of
what they were fed, 2 for their own) and 4 under LoRA, which has no gradients of theirs; the attention term is that of a causal mask over T
tokens in L layers d wide, three times for forward and backward; V weights of the vision tower (of its merger a quarter, since four patches
share it), frozen, forward alone, its attention left out. What gradient checkpointing computes again counts for nothing.
MFU = FLOPs / seconds / peak (dense bf16, of the maker's data sheet).
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

_TEXT = {
    "qwen2-vl-7b": (3584, 18944, 28, 28, 4, 152064),
    "qwen2-vl-2b": (1536, 8960, 28, 12, 2, 151936),
    "shrunken": (128, 256, 2, 4, 2, 1000),
}
"""Width, width of the MLP, layers, heads, key-value heads, words."""
_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
_GRID = 32  # patches along an edge; two by two of them are a token
_PATCH = 3 * 2 * 14 * 14


def make(shape: str, device: str) -> Any:
    """The model, in bf16."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    width, inner, layers, heads, pairs, words = _TEXT[shape]
    small = shape == "shrunken"
    third = width // heads // 2 // 8
    text = {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": pairs, "vocab_size": words, "tie_word_embeddings": shape == "qwen2-vl-2b",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2 * third, 3 * third, 3 * third]},
    }  # fmt: skip
    vision = {"depth": 2 if small else 32, "embed_dim": 64 if small else 1280, "num_heads": 4 if small else 16}
    places = {"image_token_id": 9, "video_token_id": 8, "vision_start_token_id": 7, "vision_end_token_id": 6}
    config = Qwen2VLConfig(text_config=text, vision_config={**vision, "hidden_size": width}, **places)
    with torch.device(device):
        return Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)


def rows(words: int, batch: int, tokens: int, device: str) -> dict[str, torch.Tensor]:
    """A batch: a picture, and words of which the last fifth is learned."""
    ids = torch.randint(10, words, (batch, tokens))
    pictured = (_GRID // 2) ** 2
    ids[:, 0], ids[:, 1 : 1 + pictured], ids[:, 1 + pictured] = 7, 9, 6
    labels = ids.clone()
    labels[:, : tokens * 4 // 5] = -100
    fed = {
        "input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == 9).int(),
        "pixel_values": torch.randn(batch * _GRID**2, _PATCH).bfloat16(),
        "image_grid_thw": torch.tensor([[1, _GRID, _GRID]] * batch),
    }  # fmt: skip
    return {key: value.to(device) for key, value in fed.items()}


def flops(model: Any, *, batch: int, tokens: int, lora: bool) -> float:
    """Of a step, by the formula above."""
    text = model.config.get_text_config()
    weights = sum(p.numel() for p in model.get_decoder().layers.parameters()) + text.hidden_size * text.vocab_size
    # The merger reads four patches at once.
    parts = [(name, p.numel()) for name, p in model.named_parameters() if "visual" in name]
    vision = sum(count / 4 if "merger" in name else count for name, count in parts)
    attention = 3 * 2 * text.num_hidden_layers * text.hidden_size * tokens
    return float(batch * tokens * ((4 if lora else 6) * weights + attention) + batch * _GRID**2 * 2 * vision)


def main() -> None:
    """One shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=_TEXT, default="shrunken")
    parser.add_argument("--train", choices=("lora", "full"), default="lora")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpointing", action="store_true")
    for name, value in (("tokens", 2048), ("batch", 2), ("steps", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    model = make(given.shape, given.device)
    work = flops(model, batch=given.batch, tokens=given.tokens, lora=given.train == "lora")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name)
    if given.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if given.train == "lora":
        from peft import LoraConfig, get_peft_model

        matrices = r".*language_model\.layers\..*_proj"
        model = get_peft_model(model, LoraConfig(r=64, lora_alpha=128, target_modules=matrices))
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 1e-5, fused=given.device == "cuda"
    )
    batch = rows(_TEXT[given.shape][-1], given.batch, given.tokens, given.device)
    model.train()
    seconds = [_step(model, optimiser, batch) for _ in range(given.steps + 2)][2:]
    _tell(given, statistics.median(seconds), min(seconds), max(seconds), work)


def _step(model: Any, optimiser: Any, batch: dict[str, torch.Tensor]) -> float:
    started = time.perf_counter()
    loss = model(**batch).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    assert torch.isfinite(loss)  # waits for the device as well
    return time.perf_counter() - started


def _tell(given: argparse.Namespace, middle: float, least: float, most: float, work: float) -> None:
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    peak = next((value for kind, value in _PEAK.items() if kind in name), None)
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if given.device == "cuda" else "not measured"
    mfu = f"{work / middle / peak:.1%}" if peak else f"none: the peak of {name} is not in the table"
    print(
        f"{given.shape}, {given.train}, {given.batch} rows of {given.tokens} tokens, checkpointing {given.checkpointing}, {name}"
    )
    print(
        f"{given.batch * given.tokens / middle:,.0f} tokens/s; a step {middle:.3f} s ({least:.3f} to {most:.3f}, n = {given.steps})"
    )
    print(f"{work / 1e12:.3f} TFLOP a step, {work / middle / 1e12:.2f} TFLOP/s, MFU {mfu}; peak memory {memory}")


if __name__ == "__main__":
    main()
