"""Tiny, untrained models of other families than LLaVA (tests/tiny_llava.py), built offline: Idefics3, Gemma3, Qwen2.5-VL.

    python -m tests.tiny_families FOLDER        writes FOLDER/idefics3, FOLDER/gemma3 and FOLDER/qwen2_5_vl

Their processors, chat templates and ways to stand pictures in a prompt are their families' own; only sizes are ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny_llava import lessons
from vlmguard.policy import load_policy
from vlmguard.rewriters.quoting import instructions

SIDE = 56
_IDEFICS3 = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %} {{ part.text }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_GEMMA3 = (
    "<bos>{% for message in messages %}{% set role = 'model' if message.role == 'assistant' else 'user' %}<start_of_turn>"
    "{{ role }}\n{% for part in message.content %}{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}"
    "{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_QWEN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path) -> None:
    """Writes all of them."""
    import torch

    torch.set_num_threads(1)
    for name, make in FAMILIES.items():
        torch.manual_seed(0)
        model, processor = make()
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)


def _idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        LlamaConfig,
    )

    own = ["<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>"]
    own += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer("<pad>", "<end_of_utterance>", own)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=_IDEFICS3)
    config = Idefics3Config(
        text_config=LlamaConfig(
            **_language(tokenizer), max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id
        ).to_dict(),
        vision_config={**_VISION, "patch_size": 14, "image_size": SIDE},
        scale_factor=2,
        image_token_id=processor.image_token_id,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Idefics3ForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessorPil, Gemma3Processor

    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = _tokenizer("<pad>", "<end_of_turn>", ["<bos>", "<start_of_turn>", *named.values()], **named)
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = Gemma3Processor(images, tokenizer, chat_template=_GEMMA3, image_seq_length=4)
    config = Gemma3Config(
        text_config={
            **_language(tokenizer), "head_dim": 16, "num_key_value_heads": 2, "sliding_window": 1024,
            "max_position_embeddings": 2048, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**_VISION, "patch_size": 14, "image_size": SIDE, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config), processor


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
    )

    own = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer("<|endoftext|>", "<|im_end|>", own)
    images = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, min_pixels=28 * 28, max_pixels=SIDE * SIDE)
    without_videos()
    processor = Qwen2_5_VLProcessor(images, tokenizer, chat_template=_QWEN)
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            **_language(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "rope_scaling": {"type": "default", "mrope_section": [2, 3, 3], "rope_type": "default"},
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
        },
        vision_config={
            "depth": 2, "hidden_size": 48, "intermediate_size": 96, "num_heads": 4, "patch_size": 14, "out_hidden_size": 64,
            "fullatt_block_indexes": [1], "window_size": 56, "spatial_merge_size": 2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), processor


FAMILIES = {"idefics3": _idefics3, "gemma3": _gemma3, "qwen2_5_vl": _qwen2_5_vl}

_VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def without_videos() -> Callable[[], None]:
    """Qwen's processor without its video half, which needs torchvision, which cannot be installed beside a CPU torch.

    Returns what undoes it.
    """
    from transformers import ProcessorMixin, Qwen2_5_VLProcessor

    whole = Qwen2_5_VLProcessor.__init__

    def init(
        self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def undo() -> None:
        Qwen2_5_VLProcessor.__init__ = whole

    Qwen2_5_VLProcessor.__init__ = init
    return undo


def _language(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "tie_word_embeddings": True,
    }  # fmt: skip


def _tokenizer(pad: str, end: str, own: list[str], **named: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[pad, end, *own],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([lesson.said for lesson in lessons()], trainer)
    tokenizer.add_tokens([AddedToken(instructions(load_policy()).strip(), normalized=False, special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=end, extra_special_tokens=named)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
