"""The FLOPs that MFU is made of are those that torch counts."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="it makes a model of theirs: pip install 'vlmguard[train]'")


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("lora", [False, True])
def test_flops_are_those_that_torch_counts(lora: bool) -> None:
    from peft import LoraConfig, get_peft_model
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.train_shapes import flops, make, rows

    model = make("shrunken", "cpu")
    told = flops(model, batch=2, tokens=512, lora=lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name)
    if lora:
        model = get_peft_model(model, LoraConfig(r=1, target_modules=r".*language_model\.layers\..*_proj"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**rows(1000, 2, 512, "cpu")).loss.backward()
    text = model.config.get_text_config()
    pairs = text.num_hidden_layers * text.hidden_size * 2 * 512  # layers · width · tokens
    square = 3 * 4 * pairs * 512  # all pairs of tokens, counted by torch, where a causal mask needs half
    tower = 2 * 2 * 2 * 64 * 1024 * 1024 * 2  # the vision tower's attention, which the formula leaves out
    assert told + square / 2 + tower == pytest.approx(counter.get_total_flops(), rel=0.03)
