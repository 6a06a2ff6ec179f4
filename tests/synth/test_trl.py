"""The exported rows are what TRL trains on: loaded with datasets, put through a training step with a real, tiny VLM."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.synth.oracle import Judge, Target, Teacher, picture, row
from vlmguard import trace
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.rewriters.quoting import rewriter_chat
from vlmguard.synth.crew import Crew
from vlmguard.synth.engine_local import run_local
from vlmguard.synth.export import export, export_trl
from vlmguard.synth.prepare import prepare
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store
from vlmguard.types import Text


@pytest.fixture
def dataset(tmp_path: Path, policy: Policy) -> Path:
    picture(tmp_path / "a.png", 1)
    picture(tmp_path / "b.png", 2)
    rows = [
        row(1, images=["a.png"]),
        row(2, images=["b.png"], benign=True, prompt="What colour is the bottle?"),
        row(3),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe(sources=("jsonl:rows.jsonl",), teacher="oracle", folder=tmp_path, validation=0.0)
    judge = Judge()
    out = tmp_path / "out"
    with Store(out) as store:
        prepare(recipe, out, store)
        store.reopen("x")
        asyncio.run(run_local(store, Crew(Teacher(), Target(), judge), recipe, policy, PictureStore(out / "pictures")))
        export(store, recipe, out)
    assert export_trl(out, lambda chat: rewriter_chat(chat, policy, b"")) == 3
    return out


def _load(out: Path) -> Any:
    import datasets

    rows = datasets.load_dataset("parquet", data_files=str(out / "trl" / "train.parquet"), split="train")
    return rows.cast_column("images", datasets.List(datasets.Image()))


def test_the_prompt_is_what_serving_asks(dataset: Path, policy: Policy) -> None:
    rows = _load(dataset)
    by_id = {one["id"]: one for one in rows}
    from vlmguard import chat

    served = rewriter_chat(chat(row(3)["prompt"]), policy, b"")
    told = by_id["r00003"]["prompt"]
    assert [message["role"] for message in told] == [message.role for message in served.messages]
    assert [part["text"] for message in told for part in message["content"]] == [
        part.text for message in served.messages for part in message.parts if isinstance(part, Text)
    ]
    places = [part["type"] for message in by_id["r00001"]["prompt"] for part in message["content"]]
    assert places.count("image") == len(by_id["r00001"]["images"]) == 1
    for one in rows:
        trace.parse(one["completion"][0]["content"][0]["text"])


@pytest.mark.filterwarnings("ignore")
def test_a_training_step(dataset: Path, tiny_llava: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava / "base")
    before = {name: value.clone() for name, value in model.named_parameters()}
    config = SFTConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=3, learning_rate=1e-3,
        max_length=None, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
    )  # fmt: skip
    rows = _load(dataset).remove_columns("id")
    trainer = SFTTrainer(
        model, config, train_dataset=rows, processing_class=AutoProcessor.from_pretrained(tiny_llava / "base")
    )
    result = trainer.train()
    assert result.training_loss > 0
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())
