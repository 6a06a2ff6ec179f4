"""``vlmguard train sft`` on a tiny LLaVA, from a recipe to a rewriter that serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_llava import PAIR, PAIR_PROMPT, picture
from tests.train.world import write_dataset
from vlmguard import Guard, chat, load_policy
from vlmguard.models.spec import ModelSettings
from vlmguard.rewriters.select import make_rewriter
from vlmguard.train.recipe import Recipe
from vlmguard.train.sft import sft
from vlmguard.types import Outcome

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LORA = {"r": 8, "lora_alpha": 16, "target_modules": r".*language_model.*\.(q_proj|v_proj|up_proj|down_proj)"}
TRL = {
    "max_steps": 3, "per_device_train_batch_size": 5, "learning_rate": 1e-3, "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no",
}  # fmt: skip


async def test_a_run_serves_at_once(tiny_llava: Path, tmp_path: Path) -> None:
    recipe = Recipe(str(tiny_llava / "base"), str(write_dataset(tmp_path / "data")), lora=LORA, trl=TRL)
    run = sft(recipe, tmp_path / "run")
    assert run.steps == 3
    assert json.loads((tmp_path / "run/run.json").read_text())["base"] == str(tiny_llava / "base")
    rewriter = make_rewriter(f"local:{tmp_path / 'run'}", load_policy(), settings=ModelSettings(deadline=120))
    guarded = await Guard(rewriter).refine(chat(PAIR, [picture("red")]))
    assert guarded.outcome is Outcome.REWRITE
    assert guarded.chat is not None
    assert guarded.chat.prompt == PAIR_PROMPT
