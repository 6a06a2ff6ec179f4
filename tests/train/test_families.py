"""Every family is fed in training what it is fed in serving, and says the same wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_families import without_videos
from tests.train.world import ROWS, write_dataset
from vlmguard.models.local import LocalModel, model_inputs
from vlmguard.policy import load_policy
from vlmguard.train.base import load_processor, parts_of
from vlmguard.train.measure import IGNORED, Probe, measure
from vlmguard.train.recipe import Recipe
from vlmguard.train.rows import example, open_rows
from vlmguard.train.sft import sft
from vlmguard.types import Sampling

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LORA = {"r": 4, "target_modules": r".*(language_model|text_model)\.layers.*\.(q_proj|v_proj)"}
TRL = {
    "max_steps": 1, "per_device_train_batch_size": 5, "learning_rate": 1e-3, "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no",
}  # fmt: skip
FAMILIES = ("llava", "idefics3", "gemma3", "qwen2_5_vl")


@pytest.fixture(scope="module", autouse=True)
def _image_only_qwen() -> Iterator[None]:
    undo = without_videos()
    yield
    undo()


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tiny_llava: Path, tiny_families: Path) -> Path:
    return tiny_llava / "base" if request.param == "llava" else tiny_families / request.param


@pytest.fixture
def collator(base: Path, tmp_path: Path) -> tuple[Any, Any, Any]:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    data = write_dataset(tmp_path / "data")
    processor = load_processor(Recipe(str(base), str(data)), None)
    rows = open_rows(data, load_policy())["train"]
    return rows, processor, DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)


def test_the_trainer_feeds_what_serving_feeds_and_learns_the_trace_alone(collator: tuple[Any, Any, Any]) -> None:
    rows, processor, collate = collator
    batch = collate([example(rows[index], processor) for index in range(len(rows))])
    for index in range(len(rows)):
        row = rows[index]
        there = batch["attention_mask"][index].bool()
        ids, labels = batch["input_ids"][index][there], batch["labels"][index][there]
        served = model_inputs(processor, [row.asked])["input_ids"][0]
        assert ids[labels == IGNORED].tolist() == served.tolist()
        learned = processor.tokenizer.decode(labels[labels != IGNORED])
        assert learned.strip().startswith(row.said)
        assert learned.strip()[len(row.said) :] == processor.tokenizer.eos_token
    probe = Probe(rows, collate, processor, 4096, [processor.tokenizer.eos_token_id])
    lengths = measure(probe)
    assert lengths.kept.tolist() == list(range(len(ROWS)))
    assert (lengths.asked + lengths.said).tolist() == batch["attention_mask"].sum(1).tolist()


def test_pictures_change_what_is_fed(collator: tuple[Any, Any, Any]) -> None:
    rows, processor, collate = collator
    red, blue = (collate([example(rows[index], processor)])["pixel_values"] for index in (0, 1))
    assert red.shape == blue.shape
    assert not red.equal(blue)


async def test_a_run_says_the_same_in_training_and_in_serving(base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    said: dict[str, str] = {}
    data = write_dataset(tmp_path / "data", validation=2)

    class Keeps(TrainerCallback):  # type: ignore[misc]
        model: Any = None

        def on_train_end(self, *_: Any, model: Any, **__: Any) -> None:
            self.model = model.eval()

    keeps = Keeps()
    recipe = Recipe(str(base), str(data), lora=LORA, trl=TRL, held_out=1)
    run = sft(recipe, tmp_path / "run", callbacks=[keeps], tell=lambda line: None)
    row = open_rows(data, load_policy())["train"][0]
    local = LocalModel(str(run.folder), device="cpu")
    said["local"] = (await local.generate(row.asked, Sampling(max_tokens=24))).text
    inputs = model_inputs(local._processor, [row.asked])
    ids = inputs["input_ids"]
    for _ in range(24):  # the trainer's own forward, a token at a time
        length = ids.shape[1]
        pads = {
            key: torch.nn.functional.pad(value, (0, length - value.shape[1]))
            for key, value in inputs.items()
            if key in ("token_type_ids", "mm_token_type_ids")
        }
        kept = {key: value for key, value in inputs.items() if key not in (*pads, "input_ids", "attention_mask")}
        with torch.no_grad():
            logits = keeps.model(input_ids=ids, attention_mask=torch.ones_like(ids), **pads, **kept).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        if int(ids[0, -1]) == local._processor.tokenizer.eos_token_id:
            break
    said["trainer"] = local._processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said["local"] == said["trainer"]


def test_parts_are_told_apart(base: Path) -> None:
    from transformers import AutoModelForImageTextToText

    part = parts_of(model := AutoModelForImageTextToText.from_pretrained(base))
    found = {part(name) for name, _ in model.named_parameters()}
    assert found == {"language", "projector", "vision"}
    assert part(next(name for name, _ in model.named_parameters() if "embed_tokens" in name)) == "language"
