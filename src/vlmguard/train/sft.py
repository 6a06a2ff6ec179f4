"""Supervised training of a rewriter, from a recipe to a folder that ``local:RUN`` serves: ``vlmguard train sft RECIPE --out RUN``.

TRL's ``SFTTrainer`` trains on the completion only; it is given rows that are never cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlmguard.dataset import fingerprint
from vlmguard.errors import InputError, MissingExtraError
from vlmguard.policy import load_policy
from vlmguard.train.recipe import Recipe
from vlmguard.train.rows import open_rows
from vlmguard.train.run import MODEL, STATE, Run, versions, whole_folder, write_json

OURS: dict[str, Any] = {
    "max_length": None,  # TRL would cut rows, image tokens among them
    "remove_unused_columns": False,  # rows are built when they are asked for: their columns are not known before
    "report_to": "none",
    "completion_only_loss": True,
}
"""What no recipe may set otherwise."""


def sft(
    recipe: Recipe,
    out: Path,
    *,
    callbacks: Sequence[Any] = (),
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Run:
    """Trains, or goes on where a run in ``out`` was stopped.

    Args:
        recipe: what to train on what.
        out: folder of the run.
        callbacks: further ``transformers.TrainerCallback``.
        tell: takes lines for people.

    Raises:
        InputError: recipe, dataset or base model cannot be used.
        MissingExtraError: the extra ``train`` is not installed.
        TrainError: the run could not go on.
    """
    try:
        from peft import LoraConfig
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from trl import SFTConfig, SFTTrainer
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    policy = load_policy(recipe.folder / recipe.policy if recipe.policy else None)
    found = fingerprint(recipe.dataset_folder)
    rows = open_rows(recipe.dataset_folder, policy)
    out.mkdir(parents=True, exist_ok=True)
    settings = dict(recipe.trl)
    for key in OURS:
        if key in settings:
            raise InputError(f"trl.{key} is not for a recipe to set")
    init = settings.pop("model_init_kwargs", None) or {}
    config = SFTConfig(output_dir=str(out / "checkpoints"), **settings, **OURS)
    processor = AutoProcessor.from_pretrained(recipe.base_place)
    model = AutoModelForImageTextToText.from_pretrained(recipe.base_place, **init)
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=rows["train"].lazy(),
        processing_class=processor,
        peft_config=LoraConfig(**recipe.lora) if recipe.lora else None,
        callbacks=list(callbacks),
    )
    result = trainer.train()
    with whole_folder(out / MODEL) as folder:
        trainer.save_model(str(folder))
    write_json(
        out / STATE, {"base": recipe.base_place, "dataset": found, "versions": versions(), "policy": policy.hash}
    )
    return Run(out, out / MODEL, int(result.global_step), float(result.training_loss), 0)
