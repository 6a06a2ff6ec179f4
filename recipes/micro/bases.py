"""Tiny models of three real families, made offline: one tokenizer, and for each family its own processor and random weights.

Their prompts are short because the tokenizer holds as one token each what never changes: the rewriter's instructions and the words
around a conversation, the prompts of static defences, the tags of the trace grammar. The marks around quoted data, which are other
digits every time and tell a model nothing, are folded into one. What serving sends is what training shows, token for token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from recipes.micro.world import SIDE
from vlmguard.policy import Policy
from vlmguard.prompts import load_prompt
from vlmguard.rewriters.quoting import instructions, rewriter_chat
from vlmguard.types import Chat, Message, Text

WIDTH, MLP, LAYERS, HEADS, PATCH = 128, 256, 3, 4, 14
VOCABULARY = 900
"""Of words and pieces of words; what is one token by decree comes on top."""
_TEXT_SCALE = 0.04
"""Standard deviation of the language model's first weights: with the usual 0.02 such narrow ones learn slowly."""

_MARK = r"==[0-9a-f]{24}"
_TAG = re.compile(r"(?:</\w+>)?\n?<\w[^<>]*>|</\w+>")
_SPECIAL: dict[str, Any] = {
    "pad_token": "<pad>",
    "eos_token": "<|end|>",
    "extra_special_tokens": {
        "image_token": "<image>",
        "fake_token": "<fake_token_around_image>",
        "global_token": "<global-img>",
        "utterance_token": "<end_of_utterance>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
}
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}PLACE{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(said: Iterable[str], traces: Iterable[str], policy: Policy) -> Any:
    """A byte-level BPE of what is said in the world, traces among it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    traces = list(traces)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(Regex(_MARK), "==")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<|end|>", *_SPECIAL["extra_special_tokens"].values(), *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*said, *(_TAG.sub(" ", trace) for trace in traces)], trainer)
    tags = {tag for trace in traces for tag in _TAG.findall(trace)}
    whole = [*_unchanging(policy), *sorted(tags)]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in whole])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def _unchanging(policy: Policy) -> list[str]:
    """What stands in every prompt of a rewriter or of a static defence, mark aside."""
    asked = rewriter_chat(Chat((Message("user", (Text("?"),)),)), policy, b"").messages[-1].text
    around = [piece.strip("\n") for piece in re.split(rf"{_MARK}(?: turn 1: user\n\?| end)?", asked)]
    defences = [load_prompt(name) for name in ("defence_safety", "defence_adashield")]
    return [instructions(policy), *defences, *filter(None, around)]


# ---------------------------------------------------------------------------------------------------------------------
# Families: (processor, model) from a tokenizer


def _pictures(kind: Any, **more: Any) -> Any:
    return kind(size={"height": SIDE, "width": SIDE}, do_resize=True, **more)


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }


_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
_EYES = {**_SIZES, "image_size": SIDE, "patch_size": PATCH}
_LANGUAGE = {
    **_SIZES,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 1024,
    "initializer_range": _TEXT_SCALE,
    "tie_word_embeddings": True,
}


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    processor = LlavaProcessor(
        image_processor=_pictures(CLIPImageProcessorPil, do_center_crop=False, do_convert_rgb=True),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.replace("PLACE", "<image>"),
    )
    config = LlavaConfig(
        text_config=LlamaConfig(**_LANGUAGE, **_ids(tokenizer)),
        vision_config=CLIPVisionConfig(**_EYES),
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIDE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    return processor, LlavaForConditionalGeneration(config)


def _idefics3(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        LlamaConfig,
    )
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    scale = 2
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
        ),
        tokenizer,
        image_seq_len=(SIDE // PATCH // scale) ** 2,
        chat_template=_TEMPLATE.replace("PLACE", "<image>"),
    )
    config = Idefics3Config(
        text_config=LlamaConfig(**_LANGUAGE, **_ids(tokenizer)),
        vision_config=Idefics3VisionConfig(**_EYES),
        image_token_id=tokenizer.image_token_id,
        scale_factor=scale,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return processor, Idefics3ForConditionalGeneration(config)


def _gemma3(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    seen = 4
    processor = Gemma3Processor(
        _pictures(Gemma3ImageProcessorPil),
        tokenizer,
        chat_template=_TEMPLATE.replace("PLACE", tokenizer.boi_token),
        image_seq_length=seen,
    )
    head = WIDTH // HEADS
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**_LANGUAGE, **_ids(tokenizer), head_dim=head, query_pre_attn_scalar=head),
        vision_config=SiglipVisionConfig(**_EYES, vision_use_head=False),
        mm_tokens_per_image=seen,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        tie_word_embeddings=True,
    )
    return processor, Gemma3ForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[Any], tuple[Any, Any]]] = {"idefics3": _idefics3, "llava": _llava, "gemma3": _gemma3}
"""Name → how its processor and its model are made of a tokenizer."""

SIGHT = {"llava": 2}
"""Families that take so many times as long to learn to see."""
ANSWERS = {"gemma3": 1.4}
"""The same for answering."""


def make_base(family: str, tokenizer: Any, seed: int) -> tuple[Any, Any]:
    """Processor and model with random weights."""
    import torch

    torch.manual_seed(seed)
    processor, model = FAMILIES[family](tokenizer)
    for name, parameter in model.named_parameters():
        if ("projector" in name and parameter.ndim == 2) or "position_embedding" in name:
            torch.nn.init.normal_(parameter, std=WIDTH**-0.5)  # the usual 0.02 is made for wider models
    for config in (model.config, model.generation_config):
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return processor, model


def save(processor: Any, model: Any, folder: Path) -> None:
    """As transformers, and so ``local:FOLDER``, loads it."""
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


def load(folder: Path) -> tuple[Any, Any]:
    """Processor and model of a folder."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
