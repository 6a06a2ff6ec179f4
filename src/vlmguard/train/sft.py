"""Supervised training of a rewriter, from a recipe to a folder that ``local:RUN`` serves: ``vlmguard train sft RECIPE --out RUN``.

Everything that can be wrong is looked for before anything is trained: the base model, what of it is trained, every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vlmguard.dataset import fingerprint
from vlmguard.errors import InputError, MissingExtraError
from vlmguard.policy import Policy, load_policy
from vlmguard.train.base import (
    check_base,
    check_lora,
    ends_of,
    freeze_others,
    load_model,
    load_processor,
    longest,
    own_template,
)
from vlmguard.train.held_out import held_out, measurable
from vlmguard.train.measure import (
    Lengths,
    Measured,
    Probe,
    measure,
    read_lengths,
    without_traces,
    write_lengths,
)
from vlmguard.train.recipe import Recipe
from vlmguard.train.rows import Rows, open_rows
from vlmguard.train.run import CHECKPOINTS, ERROR_ROWS, LENGTHS, Run, alone, claim
from vlmguard.train.settings import model_init, settings_of, trainer_settings, without_foreign_warnings
from vlmguard.train.stage import Stage, Tell, to_stderr

_LEARNED = "a rewriter learns what it says and not what it is asked"
_ROWS = "rows come from the dataset of vlmguard synth"
FIXED: dict[str, tuple[Any, str]] = {
    "max_length": (None, "TRL would cut rows, and image tokens among them; set longest_row"),
    "pad_to_multiple_of": (None, "TRL cannot do that with pictures"),
    "completion_only_loss": (True, _LEARNED),
    "assistant_only_loss": (False, _LEARNED),
    "dataset_text_field": ("text", _ROWS),
    "dataset_kwargs": (None, _ROWS),
    "shuffle_dataset": (False, f"{_ROWS}, and their order from trl.train_sampling_strategy and trl.seed"),
}
"""What no recipe may set otherwise, beside ``settings.OWNED``. The folder of the checkpoints is added to it."""


def sft(recipe: Recipe, out: Path, *, callbacks: Sequence[Any] = (), tell: Tell = to_stderr) -> Run:
    """Trains, or goes on where the run in ``out`` was stopped.

    Args:
        recipe: what to train on what.
        out: folder of the run.
        callbacks: further ``transformers.TrainerCallback``.
        tell: takes lines for people.

    Raises:
        InputError: recipe, dataset or base model cannot be used, or ``out`` holds another run.
        MissingExtraError: the extra ``train`` is not installed.
        TrainError: the run could not go on: no memory, no disk, losses that are no numbers.
    """
    try:
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    with without_foreign_warnings():
        return _sft(recipe, out, callbacks, tell)


def _sft(recipe: Recipe, out: Path, callbacks: Sequence[Any], tell: Tell) -> Run:
    import trl

    trl_settings = dict(recipe.trl)
    init = model_init(trl_settings)
    template = own_template(recipe, trl_settings)
    fixed = FIXED | {"output_dir": (str(out / CHECKPOINTS), "it lies in the folder of the run (--out)")}
    config = trainer_settings(trl.SFTConfig, {"report_to": "none", **trl_settings}, fixed)
    policy = load_policy(recipe.folder / recipe.policy if recipe.policy else None)
    rows = open_rows(recipe.dataset_folder, policy)
    _check_plan(recipe, config, rows)
    stage = Stage(recipe, out, tell)
    if stage.main:
        claim(out)
    with alone(out) if stage.main else nullcontext():
        return _run(stage, policy, rows, config, init, template, callbacks)


def _check_plan(recipe: Recipe, config: Any, rows: dict[str, Rows]) -> None:
    """What can be told without loading anything. Raises ``InputError``."""
    check_base(recipe)
    if not len(rows["train"]):
        raise InputError(f"{recipe.dataset_folder} has no training rows")
    found = fingerprint(recipe.dataset_folder)
    if recipe.fingerprint and recipe.fingerprint != found:
        raise InputError(
            f"{recipe.dataset_folder} is another dataset than the recipe names: its fingerprint is {found}, not"
            f" {recipe.fingerprint}"
        )
    if recipe.early_stop and not (_evaluates(config) and config.metric_for_best_model):
        raise InputError("early_stop needs trl.eval_strategy and trl.metric_for_best_model, such as eval_decisions")
    _validation(recipe, config, rows["validation"], without_traces(rows["validation"]))


def _evaluates(config: Any) -> bool:
    return str(config.eval_strategy.value) != "no"


def _validation(recipe: Recipe, config: Any, rows: Rows, unfit: Sequence[Measured]) -> Rows:
    """The validation rows that are left. Raises ``InputError`` when those do not do for the evaluations that are asked for."""
    left = rows.only(sorted(set(range(len(rows))) - {row.index for row in unfit}))
    if not _evaluates(config):
        return left
    if unfit and not len(left):
        raise InputError(
            f"no validation row of {recipe.dataset_folder} can be used, {unfit[0].id} since {unfit[0].error}"
        )
    if not len(left):
        raise InputError(
            f"trl.eval_strategy asks for evaluations, and {recipe.dataset_folder} has no validation rows: give the synth recipe"
            " a share (validation: 0.05), or set eval_strategy: no"
        )
    if metric := config.metric_for_best_model:
        known = sorted({"loss", *measurable(left, recipe.held_out)})
        if metric.removeprefix("eval_") not in known:
            raise InputError(
                f"trl.metric_for_best_model: {metric} is not measured; with held_out: {recipe.held_out} and these validation rows"
                f" there are {', '.join(f'eval_{name}' for name in known)}"
            )
    return left


def _run(
    stage: Stage, policy: Policy, rows: dict[str, Rows], config: Any, init: dict[str, Any], template: Path | None,
    callbacks: Sequence[Any],
) -> Run:  # fmt: skip
    recipe = stage.recipe
    processor = load_processor(recipe, template)
    stage.begin("sft", policy)
    trainer = _trainer(recipe, config, load_model(recipe, init), processor, rows, callbacks)
    lengths, unfit = _lengths(stage, trainer, rows)
    trainer.train_dataset = rows["train"].only(lengths.kept).lazy(processor)
    validation = _validation(recipe, config, rows["validation"], unfit)
    trainer.held_out = held_out(
        validation, processor, most=recipe.held_out, longest_trace=lengths.most_said,
        at_once=config.per_device_eval_batch_size,
    )  # fmt: skip
    evaluated = validation if trainer.held_out is None else trainer.held_out.rows
    trainer.eval_dataset = evaluated.lazy(processor) if len(evaluated) else None
    done = stage.train(trainer)
    return stage.finish(trainer, done, error_rows=len(lengths.errors) + len(unfit), tokens=lengths.tokens)


def _trainer(
    recipe: Recipe, config: Any, model: Any, processor: Any, rows: dict[str, Rows], callbacks: Sequence[Any]
) -> Any:
    """Raises ``InputError`` when adapter or settings do not fit the model."""
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback

    from vlmguard.train.trainer import RewriterTrainer

    adapter = settings_of(LoraConfig, "lora", recipe.lora, {}) if recipe.lora else None
    if adapter is None:
        freeze_others(model, recipe)
    else:
        check_lora(model, adapter, recipe)
    stop = [EarlyStoppingCallback(recipe.early_stop)] if recipe.early_stop else []
    try:
        return RewriterTrainer(
            model,
            config,
            train_dataset=rows["train"].lazy(processor),
            eval_dataset=rows["validation"].lazy(processor) if len(rows["validation"]) else None,
            processing_class=processor,
            peft_config=adapter,
            callbacks=[*stop, *callbacks],
        )
    except (ValueError, ImportError, RuntimeError) as error:  # a missing logger is a RuntimeError
        if isinstance(error, RuntimeError) and "requires" not in str(error):
            raise
        raise InputError(f"TRL cannot train {recipe.base} with these settings: {error}") from error


def _lengths(stage: Stage, trainer: Any, rows: dict[str, Rows]) -> tuple[Lengths, tuple[Measured, ...]]:
    """Every row put through the trainer's collator; told, and kept for when the run goes on. Raises ``InputError``.

    Returns those of the training rows, and the validation rows that do not fit.
    """
    numbers, errors = stage.out / LENGTHS, stage.out / ERROR_ROWS
    if stage.main and not numbers.exists():
        train, validation = (_measured(stage.recipe, trainer, rows[split]) for split in ("train", "validation"))
        write_lengths(train, numbers, errors, validation.errors)
    trainer.accelerator.wait_for_everyone()
    lengths, unfit = read_lengths(numbers, errors)
    if not len(lengths.kept):
        first = lengths.errors[0]
        raise InputError(
            f"none of {len(lengths.errors):,} rows can be trained on, the first ({first.id}) since {first.error}"
        )
    for line in lengths.lines():
        stage.tell(line)
    if unfit:
        stage.tell(f"{len(unfit):,} validation rows are left out, the first: {unfit[0].id}: {unfit[0].error}")
    return lengths, unfit


def _measured(recipe: Recipe, trainer: Any, rows: Rows) -> Lengths:
    limit = recipe.longest_row or longest(trainer.model)
    probe = Probe(rows, trainer.data_collator, trainer.processing_class, limit, ends_of(trainer.model))
    return measure(probe, workers=trainer.args.dataloader_num_workers)
